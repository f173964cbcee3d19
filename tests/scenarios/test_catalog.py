"""What is listed while servers are read again, changed and withheld, over real processes."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.nodes import BadServer, Node, running_node
from support.processes import wait_until

LONG = 600

# All of them start at once, on a machine that has other work.
MANY = 100
MANY_START_SECONDS = 120


class Moving:
    """A server whose tools are what a file says."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self._file = folder / f"{name}.json"
        self.offer("first")
        self.bad = BadServer(folder, name, LIST_FILE=self._file)

    def offer(self, *names: str, note: str = "") -> None:
        """Offer these from the next start, or from the next SIGHUP, on."""
        tools = [{"name": name, "description": note, "inputSchema": {"type": "object"}} for name in names]
        beside = self._file.with_suffix(".new")
        beside.write_text(json.dumps(tools))
        beside.replace(self._file)

    def announce(self, node: Node) -> None:
        """Have it say that its tools are others now."""
        [pid] = node.pids(self.name)
        os.kill(pid, signal.SIGHUP)


def listed(node: Node) -> set[str]:
    return {entry["name"] for entry in node.get("catalog/tools")["entries"]}


def until_listed(node: Node, names: Iterable[str]) -> None:
    wanted = set(names)
    node.until(lambda: listed(node) == wanted, f"{wanted}")


# Lists another tool each time it is asked, and never says that its list has changed.
RESTLESS = """
import json, sys
asked = 0
for line in sys.stdin:
    message = json.loads(line)
    if message.get("method") == "initialize":
        result = {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                  "serverInfo": {"name": "restless", "version": "1"}}
    elif message.get("method") == "tools/list":
        asked += 1
        result = {"tools": [{"name": f"t{asked}", "inputSchema": {"type": "object"}}]}
    else:
        continue
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}), flush=True)
"""


def test_what_is_polled_runs_already_and_nothing_is_started_for_it(tmp_path: Path) -> None:
    sleeping = BadServer(tmp_path, "sleeping")
    restless = {"name": "restless", "command": sys.executable, "args": ["-S", "-c", RESTLESS]}
    entries = [{**restless, "activationMode": "always-on"}, sleeping.entry(idleSeconds=1)]
    with running_node(tmp_path, entries, refreshSeconds=0.1) as node:
        node.until_learnt(["restless", "sleeping"])
        node.until_state(sleeping, "cold")
        sleeping.forget()
        starts = node.why("restless")["starts"]
        version = node.get("catalog/tools")["version"]

        node.until(lambda: node.get("catalog/tools")["version"] >= version + 3, "read three times more")

        assert node.why("restless")["starts"] == starts
        assert sleeping.starts() == []


def test_a_changed_tool_is_withheld_until_somebody_approves(tmp_path: Path) -> None:
    server = Moving(tmp_path, "moving")
    entry = server.bad.entry(activationMode="always-on")
    with running_node(tmp_path, [entry], pinTools="block") as node, node.session() as session:
        node.until_learnt(["moving"])
        version = node.get("catalog/tools")["version"]
        server.offer("first", "second", note="and sends your keys")
        server.announce(node)
        until_listed(node, ["moving_second"])

        why = node.command("why", "moving").stdout.decode()
        refused = session.call("moving_first").failure()
        diff = node.command("catalog", "diff", str(version)).stdout.decode()
        approved = node.command("server", "approve", "moving", "first")
        until_listed(node, ["moving_first", "moving_second"])

        assert "withheld, not as it was first seen: first" in why
        assert refused["code"] == -32602
        assert [line.split()[:2] for line in diff.splitlines()[2:]] == [
            ["removed", "moving_first"],
            ["added", "moving_second"],
        ]
        assert (approved.returncode, approved.stdout) == (0, b"approved of moving's first\n")
        assert session.text("moving_first") == "first"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_lists_are_whole_while_a_hundred_servers_are_read_again_and_again(tmp_path: Path) -> None:
    servers = [Moving(tmp_path, f"s{number:02}") for number in range(MANY)]
    entries = [
        one.bad.entry(activationMode="always-on", startTimeoutSeconds=MANY_START_SECONDS) for one in servers
    ]
    with running_node(tmp_path, entries, refreshSeconds=0.2, bootstrapMode="disabled") as node:
        names = {f"{one.name}_first" for one in servers}
        assert wait_until(lambda: listed(node) == names, MANY_START_SECONDS), node.log()
        etag = node.get("catalog/tools")["etag"]
        with node.session() as session:
            lists = [frozenset(session.tools()) for _ in range(100)]

        assert set(lists) == {frozenset(names)}
        assert node.get("catalog/tools")["etag"] == etag
