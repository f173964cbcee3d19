"""What `/healthz` says: whether every actor of the node answers, looked at once a second at most.

Whoever asks without a token learns the classes of those that do not, never the names of servers; these are in the log.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from loguru import logger

from mcpv_node.actors.kernel import Health
from mcpv_node.telemetry import Clock

# Probes ask every few seconds; whoever asks more often gets the answer of before (seconds).
FRESH: Final = 1.0


class HealthView:
    """See the module. Used on the loop's thread; looks that come during one share its answer."""

    def __init__(self, check: Callable[[], Awaitable[Health]], clock: Clock) -> None:
        self._check = check
        self._clock = clock
        self._known: Health | None = None
        self._known_at = 0.0

    async def look(self) -> Health:
        """How the node is."""
        if self._known is not None and self._clock.monotonic() - self._known_at < FRESH:
            return self._known
        health = await self._check()
        was_good = self._known is None or self._known.is_good
        self._known, self._known_at = health, self._clock.monotonic()
        if not health.is_good and was_good:
            logger.warning("the node is not well: {}", health)
        elif health.is_good and not was_good:
            logger.info("the node is well again")
        return health


def describe_fault(health: Health) -> str:
    """Say what is wrong in words that may be heard by anybody."""
    if not health.kinds:
        return "the node has ended"
    return f"these actors do not answer: {', '.join(health.kinds)}"
