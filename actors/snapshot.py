"""The immutable catalog of tools: merged from what each server listed, named, versioned.

Pure. A snapshot has two halves that change apart: the entries, whose fingerprint is the ETag, and the
targets, which say where a call goes. Equal lists with a new server behind them are a new snapshot all the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter
from types import MappingProxyType

from mcpv_node.protocol import Collision, ListedTool, assign_names, listed_name, rename_definition
from mcpv_node.settings import ServerName, SpecKey, ToolNamespace, ToolSeparator

from .callers import ClientProfile


class Source(StrEnum):
    """Where an entry was learnt."""

    LIVE = "live"  # from an instance, in this life of the node
    CACHE = "cache"  # from the store


@dataclass(frozen=True, slots=True)
class Learnt:
    """What one server listed, last time it could be asked."""

    spec_key: SpecKey
    profile: ClientProfile
    tools: tuple[ListedTool, ...]
    source: Source
    stale: bool = False  # a later attempt failed, so it may have changed


@dataclass(frozen=True, slots=True)
class ServerView:
    """One entry of `servers:` as the catalog sees it: a name and a visibility over a spec key."""

    name: ServerName
    spec_key: SpecKey
    tags: frozenset[str] = frozenset()
    expose_tools: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class ToolEntry:
    """One tool as clients see it, with where it comes from."""

    name: str
    server: ServerName
    spec_key: SpecKey
    raw_name: str
    definition: bytes  # as listed: the server's own bytes but for the name
    raw_definition: bytes
    digest: bytes
    source: Source
    stale: bool
    safe_to_repeat: bool  # read-only or idempotent by the server's own annotations


@dataclass(frozen=True, slots=True)
class NameConflict:
    """Two tools wanted one name; the later got another."""

    wanted: str
    server: ServerName
    raw_name: str
    given: str


@dataclass(frozen=True, slots=True)
class Block:
    """What one server adds to a snapshot, and what that was made of: the same again is not made again."""

    view: ServerView
    known: Learnt
    naming: tuple[ToolSeparator, bool]  # and whether the server's name stands before it
    entries: tuple[ToolEntry, ...]
    by_raw_name: Mapping[str, ToolEntry]


@dataclass(frozen=True, slots=True)
class ToolSnapshot:
    """All tools of all servers at one version, in a fixed order."""

    version: int
    etag: str
    entries: tuple[ToolEntry, ...]
    by_name: Mapping[str, ToolEntry] = field(repr=False)
    by_server: Mapping[ServerName, Mapping[str, ToolEntry]] = field(repr=False)  # raw name -> entry
    conflicts: tuple[NameConflict, ...] = ()
    complete: bool = True  # every enabled server has been learnt at least once
    pending: frozenset[SpecKey] = frozenset()  # not learnt yet, and the first attempt is not over
    # For the next merge; none where some tools want the same name.
    blocks: Mapping[ServerName, Block] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, compare=False
    )


EMPTY_TOOLS = ToolSnapshot(
    version=0,
    etag="",
    entries=(),
    by_name=MappingProxyType({}),
    by_server=MappingProxyType({}),
    complete=False,
)


_NONE: Mapping[str, ToolEntry] = MappingProxyType({})


def fingerprint(entries: Iterable[ToolEntry]) -> str:
    """The ETag of a list: it follows the definitions and their order, nothing else."""
    return hashlib.sha256(b"".join([entry.digest for entry in entries])).hexdigest()[:32]


def merge_tools(
    servers: Iterable[ServerView],
    learnt: Mapping[SpecKey, Learnt],
    *,
    namespace: ToolNamespace,
    separator: ToolSeparator,
    previous: ToolSnapshot,
) -> ToolSnapshot:
    """Build the next snapshot. The version goes up by one when the entries differ from `previous`."""
    views = sorted(servers, key=lambda view: view.name)
    blocks = {
        view.name: _block(view, known, namespace=namespace, separator=separator, previous=previous)
        for view in views
        if (known := learnt.get(view.spec_key)) is not None
    }
    entries = _in_order(entry for block in blocks.values() for entry in block.entries)
    by_name = {entry.name: entry for entry in entries}
    by_server = {view.name: _NONE for view in views}
    collisions: tuple[Collision, ...] = ()
    if len(by_name) == len(entries):
        # Nobody wanted another's name, so each has the one it wanted.
        by_server.update((name, block.by_raw_name) for name, block in blocks.items())
    else:
        blocks = {}
        entries, collisions = _merge_apart(
            views, learnt, namespace=namespace, separator=separator, previous=previous
        )
        by_name = {entry.name: entry for entry in entries}
        apart: dict[ServerName, dict[str, ToolEntry]] = {view.name: {} for view in views}
        for entry in entries:
            apart[entry.server][entry.raw_name] = entry
        by_server.update((name, MappingProxyType(tools)) for name, tools in apart.items())
    etag = fingerprint(entries)
    changed = etag != previous.etag or not previous.version
    return ToolSnapshot(
        version=previous.version + 1 if changed else previous.version,
        etag=etag,
        entries=entries,
        by_name=MappingProxyType(by_name),
        by_server=MappingProxyType(by_server),
        conflicts=tuple(
            NameConflict(
                wanted=collision.wanted,
                server=ServerName(collision.server),
                raw_name=collision.raw,
                given=collision.listed,
            )
            for collision in collisions
        ),
        complete=all(view.spec_key in learnt for view in views),
        blocks=MappingProxyType(blocks),
    )


def _block(
    view: ServerView,
    known: Learnt,
    *,
    namespace: ToolNamespace,
    separator: ToolSeparator,
    previous: ToolSnapshot,
) -> Block:
    """The server's entries under the names they want; the former block where nothing has changed."""
    former = previous.blocks.get(view.name)
    prefix = namespace == "prefix"
    if (
        former is not None
        and former.known is known
        and (former.view is view or former.view == view)
        and former.naming == (separator, prefix)
    ):
        return former
    before = previous.by_server.get(view.name, _NONE)
    entries = tuple(
        _entry(
            listed_name(view.name, tool.name, separator=separator, prefix=prefix),
            view,
            known,
            tool,
            former=before.get(tool.name),
        )
        for tool in known.tools
        if view.expose_tools is None or tool.name in view.expose_tools
    )
    by_raw_name = MappingProxyType({entry.raw_name: entry for entry in entries})
    return Block(view, known, (separator, prefix), entries, by_raw_name)


