"""What dies and what comes back: instances, the node, its guard; nothing of them is left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.nodes import (
    BadServer,
    Node,
    ended_at_last,
    groups_gone,
    running_node,
    start_node,
    start_node_as_configured,
)
from support.processes import alive, marked, start_time, wait_until

# Instances are stopped by the node as it ends; a test that waits for idleness says so itself.
LONG = 600


class Deaths:
    """One node for the tests in which only instances die."""

    def __init__(self, folder: Path) -> None:
        self.victim = BadServer(folder, "victim")
        self.shared = BadServer(folder, "shared")
        self.kept = BadServer(folder, "kept")
        self.other = BadServer(folder, "other")
        self.entries = [
            self.victim.entry(idleSeconds=LONG, maxInstances=1),
            self.shared.entry(idleSeconds=LONG, maxInstances=1, maxConcurrent=3),
            self.kept.entry(activationMode="always-on"),
            self.other.entry(idleSeconds=LONG, maxInstances=1, maxConcurrent=2),
        ]
        self.node: Node


@pytest.fixture(scope="module")
def _deaths(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deaths]:
    folder = tmp_path_factory.mktemp("deaths")
    deaths = Deaths(folder)
    with running_node(folder, deaths.entries, bootstrapConcurrency=4) as deaths.node:
        deaths.node.until_learnt(["victim", "shared", "kept", "other"])
        yield deaths


@pytest.fixture
def deaths(_deaths: Deaths) -> Iterator[Deaths]:
    """The node, whose servers stop at the end of each test: a test leaves no process."""
    yield _deaths
    for server in (_deaths.victim, _deaths.shared, _deaths.kept, _deaths.other):
        _deaths.node.order(server, "stop")
    for server in (_deaths.victim, _deaths.shared, _deaths.other):
        # Lifts the stop and starts nothing: these have no desired count.
        _deaths.node.order(server, "retry")


def test_an_instance_killed_in_a_call_is_told_at_once_and_the_next_call_has_a_new_one(deaths: Deaths) -> None:
    node = deaths.node
    with node.session() as session:
        first = int(session.text("victim_pid"))
        call = session.call("victim_sleep", {"seconds": LONG})
        node.until(lambda: "busy" in {i["state"] for i in node.why("victim")["instances"]}, "busy")

        os.kill(first, signal.SIGKILL)
        error = call.failure()
        second = int(session.text("victim_pid"))

    assert error["code"] == -31007
    assert error["data"]["reason"] == "instance_died"
    assert error["data"]["executed"] == "unknown"
    assert error["data"]["server"] == "victim"
    assert error["data"]["lastExit"]["signal"] == signal.SIGKILL
    assert second != first
    assert groups_gone([first])


def test_all_calls_of_a_dead_instance_fail_and_those_of_another_server_do_not(deaths: Deaths) -> None:
    node = deaths.node
    with node.session() as session:
        pid = int(session.text("shared_pid"))
        elsewhere = session.call("other_sleep", {"seconds": 1})
        calls = [session.call("shared_sleep", {"seconds": LONG}) for _ in range(3)]
        node.until(lambda: node.why("shared")["instances"][0]["busy"] == 3, "all three in flight")

        os.kill(pid, signal.SIGKILL)
        reasons = [call.failure()["data"]["reason"] for call in calls]

        assert reasons == ["instance_died"] * 3
        assert elsewhere.text() == "slept 1.0"


def test_an_instance_that_exits_in_a_call_is_explained_by_its_code_and_its_last_words(deaths: Deaths) -> None:
    with deaths.node.session() as session:
        error = session.call("victim_crash", {"code": 5}).failure()

    assert error["data"]["reason"] == "instance_died"
    assert error["data"]["lastExit"]["code"] == 5
    assert deaths.node.why("victim")["lastExit"]["code"] == 5


def test_an_always_on_server_comes_back_by_itself(deaths: Deaths) -> None:
    node = deaths.node
    node.order("kept", "start")
    node.until(lambda: len(node.pids("kept")) == 1, "warm")
    [first] = node.pids("kept")

    os.kill(first, signal.SIGKILL)

    node.until(lambda: node.pids("kept") not in ([], [first]), "back")
    why = node.why("kept")
    assert (why["state"], why["startCause"], why["restarts"]) == ("ready", "always_on", 1)
    assert why["lastExit"]["signal"] == signal.SIGKILL


def test_nothing_remains_of_a_killed_node_whatever_its_servers_do_about_it(tmp_path: Path) -> None:
    servers = [BadServer(tmp_path, f"plain{number}") for number in range(6)]
    servers += [
        BadServer(tmp_path, "deaf", IGNORE_TERM=1, IGNORE_STDIN_EOF=1),
        BadServer(tmp_path, "silent", IGNORE_STDIN_EOF=1),
        BadServer(tmp_path, "parent", FORK_GRANDCHILD=1),
        BadServer(tmp_path, "runaway", SETSID_GRANDCHILD=1, IGNORE_STDIN_EOF=1),
    ]
    entries = [server.entry(activationMode="always-on") for server in servers]
    with running_node(tmp_path, entries) as node, node.session() as session:
        node.until_learnt([server.name for server in servers])
        for server in servers:
            node.until_state(server, "ready")
        call = session.call("plain0_sleep", {"seconds": LONG})
        servers[0].until_told("call sleep")
        leaders = [pid for server in servers for pid in node.pids(server)]
        grandchildren = [pid for server in servers for pid in server.grandchildren()]
        assert (len(leaders), len(grandchildren)) == (10, 2)
        assert all(map(alive, leaders + grandchildren))

        node.kill()

        assert groups_gone(leaders)
        assert wait_until(lambda: not any(map(alive, grandchildren)))
        assert node.leftovers() == []
        assert wait_until(lambda: not alive(node.guard))
        with pytest.raises(OSError, match=r"."):
            call.body()


def test_a_node_stopped_in_order_leaves_nothing_either(tmp_path: Path) -> None:
    deaf = BadServer(tmp_path, "deaf", IGNORE_TERM=1, IGNORE_STDIN_EOF=1)
    runaway = BadServer(tmp_path, "runaway", SETSID_GRANDCHILD=1)
    entries = [server.entry(activationMode="always-on", stopGraceSeconds=0.2) for server in (deaf, runaway)]
    with running_node(tmp_path, entries) as node:
        node.until_state(deaf, "ready")
        node.until_state(runaway, "ready")

        assert node.stop() == 0

        assert node.leftovers() == []
        assert groups_gone([*deaf.starts(), *runaway.starts()], timeout=0)
        assert not any(map(alive, runaway.grandchildren()))
        assert not alive(node.guard)


def test_what_node_and_guard_left_is_reaped_by_the_next_start_and_no_stranger_is(tmp_path: Path) -> None:
    deaf = BadServer(tmp_path, "deaf", IGNORE_TERM=1, IGNORE_STDIN_EOF=1)
    runaway = BadServer(tmp_path, "runaway", SETSID_GRANDCHILD=1)
    entries = [server.entry(activationMode="always-on", stopGraceSeconds=0.2) for server in (deaf, runaway)]
    node = start_node(tmp_path, entries)
    with ended_at_last(node):
        node.until_state(deaf, "ready")
        node.until_state(runaway, "ready")
        [leader], [escapee] = node.pids(deaf), runaway.grandchildren()
        os.kill(node.guard, signal.SIGSTOP)
        node.kill()
        os.kill(node.guard, signal.SIGKILL)
        assert wait_until(lambda: not alive(node.guard))
        assert alive(leader)
        assert alive(escapee)
        stranger = start_stranger(deaf)
        name_in_ledger(node, stranger.pid)

        with ended_at_last(start_node_as_configured(tmp_path)) as second:
            assert not alive(leader)
            assert not alive(escapee)
            assert stranger.poll() is None
            assert second.metrics()["mcpv_orphans_reaped_total"] == 2
            reaped = [line for line in second.log_lines() if line.get("event") == "orphan_reaped"]
            assert {line["reason"].split()[1] for line in reaped} == {str(leader), str(escapee)}
        stranger.kill()
        stranger.communicate()


def test_a_node_that_starts_while_the_guard_of_the_last_is_at_work_loses_none_of_its_servers(
    tmp_path: Path,
) -> None:
    deaf = BadServer(tmp_path, "deaf", IGNORE_TERM=1, IGNORE_STDIN_EOF=1)
    node = start_node(tmp_path, [deaf.entry(activationMode="always-on", stopGraceSeconds=0.2)])
    with ended_at_last(node):
        node.until_state(deaf, "ready")
        node.kill()

        with ended_at_last(start_node_as_configured(tmp_path)) as second:
            second.until_state(deaf, "ready")
            [pid] = second.pids(deaf)

            assert wait_until(lambda: not alive(node.guard))
            assert marked(f"{second.node_id}/") == [pid]
            with second.session() as session:
                second.until_learnt(["deaf"])
                assert session.text("deaf_pid") == str(pid)


def test_a_guard_that_dies_is_replaced_and_the_new_one_guards(tmp_path: Path) -> None:
    plain = BadServer(tmp_path, "plain", IGNORE_STDIN_EOF=1)
    with running_node(tmp_path, [plain.entry(activationMode="always-on")]) as node:
        node.until_state(plain, "ready")
        [pid] = node.pids(plain)

        os.kill(node.guard, signal.SIGKILL)
        assert wait_until(lambda: not alive(node.guard))
        node.until(lambda: guard_restarts(node) == 1, "replaced")
        assert alive(pid)
        node.kill()

        assert groups_gone([pid])


def guard_restarts(node: Node) -> int:
    """How often the tree says that the guard was started again."""
    [guard] = [child for child in node.get("tree")["children"] if child["id"] == "guard"]
    return int(guard["restarts"]) if guard["state"] == "running" else -1


def start_stranger(server: BadServer) -> subprocess.Popen[bytes]:
    """Start what has the same command line, but is not ours."""
    return subprocess.Popen(
        [str(server.script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )


def name_in_ledger(node: Node, pid: int) -> None:
    """Have the ledger name a process group that was given to somebody else since."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    entry = {
        "event": "started",
        "boot": boot,
        "instance": f"{node.node_id}/gone-1",
        "pid": pid,
        "pgid": pid,
        "start_time": start_time(pid) - 1,
        "argv0": "gone",
        "at": "2026-01-01T00:00:00.000Z",
    }
    with (node.state_dir / "ledger.jsonl").open("a") as ledger:
        ledger.write(json.dumps(entry) + "\n")
