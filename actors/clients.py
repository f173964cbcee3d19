"""The owner of who is registered, and so of which servers have clients.

How many clients may see a server is computed anew from the registrations at every change, and told to the server
types as an absolute number: a message that is lost or told twice changes nothing for long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from mcpv_node.telemetry import EventKind

from .context import NodeContext
from .index_messages import ConsumerId
from .kernel import LoopActor, Request, answers, handles
from .server_type import Activation
from .world import Selector


@dataclass(frozen=True, slots=True)
class Client:
    """A registered consumer of the node."""

    id: ConsumerId
    name: str
    selector: Selector


@dataclass(frozen=True, slots=True)
class Register:
    """This client is there, and sees this much; told again, it replaces what was known of it."""

    client: Client


@dataclass(frozen=True, slots=True)
class Unregister:
    """The client is gone; nobody needs to know it any more."""

    id: ConsumerId


@dataclass(frozen=True, slots=True)
class ListClients(Request[tuple[Client, ...]]):
    """Who is registered, in order of registration."""


@dataclass(frozen=True, slots=True)
class _TellAgain:
    """A server type may have been started anew since it was told."""


ClientsMessage: TypeAlias = Register | Unregister | ListClients


@dataclass(frozen=True, slots=True)
class Registrations:
    """The estate: a restart forgets nobody."""

    clients: Mapping[ConsumerId, Client] = field(default_factory=lambda: MappingProxyType({}))


class Clients(LoopActor[Registrations]):
    """See the module."""

    def __init__(self, node: NodeContext) -> None:
        super().__init__()
        self._node = node
        self._told: dict[str, int] = {}

    @property
    def _clients(self) -> Mapping[ConsumerId, Client]:
        return self.estate.clients if self.estate is not None else {}

    def on_start(self, estate: Registrations | None = None) -> None:
        self.estate = estate or Registrations()
        self._tell_again_later()
        self._tell_servers()

    @handles(Register)
    def _on_register(self, message: Register) -> None:
        client = message.client
        known = self._clients.get(client.id)
        if known == client:
            return
        self._keep({**self._clients, client.id: client})
        if known is None:
            self._node.tell_event(EventKind.CLIENT_REGISTERED, client=client.name)

    @handles(Unregister)
    def _on_unregister(self, message: Unregister) -> None:
        client = self._clients.get(message.id)
        if client is not None:
            self._keep({key: one for key, one in self._clients.items() if key != message.id})
            self._node.tell_event(EventKind.CLIENT_LEFT, client=client.name)

    @answers(ListClients)
    def _on_list(self, _request: ListClients) -> tuple[Client, ...]:
        return tuple(self._clients.values())

    @handles(_TellAgain)
    def _on_tell_again(self, _message: _TellAgain) -> None:
        self._told.clear()
        self._tell_servers()
        self._tell_again_later()

    def _keep(self, clients: dict[ConsumerId, Client]) -> None:
        self.estate = Registrations(MappingProxyType(clients))
        self._tell_servers()

    def _tell_servers(self) -> None:
        """Tell every server type whose number of clients is news to it (I7)."""
        servers = self._node.world.world.servers
        counts = {server.handle.name: 0 for server in servers.values()}
        handles_by_name = {server.handle.name: server.handle for server in servers.values()}
        for client in self._clients.values():
            # Entries that share a server type count a client once.
            for name in {
                server.handle.name for server in servers.values() if client.selector.selects(server.view)
            }:
                counts[name] += 1
        for name, count in counts.items():
            if self._told.get(name) != count:
                self._told[name] = count
                handles_by_name[name].tell(Activation(count))

    def _tell_again_later(self) -> None:
        self.after(self._node.settings.client_check_seconds, _TellAgain())
