"""One request of the modern era, without I/O: it says itself who asks, and stands for itself.

What can be answered at once is a `ModernReply`. A call, or a list that has to be learnt first, is a `ModernFlight`,
which the door runs and may cancel. `subscriptions/listen` is a `Subscription`, which stays until the door ends it.
"""

from __future__ import annotations

from typing import TypeAlias

from mcpv_node.protocol import (
    DISCOVER,
    INVALID_PARAMS,
    LISTEN,
    METHOD_NOT_FOUND,
    MODERN_TASK_METHODS,
    RemoteProtocolError,
    discover_result,
    encode_success,
    parse_listen,
)

from .identity import SERVER_INFO
from .listening import Subscription
from .merged import capabilities_for, instructions_for
from .modern_flight import ModernFlight
from .modern_lists import LIST_OF, ModernLists
from .modern_reply import SCOPE, TTL_MS, Asked, ModernReply, overloaded, refusal
from .routing import ROUTED
from .services import DoorServices

ModernStep: TypeAlias = ModernReply | ModernFlight | Subscription


class ModernFront:
    """All modern clients of one door, or of one connection."""

    def __init__(self, services: DoorServices) -> None:
        self._services = services
        self._lists = ModernLists(services)

    def receive(self, asked: Asked) -> ModernStep:
        """Take one request that `protocol.judge_post` or `judge_line` has let through."""
        method, id = asked.request.method, asked.request.id
        if method == DISCOVER:
            return self._discover(asked)
        if method == LISTEN:
            return self._listen(asked)
        if method not in LIST_OF and method not in ROUTED and method not in MODERN_TASK_METHODS:
            return refusal(id, METHOD_NOT_FOUND, f"Method not found: {method}")
        if method in LIST_OF and self._lists.lacking(asked) is None:
            return self._lists.page(asked)
        limit = self._services.node.settings.limits.in_flight_per_principal
        if self._services.load.get(asked.principal, 0) >= limit:
            return overloaded(id)
        return ModernFlight(self._services, self._lists, asked)

    def _discover(self, asked: Asked) -> ModernReply:
        world, selector = self._services.node.world.world, asked.selector
        result = discover_result(
            capabilities=capabilities_for(world, selector, "modern"),
            server_info=SERVER_INFO,
            ttl_ms=TTL_MS,
            cache_scope=SCOPE,
            instructions=instructions_for(world, selector),
        )
        return ModernReply(encode_success(asked.request.id, result))

    def _listen(self, asked: Asked) -> ModernReply | Subscription:
        try:
            wanted = parse_listen(asked.request.params)
        except RemoteProtocolError as error:
            return refusal(asked.request.id, INVALID_PARAMS, str(error))
        return Subscription(
            self._services,
            asked.request.id,
            wanted,
            selector=asked.selector,
            caller=asked.caller,
        )
