"""Servers that fail again and again: how long the node tries, what it says meanwhile, and what an operator can do."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from support.nodes import BadServer, Node, running_node
from support.processes import wait_until

LONG = 600

# Tries follow one another within milliseconds.
SOON = {"maxRetries": 2, "baseSeconds": 0.05, "maxSeconds": 0.1}

# The second try in a row is so far away that nobody waits for it.
LATE = {"maxRetries": 5, "baseSeconds": 300, "maxSeconds": 600}


class Clinic:
    """One node with servers that will fail."""

    SETTINGS: ClassVar[dict[str, dict[str, object]]] = {
        "looping": {"restart": SOON},
        "crashing": {"restart": SOON},
        "late": {"restart": LATE, "queueTimeoutSeconds": 1},
        "kept": {"restart": SOON, "activationMode": "always-on"},
        "killed": {"restart": SOON, "activationMode": "always-on"},
        "absent": {},
        "ordered": {},
    }

    def __init__(self, folder: Path) -> None:
        self.servers = {name: BadServer(folder, name) for name in self.SETTINGS}
        shared = {"idleSeconds": LONG, "maxInstances": 1}
        self.entries = [
            server.entry(**{**shared, **self.SETTINGS[name]}) for name, server in self.servers.items()
        ]
        self.entries.append({"name": "nowhere", "command": "/nowhere/at-all"})
        self.node: Node

    def __getitem__(self, name: str) -> BadServer:
        return self.servers[name]

    def wait(self, name: str) -> dict[str, object]:
        """Wait until a server is suspended; its report."""
        self.node.until_state(name, "suspended")
        return self.node.why(name)


@pytest.fixture(scope="module")
def _clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    folder = tmp_path_factory.mktemp("clinic")
    clinic = Clinic(folder)
    with running_node(folder, clinic.entries, bootstrapConcurrency=4) as clinic.node:
        clinic.node.until_learnt(clinic.SETTINGS)
        yield clinic


@pytest.fixture
def clinic(_clinic: Clinic) -> Iterator[Clinic]:
    """The node; at the end of each test every server is down and healthy again."""
    for server in _clinic.servers.values():
        server.forget()
    yield _clinic
    for name, server in _clinic.servers.items():
        server.behave()
        if _clinic.node.why(name)["instances"]:
            _clinic.node.order(name, "stop")
    for name, settings in _clinic.SETTINGS.items():
        if "activationMode" not in settings:
            _clinic.node.order(name, "retry")


def test_a_server_that_never_starts_is_tried_so_often_and_then_suspended_until_a_retry(
    clinic: Clinic,
) -> None:
    looping = clinic["looping"]
    looping.behave(EXIT_IN_HANDSHAKE=7)
    with clinic.node.session() as session:
        failures = [session.call("looping_echo", {"text": "x"}).failure() for _ in range(4)]
        why = clinic.node.why("looping")
        looping.behave()
        still = session.call("looping_echo", {"text": "x"}).failure()
        done = clinic.node.command("server", "retry", "looping", "--json")
        text = session.text("looping_echo", text="well again")

    reasons = [failure["data"]["reason"] for failure in failures]
    assert reasons == ["start_failed"] * 3 + ["suspended"]
    assert [failures[3]["code"], still["code"]] == [-31005, -31005]
    assert "exited with code 7" in failures[3]["message"]
    assert "server retry" in failures[3]["message"]
    assert (why["state"], why["nextTryAt"], why["starts"]) == (
        "suspended",
        None,
        4,
    )  # one was the bootstrap's
    assert done.returncode == 0, done.stderr
    assert text == "well again"


def test_crashes_count_like_failed_starts(clinic: Clinic) -> None:
    with clinic.node.session() as session:
        crashes = [session.call("crashing_crash", {"code": 3}).failure() for _ in range(3)]
        refused = session.call("crashing_echo", {"text": "x"}).failure()

    assert [crash["data"]["reason"] for crash in crashes] == ["instance_died"] * 3
    assert refused["data"]["reason"] == "suspended"
    assert "exited with code 3" in refused["message"]
    assert len(clinic["crashing"].starts()) == 3


def test_who_comes_long_before_the_next_try_is_refused_at_once_and_told_when(clinic: Clinic) -> None:
    late = clinic["late"]
    late.behave(EXIT_IN_HANDSHAKE=7)
    with clinic.node.session() as session:
        for _ in range(2):
            session.call("late_echo", {"text": "x"}).failure()
        error = session.call("late_echo", {"text": "x"}).failure()
        why = clinic.node.why("late")
        late.behave()
        clinic.node.order("late", "retry")
        text = session.text("late_echo", text="well again")

    assert (error["code"], error["data"]["reason"]) == (-31004, "backing_off")
    assert error["data"]["executed"] == "no"
    assert 100 < error["data"]["retryAfter"] <= 300
    assert error["data"]["lastExit"]["code"] == 7
    assert why["state"] == "backing_off"
    assert why["nextTryAt"].endswith("Z")
    assert why["nextTryAt"] > why["since"]
    assert why["stderr"] == ["exiting in the handshake, as told"]
    assert text == "well again"


def test_an_always_on_server_that_cannot_start_is_tried_by_the_node_itself_and_then_suspended(
    clinic: Clinic,
) -> None:
    kept = clinic["kept"]
    clinic.node.order("kept", "stop")
    kept.behave(EXIT_IN_HANDSHAKE=7)
    clinic.node.order("kept", "start")

    why = clinic.wait("kept")

    assert len(kept.starts()) == 3
    assert "3 failures in a row" in str(why["reason"])
    kept.behave()
    clinic.node.order("kept", "retry")
    clinic.node.until_state("kept", "ready")


def test_an_always_on_server_that_dies_again_and_again_is_suspended(clinic: Clinic) -> None:
    clinic.node.order("killed", "start")
    seen: list[int] = []

    def is_back() -> bool:
        return clinic.node.pids("killed") not in ([], seen[-1:])

    for _ in range(3):
        assert wait_until(is_back)
        seen += clinic.node.pids("killed")
        os.kill(seen[-1], signal.SIGKILL)

    why = clinic.wait("killed")

    assert len(set(seen)) == 3
    assert "was ended by signal 9" in str(why["reason"])
    assert why["instances"] == []


def test_a_command_that_is_not_there_suspends_at_once_and_is_named(clinic: Clinic) -> None:
    why = clinic.wait("nowhere")

    assert "/nowhere/at-all" in str(why["reason"])
    assert why["lastExit"] is None
    with clinic.node.session() as session:
        assert "well" not in session.tools()
        error = session.call("nowhere_echo").failure()
    assert error["code"] == -32602


def test_a_command_that_has_gone_is_named_to_its_caller_and_found_again_after_a_retry(clinic: Clinic) -> None:
    absent = clinic["absent"]
    absent.script.unlink()
    with clinic.node.session() as session:
        first = session.call("absent_echo", {"text": "x"}).failure()
        second = session.call("absent_echo", {"text": "x"}).failure()
        absent.behave()
        clinic.node.order("absent", "retry")
        text = session.text("absent_echo", text="found")

    assert [first["data"]["reason"], second["data"]["reason"]] == ["start_failed", "suspended"]
    for error in (first, second):
        assert str(absent.script) in error["message"]
        assert error["data"]["executed"] == "no"
    assert text == "found"


def test_an_operators_stop_drains_and_holds_and_a_start_lifts_it(clinic: Clinic) -> None:
    node = clinic.node
    with node.session() as session:
        running = session.call("ordered_sleep", {"seconds": 0.7})
        clinic["ordered"].until_told("call sleep")
        status, ordered = node.rest("POST", "servers/ordered/stop")
        refused = session.call("ordered_echo", {"text": "x"}).failure()
        slept = running.text()
        node.until_state("ordered", "disabled")
        held = session.call("ordered_echo", {"text": "x"}).failure()
        node.order("ordered", "start")
        [pid] = node.pids("ordered")
        served = session.text("ordered_pid")

    assert (status, ordered["state"]) == (202, "draining")
    assert slept == "slept 0.7"
    assert [refused["code"], held["code"]] == [-31006, -31006]
    assert held["data"]["reason"] == "stopping"
    assert served == str(pid)
    assert node.why("ordered")["startCause"] == "operator"


def test_the_command_line_says_what_the_rest_interface_says(clinic: Clinic) -> None:
    done = clinic.node.command("why", "nowhere", "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == clinic.node.why("nowhere")
