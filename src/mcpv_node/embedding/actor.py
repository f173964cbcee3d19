"""A node as a pykka actor: what another actor application holds and talks to in messages.

`NodeActor.start(config=...)` gives an ordinary pykka `ActorRef`. The node lives on a loop thread of its own and is the
only one of its actors in pykka's registry, so a host's `ActorRegistry.stop_all()` stops the whole tree in order.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pykka
import uvloop
from loguru import logger
from msgspec import Raw

from mcpv_node.actors.callers import Caller
from mcpv_node.actors.index_messages import Join, Leave, SnapshotChanged
from mcpv_node.actors.kernel import (
    Cell,
    Crashed,
    Deferred,
    ExitReason,
    LoopActor,
    Shutdown,
    answers,
    handles,
)
from mcpv_node.actors.server_type import Why as AskWhy
from mcpv_node.actors.server_type import WhyReport
from mcpv_node.actors.world import EVERYTHING, Selector
from mcpv_node.gateway import (
    CallReply,
    call_tool,
    new_consumer_id,
    unlearnt_for_call,
    wait_for_first_lists,
)
from mcpv_node.node import NodeOptions, NodeRuntime
from mcpv_node.node_file import NodeFile
from mcpv_node.settings import NodeSettings, ServerName, find_config, load_settings, state_dir

from .messages import (
    CallTool,
    Failed,
    ListedTool,
    ListTools,
    NodeDown,
    Stop,
    Subscribe,
    ToolList,
    ToolResult,
    Unsubscribe,
    Why,
)

# A thread with an empty loop is up in a millisecond; a machine that swaps may need longer.
THREAD_START_BOUND = 30.0

# A report is made of what the server's actor has at hand.
WHY_TIMEOUT = 5.0

_REASONS = {
    -32700: "parse_error",
    -32600: "invalid_request",
    -32601: "method_not_found",
    -32602: "invalid_params",
}


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


class NodeActor(LoopActor[None]):
    """See the module. Asks wait until the tree is up; if it does not come up they are answered `Failed`.

    `config` is a file, a folder, settings, or None for what the command line would take; `http` overrides
    `listen.http` (port 0 takes a free one), `token` is as in `NodeOptions`.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | NodeSettings | None = None,
        *,
        state_dir: str | os.PathLike[str] | None = None,
        http: str | None = None,
        token: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self._options = _options(config, state_dir, http, token, dict(environ or os.environ))
        self._runtime: NodeRuntime | None = None
        self._is_up = False
        self._failure: str | None = None
        self._parked: list[tuple[CallTool | ListTools | Why, Deferred[Any]]] = []
        self._subscribers: dict[str, tuple[pykka.ActorRef[Any], int]] = {}
        self._over: asyncio.Event | None = None
        self._reason = ""

    # --- life -----------------------------------------------------------------------------------

    def _start_actor_loop(self) -> None:
        """pykka's hook: called once by `start()`, on the host's thread."""
        self.registered = True
        is_attached = threading.Event()
        thread = threading.Thread(
            target=lambda: uvloop.run(self._live(is_attached)), name="mcpv-node", daemon=True
        )
        thread.start()
        if not is_attached.wait(THREAD_START_BOUND):
            raise RuntimeError(f"the node's thread did not start within {THREAD_START_BOUND:g} s")

    async def _live(self, is_attached: threading.Event) -> None:
        self._over = asyncio.Event()
        runtime = self._runtime = NodeRuntime(self._options)
        Cell(runtime.system, "node-actor").start(self)
        is_attached.set()
        await self._over.wait()
        await runtime.stop("now")
        runtime.system.close()

    def on_start(self, estate: None = None) -> None:
        assert self._runtime is not None
        self.hold_start()
        self.run(self._runtime.start(self._ask_self_to_stop), _Up)

    def on_shutdown(self) -> None:
        assert self._runtime is not None
        self._reason = self._reason or "asked to stop"
        self._is_up = False
        self.run(self._runtime.stop("drain"), _Stopped)

    def on_exit(self, reason: ExitReason) -> None:
        down = NodeDown(self._reason or str(reason))
        for subscriber, _ in self._subscribers.values():
            _tell(subscriber, down)
        if self._over is not None:
            self._over.set()

    @handles(_Up)
    def _on_up(self, message: _Up) -> None:
        assert self._runtime is not None
        if isinstance(message.outcome, Exception):
            self._reason = str(message.outcome)
            for request, deferred in self._parked:
                deferred.answer(Failed(request.id, "start_failed", self._reason))
            self.exit(Crashed(self._reason))
            return
        self._is_up = True
        self.started()
        self.run(self._runtime.wait_ended(), _RootEnded)
        for request, deferred in self._parked:
            self._begin(request, deferred)
        self._parked.clear()
        for urn, (subscriber, consumer) in list(self._subscribers.items()):
            self._join(urn, subscriber, consumer)

    @handles(_Stopped)
    def _on_stopped(self, _message: _Stopped) -> None:
        self.exit(Shutdown())

    @handles(_RootEnded)
    def _on_root_ended(self, message: _RootEnded) -> None:
        if self._is_up:
            self._reason = f"the node gave up: {message.outcome}"
            self.exit(Crashed(self._reason))

    def _ask_self_to_stop(self) -> None:
        self.cell.stop()

    # --- requests -------------------------------------------------------------------------------

    @answers(CallTool)
    def _on_call_tool(self, request: CallTool) -> Deferred[ToolResult | Failed]:
        return self._park_or_begin(request)

    @answers(ListTools)
    def _on_list_tools(self, request: ListTools) -> Deferred[ToolList | Failed]:
        return self._park_or_begin(request)

    @answers(Why)
    def _on_why(self, request: Why) -> Deferred[WhyReport | Failed]:
        return self._park_or_begin(request)

    @answers(Stop)
    def _on_stop(self, _request: Stop) -> Deferred[None]:
        deferred: Deferred[None] = self.defer()
        self._stop_when_told(deferred)
        return deferred

    def _stop_when_told(self, deferred: Deferred[None]) -> None:
        assert self._runtime is not None
        self._is_up = False
        self._reason = "asked to stop"

        async def stop_and_answer(runtime: NodeRuntime) -> None:
            await runtime.stop("drain")
            deferred.answer(None)

        self.run(stop_and_answer(self._runtime), _Stopped)

    def _park_or_begin(self, request: CallTool | ListTools | Why) -> Deferred[Any]:
        deferred: Deferred[Any] = self.defer()
        if self._is_up:
            self._begin(request, deferred)
        elif self._reason:
            deferred.answer(Failed(request.id, "stopping", f"the node is stopping: {self._reason}"))
        else:
            self._parked.append((request, deferred))
        return deferred

    def _begin(self, request: CallTool | ListTools | Why, deferred: Deferred[Any]) -> None:
        work: Coroutine[Any, Any, object]
        match request:
            case CallTool():
                work = self._call(request)
            case Why():
                work = self._why(request)
            case ListTools():
                deferred.answer(self._list(request))
                return
        self.run(work, lambda outcome: _Answered(deferred, request.id, outcome))

    @handles(_Answered)
    def _on_answered(self, message: _Answered) -> None:
        if isinstance(message.outcome, Exception):
            logger.opt(exception=message.outcome).error("a request of the host failed")
            message.deferred.answer(
                Failed(message.request_id, "internal_error", "the request failed in the node")
            )
        else:
            message.deferred.answer(message.outcome)

    async def _call(self, request: CallTool) -> ToolResult | Failed:
        assert self._runtime is not None
        node = self._runtime.context
        key = f"key:host:{request.key}" if request.key is not None else f"client:{self.actor_urn}"
        caller = Caller(principal="host", client="host", key=key)
        try:
            params = msgspec.json.encode({"name": request.name, "arguments": request.arguments})
        except (TypeError, ValueError, OverflowError) as error:
            return Failed(request.id, "invalid_params", f"the arguments are not JSON: {error}")
        world = node.world.world
        if request.name not in world.tool_view(EVERYTHING).targets:
            unlearnt = unlearnt_for_call(world, EVERYTHING, request.name, node.settings)
            if unlearnt:
                await wait_for_first_lists(node, unlearnt, request.timeout)
        reply = await call_tool(
            node,
            caller,
            node.world.world.tool_view(EVERYTHING),
            Raw(params),
            deadline=node.clock.monotonic() + request.timeout,
        )
        return _result(request.id, reply)

    def _list(self, request: ListTools) -> ToolList | Failed:
        assert self._runtime is not None
        world = self._runtime.context.world.world
        selector = EVERYTHING
        if request.server is not None:
            selector = Selector(server=ServerName(request.server))
            if request.server not in world.servers:
                return Failed(request.id, "invalid_params", f"there is no server named {request.server}")
        view = world.tool_view(selector)
        tools = tuple(
            ListedTool(
                entry.raw_name if view.raw_names else entry.name,
                entry.server,
                entry.raw_definition if view.raw_names else entry.definition,
            )
            for entry in view.entries
        )
        return ToolList(request.id, world.tools.version, view.etag, tools)

    async def _why(self, request: Why) -> WhyReport | Failed:
        assert self._runtime is not None
        server = self._runtime.context.world.world.servers.get(ServerName(request.server))
        if server is None:
            return Failed(request.id, "invalid_params", f"there is no server named {request.server}")
        return await server.handle.ask(AskWhy(), WHY_TIMEOUT)

    # --- subscriptions --------------------------------------------------------------------------

    @handles(Subscribe)
    def _on_subscribe(self, message: Subscribe) -> None:
        urn = message.subscriber.actor_urn
        if urn in self._subscribers:
            return
        consumer = new_consumer_id()
        self._subscribers[urn] = (message.subscriber, consumer)
        if self._is_up:
            self._join(urn, message.subscriber, consumer)

    @handles(Unsubscribe)
    def _on_unsubscribe(self, message: Unsubscribe) -> None:
        self._drop(message.subscriber.actor_urn)

    def _join(self, urn: str, subscriber: pykka.ActorRef[Any], consumer: Any) -> None:
        assert self._runtime is not None
        node = self._runtime.context

        def notify(news: SnapshotChanged) -> None:
            if not _tell(subscriber, news):
                self._drop(urn)

        node.subscribers.tell(Join(consumer, EVERYTHING, notify))
        tools = node.world.world.tools
        notify(SnapshotChanged("tools", tools.version, node.world.world.tool_view(EVERYTHING).etag))

    def _drop(self, urn: str) -> None:
        known = self._subscribers.pop(urn, None)
        if known is not None and self._runtime is not None and self._is_up:
            self._runtime.context.subscribers.tell(Leave(known[1]))  # type: ignore[arg-type]


