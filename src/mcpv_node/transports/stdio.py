"""One child process that speaks over its standard streams, watched by the running event loop.

No threads, no waiting: pipes are non-blocking, the exit is an event (a pidfd; 0.1 ms), and everything that
happens is told to a `ProcessSink`. Works on any loop that has `add_reader`, `add_writer` and `call_later`.

What it promises: the sink hears `on_stdout_closed` once and after it `on_exit` once and nothing after that.
The exit is told at once, even if a grandchild keeps the pipes open, and what the process had written by then
is told first. `write` never blocks. Once the exit was told, or after `close`, no file descriptor and no zombie
is left.
"""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import termios
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import IO, Protocol

from .guard import MARK_VARIABLE, Process, find_process, group_members
from .program import SpawnFailed

# A child that was started; the rest of the package says it without importing the module behind it.
Child = subprocess.Popen[bytes]

# What a pipe holds by default. One read per event: a server that never stops talking gets one turn like the others.
READ_SIZE = 64 * 1024

# Several small messages that had to wait go out in one call; more pieces at once do not make it cheaper.
WRITE_PIECES = 64

# A server that has not taken the rest of its input within this, when asked to stop, is not reading.
FLUSH_TIMEOUT = 0.5

# Where no pidfd tells of an exit. One look costs a microsecond; later than this a crash would be felt.
EXIT_POLL_INTERVAL = 0.05


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a process ended: with a code, or by a signal."""

    code: int | None
    signal: int | None

    def __str__(self) -> str:
        if self.signal is None:
            return f"exit code {self.code}"
        try:
            return f"signal {signal.Signals(self.signal).name}"
        except ValueError:
            return f"signal {self.signal}"


class ProcessSink(Protocol):
    """Who hears what happens to a process; called on the loop's thread, never from inside `write` or `spawn`."""

    def on_stdout(self, data: bytes) -> None:
        """Take what the process wrote, in pieces as they came."""
        ...

    def on_stderr(self, data: bytes) -> None:
        """Take what the process complained about."""
        ...

    def on_stdout_closed(self) -> None:
        """The process will say no more. It may live on."""
        ...

    def on_exit(self, status: ExitStatus) -> None:
        """The process has ended. This is the last call."""
        ...


