"""Whole host applications, as processes: the examples as they are written, and hosts that end badly."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from support.embedded import TIMEOUT, guards, write_config
from support.hosts import complaints, host
from support.nodes import BadServer
from support.processes import group_members, wait_until

# The examples of the documentation, word for word, between what a reader would have around them.
PYKKA_HOST = """
import threading
import pykka
from mcpv_node import CallTool, NodeActor, SnapshotChanged, Subscribe

heard = threading.Event()


class Host(pykka.ThreadingActor):
    def on_start(self):
        node = NodeActor.start(config="node.yaml")
        result = node.ask(CallTool("clock_now", {"tz": "UTC"}), timeout=10)
        node.tell(Subscribe("tools", subscriber=self.actor_ref))
        print(result.json()["structuredContent"]["timezone"], flush=True)

    def on_receive(self, message):
        if isinstance(message, SnapshotChanged):
            heard.set()


Host.start()
assert heard.wait(10)
pykka.ActorRegistry.stop_all()
"""

ASYNCIO_HOST = """
import asyncio
from mcpv_node import CallTool, Node


async def main():
    async with Node.from_config("node.yaml") as node:
        result = await node.call_tool("clock_now", {"tz": "UTC"})
    print(result.json()["structuredContent"]["timezone"], flush=True)


asyncio.run(main())
"""

# A host that has a call behind it, and the end that is asked for.
ENDING_HOST = """
import os, sys
from mcpv_node import CallTool, NodeActor, Stop

node = NodeActor.start(config="node.yaml")
node.ask(CallTool("bad_echo"), timeout=20)
print("ready", flush=True)
sys.stdin.readline()
"""

CLOCK = {"name": "clock", "command": sys.executable, "args": ["-m", "mcpv_node.servers.clock"]}


@pytest.mark.parametrize("code", [PYKKA_HOST, ASYNCIO_HOST], ids=["pykka", "asyncio"])
def test_the_example_runs_as_it_is_written(code: str, tmp_path: Path) -> None:
    write_config(tmp_path, CLOCK)

    with host(code, tmp_path) as process:
        out, err = process.communicate(timeout=TIMEOUT)

    assert (process.returncode, out, complaints(err)) == (0, "UTC\n", "")
    assert guards(tmp_path / "state") == []
    assert not (tmp_path / "state" / "node.json").exists()


def test_a_host_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad", IGNORE_STDIN_EOF=1, IGNORE_TERM=1, FORK_GRANDCHILD=1)
    write_config(tmp_path, bad.entry())

    with host(ENDING_HOST, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
        process.wait(TIMEOUT)

    assert_nothing_is_left(bad, tmp_path)


@pytest.mark.parametrize("end", ["", "raise SystemExit(0)", "node.stop(block=False)", "node.ask(Stop())"])
def test_a_host_that_just_ends_does_not_hang_and_leaves_no_process(end: str, tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad", FORK_GRANDCHILD=1)
    write_config(tmp_path, bad.entry())

    with host(ENDING_HOST + end, tmp_path) as process:
        out, err = process.communicate("\n", timeout=TIMEOUT)

    assert (process.returncode, out, complaints(err)) == (0, "ready\n", "")
    assert_nothing_is_left(bad, tmp_path)


def test_the_next_host_takes_over_what_a_killed_one_left(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    write_config(tmp_path, bad.entry())
    with host(ENDING_HOST, tmp_path) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        process.wait(TIMEOUT)

    with host(ENDING_HOST + "node.stop()", tmp_path) as process:
        out, err = process.communicate("\n", timeout=TIMEOUT)

    assert (process.returncode, out, complaints(err)) == (0, "ready\n", "")
    assert not (tmp_path / "state" / "node.json").exists()
    assert_nothing_is_left(bad, tmp_path)


def assert_nothing_is_left(bad: BadServer, folder: Path) -> None:
    """Check that the guard has ended what there was, and itself."""
    assert bad.starts()
    assert wait_until(lambda: not any(group_members(pid) for pid in bad.starts()))
    assert wait_until(lambda: not guards(folder / "state"))
