"""Who watches which resource, and where the subscription for it stands. No actor: a table, and what follows from it.

A *place* is where one subscription serves several watchers: a server type, and of its instances the one that those
clients' own calls reach. They share it when they offer servers the same and, where a server keeps a client's state,
are the same client.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple, TypeAlias

from mcpv_node.settings import ServerName

from .callers import Caller, ClientProfile
from .index_messages import ConsumerId
from .kernel import Handle
from .server_type.messages import ServerTypeMessage
from .watch_messages import Notify
from .world import Server

# What one consumer may watch: more than a client shows, and too little to fill the memory with.
MAX_PER_CONSUMER = 256

# What all consumers together may watch.
MAX_WATCHERS = 20_000

# The first try after a loss comes soon, for a server that just crashed; how often a server that keeps crashing is
# started is its server type's to say, so the longest pause only bounds the asking (seconds).
FIRST_RETRY = 0.25
LONGEST_RETRY = 60.0

# How often the pause doubles before it is the longest one.
_DOUBLINGS = 8

# These keep what a client has done in the instance that its key is bound to.
_STICKY = frozenset({"stateful", "exclusive"})

_BELOW = re.compile(r"[/?#]")


class Place(NamedTuple):
    """See the module."""

    server: Handle[ServerTypeMessage]
    profile: ClientProfile
    key: str = ""


class Spot(NamedTuple):
    """One resource at one place."""

    place: Place
    uri: str


@dataclass(frozen=True, slots=True)
class Watcher:
    """One consumer's wish to hear of one resource; `agreed` once the server has said that it will tell."""

    server: Server
    caller: Caller
    notify: Notify
    agreed: bool = False


Wishes: TypeAlias = dict[ConsumerId, dict[Spot, Watcher]]


class WatchTable:
    """Every watcher, by consumer and by place. `wishes` is all that is kept; the rest is made of it."""

    def __init__(self, wishes: Wishes) -> None:
        self.wishes = wishes
        self._at: dict[Place, dict[str, set[ConsumerId]]] = {}
        self._count = 0
        for consumer, own in self.wishes.items():
            for spot in own:
                self._enter(consumer, spot)

    @property
    def count(self) -> int:
        """How many there are, each with each of its resources."""
        return self._count

    def places(self) -> list[Place]:
        """Where anything is watched."""
        return list(self._at)

    def uris_at(self, place: Place) -> frozenset[str]:
        """What is watched at a place."""
        return frozenset(self._at.get(place, ()))

    def get(self, consumer: ConsumerId, spot: Spot) -> Watcher | None:
        return self.wishes.get(consumer, {}).get(spot)

    def spots_of(self, consumer: ConsumerId) -> list[Spot]:
        """What one consumer watches."""
        return list(self.wishes.get(consumer, ()))

    def watchers_at(self, place: Place) -> Iterator[tuple[ConsumerId, Spot, Watcher]]:
        """Everybody at a place; the table may change while this is read."""
        for uri in list(self._at.get(place, ())):
            yield from self.watchers_of(Spot(place, uri))

    def watchers_of(self, spot: Spot) -> Iterator[tuple[ConsumerId, Spot, Watcher]]:
        """Everybody who watches one resource at one place."""
        for consumer in list(self._at.get(spot.place, {}).get(spot.uri, ())):
            yield consumer, spot, self.wishes[consumer][spot]

    def has_room_for(self, consumer: ConsumerId) -> bool:
        """Whether this consumer may watch one more."""
        own = len(self.wishes.get(consumer, ()))
        return own < MAX_PER_CONSUMER and self._count < MAX_WATCHERS

    def put(self, consumer: ConsumerId, spot: Spot, watcher: Watcher) -> None:
        own = self.wishes.setdefault(consumer, {})
        if spot not in own:
            self._enter(consumer, spot)
        own[spot] = watcher

    def agree(self, consumer: ConsumerId, spot: Spot) -> None:
        """The server tells of it now."""
        watcher = self.get(consumer, spot)
        if watcher is not None and not watcher.agreed:
            self.wishes[consumer][spot] = replace(watcher, agreed=True)

    def forget_asked(self) -> None:
        """Whoever waits for an answer asks again; of who does not, nothing shall stay that it does not know of."""
        for consumer, own in list(self.wishes.items()):
            for spot, watcher in list(own.items()):
                if not watcher.agreed:
                    self.remove(consumer, spot)

    def remove(self, consumer: ConsumerId, spot: Spot) -> None:
        own = self.wishes.get(consumer, {})
        if own.pop(spot, None) is None:
            return
        self._count -= 1
        if not own:
            del self.wishes[consumer]
        uris = self._at[spot.place]
        uris[spot.uri].discard(consumer)
        if not uris[spot.uri]:
            del uris[spot.uri]
        if not uris:
            del self._at[spot.place]

    def _enter(self, consumer: ConsumerId, spot: Spot) -> None:
        self._count += 1
        self._at.setdefault(spot.place, {}).setdefault(spot.uri, set()).add(consumer)


def place_of(server: Server, caller: Caller) -> Place:
    """Where a subscription for this caller has to stand."""
    key = caller.key if server.spec.strategy in _STICKY else ""
    return Place(server.handle, caller.profile, key)


def concerned(uri: str) -> list[str]:
    """The resources that an update of `uri` is an update of, the most exact first: it may lie below what is watched."""
    found = [uri]
    for match in reversed(list(_BELOW.finditer(uri))):
        found += [uri[: match.end()], uri[: match.start()]]
    return list(dict.fromkeys(found))


def retry_delay(failures: int) -> float:
    """Seconds until a subscription that was lost is tried again, after so many failures in a row, counted from 1."""
    return min(LONGEST_RETRY, FIRST_RETRY * 2.0 ** min(failures - 1, _DOUBLINGS))


def is_for(watcher: Watcher, server: ServerName | None) -> bool:
    """Whether a watcher is meant by who names this server, or none."""
    return server is None or watcher.server.view.name == server
