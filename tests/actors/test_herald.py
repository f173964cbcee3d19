"""What a service manager hears of a node, over a real datagram socket; the servers and their health are played."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.actors import Stage, perform
from support.embedded import until
from support.service_managers import Ear, listening_service_manager

from mcpv_node.actors import Herald
from mcpv_node.actors.herald import HeraldMessage, NodeReady, ReloadBegan, ReloadEnded, describe_servers
from mcpv_node.actors.kernel import Cell, Handle, Health, LoopActor, answers
from mcpv_node.actors.status import InitState, InitStatus, ShowInit
from mcpv_node.settings import ServerName

HTTP = "http://127.0.0.1:8090"
QUICK = 0.01


@pytest.fixture
def ear() -> Iterator[Ear]:
    with listening_service_manager() as listening:
        yield listening


def status(state: InitState, name: str = "fs") -> InitStatus:
    """A server in this state."""
    return InitStatus(ServerName(name), state, "", 0, 0, 0, None)


class PlayedInit(LoopActor[None]):
    """Says what the test tells it of the servers."""

    def __init__(self, servers: list[InitStatus]) -> None:
        super().__init__()
        self.looks = 0
        self._servers = servers

    @answers(ShowInit)
    def _on_show(self, _request: ShowInit) -> tuple[InitStatus, ...]:
        self.looks += 1
        return tuple(self._servers)


class Played:
    """A herald with its node played: `servers` and `silent` may be changed at any time."""

    def __init__(self, stage: Stage, ear: Ear, *, watchdog: float | None = None) -> None:
        self.servers = [status(InitState.READY)]
        self.silent: tuple[str, ...] = ()
        self.address: str | None = None
        self.checks = 0
        self.ear = ear
        init: Handle[ShowInit] = Handle.create(stage.system, "init")
        self.init = PlayedInit(self.servers)
        init.cell.start(self.init)
        self.handle: Handle[HeraldMessage] = Handle.create(stage.system, "herald")
        self.cell: Cell = self.handle.cell

        def make() -> Herald:
            return Herald(
                ear.manager(watchdog), init, lambda: self.address, self._check, lambda: 12.5, look_every=QUICK
            )

        def ended(_incarnation: int, reason: Any) -> None:
            stage.journal.write(reason)
            if not self.is_over:
                self.cell.start(make())

        self.is_over = False
        self.cell.on_ended = ended
        self.cell.start(make())

    async def _check(self) -> Health:
        self.checks += 1
        return Health(3, self.silent)

    async def heard(self, *, after: int = 0, **assignments: str) -> int:
        """Wait, with the loop running, for a message with these assignments; its place."""
        return await self.until(lambda message: assignments.items() <= message.items(), after=after)

    async def until(self, is_it: Callable[[dict[str, str]], bool], *, after: int = 0) -> int:
        def places() -> list[int]:
            return [place for place, said in enumerate(self.ear.listen()) if place >= after and is_it(said)]

        await until(lambda: bool(places()))
        return places()[0]


def test_it_is_silent_until_the_node_is_ready_and_then_says_so_with_a_status(ear: Ear) -> None:
    async def scenario(stage: Stage) -> None:
        herald = Played(stage, ear, watchdog=QUICK)
        herald.handle.tell(ReloadBegan())
        herald.handle.tell(ReloadEnded())
        await until(lambda: herald.cell.statistics().handled == 2)
        assert ear.listen() == []

        herald.handle.tell(NodeReady(HTTP))

        assert await herald.heard(READY="1", STATUS=f"serving at {HTTP}") == 0

    perform(scenario)


def test_it_says_how_many_servers_are_up_whenever_that_changes_and_only_then(ear: Ear) -> None:
    async def scenario(stage: Stage) -> None:
        herald = Played(stage, ear)
        herald.handle.tell(NodeReady(HTTP))
        await herald.heard(STATUS=f"serving at {HTTP}; 1 server: 1 ready")
        looks = herald.init.looks
        await until(lambda: herald.init.looks > looks + 2)

        herald.servers[:] = [status(InitState.READY), status(InitState.SUSPENDED)]

        await herald.heard(STATUS=f"serving at {HTTP}; 2 servers: 1 ready, 1 failed")
        assert len(ear.heard) == 3

    perform(scenario)


def test_a_reload_is_told_from_its_beginning_to_its_end(ear: Ear) -> None:
    async def scenario(stage: Stage) -> None:
        herald = Played(stage, ear)
        herald.handle.tell(NodeReady(HTTP))

        herald.handle.tell(ReloadBegan())
        began = await herald.heard(RELOADING="1", MONOTONIC_USEC="12500000")
        herald.handle.tell(ReloadEnded())

        await herald.heard(after=began, READY="1")

    perform(scenario)


def test_a_configuration_that_is_not_good_stands_in_the_status_until_it_is(ear: Ear) -> None:
    async def scenario(stage: Stage) -> None:
        herald = Played(stage, ear)
        herald.handle.tell(NodeReady(HTTP))
        await herald.heard(STATUS=f"serving at {HTTP}; 1 server: 1 ready")

        herald.handle.tell(ReloadEnded("it has errors"))
        place = await herald.until(lambda message: "the configuration is not good" in message["STATUS"])
        herald.handle.tell(ReloadEnded())

        await herald.heard(after=place, READY="1", STATUS=f"serving at {HTTP}; 1 server: 1 ready")

    perform(scenario)


def test_a_sign_of_life_follows_only_when_every_actor_has_answered(ear: Ear) -> None:
    async def scenario(stage: Stage) -> None:
        herald = Played(stage, ear, watchdog=QUICK)
        herald.handle.tell(NodeReady(HTTP))
        await herald.heard(WATCHDOG="1")

        herald.silent = ("store",)
        place = await herald.until(lambda message: message.get("STATUS", "").endswith("store did not answer"))
        checks = herald.checks
        await until(lambda: herald.checks > checks)
        assert not any("WATCHDOG" in message for message in ear.listen()[place:])
        herald.silent = ()

        await herald.heard(after=place, WATCHDOG="1")
        await herald.heard(after=place, STATUS=f"serving at {HTTP}; 1 server: 1 ready")

    perform(scenario)


def test_where_nobody_watches_nobody_is_checked(ear: Ear) -> None:
    async def scenario(stage: Stage) -> None:
        herald = Played(stage, ear)
        herald.handle.tell(NodeReady(HTTP))
        await herald.heard(STATUS=f"serving at {HTTP}; 1 server: 1 ready")

        assert herald.checks == 0

    perform(scenario)


def test_the_last_word_is_that_it_stops(ear: Ear) -> None:
    async def scenario(stage: Stage) -> None:
        herald = Played(stage, ear)
        herald.handle.tell(NodeReady(HTTP))
        await herald.heard(READY="1")
        herald.is_over = True

        herald.cell.stop()

        await herald.heard(STOPPING="1")
        await stage.journal.until(lambda: stage.journal.entries)
        assert ear.listen()[-1]["STOPPING"] == "1"

    perform(scenario)


def test_after_crashes_it_goes_on_and_says_nothing_of_a_stop(ear: Ear) -> None:
    async def scenario(stage: Stage) -> None:
        herald = Played(stage, ear, watchdog=QUICK)
        herald.address = HTTP
        herald.handle.tell(NodeReady(HTTP))
        await herald.heard(WATCHDOG="1")

        # The second so soon loses the estate.
        for _ in range(2):
            herald.cell.kill()
        place = len(ear.listen())

        await herald.heard(after=place, WATCHDOG="1")
        herald.servers[:] = []
        await herald.heard(after=place, STATUS=f"serving at {HTTP}; 0 servers: 0 ready")
        assert not any("STOPPING" in message for message in ear.heard)

    perform(scenario)


def test_a_service_manager_that_is_gone_is_no_fault_of_the_nodes() -> None:
    async def scenario(stage: Stage) -> None:
        with listening_service_manager() as ear:
            herald = Played(stage, ear, watchdog=QUICK)
            herald.handle.tell(NodeReady(HTTP))
            await herald.heard(WATCHDOG="1")
        checks = herald.checks

        await until(lambda: herald.checks > checks + 2)

        assert herald.cell.incarnation == 1

    perform(scenario)


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        ([], "0 servers: 0 ready"),
        ([InitState.READY], "1 server: 1 ready"),
        ([InitState.PENDING, InitState.STARTING], "2 servers: 0 ready, 2 starting"),
        ([InitState.FAILED, InitState.DEGRADED, InitState.SUSPENDED], "3 servers: 0 ready, 3 failed"),
        (list(InitState), "6 servers: 1 ready, 2 starting, 3 failed"),
    ],
)
def test_a_count_of_the_servers_says_what_people_ask_first(states: list[InitState], expected: str) -> None:
    assert describe_servers([status(state) for state in states]) == expected
