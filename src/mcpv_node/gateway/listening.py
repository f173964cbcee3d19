"""One `subscriptions/listen`: what was agreed to, every notification under its id, and the result that ends it.

Without I/O: the door writes what it is given, and says when the subscription is over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from msgspec import Raw

from mcpv_node.actors.callers import Caller
from mcpv_node.actors.index_messages import ConsumerId, Join, Leave, SnapshotChanged
from mcpv_node.actors.snapshot import KINDS, Kind
from mcpv_node.actors.watch_messages import UnwatchAll
from mcpv_node.actors.world import Selector
from mcpv_node.protocol import (
    ACKNOWLEDGED,
    RESOURCE_UPDATED,
    ListenFilter,
    RawId,
    acknowledged_params,
    encode_notification,
    encode_success,
    listen_result,
    members,
    tag_notification,
)

from .identity import SERVER_INFO
from .merged import capabilities_for
from .ports import Tell
from .routing import NoRoute
from .services import DoorServices, new_consumer_id
from .watching import owner_of, watch_resource

NotifyUpdate: TypeAlias = Callable[[bytes | Raw], None]


async def watch_resources(
    services: DoorServices,
    consumer: ConsumerId,
    selector: Selector,
    caller: Caller,
    uris: tuple[str, ...],
    notify: NotifyUpdate,
) -> frozenset[str]:
    """Have `notify` called with the params of each update of these resources, and return those that are watched."""

    async def is_watched(uri: str) -> bool:
        server = owner_of(services.node.world.world, selector, caller, uri)
        if isinstance(server, NoRoute):
            return False
        reply = await watch_resource(
            services.node,
            consumer=consumer,
            server=server,
            uri=uri,
            caller=caller,
            notify=lambda _uri, params: notify(params),
        )
        return reply.result is not None

    watched = await asyncio.gather(*map(is_watched, uris))
    return frozenset(uri for uri, is_one in zip(uris, watched, strict=True) if is_one)


def forget_resources(services: DoorServices, consumer: ConsumerId) -> None:
    """The consumer is gone; nothing is watched for it any more."""
    services.node.watches.tell(UnwatchAll(consumer))


class Subscription:
    """See the module. `begin` it once the door can write; then `finish` it or `drop` it."""

    __slots__ = (
        "_agreed",
        "_caller",
        "_consumer",
        "_early",
        "_is_dropped",
        "_tell",
        "_selector",
        "_services",
        "_wanted",
        "id",
    )

    def __init__(
        self,
        services: DoorServices,
        id: RawId,
        wanted: ListenFilter,
        *,
        selector: Selector,
        caller: Caller,
    ) -> None:
        self.id = id
        self._services = services
        self._wanted = wanted
        self._selector = selector
        self._caller = caller
        self._consumer = new_consumer_id()
        self._tell: Tell | None = None
        self._is_dropped = False
        self._agreed: ListenFilter | None = None
        self._early: list[bytes | Raw] = []

    async def begin(self, tell: Tell) -> None:
        """Say what was agreed to, and from then on what happens of it."""
        self._tell = tell
        watched: frozenset[str] = frozenset()
        if self._wanted.resource_subscriptions:
            watched = await watch_resources(
                self._services,
                self._consumer,
                self._selector,
                self._caller,
                self._wanted.resource_subscriptions,
                self._on_update,
            )
        if self._is_dropped:
            forget_resources(self._services, self._consumer)
            return
        self._agreed = self._wanted.within(self._offered(watched))
        tell(encode_notification(ACKNOWLEDGED, acknowledged_params(self.id, self._agreed)))
        for params in self._early:
            self._on_update(params)
        join = Join(self._consumer, self._selector, self._on_changed, self._caller.profile)
        self._services.node.subscribers.tell(join)

    def finish(self) -> bytes:
        """The node ends it: the result of the request."""
        self.drop()
        return encode_success(self.id, listen_result(self.id, server_info=SERVER_INFO))

    def drop(self) -> None:
        """The client has gone, or does not want it any more."""
        if not self._is_dropped:
            self._is_dropped = True
            self._services.node.subscribers.tell(Leave(self._consumer))
            forget_resources(self._services, self._consumer)

    def _offered(self, watched: frozenset[str]) -> ListenFilter:
        """What there is to hear of here."""
        world = self._services.node.world.world
        there = members(capabilities_for(world, self._selector, "modern"))
        return ListenFilter(
            tools_list_changed="tools" in there,
            prompts_list_changed="prompts" in there,
            resources_list_changed="resources" in there,
            resource_subscriptions=tuple(watched),
        )

    def _on_changed(self, news: SnapshotChanged) -> None:
        if self._hears_of(news.kind):
            self._say(f"notifications/{news.kind}/list_changed", None)

    def _on_update(self, params: bytes | Raw) -> None:
        if self._agreed is None:
            # What was agreed to is said first.
            self._early.append(params)
        else:
            self._say(RESOURCE_UPDATED, params)

    def _say(self, method: str, params: bytes | Raw | None) -> None:
        if self._tell is not None and not self._is_dropped:
            self._tell(encode_notification(method, tag_notification(params, self.id)))

    def _hears_of(self, kind: Kind) -> bool:
        agreed = self._agreed or ListenFilter()
        flags = (agreed.tools_list_changed, agreed.resources_list_changed, agreed.prompts_list_changed)
        return flags[KINDS.index(kind)]
