"""The owner of who is registered, and so of which servers have clients.

How many clients may see a server is computed from the registrations at every change, and told to the server types as
an absolute number: a message that is lost or told twice changes nothing for long.

Sessions and connections are registered by their doors and stay until the door says that they are gone. Who registers
over the API must show signs of life, and goes with its process if it named one. A client without a session is there
because it asked something, and for `clientInactiveSeconds` after it did.
"""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NewType, TypeAlias

from mcpv_node.settings import ServerName
from mcpv_node.telemetry import EventKind

from .context import NodeContext
from .index_messages import ServersChanged
from .kernel import Handle, LoopActor, Request, answers, handles
from .server_type import Activation
from .server_type.messages import ServerTypeMessage
from .world import Selector, Server

ClientId = NewType("ClientId", str)

# A client may miss two signs of life before it is taken for gone.
HEARTBEATS_PER_LIMIT = 3

# How late a silent client may be found: this part of `clientInactiveSeconds`, however rarely pids are looked at.
CHECKS_PER_LIMIT = 4

# The process of a client that has given a sign within so many checks is not looked at.
CHECKS_BEFORE_PID = 2


class ClientKind(StrEnum):
    """How a client is there."""

    SESSION = "session"  # a legacy session over HTTP
    LINE = "line"
    API = "api"  # registered by itself, with heartbeats
    MODERN = "modern"  # no session: it asks, now and then
    HOST = "host"  # an application that the node is embedded in


@dataclass(frozen=True, slots=True)
class Client:
    """A registered consumer of the node."""

    id: ClientId
    name: str
    selector: Selector
    kind: ClientKind
    principal: str
    pid: int | None = None  # of a process on this machine


@dataclass(frozen=True, slots=True)
class Register(Request[bool]):
    """This client is there, and sees this much; told again, it replaces what was known of it.

    The answer is False when there are too many that nobody but the clock would take away.
    """

    client: Client


@dataclass(frozen=True, slots=True)
class Heartbeat(Request[bool]):
    """A sign of life of an API client, which may see something else from now on.

    The answer is False when this principal has no such client.
    """

    id: ClientId
    principal: str
    selector: Selector | None = None


@dataclass(frozen=True, slots=True)
class Withdraw(Request[bool]):
    """An API client leaves; False when this principal has no such client."""

    id: ClientId
    principal: str


@dataclass(frozen=True, slots=True)
class Unregister:
    """The client is gone, says its door; nobody needs to know it any more."""

    id: ClientId
    reason: str


@dataclass(frozen=True, slots=True)
class DoorEmpty:
    """The door for this kind of client begins with nobody: who came through it before is gone."""

    kind: ClientKind


@dataclass(frozen=True, slots=True)
class Seen:
    """A client without a session has just asked something."""

    principal: str
    name: str
    selector: Selector


@dataclass(frozen=True, slots=True)
class Registered:
    """One client, and since when."""

    client: Client
    since: datetime
    last_seen: datetime | None = None  # None: its door knows


@dataclass(frozen=True, slots=True)
class ListClients(Request[tuple[Registered, ...]]):
    """Who is registered, in order of registration."""


@dataclass(frozen=True, slots=True)
class RegisterAgain:
    """Told to the doors when the registrations are lost: register everybody who is with you."""


@dataclass(frozen=True, slots=True)
class _Check:
    """Somebody may have gone silent, and a server type may have been started anew since it was told."""


ClientsMessage: TypeAlias = (
    Register | Heartbeat | Withdraw | Unregister | DoorEmpty | Seen | ListClients | ServersChanged
)

# What a registration is found by: a client without a session says the same of itself at every request.
_Key: TypeAlias = ClientId | Seen


@dataclass(slots=True)
class Registrations:
    """The estate. `seen` is when each that may go silent was heard of last, by the monotonic clock."""

    clients: dict[_Key, Registered] = field(default_factory=dict["_Key", Registered])
    seen: dict[_Key, float] = field(default_factory=dict["_Key", float])


