"""Who is registered, and how many clients each server has: computed anew at every change."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support.fake_servers import FakeNode, fake_node, make_settings, run, until
from support.fakes import FakeClock

from mcpv_node.actors.clients import (
    Client,
    ClientId,
    ClientKind,
    Clients,
    ClientsMessage,
    DoorEmpty,
    Heartbeat,
    ListClients,
    Register,
    RegisterAgain,
    Seen,
    Unregister,
    Withdraw,
)
from mcpv_node.actors.index_messages import ServersChanged
from mcpv_node.actors.kernel import Handle, LoopActor, handles
from mcpv_node.actors.server_type import Activation
from mcpv_node.actors.world import EVERYTHING, Selector, Server
from mcpv_node.settings import NodeLimits, ServerName
from mcpv_node.telemetry import EventKind

BOUND = 5.0

# The clock stands until a test moves it; the timer that looks at it does not wait.
SETTINGS: dict[str, Any] = {"client_inactive_seconds": 100.0, "client_check_seconds": 0.01}


class Listener(LoopActor[None]):
    """Stands for a server type, or a door, and keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[int] = []
        self.asked_again = 0

    @handles(Activation)
    def _on_activation(self, message: Activation) -> None:
        self.told.append(message.clients)

    @handles(RegisterAgain)
    def _on_register_again(self, _: RegisterAgain) -> None:
        self.asked_again += 1

    async def until(self, clients: int) -> None:
        """Wait until this is what it was told last."""
        await until(lambda: self.told and self.told[-1] == clients)


@dataclass
class Stage:
    """The actor, and all around it."""

    node: FakeNode
    clients: Handle[ClientsMessage]
    listeners: Mapping[str, Listener]
    clock: FakeClock
    door: Listener

    @property
    def alpha(self) -> Listener:
        return self.listeners["alpha"]

    @property
    def beta(self) -> Listener:
        return self.listeners["beta"]

    async def ids(self) -> list[str]:
        """Who is registered."""
        return [one.client.id for one in await self.clients.ask(ListClients(), BOUND)]

    async def until_ids(self, *ids: str) -> None:
        """Wait until exactly these are registered."""
        async with asyncio.timeout(BOUND):
            while await self.ids() != list(ids):  # noqa: ASYNC110  (the clock of the test stands still)
                await asyncio.sleep(0.001)

    async def until_left(self, *left: tuple[str, str]) -> None:
        """Wait until exactly these are told to have left, each with why."""
        await until(lambda: self.left() == list(left))

    def left(self) -> list[tuple[str | None, str | None]]:
        """Who is told to have left, and why."""
        return [
            (event.client, event.reason)
            for event in self.node.events.events
            if event.kind is EventKind.CLIENT_LEFT
        ]

    async def kill(self) -> None:
        """End the incarnation, and wait for the next."""
        before = self.clients.cell.incarnation
        self.clients.kill()
        await until(lambda: self.clients.cell.incarnation > before)


def scenario(story: Callable[[Stage], Awaitable[None]], folder: Path, **changes: Any) -> None:
    async def main() -> None:
        clock = FakeClock()
        settings = make_settings(**{**SETTINGS, **changes})
        async with fake_node(folder, settings=settings, clock=clock) as node:
            listeners: dict[str, Listener] = {}
            servers: dict[ServerName, Server] = {}
            world = node.services.node.world
            for name, server in world.world.servers.items():
                listener = listeners[name] = Listener()
                servers[name] = replace(server, handle=await node.start(listener, f"listener-{name}"))
            world.publish_servers(servers)
            door = Listener()
            doors: tuple[Handle[RegisterAgain], ...] = (await node.start(door, "door"),)
            clients: Handle[ClientsMessage] = await node.start(Clients(node.services.node, doors), "registry")

            def start_again(_incarnation: int, _reason: object) -> None:
                clients.cell.start(Clients(node.services.node, doors))

            close = clients.cell.on_ended
            clients.cell.on_ended = start_again
            try:
                await story(Stage(node, clients, listeners, clock, door))
            finally:
                clients.cell.on_ended = close

    run(main)


def client(name: str, selector: Selector = EVERYTHING, **more: Any) -> Client:
    given: dict[str, Any] = {"kind": ClientKind.SESSION, "principal": "me", **more}
    return Client(ClientId(name), f"client {name}", selector, **given)


