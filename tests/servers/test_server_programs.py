"""Both servers as programs, and as the official SDK sees them."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import ClientSession, MCPError, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp_types import CallToolResult, TextContent

# A start takes a tenth of a second; this is for a machine that does everything at once.
PATIENCE = 30.0


def parameters(server: str, folder: Path) -> StdioServerParameters:
    return StdioServerParameters(
        command=sys.executable,
        args=["-m", f"mcpv_node.servers.{server}"],
        env={"NOTES_FILE": str(folder / "notes.json")},
    )


def text(result: Any) -> str:
    assert isinstance(result, CallToolResult)
    [content] = result.content
    assert isinstance(content, TextContent)
    return content.text


def test_the_official_client_lists_and_calls_the_clock(tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            stdio_client(parameters("clock", tmp_path)) as (reading, writing),
            ClientSession(reading, writing) as session,
        ):
            hello = await session.initialize()
            listed = await session.list_tools()
            now = await session.call_tool("now", {"tz": "UTC"})
            unknown = await session.call_tool("now", {"tz": "Mars/Olympus"})
            converted = await session.call_tool(
                "convert", {"time": "14:30", "from": "UTC", "to": "Asia/Tokyo"}
            )
            await session.send_ping()
            with pytest.raises(MCPError, match="no tool"):
                await session.call_tool("tomorrow")

        assert hello.server_info.name == "clock"
        assert [tool.name for tool in listed.tools] == ["now", "convert"]
        assert isinstance(now, CallToolResult)
        assert now.structured_content is not None
        assert now.structured_content["timezone"] == "UTC"
        assert isinstance(unknown, CallToolResult)
        assert unknown.is_error
        assert "Mars/Olympus" in text(unknown)
        assert isinstance(converted, CallToolResult)
        assert converted.structured_content is not None
        assert converted.structured_content["to"]["datetime"].endswith("T23:30:00+09:00")

    asyncio.run(asyncio.wait_for(main(), PATIENCE))


def test_the_official_client_keeps_notes_over_two_sessions(tmp_path: Path) -> None:
    async def use(tool: str, arguments: dict[str, object]) -> Any:
        async with (
            stdio_client(parameters("notes", tmp_path)) as (reading, writing),
            ClientSession(reading, writing) as session,
        ):
            await session.initialize()
            listed = await session.list_tools()
            assert [each.name for each in listed.tools] == ["add", "list", "read", "search", "delete"]
            return await session.call_tool(tool, arguments)

    async def main() -> None:
        added = await use("add", {"text": "milk", "title": "Shopping"})
        found = await use("search", {"query": "MILK"})
        missing = await use("read", {"id": 9})

        assert added.structured_content["id"] == 1
        assert [note["title"] for note in found.structured_content["notes"]] == ["Shopping"]
        assert missing.is_error
        assert text(missing) == "there is no note 9"

    asyncio.run(asyncio.wait_for(main(), 3 * PATIENCE))


@pytest.mark.parametrize("server", ["clock", "notes"])
def test_a_server_ends_well_when_its_input_ends(server: str, tmp_path: Path) -> None:
    done = _run(server, b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n{"jsonrpc":', tmp_path)

    assert done.returncode == 0
    assert done.stdout == b'{"jsonrpc":"2.0","id":1,"result":{}}\n'
    assert done.stderr == b""


def test_a_line_that_is_too_long_is_answered_and_the_next_one_served(tmp_path: Path) -> None:
    long = b'{"jsonrpc":"2.0","id":1,"method":"' + b"x" * (1 << 20) + b'"}\n'

    done = _run("clock", long + b'{"jsonrpc":"2.0","id":2,"method":"ping"}\n', tmp_path)

    refused, served = map(json.loads, done.stdout.splitlines())
    assert (refused["id"], refused["error"]["code"]) == (1, -32700)
    assert served == {"jsonrpc": "2.0", "id": 2, "result": {}}


def test_a_client_that_stops_reading_is_no_reason_for_a_traceback(tmp_path: Path) -> None:
    process = _start("clock", tmp_path)
    assert process.stdout is not None
    process.stdout.close()

    # Answers to nobody: the pipe's reading end is gone before the first of them.
    _, errors = process.communicate(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n', timeout=PATIENCE)

    assert errors == b""
    assert process.returncode == 0


def _run(server: str, data: bytes, folder: Path) -> subprocess.CompletedProcess[bytes]:
    process = _start(server, folder)
    output, errors = process.communicate(data, timeout=PATIENCE)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


def _start(server: str, folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", f"mcpv_node.servers.{server}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"NOTES_FILE": str(folder / "notes.json")},
    )
