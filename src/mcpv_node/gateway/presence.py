"""Whether anybody is there to answer what is asked on one stream: for that its client need not be there all the time."""

from __future__ import annotations

import asyncio

# A client whose connection broke comes back after a second or so, and tries a few times (seconds). What it is asked
# waits that long for it; an instance that waits for somebody who has left serves nobody.
RESUME_GRACE = 60.0


class Presence:
    """One stream's reader, there or gone. Used on the loop's thread."""

    __slots__ = ("_gone", "_timer")

    def __init__(self) -> None:
        self._gone = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def came(self) -> None:
        """Somebody reads."""
        self._stop_timer()
        self._gone.clear()

    def left(self) -> None:
        """Nobody does; perhaps for a moment."""
        self._stop_timer()
        self._timer = asyncio.get_running_loop().call_later(RESUME_GRACE, self._gone.set)

    def end(self) -> None:
        """It does not matter any more."""
        self._stop_timer()

    async def wait_gone(self) -> None:
        """Return once nobody has been there for so long that nobody is expected back."""
        await self._gone.wait()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
