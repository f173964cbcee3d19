"""The node as a child of the process that looks after it: how it is started, and what is heard of it.

It leads a process group of its own, so that a Ctrl-C at the terminal reaches the supervisor alone and is passed on
once. It holds the read end of a pipe whose other end we hold: when that closes, whatever became of us, it stops in
order. It reports on a second pipe, with one line, that it is ready, and gives signs of life on a third.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from mcpv_node.node_file import NodeFile, parse_node_file

# Much more than the line of a node that is ready.
READ_SIZE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Exited:
    """The node has ended: with a code, or by a signal, or it could not be started at all."""

    code: int | None = None
    signal: int | None = None
    error: str | None = None

    def __str__(self) -> str:
        if self.error is not None:
            return f"could not be started: {self.error}"
        if self.signal is None:
            return f"ended with exit code {self.code}"
        try:
            return f"was ended by {signal.Signals(self.signal).name}"
        except ValueError:
            return f"was ended by signal {self.signal}"


def node_program() -> list[str]:
    """How a node is started, with this interpreter and this package."""
    # -P: a select.py that lies in the caller's folder must not be imported.
    return [sys.executable, "-P", "-m", "mcpv_node"]


class NodeProcess:
    """A node that was started with `start` and these options."""

    def __init__(self, options: Sequence[str], *, watchdog: float) -> None:
        """Start it; raises OSError. `watchdog`: how often a sign of life is expected, in seconds."""
        held_read, held_write = os.pipe()
        ready_read, ready_write = os.pipe()
        notice_read, notice_write = os.pipe()
        theirs = (held_read, ready_write, notice_write)
        # Its loop writes there: one who does not read must not stop it.
        os.set_blocking(notice_write, False)
        try:
            self._popen = subprocess.Popen(
                [
                    *node_program(),
                    "start",
                    *options,
                    "--supervisor-fd",
                    str(held_read),
                    "--ready-fd",
                    str(ready_write),
                    "--notify-fd",
                    str(notice_write),
                    "--watchdog",
                    f"{watchdog:g}",
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=theirs,
                process_group=0,
            )
        except OSError:
            for descriptor in (held_write, ready_read, notice_read):
                os.close(descriptor)
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self.pid = self._popen.pid
        self._held = held_write
        self._ready: int | None = ready_read
        self._notices: int | None = notice_read
        for descriptor in (ready_read, notice_read):
            os.set_blocking(descriptor, False)
        self._said = b""
        self._noticed = b""

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What becomes readable when it says something."""
        return tuple(one for one in (self._ready, self._notices) if one is not None)

    def take_notices(self) -> tuple[str, ...]:
        """What it has told its listener since this was last called, as lines `NAME=value`."""
        if self._notices is None:
            return ()
        try:
            piece = os.read(self._notices, READ_SIZE)
        except BlockingIOError:
            return ()
        if not piece:
            os.close(self._notices)
            self._notices = None
        *lines, self._noticed = (self._noticed + piece).split(b"\n")
        return tuple(line.decode(errors="replace") for line in lines)

    def take_ready(self) -> NodeFile | None:
        """What it says of itself, once, when it is ready."""
        if self._ready is None:
            return None
        try:
            piece = os.read(self._ready, READ_SIZE)
        except BlockingIOError:
            return None
        self._said += piece
        if piece and not self._said.endswith(b"\n"):
            return None
        os.close(self._ready)
        self._ready = None
        # What is cut off by its end is no line.
        return parse_node_file(self._said) if self._said.endswith(b"\n") else None

    def poll(self) -> Exited | None:
        """How it has ended; None while it runs."""
        code = self._popen.poll()
        if code is None:
            return None
        return Exited(code=code) if code >= 0 else Exited(signal=-code)

    def signal(self, number: int) -> None:
        """Signal it, and it alone; nothing if it has ended."""
        self._popen.send_signal(number)

    def close(self) -> None:
        """Let go of it: one that still runs stops in order. Idempotent."""
        with suppress(OSError):
            os.close(self._held)
        self._held = -1
        for descriptor in self.descriptors:
            os.close(descriptor)
        self._ready = self._notices = None
        # One that still runs is init's from here on.
        self._popen.returncode = self._popen.returncode or 0
