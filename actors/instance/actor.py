"""The owner of one live session with a server: its ids, its calls in flight, what it is asked back.

From start to end: the way to the server is opened, the handshake earns `ready`, calls are multiplexed under our own
ids, and whatever ends the session, every call gets an answer and nothing of it is left. The lists are read once the
instance is ready, after the first waiter's call has gone out. How the server is reached is the business of
`StdioInstance` and `HttpInstance`.
"""

from __future__ import annotations

import abc
import random
from collections.abc import Callable, Mapping
from enum import Enum
from types import MappingProxyType

import msgspec
from loguru import logger
from msgspec import Raw

from mcpv_node.actors.context import NodeContext
from mcpv_node.actors.kernel import (
    Deferred,
    Handle,
    LoopActor,
    Normal,
    Shutdown,
    Timer,
    answers,
    handles,
)
from mcpv_node.actors.leases import InstanceId, Release
from mcpv_node.actors.server_type.facts import Lane
from mcpv_node.actors.server_type.messages import ServerTypeMessage
from mcpv_node.actors.snapshot import KINDS, Kind
from mcpv_node.protocol import (
    ACKNOWLEDGED,
    CANCELLED,
    DISCOVER,
    PING,
    PROGRESS,
    RESOURCE_UPDATED,
    BackMeta,
    CallFailure,
    EnvelopeError,
    Failure,
    LastExit,
    Listed,
    Message,
    Notification,
    Reason,
    RemoteProtocolError,
    ServerHello,
    Success,
    capabilities_of,
    encode_notification,
    encode_request,
    keep,
    lowest_level,
    params_for_back,
    parse_cancelled,
    parse_message,
    parse_progress,
    untag_notification,
)
from mcpv_node.protocol import Request as WireRequest
from mcpv_node.settings import ServerSpec, SpecKey
from mcpv_node.telemetry import EventKind, rfc3339

from .asks import Asks
from .bad_lines import BadLines, our_id
from .lists import ListReader, announces
from .messages import (
    Answer,
    AnswerAsk,
    Call,
    CallAbandoned,
    CallFailed,
    CancelCall,
    Describe,
    ExitDetail,
    InstanceAsked,
    InstanceExited,
    InstanceFacts,
    InstanceFailed,
    InstanceReady,
    InstanceRetiring,
    Noted,
    Progressed,
    ReadLists,
    ResourceUpdated,
    Respec,
    StopInstance,
    TellServer,
    WatchResources,
)
from .moments import (
    ListenAgain,
    ListNow,
    PatienceOver,
    PingTurn,
    Poll,
    StartTimedOut,
    StillBad,
    Sweep,
    Unanswered,
)
from .opening import Opening, own_meta
from .own_requests import OwnRequests, Then
from .pending import PendingCall, PendingCalls
from .pings import Pings
from .watching import Watching

# The lists wait this long for a first call to go out before them.
LIST_DELAY = 0.05

# A server that says `list_changed` often says it several times.
LIST_DEBOUNCE = 0.1

SET_LEVEL = "logging/setLevel"

CHANGED: Mapping[str, Kind] = MappingProxyType({f"notifications/{kind}/list_changed": kind for kind in KINDS})


class Phase(Enum):
    """Where in its life the session is."""

    STARTING = "starting"
    HANDSHAKING = "handshaking"
    READY = "ready"
    STOPPING = "stopping"


