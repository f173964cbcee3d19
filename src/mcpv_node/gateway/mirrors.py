"""Tools whose arguments a modern client repeats in headers (`x-mcp-header`), and those it could never call over HTTP.

A tool whose annotations break a rule must be left out by every client that speaks HTTP; here it is not even shown to
one. The lines have no headers, so there it stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from loguru import logger
from msgspec import Raw

from mcpv_node.actors.callers import ClientProfile
from mcpv_node.actors.context import NodeContext
from mcpv_node.actors.snapshot import Entry, Kind, ServerView, Snapshot
from mcpv_node.actors.world import EVERYTHING, Selector, World
from mcpv_node.protocol import (
    ANNOTATION,
    MirroredParam,
    RemoteProtocolError,
    members,
    parse_mirrored,
)
from mcpv_node.telemetry import EventKind

# Schemas with annotations whose parameters are remembered; few servers have any.
REMEMBERED_SCHEMAS = 512

# Client profiles whose tools were looked at; past it all are looked at again.
REMEMBERED_PROFILES = 64

# Tools that were reported; past it, those that are still wrong are reported again.
REMEMBERED_REPORTS = 1024

_MARK = ANNOTATION.encode()


@dataclass(frozen=True, slots=True)
class WithoutHidden(Selector):
    """Another selector without some tools, which are known by their digests."""

    inner: Selector = EVERYTHING
    hidden: frozenset[bytes] = frozenset()

    def selects(self, view: ServerView) -> bool:
        return self.inner.selects(view)

    def thins_out(self, kind: Kind) -> bool:
        return kind == "tools" or self.inner.thins_out(kind)

    def shows(self, kind: Kind, entry: Entry) -> bool:
        return self.inner.shows(kind, entry) and not (kind == "tools" and entry.digest in self.hidden)


class Mirrors:
    """What of the tools modern clients may use over HTTP. Used on the loop's thread."""

    def __init__(self, node: NodeContext) -> None:
        self._node = node
        self._hidden: dict[ClientProfile, tuple[Snapshot, frozenset[bytes]]] = {}
        self._told: frozenset[bytes] = frozenset()

    def visible(self, world: World, selector: Selector, profile: ClientProfile) -> Selector:
        """The selector without what cannot be called over HTTP; itself where there is no such thing."""
        snapshot = world.tools.for_profile(profile)
        known = self._hidden.get(profile)
        if known is None or known[0] is not snapshot:
            if len(self._hidden) >= REMEMBERED_PROFILES:
                self._hidden.clear()
            known = self._hidden[profile] = snapshot, self._look(snapshot)
        hidden = known[1]
        if not hidden:
            return selector
        return WithoutHidden(
            server=selector.server,
            tags=selector.tags,
            profile=selector.profile,
            inner=selector,
            hidden=hidden,
        )

    def _look(self, snapshot: Snapshot) -> frozenset[bytes]:
        hidden: set[bytes] = set()
        for entry in snapshot.entries:
            try:
                mirrored_in(entry.raw_definition)
            except RemoteProtocolError as error:
                hidden.add(entry.digest)
                if entry.digest not in self._told:
                    self._warn(entry, str(error))
        self._told = frozenset(hidden) if len(self._told) > REMEMBERED_REPORTS else self._told | hidden
        return frozenset(hidden)

    def _warn(self, entry: Entry, why: str) -> None:
        sentence = f"the tool {entry.raw_name} is not shown over HTTP: {why}"
        logger.bind(server=entry.server).warning(sentence)
        self._node.tell_event(EventKind.ENTRY_REJECTED, server=entry.server, reason=sentence)


def mirrored_in(definition: bytes) -> tuple[MirroredParam, ...]:
    """The arguments of a tool that headers repeat; RemoteProtocolError where an annotation breaks a rule."""
    return _mirrored_in(definition) if _MARK in definition else ()


@lru_cache(REMEMBERED_SCHEMAS)
def _mirrored_in(definition: bytes) -> tuple[MirroredParam, ...]:
    return parse_mirrored(members(definition).get("inputSchema", Raw(b"{}")))
