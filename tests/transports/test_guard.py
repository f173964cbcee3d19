"""Whatever ends the node, nothing of its servers stays; and nobody else's process is touched."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.children import RecordingSink, run, spawn_shell
from support.processes import alive, marked, start_time, wait_until

from mcpv_node.transports import (
    GuardBusy,
    Ledger,
    LedgerEntry,
    guard,
    read_ledger,
    reap,
    reap_leftovers,
    start_guard,
)

GRACE = 0.5
GROUPS = 60

# A node of its own process: a guard, a ledger and servers; says the guard's pid and then waits for ever.
NODE = """
import asyncio, os, sys, time
from pathlib import Path
from mcpv_node.transports import Ledger, LedgerEntry, StdioProcess, start_guard

class Sink:
    def on_stdout(self, data): pass
    def on_stderr(self, data): pass
    def on_stdout_closed(self): pass
    def on_exit(self, status): pass

async def main():
    path, prefix, groups, script, forks = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4], sys.argv[5]
    ledger = Ledger(path)
    guard = start_guard(path, prefix, 0.5)
    for number in range(groups):
        mark = f"{prefix}s-{number}"
        env = {"PATH": os.environ["PATH"], "MCPV_INSTANCE": mark}
        process = StdioProcess.spawn(["/bin/sh", "-c", script], env=env, cwd=None, sink=Sink())
        ledger.append_started(LedgerEntry(mark, process.pid, process.pgid, process.start_time, "/bin/sh", "now"))
    fork = 0
    if forks == "yes" and (fork := os.fork()) == 0:
        time.sleep(300)
    print(guard.pid, fork, flush=True)
    await asyncio.sleep(300)

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger"


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """A node's name that nobody else has."""
    return f"test-{os.getpid()}-{abs(hash(request.node.nodeid))}/"


