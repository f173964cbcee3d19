"""Bytes in, lines out: how messages stand on a pipe.

A line over the limit is dropped while it arrives: memory stays bounded by the limit plus one chunk, and the work
is linear in what came, in whatever pieces it came.
"""

from __future__ import annotations

from typing import Final

import msgspec

# Enough of a dropped line to find the id of the message it would have been.
HEAD_BYTES: Final = 256


class Line(msgspec.Struct, frozen=True, gc=False):
    """One whole line, without what ended it."""

    data: bytes


class Overlong(msgspec.Struct, frozen=True, gc=False):
    """A line over the limit was dropped: its size, and its first bytes."""

    size: int
    head: bytes


class Partial(msgspec.Struct, frozen=True, gc=False):
    """The stream ended inside this line."""

    data: bytes


class LineFramer:
    """Cuts a stream into lines of at most `max_bytes`; `\\n` and `\\r\\n` end one, blank ones are skipped."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rest = bytearray()
        # More than zero while a line over the limit goes by; then `_rest` is its head.
        self._dropped = 0

    def feed(self, data: bytes) -> list[Line | Overlong]:
        """The lines that `data` completes."""
        lines = data.split(b"\n")
        last = lines.pop()
        found: list[Line | Overlong] = []
        if lines and (self._rest or self._dropped):
            self._append(lines.pop(0))
            self._take_rest(found)
        for line in lines:
            self._add(found, line)
        if last:
            self._append(last)
        return found

    def close(self) -> Partial | Overlong | None:
        """The stream has ended: what stands there without its end."""
        found: list[Line | Overlong] = []
        self._take_rest(found)
        match found:
            case [Line(data=data)]:
                return Partial(data)
            case [Overlong() as overlong]:
                return overlong
            case _:
                return None

    def _append(self, piece: bytes) -> None:
        if self._dropped:
            self._dropped += len(piece)
            return
        # One more than the limit: it may be the carriage return that ends the line.
        size = len(self._rest) + len(piece)
        if size > self._max_bytes + 1:
            self._rest += piece[:HEAD_BYTES]
            del self._rest[HEAD_BYTES:]
            self._dropped = size
        else:
            self._rest += piece

    def _take_rest(self, found: list[Line | Overlong]) -> None:
        if self._dropped:
            found.append(Overlong(self._dropped, bytes(self._rest)))
        else:
            self._add(found, bytes(self._rest))
        self._rest.clear()
        self._dropped = 0

    def _add(self, found: list[Line | Overlong], line: bytes) -> None:
        line = line.removesuffix(b"\r")
        if len(line) > self._max_bytes:
            found.append(Overlong(len(line), line[:HEAD_BYTES]))
        elif line and not line.isspace():
            found.append(Line(line))
