"""Clients subscribe to a resource of a real server, hear of it, leave, and go on hearing when the server was killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from support.nodes import Node, running_node

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(120),
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

TESTS = Path(__file__).parents[1]
KEEPER = TESTS / "support" / "keeper_server.py"
FIXTURE = TESTS / "conformance" / "fixture_server.py"

# A start of a server and its list on a busy machine.
BOUND = 30.0

# What each server calls the watched resource, and the call that changes it.
SERVERS: dict[str, tuple[list[str], str, str, dict[str, Any]]] = {
    "keeper": ([str(KEEPER)], "keep://one", "keeper_touch", {"uri": "keep://one"}),
    "modern": ([str(KEEPER), "modern"], "keep://one", "modern_touch", {"uri": "keep://one"}),
    "fixture": (
        [str(FIXTURE), "stdio"],
        "test://watched-resource",
        "fixture_test_trigger_resource_update",
        {},
    ),
}


class Listener:
    """One client of the official SDK and the updates it has heard of."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.client: Client

    async def on_message(self, message: Any) -> None:
        if type(message).__name__ == "ResourceUpdatedNotification":
            self.heard.append(str(message.params.uri))


@asynccontextmanager
async def listener(node: Node) -> AsyncIterator[Listener]:
    one = Listener()
    async with httpx2.AsyncClient(headers={"Authorization": f"Bearer {node.token}"}) as http:
        transport = streamable_http_client(f"{node.url}/mcp", http_client=http)
        async with Client(transport, mode="legacy", message_handler=one.on_message) as one.client:
            yield one


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(BOUND):
        while not condition():  # noqa: ASYNC110  (what is waited for is another process's)
            await asyncio.sleep(0.01)


def entry(name: str) -> dict[str, Any]:
    return {"name": name, "command": sys.executable, "args": SERVERS[name][0], "idleSeconds": 1}


@pytest.mark.parametrize("name", SERVERS)
def test_clients_hear_of_a_resource_until_they_leave_and_after_its_server_was_killed(
    tmp_path: Path, name: str
) -> None:
    _, uri, tool, arguments = SERVERS[name]

    async def scenario(node: Node) -> None:
        async with listener(node) as one, listener(node) as two, listener(node) as silent:
            await one.client.subscribe_resource(uri)
            await two.client.subscribe_resource(uri)
            await silent.client.call_tool(tool, arguments)
            await until(lambda: one.heard and two.heard)
            once = [list(each.heard) for each in (one, two, silent)]

            await one.client.unsubscribe_resource(uri)
            await silent.client.call_tool(tool, arguments)
            await until(lambda: len(two.heard) == 2)
            left = [len(each.heard) for each in (one, two, silent)]

            (pid,) = node.pids(name)
            os.kill(pid, signal.SIGKILL)
            # It may have missed one: it hears once, when the subscription stands again.
            await until(lambda: len(two.heard) == 3)
            await silent.client.call_tool(tool, arguments)
            await until(lambda: len(two.heard) == 4)
            again = [len(each.heard) for each in (one, two, silent)]
            pids = node.pids(name)

        assert once == [[uri], [uri], []]
        assert left == [1, 2, 0]
        assert again == [1, 4, 0]
        assert pid not in pids
        assert len(pids) == 1

    with running_node(tmp_path, [entry(name)]) as node:
        node.until_learnt([name])
        asyncio.run(scenario(node))


def test_a_subscription_that_its_server_ended_is_opened_again(tmp_path: Path) -> None:
    _, uri, tool, arguments = SERVERS["modern"]

    async def scenario(node: Node) -> None:
        async with listener(node) as one:
            await one.client.subscribe_resource(uri)
            pids = node.pids("modern")

            await one.client.call_tool("modern_hang_up", {})
            # It may have missed one: it hears once, when the subscription stands again.
            await until(lambda: len(one.heard) == 1)
            await one.client.call_tool(tool, arguments)
            await until(lambda: len(one.heard) == 2)

            assert node.pids("modern") == pids

    with running_node(tmp_path, [entry("modern")]) as node:
        node.until_learnt(["modern"])
        asyncio.run(scenario(node))


def test_a_server_is_asked_once_for_what_many_watch_and_kept_only_as_long_as_somebody_does(
    tmp_path: Path,
) -> None:
    async def scenario(node: Node) -> None:
        async def asked() -> list[str]:
            result = await one.client.call_tool("keeper_subscribed", {})
            return json.loads(result.content[0].text)  # type: ignore[union-attr]

        async with listener(node) as one:
            async with listener(node) as two:
                await one.client.subscribe_resource("keep://one")
                await two.client.subscribe_resource("keep://one")
                await two.client.subscribe_resource("keep://two")
                both = await asked()
            async with asyncio.timeout(BOUND):
                while await asked() != ["keep://one"]:
                    pass
            with pytest.raises(MCPError) as refused:
                await one.client.subscribe_resource("keep://refused")
            with pytest.raises(MCPError) as unknown:
                await one.client.subscribe_resource("keep://none")
            pids = node.pids("keeper")

        assert both == ["keep://one", "keep://two"]
        assert refused.value.error.code == -32050
        assert unknown.value.error.code == -32002
        assert len(pids) == 1
        await until(lambda: not node.why("keeper")["instances"])

    with running_node(tmp_path, [entry("keeper")]) as node:
        node.until_learnt(["keeper"])
        asyncio.run(scenario(node))
