"""What all actors of one node share: the loop they live on, its clock, and where dead letters go."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any

from mcpv_node.telemetry.clock import Clock, SystemClock

from .deadlines import Deadlines
from .messages import DeadLetter, Killed

if TYPE_CHECKING:
    from .actor import KernelActor


class ActorSystem:
    """One event loop and the actors on it. Made on the loop's own thread.

    `on_dead_letter` hears every dead letter, on the loop's thread; it must not raise.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        clock: Clock | None = None,
        on_dead_letter: Callable[[DeadLetter], None] | None = None,
    ) -> None:
        self.loop = loop
        self.clock: Clock = clock or SystemClock()
        self.thread_id = get_ident()
        self.deadlines = Deadlines(loop)
        self.dead_letters: Counter[str] = Counter()
        self.on_dead_letter = on_dead_letter
        # Hears the class of every actor whose place gets another incarnation.
        self.on_restart: Callable[[str], None] | None = None
        self.asks_at_once = 0  # since one had to wait for a turn of the loop
        self._tasks: set[asyncio.Task[None]] = set()
        self._living: set[KernelActor[Any]] = set()

    @property
    def live(self) -> int:
        """Actors that have started and not ended: zero after an orderly stop."""
        return len(self._living)

    def reading(self) -> list[KernelActor[Any]]:
        """The actors that are up and have not ended: those that should read what they are sent. Loop thread only."""
        return [actor for actor in self._living if actor.state == "running"]

    def on_loop_thread(self) -> bool:
        return get_ident() == self.thread_id

    def is_running_here(self) -> bool:
        """Whether this code runs on the node's loop: a thread runs one loop at a time. `get_running_loop` asks the
        operating system for the process's id each time, which is a tenth of an ask."""
        return get_ident() == self.thread_id and self.loop.is_running()

    def post(self, function: Callable[..., Any], *args: Any) -> bool:
        """Run `function` on the loop from any thread; False when the loop has closed."""
        with contextlib.suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function, *args)
            return True
        return False

    def bury(self, letter: DeadLetter) -> None:
        """Count a dead letter and tell whoever listens."""
        self.dead_letters[letter.kind] += 1
        if self.on_dead_letter is not None:
            self.on_dead_letter(letter)

    def bury_late(self, letter: DeadLetter) -> None:
        """`bury` from any thread; once the loop has closed nobody listens, and it is only counted."""
        if not self.post(self.bury, letter):
            self.dead_letters[letter.kind] += 1

    def enter(self, actor: KernelActor[Any]) -> None:
        self._living.add(actor)

    def leave(self, actor: KernelActor[Any]) -> None:
        self._living.discard(actor)

    def close(self) -> None:
        """End whatever still lives, with nobody to restart it: the last thing before the loop closes.

        After it every ask from any thread is refused; without it one that is under way when the loop
        closes would wait for ever.
        """
        reason = Killed("the loop is closing")
        for actor in list(self._living):
            actor.cell.on_ended = None
            actor.die(reason)
        self.deadlines.close()

    def keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task until it ends; the loop itself keeps only weak references."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def mailbox_depths(self) -> Counter[str]:
        """How many messages wait, by class of actor; classes with none are there with 0. Loop thread only."""
        depths: Counter[str] = Counter()
        for actor in self._living:
            depths[type(actor).__name__] += actor.mailbox.depth()
        return depths
