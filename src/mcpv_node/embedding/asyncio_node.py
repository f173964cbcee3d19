"""A node for asyncio applications: the same actor behind methods that can be awaited on any loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import uuid
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from types import TracebackType
from typing import Any, Self

import pykka

from mcpv_node.actors.index_messages import SnapshotChanged
from mcpv_node.actors.server_type import WhyReport
from mcpv_node.actors.snapshot import Kind
from mcpv_node.settings import NodeSettings

from .actor import NodeActor
from .messages import (
    CALL_TIMEOUT,
    CallError,
    CallTool,
    Failed,
    GetPrompt,
    ListTools,
    News,
    NodeDown,
    NodeRequest,
    ReadResource,
    Reload,
    Reloaded,
    ServerEvent,
    Stop,
    Subscribe,
    ToolList,
    ToolResult,
    Topic,
    Unsubscribe,
    Why,
)


class Node:
    """An embedded node; `async with Node.from_config("node.yaml") as node:` starts and stops it.

    What a message answers with `Failed`, a method raises as `CallError`.
    """

    def __init__(self, start: Callable[[], pykka.ActorRef[NodeActor]]) -> None:
        self._start = start
        self._ref: pykka.ActorRef[NodeActor] | None = None

    @classmethod
    def from_config(
        cls,
        config: str | os.PathLike[str] | NodeSettings | None = None,
        *,
        state_dir: str | os.PathLike[str] | None = None,
        http: str | None = None,
        token: str | None = None,
    ) -> Node:
        """A node with this configuration; it starts when the block is entered. Raises SettingsError there."""
        return cls(lambda: NodeActor.start(config, state_dir=state_dir, http=http, token=token))

    async def __aenter__(self) -> Self:
        started: list[pykka.ActorRef[NodeActor]] = []
        is_unwanted = threading.Event()

        def start() -> pykka.ActorRef[NodeActor]:
            ref = self._start()
            started.append(ref)
            if is_unwanted.is_set():
                ref.stop(block=False)
            return ref

        try:
            # Reading the configuration touches the disk, and pykka's start waits for the node's thread.
            self._ref = await asyncio.to_thread(start)
        except asyncio.CancelledError:
            # A thread cannot be interrupted: what it has started, or will have, is stopped, by it or by us.
            is_unwanted.set()
            for ref in started:
                ref.stop(block=False)
            raise
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(pykka.ActorDeadError):
            await self._running().ask(Stop(), block=False)

    async def call_tool(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        key: str | None = None,
        timeout: float = CALL_TIMEOUT,
    ) -> ToolResult:
        """Call a tool by its listed name; raises CallError when there is no result."""
        result: ToolResult = await self._ask(CallTool(name, arguments or {}, key=key, timeout=timeout))
        return result

    async def get_prompt(
        self,
        name: str,
        arguments: Mapping[str, str] | None = None,
        *,
        key: str | None = None,
        timeout: float = CALL_TIMEOUT,
    ) -> ToolResult:
        """Get a prompt by its listed name; raises CallError when there is no result."""
        result: ToolResult = await self._ask(GetPrompt(name, arguments or {}, key=key, timeout=timeout))
        return result

    async def read_resource(
        self, uri: str, *, key: str | None = None, timeout: float = CALL_TIMEOUT
    ) -> ToolResult:
        """Read a resource by its URI; raises CallError when there is no result."""
        result: ToolResult = await self._ask(ReadResource(uri, key=key, timeout=timeout))
        return result

    async def list_tools(self, *, server: str | None = None) -> ToolList:
        """List the tools; starts nothing."""
        tools: ToolList = await self._ask(ListTools(server))
        return tools

    async def why(self, server: str) -> WhyReport:
        """Why is this server as it is?"""
        report: WhyReport = await self._ask(Why(server))
        return report

    async def reload(self) -> Reloaded:
        """Bring the configuration's files into effect; raises CallError when they are not, and all is as it was."""
        reloaded: Reloaded = await self._ask(Reload())
        return reloaded

    async def snapshots(self, kind: Kind = "tools") -> AsyncGenerator[SnapshotChanged, None]:
        """The list as it is now, and again whenever it has changed; a slow reader gets the latest only."""
        async with contextlib.aclosing(self._news(kind)) as pieces:
            async for news in pieces:
                assert isinstance(news, SnapshotChanged)
                yield news

    async def events(self) -> AsyncGenerator[ServerEvent, None]:
        """Every transition from now on, until the node ends.

        A reader that leaves more than `news.BACKLOG` unread goes on with the newest, whose `missed` says how many
        were left out.
        """
        async with contextlib.aclosing(self._news("events")) as pieces:
            async for news in pieces:
                assert isinstance(news, ServerEvent)
                yield news

    async def _news(self, topic: Topic) -> AsyncGenerator[News, None]:
        ref = self._running()
        listener = _Listener(asyncio.get_running_loop(), keeps=1 if topic != "events" else None)
        try:
            ref.tell(Subscribe(topic, listener))
        except pykka.ActorDeadError:
            return
        try:
            while not isinstance(news := await listener.next(), NodeDown):
                yield news
        finally:
            with contextlib.suppress(pykka.ActorDeadError):
                ref.tell(Unsubscribe(topic, listener))

    async def _ask(self, message: NodeRequest) -> Any:
        try:
            reply = await self._running().ask(message, block=False)
        except pykka.ActorDeadError as error:
            raise CallError(Failed(message.id, "stopping", "the node has ended")) from error
        if isinstance(reply, Failed):
            raise CallError(reply)
        return reply

    def _running(self) -> pykka.ActorRef[NodeActor]:
        if self._ref is None:
            raise RuntimeError("the node has not been started: use `async with`")
        return self._ref


class _Listener:
    """Hears for a loop what the node tells an actor; no thread, and nothing in the host's registry.

    `keeps`: how many pieces wait to be read at most, the latest; None leaves the bound to the node.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, keeps: int | None) -> None:
        self.actor_urn = uuid.uuid4().urn
        self.actor_inbox = self
        self._loop = loop
        self._unread: deque[News | NodeDown] = deque(maxlen=keeps)
        self._has_news = asyncio.Event()

    def tell(self, message: News | NodeDown) -> None:
        """Take a piece, on the node's thread."""
        self._unread.append(message)
        try:
            self._loop.call_soon_threadsafe(self._has_news.set)
        except RuntimeError as error:
            raise pykka.ActorDeadError("the host's loop has closed") from error

    def qsize(self) -> int:
        """How much is unread: the node tells no more than so much."""
        return 0 if self._unread.maxlen else len(self._unread)

    async def next(self) -> News | NodeDown:
        """The next piece, when there is one; for one reader, on its own loop."""
        while not self._unread:
            self._has_news.clear()
            if not self._unread:
                await self._has_news.wait()
        return self._unread.popleft()
