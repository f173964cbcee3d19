"""Init starts every group, warms the always-on ones a few at a time, and says how far each has come."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.actors import Do, crash
from support.fakes import BEGINNING
from support.owners import home, run, turns, until

from mcpv_node.actors.kernel import Deferred, Handle, LoopActor, answers, handles
from mcpv_node.actors.server_type import CallCounts, ServerState, Settled, Warm, Why, WhyReport
from mcpv_node.actors.status import InitState, ShowInit
from mcpv_node.settings import ServerName, SpecKey
from mcpv_node.supervisors import (
    AddGroup,
    AlreadyThere,
    ChildSpec,
    ChildUp,
    GroupsChanged,
    Init,
    Phase,
    RemoveGroup,
    Restart,
    ServerGroupSpec,
    Terminated,
    WhichChildren,
    init,
)
from mcpv_node.supervisors.init import WARM_CONCURRENCY


class FakeServer(LoopActor[None]):
    """Settles when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.warmed = 0
        self.report: WhyReport | None = None
        self.waiting: list[Deferred[ServerState]] = []

    @handles(Warm)
    def _on_warm(self, _: Warm) -> None:
        self.warmed += 1

    @answers(Settled)
    def _on_settled(self, _: Settled) -> Deferred[ServerState]:
        deferred: Deferred[ServerState] = self.defer()
        self.waiting.append(deferred)
        return deferred

    @answers(Why)
    def _on_why(self, _: Why) -> WhyReport | Deferred[WhyReport]:
        return self.report or self.defer()

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

    def add(self, system: Any, name: str, *, baseline: int = 1) -> ServerGroupSpec:
        """Make one more, which Init does not know yet."""
        group = self._group(system, name, baseline, 20.0)
        self.groups.append(group)
        return group

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


def report(name: str, state: ServerState = ServerState.READY) -> WhyReport:
    """What a server may say of itself."""
    return WhyReport(
        name=ServerName(name),
        spec_key=SpecKey(name),
        state=state,
        reason="because",
        since=BEGINNING,
        next_try_at=None,
        desired=1,
        waiting=0,
        start_cause=None,
        last_exit=None,
        stderr=(),
        starts=0,
        restarts=0,
        calls=CallCounts(),
    )


def test_a_group_that_is_added_is_started_and_has_its_turn_to_be_warmed(tmp_path: Path) -> None:
    async def main() -> None:
        async with home(tmp_path) as at_home:
            street = Street(at_home.system, WARM_CONCURRENCY)
            keeper = await at_home.fill("init", lambda: Init(lambda: street.groups))
            await until(lambda: len(street.warm()) == WARM_CONCURRENCY)

            outcome = await keeper.ask(AddGroup(street.add(at_home.system, "new")), 5.0)
            await keeper.ask(AddGroup(street.add(at_home.system, "lazy", baseline=0)), 5.0)
            await turns(50)
            assert isinstance(outcome, ChildUp)
            assert "new" not in street.warm()
            await street.settle("s1")
            await until(lambda: "new" in street.warm())
            await street.settle("s2")
            await turns(50)

            assert "lazy" not in street.warm()
            assert street.handle("lazy").is_alive()

    run(main())


def test_a_group_that_is_added_twice_is_one_group(tmp_path: Path) -> None:
    async def main() -> None:
        async with home(tmp_path) as at_home:
            street = Street(at_home.system, 1)
            keeper = await at_home.fill("init", lambda: Init(lambda: street.groups))
            await until(lambda: street.warm() == ["s0"])

            outcome = await keeper.ask(AddGroup(street.groups[0]), 5.0)
            await turns(50)

            assert outcome == AlreadyThere("s0", Phase.RUNNING)
            assert street.servers["s0"].warmed == 1

    run(main())


