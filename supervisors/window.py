"""How many restarts, within how many seconds, before a supervisor gives up.

Pure: the caller brings the time, so the tests never wait for it.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import SpecError


@dataclass(frozen=True, slots=True)
class RestartWindow:
    """Restart intensity, with the meaning Erlang/OTP gives it.

    More than `max_restarts` within `period` seconds is a fault that restarting
    does not cure: the supervisor stops its children, then itself, and leaves the
    decision to its own supervisor.
    """

    max_restarts: int = 3
    period: float = 5.0

    def __post_init__(self) -> None:
        if self.max_restarts < 0:
            raise SpecError(f"window.max_restarts: {self.max_restarts} is less than 0")
        if not self.period > 0:
            raise SpecError(f"window.period: {self.period} is not more than 0 seconds")

    def recent(self, restarts: Sequence[float], now: float) -> tuple[float, ...]:
        """Those restarts that still count at `now`; they are in order of time."""
        return tuple(restarts[bisect_left(restarts, now - self.period) :])

    def admits(self, restarts: Sequence[float], now: float) -> bool:
        """Tell whether one more restart at `now` stays within the window."""
        return len(self.recent(restarts, now)) < self.max_restarts
