"""A stage for actors: a fresh loop, places that restart what dies, and a journal to wait on.

`perform` runs one scenario and ends everything that it left alive. What actors do is written in the
journal, from whatever thread; a test waits for an entry, never for time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import uvloop
from support.fakes import FakeClock

from mcpv_node.actors.kernel import (
    ActorSystem,
    DeadLetter,
    Deferred,
    Down,
    ExitReason,
    Handle,
    KernelActor,
    LoopActor,
    Request,
    Shutdown,
    ThreadActor,
    answers,
    handles,
)

T = TypeVar("T")

# libuv opens a pipe for signals with a process's first loop and keeps it: here, before anybody counts.
uvloop.new_event_loop().close()

# Far more than any scenario needs; a test that waits this long has failed.
BOUND = 20.0

RUNTIMES: dict[str, type[KernelActor[Any]]] = {"loop": LoopActor, "thread": ThreadActor}
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}


@dataclass(frozen=True, slots=True)
class Do(Request[Any]):
    """Have the actor run `what` as its handler; the result is the reply."""

    what: Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Note:
    """Told to be written in the journal."""

    text: object


class Unknown(Request[None]):
    """No actor here has a handler for it."""


class Journal:
    """What happened, in order, from any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.entries: list[Any] = []
        self._loop = loop
        self._written = asyncio.Event()

    def write(self, entry: object) -> None:
        self.entries.append(entry)
        try:
            self._loop.call_soon_threadsafe(self._written.set)
        except RuntimeError:  # the loop has closed: nobody waits any more
            return

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait, looking again at every entry, until `condition` holds."""
        async with asyncio.timeout(BOUND):
            while not condition():
                self._written.clear()
                if condition():
                    return
                await self._written.wait()

    def of(self, kind: type[T]) -> list[T]:
        return [entry for entry in self.entries if isinstance(entry, kind)]


@dataclass(frozen=True, slots=True)
class Began:
    name: str
    estate: Any


@dataclass(frozen=True, slots=True)
class LastRites:
    name: str
    reason: ExitReason


@dataclass(frozen=True, slots=True)
class Started:
    name: str
    incarnation: int


@dataclass(frozen=True, slots=True)
class Ended:
    name: str
    incarnation: int
    reason: ExitReason


class Player:
    """What the test's actors do, on either runtime; `play` makes the class."""

    journal: Journal
    beginning: Callable[[Any], object] | None
    ending: Callable[[Any], object] | None
    on_stop_asked: Callable[[Any], object] | None
    public_attribute = 1

    def on_start(self: Any, estate: Any = None) -> None:
        self.journal.write(Began(self.cell.name, estate))
        if self.beginning is not None:
            self.beginning(self)

    def on_shutdown(self: Any) -> None:
        if self.on_stop_asked is None:
            self.exit(Shutdown())
        else:
            self.on_stop_asked(self)

    def on_exit(self: Any, reason: ExitReason) -> None:
        self.journal.write(LastRites(self.cell.name, reason))
        if self.ending is not None:
            self.ending(self)

    def on_down(self: Any, down: Down) -> None:
        self.journal.write(down)

    @answers(Do)
    def _on_do(self: Any, request: Do) -> Any | Deferred[Any]:
        return request.what(self)

    @handles(Note)
    def _on_note(self: Any, note: Note) -> None:
        self.journal.write(note.text)

    def double(self, number: int) -> int:
        """For pykka's proxies."""
        return number * 2


class LoopPlayer(Player, LoopActor[Any]):
    """A player on the loop."""


class ThreadPlayer(Player, ThreadActor[Any]):
    """A player on its own thread."""


PLAYERS: dict[type[KernelActor[Any]], type[Any]] = {LoopActor: LoopPlayer, ThreadActor: ThreadPlayer}


class Place:
    """One cell, with a supervisor's part played: it starts again as often as `restarts` says."""

    def __init__(
        self,
        stage: Stage,
        runtime: type[KernelActor[Any]],
        *,
        name: str = "player",
        restarts: int = 0,
        capacity: int | None = None,
        beginning: Callable[[Any], object] | None = None,
        ending: Callable[[Any], object] | None = None,
        on_stop_asked: Callable[[Any], object] | None = None,
        keeps_open: bool = False,
    ) -> None:
        self.handle: Handle[Any] = Handle.create(stage.system, name, capacity=capacity)
        self.cell = self.handle.cell
        self.cell.on_started = self._started
        self.cell.on_ended = self._ended
        self._stage = stage
        self._runtime = runtime
        self._restarts = restarts
        self._keeps_open = keeps_open
        self._hooks = {"beginning": beginning, "ending": ending, "on_stop_asked": on_stop_asked}

    def start(self) -> Place:
        self.cell.start(self.make())
        return self

    def make(self) -> Any:
        actor = PLAYERS[self._runtime]()
        actor.journal = self._stage.journal
        for name, hook in self._hooks.items():
            setattr(actor, name, hook)
        return actor

    @property
    def ref(self) -> Any:
        assert self.cell.actor is not None
        return self.cell.actor.actor_ref

    @property
    def ends(self) -> list[Ended]:
        return [end for end in self._stage.journal.of(Ended) if end.name == self.cell.name]

    async def ended(self, times: int = 1) -> ExitReason:
        await self._stage.journal.until(lambda: len(self.ends) >= times)
        return self.ends[times - 1].reason

    async def ask(self, what: Callable[[Any], Any], timeout: float = BOUND) -> Any:
        return await self.handle.ask(Do(what), timeout)

    def _started(self, incarnation: int) -> None:
        assert self._stage.system.on_loop_thread()
        self._stage.journal.write(Started(self.cell.name, incarnation))

    def _ended(self, incarnation: int, reason: ExitReason) -> None:
        assert self._stage.system.on_loop_thread()
        if self._restarts > 0:
            self._restarts -= 1
            self.cell.start(self.make())
        elif not self._keeps_open:
            self.cell.close(reason)
        self._stage.journal.write(Ended(self.cell.name, incarnation, reason))


class Stage:
    """One actor system, its clock, its dead letters, its journal."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.clock = FakeClock()
        self.dead: list[DeadLetter] = []
        self.journal = Journal(loop)
        self.system = ActorSystem(loop, clock=self.clock, on_dead_letter=self._bury)

    def _bury(self, letter: DeadLetter) -> None:
        assert self.system.on_loop_thread()
        self.dead.append(letter)
        self.journal.write(letter)


def perform(
    scenario: Callable[[Stage], Awaitable[T]],
    *,
    new_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop,
) -> T:
    """Run `scenario` on a fresh loop, then end what it left alive; nothing may complain to the loop."""
    complaints: list[Any] = []

    async def main() -> T:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        stage = Stage(loop)
        try:
            async with asyncio.timeout(2 * BOUND):
                return await scenario(stage)
        finally:
            stage.system.close()
            assert stage.system.live == 0

    with asyncio.Runner(loop_factory=new_loop) as runner:
        result = runner.run(main())
    assert complaints == []
    return result


async def in_thread(function: Callable[..., T], *args: Any) -> T:
    """Run `function` on a thread of its own, without an executor that would outlive it."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def body() -> None:
        try:
            result = function(*args)
        except Exception as error:  # noqa: BLE001  (whatever it is, the test that waits gets it)
            loop.call_soon_threadsafe(settle, None, error)
        else:
            loop.call_soon_threadsafe(settle, result, None)

    threading.Thread(target=body, daemon=True).start()
    async with asyncio.timeout(BOUND):
        return await future


def crash(_: object) -> None:
    """A handler that meets something it did not expect."""
    raise ValueError("boom")