def _tell(subscriber: pykka.ActorRef[Any], message: object) -> bool:
    """False when the host's actor has ended."""
    try:
        subscriber.tell(message)
    except pykka.ActorDeadError:
        return False
    return True


def _result(request_id: str, reply: CallReply) -> ToolResult | Failed:
    if reply.result is not None:
        raw = bytes(reply.result)
        return ToolResult(request_id, raw, _says_error(raw))
    error = msgspec.json.decode(reply.error or b"{}", type=_Error)
    try:
        data: dict[str, Any] = msgspec.json.decode(error.data, type=dict[str, Any])
    except msgspec.DecodeError:
        data = {"data": msgspec.json.decode(error.data)}
    reason = data.get("reason") or _REASONS.get(error.code, "error")
    return Failed(request_id, str(reason), error.message, data)


class _Error(msgspec.Struct):
    code: int = 0
    message: str = ""
    data: Raw = Raw(b"{}")


class _IsError(msgspec.Struct):
    isError: bool = False


def _says_error(raw: bytes) -> bool:
    try:
        return msgspec.json.decode(raw, type=_IsError).isError
    except msgspec.DecodeError:
        return False


def _options(
    config: str | os.PathLike[str] | NodeSettings | None,
    folder: str | os.PathLike[str] | None,
    http: str | None,
    token: str | None,
    environ: dict[str, str],
) -> NodeOptions:
    path: Path | None = None
    if isinstance(config, NodeSettings):
        settings = config
    else:
        path = find_config(None if config is None else Path(config), environ)
        settings = load_settings(path, environ=environ).settings
    return NodeOptions(
        settings=settings,
        config_path=path,
        state_dir=state_dir(None if folder is None else Path(folder), environ, settings),
        http=http,
        token=token,
        environ=environ,
    )
