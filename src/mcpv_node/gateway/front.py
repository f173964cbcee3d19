"""One client's conversation in the legacy era, without I/O: a message in, a step out.

A step is an answer, nothing, or a call to be made; the door writes what is to be written and runs what is to be
run. One `Front` is one session: its requests in flight, its version, whether it wants to hear of changed lists. It is
used on the loop's thread only. The modern era has no sessions; its front will share `CallStep` and `run_call`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

import msgspec
from loguru import logger
from msgspec import Raw, Struct

from mcpv_node.actors.callers import Caller
from mcpv_node.actors.index_messages import SnapshotChanged
from mcpv_node.actors.kernel import Handle
from mcpv_node.actors.server_type import ClientGone, ClientSaid, ServerTypeMessage
from mcpv_node.actors.snapshot import KINDS, LISTS_OF, Kind
from mcpv_node.actors.watch_messages import Unwatch, UnwatchAll
from mcpv_node.actors.world import Selector, World
from mcpv_node.protocol import (
    CANCELLED,
    INITIALIZE,
    INITIALIZED,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LEGACY_TASK_METHODS,
    LISTS,
    LOG_LEVELS,
    METHOD_NOT_FOUND,
    NAMED_BY,
    RESOURCE_UPDATED,
    CallFailure,
    ClientHello,
    ListName,
    Message,
    Notification,
    RawId,
    Reason,
    RemoteProtocolError,
    Request,
    encode_failure,
    encode_notification,
    encode_success,
    initialize_result,
    is_log_level,
    members,
    negotiate,
    parse_call,
    parse_cancelled,
    parse_initialize,
    success_around,
)
from mcpv_node.settings import SpecKey

from .callers import make_caller
from .calls import RETRY_AFTER, CallControl, CallReply, failure_reply, perform_call
from .cursors import Cursors
from .identity import SERVER_NAME
from .learning import LIST_PATIENCE, unlearnt_for_call, unlearnt_for_list, wait_for_first_lists
from .merged import capabilities_for, instructions_for
from .ports import Emit, Gone
from .routing import KIND_OF, ROUTED, NoRoute, Route, find_route
from .services import DoorServices, count_down, new_consumer_id
from .session_port import Questions, SessionPort
from .tasks import TaskRef, on_reply, open_task
from .watching import SUBSCRIBE, UNSUBSCRIBE, WatchStep, find_watched, watch_resource

PING: Final = "ping"
SET_LEVEL: Final = "logging/setLevel"
ROOTS_CHANGED: Final = "notifications/roots/list_changed"
LIST_CHANGED: Final[Mapping[Kind, bytes]] = MappingProxyType(
    {kind: encode_notification(f"notifications/{kind}/list_changed") for kind in KINDS}
)

CAPABILITIES: Final = b'{"tools":{"listChanged":true},"resources":{"listChanged":true},"prompts":{"listChanged":true},"logging":{}}'

_LIST_OF: Final[Mapping[str, tuple[ListName, Kind]]] = MappingProxyType(
    {LISTS[of].method: (of, kind) for kind in KINDS for of in LISTS_OF[kind]}
)

_KINDS: Final[Mapping[str, Kind]] = MappingProxyType({**KIND_OF, SUBSCRIBE: "resources"})


class AnswerStep(Struct, frozen=True):
    """Write this answer. A long one comes in pieces, so that nobody has to copy it."""

    head: bytes
    is_error: bool = False
    rest: tuple[bytes, ...] = ()

    @property
    def data(self) -> bytes:
        """The whole answer."""
        return b"".join((self.head, *self.rest)) if self.rest else self.head


class SilentStep(Struct, frozen=True):
    """There is nothing to say: it was a notification or an answer."""


class CallStep(Struct, frozen=True):
    """Run this call with `run_call`; it is in flight from now on."""

    id: RawId
    route: Route
    caller: Caller
    task: TaskRef | None = None  # what it is about, where that is a task


class LearningStep(Struct, frozen=True):
    """Run this too: what the request is about is being listed for the first time, so its answer has to wait."""

    id: RawId
    request: Request
    key: str | None
    kind: Kind
    keys: frozenset[SpecKey]
    patience: float


RunStep: TypeAlias = CallStep | WatchStep | LearningStep
Step: TypeAlias = AnswerStep | SilentStep | RunStep

SILENT: Final = SilentStep()


class Front:
    """See the module.

    `load` counts the calls in flight of each principal at this door; `notify` is given what the session has to hear
    without having asked.
    """

    def __init__(
        self,
        services: DoorServices,
        *,
        principal: str,
        selector: Selector,
        conversation: str,
        load: Counter[str],
        notify: Callable[[bytes], None],
    ) -> None:
        self.principal = principal
        self.selector = selector
        self.hello: ClientHello | None = None
        self.version: str | None = None
        self.log_level: str | None = None  # None: the client leaves it to the servers
        self._services = services
        self._conversation = conversation
        self._load = load
        self._notify = notify
        self._caller = make_caller(principal, None, conversation=conversation)
        self._cursors = Cursors(services.sealer, services.node.clock, principal, selector)
        self._questions = Questions()
        self._initialized = False
        self._flights: dict[RawId, CallControl] = {}
        # Where an instance may be this client's alone: what its end is told, for nobody else can use that instance.
        self._askers: set[Handle[ServerTypeMessage]] = set()
        self._consumer = new_consumer_id()  # of the updates of resources
        self._requests: dict[str, Callable[[Request], AnswerStep]] = {
            INITIALIZE: self._on_initialize,
            PING: self._on_ping,
            SET_LEVEL: self._on_set_level,
            UNSUBSCRIBE: self._on_unsubscribe,
            **dict.fromkeys(_LIST_OF, self._on_list),
        }

    @property
    def client(self) -> str:
        """What the client calls itself."""
        return self._caller.client

    @property
    def in_flight(self) -> int:
        """How many calls have not ended."""
        return len(self._flights)

    def is_in_flight(self, id: RawId) -> bool:
        """Whether a request with this id has not been answered."""
        return id in self._flights

    def select(self, selector: Selector) -> None:
        """See this much from now on; cursors of lists that were cut otherwise are not known any more."""
        self.selector = selector
        self._cursors = Cursors(self._services.sealer, self._services.node.clock, self.principal, selector)

    def receive(self, message: Message, *, key: str | None = None) -> Step:
        """Take one message; `key` is a routing key that came beside it, in a header."""
        if isinstance(message, Request):
            return self._on_request(message, key)
        if isinstance(message, Notification):
            self._on_notification(message)
        else:
            self._questions.on_answer(message)
        return SILENT

    async def run_call(self, step: RunStep, emit: Emit, gone: Gone | None = None) -> bytes | None:
        """Make the call and return the answer; None when the client cancelled it. It may cancel the task it runs in.

        `emit` gets what is said on the way; `gone` tells when nobody is left who could answer.
        """
        control = self._flights[step.id]
        try:
            if isinstance(step, LearningStep):
                control.wait(self._services.node.system.loop)
                await wait_for_first_lists(self._services.node, step.kind, step.keys, step.patience)
                self.forget(step)
                following = self._on_request(step.request, step.key, is_patient=False)
                if not isinstance(following, CallStep | WatchStep):
                    return following.data if isinstance(following, AnswerStep) else None
                step = following
                control = self._flights[step.id]
            if control.is_cancelled():
                return None
            reply = await self._make(step, control, emit, gone)
        except asyncio.CancelledError:
            if control.is_cancelled():
                _carry_on()
                return None
            raise
        except Exception as error:  # noqa: BLE001  (a request's border: the client gets no stack trace)
            logger.bind(client=self.client).opt(exception=error).error("a call failed inside the node")
            return encode_failure(step.id, code=INTERNAL_ERROR, message="internal error")
        finally:
            self.forget(step)
        return None if control.is_cancelled() else reply.encode(step.id)

    def forget(self, step: RunStep) -> None:
        """The call is over, or was never run; run_call does this itself."""
        if self._flights.pop(step.id, None) is not None:
            count_down(self._load, self.principal)

    def cancel_all(self, reason: str, *, node_stops: bool = False) -> None:
        """The client is gone for good: nobody waits for its calls, or for what it watches.

        `node_stops`: the instances that are its alone end anyhow.
        """
        self._services.node.watches.tell(UnwatchAll(self._consumer))
        for control in list(self._flights.values()):
            control.cancel(reason)
        askers, self._askers = self._askers, set()
        if not node_stops:
            for server in askers:
                server.tell(ClientGone(self._caller.turn))

    def on_snapshot_changed(self, news: SnapshotChanged) -> None:
        """What this session sees has changed; it hears of it once it has finished its handshake."""
        if self._initialized:
            self._notify(LIST_CHANGED[news.kind])

    # --- requests -------------------------------------------------------------------------------

    def _on_request(self, request: Request, key: str | None, *, is_patient: bool = True) -> Step:
        if request.id in self._flights:
            return _refuse(request, INVALID_REQUEST, "a request with this id is in flight already")
        if is_patient and self.version is not None and self._world.is_learning:
            learning = self._wait_for_lists(request, key)
            if learning is not None:
                return learning
        if request.method in ROUTED:
            return self._on_call(request, key) if self.version is not None else _too_early(request)
        if request.method == SUBSCRIBE:
            return self._on_subscribe(request, key) if self.version is not None else _too_early(request)
        if request.method in LEGACY_TASK_METHODS:
            return self._on_task(request, key) if self.version is not None else _too_early(request)
        handler = self._requests.get(request.method)
        if handler is None:
            return _refuse(request, METHOD_NOT_FOUND, f"Method not found: {request.method}")
        if self.version is None and request.method not in (INITIALIZE, PING):
            return _too_early(request)
        return handler(request)

    def _on_initialize(self, request: Request) -> AnswerStep:
        if self.version is not None:
            return _refuse(request, INVALID_REQUEST, "this session has been initialized already")
        try:
            self.hello = parse_initialize(request.params)
        except RemoteProtocolError as error:
            return _refuse(request, INVALID_PARAMS, str(error))
        self.version = negotiate(self.hello.version)
        self._caller = make_caller(self.principal, self.hello, conversation=self._conversation)
        return AnswerStep(
            encode_success(
                request.id,
                initialize_result(
                    self.version,
                    name=SERVER_NAME,
                    server_version=self._services.version,
                    capabilities=capabilities_for(self._world, self.selector, "legacy"),
                    instructions=instructions_for(self._world, self.selector),
                ),
            )
        )

    def _on_ping(self, request: Request) -> AnswerStep:
        return AnswerStep(encode_success(request.id, b"{}"))

    def _on_set_level(self, request: Request) -> AnswerStep:
        level = _text_member(request.params, "level")
        if level is None or not is_log_level(level):
            return _refuse(request, INVALID_PARAMS, f"level is not one of {', '.join(LOG_LEVELS)}")
        self.log_level = level
        return AnswerStep(encode_success(request.id, b"{}"))

    def _on_list(self, request: Request) -> AnswerStep:
        of, kind = _LIST_OF[request.method]
        view = self._world.view(kind, self.selector, self._caller.profile)
        after = None
        if request.params is not None and (cursor := _member(request.params, "cursor")) is not None:
            after = self._cursors.parse(of, cursor)
            if after is None:
                return _refuse(request, INVALID_PARAMS, "the cursor is not one that this list has given out")
        page = view.page(of, after)
        head, tail = success_around(request.id)
        if page.last is not None:
            tail = b',"nextCursor":' + self._cursors.make(of, page.last) + b"}" + tail
        else:
            tail = b"}" + tail
        return AnswerStep(head, rest=(page.opened, tail))

    def _wait_for_lists(self, request: Request, key: str | None) -> LearningStep | None:
        """Whether the answer depends on lists that the node is reading for the first time."""
        node, world = self._services.node, self._world
        listed = _LIST_OF.get(request.method)
        kind = _KINDS.get(request.method) if listed is None else listed[1]
        if kind is None or not world.snapshot(kind).pending:
            return None
        if len(self._flights) >= node.settings.limits.in_flight_per_session:
            return None
        if listed is not None:
            keys, patience = unlearnt_for_list(world, kind, self.selector), LIST_PATIENCE
        else:
            name = _text_member(request.params, NAMED_BY[request.method])
            if name is None or name in world.view(kind, self.selector, self._caller.profile).targets:
                return None
            keys = unlearnt_for_call(world, kind, self.selector, name, node.settings)
            patience = node.settings.bootstrap_timeout_seconds
        if not keys:
            return None
        self._flights[request.id] = CallControl(self._askers)
        self._load[self.principal] += 1
        return LearningStep(request.id, request, key, kind, keys, patience)

    def _on_call(self, request: Request, key: str | None) -> Step:
        try:
            call = parse_call(request.params, request.method)
        except RemoteProtocolError as error:
            return _refuse(request, INVALID_PARAMS, str(error))
        route = find_route(self._world, self.selector, self._caller.profile, call)
        if isinstance(route, NoRoute):
            return _no_route(request, route)
        if not self._take_off(request):
            return _overloaded(request, route.server.view.name)
        if call.key is not None:
            key = call.key
        caller = self._caller if key is None else self._caller_with(key)
        return CallStep(request.id, route, caller)

    def _on_task(self, request: Request, key: str | None) -> Step:
        services = self._services
        opened = open_task(
            services, self._world, self.selector, self.principal, request.method, request.params
        )
        if isinstance(opened, NoRoute):
            return _no_route(request, opened)
        route, task = opened
        if not self._take_off(request):
            return _overloaded(request, route.server.view.name)
        return CallStep(
            id=request.id, route=route, caller=self._caller_with(route.call.key or key), task=task
        )

    def _on_subscribe(self, request: Request, key: str | None) -> Step:
        caller = self._caller_with(key)
        found = find_watched(self._world, self.selector, caller, request.method, request.params)
        if isinstance(found, NoRoute):
            return _no_route(request, found)
        server, uri = found
        if not self._take_off(request):
            return _overloaded(request, server.view.name)
        return WatchStep(id=request.id, server=server, uri=uri, caller=caller)

    def _on_unsubscribe(self, request: Request) -> AnswerStep:
        uri = _text_member(request.params, NAMED_BY[UNSUBSCRIBE])
        if uri is None:
            return _refuse(request, INVALID_PARAMS, f"the uri of {UNSUBSCRIBE} is missing")
        self._services.node.watches.tell(Unwatch(self._consumer, uri))
        return AnswerStep(encode_success(request.id, b"{}"))

    def _take_off(self, request: Request) -> bool:
        """Count a request as in flight from now on, unless there are too many."""
        limits = self._world.settings.limits
        load = self._load.get(self.principal, 0)
        if len(self._flights) >= limits.in_flight_per_session or load >= limits.in_flight_per_principal:
            return False
        self._flights[request.id] = CallControl(self._askers)
        self._load[self.principal] = load + 1
        return True

    def _caller_with(self, key: str | None) -> Caller:
        """Who calls, with a routing key of its own where it gave one."""
        if key is None:
            return self._caller
        return make_caller(self.principal, self.hello, conversation=self._conversation, key=key)

    async def _make(
        self, step: CallStep | WatchStep, control: CallControl, emit: Emit, gone: Gone | None
    ) -> CallReply:
        if isinstance(step, WatchStep):
            control.wait(self._services.node.system.loop)
            return await watch_resource(
                self._services.node,
                consumer=self._consumer,
                server=step.server,
                uri=step.uri,
                caller=step.caller,
                notify=lambda _, params: self._notify(encode_notification(RESOURCE_UPDATED, params)),
            )

        assert self.hello is not None  # calls come after initialize
        port = SessionPort(
            token=step.route.call.progress_token,
            log_level=self.log_level,
            capabilities=self.hello.capabilities,
            questions=self._questions,
            emit=emit,
            gone=gone,
            task=step.task,
        )
        reply = await perform_call(
            self._services.node,
            step.caller,
            step.route,
            control=control,
            port=port,
            instance=None if step.task is None else step.task.instance,
        )
        return on_reply(self._services, step.caller, step.route, step.task, reply)

    @property
    def _world(self) -> World:
        return self._services.node.world.world

    # --- notifications --------------------------------------------------------------------------

    def _on_notification(self, notification: Notification) -> None:
        if notification.method == INITIALIZED:
            self._initialized = self.version is not None
        elif notification.method == CANCELLED:
            self._on_cancelled(notification.params)
        elif notification.method == ROOTS_CHANGED:
            for server in self._world.selected(self.selector):
                server.handle.tell(ClientSaid(self._caller.turn, notification.method, notification.params))
        # What else a client tells is of no use to us, and no answer is allowed.

    def _on_cancelled(self, params: Raw | None) -> None:
        try:
            control = self._flights.get(parse_cancelled(params))
        except RemoteProtocolError:
            return
        if control is not None:
            control.cancel(_text_member(params, "reason") or "the client cancelled")


def _carry_on() -> None:
    """The cancellation was for the call, not for the task, which has an answer to write."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()


def _refuse(request: Request, code: int, message: str) -> AnswerStep:
    return AnswerStep(encode_failure(request.id, code=code, message=message), is_error=True)


def _no_route(request: Request, found: NoRoute) -> AnswerStep:
    failure = encode_failure(request.id, code=found.code, message=found.message, data=found.data)
    return AnswerStep(failure, is_error=True)


def _too_early(request: Request) -> AnswerStep:
    return _refuse(request, INVALID_REQUEST, f"{request.method} came before initialize")


def _overloaded(request: Request, server: str) -> AnswerStep:
    failure = CallFailure(
        reason=Reason.OVERLOADED,
        message="too many calls of this client are in flight",
        server=server,
        executed="no",
        retry_after=RETRY_AFTER,
    )
    return AnswerStep(failure_reply(failure).encode(request.id), is_error=True)


def _member(params: Raw, name: str) -> Raw | None:
    """One member of the params, unless it is not there or null."""
    raw = members(params).get(name)
    return None if raw is None or bytes(raw) == b"null" else raw


def _text_member(params: Raw | None, name: str) -> str | None:
    raw = None if params is None else _member(params, name)
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=str)
    except msgspec.DecodeError:
        return None
