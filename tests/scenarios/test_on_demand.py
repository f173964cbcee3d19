"""Servers that start on demand: who starts them, who waits, for how long, and what ends them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from support.nodes import BadServer, Node, running_node, text_of
from support.processes import alive, wait_until

LONG = 600

CALLERS = 20


class Pool:
    """One node, and a server for each pool setting."""

    SETTINGS: ClassVar[dict[str, dict[str, object]]] = {
        "single": {"maxInstances": 1, "maxConcurrent": 1},
        "pair": {"maxInstances": 1, "maxConcurrent": 2},
        "twins": {"maxInstances": 2, "maxConcurrent": 1},
        "narrow": {"maxInstances": 1, "maxConcurrent": 1, "queueLimit": 1},
        "hasty": {"maxInstances": 1, "maxConcurrent": 1, "queueTimeoutSeconds": 0.2},
        "brief": {"maxInstances": 1, "maxConcurrent": 1, "idleSeconds": 0.2},
        "strict": {"maxInstances": 1, "maxConcurrent": 2, "callTimeoutSeconds": 0.5, "maxCallSeconds": 30},
        "bounded": {"maxInstances": 1, "maxConcurrent": 1, "callTimeoutSeconds": 30, "maxCallSeconds": 0.5},
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

    def busy(self, name: str) -> int:
        """How many calls its instances have in hand."""
        return sum(int(one["busy"]) for one in self.node.why(name)["instances"])

    def until_busy(self, name: str, busy: int, waiting: int = 0) -> None:
        """Wait until so many calls run and so many wait."""
        self.node.until(
            lambda: (self.busy(name), self.node.why(name)["waiting"]) == (busy, waiting),
            f"{busy} busy and {waiting} waiting: {self.node.why(name)}",
        )


@pytest.fixture(scope="module")
def _pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    folder = tmp_path_factory.mktemp("on_demand")
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


def test_listing_starts_nothing_and_the_first_call_one_process(pool: Pool) -> None:
    with pool.node.session() as session:
        listed = session.tools()
        running = [server.starts() for server in pool.servers.values()]

        pid = session.text("single_pid")

    assert "single_echo" in listed
    assert running == [[]] * len(pool.servers)
    assert [str(started) for started in pool["single"].starts()] == [pid]
    assert pool.node.why("single")["startCause"] == "tool_call"


def test_twenty_cold_callers_share_one_start_and_all_get_their_results(pool: Pool) -> None:
    pool["single"].behave(START_DELAY=0.3)
    with pool.node.session() as session:
        calls = [session.call("single_echo", {"text": str(number)}) for number in range(CALLERS)]

        texts = [call.text() for call in calls]

    assert texts == [str(number) for number in range(CALLERS)]
    assert len(pool["single"].starts()) == 1


def test_cold_callers_start_no_more_processes_than_are_allowed(pool: Pool) -> None:
    pool["twins"].behave(START_DELAY=0.3)
    with pool.node.session() as session:
        calls = [session.call("twins_echo", {"text": str(number)}) for number in range(CALLERS)]

        texts = [call.text() for call in calls]

    assert texts == [str(number) for number in range(CALLERS)]
    assert len(pool["twins"].starts()) == 2


def test_no_more_calls_run_at_once_than_an_instance_takes(pool: Pool) -> None:
    with pool.node.session() as session:
        calls = [session.call("pair_sleep", {"seconds": 0.5}) for _ in range(5)]
        pool.until_busy("pair", 2, waiting=3)
        pool["pair"].until_told("call sleep", times=2)
        running = len(pool["pair"].told("call sleep"))

        texts = [call.text() for call in calls]

    assert running == 2
    assert texts == ["slept 0.5"] * 5


def test_who_waits_is_served_in_the_order_of_arrival(pool: Pool) -> None:
    with pool.node.session() as first, pool.node.session() as second:
        blocker = first.call("single_sleep", {"seconds": 0.7})
        pool.until_busy("single", 1)
        calls = []
        for waiting, tool in enumerate(("pid", "echo", "is_error", "env"), start=1):
            session = (first, second)[waiting % 2]
            calls.append(session.call(f"single_{tool}", {"text": "x", "name": "PATH"}))
            pool.until_busy("single", 1, waiting=waiting)
        blocker.text()
        for call in calls:
            call.text()

    served = [words for _, words in pool["single"].story() if words.startswith("call ")]
    assert served == ["call sleep", "call pid", "call echo", "call is_error", "call env"]


def test_a_full_queue_refuses_at_once_and_says_when_to_come_again(pool: Pool) -> None:
    with pool.node.session() as session:
        running = session.call("narrow_sleep", {"seconds": 0.7})
        pool.until_busy("narrow", 1)
        waiting = session.call("narrow_echo", {"text": "second"})
        pool.until_busy("narrow", 1, waiting=1)

        error = session.call("narrow_echo", {"text": "third"}).failure()

        assert not running.answered()
        assert (error["code"], error["data"]["reason"]) == (-31001, "overloaded")
        assert error["data"]["executed"] == "no"
        assert error["data"]["retryAfter"] > 0
        assert (running.text(), waiting.text()) == ("slept 0.7", "second")


def test_who_gets_no_slot_in_time_is_refused_and_the_running_call_is_not(pool: Pool) -> None:
    with pool.node.session() as session:
        session.text("hasty_pid")
        running = session.call("hasty_sleep", {"seconds": 1})
        pool.until_busy("hasty", 1)

        error = session.call("hasty_echo", {"text": "x"}).failure()

        assert not running.answered()
        assert (error["code"], error["data"]["reason"]) == (-31002, "queue_timeout")
        assert error["data"]["executed"] == "no"
        assert error["data"]["calledSeconds"] == 0
        assert running.text() == "slept 1.0"
    assert pool["hasty"].told("call echo") == []


def test_a_start_under_way_may_take_longer_than_the_queue(pool: Pool) -> None:
    pool["hasty"].behave(START_DELAY=0.6)
    with pool.node.session() as session:
        assert session.text("hasty_echo", text="patience") == "patience"


def test_a_start_survives_the_caller_it_was_made_for(pool: Pool) -> None:
    pool["single"].behave(START_DELAY=0.5)
    with pool.node.session() as session:
        session.call("single_echo", {"text": "gone"}, id="unwanted")
        pool["single"].until_told("start")
        session.cancel("unwanted")
        pool.node.until(lambda: pool.node.why("single")["waiting"] == 0, "left the queue")

        text = session.text("single_echo", text="next")

    assert text == "next"
    assert len(pool["single"].starts()) == 1
    assert len(pool["single"].told("call echo")) == 1


def test_a_start_survives_a_line_client_that_ends(pool: Pool) -> None:
    pool["single"].behave(START_DELAY=0.8)
    with pool.node.line_session() as client:
        params = {"name": "single_echo", "arguments": {"text": "gone"}}
        client.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        pool["single"].until_told("start")

    with pool.node.session() as session:
        assert session.text("single_echo", text="next") == "next"
    assert len(pool["single"].starts()) == 1


def test_an_idle_instance_stops_and_the_next_call_starts_another(pool: Pool) -> None:
    with pool.node.session() as session:
        first = int(session.text("brief_pid"))
        pool.node.until_state("brief", "cold")
        is_gone = wait_until(lambda: not alive(first))

        second = int(session.text("brief_pid"))

    assert is_gone
    assert pool["brief"].starts() == [first, second]
    assert pool["brief"].told("signal TERM") == []


def test_a_call_without_reply_or_progress_times_out_and_is_cancelled_at_the_server(pool: Pool) -> None:
    with pool.node.session() as session:
        error = session.call("strict_sleep", {"seconds": LONG}).failure()
        pool.node.until(lambda: len(pool["strict"].cancellations()) == 1, "cancelled")

    assert (error["code"], error["data"]["reason"]) == (-31008, "call_timeout")
    assert error["data"]["executed"] == "unknown"
    assert isinstance(json.loads(pool["strict"].cancellations()[0]), int)


def test_progress_resets_the_clock_of_a_call(pool: Pool) -> None:
    with pool.node.session() as session:
        arguments = {"seconds": 1.2, "steps": 6}
        call = session.call("strict_slow_progress", arguments, token="mine")

        *progress, reply = [json.loads(message) for message in call.messages()]

    assert text_of(reply) == "slept 1.2"
    assert [one["params"]["progress"] for one in progress] == [1, 2, 3, 4, 5, 6]
    assert {one["params"]["progressToken"] for one in progress} == {"mine"}


def test_no_progress_carries_a_call_past_its_absolute_limit(pool: Pool) -> None:
    with pool.node.session() as session:
        call = session.call("bounded_slow_progress", {"seconds": 20, "steps": 200}, token=1)

        error = call.failure()
        pool.node.until(lambda: len(pool["bounded"].cancellations()) == 1, "cancelled")

    assert (error["code"], error["data"]["reason"]) == (-31008, "call_timeout")


def test_a_cancelled_call_keeps_its_slot_until_the_server_has_answered(pool: Pool) -> None:
    pool["single"].behave(IGNORE_CANCEL=1)
    with pool.node.session() as session:
        session.call("single_sleep", {"seconds": 0.6}, id="unwanted")
        pool["single"].until_told("call sleep")
        session.cancel("unwanted")
        pool.node.until(lambda: len(pool["single"].cancellations()) == 1, "cancelled")
        next_call = session.call("single_pid")
        pool.until_busy("single", 1, waiting=1)

        pid = int(next_call.text())

    assert pool["single"].starts() == [pid]
    said = [words for _, words in pool["single"].story() if words.startswith(("call", "cancelled"))]
    assert said == ["call sleep", f"cancelled {pool['single'].cancellations()[0]}", "call pid"]


def test_a_server_that_never_answers_a_cancelled_call_is_replaced(pool: Pool) -> None:
    with pool.node.session() as session:
        first = int(session.text("single_pid"))
        session.call("single_sleep", {"seconds": LONG}, id="unwanted")
        pool["single"].until_told("call sleep")
        session.cancel("unwanted")

        second = int(session.text("single_pid"))

    assert pool["single"].starts() == [first, second]
    assert pool.node.state("single") == "ready"
    assert wait_until(lambda: not alive(first))


def test_replacing_it_does_not_cost_the_calls_beside_the_cancelled_one(pool: Pool) -> None:
    pool["pair"].behave()
    with pool.node.session() as session:
        session.call("pair_sleep", {"seconds": LONG}, id="unwanted")
        beside = session.call("pair_slow_progress", {"seconds": 1.7})
        pool["pair"].until_told("call slow_progress")
        pool["pair"].until_told("call sleep")
        session.cancel("unwanted")

        assert beside.text() == "slept 1.7"

        pool.node.until(lambda: pool.node.pids("pair") == [], "replaced")
        assert session.text("pair_pid") == str(pool["pair"].starts()[1])


def test_a_client_that_hangs_up_over_http_has_not_cancelled(pool: Pool) -> None:
    with pool.node.session() as session:
        call = session.call("single_sleep", {"seconds": 0.5})
        pool["single"].until_told("call sleep")
        call.hang_up()

        assert session.text("single_echo", text="next") == "next"

    assert pool["single"].cancellations() == []


def test_a_line_client_that_ends_has_cancelled(pool: Pool) -> None:
    with pool.node.line_session() as client:
        params = {"name": "single_sleep", "arguments": {"seconds": LONG}}
        client.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
        pool["single"].until_told("call sleep")

    pool.node.until(lambda: len(pool["single"].cancellations()) == 1, "cancelled")


def test_why_says_everything_in_the_fixed_names_and_forms(pool: Pool) -> None:
    with pool.node.session() as session:
        session.text("single_pid")
        session.call("single_error", {"code": -32050}).failure()
        why = pool.node.why("single")

    assert list(why) == [
        *("name", "specKey", "state", "reason", "since", "nextTryAt", "desired", "waiting", "startCause"),
        *("lastExit", "stderr", "starts", "restarts", "calls", "sharedWith", "instances"),
        *("learning", "lists"),
    ]
    assert (why["name"], why["state"], why["desired"], why["waiting"]) == ("single", "ready", 0, 0)
    assert why["startCause"] == "tool_call"
    assert (why["nextTryAt"], why["sharedWith"], why["stderr"]) == (None, [], [])
    assert set(why["calls"]) == {"ok", "failed", "refused"}
    [instance] = why["instances"]
    assert list(instance) == [
        *("id", "pid", "state", "busy", "startedAt", "idleSince", "era", "bindings"),
    ]
    assert instance["pid"] in pool["single"].starts()
    assert (instance["state"], instance["busy"], instance["era"], instance["bindings"]) == (
        *("ready", 0, "legacy", 0),
    )
    for moment in (why["since"], instance["startedAt"], instance["idleSince"], why["lastExit"]["at"]):
        assert is_rfc3339(moment), moment


def is_rfc3339(text: str) -> bool:
    """Tell whether it is UTC with milliseconds, and nothing else."""
    return len(text) == len("2026-01-01T00:00:00.000Z") and text[10] + text[19] + text[23] == "T.Z"
