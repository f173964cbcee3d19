"""Is it still there? A ping from time to time to an instance that nobody uses, and what its silence means.

Silence alone is no evidence while somebody waits for a call: many servers do one thing at a time. So only an idle
instance is pinged, and one that let a call's limit pass while nobody waits for another: it may be wedged, which is
asked at once. Any message counts as an answer, an error too.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from mcpv_node.actors.kernel import Timer
from mcpv_node.actors.leases import InstanceId
from mcpv_node.protocol import Message
from mcpv_node.settings import ServerSpec


class Verdict(Enum):
    """What follows a ping."""

    FINE = "fine"  # the next one is due after the interval
    AGAIN = "again"  # the next one is due at once
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict, and how many pings in a row nobody answered."""

    verdict: Verdict
    misses: int


def decide_after_ping(*, misses: int, failures: int, heard: bool, awaited: bool) -> Finding:
    """Judge a ping whose time is over, after `misses` before it; `failures` of them in a row are too many.

    `heard`: the server has sent a message since. `awaited`: somebody waits for a call by now.
    """
    if heard or awaited:
        return Finding(Verdict.FINE, 0)
    misses += 1
    return Finding(Verdict.GONE if misses >= failures else Verdict.AGAIN, misses)


def stagger(instance_id: InstanceId, interval: float) -> float:
    """How long after its start an instance has its first turn, so that those started together are not in step."""
    return interval * zlib.crc32(instance_id.encode()) / 2**32


class Pings:
    """See the module. Part of an Instance, which runs its callbacks.

    `ping` sends one and calls back with the reply, or with None after `pingTimeoutSeconds`; `turn_after` comes back
    with `on_turn` after so many seconds; `is_idle`: nothing is in flight; `is_awaited`: somebody waits for a call.
    """

    def __init__(
        self,
        spec: ServerSpec,
        *,
        ping: Callable[[Callable[[Message | None], None]], None],
        turn_after: Callable[[float], Timer],
        is_idle: Callable[[], bool],
        is_awaited: Callable[[], bool],
        retire: Callable[[str], None],
    ) -> None:
        self._interval = spec.ping_interval_seconds
        self._failures = spec.ping_failures
        self._ping = ping
        self._turn_after = turn_after
        self._is_idle = is_idle
        self._is_awaited = is_awaited
        self._retire = retire
        self._turn: Timer | None = None
        self._has_begun = False
        self._is_under_way = False
        self._misses = 0
        self._is_suspect = False  # a call's limit has passed; over once the server was heard
        # Set with every message: this is all that a call costs here.
        self.heard = False

    def begin(self, instance_id: InstanceId) -> None:
        """It is ready."""
        self._has_begun = True
        if self._interval:
            self._turn = self._turn_after(stagger(instance_id, self._interval))

    def respec(self, spec: ServerSpec) -> None:
        """Ping as this says from now on."""
        is_other = spec.ping_interval_seconds != self._interval
        self._interval = spec.ping_interval_seconds
        self._failures = spec.ping_failures
        if is_other and self._has_begun and not self._is_under_way:
            self._turn_later()

    def on_turn(self) -> None:
        """The interval is over."""
        self._turn = None
        if self._is_idle():
            self._send()
        else:
            self._turn_later()

    def on_limit_passed(self) -> None:
        """A call got no reply in its time: perhaps only that call hangs, perhaps all of it."""
        self._is_suspect = True
        self.heard = False
        self.on_nobody_may_wait()

    def on_nobody_may_wait(self) -> None:
        """A call was given up. If it was the last that somebody waited for, a suspicion can be looked into."""
        self._misses = 0
        if not self._interval or not self._is_suspect or self.heard:
            return
        if not self._is_under_way and not self._is_awaited():
            self._send()

    def _turn_later(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
        self._turn = self._turn_after(self._interval) if self._interval else None

    def _send(self) -> None:
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        self._is_under_way = True
        self._is_suspect = self._is_suspect and not self.heard
        self.heard = False
        self._ping(self._on_ping_over)

    def _on_ping_over(self, reply: Message | None) -> None:
        self._is_under_way = False
        heard = self.heard or reply is not None
        finding = decide_after_ping(
            misses=self._misses, failures=self._failures, heard=heard, awaited=self._is_awaited()
        )
        self._misses = finding.misses
        match finding.verdict:
            case Verdict.FINE:
                self._is_suspect = self._is_suspect and not heard
                self._turn_later()
            case Verdict.AGAIN:
                self._send()
            case Verdict.GONE:
                many = "1 ping" if self._misses == 1 else f"{self._misses} pings"
                after = " after a call had passed its limit" if self._is_suspect else ""
                self._retire(f"did not answer {many}{after}")
