"""What a node's threads have for the thread of the actor that hosts it, and when that one looks.

A Thespian actor may send from its own thread alone. So replies and news are put here by whoever has them, and taken by
the actor: woken by a pipe where Thespian watches one for it, else by looking from time to time.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

# Looking is a turn of the actor (about 0.1 ms). A reply is late by a tenth of what it took, at least and at most so much.
SOONEST = 0.001
LATEST = 0.02

# Nobody waits, but somebody wants to hear of changes.
LISTENING = 0.05

# Nothing is expected: lines of the log go out, and a host that has ended is noticed.
HEARTBEAT = 0.5

# Lines that wait for the actor's next turn; more in half a second is a storm, and of it the newest are kept.
LINES = 1000


def decide_look(*, asked: float | None, listens: bool, has_pipe: bool, now: float) -> float:
    """Seconds until the actor has to look again; `asked` is when the newest request that waits was made."""
    if has_pipe:
        return HEARTBEAT
    if asked is not None:
        return min(max((now - asked) / 10, SOONEST), LATEST)
    return LISTENING if listens else HEARTBEAT


class Post(Generic[T]):
    """From any thread to one; whoever takes is always the same thread. It lives as long as its process."""

    def __init__(self, *, with_pipe: bool) -> None:
        self._items: deque[T] = deque()
        self._lines: deque[logging.LogRecord] = deque(maxlen=LINES)
        self._has_items = threading.Event()
        self._reader, self._writer = os.pipe() if with_pipe else (-1, -1)
        if with_pipe:
            os.set_blocking(self._reader, False)
            os.set_blocking(self._writer, False)

    @property
    def pipe(self) -> int | None:
        """What becomes readable when there is something to take; None without a pipe."""
        return None if self._reader < 0 else self._reader

    def put(self, item: T) -> None:
        """Hand something over, from any thread."""
        self._items.append(item)
        self._has_items.set()
        if self._writer >= 0:
            # Full: then the reader is awake for long.
            with contextlib.suppress(BlockingIOError):
                os.write(self._writer, b"\0")

    def put_line(self, line: logging.LogRecord) -> None:
        """Hand over a line of the log, from any thread; nobody is woken for it."""
        self._lines.append(line)

    def wait(self, timeout: float) -> None:
        """Return when there is something to take, or after so many seconds."""
        self._has_items.wait(timeout)

    def take(self) -> Iterator[T]:
        """Take what is there, in order."""
        self._has_items.clear()
        if self._reader >= 0:
            with contextlib.suppress(BlockingIOError):
                while os.read(self._reader, 65536):
                    pass
        while self._items:
            yield self._items.popleft()

    def take_lines(self) -> Iterator[logging.LogRecord]:
        """Take the lines that are there."""
        while self._lines:
            yield self._lines.popleft()
