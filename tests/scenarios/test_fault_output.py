"""What servers send that no node can want: it is bounded, and costs nobody but the call it was for."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.nodes import BadServer, Node, groups_gone, running_node
from support.processes import alive, wait_until

LONG = 600

MIB = 1024 * 1024

# Four times what the node takes as a line, as it is set by default.
ENDLESS_LINE = 65 * MIB

# The node holds at most the 16 MiB of a line, and a copy of them for a moment.
LINE_MEMORY = 48 * MIB

FLOOD = 60 * MIB

FLOOD_LINES = 300_000

# A pipe's contents, a ring of 200 lines of 4 KiB, and what the allocator keeps.
FLOOD_MEMORY = 24 * MIB

# What a node may write to its log about a server that never stops complaining.
LOG_GROWTH = 2 * MIB


def peak_memory(pid: int) -> int:
    """Return the most that a process has had resident, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    [peak] = [line for line in lines if line.startswith("VmHWM:")]
    return int(peak.split()[1]) * 1024


@contextmanager
def beside_a_good_one(folder: Path, *servers: BadServer, options: tuple[str, ...] = ()) -> Iterator[Node]:
    """Have a node with these and with `good`; everything is learnt and nothing runs."""
    good = BadServer(folder, "good")
    settings = {"idleSeconds": LONG, "maxInstances": 1, "maxConcurrent": 4, "stopGraceSeconds": 0.5}
    entries = [server.entry(**settings) for server in (*servers, good)]
    with running_node(folder, entries, *options) as node:
        node.until_learnt([server.name for server in (*servers, good)])
        for server in (*servers, good):
            assert wait_until(lambda server=server: not any(map(alive, server.starts())))
            server.forget()
        yield node


def test_a_line_of_65_mib_fails_its_call_and_is_never_held(tmp_path: Path) -> None:
    server = BadServer(tmp_path, "endless")
    with beside_a_good_one(tmp_path, server) as node, node.session() as session:
        pid = session.text("endless_pid")
        session.text("good_pid")
        before = peak_memory(node.pid)

        reasons: list[str] = []
        for number in range(4):
            endless = session.call("endless_big", {"bytes": ENDLESS_LINE})
            assert session.text("good_echo", text=str(number)) == str(number)
            reasons.append(endless.failure()["data"]["reason"])
            # A good reply between two of them.
            assert session.text("endless_pid") == pid

        assert reasons == ["bad_reply"] * 4
        assert server.starts() == [int(pid)]
        assert peak_memory(node.pid) - before < LINE_MEMORY


def test_a_line_as_long_as_is_allowed_arrives_whole(tmp_path: Path) -> None:
    server = BadServer(tmp_path, "endless")
    size = 15 * MIB
    with beside_a_good_one(tmp_path, server) as node, node.session() as session:
        assert len(session.text("endless_big", bytes=size)) == size


@pytest.mark.parametrize("knobs", [{"STDERR_FLOOD": FLOOD}, {"STDERR_LINES": FLOOD_LINES}])
def test_a_flood_on_stderr_is_read_and_neither_kept_nor_logged(
    tmp_path: Path, knobs: dict[str, object]
) -> None:
    server = BadServer(tmp_path, "loud")
    options = ("--log-level", "debug")
    with beside_a_good_one(tmp_path, server, options=options) as node, node.session() as session:
        session.text("good_pid")
        logged, before = len(node.log()), peak_memory(node.pid)
        server.behave(**knobs)

        loud = session.call("loud_echo", {"text": "hello"})
        server.until_told("start")
        while not loud.answered():
            assert session.text("good_echo", text="as ever") == "as ever"

        assert loud.text() == "hello"
        stderr = node.why("loud")["stderr"]
        assert len(stderr) <= 20
        assert max(map(len, stderr), default=0) <= 4096
        assert peak_memory(node.pid) - before < FLOOD_MEMORY
        assert len(node.log()) - logged < LOG_GROWTH


@pytest.mark.parametrize("end", ["crash", "killed", "hang"])
def test_a_helper_in_a_session_of_its_own_ends_with_a_server_that_did_not_end_well(
    tmp_path: Path, end: str
) -> None:
    server = BadServer(tmp_path, "parent")
    with beside_a_good_one(tmp_path, server) as node, node.session() as session:
        server.behave(SETSID_GRANDCHILD=1, IGNORE_STDIN_EOF=1, IGNORE_TERM=int(end == "hang"))
        pid = int(session.text("parent_pid"))
        [helper] = server.grandchildren()
        assert alive(helper)

        if end == "crash":
            session.call("parent_crash", {"code": 4}).failure()
        elif end == "killed":
            os.kill(pid, signal.SIGKILL)
        else:
            node.order("parent", "stop")

        assert wait_until(lambda: not alive(helper))
        assert groups_gone([pid])


