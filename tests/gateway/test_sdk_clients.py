"""The official SDK's client is the referee of the HTTP door."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from msgspec import Raw
from support.breakable import BreakableWay
from support.fake_servers import FakeNode, Finish, fake_node, make_settings, run, until

from mcpv_node.actors.instance.messages import Progressed
from mcpv_node.actors.kernel import Handle
from mcpv_node.gateway import HttpDoor, Sessions, TokenTable
from mcpv_node.gateway.auth import DEFAULT_AUTHORITY
from mcpv_node.settings import ListenSettings, NodeLimits

TOKENS = TokenTable([("good", DEFAULT_AUTHORITY)])


@asynccontextmanager
async def open_client(
    folder: Path, mode: Any, path: str = "/mcp", **more: Any
) -> AsyncIterator[tuple[FakeNode, Client]]:
    settings = make_settings(
        listen=ListenSettings(http="127.0.0.1:0"), limits=NodeLimits(list_page=4), **more
    )
    async with fake_node(folder, settings=settings, tokens=TOKENS) as node:
        urls: list[str] = []
        sessions = await node.start(Sessions(node.services), "sessions")
        await node.start(HttpDoor(node.services, sessions, on_bound=lambda url, _: urls.append(url)), "http")
        async with httpx2.AsyncClient(headers={"Authorization": "Bearer good"}) as http:
            transport = streamable_http_client(urls[0] + path, http_client=http)
            async with Client(transport, mode=mode) as client:
                yield node, client


# A client of both eras asks for the modern one first, and must find its way.
@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_the_sdks_client_lists_calls_and_is_refused_properly(tmp_path: Path, mode: str) -> None:
    async def main() -> None:
        async with open_client(tmp_path, mode) as (node, client):
            names: list[str] = []
            cursor: str | None = None
            while True:
                page = await client.list_tools(cursor=cursor)
                names += [tool.name for tool in page.tools]
                cursor = page.next_cursor
                if cursor is None:
                    break
            progress: list[float] = []

            async def on_progress(done: float, _total: float | None, _message: str | None) -> None:
                progress.append(done)

            await client.call_tool("alpha_echo", {"x": 1})
            await client.call_tool("beta_progress", {}, progress_callback=on_progress)
            with pytest.raises(MCPError, match="mine") as own:
                await client.call_tool("alpha_error", {})
            with pytest.raises(MCPError, match="Unknown tool") as unknown:
                await client.call_tool("nope", {})
            sent = json.loads(node.instances["alpha"].sent[0])

        assert len(names) == len(set(names)) == 10
        assert sent["name"] == "echo"
        assert sent["arguments"] == {"x": 1}
        assert progress == [1, 2]
        assert own.value.error.code == -32050
        assert unknown.value.error.code == -32602

    run(main)


def test_the_sdks_client_gets_its_result_although_its_connection_broke(tmp_path: Path) -> None:
    async def main() -> None:
        settings = make_settings(listen=ListenSettings(http="127.0.0.1:0"))
        async with fake_node(tmp_path, settings=settings) as node:
            urls: list[str] = []
            sessions = await node.start(Sessions(node.services), "sessions")
            await node.start(
                HttpDoor(node.services, sessions, on_bound=lambda url, _: urls.append(url)), "http"
            )
            alpha = node.instances["alpha"]
            progress: list[float] = []

            async def on_progress(done: float, _total: float | None, _message: str | None) -> None:
                progress.append(done)

            def say(done: int) -> None:
                on_event = alpha.calls[-1].on_event
                assert on_event is not None
                on_event(Progressed(Raw(b'{"progressToken":0,"progress":%d}' % done)))

            async with (
                BreakableWay(urls[0]) as way,
                Client(f"{way.url}/mcp", mode="legacy") as client,
                asyncio.TaskGroup() as tasks,
            ):
                calling = tasks.create_task(client.call_tool("alpha_slow", {}, progress_callback=on_progress))
                await until(lambda: alpha.waiting)
                say(1)
                await until(lambda: progress)
                way.cut()
                say(2)
                await until(lambda: len(progress) > 1)
                say(3)
                Handle[Finish](alpha.cell).tell(Finish())
                result = await calling

        assert progress == [1, 2, 3]
        assert not result.is_error
        assert len(alpha.calls) == 1

    run(main)


def test_the_sdks_client_hears_of_a_changed_list(tmp_path: Path) -> None:
    async def main() -> None:
        settings = make_settings(listen=ListenSettings(http="127.0.0.1:0"))
        async with fake_node(tmp_path, settings=settings) as node:
            urls: list[str] = []
            sessions = await node.start(Sessions(node.services), "sessions")
            await node.start(
                HttpDoor(node.services, sessions, on_bound=lambda url, _: urls.append(url)), "http"
            )
            heard: asyncio.Queue[str] = asyncio.Queue()

            async def handle(message: Any) -> None:
                heard.put_nowait(type(message).__name__)

            async with Client(f"{urls[0]}/mcp", mode="legacy", message_handler=handle) as client:
                await client.list_tools()
                await until(lambda: node.subscribers.joined)
                node.subscribers.tell_all()
                assert await heard.get() == "ToolListChangedNotification"
            await until(lambda: not node.subscribers.joined)

    run(main)
