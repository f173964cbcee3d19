"""Until when the asks of one node wait: one timer for all of them.

Nearly every ask is answered long before its deadline, and a timer of its own would cost it more than all the rest of
the wait. What is promised: a wait ends at its deadline or at most `COARSENESS` later, and never before.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any

# Each ring looks at everybody who waits, so it does not follow the last one sooner than this (seconds): thousands of
# deadlines close together cost fifty looks a second. Asks are bounded by whole seconds, where this is not felt.
COARSENESS = 0.02


class Overdue(Exception):
    """The deadline has passed."""


class Deadlines:
    """See the module. Loop thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waits: dict[asyncio.Future[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = math.inf

    def add(self, wait: asyncio.Future[Any], deadline: float) -> None:
        """Have the future fail with `Overdue` at `deadline`, on the loop's clock."""
        self._waits[wait] = deadline
        if deadline < self._rings_at:
            self._set(deadline)

    def remove(self, wait: asyncio.Future[Any]) -> None:
        """It does not wait any more. The timer stays as it is: ringing for nobody does no harm."""
        self._waits.pop(wait, None)

    def close(self) -> None:
        """Nothing rings any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _set(self, moment: float) -> None:
        self.close()
        self._rings_at = moment
        self._timer = self._loop.call_at(moment, self._ring)

    def _ring(self) -> None:
        # A loop's clock is coarse, and may be a little behind the moment that it rings for.
        now = max(self._loop.time(), self._rings_at)
        self._rings_at = math.inf
        for wait in [wait for wait, deadline in self._waits.items() if deadline <= now]:
            del self._waits[wait]
            if not wait.done():
                wait.set_exception(Overdue())
        following = min(self._waits.values(), default=None)
        if following is not None:
            self._set(max(following, now + COARSENESS))
