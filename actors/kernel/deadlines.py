"""Until when the asks of one node wait, and the calls of its clients go without a sign of life: one timer for all.

Nearly everything is answered long before its deadline, and a timer of its own would cost an ask more than all the rest of
the wait. What is promised: whoever waits is called at the deadline or at most `COARSENESS` later, and never before.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

# Each ring looks at everybody who waits, so it does not follow the last one sooner than this (seconds): thousands of
# deadlines close together cost fifty looks a second. Asks are bounded by whole seconds, where this is not felt.
COARSENESS = 0.02


class Overdue(Exception):
    """The deadline has passed."""


class Deadlines:
    """See the module. Loop thread only."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waits: dict[Callable[[], object], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = math.inf

    def add(self, due: Callable[[], object], deadline: float) -> None:
        """Have `due` called once at `deadline`, on the loop's clock. It must not raise."""
        self._waits[due] = deadline
        if deadline < self._rings_at:
            self._set(deadline)

    def remove(self, due: Callable[[], object]) -> None:
        """Nobody waits any more. The timer stays as it is: ringing for nobody does no harm."""
        self._waits.pop(due, None)

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
        for due in [due for due, deadline in self._waits.items() if deadline <= now]:
            if self._waits.pop(due, None) is not None:
                due()
        following = min(self._waits.values(), default=None)
        if following is not None:
            self._set(max(following, now + COARSENESS))
