"""The last lines a server wrote to stderr: bounded in number and in length, whatever the server does."""

from __future__ import annotations

from collections import deque

# Enough for a traceback of a deep call stack.
RING_LINES = 200

# Longer lines are cut: a megabyte of base64 explains nothing.
LINE_BYTES = 4096


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