def test_a_group_that_is_removed_ends_and_is_never_warmed(tmp_path: Path) -> None:
    async def main() -> None:
        async with home(tmp_path) as at_home:
            street = Street(at_home.system, 6)
            keeper = await at_home.fill("init", lambda: Init(lambda: street.groups))
            await until(lambda: len(street.warm()) == WARM_CONCURRENCY)

            outcomes = [await keeper.ask(RemoveGroup(name), 5.0) for name in ("s1", "s4")]
            for name in ("s0", "s2"):
                await street.settle(name)
            await until(lambda: "s5" in street.warm())

            assert outcomes == [Terminated("s1"), Terminated("s4")]
            assert not street.handle("s1").is_alive()
            assert "s4" not in street.warm()

    run(main())


def test_it_starts_and_ends_what_is_to_be_there_now_and_leaves_the_others_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with home(tmp_path) as at_home:
            street = Street(at_home.system, 2)
            gone: list[str] = []
            keeper = await at_home.fill(
                "init", lambda: Init(lambda: street.groups, on_group_gone=lambda name, _: gone.append(name))
            )
            await until(lambda: len(street.warm()) == 2)
            stays = street.servers["s1"]
            first = street.groups.pop(0)
            street.add(at_home.system, "new")

            keeper.tell(GroupsChanged())
            await until(lambda: "new" in street.warm() and gone)

            assert gone == ["s0"]
            assert not first.server.is_alive()
            assert street.servers["s1"] is stays
            assert stays.warmed == 1

    run(main())


def test_a_group_that_is_to_run_always_from_now_on_is_warmed(tmp_path: Path) -> None:
    async def main() -> None:
        async with home(tmp_path) as at_home:
            street = Street(at_home.system, 1, baseline=0)
            keeper = await at_home.fill("init", lambda: Init(lambda: street.groups))
            await until(lambda: street.servers)
            street.groups = [replace(group, baseline=2) for group in street.groups]

            keeper.tell(GroupsChanged())

            await until(lambda: street.warm() == ["s0"])

    run(main())


def test_a_group_that_is_removed_before_it_is_there_does_not_come(tmp_path: Path) -> None:
    async def main() -> None:
        async with home(tmp_path) as at_home:
            street = Street(at_home.system, 0)
            keeper = await at_home.fill("init", lambda: Init(lambda: street.groups))
            group = street.add(at_home.system, "new")
            street.groups.remove(group)

            keeper.tell(AddGroup(group))
            keeper.tell(RemoveGroup("new"))
            await until(lambda: "new" in street.servers)

            await until(lambda: not group.server.is_alive())
            assert await keeper.ask(WhichChildren(), 5.0) == ()

    run(main())


def test_its_own_death_brings_every_group_back_and_warms_it_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with home(tmp_path) as at_home:
            street = Street(at_home.system, 2)
            keeper = await at_home.fill("init", lambda: Init(lambda: street.groups), restarts=1)
            await keeper.ask(AddGroup(street.add(at_home.system, "new")), 5.0)
            await until(lambda: len(street.warm()) == 3)
            before = dict(street.servers)

            keeper.kill("for a test")
            await until(lambda: all(street.servers[name] is not before[name] for name in before))
            await until(lambda: len(street.warm()) == 3)

            assert at_home.system.live == len(at_home.handles) + 3

    run(main())


def test_it_says_how_far_each_has_come_whatever_became_of_its_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(init, "REPORT_BOUND", 0.05)

    async def main() -> None:
        async with home(tmp_path) as at_home:
            street = Street(at_home.system, 3, baseline=2)
            keeper = await at_home.fill("init", lambda: Init(lambda: street.groups))
            await until(lambda: len(street.servers) == 3)
            street.servers["s0"].report = report("s0")
            while street.handle("s1").cell.closed is None:
                street.handle("s1").tell(Do(crash))
                await turns(50)

            statuses = await keeper.ask(ShowInit(), 5.0)

            assert [(one.name, one.state) for one in statuses] == [
                ("s0", InitState.READY),
                ("s1", InitState.SUSPENDED),
                ("s2", InitState.PENDING),  # it does not say
            ]
            assert statuses[1].reason.startswith("its group gave up: crashed: ")
            assert [one.target for one in statuses] == [2, 2, 2]

    run(main())
