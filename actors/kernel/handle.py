"""A stable, typed name for an actor, which survives its restarts."""

from __future__ import annotations

import asyncio
from typing import Any, Generic, TypeVar

import pykka

from .actor import monitor_id
from .cell import Cell, Letter
from .deadlines import Overdue
from .errors import ActorDead, ActorRestarted, AskTimeout, WrongThread
from .messages import ActorStatistics, DeadLetter, Request
from .replies import AnyThreadFuture, LoopPort
from .system import ActorSystem

# The node's loop ends every ask at its deadline; only a loop that has just closed, or one that is stuck,
# lets the asker's own clock run this much longer (seconds).
LOOP_MARGIN = 1.0

M_contra = TypeVar("M_contra", contravariant=True)
R = TypeVar("R")


class Handle(Generic[M_contra]):
    """Talk to whichever incarnation is current; `M_contra` is what it understands.

    Safe to use from any thread. An ask that meets the actor's death is asked once more of the next
    incarnation, so requests must be idempotent; a caller does not see one crash.
    """

    __slots__ = ("cell",)

    def __init__(self, cell: Cell) -> None:
        self.cell = cell

    @classmethod
    def create(cls, system: ActorSystem, name: str, *, capacity: int | None = None) -> Handle[M_contra]:
        """A handle to a place that nobody fills yet; what is sent waits for the first incarnation."""
        return cls(Cell(system, name) if capacity is None else Cell(system, name, capacity=capacity))

    def __repr__(self) -> str:
        return f"<Handle {self.cell.name}>"

    @property
    def name(self) -> str:
        return self.cell.name

    def is_alive(self) -> bool:
        """Whether an incarnation is running at this moment."""
        return self.cell.actor is not None

    def tell(self, message: M_contra) -> None:
        """Send and forget. What cannot be taken becomes a dead letter, which is counted and logged."""
        system = self.cell.system
        if system.on_loop_thread():
            self.cell.deliver(Letter(message))
        else:
            letter = Letter(message)
            if not system.post(self.cell.deliver, letter):
                kind = type(message).__name__
                system.bury_late(DeadLetter(self.cell.name, self.cell.kind, kind, "the loop has closed"))

    def tell_now(self, message: M_contra) -> None:
        """`tell`, read in this very turn where its reader is free; from a coroutine on the node's loop, not a handler."""
        self.cell.deliver_now(Letter(message))

    async def ask(self, request: Request[R], timeout: float) -> R:
        """Wait at most `timeout` seconds for the reply, on the node's loop or on any other.

        Raises AskTimeout, ActorDead, ActorRestarted (twice in one ask), MailboxFull, UnhandledMessage.
        """
        cell = self.cell
        system = cell.system
        if not system.is_running_here():
            return await self._ask_from_elsewhere(request, timeout)
        port: LoopPort[R] = LoopPort()
        cell.deliver_now(Letter(request, port))
        if port.is_settled and port.error is None:
            return port.result()
        deadline = system.loop.time() + timeout
        try:
            return port.result() if port.is_settled else await self._wait(port, deadline, timeout)
        except ActorRestarted:
            port = LoopPort()
            cell.deliver_now(Letter(request, port))
            return port.result() if port.is_settled else await self._wait(port, deadline, timeout)

    async def _wait(self, port: LoopPort[R], deadline: float, timeout: float) -> R:
        system = self.cell.system
        future = port.wait(system.loop)
        overdue = port.overdue
        system.deadlines.add(overdue, deadline)
        try:
            return await future
        except Overdue:
            raise AskTimeout(f"{self.name} did not answer within {timeout:g} s") from None
        finally:
            system.deadlines.remove(overdue)

    def ask_blocking(self, request: Request[R], timeout: float) -> R:
        """`ask` for a thread that may block; refused on the node's own loop thread with WrongThread."""
        system = self.cell.system
        if system.on_loop_thread() and not system.loop.is_closed():
            raise WrongThread(
                f"{self.name}: a blocking ask on the event loop's own thread; await ask() instead"
            )
        try:
            reply: R = self._start(request, timeout).get(timeout=timeout + LOOP_MARGIN)
        except pykka.Timeout:
            raise AskTimeout(f"{self.name}: the node's loop did not answer within {timeout:g} s") from None
        return reply

    def watch(self, watcher: Handle[Any]) -> None:
        """Have `watcher` told `Down` once, when the current incarnation ends."""
        monitor = monitor_id()
        if self.cell.system.on_loop_thread():
            self.cell.watch(monitor, watcher.cell)
        else:
            self.cell.system.post(self.cell.watch, monitor, watcher.cell)

    def kill(self, why: str = "killed") -> None:
        """End the current incarnation past its mailbox; its supervisor decides what follows."""
        if self.cell.system.on_loop_thread():
            self.cell.kill(why)
        else:
            self.cell.system.post(self.cell.kill, why)

    def statistics(self) -> ActorStatistics:
        return self.cell.statistics()

    async def _ask_from_elsewhere(self, request: Request[R], timeout: float) -> R:
        try:
            async with asyncio.timeout(timeout + LOOP_MARGIN):
                reply: R = await self._start(request, timeout)
        except TimeoutError:
            raise AskTimeout(f"{self.name}: the node's loop did not answer within {timeout:g} s") from None
        return reply

    def _start(self, request: Request[R], timeout: float) -> AnyThreadFuture:
        """Run the ask on the node's loop; the future ends when it does."""
        system = self.cell.system
        future = AnyThreadFuture()
        future.loop_thread = system.thread_id

        async def ask_and_settle() -> None:
            try:
                future.answer(await self.ask(request, timeout))
            except Exception as error:  # noqa: BLE001  (the asker's thread is the border: it gets every failure)
                future.fail(error)
            finally:
                future.fail(ActorDead(f"{self.name}: the node's loop is closing"))

        if not system.post(lambda: system.keep(system.loop.create_task(ask_and_settle()))):
            future.fail(ActorDead(f"{self.name}: the node's loop has closed"))
        return future
