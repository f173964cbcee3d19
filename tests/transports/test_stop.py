"""A stop ends the whole group, by no more force than it takes, and says what it took."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from support.children import RecordingSink, run, spawn_badserver, spawn_shell
from support.processes import alive, group_members, marked, wait_until

from mcpv_node.telemetry.clock import SystemClock
from mcpv_node.transports import StdioProcess, StopReport, guard, stop_process
from mcpv_node.transports import stop as stop_module

# Far longer than what obeys needs, even on a busy machine.
AMPLE = 10.0

# For what does not obey: nothing is gained by giving it more.
SHORT = 0.2

on_both_loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


async def stop(process: StdioProcess, *, grace: float = AMPLE, term_grace: float = AMPLE) -> StopReport:
    return await stop_process(process, grace=grace, term_grace=term_grace, clock=SystemClock())


@on_both_loops
def test_who_ends_with_its_stdin_is_asked_and_not_signalled(loop: str) -> None:
    async def main() -> None:
        sink = RecordingSink()
        process = spawn_shell("trap 'exit 99' TERM; echo up; cat; exit 0", sink)
        await sink.until(lambda: sink.stdout == b"up\n")

        report = await stop(process)

        assert (report.how, report.survivors) == ("asked", ())
        assert sink.status is not None
        assert sink.status.code == 0

    run(main(), loop)


def test_who_has_ended_is_already_stopped() -> None:
    async def main() -> None:
        sink = RecordingSink()
        process = spawn_shell("exit 0", sink)
        await sink.until_exit()

        assert (await stop(process)).how == "already"

    run(main())


@on_both_loops
def test_who_ignores_the_end_of_stdin_is_terminated(loop: str, tmp_path: Path) -> None:
    async def main() -> None:
        log = tmp_path / "log"
        sink = RecordingSink()
        process = spawn_badserver("IGNORE_STDIN_EOF=1", f"SPAWN_LOG={log}", sink=sink)
        await _handshake(process, sink)

        report = await stop(process, grace=SHORT)

        assert report.how == "terminated"
        assert f"{process.pid} signal TERM" in log.read_text()

    run(main(), loop)


@on_both_loops
def test_who_ignores_term_is_killed(loop: str) -> None:
    async def main() -> None:
        sink = RecordingSink()
        process = spawn_badserver("IGNORE_STDIN_EOF=1", "IGNORE_TERM=1", sink=sink)
        await _handshake(process, sink)

        report = await stop(process, grace=SHORT, term_grace=SHORT)

        assert (report.how, report.survivors) == ("killed", ())
        assert sink.status is not None
        assert sink.status.signal == signal.SIGKILL

    run(main(), loop)


@on_both_loops
def test_a_grandchild_that_outlives_its_parent_is_terminated_too(loop: str) -> None:
    async def main() -> None:
        sink = RecordingSink()
        process = spawn_badserver("FORK_GRANDCHILD=1", sink=sink)
        await _handshake(process, sink)
        assert len(group_members(process.pgid)) == 2

        report = await stop(process, grace=SHORT)

        assert (report.how, report.survivors) == ("terminated", ())
        assert group_members(process.pgid) == []
        assert sink.status is not None
        assert sink.status.code == 0

    run(main(), loop)


def test_a_group_whose_leader_has_ended_is_stopped_as_well() -> None:
    async def main() -> None:
        sink = RecordingSink()
        process = spawn_shell("(trap '' TERM; echo up; while :; do sleep 300; done) & read x; exit 1", sink)
        await sink.until(lambda: sink.stdout == b"up\n")
        os.kill(process.pid, signal.SIGKILL)
        await sink.until_exit()

        report = await stop(process, grace=SHORT, term_grace=SHORT)

        assert (report.how, report.survivors) == ("killed", ())
        assert group_members(process.pgid) == []

    run(main())


def test_who_left_the_group_of_a_crashed_server_is_found_by_the_mark() -> None:
    async def main() -> None:
        mark, other = f"test-{os.getpid()}/fs-1", f"test-{os.getpid()}/fs-10"
        sink, neighbour_sink = RecordingSink(), RecordingSink()
        process = spawn_badserver("SETSID_GRANDCHILD=1", sink=sink, env={"MCPV_INSTANCE": mark})
        neighbour = spawn_shell("exec cat", neighbour_sink, env={"MCPV_INSTANCE": other})
        await _handshake(process, sink)
        escapees = [pid for pid in marked(mark) if pid not in (process.pid, neighbour.pid)]
        assert len(escapees) == 1
        os.kill(process.pid, signal.SIGKILL)
        await sink.until_exit()

        report = await stop(process)

        assert (report.how, report.survivors) == ("already", ())
        assert not alive(escapees[0])
        assert neighbour.exit_status is None
        neighbour.close_stdin()
        await neighbour_sink.until_exit()

    run(main())


def test_who_has_left_the_group_but_shows_no_mark_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Right after a start of a process its environment reads as empty, until its exec is over."""

    async def main() -> None:
        mark = f"test-{os.getpid()}/fs-1"
        sink = RecordingSink()
        process = spawn_badserver("SETSID_GRANDCHILD=1", sink=sink, env={"MCPV_INSTANCE": mark})
        await _handshake(process, sink)
        (escapee,) = (pid for pid in marked(mark) if pid != process.pid)
        os.kill(process.pid, signal.SIGKILL)
        await sink.until_exit()
        looks: list[int] = []

        def read(pid: int) -> bytes | None:
            if pid == escapee:
                looks.append(pid)
            return b"" if pid == escapee and len(looks) < 3 else guard.read_environ(pid)

        # As long as the test says so, whatever the clock says.
        monkeypatch.setattr(stop_module, "read_environ", read)
        monkeypatch.setattr(stop_module, "is_starting", lambda candidate: candidate.pid == escapee)

        await stop(process)

        assert not alive(escapee)

    run(main())


def test_only_a_young_process_of_a_program_may_show_an_environment_later() -> None:
    me = guard.find_process(os.getpid())
    assert me is not None
    young = subprocess.Popen(["/bin/sleep", "300"], env={})
    try:
        found = guard.find_process(young.pid)
        assert found is not None

        now = time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK")
        assert guard.is_starting(found._replace(start_time=int(now)))
        assert not guard.is_starting(me._replace(start_time=0))
        assert not guard.is_starting(found._replace(pid=2**22 + 1))
    finally:
        young.kill()
        young.wait(AMPLE)


def test_a_stop_during_a_long_unread_write_still_ends() -> None:
    async def main() -> None:
        sink = RecordingSink()
        process = spawn_shell("echo up; exec sleep 300", sink)
        await sink.until(lambda: sink.stdout == b"up\n")
        process.write(b"x" * 1_000_000)

        report = await stop(process, grace=SHORT)

        assert report.how == "terminated"
        assert wait_until(lambda: not alive(process.pid))

    run(main())


async def _handshake(process: StdioProcess, sink: RecordingSink) -> None:
    process.write(b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}\n')
    await sink.until(lambda: sink.stdout.endswith(b"\n"))
