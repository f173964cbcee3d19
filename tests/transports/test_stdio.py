"""What a child process says and how it ends is told once, at once and in order, and nothing is left open."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from support.children import RecordingSink, run, spawn_badserver, spawn_python, spawn_shell
from support.processes import alive, open_fds, start_time, wait_until

from mcpv_node.transports import ExitStatus, SpawnFailed, StdioProcess, stdio

# More than a pipe and a read hold.
BIG = 3 * 1024 * 1024

on_both_loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


def started_line(sink: RecordingSink) -> int:
    """Wait-free: the pid that a script printed in its first line."""
    return int(sink.stdout.split(b"\n")[0])


@on_both_loops
def test_an_exit_code_is_told(loop: str) -> None:
    async def main() -> None:
        sink = RecordingSink()

        spawn_shell("exit 7", sink)

        assert await sink.until_exit() == ExitStatus(code=7, signal=None)
        assert sink.told == ["stdout closed", "exit"]

    run(main(), loop)


@on_both_loops
def test_a_death_by_signal_is_told_as_the_signal(loop: str) -> None:
    async def main() -> None:
        sink = RecordingSink()

        spawn_shell("kill -9 $$", sink)

        assert await sink.until_exit() == ExitStatus(code=None, signal=signal.SIGKILL)
        assert str(sink.status) == "signal SIGKILL"

    run(main(), loop)


@on_both_loops
def test_what_was_written_before_the_exit_is_told_before_it(loop: str) -> None:
    async def main() -> None:
        sink = RecordingSink()

        spawn_shell("echo last words; echo complaint >&2; exit 3", sink)

        await sink.until_exit()
        assert (sink.stdout, sink.stderr) == (b"last words\n", b"complaint\n")
        assert sink.told[-2:] == ["stdout closed", "exit"]

    run(main(), loop)


@on_both_loops
def test_the_last_words_are_told_though_a_grandchild_keeps_the_pipe_and_reading_was_paused(loop: str) -> None:
    async def main() -> None:
        sink = RecordingSink()
        process = spawn_shell("read go; sleep 300 & echo $!; exit 0", sink)
        process.pause_reading()

        process.write(b"go\n")
        await sink.until_exit()

        grandchild = started_line(sink)
        assert sink.told == ["stdout", "stdout closed", "exit"]
        assert [member.pid for member in process.remaining_members()] == [grandchild]
        assert process.signal_group(signal.SIGKILL)
        assert wait_until(lambda: not process.group_alive())
        assert not process.signal_group(signal.SIGKILL)

    run(main(), loop)


def test_a_grandchild_that_never_stops_writing_does_not_delay_the_exit() -> None:
    async def main() -> None:
        sink = RecordingSink()
        process = spawn_shell("yes & exit 5", sink)

        status = await sink.until_exit()

        assert status.code == 5
        # Its pipe was closed, which is what ends such a grandchild.
        assert wait_until(lambda: not process.group_alive())

    run(main())


@on_both_loops
def test_the_end_of_stdout_is_told_while_the_process_lives_on(loop: str) -> None:
    async def main() -> None:
        sink = RecordingSink()
        process = spawn_shell("exec 1>&-; read line; exit 4", sink)

        await sink.until(lambda: sink.told == ["stdout closed"])

        assert process.exit_status is None
        process.close_stdin()
        assert (await sink.until_exit()).code == 4
        assert sink.told == ["stdout closed", "exit"]

    run(main(), loop)


@on_both_loops
def test_a_closed_stdin_is_the_end_for_who_reads_it(loop: str) -> None:
    async def main() -> None:
        sink = RecordingSink()
        process = spawn_shell("cat; exit 9", sink)
        assert process.write(b"one\n")

        process.close_stdin()

        assert (await sink.until_exit()).code == 9
        assert sink.stdout == b"one\n"
        assert not process.write(b"late\n")

    run(main(), loop)


@on_both_loops
def test_what_does_not_fit_into_the_pipe_waits_and_arrives_whole(loop: str) -> None:
    async def main() -> None:
        sink = RecordingSink()
        process = spawn_shell("read go; wc -c", sink)
        assert process.write(b"go\n")

        assert process.write(b"x" * BIG)
        waiting = process.unsent
        for _ in range(200):
            assert process.write(b"small\n")
        process.close_stdin(flush_timeout=60)

        await sink.until_exit()
        assert waiting > 0
        assert process.unsent == 0
        # The shell may read its line byte by byte, never beyond it.
        assert int(sink.stdout) == BIG + 200 * len(b"small\n")

    run(main(), loop)


@on_both_loops
def test_many_pieces_arrive_in_their_order_at_a_slow_reader(loop: str) -> None:
    async def main() -> None:
        sink = RecordingSink()
        process = spawn_python(
            "import os, sys, time\nwhile data := os.read(0, 5000): os.write(1, data); time.sleep(0.0005)\n",
            sink,
        )
        sent = b"".join(b"%d\n" % number * 40 for number in range(3000))

        for start in range(0, len(sent), 997):
            process.write(sent[start : start + 997])
        process.close_stdin(flush_timeout=60)

        await sink.until_exit()
        assert sink.stdout == sent

    run(main(), loop)


def test_a_process_that_does_not_read_gets_its_end_of_input_after_the_flush_timeout() -> None:
    async def main() -> None:
        sink = RecordingSink()
        # POLLHUP comes with the end, however much lies unread before it.
        process = spawn_python(
            "import os, select, time\n"
            "poll = select.poll(); poll.register(0, 0); poll.poll(); os.write(1, b'end of input'); time.sleep(300)",
            sink,
        )
        process.write(b"x" * BIG)
        assert process.unsent > 0

        process.close_stdin(flush_timeout=0.01)

        await sink.until(lambda: sink.stdout == b"end of input")
        assert process.unsent == 0
        process.close()
        await process.wait_exit()

    run(main())


@on_both_loops
def test_writing_to_who_has_closed_its_stdin_is_no_error(loop: str) -> None:
    async def main() -> None:
        sink = RecordingSink()
        process = spawn_shell("exec 0<&-; echo closed; sleep 300", sink)
        await sink.until(lambda: sink.stdout == b"closed\n")

        assert not process.write(b"anybody?\n")

        assert process.exit_status is None
        process.close()
        await process.wait_exit()

    run(main(), loop)


@on_both_loops
def test_paused_reading_holds_the_writer_back_until_resumed(loop: str) -> None:
    async def main() -> None:
        sink = RecordingSink()
        process = spawn_python(f"import os; os.write(2, b'go'); os.write(1, b'x' * {BIG})", sink)
        process.pause_reading()
        await sink.until(lambda: sink.stderr == b"go")
        await asyncio.sleep(0)

        held_back = sink.stdout
        process.resume_reading()

        assert (await sink.until_exit()).code == 0
        assert held_back == b""
        assert len(sink.stdout) == BIG

    run(main(), loop)


@on_both_loops
def test_closing_kills_the_group_and_tells_nothing_more(loop: str) -> None:
    async def main() -> None:
        sink = RecordingSink()
        process = spawn_shell("sleep 300 & echo $!; wait", sink)
        await sink.until(lambda: sink.stdout.endswith(b"\n"))
        grandchild = started_line(sink)

        process.close()
        process.close()
        await process.wait_exit()

        assert sink.told == ["stdout"]
        assert wait_until(lambda: not alive(process.pid) and not alive(grandchild))

    run(main(), loop)


def test_a_sink_that_closes_the_process_while_it_ends_hears_nothing_more() -> None:
    class Closing(RecordingSink):
        def on_stderr(self, data: bytes) -> None:
            super().on_stderr(data)
            process.close()

    async def main() -> None:
        nonlocal process
        sink = Closing()
        process = spawn_shell("echo words; echo complaint >&2", sink)
        # Blocks the loop on purpose: everything is there when it looks.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # noqa: ASYNC222

        await process.wait_exit()

        assert sink.told[-1] == "stderr"

    process: StdioProcess
    run(main())


def test_a_process_leads_its_group_and_is_known_by_its_start_time() -> None:
    async def main() -> None:
        sink = RecordingSink()
        process = spawn_shell("read line", sink, env={"MCPV_INSTANCE": "node/fs-1"})

        assert process.pgid == process.pid == os.getpgid(process.pid)
        assert process.start_time == start_time(process.pid)
        assert process.mark == "node/fs-1"

        process.close_stdin()
        await sink.until_exit()

    run(main())


def test_a_child_holds_no_descriptor_of_ours_or_of_its_siblings() -> None:
    async def main() -> None:
        first, second = RecordingSink(), RecordingSink()
        elder = spawn_shell("read line", first)
        younger = spawn_shell("ls /proc/$$/fd; read line", second)

        elder.close_stdin()

        # If the younger held the elder's stdin open, this would not come.
        await first.until_exit()
        await second.until(lambda: second.stdout.endswith(b"2\n"))
        assert second.stdout.split() == [b"0", b"1", b"2"]
        younger.close_stdin()
        await second.until_exit()

    run(main())


def test_a_program_that_the_system_refuses_is_named(tmp_path: Path) -> None:
    async def main() -> None:
        program = tmp_path / "script"
        program.write_text("#!/no/such/interpreter\n")
        program.chmod(0o755)
        before = open_fds()

        with pytest.raises(SpawnFailed, match="script' could not be started: No such file") as caught:
            StdioProcess.spawn([str(program)], env={}, cwd=None, sink=RecordingSink())

        assert caught.value.is_fatal
        assert open_fds() == before

    run(main())


@on_both_loops
def test_two_hundred_starts_leave_no_descriptor_and_no_zombie(loop: str) -> None:
    async def cycle(number: int) -> None:
        sink = RecordingSink()
        process = spawn_shell("read line; echo $line >&2", sink)
        process.write(b"%d\n" % number)
        await sink.until_exit()
        with pytest.raises(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)  # noqa: ASYNC222

    async def main() -> None:
        await cycle(0)
        before = open_fds()

        for first in range(0, 200, 10):
            await asyncio.gather(*(cycle(number) for number in range(first, first + 10)))

        assert open_fds() == before

    run(main(), loop)


def test_without_pidfd_the_exit_is_seen_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> int:
        raise OSError("no pidfd here")

    async def main() -> None:
        sink = RecordingSink()
        spawn_shell("exit 6", sink)

        assert (await sink.until_exit()).code == 6

    monkeypatch.setattr(stdio.os, "pidfd_open", refuse)
    run(main())


def test_the_crash_of_a_server_is_told_with_its_signal() -> None:
    async def main() -> None:
        sink = RecordingSink()
        process = spawn_badserver(sink=sink)
        process.write(
            b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"crash","arguments":{"signal":11}}}\n'
        )

        assert (await sink.until_exit()).signal == signal.SIGSEGV

    run(main())
