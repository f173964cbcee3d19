"""A new user's first hour, with nothing but README.md and `--help`: three real servers come over from Claude Desktop.

Every command here stands in README.md; no test helper knows where the node keeps what.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from support.commands import type_command
from support.house import ROOT
from support.nodes import environment
from support.processes import wait_until
from support.real_servers import filesystem_argv, memory_argv, time_argv

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# Node.js needs a second to start on a busy machine; learning starts two of them at once.
COMMAND_TIMEOUT = 90.0
CONVERSATION_TIMEOUT = 60.0


@dataclass
class User:
    """Somebody at a terminal, with a home of their own and the three programs on their PATH."""

    home: Path
    path: list[str]
    verbs: set[str] = field(default_factory=set[str])

    @property
    def config(self) -> Path:
        return self.home / ".config" / "mcpv-node" / "runtime.yaml"

    def types(self, *words: str, code: int = 0) -> str:
        """Run one command, which ends as expected, and give all that it said."""
        self.verbs.add(words[0])
        path = os.pathsep.join([*self.path, os.environ["PATH"]])
        env = {**environment(self.home), "PATH": path}
        return type_command(*words, cwd=self.home, env=env, code=code, timeout=COMMAND_TIMEOUT)

    def edits(self, before: str, after: str) -> None:
        """Change the configuration in an editor."""
        text = self.config.read_text()
        assert text.count(before) == 1
        self.config.write_text(text.replace(before, after))


@pytest.fixture
def user(tmp_path: Path) -> Iterator[User]:
    """A user of Claude Desktop; the node that they leave running is stopped."""
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "hello.txt").write_text("hello from a file\n")
    programs = {"files": filesystem_argv(shared), "memory": memory_argv(), "Time": time_argv()}
    entries = {
        name: {"command": Path(argv[0]).name, "args": argv[1:], "env": {}} for name, argv in programs.items()
    }
    entries["memory"]["env"] = {"MEMORY_FILE_PATH": str(tmp_path / "memory.json")}
    desktop = tmp_path / ".config" / "Claude" / "claude_desktop_config.json"
    desktop.parent.mkdir(parents=True)
    desktop.write_text(json.dumps({"mcpServers": entries}, indent=2))
    made = User(tmp_path, [str(Path(argv[0]).parent) for argv in programs.values()])
    try:
        yield made
    finally:
        if (tmp_path / ".local/state/mcpv-node/node.json").exists():
            made.types("stop")


def converse(endpoint: str, token: str, text: str) -> tuple[set[str], list[Any]]:
    """Connect the official client, list, and call a tool of each server."""

    async def main() -> tuple[set[str], list[Any]]:
        headers = {"Authorization": f"Bearer {token}"}
        async with (
            asyncio.timeout(CONVERSATION_TIMEOUT),
            httpx2.AsyncClient(headers=headers) as http,
            Client(streamable_http_client(endpoint, http_client=http), mode="legacy") as client,
        ):
            names = {tool.name for tool in (await client.list_tools()).tools}
            entity = {"name": text, "entityType": "word", "observations": []}
            results = [
                await client.call_tool("files_list_allowed_directories", {}),
                await client.call_tool("memory_create_entities", {"entities": [entity]}),
                await client.call_tool("time_get_current_time", {"timezone": "UTC"}),
            ]
        return names, results

    return asyncio.run(main())


def test_a_new_user_gets_from_claude_desktop_to_a_mended_server(user: User) -> None:
    desktop = str(user.home / ".config" / "Claude" / "claude_desktop_config.json")

    # Look first, then take over.
    seen = user.types("import", desktop)
    assert "nothing is written" in seen
    assert "mcp-server-time --local-timezone UTC" in seen
    assert not user.config.exists()
    taken = user.types("import", desktop, "--write")
    assert "3 servers added" in taken
    assert "mcpv-node start" in taken
    assert "mcpv-node export claude-desktop --write" in taken

    # Start, in the background as nobody watches here; what it prints is enough to connect.
    told = dict(
        line.split(maxsplit=1)
        for line in user.types("start", "--detach", "--http", "127.0.0.1:0").splitlines()
        if line.startswith("  endpoint")
    )
    token = (user.home / ".local/state/mcpv-node/token").read_text().strip()
    learnt = wait_until(lambda: "5 of 5 servers known" in user.types("status"), COMMAND_TIMEOUT)
    assert learnt, user.types("status") + user.types("logs", "--level", "warning")
    names, results = converse(told["endpoint"], token, "first")
    assert {"files_read_text_file", "memory_read_graph", "time_get_current_time"} <= names
    assert [result.is_error for result in results] == [False, False, False]

    # Break a server that runs: nothing is cut, and the reload, `status` and `why` all say what is wrong.
    user.edits("command: mcp-server-time", "command: mcp-server-thyme")
    missing = "there is no program 'mcp-server-thyme' in its PATH"
    refused = user.types("reload", code=1)
    assert missing in refused
    assert "goes on as it was" in refused
    for said in (user.types("status"), user.types("why", "time")):
        assert missing in said
        assert "mcpv-node reload" in said
    assert "UTC" in user.types("call", "time_get_current_time", "--args", '{"timezone": "UTC"}')

    # The same with the node started anew: now nothing of it runs, and `why` says what to do.
    user.types("stop")
    told = dict(
        line.split(maxsplit=1)
        for line in user.types("start", "--detach", "--http", "127.0.0.1:0").splitlines()
        if line.startswith("  endpoint")
    )
    failed = user.types("call", "time_get_current_time", "--args", '{"timezone": "UTC"}', code=1)
    assert "mcpv-node status" in failed
    status = user.types("status")
    assert "suspended" in status
    assert missing in status
    why = user.types("why", "time")
    assert why.startswith(f"time is suspended: {missing}")
    assert str(user.config) in why
    assert "mcpv-node reload" in why

    # Mend it and reload: that is all.
    user.edits("command: mcp-server-thyme", "command: mcp-server-time")
    assert "time" in user.types("reload")
    names, results = converse(told["endpoint"], token, "second")
    assert "time_get_current_time" in names
    assert [result.is_error for result in results] == [False, False, False]
    assert "first" in user.types("call", "memory_read_graph")
    assert "has stopped" in user.types("stop")

    # Nothing that they had to know stands elsewhere.
    readme = (ROOT / "README.md").read_text()
    assert [verb for verb in sorted(user.verbs) if f"mcpv-node {verb}" not in readme] == []
    assert shutil.which("mcp-server-thyme") is None
