"""The owner of one server type: its instances, leases, queue, backoff and suspension.

Decisions are the core's; this actor carries messages in and actions out. What it has committed is its estate,
so a new incarnation goes on with the same instances and leases.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import MappingProxyType

from msgspec import Struct
from msgspec.structs import replace

from mcpv_node.actors.callers import EMPTY_PROFILE, Era
from mcpv_node.actors.context import NodeContext
from mcpv_node.actors.instance.messages import (
    CallAbandoned,
    Describe,
    ExitDetail,
    InstanceAsked,
    InstanceExited,
    InstanceFacts,
    InstanceFailed,
    InstanceMessage,
    InstanceReady,
    InstanceRetiring,
    InstanceStarting,
    Respec,
    StopInstance,
    TellServer,
)
from mcpv_node.actors.kernel import (
    Deferred,
    Down,
    Handle,
    LoopActor,
    MonitorId,
    Shutdown,
    Timer,
    answers,
    handles,
)
from mcpv_node.actors.leases import Acquire, InstanceId, Lease, LeaseId, Refused, Release, StartCause
from mcpv_node.protocol import CallFailure, Reason, ServerHello
from mcpv_node.protocol import LastExit as WireExit
from mcpv_node.settings import ServerGroup, ServerName
from mcpv_node.telemetry import EventKind, rfc3339

from . import core, facts, seating
from .facts import SHARED_LANE, Lane, Policy, State
from .messages import (
    Activation,
    CallCounts,
    CallEnded,
    ClientGone,
    ClientSaid,
    DrainNow,
    InstanceReport,
    InstanceState,
    LastExit,
    OperatorStart,
    OperatorStop,
    Reconfigure,
    Retry,
    ServerState,
    Settled,
    Tick,
    Warm,
    Why,
    WhyReport,
)

# As many lines as `why` shows; the instance keeps a longer ring while it lives.
STDERR_LINES = 20

StartInstance = Callable[[InstanceId, Lane, bool], Handle[InstanceMessage]]

# Every instance of this server type that exists, whoever started it.
LiveInstances = Callable[[], Iterable[tuple[InstanceId, Handle[InstanceMessage]]]]

# An instance answers in a turn of the loop what it is doing; one that does not cannot be gone on with.
DESCRIBE_TIMEOUT = 2.0


@dataclass(frozen=True, slots=True)
class _Described:
    instance_id: InstanceId
    outcome: InstanceFacts | Exception


@dataclass(frozen=True, slots=True)
class Peer:
    """What is known of one instance besides what the core decides by."""

    handle: Handle[InstanceMessage]
    started_at: datetime
    asked_at: float
    pid: int | None = None
    hello: ServerHello | None = None


class Estate(Struct, frozen=True):
    """All that one incarnation leaves to the next. A new one is made at least twice a call."""

    state: State
    peers: Mapping[InstanceId, Peer] = MappingProxyType({})
    starts: int = 0
    restarts: int = 0
    calls: CallCounts = CallCounts()
    start_cause: StartCause | None = None
    last_exit: LastExit | None = None
    stderr: tuple[str, ...] = ()
    shuns_probe: bool = False  # the last start ended while it was asked for its era: some take that badly


class ServerType(LoopActor[Estate]):
    """See the module.

    `start_instance` has a new Instance started under its supervisor and names it; it is told the lane, and whether the
    server may be asked for its era. `group_id` is what the ids of its instances begin with: two server types of one name
    may stand beside each other during a reload.
    """

    def __init__(
        self,
        node: NodeContext,
        group: ServerGroup,
        start_instance: StartInstance,
        live_instances: LiveInstances = tuple,
        group_id: str | None = None,
    ) -> None:
        super().__init__()
        self._node = node
        self._group = group
        self._name = ServerName(group.specs[0].name)
        self._id = group_id or self._name
        self._policy = Policy.of(group.specs[0])
        self._start_instance = start_instance
        self._live_instances = live_instances
        self._prefix = ""
        self._parked: dict[LeaseId, Deferred[Lease | Refused]] = {}
        self._settling: list[tuple[Settled, Deferred[ServerState]]] = []
        self._monitors: dict[MonitorId, InstanceId] = {}
        self._wake: Timer | None = None
        self._wake_at = float("inf")
        self._stopping = False
        # One pair of readings for all reports, so that a moment has the same name in each.
        self._wall_anchor, self._anchor = node.clock.wall(), node.clock.monotonic()

    @property
    def _now(self) -> float:
        return self._node.clock.monotonic()

    @property
    def _kept(self) -> Estate:
        assert self.estate is not None  # on_start makes one
        return self.estate

    # --- life -----------------------------------------------------------------------------------

    def on_start(self, estate: Estate | None = None) -> None:
        # An id is never used twice: what a crash left uncommitted may have taken the next number.
        self._prefix = self._id if self.incarnation == 1 else f"{self._id}-r{self.incarnation}"
        if estate is None:
            # Only the first one waits for its turn: nobody tells a later one to warm.
            self.estate = Estate(State(since=self._now, warm=self.incarnation > 1))
        else:
            # An earlier end by request may have been a restart of the group, not the end of the node.
            self.estate = replace(estate, state=core.resume(estate.state))
            for instance_id, peer in estate.peers.items():
                self._monitors[self.watch(peer.handle.cell)] = instance_id
        self._adopt_strays()
        self._decide(facts.Woken())

    def _adopt_strays(self) -> None:
        """Go on with the instances that an earlier incarnation started and this one knows nothing of.

        Until they have said what they are doing they count as starting, so that nothing is started beside them.
        """
        for instance_id, handle in self._live_instances():
            if instance_id in self._kept.peers:
                continue
            peer = Peer(handle, self._node.clock.wall(), self._now)
            self._monitors[self.watch(handle.cell)] = instance_id
            self._keep(peers=MappingProxyType({**self._kept.peers, instance_id: peer}))
            self._decide(facts.Found(instance_id, StartCause.TOOL_CALL, ready=False))
            self._ask_what_it_does(instance_id, handle)

    def _ask_what_it_does(self, instance_id: InstanceId, handle: Handle[InstanceMessage]) -> None:
        self.run(handle.ask(Describe(), DESCRIBE_TIMEOUT), lambda outcome: _Described(instance_id, outcome))

    @handles(_Described)
    def _on_described(self, message: _Described) -> None:
        peer = self._kept.peers.get(message.instance_id)
        if peer is None:
            return
        match message.outcome:
            case InstanceFacts(stopping=False) as known:
                self._note(message.instance_id, pid=known.pid, hello=known.hello)
                self._decide(
                    facts.Found(
                        message.instance_id,
                        StartCause.TOOL_CALL,
                        known.hello is not None,
                        known.busy,
                        known.abandoned,
                        Lane(known.profile, known.owner),
                        known.hello is not None and known.hello.era == "modern",
                    )
                )
            case _:
                peer.handle.tell(StopInstance("its server type has restarted without it"))
                self._decide(facts.Retired(message.instance_id, at_fault=False))

    def on_shutdown(self) -> None:
        self._stopping = True
        for instance_id, peer in self._kept.peers.items():
            if peer.handle.cell.incarnation == 0:
                # Its supervisor has not begun it, and where that has ended, nobody would ever tell of its end.
                self._instance_gone(InstanceExited(instance_id, asked=True, message="not started"))
        self._decide(facts.DrainAsked())
        self._end_when_empty()

    def on_down(self, down: Down) -> None:
        """The backstop of every end: an instance that could not say so itself."""
        instance_id = self._monitors.pop(down.monitor, None)
        if instance_id is None or instance_id not in self._kept.peers:
            return
        if any(it.id == instance_id and it.starts for it in self._kept.state.instances):
            self._on_instance_failed(InstanceFailed(instance_id, str(down.reason), fatal=False))
        else:
            self._instance_gone(InstanceExited(instance_id, asked=False, message=str(down.reason)))

    # --- requests -------------------------------------------------------------------------------

    @answers(Acquire)
    def _on_acquire(self, request: Acquire) -> Lease | Refused | Deferred[Lease | Refused]:
        kept, caller = self._kept, request.caller
        event = facts.AcquireAsked(
            request.lease,
            request.cause,
            request.kind,
            request.deadline,
            caller.turn,
            caller.key,
            SHARED_LANE if caller.profile == EMPTY_PROFILE else Lane(caller.profile),
            request.instance,
        )
        at_once = seating.grant_at_once(self._policy, kept.state, event, self._now)
        if at_once is not None:
            state, grant = at_once
            self.estate = replace(kept, state=state)
            return self._lease(grant)
        deferred: Deferred[Lease | Refused] = self.defer()
        self._parked[request.lease] = deferred
        self._decide(event)
        return deferred

    @handles(Release)
    def _on_release(self, message: Release) -> None:
        if self._parked:
            self._give_up_waiting(message.lease)
        kept, now = self._kept, self._now
        calls = kept.calls if message.ok is None else kept.calls.and_one(ok=message.ok)
        state = core.release_at_once(kept.state, message.lease, now)
        if state is None:
            self.estate = replace(kept, calls=calls)
            self._decide(facts.Released(message.lease))
            return
        self.estate = replace(kept, state=state, calls=calls)
        if self._wake_at > now + self._policy.soonest_after_release:
            self._set_wake(now)

    def _give_up_waiting(self, lease: LeaseId) -> None:
        """Whoever releases what was not granted does not wait any more; the promise must not stay for ever."""
        deferred = self._parked.pop(lease, None)
        if deferred is not None:
            message = f"{self._name}: the caller gave up waiting"
            deferred.answer(
                Refused(
                    CallFailure(
                        reason=Reason.QUEUE_TIMEOUT, message=message, server=self._name, executed="no"
                    )
                )
            )

    @answers(Why)
    def _on_why(self, _request: Why) -> WhyReport:
        return self._report()

    @answers(OperatorStart)
    def _on_operator_start(self, _request: OperatorStart) -> ServerState:
        self._decide(facts.StartAsked())
        return self._kept.state.shown

    @answers(OperatorStop)
    def _on_operator_stop(self, _request: OperatorStop) -> ServerState:
        self._decide(facts.StopAsked())
        return self._kept.state.shown

    @answers(Retry)
    def _on_retry(self, _request: Retry) -> ServerState:
        self._decide(facts.RetryAsked())
        return self._kept.state.shown

    @answers(Settled)
    def _on_settled(self, request: Settled) -> ServerState | Deferred[ServerState]:
        if self._is_settled(request):
            return self._kept.state.shown
        deferred: Deferred[ServerState] = self.defer()
        self._settling.append((request, deferred))
        return deferred

    @handles(Activation)
    def _on_activation(self, message: Activation) -> None:
        self._decide(facts.ClientsChanged(message.clients))

    @handles(Warm)
    def _on_warm(self, _message: Warm) -> None:
        self._decide(facts.WarmAsked())

    @handles(DrainNow)
    def _on_drain_now(self, _message: DrainNow) -> None:
        self._decide(facts.DrainAsked(patience=0.0))

    @handles(CallEnded)
    def _on_call_ended(self, message: CallEnded) -> None:
        kept = self._kept
        self.estate = replace(kept, calls=kept.calls.and_one(ok=message.ok))

    @handles(CallAbandoned)
    def _on_call_abandoned(self, message: CallAbandoned) -> None:
        self._decide(facts.Abandoned(message.lease))

    @handles(Reconfigure)
    def _on_reconfigure(self, message: Reconfigure) -> None:
        self._group = message.group
        self._name = message.group.name
        self._policy = Policy.of(message.group.specs[0])
        for peer in self._kept.peers.values():
            peer.handle.tell(Respec(message.group.specs[0]))
        self._decide(facts.RetryAsked() if message.is_edit else facts.Woken())

    @handles(ClientSaid)
    def _on_client_said(self, message: ClientSaid) -> None:
        params = None if message.params is None else message.params.copy()
        for it in self._kept.state.instances:
            peer = self._kept.peers.get(it.id)
            if peer is not None and it.serves and it.lane.owner == message.client:
                peer.handle.tell(TellServer(message.method, params))

    @handles(ClientGone)
    def _on_client_gone(self, message: ClientGone) -> None:
        self._decide(facts.ClientGone(message.client))

    @handles(Tick)
    def _on_tick(self, _message: Tick) -> None:
        self._wake = None
        self._wake_at = float("inf")
        self._decide(facts.Woken())

    # --- what instances tell --------------------------------------------------------------------

    @handles(InstanceStarting)
    def _on_instance_starting(self, message: InstanceStarting) -> None:
        if message.instance_id not in self._kept.peers:
            self._adopt_strays()
        self._note(message.instance_id, pid=message.pid)

    @handles(InstanceReady)
    def _on_instance_ready(self, message: InstanceReady) -> None:
        peer = self._kept.peers.get(message.instance_id)
        if peer is None:
            return
        self._note(message.instance_id, hello=message.hello)
        metrics = self._node.metrics
        metrics.instance_start_seconds(self._name).observe(self._now - peer.asked_at)
        metrics.instance_starts_total(self._name, self._cause_of(message.instance_id), "ok").inc()
        self._decide(facts.BecameReady(message.instance_id, any_lane=message.hello.era == "modern"))

    @handles(InstanceFailed)
    def _on_instance_failed(self, message: InstanceFailed) -> None:
        if message.instance_id not in self._kept.peers:
            return
        cause = self._cause_of(message.instance_id)
        self._node.metrics.instance_starts_total(self._name, cause, "failed").inc()
        # Once: where leaving the question out does not help either, the server is to blame.
        asked_wrongly = message.while_probing and not self._kept.shuns_probe
        self._forget(message.instance_id, message.exit, message.stderr)
        self.estate = replace(self._kept, shuns_probe=message.while_probing)
        self._tell_exit(message.instance_id, message.message)
        self._decide(
            facts.StartFailed(
                message.instance_id, message.message, message.fatal, random.random(), asked_wrongly
            )
        )

    @handles(InstanceAsked)
    def _on_instance_asked(self, message: InstanceAsked) -> None:
        self._decide(facts.Owned(message.instance_id, message.client))

    @handles(InstanceRetiring)
    def _on_instance_retiring(self, message: InstanceRetiring) -> None:
        self._node.tell_event(
            EventKind.INSTANCE_STATE,
            server=self._name,
            instance=message.instance_id,
            to=InstanceState.STOPPING.value,
            reason=message.message,
        )
        self._decide(facts.Retired(message.instance_id, message.at_fault))

    @handles(InstanceExited)
    def _on_instance_exited(self, message: InstanceExited) -> None:
        if message.instance_id in self._kept.peers:
            self._instance_gone(message)

    def _instance_gone(self, message: InstanceExited) -> None:
        reason = "asked" if message.asked else "exited"
        self._node.metrics.instance_stops_total(self._name, reason).inc()
        self._forget(message.instance_id, message.exit, message.stderr)
        self._tell_exit(message.instance_id, message.message)
        self._decide(facts.Exited(message.instance_id, message.asked, message.message, random.random()))

    # --- deciding and doing ---------------------------------------------------------------------

    def _decide(self, event: facts.Event) -> None:
        kept = self._kept
        now = self._now
        state, actions = core.decide(self._policy, self._prefix, kept.state, event, now)
        if state is not kept.state:
            self.estate = replace(kept, state=state)
        for action in actions:
            self._perform(action)
        is_at_once = isinstance(event, facts.AcquireAsked) and not state.waiters
        if not is_at_once or state.lane != kept.state.lane:
            self._set_wake(now)
        if self._settling:
            self._answer_settled()
        self._end_when_empty()

    def _perform(self, action: facts.Action) -> None:
        match action:
            case facts.Grant():
                self._grant(action)
            case facts.Refuse():
                self._refuse(action)
            case facts.Start():
                self._start(action)
            case facts.Stop():
                peer = self._kept.peers.get(action.id)
                if peer is not None:
                    peer.handle.tell(StopInstance(action.reason))
            case facts.Changed():
                self._node.tell_event(
                    EventKind.SERVER_STATE,
                    server=self._name,
                    from_=action.before.value,
                    to=action.after.value,
                    reason=action.reason,
                    cause=self._starting_cause(),
                )

    def _grant(self, grant: facts.Grant) -> None:
        deferred = self._parked.pop(grant.lease, None)
        if deferred is not None:
            deferred.answer(self._lease(grant))

    def _lease(self, grant: facts.Grant) -> Lease:
        peer = self._kept.peers[grant.id]
        hello = peer.hello
        assert hello is not None  # nobody is seated before the handshake
        return Lease(grant.lease, grant.id, peer.handle, grant.queued, grant.started, hello)

    def _refuse(self, refusal: facts.Refuse) -> None:
        kept = self._kept
        self._keep(calls=replace(kept.calls, refused=kept.calls.refused + 1))
        self._node.metrics.acquire_refusals_total(self._name, refusal.reason.value).inc()
        deferred = self._parked.pop(refusal.lease, None)
        if deferred is not None:
            deferred.answer(
                Refused(
                    CallFailure(
                        reason=refusal.reason,
                        message=f"{self._name}: {refusal.message}",
                        server=self._name,
                        executed="no",
                        queued_seconds=refusal.queued,
                        retry_after=refusal.retry_after,
                        last_exit=_wire_exit(kept.last_exit),
                        stderr=kept.stderr,
                    )
                )
            )

    def _start(self, start: facts.Start) -> None:
        kept = self._kept
        restarts = kept.state.failures > 0
        handle = self._start_instance(start.id, start.lane, not kept.shuns_probe)
        peer = Peer(handle, self._node.clock.wall(), self._now)
        self._monitors[self.watch(peer.handle.cell)] = start.id
        self._keep(
            peers=MappingProxyType({**kept.peers, start.id: peer}),
            starts=kept.starts + 1,
            restarts=kept.restarts + restarts,
            start_cause=start.cause,
        )
        if restarts:
            self._node.metrics.instance_restarts_total(self._name).inc()

    def _set_wake(self, now: float) -> None:
        """Keep one timer, at or before the next moment that matters; ringing early does no harm."""
        moment = core.next_wake(self._policy, self._kept.state)
        if moment is None or moment >= self._wake_at:
            return
        if self._wake is not None:
            self._wake.cancel()
        self._wake_at = moment
        self._wake = self.after(max(0.0, moment - now), Tick())

    def _end_when_empty(self) -> None:
        if self._stopping and not self._kept.state.instances:
            self.exit(Shutdown())

    def _answer_settled(self) -> None:
        settling, self._settling = self._settling, []
        for request, deferred in settling:
            if self._is_settled(request):
                deferred.answer(self._kept.state.shown)
            else:
                self._settling.append((request, deferred))

    def _is_settled(self, request: Settled) -> bool:
        state = self._kept.state
        under_way = any(it.starts or it.stopping or it.drain_until is not None for it in state.instances)
        return not under_way and (state.next_try_at is None or not request.with_retries)

    # --- bookkeeping ----------------------------------------------------------------------------

    def _keep(
        self,
        *,
        peers: Mapping[InstanceId, Peer] | None = None,
        starts: int | None = None,
        restarts: int | None = None,
        calls: CallCounts | None = None,
        start_cause: StartCause | None = None,
    ) -> None:
        kept = self._kept
        self.estate = replace(
            kept,
            peers=kept.peers if peers is None else peers,
            starts=kept.starts if starts is None else starts,
            restarts=kept.restarts if restarts is None else restarts,
            calls=kept.calls if calls is None else calls,
            start_cause=kept.start_cause if start_cause is None else start_cause,
        )

    def _note(
        self, instance_id: InstanceId, *, pid: int | None = None, hello: ServerHello | None = None
    ) -> None:
        kept = self._kept
        peer = kept.peers.get(instance_id)
        if peer is not None:
            known = dataclasses.replace(
                peer, pid=peer.pid if pid is None else pid, hello=peer.hello if hello is None else hello
            )
            self._keep(peers=MappingProxyType({**kept.peers, instance_id: known}))

    def _forget(self, instance_id: InstanceId, exit: ExitDetail | None, stderr: tuple[str, ...]) -> None:
        kept = self._kept
        self.estate = replace(
            kept,
            peers=MappingProxyType({key: peer for key, peer in kept.peers.items() if key != instance_id}),
            # A start that never had a process has no exit to tell of.
            last_exit=kept.last_exit
            if exit is None
            else LastExit(exit.code, exit.signal, self._node.clock.wall()),
            stderr=stderr[-STDERR_LINES:],
        )
        for monitor, watched in list(self._monitors.items()):
            if watched == instance_id:
                del self._monitors[monitor]

    def _starting_cause(self) -> str | None:
        """Why the instances that are starting now were started."""
        return next((it.cause.value for it in self._kept.state.instances if it.starts), None)

    def _cause_of(self, instance_id: InstanceId) -> str:
        for it in self._kept.state.instances:
            if it.id == instance_id:
                return it.cause.value
        return StartCause.TOOL_CALL.value

    def _tell_exit(self, instance_id: InstanceId, message: str) -> None:
        self._node.tell_event(
            EventKind.INSTANCE_EXIT, server=self._name, instance=instance_id, reason=message
        )

    # --- the report -----------------------------------------------------------------------------

    def _report(self) -> WhyReport:
        kept = self._kept
        state = kept.state
        shown, reason = core.explain(self._policy, state)
        return WhyReport(
            name=self._name,
            spec_key=self._group.spec_key,
            state=shown,
            reason=reason,
            since=self._wall(state.since),
            next_try_at=None if state.next_try_at is None else self._wall(state.next_try_at),
            desired=core.desired(self._policy, state),
            waiting=len(state.waiters),
            start_cause=kept.start_cause,
            last_exit=kept.last_exit,
            stderr=kept.stderr,
            starts=kept.starts,
            restarts=kept.restarts,
            calls=kept.calls,
            shared_with=tuple(ServerName(spec.name) for spec in self._group.specs[1:]),
            instances=tuple(self._instance_report(it, kept.peers[it.id]) for it in state.instances),
            failures=state.failures,
        )

    def _instance_report(self, it: facts.Instance, peer: Peer) -> InstanceReport:
        return InstanceReport(
            id=it.id,
            pid=peer.pid,
            state=_instance_state(it, peer),
            # What its server still works on takes a slot, whether or not somebody waits for it (I3).
            busy=len(it.busy) + len(it.abandoned),
            started_at=peer.started_at,
            idle_since=self._wall(it.idle_since) if it.idle_since is not None and it.is_idle else None,
            era=None if peer.hello is None else (Era.MODERN if peer.hello.era == "modern" else Era.LEGACY),
            bindings=sum(binding.instance == it.id for binding in self._kept.state.bindings.values()),
        )

    def _wall(self, moment: float) -> datetime:
        return self._wall_anchor + timedelta(seconds=moment - self._anchor)


def _instance_state(it: facts.Instance, peer: Peer) -> InstanceState:
    if it.stopping:
        return InstanceState.STOPPING
    if it.drain_until is not None:
        return InstanceState.DRAINING
    if it.ready_at is None:
        return InstanceState.STARTING if peer.pid is None else InstanceState.HANDSHAKING
    return InstanceState.READY if it.is_idle else InstanceState.BUSY


def _wire_exit(last: LastExit | None) -> WireExit | None:
    return None if last is None else WireExit(last.code, last.signal, rfc3339(last.at))
