"""The first minutes: the packaged servers, the official client over both doors, what the README shows."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from mcp import Client, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from support.house import ROOT
from support.nodes import Node, default_node
from support.readme import read_blocks

# The official client waits for ever by itself; a conversation of a few calls takes a second.
CONVERSATION_TIMEOUT = 30.0


@pytest.fixture(scope="module")
def _node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with default_node(tmp_path_factory.mktemp("first")) as node:
        node.until_learnt(["clock", "notes"])
        yield node


@pytest.fixture
def node(_node: Node) -> Iterator[Node]:
    """A node as it is without a configuration, with nothing running at the end of each test."""
    yield _node
    for name in ("clock", "notes"):
        _node.order(name, "stop")
        _node.order(name, "retry")


async def converse(client: Client) -> tuple[set[str], Any, Any]:
    """List, call two servers, and make a mistake."""
    async with asyncio.timeout(CONVERSATION_TIMEOUT):
        names = {tool.name for tool in (await client.list_tools()).tools}
        now = await client.call_tool("clock_now", {"tz": "UTC"})
        added = await client.call_tool("notes_add", {"text": "hello"})
        with pytest.raises(MCPError, match="Unknown tool"):
            await client.call_tool("clock_nothing", {})
    return names, now, added


def check(names: set[str], now: Any, added: Any) -> None:
    assert {"clock_now", "notes_add"} <= names
    assert not now.is_error
    assert "UTC" in now.content[0].text or "+00:00" in now.content[0].text
    assert not added.is_error


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_the_official_client_lists_and_calls_over_http(node: Node, mode: Any) -> None:
    async def main() -> None:
        headers = {"Authorization": f"Bearer {node.token}"}
        async with httpx2.AsyncClient(headers=headers) as http:
            transport = streamable_http_client(f"{node.url}/mcp", http_client=http)
            async with Client(transport, mode=mode) as client:
                check(*await converse(client))

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["legacy", "auto"])
def test_the_official_client_lists_and_calls_over_the_stdio_command(node: Node, mode: Any) -> None:
    async def main() -> None:
        words = ["-P", "-m", "mcpv_node", "stdio", "--state-dir", str(node.state_dir)]
        parameters = StdioServerParameters(command=sys.executable, args=words)
        async with Client(stdio_client(parameters), mode=mode) as client:
            check(*await converse(client))

    asyncio.run(main())


def test_what_the_readme_shows_in_a_second_terminal_works(node: Node) -> None:
    commands = [
        command for block in read_blocks(ROOT / "README.md", "sh", mark="run") for command in block.commands
    ]

    assert commands
    for program, *words in commands:
        assert program == "bin/mcpv-node"
        done = node.command(*words)
        assert done.returncode == 0, (words, done.stderr)
        assert done.stdout


def test_both_doors_list_the_same_tools_and_share_one_process(node: Node) -> None:
    with node.session() as session, node.line_session() as line:
        over_lines = line.ask({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
        call = {"name": "clock_now", "arguments": {"tz": "UTC"}}
        line.ask({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": call})
        session.text("clock_now", tz="UTC")

        assert [tool["name"] for tool in over_lines["result"]["tools"]] == session.tools()
        assert len(node.pids("clock")) == 1
        assert node.why("clock")["calls"]["ok"] >= 2


def test_one_server_alone_keeps_its_own_names(node: Node) -> None:
    with node.session("/mcp/server/clock") as session:
        assert "now" in session.tools()
        assert session.text("now", tz="UTC")
