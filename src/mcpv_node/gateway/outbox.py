"""What one event stream has to say: what its reader has not had yet, and what a reader may ask for again.

A stream is a bounded log with one reader at a time, who is a position in it; the newest reader wins, because a client
that lost its network comes back long before we learn that its first connection is dead. A reader that does not read
costs a bounded amount of memory and holds nobody up: notifications give way, the oldest first, and what is owed (an
answer, a request to the client) stays until it has been written.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum

from msgspec import Struct

from .presence import Presence

# More than any reader that keeps up has waiting; past it, what is old is of no use to it.
STREAM_MESSAGES = 256

# As much as a client can have missed of one call and still want to read (bytes); one larger message stands alone.
STREAM_BYTES = 1024 * 1024


class Mark(Enum):
    """What comes instead of a message."""

    IDLE = "nothing came in time"
    CLOSED = "nothing will come any more"


class Entry(Struct, frozen=True):
    """One message and its place in its stream, counted from 1."""

    number: int
    message: bytes
    may_be_dropped: bool


class Room:
    """How many bytes a group of outboxes hold together."""

    __slots__ = ("used",)

    def __init__(self) -> None:
        self.used = 0


class Outbox:
    """The writer's side of one stream, on the loop's thread. `last` is the number of the newest message."""

    __slots__ = (
        "_entries",
        "_messages",
        "_presence",
        "_reader",
        "_room",
        "_size",
        "dropped",
        "is_finished",
        "last",
        "name",
        "written",
    )

    def __init__(
        self,
        name: str,
        room: Room | None = None,
        *,
        messages: int = STREAM_MESSAGES,
        presence: Presence | None = None,
    ) -> None:
        self.name = name
        self._presence = presence
        self._messages = messages
        self.last = 0
        self.written = 0  # up to here a reader has written what it was given
        self.dropped = 0  # how many messages nobody has had
        self.is_finished = False
        self._entries: deque[Entry] = deque()
        self._size = 0
        self._room = Room() if room is None else room
        self._reader: Reader | None = None

    @property
    def has_reader(self) -> bool:
        """Whether somebody is there to write what comes."""
        return self._reader is not None

    def put(self, message: bytes, *, may_be_dropped: bool) -> bool:
        """Leave a message; False when it was not taken, because the stream has ended or owes too much already."""
        if self.is_finished:
            return False
        while self._entries and self._is_over(message):
            if not self._give_way():
                self.dropped += 1
                return False
        self._append(message, may_be_dropped=may_be_dropped)
        return True

    def is_waiting(self, message: bytes) -> bool:
        """Whether the very same message waits to be written."""
        return any(entry.message == message for entry in self._entries if entry.number > self.written)

    def finish(self, message: bytes | None = None) -> None:
        """This is the last message; it is taken whatever there is."""
        if self.is_finished:
            return
        if message is not None:
            self._append(message, may_be_dropped=False)
        self.is_finished = True
        if self._presence is not None:
            self._presence.end()
        self._wake()

    def connect(self, after: int | None = None) -> Reader:
        """Give the stream to a new reader, who hears what follows `after`, or else what nobody has had."""
        former = self._reader
        self._reader = Reader(self, self.written if after is None else after)
        if former is not None:
            former.close()
        if self._presence is not None:
            self._presence.came()
        return self._reader

    def disconnect(self, reader: Reader) -> None:
        """The reader has gone; what follows waits for the next one."""
        if self._reader is reader:
            self._reader = None
            if self._presence is not None and not self.is_finished:
                self._presence.left()

    def following(self, number: int) -> Entry | None:
        """The first message after this number that is still here."""
        found = None
        # From the end: a reader that keeps up wants the newest.
        for entry in reversed(self._entries):
            if entry.number <= number:
                break
            found = entry
        return found

    def shed(self) -> None:
        """Keep only what is owed."""
        for entry in [*self._entries]:
            if entry.may_be_dropped or entry.number <= self.written:
                self._remove(entry)

    def skip(self) -> int:
        """Drop all that waits; how many messages were dropped since this was asked last."""
        for entry in [*self._entries]:
            self._remove(entry)
        dropped, self.dropped = self.dropped, 0
        return dropped

    def clear(self) -> None:
        """Keep nothing, and take nothing any more."""
        self.is_finished = True
        self._room.used -= self._size
        self._size = 0
        self._entries.clear()
        self._wake()

    def _is_over(self, message: bytes) -> bool:
        return len(self._entries) >= self._messages or self._size + len(message) > STREAM_BYTES

    def _give_way(self) -> bool:
        """Drop the oldest notification, or else what is kept only to be asked for again."""
        for entry in self._entries:
            if entry.may_be_dropped:
                self._remove(entry)
                return True
        if self._entries[0].number <= self.written:
            self._remove(self._entries[0])
            return True
        return False

    def _append(self, message: bytes, *, may_be_dropped: bool) -> None:
        self.last += 1
        self._entries.append(Entry(self.last, message, may_be_dropped))
        self._size += len(message)
        self._room.used += len(message)
        self._wake()

    def _remove(self, entry: Entry) -> None:
        self._entries.remove(entry)
        self._size -= len(entry.message)
        self._room.used -= len(entry.message)
        if entry.number > self.written:
            self.dropped += 1

    def _wake(self) -> None:
        if self._reader is not None:
            self._reader.wake()


class Reader:
    """One connection's side of a stream. What it was given counts as written when it asks for more."""

    __slots__ = ("_closed", "_waiter", "outbox", "position")

    def __init__(self, outbox: Outbox, position: int) -> None:
        self.outbox = outbox
        self.position = position
        self._closed = False
        self._waiter: asyncio.Future[None] | None = None

    async def next(self, timeout: float) -> Entry | Mark:
        """The next message, or why there is none; waits at most `timeout` seconds."""
        entry = self._take()
        if entry is None and not self._is_over():
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = loop.call_later(timeout, self.wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
            entry = self._take()
        if entry is not None:
            return entry
        return Mark.CLOSED if self._is_over() else Mark.IDLE

    def close(self) -> None:
        """It gets nothing more; what it has not written is the next one's."""
        self._closed = True
        self.outbox.disconnect(self)
        self.wake()

    def wake(self) -> None:
        """Something has changed."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _take(self) -> Entry | None:
        if self._closed:
            return None
        self.outbox.written = max(self.outbox.written, self.position)
        entry = self.outbox.following(self.position)
        if entry is not None:
            self.position = entry.number
        return entry

    def _is_over(self) -> bool:
        return self._closed or self.outbox.is_finished
