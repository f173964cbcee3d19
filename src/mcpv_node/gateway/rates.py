"""How many requests a principal may make: a bucket of tokens for each, filled evenly.

A full bucket is a minute's worth, so a client may make all of them at once and is then served at the rate. The
decision is pure; `Rates` is the table of buckets, one for the node, used by the doors on the loop's thread.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

# Principals of an authorization server are any number; the one not heard of for longest has the fullest bucket.
MAX_PRINCIPALS = 10_000

_MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Bucket:
    """How many requests were left at a moment (monotonic seconds)."""

    tokens: float
    at: float


def decide_request(bucket: Bucket | None, now: float, *, per_minute: int) -> tuple[Bucket, float]:
    """Take one token: the bucket afterwards, and the seconds until there is one; 0.0 when this request had it."""
    full = float(per_minute)
    if bucket is None:
        bucket = Bucket(full, now)
    tokens = min(full, bucket.tokens + max(0.0, now - bucket.at) * full / _MINUTE)
    if tokens >= 1.0:
        return Bucket(tokens - 1.0, now), 0.0
    return Bucket(tokens, now), (1.0 - tokens) * _MINUTE / full


class Rates:
    """See the module. `per_minute` 0 admits everything."""

    __slots__ = ("_buckets", "_limit", "_per_minute", "is_limited")

    def __init__(self, per_minute: int = 0, *, limit: int = MAX_PRINCIPALS) -> None:
        self._per_minute = per_minute
        self.is_limited = per_minute > 0
        self._limit = limit
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def admit(self, principal: str, now: float) -> float:
        """Count one request of `principal`: 0.0 when it is admitted, else the seconds to wait before another."""
        if not self.is_limited:
            return 0.0
        before = self._buckets.get(principal)
        self._buckets[principal], wait = decide_request(before, now, per_minute=self._per_minute)
        self._buckets.move_to_end(principal)
        if len(self._buckets) > self._limit:
            self._buckets.popitem(last=False)
        return wait

    def __len__(self) -> int:
        return len(self._buckets)


def whole_seconds(wait: float) -> bytes:
    """A wait as Retry-After says it: never too short."""
    return b"%d" % max(1, math.ceil(wait))
