"""Which process serves a call: each strategy with real processes, and how a pool grows, shrinks and takes turns."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from support.nodes import BadServer, Node, Session, running_node
from support.processes import alive, wait_until

LONG = 600


class KeySession(Session):
    """A client that says with which key its calls go, in a header."""

    def __init__(self, node: Node, key: str) -> None:
        super().__init__(node, "/mcp")
        self._key = key

    def _headers(self) -> dict[str, str]:
        return {**super()._headers(), "Mcpv-Key": self._key}


def pid_with_key(session: Session, tool: str, key: str, *, id: str) -> int:
    """Call the tool with a key in the request itself."""
    params = {"name": tool, "arguments": {}, "_meta": {"mcpv/key": key}}
    return int(session.send({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}).text())


class Pool:
    """One node, and a server for each strategy; none is kept ready for nobody."""

    SETTINGS: ClassVar[dict[str, dict[str, object]]] = {
        "bound": {"strategy": "stateful", "maxInstances": 2},
        "alone": {"strategy": "exclusive", "maxInstances": 2, "idleSeconds": 1},
        "single": {"strategy": "singleton", "maxConcurrent": 2},
        "lasting": {"strategy": "persistent", "maxInstances": 1, "idleSeconds": 0.2},
        "brief": {"maxInstances": 1, "idleSeconds": 0.2},
        "narrow": {"maxInstances": 1},
        "hasty": {"maxInstances": 1, "queueTimeoutSeconds": 0.3, "startTimeoutSeconds": 0.9},
        "patient": {"maxInstances": 1, "drainTimeoutSeconds": 20},
    }

    def __init__(self, folder: Path) -> None:
        self.servers = {name: BadServer(folder, name) for name in self.SETTINGS}
        self.entries = [
            server.entry(**{"idleSeconds": LONG, "drainTimeoutSeconds": 1, **self.SETTINGS[name]})
            for name, server in self.servers.items()
        ]
        self.node: Node

    def __getitem__(self, name: str) -> BadServer:
        return self.servers[name]

    def until_busy(self, name: str, busy: int, waiting: int = 0) -> None:
        """Wait until so many calls run and so many wait."""

        def is_so() -> bool:
            why = self.node.why(name)
            return (sum(one["busy"] for one in why["instances"]), why["waiting"]) == (busy, waiting)

        self.node.until(is_so, f"{busy} busy and {waiting} waiting: {self.node.why(name)}")


@pytest.fixture(scope="module")
def _pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    folder = tmp_path_factory.mktemp("strategies")
    pool = Pool(folder)
    with running_node(folder, pool.entries, bootstrapConcurrency=4) as pool.node:
        pool.node.until_learnt(pool.SETTINGS)
        yield pool


@pytest.fixture
def pool(_pool: Pool) -> Iterator[Pool]:
    """The node with nothing running, before each test and after it."""
    for server in _pool.servers.values():
        server.forget()
        server.behave()
    yield _pool
    for name in _pool.servers:
        if _pool.node.why(name)["instances"]:
            _pool.node.order(name, "stop")
        _pool.node.order(name, "retry")


def until_ready(node: Node, server: BadServer, count: int) -> set[int]:
    """Wait until so many instances are ready; their pids."""
    node.until(lambda: len(node.pids(server)) == count, f"{count} ready: {node.why(server)}")
    return set(node.pids(server))


# --- stateful -----------------------------------------------------------------------------------


def test_a_key_stays_with_one_of_the_processes_that_were_warm_before_it_came(tmp_path: Path) -> None:
    warm = BadServer(tmp_path, "warm")
    entry = warm.entry(strategy="stateful", activationMode="always-on", minReady=2, maxInstances=2)
    with running_node(tmp_path, [entry]) as node:
        node.until_learnt(["warm"])
        ready = until_ready(node, warm, 2)

        with KeySession(node, "k") as first, KeySession(node, "k") as second, KeySession(node, "l") as other:
            with_k = [int(first.text("warm_pid")) for _ in range(5)]
            of_another_session = int(second.text("warm_pid"))
            with_l = [int(other.text("warm_pid")) for _ in range(3)]
        with node.session() as session:
            in_requests = [pid_with_key(session, "warm_pid", "k", id=f"k{n}") for n in range(3)]

    assert set(with_k) < ready
    assert set(with_k) == {of_another_session} == set(in_requests)
    assert set(with_l) == ready - set(with_k)


def test_the_key_of_those_who_say_none_is_their_session(pool: Pool) -> None:
    with pool.node.session() as first, pool.node.session() as second:
        running = first.call("bound_sleep", {"seconds": 0.5})
        pool.until_busy("bound", 1)
        other = int(second.text("bound_pid"))
        running.text()

        pids = [(int(first.text("bound_pid")), int(second.text("bound_pid"))) for _ in range(3)]

    assert len(set(pids)) == 1
    assert pids[0][1] == other
    assert pids[0][0] != other


def test_parallel_calls_of_one_new_session_start_one_process(pool: Pool) -> None:
    pool["bound"].behave(START_DELAY=0.3)
    with pool.node.session() as session:
        calls = [session.call("bound_pid") for _ in range(5)]

        pids = {call.text() for call in calls}

    assert len(pids) == 1
    assert len(pool["bound"].starts()) == 1


def test_the_next_call_after_a_bound_process_was_killed_goes_elsewhere(pool: Pool) -> None:
    with pool.node.session() as session:
        before = int(session.text("bound_pid"))
        os.kill(before, signal.SIGKILL)
        pool.node.until(lambda: before not in pool.node.pids("bound"), "noticed")

        after = [int(session.text("bound_pid")) for _ in range(3)]

    assert before not in after
    assert len(set(after)) == 1


def test_a_busy_process_holds_up_its_own_key_and_nobody_else(pool: Pool) -> None:
    with pool.node.session() as first, pool.node.session() as second:
        running = first.call("bound_sleep", {"seconds": 1})
        pool.until_busy("bound", 1)
        waiting = first.call("bound_echo", {"text": "mine"})
        pool.until_busy("bound", 1, waiting=1)

        text = second.text("bound_echo", text="other")

        assert not waiting.answered()
        assert text == "other"
        assert (running.text(), waiting.text()) == ("slept 1.0", "mine")


# --- exclusive, singleton, persistent -----------------------------------------------------------


def test_each_key_has_an_exclusive_process_and_the_longest_idle_one_gives_way_to_a_third(pool: Pool) -> None:
    node = pool.node
    with node.session() as first, node.session() as second, node.session() as third:
        one, two = int(first.text("alone_pid")), int(second.text("alone_pid"))
        again = int(second.text("alone_pid"))

        three = int(third.text("alone_pid"))

        assert len({one, two, three}) == 3
        assert again == two
        assert wait_until(lambda: not alive(one))
    assert len(pool["alone"].starts()) == 3


def test_all_callers_of_a_singleton_share_its_process(pool: Pool) -> None:
    with pool.node.session() as first, pool.node.session() as second:
        calls = [session.call("single_sleep", {"seconds": 0.2}) for session in (first, second) * 3]

        texts = [call.text() for call in calls]

    assert texts == ["slept 0.2"] * 6
    assert len(pool["single"].starts()) == 1


def test_a_persistent_process_outlives_its_idle_time(pool: Pool) -> None:
    with pool.node.session() as session:
        pid = int(session.text("lasting_pid"))
        session.text("brief_pid")
        pool.node.until_state("brief", "cold")  # the same idle time has passed there, begun later

        assert int(session.text("lasting_pid")) == pid
    assert pool["lasting"].starts() == [pid]


# --- how a pool grows, shrinks, takes turns -----------------------------------------------------


def test_calls_one_after_the_other_go_round_the_warm_processes(tmp_path: Path) -> None:
    ring = BadServer(tmp_path, "ring")
    with running_node(tmp_path, [ring.entry(minReady=3, maxInstances=3, idleSeconds=LONG)]) as node:
        node.until_learnt(["ring"])
        with node.session() as session:
            ready = until_ready(node, ring, 3)

            pids = [int(session.text("ring_pid")) for _ in range(6)]

    assert set(pids) == ready
    assert pids[:3] == pids[3:]


def test_a_burst_grows_to_the_cap_and_shrinks_to_what_is_kept_ready(tmp_path: Path) -> None:
    burst = BadServer(tmp_path, "burst")
    with running_node(tmp_path, [burst.entry(minReady=1, maxInstances=3, idleSeconds=0.5)]) as node:
        node.until_learnt(["burst"])
        with node.session() as session:
            until_ready(node, burst, 1)
            burst.forget()

            calls = [session.call("burst_sleep", {"seconds": 1}) for _ in range(8)]
            grown = until_ready(node, burst, 3)
            texts = [call.text() for call in calls]
            shrunk = until_ready(node, burst, 1)

            assert texts == ["slept 1.0"] * 8
            assert shrunk < grown
            assert len(burst.starts()) == 2
            assert wait_until(lambda: sum(map(alive, grown)) == 1)


def test_a_long_queue_of_one_session_lets_another_through(pool: Pool) -> None:
    with pool.node.session() as greedy, pool.node.session() as modest:
        calls = [greedy.call("narrow_sleep", {"seconds": 1})]
        pool.until_busy("narrow", 1)
        for waiting in range(1, 6):
            calls.append(greedy.call("narrow_pid"))
            pool.until_busy("narrow", 1, waiting=waiting)
        calls.append(modest.call("narrow_echo", {"text": "x"}))
        pool.until_busy("narrow", 1, waiting=6)
        for call in calls:
            call.text()

    served = [words for _, words in pool["narrow"].story() if words.startswith("call ")]
    assert served == ["call sleep", "call pid", "call echo", *["call pid"] * 4]


def test_who_waits_for_a_slot_and_who_waits_for_a_start_learn_which_it_was(pool: Pool) -> None:
    with pool.node.session() as session:
        pool["hasty"].behave(HANG_HANDSHAKE=1)
        for_start = session.call("hasty_echo", {"text": "x"}).failure()
        pool["hasty"].behave()
        pool.node.order("hasty", "retry")
        session.text("hasty_pid")
        running = session.call("hasty_sleep", {"seconds": 1})
        pool.until_busy("hasty", 1)

        for_slot = session.call("hasty_echo", {"text": "x"}).failure()

        assert (for_start["code"], for_start["data"]["reason"]) == (-31003, "start_failed")
        assert (for_slot["code"], for_slot["data"]["reason"]) == (-31002, "queue_timeout")
        assert running.text() == "slept 1.0"


def test_a_drain_lets_a_busy_call_finish_while_new_callers_are_told(pool: Pool) -> None:
    with pool.node.session() as session:
        pid = int(session.text("patient_pid"))
        running = session.call("patient_sleep", {"seconds": 1})
        pool.until_busy("patient", 1)

        status, body = pool.node.rest("POST", "servers/patient/stop")
        error = session.call("patient_echo", {"text": "x"}).failure()

        assert (status, body["state"]) == (202, "draining")
        assert not running.answered()
        assert (error["code"], error["data"]["reason"], error["data"]["executed"]) == (
            -31006,
            "stopping",
            "no",
        )
        assert running.text() == "slept 1.0"
        assert wait_until(lambda: not alive(pid))
        pool.node.until_state("patient", "disabled")
