"""Server-sent events, both ways, after the WHATWG's HTML standard, section 9.2.

The decoder is bounded: an event larger than its limit is a `RemoteProtocolError`.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from .errors import LocalProtocolError, RemoteProtocolError

_LINE_END: Final = re.compile(rb"\r\n|\r|\n")
_BOM: Final = b"\xef\xbb\xbf"


class SseEvent(msgspec.Struct, frozen=True, gc=False):
    """One event; `id` is the last id the stream has given, in this event or an earlier one."""

    data: bytes
    event: str = "message"
    id: str = ""


def encode_event(
    data: bytes, *, event: str | None = None, id: str | None = None, retry: int | None = None
) -> bytes:
    """One event, whole; `retry` in milliseconds. Line breaks in `data` survive as "\\n"."""
    lines: list[bytes] = []
    if event is not None:
        lines.append(b"event: " + _field(event, "event"))
    if id is not None:
        lines.append(b"id: " + _field(id, "id"))
    if retry is not None:
        lines.append(b"retry: %d" % retry)
    lines += [b"data: " + line for line in _LINE_END.split(data)]
    return b"\n".join(lines) + b"\n\n"


def comment(text: str = "") -> bytes:
    """A line no reader sees, to keep the connection open."""
    return b": " + _field(text, "comment") + b"\n\n"


def _field(value: str, what: str) -> bytes:
    if "\n" in value or "\r" in value or "\0" in value:
        raise LocalProtocolError(f"the {what} of a server-sent event holds a line break or NUL: {value!r}")
    return value.encode()


class SseDecoder:
    """Bytes in, events out; `last_event_id` and `retry` are the stream's, for who must reconnect."""

    def __init__(self, *, max_bytes: int) -> None:
        self.last_event_id = ""
        self.retry: int | None = None
        self._max_bytes = max_bytes
        self._rest = bytearray()
        self._at_start = True
        # The last chunk ended in "\r": a "\n" right after it belongs to the same line end.
        self._skip_newline = False
        self._event = ""
        # The id read last; it is the stream's only once its event is whole, or resuming would skip that event.
        self._id = ""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[SseEvent]:
        """The events that `data` completes."""
        if not data:
            return []
        if self._skip_newline and data.startswith(b"\n"):
            data = data[1:]
        self._skip_newline = data.endswith(b"\r")
        *lines, rest = _LINE_END.split(data)
        if lines:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest.clear()
        self._rest += rest
        found: list[SseEvent] = []
        for line in lines:
            self._read_line(line, found)
        self._check_size(len(self._rest))
        return found

    def _read_line(self, line: bytes, found: list[SseEvent]) -> None:
        if self._at_start:
            self._at_start = False
            line = line.removeprefix(_BOM)
        if not line:
            self._dispatch(found)
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._check_size(len(value))
            self._size += len(value) + 1
            self._data.append(value)
        elif name == b"event":
            self._check_size(len(value))
            self._event = value.decode(errors="replace")
        elif name == b"id" and b"\0" not in value:
            self._check_size(len(value))
            self._id = value.decode(errors="replace")
        elif name == b"retry" and value.isdigit() and len(value) < _RETRY_DIGITS:
            self.retry = int(value)

    def _dispatch(self, found: list[SseEvent]) -> None:
        self.last_event_id = self._id
        if self._data:
            found.append(SseEvent(b"\n".join(self._data), self._event or "message", self.last_event_id))
        self._event = ""
        self._data = []
        self._size = 0

    def _check_size(self, more: int) -> None:
        if self._size + more > self._max_bytes:
            raise RemoteProtocolError(f"a server-sent event is larger than {self._max_bytes} bytes")


# Three years in milliseconds has eleven digits; what is longer is no delay anybody means.
_RETRY_DIGITS: Final = 12
