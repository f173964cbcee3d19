"""Init starts every group and warms the always-on ones, a few at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.actors import Do, crash
from support.owners import home, run, turns, until

from mcpv_node.actors.kernel import Deferred, Handle, LoopActor, answers, handles
from mcpv_node.actors.server_type import ServerState, Settled, Warm
from mcpv_node.supervisors import ChildSpec, Init, Restart, ServerGroupSpec
from mcpv_node.supervisors.init import WARM_CONCURRENCY


class FakeServer(LoopActor[None]):
    """Settles when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.warmed = 0
        self.waiting: list[Deferred[ServerState]] = []

    @handles(Warm)
    def _on_warm(self, _: Warm) -> None:
        self.warmed += 1

    @answers(Settled)
    def _on_settled(self, _: Settled) -> Deferred[ServerState]:
        deferred: Deferred[ServerState] = self.defer()
        self.waiting.append(deferred)
        return deferred

    @answers(Do)
    def _on_do(self, request: Do) -> Any:
        return request.what(self)


class Street:
    """Groups, each a server that stands for the whole group."""

    def __init__(self, system: Any, count: int, *, baseline: int = 1, timeout: float = 20.0) -> None:
        self.servers: dict[str, FakeServer] = {}
        self.groups = [self._group(system, f"s{number}", baseline, timeout) for number in range(count)]

    def _group(self, system: Any, name: str, baseline: int, timeout: float) -> ServerGroupSpec:
        def make() -> FakeServer:
            server = self.servers[name] = FakeServer()
            return server

        handle: Handle[Any] = Handle.create(system, name)
        child = ChildSpec(id=name, start=make, handle=handle, restart=Restart.PERMANENT)
        return ServerGroupSpec(child, handle, baseline, timeout)

    def warm(self) -> list[str]:
        return [name for name, server in self.servers.items() if server.warmed]

    def handle(self, name: str) -> Handle[Any]:
        return next(group.server for group in self.groups if group.child.id == name)

    async def settle(self, name: str) -> None:
        await until(lambda: self.servers[name].waiting)
        self.servers[name].waiting.pop().answer(ServerState.READY)


def test_always_on_servers_are_warmed_a_few_at_a_time(tmp_path: Path) -> None:
    async def main() -> None:
        async with home(tmp_path) as at_home:
            street = Street(at_home.system, 6)
            await at_home.fill("init", lambda: Init(lambda: street.groups))
            await until(lambda: len(street.warm()) == WARM_CONCURRENCY)
            await turns(50)
            assert street.warm() == ["s0", "s1", "s2", "s3"]

            await street.settle("s2")
            await until(lambda: street.warm() == ["s0", "s1", "s2", "s3", "s4"])
            await street.settle("s0")
            await until(lambda: len(street.warm()) == 6)

    run(main())


def test_one_that_does_not_settle_in_its_time_does_not_keep_the_others_cold(tmp_path: Path) -> None:
    async def main() -> None:
        async with home(tmp_path) as at_home:
            street = Street(at_home.system, 6, timeout=0.01)
            await at_home.fill("init", lambda: Init(lambda: street.groups))

            await until(lambda: len(street.warm()) == 6)

    run(main())


def test_on_demand_servers_are_started_cold(tmp_path: Path) -> None:
    async def main() -> None:
        async with home(tmp_path) as at_home:
            street = Street(at_home.system, 3, baseline=0)
            await at_home.fill("init", lambda: Init(lambda: street.groups))
            await until(lambda: len(street.servers) == 3)
            await turns(50)

            assert street.warm() == []

    run(main())


def test_a_group_that_gives_up_costs_the_others_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with home(tmp_path) as at_home:
            street = Street(at_home.system, 2, baseline=0)
            keeper = await at_home.fill("init", lambda: Init(lambda: street.groups))
            await until(lambda: len(street.servers) == 2)
            other = street.servers["s1"]

            while street.handle("s0").cell.closed is None:
                street.handle("s0").tell(Do(crash))
                await turns(50)

            assert keeper.is_alive()
            assert street.servers["s1"] is other
            assert street.handle("s1").is_alive()

    run(main())