def api(name: str, selector: Selector = EVERYTHING, **more: Any) -> Client:
    return client(name, selector, kind=ClientKind.API, **more)


def only(server: str) -> Selector:
    return Selector(server=ServerName(server))


# ---- how many each server has ----


def test_a_server_hears_how_many_clients_may_see_it(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.clients.tell(Register(client("1")))
        stage.clients.tell(Register(client("2", only("alpha"))))

        await stage.alpha.until(2)
        await stage.beta.until(1)

    scenario(story, tmp_path)


# make_settings: alpha has the tag "one", beta "two".
@pytest.mark.parametrize(
    ("tags", "alpha", "beta"),
    [(set[str](), 1, 1), ({"one"}, 1, 0), ({"one", "two"}, 1, 1), ({"three"}, 0, 0)],
)
def test_a_client_counts_where_it_shares_a_tag(tmp_path: Path, tags: set[str], alpha: int, beta: int) -> None:
    async def story(stage: Stage) -> None:
        stage.clients.tell(Register(client("1", Selector(tags=frozenset(tags) or None))))
        assert await stage.ids() == ["1"]

        await stage.alpha.until(alpha)
        await stage.beta.until(beta)

    scenario(story, tmp_path)


def test_entries_that_share_a_server_type_count_a_client_once(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        world = stage.node.services.node.world
        servers = dict(world.world.servers)
        servers[ServerName("beta")] = replace(
            servers[ServerName("beta")], handle=servers[ServerName("alpha")].handle
        )
        world.publish_servers(servers)

        stage.clients.tell(Register(client("1")))

        await stage.alpha.until(1)

    scenario(story, tmp_path)


def test_the_last_client_that_leaves_makes_it_none(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.clients.tell(Register(client("1")))
        stage.clients.tell(Register(client("2")))
        await stage.alpha.until(2)

        stage.clients.tell(Unregister(ClientId("1"), "over"))
        stage.clients.tell(Unregister(ClientId("1"), "over again"))
        await stage.alpha.until(1)
        stage.clients.tell(Unregister(ClientId("2"), "over"))

        await stage.alpha.until(0)
        await stage.until_left(("client 1", "over"), ("client 2", "over"))

    scenario(story, tmp_path)


def test_a_client_that_is_told_of_again_is_counted_once(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.clients.tell(Register(client("1")))
        stage.clients.tell(Register(client("1")))

        assert await stage.ids() == ["1"]
        await stage.alpha.until(1)

    scenario(story, tmp_path)


def test_a_changed_selector_moves_the_client(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.clients.tell(Register(client("1", only("alpha"))))
        await stage.alpha.until(1)

        stage.clients.tell(Register(client("1", only("beta"))))

        await stage.alpha.until(0)
        await stage.beta.until(1)

    scenario(story, tmp_path)


def test_any_number_of_clients_that_register_at_once_are_all_counted(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        names = [str(number) for number in range(50)]
        done = await asyncio.gather(*(stage.clients.ask(Register(api(name)), BOUND) for name in names))
        assert done == [True] * 50
        await stage.alpha.until(50)

        await asyncio.gather(
            *(stage.clients.ask(Withdraw(ClientId(name), "me"), BOUND) for name in names[1:])
        )

        await stage.alpha.until(1)

    scenario(story, tmp_path)


def test_servers_that_come_later_hear_of_the_clients_that_are_there(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        world = stage.node.services.node.world
        servers = world.world.servers
        world.publish_servers({})
        stage.clients.tell(ServersChanged())
        stage.clients.tell(Register(client("1", only("beta"))))
        assert await stage.ids() == ["1"]
        told_before = len(stage.alpha.told), len(stage.beta.told)

        world.publish_servers(servers)
        stage.clients.tell(ServersChanged())

        await until(lambda: len(stage.beta.told) > told_before[1] and len(stage.alpha.told) > told_before[0])
        assert (stage.alpha.told[-1], stage.beta.told[-1]) == (0, 1)

    scenario(story, tmp_path, client_check_seconds=1000.0, client_inactive_seconds=10_000.0)


def test_a_server_type_that_forgot_is_told_again(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.clients.tell(Register(client("1")))
        await stage.alpha.until(1)
        stage.alpha.told.clear()

        await stage.alpha.until(1)

    scenario(story, tmp_path)


# ---- who may go silent ----


def test_an_api_client_without_a_sign_of_life_goes_and_one_with_stays(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        assert await stage.clients.ask(Register(api("silent")), BOUND)
        assert await stage.clients.ask(Register(api("lively")), BOUND)
        stage.clock.advance(60)
        assert await stage.clients.ask(Heartbeat(ClientId("lively"), "me"), BOUND)
        stage.clock.advance(60)

        await stage.until_ids("lively")
        await stage.alpha.until(1)
        await stage.until_left(("client silent", "no sign of life for 100 s"))
        assert not await stage.clients.ask(Heartbeat(ClientId("silent"), "me"), BOUND)

    scenario(story, tmp_path)


def test_what_has_a_door_stays_however_long_it_is_silent(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        for kind in (ClientKind.SESSION, ClientKind.LINE, ClientKind.HOST):
            stage.clients.tell(Register(client(kind, kind=kind)))
        assert await stage.clients.ask(Register(api("last")), BOUND)

        stage.clock.advance(1_000_000)

        await stage.until_ids("session", "line", "host")

    scenario(story, tmp_path)


def test_a_client_goes_with_its_process_once_it_has_missed_two_checks(tmp_path: Path) -> None:
    process = subprocess.Popen(["sleep", "600"])

    async def story(stage: Stage) -> None:
        assert await stage.clients.ask(Register(api("other", pid=os.getpid())), BOUND)
        assert await stage.clients.ask(Register(api("mortal", pid=process.pid)), BOUND)
        stage.clock.advance(0.05)
        stage.alpha.told.clear()
        await stage.alpha.until(2)

        process.kill()
        process.wait(BOUND)

        await stage.until_ids("other")
        await stage.until_left(("client mortal", f"its process {process.pid} is gone"))

    try:
        scenario(story, tmp_path)
    finally:
        process.kill()
        process.wait(BOUND)


def test_a_client_whose_process_is_gone_stays_while_it_gives_signs_of_life(tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait(BOUND)

    async def story(stage: Stage) -> None:
        assert await stage.clients.ask(Register(api("alive", pid=process.pid)), BOUND)

        stage.alpha.told.clear()
        await stage.alpha.until(1)
        assert await stage.ids() == ["alive"]

    scenario(story, tmp_path)


def test_a_process_that_may_not_be_signalled_is_there(tmp_path: Path, monkeypatch: Any) -> None:
    def forbidden(_pid: int, _signal: int) -> None:
        raise PermissionError

    async def story(stage: Stage) -> None:
        assert await stage.clients.ask(Register(api("elsewhere", pid=1)), BOUND)
        stage.clock.advance(50)
        stage.alpha.told.clear()
        await stage.alpha.until(1)
        assert await stage.ids() == ["elsewhere"]

    monkeypatch.setattr(os, "kill", forbidden)
    scenario(story, tmp_path)


def test_an_api_client_is_nobody_elses(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        assert await stage.clients.ask(Register(api("mine")), BOUND)
        stage.clients.tell(Register(client("session")))

        for id, principal in (("mine", "other"), ("session", "me"), ("nobody", "me")):
            assert not await stage.clients.ask(Heartbeat(ClientId(id), principal), BOUND)
            assert not await stage.clients.ask(Withdraw(ClientId(id), principal), BOUND)

        assert await stage.ids() == ["mine", "session"]

    scenario(story, tmp_path)


def test_a_sign_of_life_may_change_what_the_client_sees(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        assert await stage.clients.ask(Register(api("1", only("alpha"))), BOUND)
        await stage.alpha.until(1)

        assert await stage.clients.ask(Heartbeat(ClientId("1"), "me", only("beta")), BOUND)

        await stage.alpha.until(0)
        await stage.beta.until(1)

    scenario(story, tmp_path)


def test_clients_that_only_the_clock_takes_away_have_a_bound(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        assert await stage.clients.ask(Register(api("1")), BOUND)
        stage.clients.tell(Seen("me", "modern", EVERYTHING))

        assert not await stage.clients.ask(Register(api("2")), BOUND)
        stage.clients.tell(Seen("me", "another", EVERYTHING))
        stage.clients.tell(Register(client("session")))
        assert await stage.clients.ask(Register(api("1")), BOUND)

        assert await stage.ids() == ["1", "modern-1.1", "session"]

    scenario(story, tmp_path, limits=NodeLimits(sessions=2))


# ---- clients without a session ----


def test_a_modern_client_counts_until_it_was_silent_for_too_long(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        sign = Seen("me", "modern", only("alpha"))
        stage.clients.tell(sign)
        assert len(await stage.ids()) == 1
        stage.clock.advance(60)
        stage.clients.tell(Seen("me", "modern", only("alpha")))
        assert len(await stage.ids()) == 1
        stage.clock.advance(60)
        await stage.alpha.until(1)
        stage.alpha.told.clear()
        await stage.alpha.until(1)

        stage.clock.advance(40)

        await stage.alpha.until(0)
        await stage.until_left(("modern", "no sign of life for 100 s"))

    scenario(story, tmp_path)


def test_requests_of_a_modern_client_touch_nothing_but_its_time(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.clients.tell(Seen("me", "modern", EVERYTHING))
        await stage.alpha.until(1)
        await until(lambda: stage.node.events.events)
        before = await stage.clients.ask(ListClients(), BOUND)
        events = len(stage.node.events.events)
        told = len(stage.alpha.told)

        stage.clock.advance(10)
        for _ in range(1000):
            stage.clients.tell(Seen("me", "modern", EVERYTHING))

        (after,) = await stage.clients.ask(ListClients(), BOUND)
        assert (after.client, after.since) == (before[0].client, before[0].since)
        assert before[0].last_seen is not None
        assert after.last_seen is not None
        assert (after.last_seen - before[0].last_seen).total_seconds() == 10
        assert (len(stage.node.events.events), len(stage.alpha.told)) == (events, told)

    scenario(story, tmp_path, client_check_seconds=1000.0, client_inactive_seconds=10_000.0)


# ---- what is told of them ----


def test_the_list_says_who_how_and_since_when(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.clients.tell(Register(client("session", only("alpha"))))
        assert await stage.clients.ask(Register(api("program", pid=os.getpid())), BOUND)
        begun = stage.clock.wall()
        stage.clock.advance(1)
        assert await stage.clients.ask(Heartbeat(ClientId("program"), "me"), BOUND)
        stage.clock.advance(1)

        session, program = await stage.clients.ask(ListClients(), BOUND)

        assert (session.client, session.last_seen) == (client("session", only("alpha")), None)
        assert (program.client.kind, program.client.pid) == (ClientKind.API, os.getpid())
        assert program.last_seen is not None
        assert (program.since, (program.last_seen - begun).total_seconds()) == (begun, 1)

    scenario(story, tmp_path)


def test_every_coming_and_going_is_an_event(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        assert await stage.clients.ask(Register(api("1")), BOUND)
        assert await stage.clients.ask(Withdraw(ClientId("1"), "me"), BOUND)

        await until(lambda: len(stage.node.events.events) == 2)
        assert [(one.kind, one.client, one.cause, one.reason) for one in stage.node.events.events] == [
            (EventKind.CLIENT_REGISTERED, "client 1", "api", None),
            (EventKind.CLIENT_LEFT, "client 1", "api", "it left"),
        ]

    scenario(story, tmp_path)


# ---- its own end ----


def test_registrations_survive_a_crash_and_are_told_again(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.clients.tell(Register(client("1")))
        stage.clients.tell(Seen("me", "modern", EVERYTHING))
        assert await stage.clients.ask(Register(api("2")), BOUND)
        await stage.alpha.until(3)
        before = await stage.ids()
        stage.alpha.told.clear()

        await stage.kill()

        await stage.alpha.until(3)
        assert await stage.ids() == before
        assert stage.door.asked_again == 0
        stage.clock.advance(100)
        await stage.until_ids("1")

    scenario(story, tmp_path)


def test_registrations_that_are_lost_are_asked_for_at_the_doors(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        stage.clients.tell(Register(client("1")))
        await stage.alpha.until(1)

        await stage.kill()
        await stage.kill()

        await until(lambda: stage.door.asked_again == 1)
        assert await stage.ids() == []

    scenario(story, tmp_path)


def test_a_door_that_has_lost_its_clients_takes_their_registrations_with_it(tmp_path: Path) -> None:
    async def story(stage: Stage) -> None:
        for kind in (ClientKind.SESSION, ClientKind.LINE):
            stage.clients.tell(Register(client(kind, kind=kind)))

        stage.clients.tell(DoorEmpty(ClientKind.SESSION))

        assert await stage.ids() == ["line"]
        await stage.alpha.until(1)

    scenario(story, tmp_path)
