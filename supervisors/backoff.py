"""How long to wait before the n-th restart in a row.

Pure: the caller brings the count and the source of chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from .errors import SpecError

# Half of the delay is certain, half is chance: enough to part children that failed together.
LEAST_JITTER = 0.5

# Far beyond any maximum, and still a float.
MAX_DOUBLINGS = 60


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays that double from `base` up to `maximum`, each shortened by chance.

    A child that has run for `reset_after` seconds is healthy: its next failure counts as the first.
    """

    base: float = 0.1
    maximum: float = 30.0
    reset_after: float = 60.0

    def __post_init__(self) -> None:
        if not self.base > 0:
            raise SpecError(f"backoff.base: {self.base} is not more than 0 seconds")
        if not self.maximum >= self.base:
            raise SpecError(f"backoff.maximum: {self.maximum} is less than base, {self.base}")
        if not self.reset_after >= 0:
            raise SpecError(f"backoff.reset_after: {self.reset_after} is less than 0 seconds")

    def delay(self, n: int, rng: Random) -> float:
        """Seconds before the n-th restart in a row, n counted from 1."""
        if n < 1:
            raise ValueError(f"restarts in a row are counted from 1, not {n}")
        doubled = self.base * 2.0 ** min(n - 1, MAX_DOUBLINGS)
        return min(self.maximum, doubled) * rng.uniform(LEAST_JITTER, 1.0)
