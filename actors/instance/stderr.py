"""The last lines a server wrote to stderr: bounded in number and in length, whatever the server does."""

from __future__ import annotations

from collections import deque

# Enough for a traceback of a deep call stack.
RING_LINES = 200

# Longer lines are cut: a megabyte of base64 explains nothing.
LINE_BYTES = 4096


# What a server that is well says in a second; a flood of more is in the ring, and would only slow the node down.
LOGGED_LINES = 100

LOG_PERIOD = 1.0


class LogAllowance:
    """Which lines go to the node's log: the first `LOGGED_LINES` of a `LOG_PERIOD`, then how many were left out."""

    def __init__(self) -> None:
        self._ends = float("-inf")
        self._left = 0
        self._left_out = 0

    def admit(self, lines: list[str], now: float) -> list[str]:
        """Return what to log of `lines`, which came at `now`."""
        notes: list[str] = []
        if now >= self._ends:
            if self._left_out:
                notes = [f"({self._left_out} lines or more were left out)"]
            self._ends, self._left, self._left_out = now + LOG_PERIOD, LOGGED_LINES, 0
        admitted = lines[: self._left]
        self._left -= len(admitted)
        self._left_out += len(lines) - len(admitted)
        return notes + admitted


class StderrRing:
    """Feed it bytes as they come; read lines."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=RING_LINES)
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """Take in a chunk and return the lines it completed."""
        *complete, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:LINE_BYTES]
        lines = [self._text(line) for line in complete[-RING_LINES:]]
        self._lines.extend(lines)
        return lines

    def last(self, count: int) -> tuple[str, ...]:
        """The newest `count` lines, the unfinished one included."""
        lines = [*self._lines, *([self._text(self._rest)] if self._rest else [])]
        return tuple(lines[-count:])

    def _text(self, line: bytes) -> str:
        return line[:LINE_BYTES].rstrip(b"\r").decode("utf-8", "replace")
