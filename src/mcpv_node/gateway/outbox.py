"""What waits to be written to one reader: bounded, the oldest notification gives way.

A reader that does not read costs a bounded amount of memory and holds nobody up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from enum import Enum

# More than any reader that keeps up has waiting; past it, what is old is of no use to it.
BACKLOG = 256


class Mark(Enum):
    """What comes instead of a message."""

    IDLE = "nothing came in time"
    CLOSED = "nothing will come any more"


class Outbox:
    """One writer's side and one reader's side, both on the loop's thread."""

    __slots__ = ("_closed", "_items", "_waiter", "dropped")

    def __init__(self, backlog: int = BACKLOG) -> None:
        self._items: deque[bytes] = deque(maxlen=backlog)
        self._waiter: asyncio.Future[None] | None = None
        self._closed = False
        self.dropped = 0

    def put(self, message: bytes) -> None:
        """Leave a message; when there are too many, the oldest is dropped."""
        if self._closed:
            return
        if len(self._items) == self._items.maxlen:
            self.dropped += 1
        self._items.append(message)
        self._wake()

    def put_once(self, message: bytes) -> None:
        """Leave a message unless the very same one waits already."""
        if message not in self._items:
            self.put(message)

    def close(self) -> None:
        """Nothing follows; what is there can still be read."""
        self._closed = True
        self._wake()

    def is_closed(self) -> bool:
        return self._closed

    def take_all(self) -> list[bytes]:
        """Everything that waits, for another reader."""
        items = list(self._items)
        self._items.clear()
        return items

    async def next(self, timeout: float) -> bytes | Mark:
        """The next message, or why there is none; waits at most `timeout` seconds."""
        if not self._items and not self._closed:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = loop.call_later(timeout, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        if self._items:
            return self._items.popleft()
        return Mark.CLOSED if self._closed else Mark.IDLE

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
