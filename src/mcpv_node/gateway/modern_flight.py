"""One call of the modern era under way, over the rounds that it may need.

A flight ends with the server's answer, or with what the client has to be asked first. What the next round goes on with
is sealed into its `requestState`: for this principal, this selection and this very request. A forged, foreign or
expired one reaches no server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final, Literal

import msgspec
from loguru import logger
from msgspec import Raw, Struct
from msgspec.structs import replace

from mcpv_node.actors.callers import Caller
from mcpv_node.actors.kernel import ActorError
from mcpv_node.actors.leases import Acquire, InstanceId, Lease, LeaseKind, Release, new_lease_id
from mcpv_node.protocol import (
    CALL,
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    MODERN_TASK_METHODS,
    RESOURCE_NOT_FOUND,
    ROUND_METHODS,
    Call,
    CallFailure,
    HeaderMismatch,
    InputRequest,
    RawId,
    Reason,
    RemoteProtocolError,
    Retry,
    SealError,
    answer_to,
    answers_questions,
    call_of,
    capabilities_of,
    check_param_headers,
    encode_success,
    error_code,
    input_required,
    parse_input_required,
    requires_input,
    retry_in,
    retry_params,
    round_digest,
    url_elicitations,
    with_state,
)

from .calls import CallControl, CallReply, failure_reply, perform_call, requires_visits
from .held import (
    HELD_BOUND,
    HOLD_SECONDS,
    HeldCall,
    HeldId,
    HeldPort,
    Hold,
    KeepInstance,
    LetGo,
    Take,
    new_held_id,
)
from .identity import SERVER_INFO
from .learning import wait_for_first_lists
from .mirrors import mirrored_in
from .modern_lists import LIST_OF, Lacking, ModernLists
from .modern_reply import Asked, ModernReply, overloaded, refusal
from .multi_round import KEEP_BOUND
from .ports import Tell
from .routing import NoRoute, Route, find_route
from .services import DoorServices, count_down
from .tasks import TaskRef, on_reply, open_task

# What a sealed requestState is for.
STATE: Final = "requestState"

_NOTHING: Final = Raw(b"{}")


class _State(Struct, frozen=True, omit_defaults=True):
    """What is sealed into a requestState: what the next round goes on with.

    `held`: a call that waits at this node. `again`: nothing; the call is made once more. `server`: what a modern server
    gave out, and the instance that did.
    """

    kind: Literal["held", "again", "server"]
    held: HeldId = HeldId("")
    server: str = ""
    instance: InstanceId = InstanceId("")
    raw: str | None = None


class _Refusal(Exception):
    """The request is not served; ends in `run`."""

    def __init__(self, code: int, message: str, data: bytes | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class ModernFlight:
    """One request under way. `run` it once; whoever made it calls `end` if it never came to run."""

    __slots__ = ("_asked", "_control", "_held", "_is_counted", "_lists", "_services", "_task", "is_cancelled")

    def __init__(self, services: DoorServices, lists: ModernLists, asked: Asked) -> None:
        self.is_cancelled = False
        self._services = services
        self._lists = lists
        self._asked = asked
        self._control = CallControl()
        self._held: HeldCall | None = None
        self._task: TaskRef | None = None  # what it is about, where that is a task
        self._is_counted = True
        services.load[asked.principal] = services.load.get(asked.principal, 0) + 1

    @property
    def id(self) -> RawId:
        return self._asked.request.id

    def cancel(self, reason: str) -> None:
        """Its client does not want the answer any more. What is held for the next round by then is not touched."""
        if not self.is_cancelled:
            self.is_cancelled = True
            (self._control if self._held is None else self._held.control).cancel(reason)

    def end(self) -> None:
        """It is over, or was never run."""
        if self._is_counted:
            self._is_counted = False
            count_down(self._services.load, self._asked.principal)

    async def run(self, tell: Tell) -> ModernReply | None:
        """Return the answer; None when the client cancelled. `tell` gets the notifications on the way."""
        request = self._asked.request
        try:
            lacking = self._lists.lacking(self._asked)
            if lacking is not None:
                await self._learn(lacking)
            if request.method in LIST_OF:
                return self._lists.page(self._asked)
            reply = await self._call(tell)
            return None if self.is_cancelled else reply
        except _Refusal as refused:
            return refusal(request.id, refused.code, refused.message, refused.data)
        except ActorError as error:
            # An owner is being restarted; nothing was asked of a server under this request.
            logger.bind(client=self._asked.meta.client_name).warning("a request was not served: {}", error)
            return overloaded(request.id)
        except asyncio.CancelledError:
            if self.is_cancelled:
                _carry_on()
                return None
            self.cancel("the node stops")
            raise
        except Exception as error:  # noqa: BLE001  (a request's border: the client gets no stack trace)
            bound = logger.bind(client=self._asked.meta.client_name)
            bound.opt(exception=error).error("a request failed inside the node")
            return refusal(request.id, INTERNAL_ERROR, "internal error")
        finally:
            self.end()

    async def _learn(self, lacking: Lacking) -> None:
        node = self._services.node
        self._control.wait(node.system.loop)
        await wait_for_first_lists(node, lacking.kind, lacking.keys, lacking.patience)
        self._control.end()

    async def _call(self, tell: Tell) -> ModernReply | None:
        asked = self._asked
        try:
            caller = asked.caller
            if asked.request.method in MODERN_TASK_METHODS:
                return await self._call_task(caller, tell)
            call = call_of(asked.request.params or _NOTHING, asked.request.method, asked.params, asked.meta)
            route = self._route(call, caller)
            retry = retry_in(asked.params) if call.method in ROUND_METHODS else None
        except HeaderMismatch as mismatch:
            raise _Refusal(HEADER_MISMATCH, str(mismatch)) from None
        except RemoteProtocolError as error:
            raise _Refusal(INVALID_PARAMS, str(error)) from None
        if retry is None or retry.state is None:
            return await self._begin(caller, route, tell)
        state = self._opened(retry.state)
        if state.kind == "held":
            return await self._go_on(state.held, route, caller, retry, tell)
        if state.kind == "again":
            return await self._begin(caller, _with_params(route, {}, None), tell)
        if state.server != route.server.view.name:
            raise _Refusal(INVALID_PARAMS, "the requestState is another server's")
        try:
            following = _with_params(route, retry.responses, state.raw)
            return await self._begin(caller, following, tell, instance=state.instance)
        finally:
            self._services.held.tell(LetGo(state.held))

    async def _call_task(self, caller: Caller, tell: Tell) -> ModernReply | None:
        """Ask for a task, or tell it something, where it is."""
        asked, world = self._asked, self._services.node.world.world
        method, params = asked.request.method, asked.request.params
        opened = open_task(self._services, world, asked.selector, asked.principal, method, params)
        if isinstance(opened, NoRoute):
            raise _Refusal(opened.code, opened.message, opened.data)
        route, self._task = opened
        return await self._begin(caller, route, tell, instance=self._task.instance)

    def _route(self, call: Call, caller: Caller) -> Route:
        asked = self._asked
        selector = self._lists.visible(asked, caller.profile) if call.method == CALL else asked.selector
        route = find_route(self._services.node.world.world, selector, caller.profile, call)
        if isinstance(route, NoRoute):
            code = INVALID_PARAMS if route.code == RESOURCE_NOT_FOUND else route.code
            raise _Refusal(code, route.message, route.data)
        if asked.headers is not None and call.method == CALL and route.entry is not None:
            mirrored = mirrored_in(route.entry.raw_definition)
            if mirrored:
                check_param_headers(asked.headers, mirrored, asked.params.get("arguments"))
        return route

    def _sealed(self, state: _State) -> str:
        """The requestState for the next round of this request."""
        now = self._services.node.clock.wall().timestamp()
        payload = msgspec.json.encode(state)
        return self._services.sealer.seal(
            STATE, payload, bound_to=_bound(self._asked), expires_at=now + HOLD_SECONDS
        )

    def _opened(self, sealed: str) -> _State:
        """What was sealed for this round of this request."""
        now = self._services.node.clock.wall().timestamp()
        try:
            payload = self._services.sealer.open(STATE, sealed, bound_to=_bound(self._asked), now=now)
            return msgspec.json.decode(payload, type=_State)
        except SealError as error:
            raise _Refusal(INVALID_PARAMS, str(error)) from None

    async def _begin(
        self, caller: Caller, route: Route, tell: Tell, *, instance: InstanceId | None = None
    ) -> ModernReply | None:
        """Make the call, as far as it gets without its client."""
        asked = self._asked
        if self.is_cancelled:
            return None
        capabilities = capabilities_of(caller.profile)
        port = HeldPort(
            route.call.method,
            token=route.call.progress_token,
            log_level=asked.meta.log_level,
            capabilities=capabilities,
            tell=tell,
        )
        node = self._services.node
        if route.call.method not in ROUND_METHODS or not answers_questions(capabilities):
            # Nothing will be asked of its client, so there is no next round for which the call has to live on.
            reply = await perform_call(
                node, caller, route, control=self._control, port=port, instance=instance
            )
            return await self._as_reply(reply, caller, route)
        held = self._held = HeldCall(asked.principal, port, CallControl())
        held.start(perform_call(node, caller, route, control=held.control, port=port, instance=instance))
        return await self._finish(held, await held.next_step(), caller, route)

    async def _go_on(
        self, id: HeldId, route: Route, caller: Caller, retry: Retry, tell: Tell
    ) -> ModernReply | None:
        """The client is back with answers for a call that waits for them."""
        services, asked = self._services, self._asked
        held = await services.held.ask(Take(id, asked.principal), HELD_BOUND)
        if held is None:
            raise _Refusal(INVALID_PARAMS, f"the {STATE} has been used, or what waited for it is gone")
        try:
            answers = [(question.key, answer_to(question, retry)) for question in held.port.questions()]
        except RemoteProtocolError as error:
            # It may come again with better answers.
            if not await services.held.ask(Hold(id, held), HELD_BOUND):
                held.control.cancel("the client holds too many calls")
            raise _Refusal(INVALID_PARAMS, str(error)) from None
        self._held = held
        if self.is_cancelled:
            held.control.cancel("the client cancelled")
            return None
        held.port.attach(tell, route.call.progress_token)
        missing = False
        for key, answer in answers:
            if answer is None:
                missing = True
            else:
                held.port.feed(key, answer)
        step = held.port.questions() if missing else await held.next_step()
        return await self._finish(held, step, caller, route)

    async def _finish(
        self,
        held: HeldCall,
        step: CallReply | tuple[InputRequest, ...] | None,
        caller: Caller,
        route: Route,
    ) -> ModernReply | None:
        held.port.detach()
        if self.is_cancelled:
            return None
        if step is None:
            # Its owner ended between two rounds, and the call with it.
            raise _Refusal(INVALID_PARAMS, "the call that waited for this round is gone")
        if isinstance(step, tuple):
            return await self._hold(held, step)
        return await self._as_reply(step, caller, route)

    async def _hold(self, held: HeldCall, questions: tuple[InputRequest, ...]) -> ModernReply | None:
        """Ask the client; the call waits for its answers with its new owner."""
        services, id = self._services, new_held_id()
        is_held = False
        try:
            is_held = await services.held.ask(Hold(id, held), HELD_BOUND)
        finally:
            if not is_held:
                held.control.cancel("nobody can hold it")
        if not is_held:
            return overloaded(self._asked.request.id, "too many calls of this client wait for its answers")
        # From here on it is cancelled by its time alone.
        self._held = None
        return self._required(questions, _State(kind="held", held=id))

    async def _as_reply(self, reply: CallReply, caller: Caller, route: Route) -> ModernReply | None:
        if self.is_cancelled:
            return None
        id = self._asked.request.id
        reply = on_reply(self._services, caller, route, self._task, reply)
        if reply.result is None:
            if requires_visits(caller, reply):
                return self._required(url_elicitations(reply.error or b"{}"), _State(kind="again"))
            return ModernReply(reply.encode(id), code=error_code(reply.error or b"{}"))
        served = reply.served
        if (
            served is None
            or served.hello.era != "modern"
            or route.call.method not in ROUND_METHODS
            or not requires_input(reply.result)
        ):
            return ModernReply(reply.encode(id))
        try:
            raw = parse_input_required(reply.result).state
        except RemoteProtocolError as error:
            name = route.server.view.name
            failure = CallFailure(
                reason=Reason.BAD_REPLY, message=f"{name}: {error}", server=name, executed="unknown"
            )
            return ModernReply(failure_reply(failure).encode(id), code=failure.code)
        kept = await self._keep(served, caller, route)
        state = _State(
            kind="server", held=kept, server=route.server.view.name, instance=served.instance_id, raw=raw
        )
        return ModernReply(encode_success(id, with_state(reply.result, self._sealed(state))))

    async def _keep(self, served: Lease, caller: Caller, route: Route) -> HeldId:
        """Keep the instance from its idle stop while the client thinks; without one the server may have forgotten."""
        services, id = self._services, new_held_id()
        handle, lease = route.server.handle, new_lease_id()
        deadline = services.node.clock.monotonic() + KEEP_BOUND
        request = Acquire(lease, caller, deadline, kind=LeaseKind.TASK, instance=served.instance_id)
        try:
            granted = await handle.ask(request, KEEP_BOUND)
        except ActorError:
            # It may live on without: an instance ends only after some time of idleness.
            handle.tell(Release(lease))
            return id
        if isinstance(granted, Lease):
            services.held.tell(KeepInstance(id, self._asked.principal, handle, lease))
        return id

    def _required(self, questions: tuple[InputRequest, ...], state: _State) -> ModernReply:
        sealed = self._sealed(state)
        result = input_required(questions, sealed, server_info=SERVER_INFO)
        return ModernReply(encode_success(self._asked.request.id, result))


def _bound(asked: Asked) -> tuple[str, ...]:
    """Whose round it is, and of which request."""
    return asked.principal, repr(asked.selector), round_digest(asked.request.method, asked.request.params)


def _with_params(route: Route, responses: Mapping[str, Raw], state: str | None) -> Route:
    """The same request for the next round, with these answers and this state and no others."""
    params = Raw(retry_params(route.call.params, responses=responses, state=state))
    return replace(route, call=route.call.with_params(params))


def _carry_on() -> None:
    """The cancellation was for the request, not for the task, which has something left to do."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
