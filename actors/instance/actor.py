"""The owner of one live session with a stdio server: its process, its ids, its calls in flight.

From start to end: the process is spawned and enlisted with the guard, the handshake earns `ready`, calls are
multiplexed under our own ids, and whatever ends the session, every call gets an answer and no process of the
group is left. The lists are read once the instance is ready, after the first waiter's call has gone out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from loguru import logger
from msgspec import Raw

from mcpv_node.actors.callers import EMPTY_PROFILE, ClientProfile
from mcpv_node.actors.context import NodeContext
from mcpv_node.actors.guard import Enlist, GuardMessage, StrikeOff
from mcpv_node.actors.kernel import (
    Deferred,
    ExitReason,
    Handle,
    LoopActor,
    Normal,
    Shutdown,
    Timer,
    answers,
    handles,
)
from mcpv_node.actors.leases import InstanceId, Release
from mcpv_node.actors.server_type.messages import ServerTypeMessage
from mcpv_node.actors.snapshot import KINDS, Kind
from mcpv_node.protocol import (
    INITIALIZE,
    INITIALIZED,
    LATEST_LEGACY,
    METHOD_NOT_FOUND,
    PING,
    CallFailure,
    EnvelopeError,
    Failure,
    LastExit,
    Line,
    LineFramer,
    Message,
    Notification,
    Overlong,
    Reason,
    RemoteProtocolError,
    ServerHello,
    Success,
    build_initialize,
    cancelled,
    encode_failure,
    encode_notification,
    encode_request,
    encode_success,
    keep,
    parse_initialize_result,
    parse_message,
    parse_progress,
)
from mcpv_node.protocol import Request as WireRequest
from mcpv_node.settings import ServerSpec, SpecKey
from mcpv_node.telemetry import EventKind, rfc3339
from mcpv_node.transports import (
    ExitStatus,
    StartError,
    StdioProcess,
    group_rss_bytes,
    stop_process,
)
from mcpv_node.version import VERSION

from .bad_lines import BadLines, our_id
from .lists import ListReader, announces
from .memory import complaint, look_interval
from .messages import (
    Answer,
    Call,
    CallAbandoned,
    CallFailed,
    CancelCall,
    Describe,
    ExitDetail,
    InstanceExited,
    InstanceFacts,
    InstanceFailed,
    InstanceReady,
    InstanceRetiring,
    InstanceStarting,
    ReadLists,
    StopInstance,
)
from .moments import (
    Enlisted,
    ListNow,
    LookAtMemory,
    MemorySeen,
    PatienceOver,
    PingTurn,
    Poll,
    StartTimedOut,
    StillBad,
    StillOpenEnded,
    Stopped,
    Sweep,
    Unanswered,
)
from .own_requests import OwnRequests, Then
from .pending import PendingCall, PendingCalls
from .pings import Pings, stagger
from .process import (
    TERM_GRACE,
    Exited,
    Stderr,
    Stdout,
    StdoutClosed,
    describe_exit,
    end_orphaned,
    start_process,
)
from .stderr import LogAllowance, StderrRing

# The guard appends one line to a file; longer means that the disk hangs, and then nothing should start.
ENLIST_TIMEOUT = 5.0

# The lists wait this long for a first call to go out before them.
LIST_DELAY = 0.05

# A server that says `list_changed` often says it several times.
LIST_DEBOUNCE = 0.1

# A process that ends closes its stdout on the way; its exit, which says more, follows within milliseconds.
EXIT_PATIENCE = 0.25

# What a server has not read of what we sent before we stop sending: it is not reading at all.
MAX_UNSENT = 64 * 1024 * 1024

STDERR_LINES = 20

CHANGED: Mapping[str, Kind] = MappingProxyType({f"notifications/{kind}/list_changed": kind for kind in KINDS})


class Phase(Enum):
    """Where in its life the session is."""

    STARTING = "starting"
    HANDSHAKING = "handshaking"
    READY = "ready"
    STOPPING = "stopping"


class Instance(LoopActor[None]):
    """See the module."""

    def __init__(
        self,
        node: NodeContext,
        *,
        spec: ServerSpec,
        spec_key: SpecKey,
        instance_id: InstanceId,
        owner: Handle[ServerTypeMessage],
        guard: Handle[GuardMessage],
        profile: ClientProfile = EMPTY_PROFILE,
    ) -> None:
        super().__init__()
        self._node = node
        self._spec = spec
        self._id = instance_id
        self._owner = owner
        self._guard = guard
        self._phase = Phase.STARTING
        self._process: StdioProcess | None = None
        self._framer = LineFramer(node.settings.limits.line_bytes)
        self._stderr = StderrRing()
        self._stderr_allowance = LogAllowance()
        self._pending = PendingCalls()
        self._next_id = 1
        self._own = OwnRequests(
            send=self._send, time_over=lambda delay, number: self.after(delay, Unanswered(number))
        )
        self._lists = ListReader(
            spec_key, profile, instance_id, node.indexes, self._ask_for_list, node.clock.monotonic
        )
        self._to_read: frozenset[Kind] = frozenset()
        self._hello: ServerHello | None = None
        self._sweep_at = float("inf")
        self._sweep: Timer | None = None
        self._list_timer: Timer | None = None
        self._start_timer: Timer | None = None
        self._exit_status: ExitStatus | None = None
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

    # --- start ----------------------------------------------------------------------------------

    def on_start(self, estate: None = None) -> None:
        mark = f"{self._node.node_id}/{self._id}"
        try:
            started = start_process(
                self._spec, mark=mark, node=self._node, tell=self.note, tell_now=self.note_now
            )
        except StartError as error:
            self._fail_start(str(error), fatal=error.is_fatal)
            return
        self._process = started.process
        for problem in started.refused:
            self._log.warning("a limit is not in force: {}", problem)
        self._owner.tell(InstanceStarting(self._id, started.process.pid))
        self._start_timer = self.after(self._spec.start_timeout_seconds, StartTimedOut())
        self.run(self._guard.ask(Enlist(started.entry), ENLIST_TIMEOUT), Enlisted)

    @handles(Enlisted)
    def _on_enlisted(self, message: Enlisted) -> None:
        if isinstance(message.outcome, Exception):
            self._begin_stop(f"could not be entered in the ledger: {message.outcome}")
            return
        if self._phase is not Phase.STARTING:
            return
        self._enter(Phase.HANDSHAKING)
        params = build_initialize(LATEST_LEGACY, "mcpv-node", VERSION)
        # The start as a whole has its own bound, which comes first.
        self._ask_server(INITIALIZE, params, self._on_initialized, timeout=self._spec.start_timeout_seconds)

    def _on_initialized(self, reply: Message | None) -> None:
        if self._phase is not Phase.HANDSHAKING or reply is None:
            return
        if not isinstance(reply, Success):
            error = bytes(reply.error).decode("utf-8", "replace") if isinstance(reply, Failure) else "?"
            self._begin_stop(f"refused the handshake: {error[:500]}")
            return
        try:
            hello = parse_initialize_result(reply.result)
        except RemoteProtocolError as error:
            self._begin_stop(f"handshake failed: {error}")
            return
        self._send(encode_notification(INITIALIZED))
        self._become_ready(hello)

    def _become_ready(self, hello: ServerHello) -> None:
        if self._start_timer is not None:
            self._start_timer.cancel()
        self._enter(Phase.READY)
        self._hello = hello
        self._owner.tell(InstanceReady(self._id, hello))
        self._lists.begin(hello)
        self._to_read = frozenset(KINDS)
        self._list_timer = self.after(LIST_DELAY, ListNow())
        if self._node.settings.refresh_seconds:
            self.after(self._node.settings.refresh_seconds, Poll())
        self._pings.begin(self._id)
        if self._spec.limits.memory_mb is not None:
            self.after(stagger(self._id, look_interval(self._spec)), LookAtMemory())

    @handles(StartTimedOut)
    def _on_start_timed_out(self, _message: StartTimedOut) -> None:
        if self._phase in (Phase.STARTING, Phase.HANDSHAKING):
            limit = self._spec.start_timeout_seconds
            self._begin_stop(f"did not complete the handshake within {limit:g} s{self._bad_lines.hint()}")

    # --- calls ----------------------------------------------------------------------------------

    @answers(Call)
    def _on_call(self, request: Call) -> Answer | CallFailed | Deferred[Answer | CallFailed]:
        process = self._process
        if self._phase is not Phase.READY or process is None:
            return self._failed(Reason.STOPPING, "the instance is stopping", executed="no")
        if process.unsent > MAX_UNSENT:
            return self._failed(Reason.OVERLOADED, "the server does not read its input", executed="no")
        earlier = self._pending.of_lease(request.lease)
        if earlier is not None:
            raise ValueError(f"lease {request.lease} has a call in flight already")
        now = self._now
        call = PendingCall(
            id=self._take_id(),
            lease=request.lease,
            reply=self.defer(),
            on_progress=request.on_progress,
            sent_at=now,
            idle_until=now + self._spec.call_timeout_seconds,
            deadline=request.deadline,
        )
        self._pending.add(call)
        token = None if request.on_progress is None else call.id
        self._send(encode_request(call.id, request.method, request.params_to_send(token)))
        self._arm_sweep(call.ends_at)
        if self._list_timer is not None:
            self._read_lists()
        return call.reply

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
        call.on_progress = None
        self._send(encode_notification("notifications/cancelled", cancelled(call.id, reason)))
        self._owner.tell(CallAbandoned(call.lease))
        self._arm_sweep(call.abandoned_until)

    def _finish_call(self, call: PendingCall, outcome: Answer) -> None:
        self._pending.remove(call)
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
                message=f"{self._spec.name}: {message}",
                server=self._spec.name,
                executed="no" if executed == "no" else "unknown",
                called_seconds=0.0 if call is None else self._now - call.sent_at,
                last_exit=self._wire_exit(),
                stderr=self._stderr.last(STDERR_LINES),
            ),
            slot_held,
        )

    def _wire_exit(self) -> LastExit | None:
        status = self._exit_status
        if status is None:
            return None
        return LastExit(status.code, status.signal, rfc3339(self._node.clock.wall()))

    # --- what the server sends ------------------------------------------------------------------

    @handles(Stdout)
    def _on_stdout(self, message: Stdout) -> None:
        for item in self._framer.feed(message.data):
            match item:
                case Line(data=data):
                    self._on_line(data)
                case Overlong(size=size, head=head):
                    self._bad_lines.on_bad_line(head, f"a line of more than {size} bytes")

    def _on_line(self, line: bytes) -> None:
        try:
            message = parse_message(line, depth=self._node.settings.limits.depth)
        except EnvelopeError as error:
            self._bad_lines.on_bad_line(line, error.message)
            return
        self._pings.heard = True
        match message:
            case Success() | Failure():
                self._on_reply(message)
            case WireRequest():
                self._bad_lines.on_good_line()
                self._on_server_request(message)
            case Notification():
                self._bad_lines.on_good_line()
                self._on_notification(message)

    def _on_reply(self, reply: Success | Failure) -> None:
        number = our_id(reply.id)
        if number is None:
            return
        if self._own.on_reply(number, reply):
            return  # a list or a ping: it says nothing about how calls are answered
        self._bad_lines.on_good_line()
        call = self._pending.get(number)
        if call is None:
            self._log.debug("a reply to no request of ours: {}", number)
        elif isinstance(reply, Success):
            self._finish_call(call, Answer(result=keep(reply.result)))
        else:
            self._finish_call(call, Answer(error=keep(reply.error)))

    def _on_server_request(self, request: WireRequest) -> None:
        if request.method == "ping":
            self._send(encode_success(request.id, b"{}"))
        else:
            self._send(
                encode_failure(
                    request.id,
                    code=METHOD_NOT_FOUND,
                    message=f"{request.method} is not offered by this client",
                )
            )

    def _on_notification(self, message: Notification) -> None:
        if message.method == "notifications/progress":
            self._on_progress(message.params)
        elif (kind := CHANGED.get(message.method)) is not None:
            self._on_list_changed(kind)

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
        if call.on_progress is not None:
            call.on_progress(keep(params))

    @handles(StillBad)
    def _on_still_bad(self, message: StillBad) -> None:
        self._bad_lines.on_patience_over(message.call_id)

    def _fail_bad_reply(self, call: PendingCall, why: str) -> None:
        self._pending.remove(call)
        if call.abandoned_until is None:
            call.reply.answer(self._failed(Reason.BAD_REPLY, why, call=call))
        else:
            self._owner.tell(Release(call.lease))
        self._stop_when_done()
        if self._phase is Phase.READY:
            self._pings.on_nobody_may_wait()

    # --- is it well -----------------------------------------------------------------------------

    @answers(Describe)
    def _on_describe(self, _request: Describe) -> InstanceFacts:
        return InstanceFacts(
            pid=None if self._process is None else self._process.pid,
            ready=self._phase is Phase.READY,
            stopping=self._phase is Phase.STOPPING or self._retiring is not None,
            busy=tuple(call.lease for call in self._pending if call.abandoned_until is None),
            abandoned=tuple(call.lease for call in self._pending if call.abandoned_until is not None),
        )

    @handles(PingTurn)
    def _on_ping_turn(self, _message: PingTurn) -> None:
        if self._phase is Phase.READY:
            self._pings.on_turn()

    def _ping_server(self, then: Then) -> None:
        self._ask_server(PING, None, then, timeout=self._spec.ping_timeout_seconds)

    @handles(LookAtMemory)
    def _on_look_at_memory(self, _message: LookAtMemory) -> None:
        if self._process is not None and self._phase is Phase.READY:
            # On a thread: it reads the table of all processes of the machine. No look begins before this one ends.
            self.run(asyncio.to_thread(group_rss_bytes, self._process.pgid), MemorySeen)

    @handles(MemorySeen)
    def _on_memory_seen(self, message: MemorySeen) -> None:
        allowed = self._spec.limits.memory_mb
        if allowed is None or self._phase is not Phase.READY:
            return
        match message.used:
            case None:
                self._log.warning(
                    "a limit is not in force: memoryMB {} is not supported on this system", allowed
                )
                return
            case Exception() as error:
                # Out of descriptors, most likely: the next look may succeed.
                self._log.warning("what the group uses could not be read: {}", error)
            case int(used):
                problem = complaint(used, allowed_mb=allowed)
                if problem is not None:
                    self._retire(problem)
                    return
        self.after(look_interval(self._spec), LookAtMemory())

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
        self._to_read |= frozenset(KINDS)
        self._read_lists()
        self.after(self._node.settings.refresh_seconds, Poll())

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

    @handles(StopInstance)
    def _on_stop_instance(self, message: StopInstance) -> None:
        self._stop_for(message.reason)

    def _stop_for(self, reason: str) -> None:
        self._stop_asked = True
        self._begin_stop(reason)

    @handles(StdoutClosed)
    def _on_stdout_closed(self, _message: StdoutClosed) -> None:
        if self._phase is not Phase.STOPPING:
            self.after(EXIT_PATIENCE, StillOpenEnded())

    @handles(StillOpenEnded)
    def _on_still_open_ended(self, _message: StillOpenEnded) -> None:
        if self._phase is not Phase.STOPPING:
            self._retire("closed its stdout")

    @handles(Exited)
    def _on_exited(self, message: Exited) -> None:
        self._exit_status = message.status
        if self._phase is not Phase.STOPPING:
            self._begin_stop(describe_exit(message.status, was_ready=self._phase is Phase.READY))
        elif not self._stop_asked:
            self._tell_end(was_ready=self._was_ready)

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
        """From here on nothing is taken; the calls in flight end, then the process does."""
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
        self._lists.abandon(why)
        self._own.clear()
        if self._exit_status is not None:
            self._tell_end(was_ready=was_ready)
        process = self._process
        if process is None:
            self._tell_end(was_ready=was_ready)
            self.exit(Shutdown() if self._stop_asked else Normal())
            return
        self.run(
            stop_process(
                process, grace=self._spec.stop_grace_seconds, term_grace=TERM_GRACE, clock=self._node.clock
            ),
            Stopped,
        )

    @handles(Stopped)
    def _on_stopped(self, message: Stopped) -> None:
        if isinstance(message.outcome, Exception):
            raise message.outcome
        process = self._process
        assert process is not None
        if message.outcome.survivors:
            self._log.error("processes {} could not be ended", message.outcome.survivors)
        else:
            self._guard.tell(StrikeOff(process.pgid))
        process.close()
        self._process = None
        self._tell_end(was_ready=self._was_ready)
        self.exit(Shutdown() if self._stop_asked else Normal())

    def _tell_end(self, *, was_ready: bool) -> None:
        """Say once how it ended: as soon as that is known, not when the last grandchild is gone."""
        if self._told_end:
            return
        self._told_end = True
        status = self._exit_status
        detail = None if status is None else ExitDetail(status.code, status.signal)
        stderr = self._stderr.last(STDERR_LINES)
        if was_ready or self._stop_asked:
            self._owner.tell(InstanceExited(self._id, self._stop_asked, self._end_message, detail, stderr))
        else:
            self._owner.tell(InstanceFailed(self._id, self._end_message, False, detail, stderr))

    def _fail_start(self, message: str, *, fatal: bool) -> None:
        self._phase = Phase.STOPPING
        self._told_end = True
        self._owner.tell(InstanceFailed(self._id, message, fatal))
        self.exit(Normal())

    def on_exit(self, reason: ExitReason) -> None:
        """Whatever this actor's end was, its processes end too; the ledger keeps them until they have."""
        process = self._process
        if process is not None:
            self._process = None
            system = self._node.system
            system.keep(system.loop.create_task(end_orphaned(process, self._guard, self._node)))

    # --- small parts ----------------------------------------------------------------------------

    @handles(Stderr)
    def _on_stderr(self, message: Stderr) -> None:
        for line in self._stderr_allowance.admit(self._stderr.feed(message.data), self._now):
            self._log.debug("stderr: {}", line)

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

    def _ask_for_list(self, method: str, params: bytes | None, then: Then) -> None:
        self._ask_server(method, params, then, timeout=self._spec.call_timeout_seconds)

    def _ask_server(self, method: str, params: bytes | None, then: Then, *, timeout: float) -> None:
        """A request of our own; `then` runs in this actor when the reply comes, with None if none does."""
        self._own.ask(self._take_id(), method, params, then, timeout=timeout)

    @handles(Unanswered)
    def _on_unanswered(self, message: Unanswered) -> None:
        self._own.on_unanswered(message.number)

    def _send(self, line: bytes) -> None:
        if self._process is not None:
            self._process.write(line + b"\n")

    def _arm_sweep(self, moment: float) -> None:
        if moment >= self._sweep_at:
            return
        if self._sweep is not None:
            self._sweep.cancel()
        self._sweep_at = moment
        self._sweep = self.after(max(0.0, moment - self._now), Sweep())
