"""The lists of the modern era: the same views, with what this era says of every result around their bytes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec
from msgspec import Raw, Struct

from mcpv_node.actors.callers import ClientProfile
from mcpv_node.actors.snapshot import KINDS, LISTS_OF, Kind
from mcpv_node.actors.world import Selector
from mcpv_node.protocol import (
    INVALID_PARAMS,
    LISTS,
    NAMED_BY,
    SERVER_INFO_KEY,
    ListName,
    success_around,
)
from mcpv_node.settings import SpecKey

from .cursors import Cursors
from .identity import SERVER_INFO
from .learning import LIST_PATIENCE, unlearnt_for_call, unlearnt_for_list
from .mirrors import Mirrors
from .modern_reply import SCOPE, TTL_MS, Asked, ModernReply, refusal
from .routing import KIND_OF
from .services import DoorServices

LIST_OF: Final[Mapping[str, tuple[ListName, Kind]]] = MappingProxyType(
    {LISTS[of].method: (of, kind) for kind in KINDS for of in LISTS_OF[kind]}
)
_LIST_END: Final = b',"resultType":"complete","ttlMs":%d,"cacheScope":"%s","_meta":{"%s":%s}}' % (
    TTL_MS,
    SCOPE.encode(),
    SERVER_INFO_KEY.encode(),
    SERVER_INFO,
)


class Lacking(Struct, frozen=True):
    """What an answer depends on and the node is reading for the first time; `patience` in seconds."""

    kind: Kind
    keys: frozenset[SpecKey]
    patience: float


class ModernLists:
    """The lists that one door answers with, and what its clients see of them."""

    def __init__(self, services: DoorServices) -> None:
        self._services = services
        self._mirrors = Mirrors(services.node)

    def page(self, asked: Asked) -> ModernReply:
        """A page of the list that is asked for."""
        services, request = self._services, asked.request
        of, kind = LIST_OF[request.method]
        cursors = Cursors(services.sealer, services.node.clock, asked.principal, asked.selector)
        after = None
        cursor = asked.params.get("cursor")
        if cursor is not None and bytes(cursor) != b"null":
            after = cursors.parse(of, cursor)
            if after is None:
                sentence = "the cursor is not one that this list has given out"
                return refusal(request.id, INVALID_PARAMS, sentence)
        profile = asked.profile
        view = services.node.world.world.view(kind, self.visible(asked, profile), profile)
        page = view.page(of, after)
        head, end = success_around(request.id)
        tail = _LIST_END + end
        if page.last is not None:
            tail = b',"nextCursor":' + cursors.make(of, page.last) + tail
        return ModernReply(head, rest=(page.opened, tail))

    def visible(self, asked: Asked, profile: ClientProfile) -> Selector:
        """What this client sees: over HTTP only what can be called there."""
        if asked.headers is None:
            return asked.selector
        return self._mirrors.visible(self._services.node.world.world, asked.selector, profile)

    def lacking(self, asked: Asked) -> Lacking | None:
        """What has to be waited for before there is an answer."""
        node, method = self._services.node, asked.request.method
        world = node.world.world
        if not world.is_learning:
            return None
        listed = LIST_OF.get(method)
        kind = KIND_OF.get(method) if listed is None else listed[1]
        if kind is None or not world.snapshot(kind).pending:
            return None
        if listed is not None:
            keys, patience = unlearnt_for_list(world, kind, asked.selector), LIST_PATIENCE
        else:
            name = _text(asked.params.get(NAMED_BY[method]))
            if name is None or name in world.view(kind, asked.selector, asked.profile).targets:
                return None
            keys = unlearnt_for_call(world, kind, asked.selector, name, node.settings)
            patience = node.settings.bootstrap_timeout_seconds
        return Lacking(kind, keys, patience) if keys else None


def _text(raw: Raw | None) -> str | None:
    try:
        return None if raw is None else msgspec.json.decode(raw, type=str)
    except msgspec.DecodeError:
        return None
