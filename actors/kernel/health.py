"""Whether every actor answers: what `/healthz` and a service manager's watchdog go by.

A pulse takes the way of every message, so an answer says that its actor reads its mailbox. A thread that hangs and a
mailbox that fills faster than it is read are found; where the loop itself is stuck, nobody is told anything, which is
as telling. An actor that has crashed, or is still starting, is its supervisor's affair, who bounds both.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .actor import KernelActor
from .cell import Letter
from .messages import Pulse
from .system import ActorSystem

# An actor on the loop answers within a turn. What an actor with a thread waits for is a disk: seconds of that are a
# slow disk, more is one that hangs.
ANSWER_BOUND = 5.0


@dataclass(frozen=True, slots=True)
class Health:
    """What one check found."""

    answered: int
    # The names of those that did not answer within the bound, in alphabetical order.
    silent: tuple[str, ...] = ()
    # Their classes, for whoever may not know names; in alphabetical order.
    kinds: tuple[str, ...] = field(default=(), compare=False)

    @property
    def is_good(self) -> bool:
        return not self.silent

    def __str__(self) -> str:
        if self.is_good:
            return f"all {self.answered} actors answer"
        return f"{', '.join(self.silent)} did not answer"


class HealthCheck:
    """Asks all actors of one system. Made and used on the loop's thread.

    Whoever asks during a check hears of that one, and an actor has at most one pulse in its mailbox however often it
    is asked: looking costs the same, whoever looks.
    """

    def __init__(self, system: ActorSystem, *, bound: float = ANSWER_BOUND) -> None:
        self._system = system
        self._bound = bound
        self._under_way: asyncio.Task[Health] | None = None
        self._pulses: dict[KernelActor[Any], asyncio.Future[None]] = {}

    async def check(self) -> Health:
        """Ask everybody, and wait until all have answered or the bound has passed."""
        if self._under_way is None:
            self._under_way = self._system.loop.create_task(self._ask_everybody())
            self._under_way.add_done_callback(self._forget)
        # Shielded: whoever came second waits for the same answer.
        return await asyncio.shield(self._under_way)

    def _forget(self, _task: asyncio.Task[Health]) -> None:
        self._under_way = None

    async def _ask_everybody(self) -> Health:
        asked = self._system.reading()
        for actor in asked:
            if actor not in self._pulses:
                self._ask(actor)
        waiting = [self._pulses[actor] for actor in asked]
        if waiting:
            await asyncio.wait(waiting, timeout=self._bound)
        # One that has ended since is among those that answered.
        silent = [actor for actor in asked if actor in self._pulses]
        return Health(
            len(asked) - len(silent),
            tuple(sorted(actor.cell.name for actor in silent)),
            tuple(sorted({type(actor).__name__ for actor in silent})),
        )

    def _ask(self, actor: KernelActor[Any]) -> None:
        answered: asyncio.Future[None] = self._system.loop.create_future()
        self._pulses[actor] = answered

        def on_answer() -> None:
            self._pulses.pop(actor, None)
            if not answered.done():
                answered.set_result(None)

        actor.mailbox.put_letter(Letter(Pulse(), _PulsePort(on_answer)), bounded=False)


class _PulsePort:
    """The asker's end of one pulse; that its actor has ended is an answer too."""

    __slots__ = ("_on_answer",)

    def __init__(self, on_answer: Callable[[], None]) -> None:
        self._on_answer = on_answer

    def answer(self, _value: None) -> None:
        self._on_answer()

    def fail(self, _error: Exception) -> None:
        self._on_answer()