def _merge_apart(
    views: Iterable[ServerView],
    learnt: Mapping[SpecKey, Learnt],
    *,
    namespace: ToolNamespace,
    separator: ToolSeparator,
    previous: ToolSnapshot,
) -> tuple[tuple[ToolEntry, ...], tuple[Collision, ...]]:
    """The entries where some want the same name: who gets it depends on all of them."""
    offered = [
        (view, known, tool)
        for view in views
        if (known := learnt.get(view.spec_key)) is not None
        for tool in known.tools
        if view.expose_tools is None or tool.name in view.expose_tools
    ]
    naming = assign_names(
        [(view.name, tool.name) for view, _, tool in offered], separator=separator, strategy=namespace
    )
    former = previous.by_server
    entries = _in_order(
        _entry(
            naming.names[view.name, tool.name],
            view,
            known,
            tool,
            former=former.get(view.name, _NONE).get(tool.name),
        )
        for view, known, tool in offered
    )
    return entries, naming.collisions


def _in_order(entries: Iterable[ToolEntry]) -> tuple[ToolEntry, ...]:
    return tuple(sorted(entries, key=attrgetter("name")))


def _entry(
    name: str, view: ServerView, known: Learnt, tool: ListedTool, *, former: ToolEntry | None
) -> ToolEntry:
    """The tool as clients see it; the former entry where nothing of it has changed, as most have not."""
    if (
        former is not None
        and former.name == name
        and former.raw_definition == tool.definition
        and former.spec_key == view.spec_key
        and former.source is known.source
        and former.stale is known.stale
    ):
        return former
    definition = tool.definition if name == tool.name else rename_definition(tool.definition, name)
    return ToolEntry(
        name=name,
        server=view.name,
        spec_key=view.spec_key,
        raw_name=tool.name,
        definition=definition,
        raw_definition=tool.definition,
        digest=hashlib.sha256(definition).digest(),
        source=known.source,
        stale=known.stale,
        safe_to_repeat=tool.read_only or tool.idempotent,
    )
