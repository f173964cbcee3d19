"""Official clients other than the SDK our tests are written with: the first SDK, and the Inspector."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.harness import inspector_argv
from support.nodes import Node, default_node, environment
from support.real_servers import pypi_folder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SDK_ONE = "mcp==1.30.0"
CONVERSATION = Path(__file__).parents[1] / "support" / "sdk_one.py"

# Node.js and an interpreter, one starting the other, on a busy machine.
CLIENT_TIMEOUT = 60.0


@pytest.fixture(scope="module")
def _node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with default_node(tmp_path_factory.mktemp("official")) as node:
        node.until_learnt(["clock", "notes"])
        yield node


@pytest.fixture
def node(_node: Node) -> Iterator[Node]:
    """A node as it is without a configuration, with nothing running at the end of each test."""
    yield _node
    _node.order("clock", "stop")
    _node.order("clock", "retry")


def run_client(node: Node, argv: list[str]) -> Any:
    """Run a client to its end; return the JSON it prints."""
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=CLIENT_TIMEOUT,
        check=False,
        env=environment(node.folder),
        cwd=node.folder,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return json.loads(done.stdout)


def stdio_argv(node: Node) -> list[str]:
    return [sys.executable, "-P", "-m", "mcpv_node", "stdio", "--state-dir", str(node.state_dir)]


@pytest.mark.parametrize("door", ["http", "stdio"])
def test_the_first_sdk_shakes_hands_lists_and_calls(node: Node, door: str) -> None:
    python = str(pypi_folder("pypi-sdk-one", SDK_ONE) / "bin" / "python")
    address = [f"{node.url}/mcp", node.token] if door == "http" else stdio_argv(node)

    seen = run_client(node, [python, str(CONVERSATION), door, *address])

    assert seen["version"] == "2025-11-25"
    assert seen["server"] == "mcpv-node"
    assert {"clock_now", "notes_add"} <= set(seen["tools"])
    assert not seen["isError"]
    assert "UTC" in seen["now"] or "+00:00" in seen["now"]


@pytest.mark.parametrize("door", ["http", "stdio"])
def test_the_inspector_lists_and_calls(node: Node, door: str) -> None:
    if door == "http":
        authorization = f"Authorization: Bearer {node.token}"
        address = [f"{node.url}/mcp", "--transport", "http", "--header", authorization]
    else:
        command, *arguments = stdio_argv(node)
        config = node.folder / "mcp.json"
        config.write_text(json.dumps({"mcpServers": {"mcpv": {"command": command, "args": arguments}}}))
        address = ["--config", str(config), "--server", "mcpv"]
    quietly = ["--format", "json", "-q"]
    call = ["--method", "tools/call", "--tool-name", "clock_now", "--tool-args-json", '{"tz": "UTC"}']

    # A schema that some clients cannot read ends it with 6.
    listed = run_client(node, inspector_argv(*address, "--method", "tools/list", "--strict", *quietly))
    now = run_client(node, inspector_argv(*address, *call, *quietly))

    assert {"clock_now", "notes_add"} <= {tool["name"] for tool in listed["result"]["tools"]}
    assert not now["result"].get("isError")
    assert "UTC" in str(now) or "+00:00" in str(now)