class Instance(LoopActor[None], abc.ABC):
    """See the module. `may_probe`: the server may be asked for its era, should nobody know it."""

    def __init__(
        self,
        node: NodeContext,
        *,
        spec: ServerSpec,
        spec_key: SpecKey,
        instance_id: InstanceId,
        owner: Handle[ServerTypeMessage],
        lane: Lane,
        may_probe: bool = True,
    ) -> None:
        super().__init__()
        self._node = node
        self._spec = spec
        self._spec_key = spec_key
        self._id = instance_id
        self._owner = owner
        self._lane = lane
        self._phase = Phase.STARTING
        self._pending = PendingCalls()
        self._next_id = 1
        self._own = OwnRequests(
            send=self._transmit_request,
            time_over=lambda delay, number: self.after(delay, Unanswered(number)),
        )
        known = node.world.world.hellos.get(spec_key)
        self._opening = Opening(
            profile=lane.profile,
            remembered=None if known is None else known.version,
            may_probe=may_probe,
            bound=spec.start_timeout_seconds,
            ask=lambda method, params, then, bound: self._ask_server(method, params, then, timeout=bound),
            notify=lambda method: self._transmit(encode_notification(method)),
            ready=self._become_ready,
            try_sse=self._try_sse,
            fail=lambda why: self._begin_stop(f"handshake failed: {why}"),
        )
        self._asks = Asks(
            self._pending,
            capabilities_of(lane.profile),
            send=self._transmit,
            claimed=self._claim,
        )
        self._watching = Watching(
            ask=self._ask_own,
            open=self._open_stream,
            close=self._close_stream,
            pause=lambda delay: self.after(delay, ListenAgain()),
            missed=self._on_updates_missed,
            now=node.clock.monotonic,
        )
        self._lists = ListReader(
            spec_key,
            lane.profile,
            instance_id,
            node.indexes,
            self._ask_for_list,
            node.clock.monotonic,
            self._complaint,
        )
        self._to_read: frozenset[Kind] = frozenset()
        self._hello: ServerHello | None = None
        self._is_modern = False
        self._log_level: str | None = None
        self._sweep_at = float("inf")
        self._sweep: Timer | None = None
        self._list_timer: Timer | None = None
        self._poll_timer: Timer | None = None
        self._polls_every = 0.0  # seconds; 0: never
        self._start_timer: Timer | None = None
        self._stop_asked = False
        self._retiring: str | None = None
        self._was_ready = False
        self._end_message = ""
        self._told_end = False
        self._log = logger.bind(server=spec.name, instance=instance_id)
        self._bad_lines = BadLines(
            self._pending,
            look_again=lambda delay, call_id: self.after(delay, StillBad(call_id)),
            fail=self._fail_bad_reply,
            retire=self._retire,
            log=self._log,
        )
        self._pings = Pings(
            spec,
            ping=self._ping_server,
            turn_after=lambda delay: self.after(delay, PingTurn()),
            is_idle=lambda: len(self._pending) == 0 and not self._own,
            is_awaited=lambda: bool(self._pending.awaited()),
            retire=self._retire,
        )

    @property
    def _now(self) -> float:
        return self._node.clock.monotonic()

    # --- the way to the server: what each kind of instance does in its own way -------------------

    @abc.abstractmethod
    def _transmit(self, message: bytes) -> None:
        """Send a notification or an answer."""

    @abc.abstractmethod
    def _transmit_request(
        self,
        number: int,
        method: str,
        params: bytes | None,
        message: bytes,
        *,
        definition: bytes | None = None,
    ) -> None:
        """Send a request of ours; its answer comes back with `_on_message`. `definition` is the tool's that is called."""

    @abc.abstractmethod
    def _close_stream(self, number: int) -> None:
        """Withdraw a request that stands open for what it brings."""

    @abc.abstractmethod
    def _withdraw(self, number: int, reason: str) -> bool:
        """The reply to a call is not wanted any more; True when with this it is over."""

    @abc.abstractmethod
    def _close(self) -> bool:
        """Begin to close the way to the server; True where there is none, and nothing to wait for."""

    @abc.abstractmethod
    def _try_sse(self) -> None:
        """The server wants the transport of 2024-11-05."""

    @property
    @abc.abstractmethod
    def _unread(self) -> str | None:
        """Why the server can take no more, if it cannot."""

    def _stderr_lines(self) -> tuple[str, ...]:
        return ()

    def _exit_detail(self) -> ExitDetail | None:
        return None

    def _pid(self) -> int | None:
        return None

    def _complaint(self, _kind: Kind, _one: Listed) -> str | None:
        """Why this entry of a list cannot be used, if so."""
        return None

    def _on_settled(self, number: int) -> None:
        """The reply to this request has come."""

    def _on_unwanted(self, number: int) -> None:
        """The reply to this request of our own is not waited for any more."""

    def _on_ready(self) -> None:
        """What else begins once the instance is ready."""

    # --- start ----------------------------------------------------------------------------------

    def _begin_handshake(self) -> None:
        self._enter(Phase.HANDSHAKING)
        self._opening.begin()

    def _become_ready(self, hello: ServerHello) -> None:
        if self._phase is not Phase.HANDSHAKING:
            return
        if self._start_timer is not None:
            self._start_timer.cancel()
        self._hello = hello
        self._is_modern = hello.era == "modern"
        self._enter(Phase.READY)
        self._owner.tell(InstanceReady(self._id, hello))
        self._on_ready()
        self._watching.begin(hello)
        self._lists.begin(hello)
        self._to_read = frozenset(KINDS)
        self._list_timer = self.after(LIST_DELAY, ListNow())
        self._poll_as_configured()
        self._pings.begin(self._id)

    @handles(StartTimedOut)
    def _on_start_timed_out(self, _message: StartTimedOut) -> None:
        if self._phase in (Phase.STARTING, Phase.HANDSHAKING):
            limit = self._spec.start_timeout_seconds
            self._begin_stop(f"did not complete the handshake within {limit:g} s{self._bad_lines.hint()}")

    # --- calls ----------------------------------------------------------------------------------

    @answers(Call)
    def _on_call(self, request: Call) -> Answer | CallFailed | Deferred[Answer | CallFailed]:
        if self._phase is not Phase.READY:
            return self._failed(Reason.STOPPING, "the instance is stopping", executed="no")
        if (unread := self._unread) is not None:
            return self._failed(Reason.OVERLOADED, unread, executed="no")
        if self._pending.of_lease(request.lease) is not None:
            raise ValueError(f"lease {request.lease} has a call in flight already")
        now = self._now
        call = PendingCall(
            id=self._take_id(),
            lease=request.lease,
            client=request.caller.turn or request.caller.key,
            reply=self.defer(),
            on_event=request.on_event,
            sent_at=now,
            idle_until=now + self._spec.call_timeout_seconds,
            deadline=request.deadline,
        )
        if request.log_level is not None:
            self._set_log_level(request.log_level)
        params = params_for_back(
            request.method,
            request.params,
            meta=self._meta_for(request),
            progress_token=call.id if request.wants_progress else None,
            name=request.name,
            members=request.members,
        )
        self._pending.add(call)
        self._transmit_request(
            call.id,
            request.method,
            params,
            encode_request(call.id, request.method, params),
            definition=request.definition,
        )
        self._arm_sweep(call.ends_at)
        self._asks.on_call(call)
        if self._list_timer is not None:
            self._read_lists()
        return call.reply

    def _meta_for(self, request: Call) -> BackMeta | None:
        """What a modern server is told of the client."""
        if not self._is_modern or self._hello is None:
            return None
        return BackMeta(
            version=self._hello.version,
            capabilities=capabilities_of(request.caller.profile),
            client_info=request.caller.info,
            log_level=request.log_level,
        )

    def _set_log_level(self, wanted: str) -> None:
        """A server of the older era has one level for everybody: the least severe that anybody wants."""
        if self._hello is None or self._is_modern or not self._hello.capabilities.logging:
            return
        level = lowest_level([one for one in (self._log_level, wanted) if one is not None])
        if level is not None and level != self._log_level:
            self._log_level = level
            self._ask_own(SET_LEVEL, msgspec.json.encode({"level": level}), lambda _reply, _status: None)

    @handles(AnswerAsk)
    def _on_answer_ask(self, message: AnswerAsk) -> None:
        call = self._asks.answer(message.number, message.answer)
        if call is not None and call.abandoned_until is None:
            # The server has the word again, and its time begins.
            call.idle_until = self._now + self._spec.call_timeout_seconds
            self._arm_sweep(call.ends_at)

    def _claim(self, client: str) -> None:
        """The server has asked something of this client, whose it is from now on."""
        if self._lane.owner != client:
            self._lane = Lane(self._lane.profile, client)
            self._owner.tell(InstanceAsked(self._id, client))

    @handles(TellServer)
    def _on_tell_server(self, message: TellServer) -> None:
        if self._phase is Phase.READY and not self._is_modern:
            self._transmit(encode_notification(message.method, message.params))

    @answers(WatchResources)
    def _on_watch_resources(
        self, message: WatchResources
    ) -> Answer | CallFailed | Deferred[Answer | CallFailed]:
        if self._phase is not Phase.READY:
            return self._failed(Reason.STOPPING, "the instance is stopping", executed="no")
        deferred: Deferred[Answer | CallFailed] = self.defer()
        self._watching.watch(message.uris, deferred.answer)
        return deferred

    @handles(ListenAgain)
    def _on_listen_again(self, _message: ListenAgain) -> None:
        if self._phase is Phase.READY:
            self._watching.listen_again()

    def _on_updates_missed(self, uris: frozenset[str]) -> None:
        """Nobody listened for a while: look at the lists again, and say that the resources may have changed."""
        for kind in KINDS:
            if self._hello is not None and announces(self._hello.capabilities, kind):
                self._on_list_changed(kind)
        for uri in sorted(uris):
            params = msgspec.json.encode({"uri": uri})
            self._node.watches.tell(ResourceUpdated(self._spec_key, self._id, uri, params))

    @handles(CancelCall)
    def _on_cancel_call(self, message: CancelCall) -> None:
        call = self._pending.of_lease(message.lease)
        if call is not None and call.abandoned_until is None:
            self._abandon(call, message.reason or "cancelled by the client")
            call.reply.answer(
                self._failed(Reason.CALL_TIMEOUT, "cancelled by the client", call=call, slot_held=True)
            )
            self._pings.on_nobody_may_wait()

    @handles(Sweep)
    def _on_sweep(self, _message: Sweep) -> None:
        self._sweep = None
        self._sweep_at = float("inf")
        now = self._now
        has_limit_passed = False
        for call in self._pending.due(now):
            if call.abandoned_until is not None:
                limit = self._spec.drain_timeout_seconds
                # Its slot goes with the instance.
                self._pending.remove(call)
                self._retire_when_done(f"a call did not end within {limit:g} s of its cancellation")
                continue
            if call.deadline <= now:
                message = f"the call did not end within {call.deadline - call.sent_at:.1f} s"
            else:
                message = f"no reply and no progress for {self._spec.call_timeout_seconds:g} s"
            has_limit_passed = True
            self._abandon(call, message)
            call.reply.answer(self._failed(Reason.CALL_TIMEOUT, message, call=call, slot_held=True))
        self._stop_when_done()
        if has_limit_passed and self._phase is Phase.READY:
            self._pings.on_limit_passed()
        following = self._pending.next_end()
        if following is not None:
            self._arm_sweep(following)

    def _abandon(self, call: PendingCall, reason: str) -> None:
        """Nobody waits for it any more; its slot is free when the server says so, or is replaced."""
        call.abandoned_until = self._now + self._spec.drain_timeout_seconds
        call.on_event = None
        self._asks.on_call_over(call)
        self._owner.tell(CallAbandoned(call.lease))
        if self._withdraw(call.id, reason):
            self._pending.remove(call)
            self._owner.tell(Release(call.lease))
        else:
            self._arm_sweep(call.abandoned_until)

    def _end_call(self, call: PendingCall, outcome: Answer | CallFailed) -> None:
        self._pending.remove(call)
        self._asks.on_call_over(call)
        if call.abandoned_until is None:
            call.reply.answer(outcome)
        else:
            self._owner.tell(Release(call.lease))
        self._stop_when_done()

    def _failed(
        self,
        reason: Reason,
        message: str,
        *,
        executed: str = "unknown",
        call: PendingCall | None = None,
        slot_held: bool = False,
    ) -> CallFailed:
        return CallFailed(
            CallFailure(
                reason=reason,
                message=self._node.redact(f"{self._spec.name}: {message}"),
                server=self._spec.name,
                executed="no" if executed == "no" else "unknown",
                called_seconds=0.0 if call is None else self._now - call.sent_at,
                last_exit=self._wire_exit(),
                stderr=self._stderr_lines(),
            ),
            slot_held,
        )

    def _wire_exit(self) -> LastExit | None:
        detail = self._exit_detail()
        if detail is None:
            return None
        return LastExit(detail.code, detail.signal, rfc3339(self._node.clock.wall()))

    # --- what the server sends ------------------------------------------------------------------

    def _on_message(self, data: bytes, *, stream: int | None = None) -> None:
        """One message; `stream` is the request on whose own stream it came, where there is such a thing."""
        try:
            message = parse_message(data, depth=self._node.settings.limits.depth)
        except EnvelopeError as error:
            self._bad_lines.on_bad_line(data, error.message)
            return
        self._pings.heard = True
        match message:
            case Success() | Failure():
                self._on_reply(message, stream)
            case WireRequest():
                self._bad_lines.on_good_line()
                self._asks.on_request(message, call=self._call_of(stream))
            case Notification():
                self._bad_lines.on_good_line()
                self._on_notification(message, self._call_of(stream))

    def _call_of(self, stream: int | None) -> PendingCall | None:
        call = None if stream is None else self._pending.get(stream)
        return None if call is None or call.abandoned_until is not None else call

    def _on_reply(self, reply: Success | Failure, stream: int | None = None) -> None:
        # An error without an id is about the request on whose own stream it came.
        number = stream if reply.id is None else our_id(reply.id)
        if number is None:
            return
        self._on_settled(number)
        if self._own.on_reply(number, reply) or self._watching.on_reply(number, reply):
            return  # a list or a ping: it says nothing about how calls are answered
        self._bad_lines.on_good_line()
        call = self._pending.get(number)
        if call is None:
            self._log.debug("a reply to no request of ours: {}", number)
        elif isinstance(reply, Success):
            self._end_call(call, Answer(result=keep(reply.result)))
        else:
            self._end_call(call, Answer(error=keep(reply.error)))

    def _on_notification(self, message: Notification, call: PendingCall | None) -> None:
        if message.method == PROGRESS:
            self._on_progress(message.params)
        elif (kind := CHANGED.get(message.method)) is not None:
            self._on_list_changed(kind)
        elif message.method == RESOURCE_UPDATED:
            self._on_resource_updated(message.params)
        elif message.method == ACKNOWLEDGED:
            self._watching.on_acknowledged(message.params)
        elif message.method == CANCELLED:
            self._on_cancelled(message.params)
        else:
            # Whose it is only its stream says, or that nobody else has calls in flight. Else it is nobody's: what a
            # server says of one client's call must not reach another.
            call = call or self._pending.only_clients()
            if call is not None and call.on_event is not None:
                params = None if message.params is None else keep(message.params)
                call.on_event(Noted(message.method, params))

    def _on_progress(self, params: Raw | None) -> None:
        try:
            number = our_id(bytes(parse_progress(params)))
        except RemoteProtocolError as error:
            self._log.debug("progress that cannot be read: {}", error)
            return
        call = None if number is None else self._pending.get(number)
        if call is None or call.abandoned_until is not None or params is None:
            return
        call.idle_until = self._now + self._spec.call_timeout_seconds
        if call.on_event is not None:
            call.on_event(Progressed(keep(params)))

    def _on_cancelled(self, params: Raw | None) -> None:
        try:
            self._asks.on_withdrawn(parse_cancelled(params))
        except RemoteProtocolError as error:
            self._log.debug("a cancellation that cannot be read: {}", error)

    def _on_resource_updated(self, params: Raw | None) -> None:
        try:
            plain = untag_notification(params) or b"{}"
            uri = msgspec.json.decode(plain, type=_Updated).uri
        except (RemoteProtocolError, msgspec.DecodeError) as error:
            self._log.debug("an updated resource that cannot be read: {}", error)
            return
        self._node.watches.tell(ResourceUpdated(self._spec_key, self._id, uri, plain))

    @handles(StillBad)
    def _on_still_bad(self, message: StillBad) -> None:
        self._bad_lines.on_patience_over(message.call_id)

    def _fail_bad_reply(self, call: PendingCall, why: str) -> None:
        self._end_call(call, self._failed(Reason.BAD_REPLY, why, call=call))
        if self._phase is Phase.READY:
            self._pings.on_nobody_may_wait()

    # --- is it well -----------------------------------------------------------------------------

    @answers(Describe)
    def _on_describe(self, _request: Describe) -> InstanceFacts:
        return InstanceFacts(
            pid=self._pid(),
            hello=self._hello if self._phase is Phase.READY else None,
            stopping=self._phase is Phase.STOPPING or self._retiring is not None,
            busy=tuple(call.lease for call in self._pending if call.abandoned_until is None),
            abandoned=tuple(call.lease for call in self._pending if call.abandoned_until is not None),
            profile=self._lane.profile,
            owner=self._lane.owner,
        )

    @handles(PingTurn)
    def _on_ping_turn(self, _message: PingTurn) -> None:
        if self._phase is Phase.READY:
            self._pings.on_turn()

    def _ping_server(self, then: Callable[[Message | None], None]) -> None:
        # The modern era has no ping; what every server has to answer in it does as well.
        method = DISCOVER if self._is_modern else PING
        self._ask_server(
            method,
            self._own_params(None),
            lambda reply, _status: then(reply),
            timeout=self._spec.ping_timeout_seconds,
        )

    # --- lists ----------------------------------------------------------------------------------

    @handles(ListNow)
    def _on_list_now(self, _message: ListNow) -> None:
        self._read_lists()

    @handles(ReadLists)
    def _on_read_lists(self, _message: ReadLists) -> None:
        self._to_read |= frozenset(KINDS)
        self._read_lists()

    @handles(Poll)
    def _on_poll(self, _message: Poll) -> None:
        self._to_read |= self._lists.offered
        self._read_lists()
        self._poll_timer = self.after(self._polls_every, Poll())

    def _poll_as_configured(self) -> None:
        """Have the lists read every `refreshSeconds`; the first time at any moment of that, since many instances start together."""
        if self._poll_timer is not None:
            self._poll_timer.cancel()
            self._poll_timer = None
        self._polls_every = self._node.settings.refresh_seconds
        if self._polls_every:
            self._poll_timer = self.after(random.uniform(0.0, self._polls_every), Poll())

    def _on_list_changed(self, kind: Kind) -> None:
        """Only what the server has said it would tell; before the first reading there is nothing to read again."""
        if self._phase is not Phase.READY or self._hello is None:
            return
        if not announces(self._hello.capabilities, kind):
            self._log.debug("list_changed of {} that it did not say it would tell", kind)
            return
        self._to_read |= {kind}
        if self._list_timer is None:
            self._list_timer = self.after(LIST_DEBOUNCE, ListNow())

    def _read_lists(self) -> None:
        if self._list_timer is not None:
            self._list_timer.cancel()
            self._list_timer = None
        if self._phase is Phase.READY:
            to_read, self._to_read = self._to_read, frozenset[Kind]()
            self._lists.read(kind for kind in KINDS if kind in to_read)

    # --- the end --------------------------------------------------------------------------------

    def on_shutdown(self) -> None:
        self._stop_for("the node is stopping")

    def _on_respec_done(self, before: ServerSpec) -> None:
        """For what a kind of instance looks after by itself."""

    @handles(Respec)
    def _on_respec(self, message: Respec) -> None:
        before, self._spec = self._spec, message.spec
        self._pings.respec(message.spec)
        if self._phase is Phase.READY and self._polls_every != self._node.settings.refresh_seconds:
            self._poll_as_configured()
        self._on_respec_done(before)

    @handles(StopInstance)
    def _on_stop_instance(self, message: StopInstance) -> None:
        self._stop_for(message.reason)

    def _stop_for(self, reason: str) -> None:
        self._stop_asked = True
        self._begin_stop(reason)

    def _retire(self, why: str) -> None:
        """It is broken, which counts like a crash: have it replaced, and stop it."""
        if self._phase is Phase.READY and self._retiring is None:
            self._owner.tell(InstanceRetiring(self._id, why, at_fault=True))
        self._begin_stop(why)

    def _retire_when_done(self, why: str) -> None:
        """Have it replaced, and stop it once the calls have ended that are nobody's fault."""
        if self._retiring is None:
            self._retiring = why
            self._owner.tell(InstanceRetiring(self._id, why, at_fault=False))
            self.after(self._spec.drain_timeout_seconds, PatienceOver())
        self._stop_when_done()

    @handles(PatienceOver)
    def _on_patience_over(self, _message: PatienceOver) -> None:
        self._begin_stop(self._retiring or "")

    def _stop_when_done(self) -> None:
        if self._retiring is not None and not self._pending.awaited():
            self._begin_stop(self._retiring)

    def _begin_stop(self, why: str) -> None:
        """From here on nothing is taken; the calls in flight end, then the session does."""
        if self._phase is Phase.STOPPING:
            return
        was_ready = self._was_ready = self._phase is Phase.READY
        self._end_message = why
        self._enter(Phase.STOPPING, why)
        reason = Reason.STOPPING if self._stop_asked else Reason.INSTANCE_DIED
        for call in self._pending:
            self._pending.remove(call)
            if call.abandoned_until is None:
                call.reply.answer(self._failed(reason, why, call=call))
        self._lists.abandon(why, asked=self._stop_asked)
        self._own.clear()
        if self._exit_detail() is not None:
            self._tell_end(was_ready=was_ready)
        if self._close():
            self._on_closed()

    def _on_closed(self) -> None:
        """Nothing of the session is left."""
        self._tell_end(was_ready=self._was_ready)
        self.exit(Shutdown() if self._stop_asked else Normal())

    def _tell_end(self, *, was_ready: bool) -> None:
        """Say once how it ended: as soon as that is known, not when the last grandchild is gone."""
        if self._told_end:
            return
        self._told_end = True
        detail, stderr = self._exit_detail(), self._stderr_lines()
        # Here the server's own words become the reasons that everybody is told.
        message = self._node.redact(self._end_message)
        if was_ready or self._stop_asked:
            self._owner.tell(InstanceExited(self._id, self._stop_asked, message, detail, stderr))
        else:
            self._owner.tell(
                InstanceFailed(
                    self._id,
                    message,
                    False,
                    detail,
                    stderr,
                    while_probing=self._opening.is_probing,
                )
            )

    def _fail_start(self, message: str, *, fatal: bool) -> None:
        self._phase = Phase.STOPPING
        self._told_end = True
        self._owner.tell(InstanceFailed(self._id, self._node.redact(message), fatal))
        self.exit(Normal())

    # --- small parts ----------------------------------------------------------------------------

    def _enter(self, phase: Phase, reason: str | None = None) -> None:
        before, self._phase = self._phase, phase
        self._node.tell_event(
            EventKind.INSTANCE_STATE,
            server=self._spec.name,
            instance=self._id,
            from_=before.value,
            to=phase.value,
            reason=reason,
        )

    def _take_id(self) -> int:
        number = self._next_id
        self._next_id += 1
        return number

    def _ask_for_list(
        self, method: str, params: bytes | None, then: Callable[[Message | None], None]
    ) -> None:
        self._ask_server(
            method,
            self._own_params(params),
            lambda reply, _status: then(reply),
            timeout=self._spec.call_timeout_seconds,
        )

    def _ask_own(self, method: str, params: bytes | None, then: Then) -> None:
        self._ask_server(method, self._own_params(params), then, timeout=self._spec.call_timeout_seconds)

    def _open_stream(self, method: str, params: bytes) -> int:
        number = self._take_id()
        full = self._own_params(params)
        self._transmit_request(number, method, full, encode_request(number, method, full))
        return number

    def _own_params(self, params: bytes | None) -> bytes | None:
        """What we ask on our own account."""
        if self._hello is None or not self._is_modern:
            return params
        return params_for_back("", params, meta=own_meta(self._hello.version, self._lane.profile))

    def _ask_server(self, method: str, params: bytes | None, then: Then, *, timeout: float) -> None:
        """A request of our own; `then` runs in this actor when the reply comes, with None if none does."""
        self._own.ask(self._take_id(), method, params, then, timeout=timeout)

    @handles(Unanswered)
    def _on_unanswered(self, message: Unanswered) -> None:
        self._on_unwanted(message.number)
        self._own.on_unanswered(message.number)

    def _arm_sweep(self, moment: float) -> None:
        if moment >= self._sweep_at:
            return
        if self._sweep is not None:
            self._sweep.cancel()
        self._sweep_at = moment
        self._sweep = self.after(max(0.0, moment - self._now), Sweep())


class _Updated(msgspec.Struct):
    uri: str