class StdioProcess:
    """A running child in a process group of its own."""

    def __init__(
        self,
        popen: Child,
        *,
        mark: str | None,
        sink: ProcessSink,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Use `spawn`."""
        assert popen.stdin is not None
        assert popen.stdout is not None
        assert popen.stderr is not None
        self.pid = popen.pid
        self.mark = mark
        # Read before anybody can wait for the process: even one that has ended is still in the table.
        self._itself: Process | None = find_process(popen.pid)
        self._popen = popen
        self._sink = sink
        self._loop = loop
        self._stdin: IO[bytes] | None = popen.stdin
        self._stdout: IO[bytes] | None = popen.stdout
        self._stderr: IO[bytes] | None = popen.stderr
        self._outgoing: deque[memoryview] = deque()
        self._unsent = 0
        self._writes = 0  # in this turn of the loop
        self._is_busy = False  # more than one write in the last turn that had any
        self._is_closing_stdin = False
        self._flush_timer: asyncio.TimerHandle | None = None
        self._is_paused = False
        self._is_stdout_told_closed = False
        self._is_closed = False
        self._is_group_gone = False
        self._exit_status: ExitStatus | None = None
        self._exit_waiters: list[asyncio.Future[None]] = []
        for stream in (popen.stdin, popen.stdout, popen.stderr):
            os.set_blocking(stream.fileno(), False)
        loop.add_reader(popen.stdout.fileno(), self._on_stdout_ready)
        loop.add_reader(popen.stderr.fileno(), self._on_stderr_ready)
        self._watch = watch_exit(popen, self._on_exited, loop=loop)

    @classmethod
    def spawn(
        cls,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: str | None,
        sink: ProcessSink,
    ) -> StdioProcess:
        """Start `argv` on the running loop's own thread; raises SpawnFailed.

        `argv[0]` is the program's resolved path. `env` is the whole environment.
        """
        loop = asyncio.get_running_loop()
        popen = open_child(argv, env=env, cwd=cwd)
        return cls(popen, mark=env.get(MARK_VARIABLE), sink=sink, loop=loop)

    # ---- who it is ----

    @property
    def pgid(self) -> int:
        """The process group: it leads its own."""
        return self.pid

    @property
    def start_time(self) -> int | None:
        """With the pid it names this process for ever; None where the system does not say."""
        return self._itself.start_time if self._itself is not None else None

    @property
    def exit_status(self) -> ExitStatus | None:
        """How it ended; None while it runs."""
        return self._exit_status

    def __repr__(self) -> str:
        state = "running" if self._exit_status is None else str(self._exit_status)
        return f"<StdioProcess {self.pid} {state}>"

    # ---- writing ----

    @property
    def unsent(self) -> int:
        """How many bytes wait for the process to read; the owner refuses more above its limit."""
        return self._unsent

    def write(self, data: bytes) -> bool:
        """Send `data`, now or as soon as the process reads; False if its stdin is closed and nothing was sent.

        A process that ended is no error here: its exit is being told.
        """
        if self._stdin is None or self._is_closing_stdin:
            return False
        if not data:
            return True
        self._writes += 1
        if self._writes == 1:
            self._loop.call_soon(self._end_turn)
        if self._outgoing or self._writes > 1 or self._is_busy:
            # What is written in one turn of the loop goes out in one call, which costs more than its bytes.
            self._keep(memoryview(data))
            return True
        try:
            sent = os.write(self._stdin.fileno(), data)
        except BlockingIOError:
            sent = 0
        except OSError:
            # EPIPE: it does not read any more. Nothing further can be sent, and nothing else is wrong.
            self._close_stdin_now()
            return False
        if sent < len(data):
            self._keep(memoryview(data)[sent:])
        return True

    def close_stdin(self, *, flush_timeout: float = FLUSH_TIMEOUT) -> None:
        """End the process's input once what waits was sent, or after `flush_timeout`."""
        if self._stdin is None or self._is_closing_stdin:
            return
        if not self._outgoing:
            self._close_stdin_now()
            return
        self._is_closing_stdin = True
        self._flush_timer = self._loop.call_later(flush_timeout, self._close_stdin_now)

    def _keep(self, data: memoryview) -> None:
        self._outgoing.append(data)
        self._unsent += len(data)

    def _end_turn(self) -> None:
        self._is_busy = self._writes > 1
        self._writes = 0
        if self._outgoing:
            self._on_stdin_ready()
        if self._stdin is not None and self._outgoing:
            self._loop.add_writer(self._stdin.fileno(), self._on_stdin_ready)

    def _on_stdin_ready(self) -> None:
        if self._stdin is None:
            return
        fd = self._stdin.fileno()
        try:
            sent = os.writev(fd, list(islice(self._outgoing, WRITE_PIECES)))
        except BlockingIOError:
            return
        except OSError:
            # EPIPE: it does not read any more. Nothing further can be sent, and nothing else is wrong.
            self._close_stdin_now()
            return
        self._unsent -= sent
        while sent:
            first = self._outgoing[0]
            if sent < len(first):
                self._outgoing[0] = first[sent:]
                break
            sent -= len(first)
            self._outgoing.popleft()
        if self._outgoing:
            return
        self._loop.remove_writer(fd)
        if self._is_closing_stdin:
            self._close_stdin_now()

    def _close_stdin_now(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        if self._stdin is None:
            return
        if self._outgoing:
            self._loop.remove_writer(self._stdin.fileno())
            self._outgoing.clear()
            self._unsent = 0
        self._stdin.close()
        self._stdin = None

    # ---- reading ----

    def pause_reading(self) -> None:
        """Let the process wait: its stdout is not read until `resume_reading`. Its exit is still told."""
        if not self._is_paused:
            self._is_paused = True
            if self._stdout is not None:
                self._loop.remove_reader(self._stdout.fileno())

    def resume_reading(self) -> None:
        """Go on reading stdout."""
        if self._is_paused:
            self._is_paused = False
            if self._stdout is not None:
                self._loop.add_reader(self._stdout.fileno(), self._on_stdout_ready)

    def _on_stdout_ready(self) -> None:
        if self._stdout is None:
            return
        data = _read_some(self._stdout, READ_SIZE)
        if data:
            self._sink.on_stdout(data)
        elif data is not None:
            self._close_stdout()
            self._tell_stdout_closed()

    def _on_stderr_ready(self) -> None:
        if self._stderr is None:
            return
        data = _read_some(self._stderr, READ_SIZE)
        if data:
            self._sink.on_stderr(data)
        elif data is not None:
            self._close_stderr()

    def _tell_stdout_closed(self) -> None:
        if not self._is_stdout_told_closed and not self._is_closed:
            self._is_stdout_told_closed = True
            self._sink.on_stdout_closed()

    def _close_stdout(self) -> None:
        if self._stdout is not None:
            if not self._is_paused:
                self._loop.remove_reader(self._stdout.fileno())
            self._stdout.close()
            self._stdout = None

    def _close_stderr(self) -> None:
        if self._stderr is not None:
            self._loop.remove_reader(self._stderr.fileno())
            self._stderr.close()
            self._stderr = None

    # ---- the end ----

    async def wait_exit(self) -> None:
        """Return once the process has ended and its sink was told; the caller bounds it."""
        if self._exit_status is not None:
            return
        waiter = self._loop.create_future()
        self._exit_waiters.append(waiter)
        try:
            await waiter
        finally:
            self._exit_waiters.remove(waiter)

    def signal_group(self, number: int) -> bool:
        """Signal every process of the group; False if none of it is left."""
        if not self.group_alive():
            return False
        try:
            os.killpg(self.pgid, number)
        except ProcessLookupError:
            return False
        except PermissionError:
            # Members run as somebody else, or (macOS) are zombies: nothing we could do to them.
            return False
        return True

    def group_alive(self) -> bool:
        """Tell whether any process of the group lives; zombies do not count."""
        if self._exit_status is None:
            return True
        return bool(self.remaining_members())

    def remaining_members(self) -> tuple[Process, ...]:
        """Return the living processes of the group, the leader included."""
        if self._is_group_gone:
            return ()
        # While a member lives, the system gives the group's number to nobody. So a process that has it
        # as its pid after the leader was waited for means that the group is gone and the number is a stranger's.
        is_reused = self._exit_status is not None and find_process(self.pid) is not None
        members = () if is_reused else group_members(self.pgid)
        if not members and self._exit_status is not None:
            self._is_group_gone = True
        return members

    def close(self) -> None:
        """Let go of the process: nothing is told any more, every descriptor is closed. Idempotent.

        A process that still runs is killed with its group, because nobody would be left to stop it.
        """
        if self._is_closed:
            return
        self._is_closed = True
        self._close_pipes()
        if self._exit_status is None:
            # Its exit is still watched, so that it is waited for.
            self.signal_group(signal.SIGKILL)

    def _close_pipes(self) -> None:
        self._close_stdin_now()
        self._close_stdout()
        self._close_stderr()

    def _on_exited(self) -> None:
        returncode = self._popen.returncode
        status = ExitStatus(returncode, None) if returncode >= 0 else ExitStatus(None, -returncode)
        self._exit_status = status
        try:
            self._tell_the_rest(status)
        finally:
            self._is_closed = True
            self._close_pipes()
            for waiter in self._exit_waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def _tell_the_rest(self, status: ExitStatus) -> None:
        # Complaints first: they are what explains the exit.
        for stream, tell in ((self._stderr, self._sink.on_stderr), (self._stdout, self._sink.on_stdout)):
            for data in _read_present(stream):
                if not self._is_closed:
                    tell(data)
        self._tell_stdout_closed()
        if not self._is_closed:
            self._sink.on_exit(status)


def open_child(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | None,
    is_guard: bool = False,
    pass_fds: Sequence[int] = (),
) -> Child:
    """Start a child with a pipe to its stdin; raises SpawnFailed.

    A server gets a process group of its own and pipes for its output; the guard a session of its own and no output.
    No `preexec_fn`: it stalls the loop by milliseconds and may deadlock in a process with threads.
    """
    output = subprocess.DEVNULL if is_guard else subprocess.PIPE
    try:
        return subprocess.Popen(
            argv,
            env=env,
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            bufsize=0,
            close_fds=True,
            pass_fds=pass_fds,
            start_new_session=is_guard,
            process_group=None if is_guard else 0,
        )
    except OSError as error:
        raise SpawnFailed(argv[0], error) from error
    except ValueError as error:
        # A NUL byte in an argument or in the environment.
        raise SpawnFailed(argv[0], OSError(str(error))) from error


class ExitWatch:
    """One process's exit being watched; made by `watch_exit`."""

    def __init__(self, popen: Child, on_exit: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        self._popen = popen
        self._on_exit = on_exit
        self._loop = loop
        self._pidfd: int | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, *, pidfd: int | None) -> None:
        """Watch the descriptor, or look every `EXIT_POLL_INTERVAL` where there is none."""
        self._pidfd = pidfd
        if pidfd is not None:
            self._loop.add_reader(pidfd, self._look)
        else:
            self._timer = self._loop.call_later(EXIT_POLL_INTERVAL, self._look)

    def cancel(self) -> None:
        """Stop watching; whoever does so waits for the process."""
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        if self._popen.poll() is not None:
            self.cancel()
            self._on_exit()
        elif self._pidfd is None:
            self._timer = self._loop.call_later(EXIT_POLL_INTERVAL, self._look)


def watch_exit(popen: Child, on_exit: Callable[[], None], *, loop: asyncio.AbstractEventLoop) -> ExitWatch:
    """Call `on_exit` once the process has ended and was waited for (`popen.returncode` is set).

    Needs no thread: a pidfd on Linux, else a look at every `EXIT_POLL_INTERVAL`.
    """
    watch = ExitWatch(popen, on_exit, loop)
    watch.start(pidfd=_open_pidfd(popen.pid))
    return watch


def _open_pidfd(pid: int) -> int | None:
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        # An old kernel, or no descriptor left: looking still works.
        return None


def _read_some(stream: IO[bytes], size: int) -> bytes | None:
    """Read what is there; b"" at the end of the stream, None if there is nothing now."""
    try:
        return os.read(stream.fileno(), size)
    except BlockingIOError:
        return None
    except OSError:
        return b""


def _read_present(stream: IO[bytes] | None) -> list[bytes]:
    """Read what the pipe holds at this moment, and not what a grandchild may add to it for ever."""
    if stream is None or stream.closed:
        return []
    size = array.array("i", [0])
    with suppress(OSError):
        fcntl.ioctl(stream.fileno(), termios.FIONREAD, size)
    left = size[0]
    pieces: list[bytes] = []
    while left > 0 and (data := _read_some(stream, min(left, READ_SIZE))):
        pieces.append(data)
        left -= len(data)
    return pieces
