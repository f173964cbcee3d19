"""The node's end of its guard: start it before the first server, and tell it when all is stopped.

The guard itself is `guard.py`. It holds a pipe from us and its lock, and no other descriptor of the node.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from . import guard
from .guard import KILL_WAIT, MARK_VARIABLE, try_guard_lock
from .program import child_environment
from .stdio import Child, ExitStatus, open_child, watch_exit

# An interpreter's start and end on a busy machine, beside what the guard may have to end first.
FINISH_MARGIN = 5.0

# Said when everything was stopped in order. The guard looks all the same: that costs one scan, and finds escapees.
FINISHED = b"finished\n"


class GuardBusy(Exception):
    """Another guard holds this ledger: its node still runs, or it is cleaning up after it."""


class GuardProcess:
    """A running guard."""

    def __init__(
        self,
        popen: Child,
        *,
        grace: float,
        on_exit: Callable[[ExitStatus], None] | None,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Use `start_guard`."""
        self.pid = popen.pid
        self._popen = popen
        self._grace = grace
        self._on_exit = on_exit
        self._ended = asyncio.Event()
        self._watch = watch_exit(popen, self._on_ended, loop=loop)

    @property
    def is_alive(self) -> bool:
        """Tell whether it guards."""
        return not self._ended.is_set()

    async def finish(self) -> bool:
        """Tell the guard that everything stopped in order and wait for its end; idempotent.

        It ends what it finds nevertheless. False if it had to be killed, after its grace and `FINISH_MARGIN`.
        """
        # An end that was asked for is no loss to be told.
        self._on_exit = None
        self._say_finished()
        try:
            async with asyncio.timeout(self._grace + KILL_WAIT + FINISH_MARGIN):
                await self._ended.wait()
        except TimeoutError:
            self._popen.kill()
            # Nothing holds a killed process that only sleeps and reads /proc.
            await self._ended.wait()
            return False
        return True

    def _say_finished(self) -> None:
        assert self._popen.stdin is not None
        if not self._popen.stdin.closed:
            # In words, because the end of the pipe is not seen while a fork of the host holds a copy of it.
            with suppress(BrokenPipeError):
                os.write(self._popen.stdin.fileno(), FINISHED)
            self._popen.stdin.close()

    def _on_ended(self) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        self._ended.set()
        if self._on_exit is not None:
            code = self._popen.returncode
            self._on_exit(ExitStatus(code, None) if code >= 0 else ExitStatus(None, -code))


def start_guard(
    ledger: Path, mark_prefix: str, grace: float, *, on_exit: Callable[[ExitStatus], None] | None = None
) -> GuardProcess:
    """Start the guard on the running loop; raises GuardBusy, or StartError if the system refuses.

    `on_exit` hears of an end that nobody asked for: the node then has no guard until it starts another.
    """
    loop = asyncio.get_running_loop()
    lock = try_guard_lock(ledger)
    if lock is None:
        raise GuardBusy(f"another guard is at work on {ledger}")
    # Without the mark: a node that was started by a server of its own would have its guard end itself.
    env = child_environment(os.environ, {}, "")
    del env[MARK_VARIABLE]
    # Isolated and without site: neither a variable nor a folder of a user's changes what the guard runs.
    argv = [
        sys.executable,
        "-I",
        "-S",
        guard.__file__,
        os.path.abspath(ledger),
        mark_prefix,
        str(grace),
        str(os.getpid()),
    ]
    try:
        # The lock goes along open, so that it is held from the guard's first moment to its last.
        popen = open_child(argv, env=env, cwd="/", is_guard=True, pass_fds=(lock,))
    finally:
        os.close(lock)
    return GuardProcess(popen, grace=grace, on_exit=on_exit, loop=loop)