def test_a_helper_in_a_session_of_its_own_ends_with_a_start_that_failed(tmp_path: Path) -> None:
    server = BadServer(tmp_path, "parent")
    with beside_a_good_one(tmp_path, server) as node, node.session() as session:
        server.behave(SETSID_GRANDCHILD=1, EXIT_IN_HANDSHAKE=3)

        error = session.call("parent_echo", {"text": "x"}).failure()
        helpers = server.grandchildren()

        assert error["data"]["reason"] == "start_failed"
        assert helpers
        assert wait_until(lambda: not any(map(alive, helpers)))


def test_a_helper_that_outlived_an_orderly_stop_does_not_outlive_the_node(tmp_path: Path) -> None:
    server = BadServer(tmp_path, "parent")
    with beside_a_good_one(tmp_path, server) as node, node.session() as session:
        server.behave(SETSID_GRANDCHILD=1)
        session.text("parent_pid")
        [helper] = server.grandchildren()
        node.order("parent", "stop")

        assert node.stop() == 0

        assert wait_until(lambda: not alive(helper))


# ---- calls that nobody waits for any more (I3) ------------------------------------------------------------------


def test_a_timed_out_call_keeps_its_slot_until_its_server_has_answered(tmp_path: Path) -> None:
    server = BadServer(tmp_path, "slow")
    entry = server.entry(
        idleSeconds=LONG, maxInstances=1, maxConcurrent=1, callTimeoutSeconds=0.4, drainTimeoutSeconds=20
    )
    with running_node(tmp_path, [entry]) as node, node.session() as session:
        node.until_learnt(["slow"])
        assert wait_until(lambda: not any(map(alive, server.starts())))
        server.forget()
        server.behave(IGNORE_CANCEL=1)
        pid = session.text("slow_pid")

        error = session.call("slow_sleep", {"seconds": 1.2}).failure()
        held = node.why("slow")["instances"][0]["busy"]
        # It has its own 0.4 s only from the moment it has the slot.
        text = session.text("slow_echo", text="next")

        assert error["data"]["reason"] == "call_timeout"
        assert error["data"]["executed"] == "unknown"
        assert held == 1
        assert text == "next"
        assert [str(started) for started in server.starts()] == [pid]
        said = [words for _, words in server.story() if words.startswith(("call", "cancelled"))]
        [number] = server.cancellations()
        assert said == ["call pid", "call sleep", f"cancelled {number}", "call echo"]
        assert isinstance(json.loads(number), int)


def test_a_timed_out_call_that_is_never_answered_costs_the_instance_and_the_next_call_has_a_new_one(
    tmp_path: Path,
) -> None:
    server = BadServer(tmp_path, "slow")
    entry = server.entry(
        idleSeconds=LONG, maxInstances=1, maxConcurrent=1, callTimeoutSeconds=0.3, drainTimeoutSeconds=0.5
    )
    with running_node(tmp_path, [entry]) as node, node.session() as session:
        node.until_learnt(["slow"])
        assert wait_until(lambda: not any(map(alive, server.starts())))
        server.forget()
        server.behave(IGNORE_CANCEL=1)
        first = int(session.text("slow_pid"))

        error = session.call("slow_sleep", {"seconds": LONG}).failure()
        second = int(session.text("slow_pid"))

        assert error["data"]["reason"] == "call_timeout"
        assert server.starts() == [first, second]
        assert groups_gone([first])
        # The new one began when the old one had gone: never more than one.
        story = server.story()
        assert story.index((second, "start")) > story.index((first, "stop"))


def test_no_more_calls_run_than_there_are_slots_however_many_have_timed_out(tmp_path: Path) -> None:
    server = BadServer(tmp_path, "slow")
    entry = server.entry(
        idleSeconds=LONG, maxInstances=1, maxConcurrent=2, callTimeoutSeconds=0.3, drainTimeoutSeconds=20
    )
    with running_node(tmp_path, [entry]) as node, node.session() as session:
        node.until_learnt(["slow"])
        assert wait_until(lambda: not any(map(alive, server.starts())))
        server.forget()
        server.behave(IGNORE_CANCEL=1)
        session.text("slow_pid")

        calls = [session.call("slow_sleep", {"seconds": 0.8}) for _ in range(6)]
        reasons = [call.failure()["data"]["reason"] for call in calls]
        text = session.text("slow_echo", text="next")

        assert reasons == ["call_timeout"] * 6
        assert text == "next"
        assert len(server.starts()) == 1
        # Each pair of calls was let in when the pair before it had been answered, not when it had timed out.
        said = [
            words.split()[0] for _, words in server.story() if words.startswith(("call sleep", "cancelled"))
        ]
        assert said == [*("call", "call", "cancelled", "cancelled")] * 3
