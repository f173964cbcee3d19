"""One owner at a time on a loop, with the node around it played by recorders.

    async with home(tmp_path) as at_home:
        index = await at_home.fill("index", lambda: Index(at_home.context, store))

A place is filled again as often as a test says, as its supervisor would; everything ends with the block.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from support.fakes import FakeClock

from mcpv_node.actors.context import NodeContext
from mcpv_node.actors.index_messages import Join, Leave, ListsLearnt, SnapshotChanged
from mcpv_node.actors.instance.messages import (
    CallAbandoned,
    InstanceAsked,
    InstanceExited,
    InstanceFailed,
    InstanceReady,
    InstanceRetiring,
    InstanceStarting,
    Lists,
    ListsFailed,
    StopInstance,
    TellServer,
)
from mcpv_node.actors.kernel import (
    ActorSystem,
    DeadLetter,
    ExitReason,
    Handle,
    KernelActor,
    LoopActor,
    handles,
)
from mcpv_node.actors.leases import Release
from mcpv_node.actors.snapshot import KINDS, Kind
from mcpv_node.actors.world import World, WorldCell
from mcpv_node.settings import NodeSettings
from mcpv_node.telemetry import Clock, Event
from mcpv_node.telemetry.metrics import Metrics

T = TypeVar("T")

# Far more than any step of a test needs; a test that waits this long has failed.
BOUND = 20.0

# libuv opens a pipe for signals with a process's first loop and keeps it: here, before anybody counts.
uvloop.new_event_loop().close()


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """Run one scenario on a fresh loop, bounded; nothing may complain to the loop."""
    complaints: list[Any] = []

    async def bounded() -> T:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        async with asyncio.timeout(2 * BOUND):
            return await scenario

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        result = runner.run(bounded())
    assert complaints == []
    return result


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until `condition` holds."""
    async with asyncio.timeout(BOUND):
        while not condition():  # noqa: ASYNC110  (what is waited for has no event of its own)
            await asyncio.sleep(0.001)


async def turns(count: int = 20) -> None:
    """Let everything that can happen now happen: more turns of the loop than any chain of messages is long."""
    for _ in range(count):
        await asyncio.sleep(0)


class Recorder(LoopActor[None]):
    """Keeps what it is told, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []

    def of(self, kind: type[T]) -> list[T]:
        """What it heard of one kind."""
        return [message for message in self.heard if isinstance(message, kind)]


def _hear(kind: type[Any]) -> Callable[[Recorder, Any], None]:
    def note(actor: Recorder, message: Any) -> None:
        actor.heard.append(message)

    return handles(kind)(note)


HEARD = (
    CallAbandoned,
    Event,
    InstanceAsked,
    InstanceExited,
    InstanceFailed,
    InstanceReady,
    InstanceRetiring,
    InstanceStarting,
    Join,
    Leave,
    Lists,
    ListsFailed,
    ListsLearnt,
    Release,
    SnapshotChanged,
    StopInstance,
    TellServer,
)

RecorderOfAll: type[Recorder] = type(
    "RecorderOfAll", (Recorder,), {f"_on_{kind.__name__}": _hear(kind) for kind in HEARD}
)


@dataclass(slots=True)
class Home:
    """What an owner needs around it, and what became of the places."""

    system: ActorSystem
    context: NodeContext
    events: Recorder
    index: Recorder
    subscribers: Recorder
    dead: list[DeadLetter]
    ends: dict[str, list[ExitReason]] = field(default_factory=dict[str, list[ExitReason]])
    handles: list[Handle[Any]] = field(default_factory=list[Handle[Any]])

    async def fill(
        self,
        name: str,
        make: Callable[[], KernelActor[Any]],
        *,
        restarts: int = 0,
        handle: Handle[Any] | None = None,
    ) -> Handle[Any]:
        """Start an actor in a place of its own, to be started again `restarts` times; return once it has started."""
        place = handle or Handle.create(self.system, name)
        started = asyncio.get_running_loop().create_future()
        left = restarts

        def on_started(_: int) -> None:
            if not started.done():
                started.set_result(None)

        def on_ended(_: int, reason: ExitReason) -> None:
            nonlocal left
            self.ends.setdefault(name, []).append(reason)
            if left > 0:
                left -= 1
                place.cell.start(make())
                return
            place.cell.close(reason)
            if not started.done():
                started.set_exception(RuntimeError(f"{name} did not start: {reason}"))

        place.cell.on_started, place.cell.on_ended = on_started, on_ended
        place.cell.start(make())
        self.handles.append(place)
        await started
        return place

    async def stop(self, handle: Handle[Any]) -> None:
        """Ask it to end, and wait for that."""
        handle.cell.stop()
        await until(lambda: handle.cell.actor is None)

    def event_texts(self, kind: str) -> list[tuple[str | None, str | None, str | None]]:
        """The events of one kind: from, to, reason."""
        return [
            (event.from_, event.to, event.reason) for event in self.events.of(Event) if event.kind == kind
        ]

    def sample(self, name: str, **labels: str) -> float | None:
        """One number of the metrics, as a scrape would show it."""
        wanted = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        body, _ = self.context.metrics.exposition()
        for line in body.decode().splitlines():
            series, _, value = line.rpartition(" ")
            if series == (f"{name}{{{wanted}}}" if wanted else name):
                return float(value)
        return None


@asynccontextmanager
async def home(
    state_dir: Path,
    *,
    settings: NodeSettings | None = None,
    clock: Clock | None = None,
    world: World | None = None,
    played: tuple[str, ...] = ("events", "index", "subscribers"),
    environ: dict[str, str] | None = None,
    node_id: str = "node",
) -> AsyncIterator[Home]:
    """Build it, and end every actor of it. Recorders play what is named; the test fills the other places."""
    clock = clock or FakeClock()
    dead: list[DeadLetter] = []
    system = ActorSystem(asyncio.get_running_loop(), clock=clock, on_dead_letter=dead.append)
    events, index_recorder, subscribers_recorder = RecorderOfAll(), RecorderOfAll(), RecorderOfAll()
    names = ("events", "index", "subscribers", "clients", "watches")
    places: dict[str, Handle[Any]] = {name: Handle.create(system, name) for name in names}
    # One place for the indexes of all kinds: a test that fills them apart makes its own.
    indexes: dict[Kind, Handle[Any]] = dict.fromkeys(KINDS, places["index"])
    world = world or World()
    if settings is not None:
        world = replace(world, settings=settings)
    context = NodeContext(
        node_id=node_id,
        boot="boot",
        system=system,
        clock=clock,
        state_dir=state_dir,
        environ=environ or {},
        world=WorldCell(world),
        metrics=Metrics(),
        events=places["events"],
        indexes=indexes,
        subscribers=places["subscribers"],
        clients=places["clients"],
        watches=places["watches"],
    )
    at_home = Home(system, context, events, index_recorder, subscribers_recorder, dead)
    try:
        players = {"events": events, "index": index_recorder, "subscribers": subscribers_recorder}
        for name in played:
            await at_home.fill(name, lambda name=name: players[name], handle=places[name])
        yield at_home
    finally:
        for handle in reversed(at_home.handles):
            if handle.cell.actor is not None:
                handle.cell.on_ended = None
                handle.cell.stop()
                try:
                    await until(lambda handle=handle: handle.cell.actor is None)
                finally:
                    handle.cell.kill("the test is over")
        assert system.live == 0
