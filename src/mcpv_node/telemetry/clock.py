"""The one place the time comes from.

Everything that decides takes the time as a parameter; everything that waits takes a `Clock`. The monotonic
clock measures, the wall clock only dates what people read.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What tells the time."""

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        ...

    def wall(self) -> datetime:
        """The date and time, in UTC."""
        ...


class SystemClock:
    """The machine's clocks."""

    __slots__ = ()

    # The function itself: it is asked several times in every call.
    monotonic = staticmethod(time.monotonic)

    def wall(self) -> datetime:
        return datetime.now(UTC)


def rfc3339(moment: datetime) -> str:
    """Write `moment` as RFC 3339 in UTC with milliseconds: `2026-01-31T09:08:07.006Z`."""
    if moment.tzinfo is None:
        raise ValueError("a moment without a time zone cannot be dated")
    utc = moment.astimezone(UTC)
    return f"{utc:%Y-%m-%dT%H:%M:%S}.{utc.microsecond // 1000:03d}Z"
