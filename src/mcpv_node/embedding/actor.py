"""A node as a pykka actor: what another actor application holds and talks to in messages.

`NodeActor.start(config=...)` gives an ordinary pykka `ActorRef`. The node lives on a loop thread of its own and is the
only one of its actors in pykka's registry, so a host's `ActorRegistry.stop_all()` stops the whole tree in order.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import pykka
import uvloop
from loguru import logger
from msgspec import Raw

from mcpv_node.actors.callers import Caller
from mcpv_node.actors.config import Rejected
from mcpv_node.actors.events import Follow, Followed, NumberedEvent, Unfollow
from mcpv_node.actors.index_messages import ConsumerId, Join, Leave, SnapshotChanged
from mcpv_node.actors.kernel import (
    Cell,
    Crashed,
    Deferred,
    Down,
    ExitReason,
    LoopActor,
    MonitorId,
    Shutdown,
    answers,
    handles,
)
from mcpv_node.actors.kernel.cell import Letter
from mcpv_node.actors.server_type import Why as AskWhy
from mcpv_node.actors.server_type import WhyReport
from mcpv_node.actors.snapshot import KINDS, Kind
from mcpv_node.actors.world import EVERYTHING, Selector
from mcpv_node.gateway import (
    CallReply,
    new_consumer_id,
    perform_request,
    unlearnt_for_call,
    wait_for_first_lists,
)
from mcpv_node.gateway.learning import LIST_PATIENCE, unlearnt_for_list
from mcpv_node.gateway.routing import KIND_OF
from mcpv_node.node import NodeOptions, NodeRuntime, StopHow
from mcpv_node.node_file import NodeFile
from mcpv_node.protocol import CALL, GET_PROMPT, READ_RESOURCE
from mcpv_node.settings import Marks, NodeSettings, ServerName, find_config, load_settings
from mcpv_node.settings import state_dir as find_state_dir

from .messages import (
    AwaitDown,
    AwaitUp,
    CallRequest,
    CallTool,
    Failed,
    GetPrompt,
    ListedTool,
    ListTools,
    News,
    NodeDown,
    NodeRequest,
    ReadResource,
    Reload,
    Reloaded,
    Stop,
    Subscribe,
    Subscriber,
    ToolList,
    ToolResult,
    Topic,
    Unsubscribe,
    Why,
)
from .news import LOOK_INTERVAL, Feed, Offered, tell, to_server_event

# A thread with an empty loop is up in a millisecond; a machine that swaps may need longer.
THREAD_START_BOUND = 30.0

# A report is made of what the server's actor has at hand.
WHY_TIMEOUT = 5.0

# A host asks right after `start()`: a node whose start fails at once must still be there to say why.
LAST_WORDS = 2.0

# The ring of events answers from memory; longer means that it is being restarted.
RING_BOUND = 5.0

# It is being restarted for longer than that: rare, and nothing that a second sooner would help.
FOLLOW_AGAIN = 1.0

# What `token` says when there shall be none.
NO_TOKEN = "none"

_TOPICS = ", ".join((*KINDS, "events"))

_REASONS = {
    -32700: "parse_error",
    -32600: "invalid_request",
    -32601: "method_not_found",
    -32602: "invalid_params",
}


# Who hears of what: the URN of the host's actor, and the topic.
_Subscription: TypeAlias = tuple[str, Topic]


@dataclass(frozen=True, slots=True)
class _Up:
    outcome: NodeFile | Exception


@dataclass(frozen=True, slots=True)
class _Answered:
    deferred: Deferred[Any]
    request_id: str
    outcome: object


@dataclass(frozen=True, slots=True)
class _Stopped:
    outcome: Exception | None


@dataclass(frozen=True, slots=True)
class _RootEnded:
    outcome: ExitReason | Exception


@dataclass(frozen=True, slots=True)
class _LastWordsSpoken:
    """Whoever started a node that failed has had the time to ask it why."""


@dataclass(frozen=True, slots=True)
class _Listening:
    """A subscriber, the way to it, and the number under which it has joined."""

    subscriber: Subscriber
    feed: Feed
    consumer: ConsumerId


@dataclass(frozen=True, slots=True)
class _Greet:
    """The subscriber has joined: it is told what there is now."""

    user: str
    kind: Kind
    consumer: ConsumerId


@dataclass(frozen=True, slots=True)
class _Followed:
    """The ring tells us from now on, and this is what came before; or it does not."""

    consumer: ConsumerId
    outcome: Followed | Exception


@dataclass(frozen=True, slots=True)
class _FollowAgain:
    """The ring did not answer; perhaps it does now."""


@dataclass(frozen=True, slots=True)
class _Happened:
    consumer: ConsumerId
    event: NumberedEvent


@dataclass(frozen=True, slots=True)
class _LookAgain:
    """Some subscriber had too much to read."""


@dataclass(frozen=True, slots=True)
class _InHand:
    """A request on its way, with the point on the node's clock at which it came."""

    request: NodeRequest | AwaitUp
    deferred: Deferred[Any]
    arrived: float


