"""Who is registered, and how many clients each server has: computed anew at every change."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from support.fake_servers import FakeNode, fake_node, make_settings

from mcpv_node.actors.clients import Client, Clients, ClientsMessage, ListClients, Register, Unregister
from mcpv_node.actors.index_messages import ConsumerId
from mcpv_node.actors.kernel import Handle, LoopActor, handles
from mcpv_node.actors.server_type import Activation
from mcpv_node.actors.world import EVERYTHING, Selector, Server
from mcpv_node.settings import ServerName

BOUND = 5.0


class Listener(LoopActor[None]):
    """Stands for a server type and keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[int] = []
        self.news = asyncio.Event()

    @handles(Activation)
    def _on_activation(self, message: Activation) -> None:
        self.told.append(message.clients)
        self.news.set()

    async def until(self, clients: int) -> None:
        async with asyncio.timeout(BOUND):
            while not self.told or self.told[-1] != clients:
                self.news.clear()
                await self.news.wait()


Story = Callable[[FakeNode, Handle[ClientsMessage], dict[str, Listener]], Awaitable[None]]


def scenario(story: Story, folder: Path) -> None:
    async def main() -> None:
        async with fake_node(folder, settings=make_settings()) as node:
            listeners: dict[str, Listener] = {}
            servers: dict[ServerName, Server] = {}
            world = node.services.node.world
            for name, server in world.world.servers.items():
                listener = listeners[name] = Listener()
                handle = await node.start(listener, f"listener-{name}")
                servers[name] = Server(server.spec, server.view, handle)
            world.publish_servers(servers)
            clients: Handle[ClientsMessage] = await node.start(Clients(node.services.node), "registry")
            await story(node, clients, listeners)

    asyncio.run(main())


def client(number: int, selector: Selector = EVERYTHING) -> Client:
    return Client(ConsumerId(number), f"client-{number}", selector)


def test_a_server_hears_how_many_clients_may_see_it(tmp_path: Path) -> None:
    async def story(_: FakeNode, clients: Handle[ClientsMessage], listeners: dict[str, Listener]) -> None:
        one, *_others = listeners
        clients.tell(Register(client(1)))
        clients.tell(Register(client(2, Selector(server=ServerName(one)))))

        await listeners[one].until(2)
        for name in listeners.keys() - {one}:
            await listeners[name].until(1)

    scenario(story, tmp_path)


def test_the_last_client_that_leaves_makes_it_none(tmp_path: Path) -> None:
    async def story(_: FakeNode, clients: Handle[ClientsMessage], listeners: dict[str, Listener]) -> None:
        one = next(iter(listeners))
        clients.tell(Register(client(1)))
        clients.tell(Register(client(2)))
        await listeners[one].until(2)

        clients.tell(Unregister(ConsumerId(1)))
        clients.tell(Unregister(ConsumerId(1)))
        await listeners[one].until(1)
        clients.tell(Unregister(ConsumerId(2)))

        await listeners[one].until(0)

    scenario(story, tmp_path)


def test_a_client_that_is_told_of_again_is_counted_once(tmp_path: Path) -> None:
    async def story(_: FakeNode, clients: Handle[ClientsMessage], listeners: dict[str, Listener]) -> None:
        one = next(iter(listeners))
        clients.tell(Register(client(1)))
        clients.tell(Register(client(1)))

        assert [known.id for known in await clients.ask(ListClients(), BOUND)] == [1]
        await listeners[one].until(1)

    scenario(story, tmp_path)


def test_a_changed_selector_moves_the_client(tmp_path: Path) -> None:
    async def story(_: FakeNode, clients: Handle[ClientsMessage], listeners: dict[str, Listener]) -> None:
        one, other = list(listeners)[:2]
        clients.tell(Register(client(1, Selector(server=ServerName(one)))))
        await listeners[one].until(1)

        clients.tell(Register(client(1, Selector(server=ServerName(other)))))

        await listeners[one].until(0)
        await listeners[other].until(1)

    scenario(story, tmp_path)


def test_registrations_survive_a_crash_and_are_told_again(tmp_path: Path) -> None:
    async def story(node: FakeNode, clients: Handle[ClientsMessage], listeners: dict[str, Listener]) -> None:
        one = next(iter(listeners))
        clients.tell(Register(client(1)))
        await listeners[one].until(1)
        listeners[one].told.clear()
        clients.cell.on_ended = lambda _incarnation, _reason: clients.cell.start(Clients(node.services.node))

        clients.kill()
        clients.cell.on_ended = None

        await listeners[one].until(1)
        assert [known.id for known in await clients.ask(ListClients(), BOUND)] == [1]

    scenario(story, tmp_path)
