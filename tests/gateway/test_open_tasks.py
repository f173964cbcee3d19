"""An instance is kept for each task that works, and no longer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.fake_servers import FakeNode, FakeServerType, fake_node, run, until
from support.fakes import FakeClock

from mcpv_node.actors.callers import Caller
from mcpv_node.actors.leases import InstanceId, LeaseId, LeaseKind
from mcpv_node.gateway import open_tasks
from mcpv_node.gateway.open_tasks import TaskOpen, TaskOver
from mcpv_node.protocol import CallFailure, Reason
from mcpv_node.settings import ServerName

CALLER = Caller(principal="p", client="c", key="k")


class Keeping:
    """The owner beside one server type."""

    def __init__(self, node: FakeNode, clock: FakeClock) -> None:
        self.node = node
        self.clock = clock
        self.handle = node.services.open_tasks

    @property
    def type(self) -> FakeServerType:
        return self.node.types["alpha"]

    def open(self, task: str, *, seconds: float | None = 60.0, instance: str = "alpha-1") -> None:
        server = self.node.services.node.world.world.servers[ServerName("alpha")]
        self.handle.tell(TaskOpen(task, server, InstanceId(instance), CALLER, seconds))

    async def acquired(self, count: int) -> list[LeaseId]:
        await until(lambda: len(self.type.acquired) >= count)
        return [one.lease for one in self.type.acquired]

    async def released(self, leases: list[LeaseId]) -> None:
        # One that is over before its grant is heard of is released twice, in case the first release came before the request.
        await until(lambda: list(dict.fromkeys(self.type.released)) == leases)


@asynccontextmanager
async def keeping(folder: Path) -> AsyncIterator[Keeping]:
    clock = FakeClock()
    async with fake_node(folder, clock=clock) as node:
        yield Keeping(node, clock)


def test_a_task_has_a_lease_without_a_slot_until_it_is_over(tmp_path: Path) -> None:
    async def main() -> None:
        async with keeping(tmp_path) as on:
            on.open("t")
            on.open("u")
            on.open("t")
            leases = await on.acquired(2)
            on.handle.tell(TaskOver("t"))
            on.handle.tell(TaskOver("t"))
            on.handle.tell(TaskOver("none"))
            await on.released(leases[:1])

            assert [(one.kind, one.instance) for one in on.type.acquired] == [
                (LeaseKind.TASK, "alpha-1"),
                (LeaseKind.TASK, "alpha-1"),
            ]

    run(main)


def test_a_task_that_nobody_hears_of_is_let_go_when_its_time_is_over(tmp_path: Path) -> None:
    async def main() -> None:
        async with keeping(tmp_path) as on:
            on.open("t", seconds=60.0)
            on.open("u", seconds=0.001)
            kept, let_go = await on.acquired(2)
            on.clock.advance(1.0)
            await until(lambda: let_go in on.type.released)

            assert kept not in on.type.released

    run(main)


def test_a_task_that_goes_on_elsewhere_is_kept_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with keeping(tmp_path) as on:
            on.open("t")
            first = await on.acquired(1)
            on.open("t", instance="alpha-2")
            await on.acquired(2)
            await on.released(first)

            assert on.type.acquired[1].instance == "alpha-2"

    run(main)


def test_a_task_whose_instance_is_gone_is_forgotten(tmp_path: Path) -> None:
    async def main() -> None:
        async with keeping(tmp_path) as on:
            on.type.refusal = CallFailure(
                reason=Reason.INSTANCE_DIED, message="gone", server="alpha", executed="no"
            )
            on.open("t")
            await on.acquired(1)
            await until(lambda: on.type.released)
            on.type.refusal = None
            on.open("t")

            await on.acquired(2)

    run(main)


def test_what_is_over_before_its_lease_is_granted_holds_none(tmp_path: Path) -> None:
    async def main() -> None:
        async with keeping(tmp_path) as on:
            on.open("t")
            on.handle.tell(TaskOver("t"))
            leases = await on.acquired(1)

            await until(lambda: on.type.released[-1:] == leases)

    run(main)


def test_past_the_bound_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_tasks, "MAX_OPEN", 1)

    async def main() -> None:
        async with keeping(tmp_path) as on:
            on.open("t")
            on.open("u")
            on.handle.tell(TaskOver("t"))
            on.open("v")
            await on.acquired(2)

            assert len(on.type.acquired) == 2

    run(main)


def test_the_end_of_the_owner_gives_every_lease_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with keeping(tmp_path) as on:
            on.open("t")
            leases = await on.acquired(1)
            await on.node.stop(on.handle)

            await on.released(leases)

    run(main)
