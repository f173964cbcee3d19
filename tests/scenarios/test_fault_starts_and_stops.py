"""Starts and stops that meet each other: every call gets its result, and never is one process too many."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.nodes import BadServer, Exchange, Node, groups_gone, running_node
from support.processes import alive, wait_until

LONG = 600

# A start that is still under way when everything else of a test is over.
ENDLESS_START = 500

# How often calls and idle stops are made to meet.
ROUNDS = 60

# What happens between two calls takes from nothing to twice the idle time; failures are replayed with this.
SEED = 20261120

Story = list[tuple[int, str]]


def most_at_once(story: Story) -> int:
    """Count how many processes lived at the same time, by what they said themselves."""
    living: set[int] = set()
    most = 0
    for pid, words in story:
        if words == "start":
            living.add(pid)
            most = max(most, len(living))
        elif words.startswith("exit ") or words == "signal 9":
            living.discard(pid)
    return most


@contextmanager
def node_with(folder: Path, server: BadServer, **settings: object) -> Iterator[Node]:
    """Have a node with one server whose tools are known and which does not run."""
    with running_node(folder, [server.entry(**settings)]) as node:
        node.until_learnt([server.name])
        # The probe's own process, too.
        assert wait_until(lambda: not any(map(alive, server.starts())))
        server.forget()
        yield node


# ---- calls and idle stops ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("idle", [0, 0.01])
def test_a_call_at_the_very_moment_of_the_idle_stop_gets_its_result(tmp_path: Path, idle: float) -> None:
    server = BadServer(tmp_path, "brief")
    between = random.Random(SEED)
    with (
        node_with(tmp_path, server, idleSeconds=idle, maxInstances=1) as node,
        node.session() as session,
    ):
        texts: list[str] = []
        for number in range(ROUNDS):
            # Each takes a millisecond or two, so that a call comes before, at and after the end of the idle time.
            for _ in range(between.randrange(50)):
                session.tools()
            texts.append(session.text("brief_echo", text=str(number)))
        calls = node.why("brief")["calls"]

    assert texts == [str(number) for number in range(ROUNDS)]
    assert (calls["failed"], calls["refused"]) == (0, 0)
    assert len(server.starts()) > 1  # else they have not met
    assert most_at_once(server.story()) == 1
    assert server.told("signal TERM") == []


def test_calls_side_by_side_meet_idle_stops_and_all_get_their_results(tmp_path: Path) -> None:
    server = BadServer(tmp_path, "brief")
    settings = {"idleSeconds": 0, "maxInstances": 3, "maxConcurrent": 2}
    with node_with(tmp_path, server, **settings) as node, node.session() as session:
        texts: list[str] = []
        for number in range(0, ROUNDS, 6):
            calls = [session.call("brief_echo", {"text": str(number + one)}) for one in range(6)]
            texts += [call.text() for call in calls]

    assert texts == [str(number) for number in range(ROUNDS)]
    assert most_at_once(server.story()) <= 3


# ---- pings ------------------------------------------------------------------------------------------------------


def test_a_server_that_does_not_run_is_not_started_to_be_pinged(tmp_path: Path) -> None:
    dormant = BadServer(tmp_path, "dormant", LOG_PINGS=1)
    warm = BadServer(tmp_path, "warm", LOG_PINGS=1)
    entries = [server.entry(idleSeconds=LONG, pingIntervalSeconds=0.05) for server in (dormant, warm)]
    with running_node(tmp_path, entries) as node, node.session() as session:
        node.until_learnt(["dormant", "warm"])
        assert wait_until(lambda: not any(map(alive, dormant.starts())))
        dormant.forget()
        warm.forget()

        session.text("warm_pid")
        warm.until_told("ping", times=10)

        assert dormant.story() == []
        assert node.state("dormant") == "cold"
        assert len(warm.starts()) == 1


# ---- cold callers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("callers", [1, 10, 50])
def test_cold_callers_share_exactly_one_process_and_have_one_result_each(
    tmp_path: Path, callers: int
) -> None:
    server = BadServer(tmp_path, "cold")
    with (
        node_with(tmp_path, server, idleSeconds=LONG, maxInstances=1, maxConcurrent=8) as node,
        node.session() as session,
    ):
        calls = [session.call("cold_echo", {"text": str(number)}) for number in range(callers)]

        texts = [call.text() for call in calls]

        assert texts == [str(number) for number in range(callers)]
        assert len(server.starts()) == 1
        assert len(server.told("call echo")) == callers
        assert node.why("cold")["calls"]["ok"] == callers


def test_a_slow_start_of_one_server_holds_up_no_call_to_another(tmp_path: Path) -> None:
    slow, quick = BadServer(tmp_path, "slow"), BadServer(tmp_path, "quick")
    entries = [
        slow.entry(startTimeoutSeconds=LONG, stopGraceSeconds=0.2),
        quick.entry(idleSeconds=LONG, maxInstances=2, maxConcurrent=4),
    ]
    with running_node(tmp_path, entries) as node, node.session() as session:
        node.until_learnt(["slow", "quick"])
        assert wait_until(lambda: not any(map(alive, [*slow.starts(), *quick.starts()])))
        slow.forget()
        slow.behave(START_DELAY=ENDLESS_START)
        waiting = session.call("slow_echo", {"text": "patience"})
        slow.until_told("start")

        calls = [session.call("quick_echo", {"text": str(number)}) for number in range(30)]
        texts = [call.text() for call in calls]
        one_by_one = [session.text("quick_echo", text=str(number)) for number in range(30)]

        assert texts == one_by_one == [str(number) for number in range(30)]
        assert not waiting.answered()
        assert node.state("slow") == "starting"
        assert slow.told("initialize") == []
        # A stop during a start cancels it.
        assert node.order("slow", "stop")["state"] == "disabled"
        assert waiting.failure()["data"]["reason"] == "stopping"
        assert groups_gone(slow.starts())
        assert len(slow.starts()) == 1


# ---- operators --------------------------------------------------------------------------------------------------


def test_orders_given_all_at_once_leave_what_the_last_one_asked_for(tmp_path: Path) -> None:
    server = BadServer(tmp_path, "ordered")
    order_of = random.Random(SEED)
    with node_with(tmp_path, server, idleSeconds=LONG, maxInstances=2) as node:
        for _ in range(5):
            verbs = ["start"] * 6 + ["stop"] * 6 + ["retry"] * 3
            order_of.shuffle(verbs)
            orders: list[Exchange] = [
                node.send("POST", f"/api/v1/servers/ordered/{verb}?wait=20") for verb in verbs
            ]
            statuses = {order.response.status for order in orders}
            for order in orders:
                order.body()
            assert statuses <= {200, 202}

            stopped = node.order("ordered", "stop")
            assert stopped["state"] == "disabled"
            assert not any(map(alive, server.starts()))

            started = node.order("ordered", "start")
            assert started["state"] == "ready"
            assert [pid for pid in server.starts() if alive(pid)] == node.pids("ordered")

    assert most_at_once(server.story()) <= 2


def test_stops_given_at_once_all_hear_the_same_end(tmp_path: Path) -> None:
    server = BadServer(tmp_path, "ordered", IGNORE_STDIN_EOF=1)
    with (
        running_node(tmp_path, [server.entry(activationMode="always-on", stopGraceSeconds=0.3)]) as node,
        node.session(),
    ):
        node.until_state("ordered", "ready")
        [pid] = node.pids("ordered")

        orders = [node.send("POST", "/api/v1/servers/ordered/stop?wait=20") for _ in range(10)]
        for order in orders:
            order.body()

        assert node.state("ordered") == "disabled"
        assert not alive(pid)
        assert server.told("stop") == [pid]
        assert server.told("signal TERM") == [pid]


# ---- stops in parallel, and stops that hang ---------------------------------------------------------------------


def test_servers_that_are_slow_to_go_are_all_told_before_the_first_is_gone(tmp_path: Path) -> None:
    shared = tmp_path / "shared.log"
    servers = [BadServer(tmp_path, f"slow{number}") for number in range(5)]
    for server in servers:
        server.behave(IGNORE_STDIN_EOF=1, SPAWN_LOG=shared)
        server.spawn_log = shared
    entries = [server.entry(activationMode="always-on", stopGraceSeconds=1) for server in servers]
    with running_node(tmp_path, entries, bootstrapMode="disabled") as node:
        for server in servers:
            node.until_state(server, "ready")
        shared.unlink()

        code = node.stop()

    assert code == 0
    words = [words for _, words in servers[0].story()]
    first_gone = next(at for at, said in enumerate(words) if said.startswith("exit"))
    assert words[:first_gone].count("stop") == 5
    assert len({pid for pid, said in servers[0].story() if said.startswith("exit")}) == 5


def test_the_instances_of_one_server_are_all_told_before_the_first_is_gone(tmp_path: Path) -> None:
    server = BadServer(tmp_path, "many", IGNORE_STDIN_EOF=1)
    entry = server.entry(activationMode="always-on", minReady=5, maxInstances=5, stopGraceSeconds=1)
    with running_node(tmp_path, [entry]) as node:
        node.until(lambda: len(node.pids("many")) == 5, "five")
        server.forget()

        assert node.order("many", "stop")["state"] == "disabled"

    words = [words for _, words in server.story()]
    first_gone = next(at for at, said in enumerate(words) if said.startswith("exit"))
    assert words[:first_gone].count("stop") == 5


def test_a_close_that_hangs_holds_up_nobody_else(tmp_path: Path) -> None:
    wedged, other = BadServer(tmp_path, "wedged"), BadServer(tmp_path, "other")
    entries = [
        wedged.entry(idleSeconds=LONG, maxInstances=2, stopGraceSeconds=LONG),
        other.entry(idleSeconds=LONG, maxInstances=1),
    ]
    with running_node(tmp_path, entries) as node, node.session() as session:
        node.until_learnt(["wedged", "other"])
        assert wait_until(lambda: not any(map(alive, [*wedged.starts(), *other.starts()])))
        wedged.forget()
        wedged.behave(IGNORE_TERM=1, IGNORE_STDIN_EOF=1)
        pid = int(session.text("wedged_pid"))
        # It hears nothing at all any more, not even the end of its input.
        os.kill(pid, signal.SIGSTOP)
        node.order("wedged", "stop", wait=0)
        node.until_state("wedged", "draining")

        texts = [session.text("other_echo", text=str(number)) for number in range(10)]
        started = node.order("other", "start")["state"]
        stopped = node.order("other", "stop")["state"]
        refused = session.call("wedged_echo", {"text": "x"}).failure()["data"]["reason"]
        still = (node.state("wedged"), alive(pid))
        node.order("wedged", "start", wait=0)
        # The old one is still on its way out; it is not waited for.
        second = int(session.text("wedged_pid"))

        assert texts == [str(number) for number in range(10)]
        assert (started, stopped) == ("ready", "disabled")
        assert refused == "stopping"
        assert still == ("draining", True)
        assert second != pid
        assert alive(pid)
        for leader in (pid, second):
            os.killpg(leader, signal.SIGKILL)
        assert groups_gone([pid, second])


def test_a_server_that_hears_nothing_does_not_hold_up_the_end_of_the_node(tmp_path: Path) -> None:
    server = BadServer(tmp_path, "frozen")
    entries = [server.entry(activationMode="always-on", stopGraceSeconds=0.2)]
    with running_node(tmp_path, entries) as node:
        node.until_state("frozen", "ready")
        [pid] = node.pids("frozen")
        os.kill(pid, signal.SIGSTOP)

        assert node.stop() == 0

        assert groups_gone([pid])


# ---- crashes around the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", range(4))
def test_a_crash_just_before_the_end_of_the_node_is_not_followed_by_a_start(
    tmp_path: Path, moment: int
) -> None:
    servers = [BadServer(tmp_path, f"kept{number}") for number in range(4)]
    restart = {"maxRetries": 1000, "baseSeconds": 0.01, "maxSeconds": 0.01}
    entries = [server.entry(activationMode="always-on", restart=restart) for server in servers]
    with running_node(tmp_path, entries, bootstrapMode="disabled") as node:
        for server in servers:
            node.until_state(server, "ready")
        for server in servers:
            for pid in node.pids(server):
                os.kill(pid, signal.SIGKILL)
        if moment == 1:
            node.until(lambda: node.why("kept0")["restarts"] > 0, "noticed")
        elif moment == 2:
            node.until(lambda: len(servers[0].starts()) > 1, "started again")
        elif moment == 3:
            node.until(lambda: len(servers[0].told("initialize")) > 1, "shaking hands again")

        code = node.stop()
        pids = [pid for server in servers for pid in server.starts()]

        assert code == 0
        assert not any(map(alive, pids))
        assert wait_until(lambda: not alive(node.guard))
        assert [pid for server in servers for pid in server.starts()] == pids
        assert node.leftovers() == []
