"""One request for one thing, from a caller to a server's own answer: acquire, call, release.

What the server answered passes untouched, result or error. Everything else that can happen is a typed error of
DESIGN 7.6. Cancelling the coroutine cancels the call at the server.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import msgspec
from msgspec import Raw, Struct

from mcpv_node.actors.audit import Audited, digest_of
from mcpv_node.actors.callers import Caller, Era
from mcpv_node.actors.context import NodeContext
from mcpv_node.actors.index_messages import AwaitLists
from mcpv_node.actors.instance.messages import (
    Answer,
    AnswerAsk,
    Asked,
    AskNumber,
    AskWithdrawn,
    CallEvent,
    CallFailed,
    CancelCall,
    InstanceMessage,
    Noted,
    Progressed,
    ReadLists,
)
from mcpv_node.actors.instance.messages import Call as InstanceCall
from mcpv_node.actors.kernel import ActorError, AskTimeout, Handle, MailboxFull
from mcpv_node.actors.leases import (
    Acquire,
    InstanceId,
    Lease,
    LeaseId,
    LeaseKind,
    Refused,
    Release,
    new_lease_id,
)
from mcpv_node.actors.server_type.messages import CallEnded, ServerTypeMessage
from mcpv_node.actors.world import Selector, Server
from mcpv_node.protocol import (
    CALL,
    ELICITATION,
    HEADER_MISMATCH,
    INVALID_PARAMS,
    TASK_METHODS,
    URL_ELICITATION_REQUIRED,
    CallFailure,
    RawId,
    Reason,
    RemoteProtocolError,
    capabilities_of,
    encode_failure_raw,
    encode_success,
    error_code,
    error_to_legacy,
    error_to_modern,
    members,
    offers,
    parse_call,
    to_legacy,
    to_modern,
    url_elicitations,
)
from mcpv_node.telemetry import EventKind

from .identity import SERVER_INFO
from .multi_round import finish_rounds
from .ports import ClientPort
from .routing import NoRoute, Route, find_route
from .traces import CallTrace

# The owner of a deadline answers at the deadline; this much later (seconds) it is not going to.
REPLY_MARGIN = 2.0

# Reading a server's tools once more takes it well under a second; a client waits for it in the middle of a call (seconds).
LIST_AGAIN_BOUND = 10.0

# When a client that was turned away for being one too many may well find a place (seconds).
RETRY_AFTER = 1.0

# An instance may end between the grant of its slot and the call; one server cannot have so many end in a row by chance.
MAX_LATE_LEASES = 8

# How calls end, beside the reasons of DESIGN 7.6: with a result, with the server's own error, or unwanted.
OK = "ok"
ERROR = "error"
CANCELLED = "cancelled"


class CallReply(Struct, frozen=True):
    """What to answer: the bytes of a result, or those of a JSON-RPC error object."""

    result: bytes | Raw | None = None
    error: bytes | Raw | None = None
    served: Lease | None = None  # who answered, where a server did

    def encode(self, id: RawId) -> bytes:
        """The answer to the request with this id."""
        if self.result is not None:
            return encode_success(id, self.result)
        return encode_failure_raw(id, self.error or b"null")


def error_reply(code: int, message: str, data: bytes | None = None) -> CallReply:
    """An error of our own that is none of DESIGN 7.6."""
    error: dict[str, object] = {"code": code, "message": message}
    if data is not None:
        error["data"] = Raw(data)
    return CallReply(error=msgspec.json.encode(error))


def failure_reply(failure: CallFailure) -> CallReply:
    """A typed error, as DESIGN 7.6 spells it."""
    return CallReply(
        error=msgspec.json.encode(
            {"code": failure.code, "message": failure.message, "data": Raw(failure.encode_data())}
        )
    )


class CallControl(Struct, eq=False):
    """One call under way, and the way to cancel it. For one call, used on the loop's thread.

    `askers` collects the server types whose instances have asked the client something, and so are its alone.
    """

    _askers: set[Handle[ServerTypeMessage]] | None = None
    _cancelled: bool = False
    _waiting: asyncio.Task[Any] | None = None
    _instance: Handle[InstanceMessage] | None = None
    _lease: LeaseId = LeaseId(0)

    def cancel(self, reason: str) -> None:
        """Nobody wants the reply: leave the queue, or tell the server.

        A call that its server has is not abandoned by us: its instance answers at once and says whether the slot
        is still held. A call that waits for a slot ends with CancelledError.
        """
        if self._cancelled:
            return
        self._cancelled = True
        if self._instance is not None:
            self._instance.tell(CancelCall(self._lease, reason))
        elif self._waiting is not None:
            self._waiting.cancel()

    def is_cancelled(self) -> bool:
        return self._cancelled

    def on_asked(self, server: Handle[ServerTypeMessage]) -> None:
        """An instance of this server type has asked the client something."""
        if self._askers is not None:
            self._askers.add(server)

    def wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """The current task of `loop` waits for a slot from here on."""
        self._instance = None
        self._waiting = asyncio.current_task(loop)

    def send(self, lease: Lease) -> None:
        """The call goes to its instance now."""
        self._waiting = None
        self._instance, self._lease = lease.instance, lease.lease

    def end(self) -> None:
        """There is nothing left to cancel."""
        self._waiting = self._instance = None


async def perform_request(
    node: NodeContext,
    caller: Caller,
    selector: Selector,
    params: Raw | None,
    *,
    method: str = CALL,
    port: ClientPort | None = None,
    deadline: float | None = None,
) -> CallReply:
    """Call the tool, get the prompt or read the resource that `params` name, of those `selector` shows.

    `deadline` (monotonic) is the caller's own.

    Cancelled, it has the call cancelled at the server, and its slot released when the server is done with it.
    """
    try:
        call = parse_call(params, method)
    except RemoteProtocolError as error:
        return error_reply(INVALID_PARAMS, str(error))
    route = find_route(node.world.world, selector, caller.profile, call)
    if isinstance(route, NoRoute):
        return error_reply(route.code, route.message, route.data)
    control = CallControl()
    work = perform_call(node, caller, route, control=control, port=port, deadline=deadline)
    task = asyncio.get_running_loop().create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        control.cancel("the caller cancelled")
        # It sees to the slot on its own, and nobody is interested in how.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        raise


async def perform_call(
    node: NodeContext,
    caller: Caller,
    route: Route,
    *,
    control: CallControl,
    port: ClientPort | None = None,
    deadline: float | None = None,
    instance: InstanceId | None = None,
) -> CallReply:
    """`perform_request` for a door: the params have been read, and whoever cancels does so through `control`.

    A modern caller is given a modern server's question as it is, and a legacy server's -32042 where it can visit URLs.
    `instance` is the one that the request goes on with, where it lives. What is returned of a cancelled call is of no
    use to anybody.
    """
    arrived = node.clock.monotonic()
    server = route.server
    tracing = node.tracing
    trace = None if tracing is None else CallTrace(node, tracing, caller, route, arrived)
    ends = _earliest(arrived + server.spec.max_call_seconds, deadline)
    trip = Trip(node, caller, route, server, route.call.params, control, ends, port, instance, trace)
    outcome = CANCELLED
    answer: Answer | CallFailure
    try:
        answer = await trip.go()
        if not (isinstance(answer, Answer) and answer.error is None):
            answer = await _try_again(trip, answer)
        if port is not None and caller.era is Era.LEGACY and trip.is_modern:
            answer = await finish_rounds(trip, port, answer)
        answer = _shaped(trip, answer)
        reply, outcome = _reply_to(answer, trip)
    finally:
        control.end()
        if control.is_cancelled():
            outcome = CANCELLED
        took = node.clock.monotonic() - arrived
        node.metrics.call_seconds(server.spec.name, outcome).observe(took)
        if trace is not None:
            trace.ends(outcome, trip.served)
        if node.audit is not None:
            node.audit.tell(_audited(node, caller, route, outcome, took))
    if isinstance(answer, CallFailure) and not control.is_cancelled():
        node.tell_event(
            EventKind.CALL_FAILED, server=server.spec.name, reason=str(answer.reason), client=caller.client
        )
    return reply


async def _try_again(trip: Trip, answer: Answer | CallFailure) -> Answer | CallFailure:
    """Have the request made once more, where what came instead of a result is a reason to."""
    if _deserves_another_try(answer, trip.route) and not trip.control.is_cancelled():
        answer = await trip.go()
    if not trip.control.is_cancelled() and _was_misdescribed(answer, trip) and await trip.list_again():
        answer = await trip.go()
    return answer


def _audited(node: NodeContext, caller: Caller, route: Route, outcome: str, took: float) -> Audited:
    """What the audit says of a request that is over."""
    call = route.call
    arguments = members(call.params).get("arguments")
    return Audited(
        at=node.clock.wall() - timedelta(seconds=took),
        caller=caller,
        server=route.server.spec.name,
        method=call.method,
        name=call.name,
        digest=None if arguments is None else digest_of(memoryview(arguments)),
        outcome=outcome,
        seconds=took,
    )


def requires_visits(caller: Caller, answer: Answer | CallReply) -> bool:
    """Whether a legacy server's answer is that a URL is to be visited first, and this client can be asked to."""
    if answer.error is None or error_code(answer.error) != URL_ELICITATION_REQUIRED:
        return False
    return bool(url_elicitations(answer.error)) and offers(
        capabilities_of(caller.profile), ELICITATION, b'{"mode":"url"}'
    )