class Clients(LoopActor[Registrations]):
    """See the module. `doors` are asked who is there when the registrations are lost.

    The table itself is the estate, as that of `Sessions`: a copy for every sign of life would cost more than all the
    rest. Each change is one assignment or one deletion; a time in `seen` without its client is swept away.
    """

    def __init__(self, node: NodeContext, doors: tuple[Handle[RegisterAgain], ...] = ()) -> None:
        super().__init__()
        self._node = node
        self._doors = doors
        self._table = Registrations()
        self._selectors: Counter[Selector] = Counter()
        self._servers: Mapping[ServerName, Server] = {}
        self._visible: dict[Selector, frozenset[Handle[ServerTypeMessage]]] = {}
        self._told: dict[Handle[ServerTypeMessage], int] = {}
        self._numbers = itertools.count(1)

    def on_start(self, estate: Registrations | None = None) -> None:
        self.estate = self._table = estate or Registrations()
        self._selectors = Counter(one.client.selector for one in self._table.clients.values())
        if estate is None and self.incarnation > 1:
            for door in self._doors:
                door.tell(RegisterAgain())
        self._tell_servers()
        self._check_later()

    # --- who is there ---------------------------------------------------------------------------

    @answers(Register)
    def _on_register(self, request: Register) -> bool:
        client = request.client
        if client.kind is ClientKind.API:
            if client.id not in self._table.clients and self._is_full():
                return False
            self._table.seen[client.id] = self._now
        self._put(client.id, client)
        return True

    @handles(Seen)
    def _on_seen(self, message: Seen) -> None:
        """The most frequent message by far: of a client that is known, nothing else is done."""
        is_known = message in self._table.clients
        if not is_known and self._is_full():
            return
        self._table.seen[message] = self._now
        if not is_known:
            id = ClientId(f"modern-{self.incarnation}.{next(self._numbers)}")
            client = Client(id, message.name, message.selector, ClientKind.MODERN, message.principal)
            self._put(message, client)

    @answers(Heartbeat)
    def _on_heartbeat(self, request: Heartbeat) -> bool:
        client = self._find(request.id, request.principal)
        if client is None:
            return False
        self._table.seen[client.id] = self._now
        if request.selector is not None:
            self._put(client.id, replace(client, selector=request.selector))
        return True

    @answers(Withdraw)
    def _on_withdraw(self, request: Withdraw) -> bool:
        client = self._find(request.id, request.principal)
        if client is None:
            return False
        self._drop(client.id, "it left")
        self._tell_servers()
        return True

    @handles(Unregister)
    def _on_unregister(self, message: Unregister) -> None:
        self._drop(message.id, message.reason)
        self._tell_servers()

    @handles(DoorEmpty)
    def _on_door_empty(self, message: DoorEmpty) -> None:
        for key, one in list(self._table.clients.items()):
            if one.client.kind is message.kind:
                self._drop(key, "its door was restarted without it")
        self._tell_servers()

    @answers(ListClients)
    def _on_list(self, _: ListClients) -> tuple[Registered, ...]:
        now, wall = self._now, self._node.clock.wall()
        seen = self._table.seen
        return tuple(
            Registered(one.client, one.since, wall - timedelta(seconds=now - seen[key]))
            if key in seen
            else one
            for key, one in self._table.clients.items()
        )

    @handles(_Check)
    def _on_check(self, _: _Check) -> None:
        for key, at in list(self._table.seen.items()):
            why = self._why_gone(key, self._now - at)
            if why is not None:
                self._drop(key, why)
        self._told.clear()
        self._tell_servers()
        self._check_later()

    def _why_gone(self, key: _Key, silent: float) -> str | None:
        settings = self._node.settings
        if silent >= settings.client_inactive_seconds:
            return f"no sign of life for {settings.client_inactive_seconds:g} s"
        one = self._table.clients.get(key)
        if one is None:
            return "it is not registered"
        pid = one.client.pid
        if pid is not None and silent > CHECKS_BEFORE_PID * settings.client_check_seconds and is_gone(pid):
            return f"its process {pid} is gone"
        return None

    def _find(self, id: ClientId, principal: str) -> Client | None:
        one = self._table.clients.get(id)
        if one is None or one.client.kind is not ClientKind.API or one.client.principal != principal:
            return None
        return one.client

    def _is_full(self) -> bool:
        """Clients that cost nobody a connection must not fill the memory."""
        return len(self._table.seen) >= self._node.settings.limits.sessions

    def _put(self, key: _Key, client: Client) -> None:
        known = self._table.clients.get(key)
        if known is not None and known.client == client:
            return
        since = self._node.clock.wall() if known is None else known.since
        self._table.clients[key] = Registered(client, since)
        if known is None:
            self._node.tell_event(EventKind.CLIENT_REGISTERED, client=client.name, cause=client.kind)
        else:
            self._deselect(known.client.selector)
        self._selectors[client.selector] += 1
        self._tell_servers()

    def _drop(self, key: _Key, reason: str) -> None:
        self._table.seen.pop(key, None)
        known = self._table.clients.pop(key, None)
        if known is None:
            return
        self._deselect(known.client.selector)
        client = known.client
        self._node.tell_event(EventKind.CLIENT_LEFT, client=client.name, reason=reason, cause=client.kind)

    # --- what the servers are told --------------------------------------------------------------

    @handles(ServersChanged)
    def _on_servers_changed(self, _: ServersChanged) -> None:
        self._tell_servers()

    def _tell_servers(self) -> None:
        """Tell every server type whose number of clients is news to it (I7)."""
        servers = self._node.world.world.servers
        if servers is not self._servers:
            self._servers = servers
            self._visible.clear()
        counts = {server.handle: 0 for server in servers.values()}
        for selector, clients in self._selectors.items():
            for handle in self._seen_by(selector):
                counts[handle] += clients
        news = {handle: clients for handle, clients in counts.items() if self._told.get(handle) != clients}
        self._told = counts
        for handle, clients in news.items():
            handle.tell(Activation(clients))

    def _seen_by(self, selector: Selector) -> frozenset[Handle[ServerTypeMessage]]:
        """The server types that a client with this selector may use; entries that share one count once."""
        visible = self._visible.get(selector)
        if visible is None:
            visible = self._visible[selector] = frozenset(
                server.handle for server in self._servers.values() if selector.selects(server.view)
            )
        return visible

    def _deselect(self, selector: Selector) -> None:
        self._selectors[selector] -= 1
        if not self._selectors[selector]:
            del self._selectors[selector]
            self._visible.pop(selector, None)

    # --- time -----------------------------------------------------------------------------------

    @property
    def _now(self) -> float:
        return self._node.clock.monotonic()

    def _check_later(self) -> None:
        settings = self._node.settings
        late = settings.client_inactive_seconds / CHECKS_PER_LIMIT
        self.after(min(settings.client_check_seconds, late), _Check())


def is_gone(pid: int) -> bool:
    """Whether no process of this machine has this pid. One that may not be signalled is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
