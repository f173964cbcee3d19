"""Stand-ins that tests move by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

# Any fixed moment will do; one with milliseconds shows how they are written.
BEGINNING = datetime(2026, 1, 31, 9, 8, 7, 6000, tzinfo=UTC)


class FakeClock:
    """A clock that stands still until it is advanced; both of its faces move together."""

    def __init__(self, *, monotonic: float = 1000.0, wall: datetime = BEGINNING) -> None:
        self._monotonic = monotonic
        self._wall = wall

    def monotonic(self) -> float:
        return self._monotonic

    def wall(self) -> datetime:
        return self._wall

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass."""
        if seconds < 0:
            raise ValueError("a clock does not go back")
        self._monotonic += seconds
        self._wall += timedelta(seconds=seconds)