def _shaped(trip: Trip, answer: Answer | CallFailure) -> Answer | CallFailure:
    """The server's answer as the client's era knows it; within an era the very bytes."""
    lease = trip.served
    if isinstance(answer, CallFailure) or lease is None:
        return answer
    method = trip.route.call.method
    try:
        if trip.caller.era is Era.MODERN:
            if answer.result is not None:
                shaped = to_modern(
                    method, answer.result, server_info=SERVER_INFO, ttl_ms=0, cache_scope="private"
                )
                return Answer(result=shaped)
            if requires_visits(trip.caller, answer):
                return answer
            return Answer(error=error_to_modern(answer.error or b"{}", uri=trip.route.call.name))
        if lease.hello.era == "legacy":
            return answer
        if answer.result is not None:
            return Answer(result=to_legacy(method, answer.result))
        return Answer(error=error_to_legacy(method, answer.error or b"{}"))
    except (RemoteProtocolError, msgspec.DecodeError) as error:
        name = trip.route.server.spec.name
        return CallFailure(
            reason=Reason.BAD_REPLY, message=f"{name}: {error}", server=name, executed="unknown"
        )


class Trip(Struct, eq=False):
    """One request on its way to one server; `go` is one try, or one round."""

    node: NodeContext
    caller: Caller
    route: Route
    server: Server
    params: bytes | Raw  # of this round
    control: CallControl
    ends: float  # monotonic seconds
    port: ClientPort | None
    instance: InstanceId | None  # the one that it goes on with
    trace: CallTrace | None
    served: Lease | None = None  # the last slot it had
    asking: dict[AskNumber, asyncio.Task[None]] | None = None  # what its client is asked now

    @property
    def is_modern(self) -> bool:
        """Whether it has come to a server of the modern era."""
        return self.served is not None and self.served.hello.era == "modern"

    async def go(self) -> Answer | CallFailure:
        for _ in range(MAX_LATE_LEASES):
            self.control.wait(self.node.system.loop)
            lease = await self._acquire()
            if isinstance(lease, CallFailure) and self.instance is not None and _is_gone(lease):
                # What it held may be of use to another, or the server says that it is not.
                self.instance = None
                lease = await self._acquire()
            if isinstance(lease, CallFailure):
                if _was_refused(lease) and self._has_moved():
                    continue
                return lease
            self.served = lease
            self.node.metrics.queue_wait_seconds(self.server.spec.name).observe(lease.queued_seconds)
            self.control.send(lease)
            try:
                answer = await self._call(lease)
            finally:
                if self.asking:
                    await self._withdraw_questions(self.asking)
            # What an instance refuses because it ends has not been executed: whoever serves next may have it.
            if not _was_refused(answer) or self.control.is_cancelled():
                return answer
        name = self.server.spec.name
        message = f"{name}: its instances end before they can be called"
        return CallFailure(reason=Reason.INSTANCE_DIED, message=message, server=name, executed="no")

    def _has_moved(self) -> bool:
        """Go on with the server type that a reload has put in the place of the one asked; tell whether there is one."""
        server = self.node.world.world.servers.get(self.server.spec.name)
        if server is None or server.handle is self.server.handle or self.control.is_cancelled():
            return False
        self.server = server
        return True

    async def list_again(self) -> bool:
        """Have the server's tools read once more; tell whether the one that is called is described otherwise now."""
        entry, lease, node = self.route.entry, self.served, self.node
        assert entry is not None
        assert lease is not None
        self.control.wait(node.system.loop)
        bound = min(LIST_AGAIN_BOUND, self.ends - node.clock.monotonic())
        with suppress(ActorError):  # too slow, or it restarts: the server's answer has to do
            read = asyncio.ensure_future(
                node.indexes["tools"].ask(AwaitLists(self.server.view.spec_key, fresh=True), max(0.0, bound))
            )
            # The index hears the question first: what was read before does not answer it.
            await asyncio.sleep(0)
            lease.instance.tell(ReadLists())
            await read
        alone = Selector(server=self.server.view.name)
        now = node.world.world.view("tools", alone, self.caller.profile).targets.get(entry.raw_name)
        if now is None or now.raw_definition == entry.raw_definition:
            return False
        self.route = msgspec.structs.replace(self.route, entry=now)
        return True

    # --- what comes before the reply ------------------------------------------------------------

    def _on_event(self, lease: Lease, event: CallEvent) -> None:
        if isinstance(event, Asked):
            self.control.on_asked(self.server.handle)
        port = self.port
        if port is None or self.control.is_cancelled():
            return
        match event:
            case Progressed() | Noted():
                # A server's mistake, and this runs in its instance.
                with suppress(RemoteProtocolError):
                    _pass_on(event, port)
            case Asked(number=number):
                asking = self.asking = self.asking or {}
                task = asyncio.get_running_loop().create_task(self._ask(lease, port, event))
                asking[number] = task
                task.add_done_callback(lambda _: asking.pop(number, None))
            case AskWithdrawn(number=number):
                asked = None if self.asking is None else self.asking.get(number)
                if asked is not None:
                    asked.cancel()

    @staticmethod
    async def _withdraw_questions(asking: dict[AskNumber, asyncio.Task[None]]) -> None:
        """What the server does not wait for any more the client hears before the answer, or never."""
        tasks = list(asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    async def _ask(self, lease: Lease, port: ClientPort, asked: Asked) -> None:
        answer = await port.ask(asked.method, asked.params)
        lease.instance.tell(AnswerAsk(asked.number, answer))

    async def _acquire(self) -> Lease | CallFailure:
        spec = self.server.spec
        now = self.node.clock.monotonic()
        if self.trace is not None:
            self.trace.waits(now)
        # The server type enforces each part; this is where both together end.
        deadline = _earliest(now + spec.queue_timeout_seconds + spec.start_timeout_seconds, self.ends)
        # What waits for a task holds no slot: the work has a lease of its own, and others need the slots meanwhile.
        kind = LeaseKind.TASK if self.route.call.method in TASK_METHODS else LeaseKind.CALL
        request = Acquire(
            lease=new_lease_id(),
            caller=self.caller,
            deadline=deadline,
            kind=kind,
            instance=self.instance,
        )
        granted: Lease | Refused
        answered = False
        try:
            granted = await self.server.handle.ask(request, max(0.0, deadline - now) + REPLY_MARGIN)
            answered = True
        except ActorError as error:
            return self._not_acquired(error, self.node.clock.monotonic() - now)
        finally:
            if not answered:
                # Nobody waits for it any more: a slot must not be given to nobody.
                self.server.handle.tell(Release(request.lease))
        if self.trace is not None:
            self.trace.waited(granted)
        return granted.failure if isinstance(granted, Refused) else granted

    async def _call(self, lease: Lease) -> Answer | CallFailure:
        sent = self.node.clock.monotonic()
        route, port = self.route, self.port
        params = self.params if self.trace is None else self.trace.sends(lease, self.params)
        call = InstanceCall(
            lease=lease.lease,
            caller=self.caller,
            method=route.call.method,
            params=params,
            deadline=self.ends,
            name=route.own_name,
            on_event=None if port is None else partial(self._on_event, lease),
            wants_progress=port is not None and port.wants_progress,
            log_level=None if port is None else port.log_level,
            definition=None if route.entry is None else route.entry.raw_definition,
            members=route.call.members if params is route.call.params else None,
        )
        answer: Answer | CallFailed
        slot_held = False
        ok: bool | None = False
        try:
            answer = await lease.instance.ask(call, max(0.0, self.ends - sent) + REPLY_MARGIN)
            if isinstance(answer, Answer):
                ok = answer.result is not None
            else:
                slot_held = answer.slot_held
                ok = None if _was_refused(answer.failure) else False
        except ActorError as error:
            return self._with_times(self._not_called(error), lease, sent)
        except asyncio.CancelledError:
            # Not by the client: the door's bound is over and everything below it stops next.
            lease.instance.tell(CancelCall(lease.lease, "the node stops"))
            raise
        finally:
            if self.trace is not None:
                self.trace.answered(ok=bool(ok))
            if slot_held:
                self.server.handle.tell(CallEnded(ok=False))
            else:
                self.server.handle.tell_now(Release(lease.lease, ok))
        if isinstance(answer, CallFailed):
            return self._with_times(answer.failure, lease, sent)
        return answer

    def _not_acquired(self, error: ActorError, waited: float) -> CallFailure:
        name = self.server.spec.name
        if isinstance(error, AskTimeout):
            reason, message = Reason.QUEUE_TIMEOUT, f"{name} had no free slot in time"
        elif isinstance(error, MailboxFull):
            reason, message = Reason.OVERLOADED, f"{name} has too many requests to look at"
        elif self.server.handle.is_alive():
            reason, message = Reason.OVERLOADED, f"{name} was interrupted twice while it looked for a slot"
        else:
            reason, message = Reason.STOPPING, f"{name} is not running any more"
        return CallFailure(
            reason=reason,
            message=message,
            server=name,
            executed="no",
            queued_seconds=waited,
            retry_after=RETRY_AFTER if reason is Reason.OVERLOADED else None,
        )

    def _not_called(self, error: ActorError) -> CallFailure:
        name = self.server.spec.name
        if isinstance(error, MailboxFull):
            return CallFailure(
                reason=Reason.OVERLOADED,
                message=f"the instance of {name} has too many requests to look at",
                server=name,
                executed="no",
                retry_after=RETRY_AFTER,
            )
        if isinstance(error, AskTimeout):
            reason, message = Reason.CALL_TIMEOUT, f"{name} did not answer in time"
        else:
            reason, message = Reason.INSTANCE_DIED, f"the instance of {name} ended during the call"
        return CallFailure(reason=reason, message=message, server=name, executed="unknown")

    def _with_times(self, failure: CallFailure, lease: Lease, sent: float) -> CallFailure:
        return msgspec.structs.replace(
            failure,
            queued_seconds=lease.queued_seconds,
            started_seconds=lease.started_seconds,
            called_seconds=self.node.clock.monotonic() - sent,
        )


def _pass_on(event: Progressed | Noted, port: ClientPort) -> None:
    match event:
        case Progressed(params=params):
            port.on_progress(params)
        case Noted(method=method, params=params):
            port.on_note(method, params)


def _is_gone(failure: CallFailure) -> bool:
    """Tell whether the instance that a request was to go on with does not live any more."""
    return failure.reason is Reason.INSTANCE_DIED and failure.executed == "no"


def _was_refused(answer: Answer | CallFailure) -> bool:
    """Tell whether the instance had begun to end before it was called, and so did nothing."""
    return isinstance(answer, CallFailure) and answer.reason is Reason.STOPPING and answer.executed == "no"


def _deserves_another_try(answer: Answer | CallFailure, route: Route) -> bool:
    """What may be repeated gets one more try when its instance died under it."""
    return (
        isinstance(answer, CallFailure)
        and answer.reason is Reason.INSTANCE_DIED
        and route.is_safe_to_repeat
        and route.server.spec.retry_calls == "annotated"
    )


def _was_misdescribed(answer: Answer | CallFailure, trip: Trip) -> bool:
    """Tell whether a modern server has refused headers that its tool's definition asked for, as it was known here.

    Nothing was executed (2026-07-28, SEP-2243: HeaderMismatch).
    """
    if isinstance(answer, CallFailure) or answer.error is None or trip.served is None:
        return False
    if trip.route.call.method != CALL or trip.route.entry is None or trip.served.hello.era != "modern":
        return False
    return error_code(answer.error) == HEADER_MISMATCH


def _reply_to(answer: Answer | CallFailure, trip: Trip) -> tuple[CallReply, str]:
    if isinstance(answer, CallFailure):
        return failure_reply(answer), str(answer.reason)
    served = trip.served
    if answer.result is not None:
        return CallReply(result=answer.result, served=served), OK
    return CallReply(error=answer.error, served=served), ERROR


def _earliest(bound: float, deadline: float | None) -> float:
    return bound if deadline is None else min(bound, deadline)