@contextmanager
def running_node(
    path: Path, prefix: str, *, groups: int, script: str, forks: bool = False
) -> Iterator[tuple[subprocess.Popen[str], int, int]]:
    """Run a node that others may kill; yields it, its guard's pid and that of the fork it made."""
    node = subprocess.Popen(
        [sys.executable, "-c", NODE, str(path), prefix, str(groups), script, "yes" if forks else "no"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert node.stdout is not None
        guard_pid, fork = (int(word) for word in node.stdout.readline().split())
        assert wait_until(lambda: len(marked(prefix)) >= groups)
        yield node, guard_pid, fork
    finally:
        node.kill()
        node.wait()
        assert node.stdout is not None
        node.stdout.close()
        for pid in marked(prefix):
            os.kill(pid, signal.SIGKILL)


def entry_of(pid: int, instance: str, *, started: int | None = None) -> LedgerEntry:
    return LedgerEntry(instance, pid, pid, started if started is not None else start_time(pid), "x", "now")


def test_sixty_groups_are_gone_after_a_kill_of_the_node(path: Path, prefix: str) -> None:
    # Two processes each, of which one ignores TERM.
    script = "(trap '' TERM; while :; do sleep 300; done) & sleep 300"
    with running_node(path, prefix, groups=GROUPS, script=script) as (node, guard_pid, _):
        assert wait_until(lambda: len(marked(prefix)) >= 2 * GROUPS)

        node.kill()

        assert wait_until(lambda: not marked(prefix))
        assert wait_until(lambda: not alive(guard_pid))


def test_a_guard_outlives_the_signals_that_would_end_the_node(path: Path, prefix: str) -> None:
    with running_node(path, prefix, groups=1, script="sleep 300") as (node, guard_pid, _):
        assert wait_until(
            lambda: {signal.SIGINT, signal.SIGTERM, signal.SIGHUP} <= _ignored_signals(guard_pid)
        )

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(guard_pid, number)

        assert os.getsid(guard_pid) == guard_pid
        assert len(marked(prefix)) >= 1
        node.kill()
        assert wait_until(lambda: not marked(prefix))


def test_a_fork_of_the_host_that_keeps_the_pipe_does_not_deceive_the_guard(path: Path, prefix: str) -> None:
    with running_node(path, prefix, groups=2, script="sleep 300", forks=True) as (node, guard_pid, fork):
        try:
            assert wait_until(lambda: _watches_its_parent(guard_pid))

            node.kill()

            assert wait_until(lambda: not marked(prefix))
            assert alive(fork)
        finally:
            os.kill(fork, signal.SIGKILL)


def test_what_node_and_guard_left_is_reaped_at_the_next_start(path: Path, prefix: str) -> None:
    with running_node(path, prefix, groups=5, script="sleep 300 & sleep 300") as (node, guard_pid, _):
        assert wait_until(lambda: len(marked(prefix)) >= 15)
        left = set(marked(prefix))
        os.kill(guard_pid, signal.SIGKILL)
        node.kill()
        node.wait()
        assert set(marked(prefix)) == left

        report = reap_leftovers(path, prefix, GRACE)

        assert {orphan.pid for orphan in report.ended} == left
        assert (report.strangers, report.survivors) == ((), ())
        assert marked(prefix) == []
        assert read_ledger(path) == ()


def test_the_next_start_waits_for_a_guard_that_is_still_at_work(path: Path, prefix: str) -> None:
    script = "trap '' TERM; while :; do sleep 300; done"
    with running_node(path, prefix, groups=3, script=script) as (node, guard_pid, _):
        node.kill()

        reap_leftovers(path, prefix, GRACE)

        assert not alive(guard_pid)
        assert marked(prefix) == []


def test_nothing_left_is_nothing_done(path: Path, prefix: str) -> None:
    assert reap_leftovers(path, prefix, GRACE) == guard.ReapReport((), (), ())


def test_a_copy_of_the_locks_descriptor_in_a_fork_does_not_keep_the_next_guard_out(path: Path) -> None:
    lock = guard.try_guard_lock(path)
    assert lock is not None
    copy = os.dup(lock)  # what another node of this process has between its fork and its exec

    guard.free_guard_lock(lock)

    again = guard.try_guard_lock(path)
    os.close(copy)
    assert again is not None
    guard.free_guard_lock(again)


def test_a_stranger_with_the_number_of_a_group_of_ours_is_not_touched(path: Path, prefix: str) -> None:
    async def main() -> None:
        sink = RecordingSink()
        stranger = spawn_shell("read line; exit 0", sink)
        entry = entry_of(stranger.pid, f"{prefix}fs-1", started=start_time(stranger.pid) - 1)
        ledger = Ledger(path)
        ledger.append_started(entry)
        ledger.close()

        report = reap_leftovers(path, prefix, GRACE)

        assert report == guard.ReapReport((), (entry,), ())
        assert alive(stranger.pid)
        stranger.close_stdin()
        assert (await sink.until_exit()).code == 0

    run(main())


def test_members_without_the_mark_go_with_the_leader_that_proves_them(prefix: str) -> None:
    async def main() -> None:
        sink = RecordingSink()
        process = spawn_shell(
            "env -i sleep 300 & echo $!; read line", sink, env={"MCPV_INSTANCE": f"{prefix}fs-1"}
        )
        await sink.until(lambda: sink.stdout.endswith(b"\n"))
        grandchild = int(sink.stdout)
        assert wait_until(lambda: marked(prefix) == [process.pid])

        report = reap([entry_of(process.pid, f"{prefix}fs-1")], prefix, GRACE)

        assert {orphan.pid for orphan in report.ended} == {process.pid, grandchild}
        await sink.until_exit()

    run(main())


def test_a_member_with_the_mark_proves_a_group_whose_leader_is_gone(prefix: str) -> None:
    async def main() -> None:
        sink = RecordingSink()
        mark = f"{prefix}fs-1"
        process = spawn_shell(
            "env -i sleep 300 & sleep 300 & echo up; exit 0", sink, env={"MCPV_INSTANCE": mark}
        )
        entry = entry_of(process.pid, mark)
        await sink.until_exit()
        assert wait_until(lambda: len(marked(prefix)) == 1)
        assert len(process.remaining_members()) == 2

        report = reap([entry], prefix, GRACE)

        assert len(report.ended) == 2
        assert process.remaining_members() == ()

    run(main())


def test_an_escapee_is_found_by_its_mark_though_no_ledger_names_it(prefix: str) -> None:
    async def main() -> None:
        sink = RecordingSink()
        env = {"MCPV_INSTANCE": f"{prefix}fs-1"}
        spawn_shell("setsid sleep 300 >/dev/null 2>&1 </dev/null & exit 0", sink, env=env)
        await sink.until_exit()
        assert wait_until(lambda: len(marked(prefix)) == 1)
        (escapee,) = marked(prefix)

        report = reap([], prefix, GRACE)

        assert report.ended == (guard.Orphan(escapee, escapee, f"{prefix}fs-1"),)
        assert not alive(escapee)

    run(main())


def test_an_escapee_that_shows_no_mark_yet_is_waited_for(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        sink = RecordingSink()
        env = {"MCPV_INSTANCE": f"{prefix}fs-1"}
        spawn_shell("setsid sleep 300 >/dev/null 2>&1 </dev/null & exit 0", sink, env=env)
        await sink.until_exit()
        assert wait_until(lambda: len(marked(prefix)) == 1)
        (escapee,) = marked(prefix)
        read_environ, looks = guard.read_environ, list[int]()

        def read(pid: int) -> bytes | None:
            if pid == escapee:
                looks.append(pid)
            return b"" if pid == escapee and len(looks) < 3 else read_environ(pid)

        monkeypatch.setattr(guard, "read_environ", read)
        monkeypatch.setattr(guard, "is_starting", lambda process: process.pid == escapee)

        report = reap([], prefix, GRACE)

        assert [orphan.pid for orphan in report.ended] == [escapee]
        assert not alive(escapee)

    run(main())


def test_another_nodes_servers_are_not_touched(prefix: str) -> None:
    async def main() -> None:
        sink = RecordingSink()
        other = spawn_shell("read line", sink, env={"MCPV_INSTANCE": f"x{prefix}fs-1"})

        report = reap([], prefix, GRACE)

        assert report.ended == ()
        other.close_stdin()
        assert (await sink.until_exit()).signal is None

    run(main())


def test_a_prefix_that_would_match_other_nodes_is_refused() -> None:
    with pytest.raises(ValueError, match="does not end with a slash"):
        reap([], "node", GRACE)
    with pytest.raises(ValueError, match="does not end with a slash"):
        reap([], "", GRACE)


def test_a_guard_that_is_told_of_the_end_ends(path: Path, prefix: str) -> None:
    async def main() -> None:
        told: list[object] = []
        guardian = start_guard(path, prefix, GRACE, on_exit=told.append)
        assert guardian.is_alive

        assert await guardian.finish()
        assert await guardian.finish()

        assert not guardian.is_alive
        assert told == []

    run(main())


def test_the_loss_of_the_guard_is_told_and_another_can_be_started(path: Path, prefix: str) -> None:
    async def main() -> None:
        lost = asyncio.get_running_loop().create_future()
        guardian = start_guard(path, prefix, GRACE, on_exit=lost.set_result)

        os.kill(guardian.pid, signal.SIGKILL)

        async with asyncio.timeout(10):
            status = await lost
        assert status.signal == signal.SIGKILL
        another = start_guard(path, prefix, GRACE)
        assert await another.finish()
        assert await guardian.finish()

    run(main())


def test_one_ledger_has_one_guard(path: Path, prefix: str) -> None:
    async def main() -> None:
        guardian = start_guard(path, prefix, GRACE)

        with pytest.raises(GuardBusy, match=str(path)):
            start_guard(path, prefix, GRACE)

        assert await guardian.finish()

    run(main())


def test_the_guard_is_small_and_holds_nothing_of_the_node(path: Path, prefix: str) -> None:
    async def main() -> None:
        guardian = start_guard(path, prefix, GRACE)
        try:
            assert wait_until(lambda: signal.SIGTERM in _ignored_signals(guardian.pid))

            assert _open_files(guardian.pid) == [f"{path}.guard"]
            assert _rss_kib(guardian.pid) <= 12 * 1024
        finally:
            assert await guardian.finish()

    with path.with_name("of-the-node").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        run(main())


# ---- whose is it: with values ----

PREFIX = "node/"
ENTRY = LedgerEntry("node/fs-1", 100, 100, 5000, "x", "now")
LEADER = guard.Process(100, 100, 5000, alive=True)
MEMBER = guard.Process(101, 100, 5001, alive=True)
DEAD_LEADER = LEADER._replace(alive=False)
OTHER_LEADER = LEADER._replace(start_time=9000)
ESCAPEE = guard.Process(102, 102, 5002, alive=True)


@pytest.mark.parametrize(
    ("processes", "marks", "proven", "ours", "is_stranger"),
    [
        pytest.param([], {}, [], [], False, id="nobody is left"),
        pytest.param([LEADER, MEMBER], {}, [], [100, 101], False, id="the leader proves all"),
        pytest.param([DEAD_LEADER, MEMBER], {}, [], [101], False, id="a zombie leader proves as well"),
        pytest.param([DEAD_LEADER], {}, [], [], False, id="zombies alone are nobody"),
        pytest.param([OTHER_LEADER, MEMBER], {}, [], [], True, id="another leader: all strangers"),
        pytest.param([OTHER_LEADER, MEMBER], {101: "node/x"}, [], [101], True, id="but one marked"),
        pytest.param([OTHER_LEADER, MEMBER], {101: "node/x"}, [(101, 5001)], [101], True, id="also later"),
        pytest.param([MEMBER], {}, [], [], True, id="no leader, no mark"),
        pytest.param([MEMBER], {101: "node/fs-1"}, [], [101], False, id="no leader, our mark"),
        pytest.param([MEMBER], {101: "other/fs-1"}, [], [], True, id="no leader, another's mark"),
        pytest.param([MEMBER], {}, [(101, 5001)], [101], False, id="no leader, proved before"),
        pytest.param([MEMBER], {}, [(101, 4999)], [], True, id="no leader, another was proved before"),
        pytest.param([ESCAPEE], {102: "node/y"}, [], [102], False, id="an escapee"),
        pytest.param([ESCAPEE], {102: "node2/y"}, [], [], False, id="another node's"),
    ],
)
def test_ours_is_only_what_is_proved(
    processes: list[guard.Process],
    marks: dict[int, str],
    proven: list[tuple[int, int]],
    ours: list[int],
    is_stranger: bool,
) -> None:
    findings = guard.decide_ours([ENTRY], processes, mark_of=marks.get, mark_prefix=PREFIX, proven=proven)

    assert [process.pid for process, _ in findings.orphans] == ours
    assert findings.strangers == ((ENTRY,) if is_stranger else ())


def test_the_spared_are_spared_whatever_proves_them() -> None:
    findings = guard.decide_ours(
        [ENTRY], [LEADER, MEMBER], mark_of={100: "node/fs-1"}.get, mark_prefix=PREFIX, spared=[100]
    )

    assert [process.pid for process, _ in findings.orphans] == [101]


@given(
    st.lists(
        st.builds(
            guard.Process,
            pid=st.integers(2, 9),
            pgid=st.integers(2, 9),
            start_time=st.integers(0, 3),
            alive=st.booleans(),
        ),
        unique_by=lambda process: process.pid,
    ),
    st.integers(2, 9),
    st.integers(0, 3),
)
def test_without_marks_nobody_outside_the_proven_group_is_ours(
    processes: list[guard.Process], pid: int, started: int
) -> None:
    entry = LedgerEntry("node/fs-1", pid, pid, started, "x", "now")

    findings = guard.decide_ours([entry], processes, mark_of=lambda _: None, mark_prefix=PREFIX)

    is_proved = any(process.pid == pid and process.start_time == started for process in processes)
    assert all(process.pgid == pid and is_proved for process, _ in findings.orphans)


def test_a_command_name_full_of_brackets_does_not_confuse_the_reading() -> None:
    stat = b"42 (a) S 1 (b)) Z 1 40 39 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 777 0 0 184467"

    assert guard.parse_stat(stat) == guard.Process(pid=42, pgid=40, start_time=777, alive=False)


def test_the_lines_of_ps_are_read() -> None:
    listing = (
        "  501   501 Ss   Sat Jan 31 09:08:07 2026\n  502   501 Z    Sat Jan 31 09:08:08 2026\nrubbish\n"
    )

    first, second = guard.parse_ps(listing)

    assert (first.pid, first.pgid, first.alive, second.alive) == (501, 501, True, False)
    assert second.start_time - first.start_time == 1


def _open_files(pid: int) -> list[str]:
    """Return what a process has open beside /dev/null, the one pipe to its stdin and its look at its parent."""
    held = [os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()]
    assert sum(name.startswith("pipe:") for name in held) == 1
    return [name for name in held if not name.startswith(("pipe:", "anon_inode:[pidfd]", "/dev/null"))]


def _watches_its_parent(pid: int) -> bool:
    return any(os.readlink(fd) == "anon_inode:[pidfd]" for fd in Path(f"/proc/{pid}/fd").iterdir())


def _rss_kib(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def _ignored_signals(pid: int) -> set[int]:
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigIgn"))
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}
