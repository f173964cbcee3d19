"""A supervisor with real children on a stage; everything that happens is in the stage's journal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any

from support.actors import PLAYERS, Began, LastRites, Stage

from mcpv_node.actors.kernel import ExitReason, Handle, KernelActor, LoopActor
from mcpv_node.supervisors import ChildKeeper, ChildSpec, SupervisionEvent, Supervisor, SupervisorSpec

# Long enough that a child which stops at once never meets it, short enough for one that does not.
SHORT = 0.02


class Company:
    """Child specs for a stage, and a root to put them under."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.ends: list[ExitReason] = []
        self.root: Handle[Any] = Handle.create(stage.system, "root")
        self.root.cell.on_started = lambda _: stage.journal.write("root has started")
        self.root.cell.on_ended = self._ended
        self._ended_event = asyncio.Event()

    def child(
        self,
        child_id: str,
        *,
        runtime: type[KernelActor[Any]] = LoopActor,
        beginning: Callable[[Any], object] | None = None,
        ending: Callable[[Any], object] | None = None,
        on_stop_asked: Callable[[Any], object] | None = None,
        **fields: Any,
    ) -> ChildSpec:
        def make() -> Any:
            actor = PLAYERS[runtime]()
            actor.journal = self.stage.journal
            actor.beginning, actor.ending, actor.on_stop_asked = beginning, ending, on_stop_asked
            return actor

        return ChildSpec(id=child_id, start=make, **fields)

    def sink(self, event: SupervisionEvent) -> None:
        self.stage.journal.write(event)

    def open(self, *children: ChildSpec, **rules: Any) -> Company:
        """Start a supervisor over `children`."""
        return self.open_with(self.supervisor(*children, **rules))

    def supervisor(self, *children: ChildSpec, **rules: Any) -> Supervisor:
        return Supervisor(SupervisorSpec(children=children, **rules), sink=self.sink, rng=Random(4))

    def open_with(self, keeper: ChildKeeper) -> Company:
        self.root.cell.start(keeper)
        return self

    @property
    def keeper(self) -> ChildKeeper:
        actor = self.root.cell.actor
        assert isinstance(actor, ChildKeeper)
        return actor

    async def is_up(self) -> Company:
        await self.until(lambda: self.root.statistics().state == "running")
        return self

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait until `condition` holds, looking again whenever something has happened."""
        await self.stage.journal.until(condition)

    async def close(self) -> ExitReason:
        """Ask the root to stop and wait for its end."""
        self.root.cell.stop()
        return await self.ended()

    async def ended(self) -> ExitReason:
        await self._ended_event.wait()
        return self.ends[-1]

    def handle(self, child_id: str) -> Handle[Any]:
        return next(status.handle for status in self.keeper.children() if status.id == child_id)

    def incarnation(self, child_id: str) -> int:
        return next(status.incarnation for status in self.keeper.children() if status.id == child_id)

    def begun(self) -> list[str]:
        return [entry.name for entry in self.stage.journal.of(Began)]

    def over(self) -> list[str]:
        return [entry.name for entry in self.stage.journal.of(LastRites)]

    def _ended(self, _: int, reason: ExitReason) -> None:
        self.ends.append(reason)
        self.root.cell.close(reason)
        self._ended_event.set()
