"""The node as a child of the process that looks after it: how it is started, and what is heard of it.

It leads a process group of its own, so that a Ctrl-C at the terminal reaches the supervisor alone and is passed on
once. It holds the read end of a pipe whose other end we hold: when that closes, whatever became of us, it stops in
order. It reports on a second pipe, with one line, that it is ready.
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

    def __init__(self, options: Sequence[str]) -> None:
        """Start it; raises OSError."""
        held_read, held_write = os.pipe()
        ready_read, ready_write = os.pipe()
        theirs = (held_read, ready_write)
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
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=theirs,
                process_group=0,
            )
        except OSError:
            os.close(held_write)
            os.close(ready_read)
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self.pid = self._popen.pid
        self._held = held_write
        self._ready: int | None = ready_read
        os.set_blocking(ready_read, False)
        self._said = b""

    @property
    def ready_descriptor(self) -> int | None:
        """What becomes readable when it says that it is ready; None once it has, or never will."""
        return self._ready

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
        if self._ready is not None:
            os.close(self._ready)
            self._ready = None
        # One that still runs is init's from here on.
        self._popen.returncode = self._popen.returncode or 0
