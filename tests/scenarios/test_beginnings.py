"""The beginnings of a node: what it learns, what it has running, how it says so, and what its owners' deaths cost."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.embedded import options, run, running, until
from support.nodes import BadServer, Node, running_node
from support.processes import alive, group_members

from mcpv_node.actors.kernel import Handle
from mcpv_node.actors.status import InitState, LearningState, ShowInit, ShowLearning
from mcpv_node.node import NodeRuntime

LONG = 600

# Tries follow one another within milliseconds.
SOON = {"maxRetries": 5, "baseSeconds": 0.05, "maxSeconds": 0.1}

# The second try in a row is so far away that nobody waits for it.
LATE = {"maxRetries": 5, "baseSeconds": 300, "maxSeconds": 600}

ALWAYS: dict[str, Any] = {"activationMode": "always-on", "idleSeconds": LONG}


# ---- what it says of each server --------------------------------------------------------------------------------


class Ward:
    """A node whose servers come to be up in every way there is, or do not."""

    def __init__(self, folder: Path) -> None:
        self.sound = BadServer(folder, "sound")
        self.pair = BadServer(folder, "pair")
        self.slow = BadServer(folder, "slow", HANG_HANDSHAKE=1)
        self.failing = BadServer(folder, "failing", EXIT_IN_HANDSHAKE=7)
        self.healing = BadServer(folder, "healing", INIT_FAIL_N=f"3:{folder / 'healing.count'}")
        self.asleep = BadServer(folder, "asleep")
        self.entries = [
            self.sound.entry(**ALWAYS),
            self.pair.entry(**ALWAYS, minReady=2, restart=LATE),
            self.slow.entry(**ALWAYS, startTimeoutSeconds=LONG),
            self.failing.entry(**ALWAYS, restart=LATE),
            self.healing.entry(**ALWAYS, restart=SOON),
            self.asleep.entry(minReady=2, maxInstances=2),
            {"name": "nowhere", "command": "/nowhere/at-all", **ALWAYS},
        ]
        self.node: Node

    def init(self, name: str) -> dict[str, Any]:
        """What the node says of the beginning of a server."""
        found: dict[str, Any] = next(one for one in self.node.get("node")["init"] if one["name"] == name)
        return found

    def outcome(self, name: str) -> dict[str, Any]:
        """What the node says of learning a server."""
        found: dict[str, Any] = self.node.why(name)["learning"]
        return found

    def until_init(self, name: str, state: str) -> dict[str, Any]:
        self.node.until(lambda: self.init(name)["state"] == state, f"{name} {state}")
        return self.init(name)


@pytest.fixture
def ward(tmp_path: Path) -> Iterator[Ward]:
    ward = Ward(tmp_path)
    settings: dict[str, Any] = {"bootstrapConcurrency": 2, "bootstrapTimeoutSeconds": 1}
    with running_node(tmp_path, ward.entries, **settings) as ward.node:
        yield ward


def test_servers_that_cannot_be_learnt_cost_the_others_nothing_and_say_why(ward: Ward) -> None:
    ward.node.until_learnt(["sound", "pair", "healing", "asleep"])
    with ward.node.session() as session:
        assert session.text("sound_echo", text="hello") == "hello"

    # Whichever bound of the sweep is met first names its seconds.
    for name, words in (("nowhere", "/nowhere/at-all"), ("failing", "exit"), ("slow", " s")):
        ward.node.until(
            lambda name=name, words=words: words in ward.outcome(name)["reason"], f"{name} explained"
        )
    learning = ward.node.get("node")["learning"]
    assert (learning["mode"], learning["total"], learning["completed"]) == ("metadata", 7, 4)
    assert [one["server"] for one in learning["outcomes"]] == sorted(one["name"] for one in ward.entries)
    assert ward.outcome("sound")["state"] == "learnt"


def test_learning_ends_as_failed_when_a_server_could_not_be_learnt_however_often_it_was_tried(
    ward: Ward,
) -> None:
    ward.node.until(lambda: ward.node.get("node")["learning"]["state"] == "failed", "over")

    outcomes = {one["server"]: one for one in ward.node.get("node")["learning"]["outcomes"]}
    assert {name for name, one in outcomes.items() if one["state"] == "failed"} == {
        "failing",
        "nowhere",
        "slow",
    }
    assert outcomes["nowhere"]["attempts"] == 3
    done = ward.node.command("status")
    assert done.returncode == 0
    assert b"failed: 4 of 7 servers known, 3 failed" in done.stdout
    assert b"nowhere could not be learnt (3 attempts)" in done.stdout


def test_a_server_on_demand_has_nothing_running_when_nobody_is_there_though_it_was_learnt(ward: Ward) -> None:
    ward.node.until_learnt(["asleep"])
    ward.node.until(lambda: not ward.node.why("asleep")["instances"], "asleep again")

    why = ward.node.why("asleep")
    assert (why["state"], why["desired"]) == ("cold", 0)
    assert ward.asleep.starts() == ward.asleep.told("exit 0")
    assert (ward.init("asleep")["state"], ward.init("asleep")["target"]) == ("ready", 0)


def test_every_beginning_is_told_by_its_state(ward: Ward) -> None:
    assert ward.until_init("sound", "ready")["target"] == 1
    assert ward.until_init("slow", "starting")["ready"] == 0
    assert "/nowhere/at-all" in ward.until_init("nowhere", "suspended")["reason"]

    failing = ward.until_init("failing", "failed")
    assert failing["retries"] == 2
    assert failing["nextTryAt"] == ward.node.why("failing")["nextTryAt"]
    out = ward.node.command("status").stdout.decode()
    assert [line.split()[:2] for line in out.splitlines() if failing["nextTryAt"] in line] == [
        ["failing", "failed"]
    ]


def test_a_server_that_fails_its_first_starts_is_ready_in_the_end(ward: Ward) -> None:
    assert ward.until_init("healing", "ready")["ready"] == 1

    assert len(ward.healing.starts()) == 4


def test_one_ready_of_two_is_degraded_and_a_retry_mends_it(ward: Ward) -> None:
    assert ward.until_init("pair", "ready")["ready"] == 2
    ward.pair.behave(EXIT_IN_HANDSHAKE=7)
    os.kill(ward.node.pids("pair")[0], signal.SIGKILL)

    degraded = ward.until_init("pair", "degraded")
    ward.node.until(lambda: ward.init("pair")["retries"] == 2, "tried again")
    ward.pair.behave()
    ward.node.order("pair", "retry")

    assert (degraded["ready"], degraded["target"]) == (1, 2)
    assert ward.until_init("pair", "ready")["retries"] in (0, 2)
    assert len(ward.node.pids("pair")) == 2


# ---- learning again ---------------------------------------------------------------------------------------------


def test_a_refresh_learns_what_has_changed_and_leaves_nothing_running(tmp_path: Path) -> None:
    lists = tmp_path / "lists.json"
    lists.write_text('[{"name": "old", "inputSchema": {"type": "object"}}]')
    bad, other = BadServer(tmp_path, "bad", LIST_FILE=lists), BadServer(tmp_path, "other")
    with running_node(tmp_path, [bad.entry(), other.entry()]) as node:
        node.until_learnt(["bad", "other"])
        node.until(lambda: not node.why("other")["instances"], "cold")
        lists.write_text('[{"name": "new", "inputSchema": {"type": "object"}}]')

        done = node.command("catalog", "refresh", "bad", "--wait", "20")

        assert (done.returncode, done.stderr) == (0, b"")
        tools = {one["name"] for one in node.get("catalog/tools")["entries"] if one["server"] == "bad"}
        assert tools == {"bad_new"}
        node.until(lambda: not node.why("bad")["instances"], "cold again")
        assert (len(bad.starts()), len(other.starts())) == (2, 1)


def test_a_refresh_asks_what_runs_and_starts_nothing_beside_it(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    with running_node(tmp_path, [bad.entry(idleSeconds=LONG)]) as node, node.session() as session:
        node.until_learnt(["bad"])
        pid = session.text("bad_pid")
        starts = len(bad.starts())

        status, body = node.rest("POST", "catalog/refresh?wait=20")

        assert (status, body["state"], body["outcomes"][0]["attempts"]) == (200, "completed", 1)
        assert session.text("bad_pid") == pid
        assert len(bad.starts()) == starts


def test_a_refresh_that_fails_keeps_what_was_known_and_says_why(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    with running_node(tmp_path, [bad.entry()]) as node:
        node.until_learnt(["bad"])
        node.until(lambda: not node.why("bad")["instances"], "cold")
        known = {one["name"] for one in node.get("catalog/tools")["entries"]}
        bad.behave(LIST_ERROR=1)

        status, body = node.rest("POST", "catalog/refresh?wait=25")

        assert (status, body["state"]) == (200, "failed")
        assert "tools/list" in body["outcomes"][0]["reason"]
        assert {one["name"] for one in node.get("catalog/tools")["entries"]} == known


# ---- the deaths of those who see to it --------------------------------------------------------------------------


async def reborn(handle: Handle[Any]) -> None:
    """End an actor, and wait for its next incarnation."""
    before = handle.cell.incarnation
    handle.kill("for a test")
    await until(lambda: handle.cell.incarnation > before and handle.is_alive())


async def until_init(node: NodeRuntime, state: InitState, ready: int) -> None:
    """Wait until the one server is so; the scenario has a bound."""
    while True:
        [status] = await node._init.ask(ShowInit(), 5.0)
        if (status.state, status.ready) == (state, ready):
            return
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("kills", [1, 2])
def test_when_init_dies_an_always_on_server_is_up_again_with_its_processes_and_no_others(
    tmp_path: Path, kills: int
) -> None:
    bad = BadServer(tmp_path, "bad")
    entry = bad.entry(**ALWAYS, minReady=2, maxInstances=2, restart=SOON)

    async def main() -> None:
        async with running(options(tmp_path, entry)) as (node, _):
            await until_init(node, InitState.READY, 2)
            first = [pid for pid in bad.starts() if alive(pid)]

            for _ in range(kills):
                await reborn(node._init)

            await until(lambda: not any(group_members(pid) for pid in first))
            await until_init(node, InitState.READY, 2)
            assert len([pid for pid in bad.starts() if alive(pid)]) == 2
        assert not any(group_members(pid) for pid in bad.starts())

    run(main)


@pytest.mark.parametrize("kills", [1, 2])
def test_when_bootstrap_dies_what_it_was_learning_is_learnt_and_nothing_is_started_twice(
    tmp_path: Path, kills: int
) -> None:
    bad = BadServer(tmp_path, "bad", START_DELAY=0.3)

    async def main() -> None:
        async with running(options(tmp_path, bad.entry())) as (node, _):
            await until(lambda: bool(bad.starts()))

            for _ in range(kills):
                await reborn(node._bootstrap)

            await until(lambda: bool(node.context.world.world.tools.entries))
            await until(lambda: "exit 0" in [words for _, words in bad.story()])
            status = await node._bootstrap.ask(ShowLearning(), 5.0)
            assert (status.state, status.completed, status.total) == (LearningState.COMPLETED, 1, 1)
            assert len(bad.starts()) == 1

    run(main)


def test_when_bootstrap_dies_with_nothing_to_do_it_starts_nothing(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")

    async def main() -> None:
        async with running(options(tmp_path, bad.entry())) as (node, _):
            await until(lambda: bool(node.context.world.world.tools.entries))
            await until(lambda: "exit 0" in [words for _, words in bad.story()])

            await reborn(node._bootstrap)

            status = await node._bootstrap.ask(ShowLearning(), 5.0)
            assert (status.state, status.completed) == (LearningState.COMPLETED, 1)
            assert len(bad.starts()) == 1

    run(main)