class NodeActor(LoopActor[None]):
    """See the module. Asks wait until the tree is up; if it does not come up they are answered `Failed`.

    `config` is a file, a folder, settings, or None for what the command line would take; `http` overrides
    `listen.http` (port 0 takes a free one), `token` is as in `NodeOptions`. Raises SettingsError.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | NodeSettings | NodeOptions | None = None,
        *,
        state_dir: str | os.PathLike[str] | None = None,
        http: str | None = None,
        token: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._options = (
            config
            if isinstance(config, NodeOptions)
            else node_options(config, state_dir=state_dir, http=http, token=token, environ=environ)
        )
        self._runtime: NodeRuntime | None = None
        self._is_up = False
        self._is_stopping = False
        self._has_failed = False
        # Why it is over or about to be; empty until then.
        self._reason = ""
        self._end: ExitReason = Shutdown()
        self._parked: list[_InHand] = []
        self._in_hand: dict[Deferred[Any], _InHand] = {}
        self._awaiting_end: list[Deferred[NodeDown]] = []
        self._subscribers: dict[_Subscription, _Listening] = {}
        self._is_looking = False  # a timer rings for who had too much to read
        self._follower: ConsumerId | None = None  # as whom we hear events, while anybody here wants to
        self._ring: MonitorId | None = None  # our watch of the ring, which may forget us when it crashes
        self._newest: NumberedEvent | None = None  # what was told last
        self._known = ""  # the id of the newest event we know of
        self._early: list[NumberedEvent] | None = None  # came before what the ring says came before them
        self._has_gap = False  # the ring was lost, and with it events that were not told
        self._over: asyncio.Event | None = None

    # --- life -----------------------------------------------------------------------------------

    def _start_actor_loop(self) -> None:
        """pykka's hook: called once by `start()`, on the host's thread."""
        self.registered = True
        is_attached = threading.Event()
        threading.Thread(target=self._run_thread, args=(is_attached,), name="mcpv-node", daemon=True).start()
        if not is_attached.wait(THREAD_START_BOUND) or not self.incarnation:
            pykka.ActorRegistry.unregister(self.actor_ref)
            raise RuntimeError(f"the node's thread did not start within {THREAD_START_BOUND:g} s")

    def _run_thread(self, is_attached: threading.Event) -> None:
        try:
            uvloop.run(self._live(is_attached))
        finally:
            is_attached.set()

    async def _live(self, is_attached: threading.Event) -> None:
        self._over = asyncio.Event()
        runtime = self._runtime = NodeRuntime(self._options)
        Cell(runtime.system, "node-actor").start(self)
        is_attached.set()
        try:
            await self._over.wait()
            await runtime.stop("now")
        finally:
            runtime.system.close()

    def on_start(self, estate: None = None) -> None:
        assert self._runtime is not None
        self.hold_start()
        self.run(self._runtime.start(self._ask_self_to_stop), _Up)

    def on_shutdown(self) -> None:
        self._begin_stop("drain")

    @answers(Stop)
    def _on_stop(self, request: Stop) -> None:
        # Answered at the very end, as pykka's own stop() is: by then the node has left the registry.
        letter = self._letter
        if letter is not None and letter.port is not None:
            self._stop_ports.append(letter.port)
            letter.port = None
        self._begin_stop("drain" if request.drain else "now")

    @answers(AwaitDown)
    def _on_await_down(self, _request: AwaitDown) -> Deferred[NodeDown]:
        deferred: Deferred[NodeDown] = self.defer()
        self._awaiting_end.append(deferred)
        return deferred

    def _begin_stop(self, how: StopHow) -> None:
        """Stop, once; what is asked later may only make it faster."""
        assert self._runtime is not None
        if self._has_failed:
            self.exit(self._end)
        elif not self._is_stopping:
            self._is_stopping = True
            self._is_up = False
            self._reason = "asked to stop"
            self.run(self._runtime.stop(how), _Stopped)
        elif how == "now":
            self._runtime.hurry()

    @handles(_Up)
    def _on_up(self, message: _Up) -> None:
        if self._is_stopping:
            return
        if isinstance(message.outcome, Exception):
            self._fail(str(message.outcome))
            return
        assert self._runtime is not None
        self._is_up = True
        self.started()
        self.run(self._runtime.wait_ended(), _RootEnded)
        parked, self._parked = self._parked, []
        for one in parked:
            self._begin(one)
        for (user, topic), listening in list(self._subscribers.items()):
            if topic != "events":
                self._join(user, topic, listening.consumer)
        if self._wants_events():
            # They have waited since before the first event.
            self._follow(f"{self._runtime.context.boot}-0")

    def _fail(self, reason: str) -> None:
        """The tree did not come up, and nothing of it is left: say so to whoever asks, for a moment."""
        self._has_failed = True
        self._reason = reason
        self._end = Crashed(reason)
        self._answer_what_waits()
        self._tell_all_down()
        self.after(LAST_WORDS, _LastWordsSpoken())

    @handles(_LastWordsSpoken)
    def _on_last_words_spoken(self, _message: _LastWordsSpoken) -> None:
        self.exit(self._end)

    @handles(_RootEnded)
    def _on_root_ended(self, message: _RootEnded) -> None:
        if not self._is_up:
            return
        assert self._runtime is not None
        self._is_up = False
        self._is_stopping = True
        self._reason = f"the node gave up: {message.outcome}"
        self._end = Crashed(self._reason)
        # Whoever hears of the end may start another at once: the folder has to be free by then.
        self.run(self._runtime.stop("now"), _Stopped)

    @handles(_Stopped)
    def _on_stopped(self, _message: _Stopped) -> None:
        self.exit(self._end)

    def on_exit(self, reason: ExitReason) -> None:
        self._is_up = False
        self._is_stopping = True
        self._reason = self._reason or str(reason)
        self._answer_what_waits()
        self._tell_all_down()
        waiting, self._awaiting_end = self._awaiting_end, []
        for deferred in waiting:
            deferred.answer(NodeDown(self._reason))
        if self._over is not None:
            self._over.set()

    def _answer_what_waits(self) -> None:
        parked, self._parked = self._parked, []
        in_hand, self._in_hand = self._in_hand, {}
        for one in parked:
            one.deferred.answer(self._refuse(one.request))
        for one in in_hand.values():
            one.deferred.answer(self._refuse(one.request, executed="unknown"))

    def _tell_all_down(self) -> None:
        subscribers, self._subscribers = self._subscribers, {}
        for subscriber in {user: one.subscriber for (user, _), one in subscribers.items()}.values():
            tell(subscriber, NodeDown(self._reason))

    def _ask_self_to_stop(self) -> None:
        self.cell.stop()

    # --- what comes too late --------------------------------------------------------------------

    def refuse_late(self, letter: Letter) -> None:
        if not self._answer_late(letter):
            super().refuse_late(letter)

    def _to_pass_on(self, unread: Iterable[Letter]) -> list[Letter]:
        return [letter for letter in super()._to_pass_on(unread) if not self._answer_late(letter)]

    def _answer_late(self, letter: Letter) -> bool:
        """There is no next incarnation: what this one has not read is answered here, on any thread."""
        message, port = letter.message, letter.port
        if isinstance(message, Subscribe) and message.subscriber is not None:
            tell(message.subscriber, NodeDown(self._reason))
        elif isinstance(message, NodeRequest | AwaitUp) and port is not None:
            port.answer(self._refuse(message))
        elif isinstance(message, AwaitDown) and port is not None:
            port.answer(NodeDown(self._reason))
        elif isinstance(message, Stop) and port is not None:
            port.answer(None)
        else:
            return False
        return True

    def _refuse(self, request: NodeRequest | AwaitUp, *, executed: str = "no") -> Failed:
        reason = "start_failed" if self._has_failed else "stopping"
        message = self._reason if self._has_failed else f"the node is stopping: {self._reason}"
        return Failed(request.id, reason, message, {"reason": reason, "executed": executed})

    # --- requests -------------------------------------------------------------------------------

    @answers(CallTool)
    def _on_call_tool(self, request: CallTool) -> Deferred[ToolResult | Failed]:
        return self._park_or_begin(request)

    @answers(GetPrompt)
    def _on_get_prompt(self, request: GetPrompt) -> Deferred[ToolResult | Failed]:
        return self._park_or_begin(request)

    @answers(ReadResource)
    def _on_read_resource(self, request: ReadResource) -> Deferred[ToolResult | Failed]:
        return self._park_or_begin(request)

    @answers(ListTools)
    def _on_list_tools(self, request: ListTools) -> Deferred[ToolList | Failed]:
        return self._park_or_begin(request)

    @answers(Why)
    def _on_why(self, request: Why) -> Deferred[WhyReport | Failed]:
        return self._park_or_begin(request)

    @answers(Reload)
    def _on_reload(self, request: Reload) -> Deferred[Reloaded | Failed]:
        return self._park_or_begin(request)

    @answers(AwaitUp)
    def _on_await_up(self, request: AwaitUp) -> Deferred[Failed | None]:
        return self._park_or_begin(request)

    def _park_or_begin(self, request: NodeRequest | AwaitUp) -> Deferred[Any]:
        deferred: Deferred[Any] = self.defer()
        one = _InHand(request, deferred, self.cell.system.clock.monotonic())
        if self._is_up:
            self._begin(one)
        elif self._is_stopping or self._has_failed:
            deferred.answer(self._refuse(request))
        else:
            self._parked.append(one)
        return deferred

    def _begin(self, one: _InHand) -> None:
        work: Coroutine[Any, Any, object]
        match one.request:
            case AwaitUp():
                one.deferred.answer(None)
                return
            case CallTool() | GetPrompt() | ReadResource() as call:
                work = self._call(call, one.arrived)
            case Why() as why:
                work = self._why(why)
            case Reload() as reload:
                work = self._reload(reload)
            case ListTools() as listing:
                work = self._list(listing)
        self._in_hand[one.deferred] = one
        self.run(work, lambda outcome: _Answered(one.deferred, one.request.id, outcome))

    @handles(_Answered)
    def _on_answered(self, message: _Answered) -> None:
        self._in_hand.pop(message.deferred, None)
        if isinstance(message.outcome, Exception):
            logger.opt(exception=message.outcome).error("a request of the host failed")
            message.deferred.answer(
                Failed(message.request_id, "internal_error", "the request failed in the node")
            )
        else:
            message.deferred.answer(message.outcome)

    async def _call(self, request: CallRequest, arrived: float) -> ToolResult | Failed:
        assert self._runtime is not None
        node, deadline = self._runtime.context, arrived + request.timeout
        key = f"key:host:{request.key}" if request.key is not None else f"client:{self.actor_urn}"
        caller = Caller(principal="host", client="host", key=key)
        try:
            name, method, params = _to_send(request)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            return Failed(request.id, "invalid_params", f"the arguments are not JSON: {error}")
        world, kind = node.world.world, KIND_OF[method]
        if name not in world.view(kind, EVERYTHING).targets:
            unlearnt = unlearnt_for_call(world, kind, EVERYTHING, name, node.settings)
            if unlearnt:
                patience = max(0.0, deadline - node.clock.monotonic())
                await wait_for_first_lists(node, kind, unlearnt, patience)
        reply = await perform_request(node, caller, EVERYTHING, Raw(params), method=method, deadline=deadline)
        return _result(request.id, reply)

    async def _list(self, request: ListTools) -> ToolList | Failed:
        assert self._runtime is not None
        node = self._runtime.context
        world = node.world.world
        selector = EVERYTHING
        if request.server is not None:
            selector = Selector(server=ServerName(request.server))
            if request.server not in world.servers:
                return Failed(request.id, "invalid_params", f"there is no server named {request.server}")
        unlearnt = unlearnt_for_list(world, "tools", selector)
        if unlearnt:
            await wait_for_first_lists(node, "tools", unlearnt, LIST_PATIENCE)
            world = node.world.world
        view = world.view("tools", selector)
        tools = tuple(
            ListedTool(view.name_of(entry), entry.server, view.definition_of(entry)) for entry in view.entries
        )
        return ToolList(request.id, world.tools.version, view.etag, tools)

    async def _why(self, request: Why) -> WhyReport | Failed:
        assert self._runtime is not None
        server = self._runtime.context.world.world.servers.get(ServerName(request.server))
        if server is None:
            return Failed(request.id, "invalid_params", f"there is no server named {request.server}")
        return await server.handle.ask(AskWhy(), WHY_TIMEOUT)

    async def _reload(self, request: Reload) -> Reloaded | Failed:
        assert self._runtime is not None
        outcome = await self._runtime.reload()
        if isinstance(outcome, Rejected):
            return Failed(request.id, "rejected", outcome.reason, {"problems": list(outcome.problems)})
        return Reloaded(request.id, outcome.changes, outcome.warnings)

    # --- subscriptions --------------------------------------------------------------------------

    @handles(Subscribe)
    def _on_subscribe(self, message: Subscribe) -> None:
        subscriber, topic = message.subscriber, message.kind
        if subscriber is None or (topic != "events" and topic not in KINDS):
            logger.error("nobody is told of {!r}: it needs a subscriber, and one of {}", topic, _TOPICS)
        elif self._has_failed:
            tell(subscriber, NodeDown(self._reason))
        elif (user := subscriber.actor_urn, topic) not in self._subscribers:
            consumer = new_consumer_id()
            self._subscribers[user, topic] = _Listening(subscriber, Feed(subscriber), consumer)
            if not self._is_up:
                return
            if topic != "events":
                self._join(user, topic, consumer)
            elif self._follower is None:
                self._follow(None)

    @handles(Unsubscribe)
    def _on_unsubscribe(self, message: Unsubscribe) -> None:
        if message.subscriber is not None:
            self._drop((message.subscriber.actor_urn, message.kind))

    def _drop(self, subscription: _Subscription) -> None:
        known = self._subscribers.pop(subscription, None)
        if known is None or self._runtime is None or not self._is_up:
            return
        node = self._runtime.context
        if subscription[1] != "events":
            node.subscribers.tell(Leave(known.consumer))
        elif self._follower is not None and not self._wants_events():
            node.events.tell(Unfollow(self._follower))
            self._follower = None
            self._known = ""

    def _pass_on(self, subscription: _Subscription, news: News) -> None:
        match self._subscribers[subscription].feed.offer(news):
            case Offered.GONE:
                self._drop(subscription)
            case Offered.HELD:
                self._look_soon()
            case Offered.TOLD:
                pass

    def _look_soon(self) -> None:
        if not self._is_looking:
            self._is_looking = True
            self.after(LOOK_INTERVAL, _LookAgain())

    @handles(_LookAgain)
    def _on_look_again(self, _message: _LookAgain) -> None:
        self._is_looking = False
        for subscription, listening in list(self._subscribers.items()):
            match listening.feed.release():
                case Offered.GONE:
                    self._drop(subscription)
                case Offered.HELD:
                    self._look_soon()
                case Offered.TOLD:
                    pass

    # --- of lists -------------------------------------------------------------------------------

    def _join(self, user: str, kind: Kind, consumer: ConsumerId) -> None:
        assert self._runtime is not None

        def notify(news: SnapshotChanged) -> None:
            if news.kind == kind:
                self._tell_of_list(user, consumer, news)

        self._runtime.context.subscribers.tell(Join(consumer, EVERYTHING, notify))
        # Once it has joined: what changed between its first news and its joining it would never hear of.
        self.after(0.0, _Greet(user, kind, consumer))

    @handles(_Greet)
    def _on_greet(self, message: _Greet) -> None:
        if not self._is_up:
            return
        assert self._runtime is not None
        world, kind = self._runtime.context.world.world, message.kind
        news = SnapshotChanged(kind, world.snapshot(kind).version, world.view(kind, EVERYTHING).etag)
        self._tell_of_list(message.user, message.consumer, news)

    def _tell_of_list(self, user: str, consumer: ConsumerId, news: SnapshotChanged) -> None:
        known = self._subscribers.get((user, news.kind))
        # It may have left, and even come again, while the news was on its way.
        if known is not None and known.consumer == consumer:
            self._pass_on((user, news.kind), news)

    # --- of events ------------------------------------------------------------------------------

    def _wants_events(self) -> bool:
        return any(topic == "events" for _, topic in self._subscribers)

    def _follow(self, after: str | None) -> None:
        """Hear of every event after this one: one follower of the ring for all who want to be told here."""
        assert self._runtime is not None
        events = self._runtime.context.events
        consumer = self._follower = self._follower or new_consumer_id()
        self._early = []

        def hear(event: NumberedEvent) -> None:
            self.note(_Happened(consumer, event))

        self.run(
            events.ask(Follow(consumer, hear, after), RING_BOUND),
            lambda outcome: _Followed(consumer, outcome),
        )

    def on_down(self, down: Down) -> None:
        if down.monitor == self._ring:
            self._ring = None
            self._follow_again()

    @handles(_FollowAgain)
    def _on_follow_again(self, _message: _FollowAgain) -> None:
        self._follow_again()

    def _follow_again(self) -> None:
        if self._is_up and self._follower is not None:
            self._follow(self._known or None)

    @handles(_Followed)
    def _on_followed(self, message: _Followed) -> None:
        if message.consumer != self._follower:
            return
        early, self._early = self._early or [], None
        outcome = message.outcome
        if isinstance(outcome, Exception):
            logger.warning("the events cannot be followed for the moment: {}", outcome)
            self.after(FOLLOW_AGAIN, _FollowAgain())
            return
        # A second crash of the ring forgets who follows it. Not before it answered: of a ring that is being restarted
        # we would hear at once that there is none, over and over.
        if self._ring is None:
            assert self._runtime is not None
            self._ring = self.watch(self._runtime.context.events.cell)
        if not outcome.is_known:
            self._has_gap, self._known = True, outcome.newest
        for event in (*outcome.missed, *early):
            self._tell_of_event(event)
        self._known = self._known or outcome.newest

    @handles(_Happened)
    def _on_happened(self, message: _Happened) -> None:
        if message.consumer != self._follower:
            return
        if self._early is None:
            self._tell_of_event(message.event)
        else:
            self._early.append(message.event)

    def _tell_of_event(self, event: NumberedEvent) -> None:
        newest = self._newest
        if newest is not None and newest.boot == event.boot and event.number <= newest.number:
            return
        self._newest, self._known = event, event.id
        news = to_server_event(event, missed=1 if self._has_gap else 0)
        self._has_gap = False
        for subscription in list(self._subscribers):
            if subscription[1] == "events":
                self._pass_on(subscription, news)


def _to_send(request: CallRequest) -> tuple[str, str, bytes]:
    """What is named, by which method, and the params."""
    match request:
        case CallTool(name=name, arguments=arguments):
            return name, CALL, msgspec.json.encode({"name": name, "arguments": arguments})
        case GetPrompt(name=name, arguments=arguments):
            return name, GET_PROMPT, msgspec.json.encode({"name": name, "arguments": arguments})
        case ReadResource(uri=uri):
            return uri, READ_RESOURCE, msgspec.json.encode({"uri": uri})


def _result(request_id: str, reply: CallReply) -> ToolResult | Failed:
    if reply.result is not None:
        raw = bytes(reply.result)
        return ToolResult(request_id, raw, _says_error(raw))
    try:
        error = msgspec.json.decode(reply.error or b"{}", type=_Error)
    except msgspec.DecodeError:
        # A server's own error passes untouched, so it may be anything.
        return Failed(request_id, "error", "the server's error is not one", {"error": _json(reply.error)})
    try:
        data: dict[str, Any] = msgspec.json.decode(error.data, type=dict[str, Any])
    except msgspec.DecodeError:
        data = {"data": _json(error.data)}
    reason = data.get("reason") or _REASONS.get(error.code, "error")
    return Failed(request_id, str(reason), error.message, data)


class _Error(msgspec.Struct):
    code: int = 0
    message: str = ""
    data: Raw = Raw(b"{}")


class _IsError(msgspec.Struct):
    isError: bool = False


def _json(raw: bytes | Raw | None) -> Any:
    return msgspec.json.decode(raw or b"null")


def _says_error(raw: bytes) -> bool:
    try:
        return msgspec.json.decode(raw, type=_IsError).isError
    except msgspec.DecodeError:
        return False


def node_options(
    config: str | os.PathLike[str] | NodeSettings | None = None,
    *,
    state_dir: str | os.PathLike[str] | None = None,
    http: str | None = None,
    token: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> NodeOptions:
    """Read what a node is to be started with, as `NodeActor` says. Raises SettingsError."""
    environ = dict(os.environ if environ is None else environ)
    path: Path | None = None
    marks: Marks = ()
    if isinstance(config, NodeSettings):
        settings = config
    else:
        path = find_config(None if config is None else Path(config), environ)
        loaded = load_settings(path, environ=environ)
        settings, marks = loaded.settings, loaded.marks
    return NodeOptions(
        settings=settings,
        config_path=path,
        marks=marks,
        state_dir=find_state_dir(None if state_dir is None else Path(state_dir), environ, settings),
        http=http,
        token=token if token is None or token == NO_TOKEN else os.path.abspath(token),
        environ=environ,
    )
