"""The event streams of one legacy session, and how a client that lost one goes on with it.

There is one stream for what the client did not ask for, and one for each request that is answered with events. An
event's id is `<stream>-<n>`; it is looked up in the session that it came with, and nowhere else, so that it is worth
nothing to anybody else. A message stands in exactly one stream. A stream that has ended is kept for a while: its last
event may be the one that was lost.
"""

from __future__ import annotations

import secrets
from typing import Final

from mcpv_node.protocol import comment, encode_event

from .outbox import Entry, Outbox, Reader, Room
from .presence import Presence

# The clients before cannot read an event without data.
PRIMED_SINCE: Final = "2025-11-25"

# When a client whose connection broke may come back (milliseconds): soon, for what broke it has mostly passed by then.
RETRY_MS: Final = 1000

# A stream that has ended is kept at least this long (seconds); a client comes back after RETRY_MS, and a few times.
KEPT_SECONDS: Final = 60.0

# What one session's streams may hold together (bytes), above which what is only kept to be asked for again goes.
SESSION_BYTES: Final = 4 * 1024 * 1024

# Calls that ended within KEPT_SECONDS and had more to say than an answer; the oldest goes.
KEPT_STREAMS: Final = 64

# Two sessions have the same tag by no chance worth naming; that one is not the other's is seen to by the look-up.
TAG_BYTES: Final = 6

# An honest number has fewer digits; int() is not given more.
MAX_DIGITS: Final = 15

STANDING: Final = 0

# What keeps a connection open while there is nothing to say.
SIGN_OF_LIFE: Final = comment("keepalive")


class Streams:
    """See the module. `standing` is the stream for what the client did not ask for; GET reads it."""

    __slots__ = ("_ended", "_opened", "_room", "_running", "_tag", "standing")

    def __init__(self) -> None:
        self._tag = secrets.token_hex(TAG_BYTES)
        self._opened = STANDING
        self._room = Room()
        self.standing = Outbox(self._name(STANDING), self._room)
        self._running: dict[str, Outbox] = {}
        self._ended: dict[str, tuple[Outbox, float]] = {}

    @property
    def kept_bytes(self) -> int:
        """What all of them hold."""
        return self._room.used

    def open(self, presence: Presence | None = None) -> Outbox:
        """Make a stream for one request; whoever opened it finishes it. `presence` hears of its readers."""
        self._opened += 1
        outbox = Outbox(self._name(self._opened), self._room, presence=presence)
        self._running[outbox.name] = outbox
        return outbox

    def put(self, outbox: Outbox, message: bytes, *, may_be_dropped: bool) -> bool:
        """Leave a message in one of them; False when it was not taken: see Outbox.put."""
        self._make_room(len(message))
        if self._room.used and not self._has_room(len(message)):
            return False
        return outbox.put(message, may_be_dropped=may_be_dropped)

    def finish(self, outbox: Outbox, answer: bytes | None, now: float) -> None:
        """End a request's stream with its answer; None: there is none, so nobody needs to come back for it."""
        if answer is not None:
            self._make_room(len(answer))
        outbox.finish(answer)
        if self._running.pop(outbox.name, None) is not None and answer is not None:
            self._ended[outbox.name] = (outbox, now)
            left = self._left()
            if len(left) > KEPT_STREAMS:
                self._forget(left[0])

    def connect(self, last_event_id: str | None) -> Reader | None:
        """Read on after an event, or read the standing stream; None: that stream is not kept any more.

        An id that is not one of this session's says nothing about what its bearer has had, as if there was none.
        """
        name, _, digits = (last_event_id or "").rpartition("-")
        if not _is_number(digits):
            return self.standing.connect()
        number = int(digits)
        outbox = self._find(name)
        if outbox is not None and number <= outbox.last:
            return outbox.connect(number)
        return None if outbox is None and self._was_opened(name) else self.standing.connect()

    def expire(self, now: float) -> None:
        """Forget what ended long enough ago."""
        for outbox in self._left():
            if now - self._ended[outbox.name][1] >= KEPT_SECONDS:
                self._forget(outbox)

    def close(self) -> None:
        """The session is over: readers get what waits for them, and nothing is kept for others."""
        self.standing.finish()
        for outbox in self._left():
            self._forget(outbox)

    def _find(self, name: str) -> Outbox | None:
        if name == self.standing.name:
            return self.standing
        ended = self._ended.get(name)
        return self._running.get(name) if ended is None else ended[0]

    def _was_opened(self, name: str) -> bool:
        tag, _, digits = name.partition(".")
        return tag == self._tag and _is_number(digits) and STANDING < int(digits) <= self._opened

    def _name(self, number: int) -> str:
        return f"{self._tag}.{number}"

    def _make_room(self, size: int) -> None:
        """Let go of what somebody has had, then of notifications, and of an answer nobody came for as the last."""
        if self._has_room(size):
            return
        left = self._left()
        for outbox in left:
            if outbox.written == outbox.last:
                self._forget(outbox)
                if self._has_room(size):
                    return
        for outbox in (self.standing, *self._running.values()):
            outbox.shed()
            if self._has_room(size):
                return
        for outbox in left:
            if outbox.name in self._ended:
                self._forget(outbox)
                if self._has_room(size):
                    return

    def _has_room(self, size: int) -> bool:
        return self._room.used + size <= SESSION_BYTES

    def _left(self) -> list[Outbox]:
        """What has ended and is only there to be asked for, the oldest first."""
        return [outbox for outbox, _ in self._ended.values() if not outbox.has_reader]

    def _forget(self, outbox: Outbox) -> None:
        del self._ended[outbox.name]
        outbox.clear()


def _is_number(digits: str) -> bool:
    return digits.isascii() and digits.isdecimal() and len(digits) <= MAX_DIGITS


def opening_of(reader: Reader, *, primes: bool) -> bytes:
    """What a connection begins with, so that its client has the headers: an event without data, or a comment.

    The event tells the client from where to go on, and when.
    """
    if not primes:
        return SIGN_OF_LIFE
    return encode_event(b"", id=f"{reader.outbox.name}-{reader.position}", retry=RETRY_MS)


def event_of(reader: Reader, entry: Entry) -> bytes:
    """A message with its id."""
    return encode_event(entry.message, id=f"{reader.outbox.name}-{entry.number}")
