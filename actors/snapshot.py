"""The immutable catalog of one kind: merged from what each server listed, named, versioned.

Pure. A snapshot has two halves that change apart: the entries, whose fingerprint is the ETag, and the
targets, which say where a call goes. Equal lists with a new server behind them are a new snapshot all the same.

Tools and prompts get names that no two share. Resources keep their URIs: where two servers list the same one, both
are in the snapshot, and a view shows that of the first server by name among those it may see.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from operator import attrgetter
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from mcpv_node.protocol import Listed, ListName, ServerHello, assign_names, listed_name, rename_definition
from mcpv_node.settings import ServerName, SpecKey, ToolNamespace, ToolSeparator

from .callers import EMPTY_PROFILE, ClientProfile

# What is merged, versioned and announced as one.
Kind: TypeAlias = Literal["tools", "resources", "prompts"]

KINDS: Final[tuple[Kind, ...]] = ("tools", "resources", "prompts")

# The lists that make up a kind, in the order in which a server is asked for them.
LISTS_OF: Final[Mapping[Kind, tuple[ListName, ...]]] = MappingProxyType(
    {"tools": ("tools",), "resources": ("resources", "templates"), "prompts": ("prompts",)}
)

# Who asks what has changed since an older version is given everything.
KEPT_CHANGES = 64

# Entries that come and go one by one; more of them are sooner merged with all the others.
FEW_CHANGES = 256


class Source(StrEnum):
    """Where an entry was learnt."""

    LIVE = "live"  # from an instance, in this life of the node
    CACHE = "cache"  # from the store


@dataclass(frozen=True, slots=True)
class Learnt:
    """What one server listed for clients of one profile, last time it could be asked."""

    spec_key: SpecKey
    profile: ClientProfile
    listed: tuple[Listed, ...]
    source: Source
    stale: bool = False  # a later attempt failed, so it may have changed
    hello: ServerHello | None = None
    learnt_at: str = ""  # RFC 3339
    # The digest under which each name was first seen or approved, and the names that are not like that any more.
    pins: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), repr=False)
    changed: frozenset[str] = frozenset()
    withheld: frozenset[str] = frozenset()  # of the changed: not shown until somebody approves
    is_kept: bool = False  # the store has it


# What is known, by server and client profile.
AllLearnt: TypeAlias = Mapping[tuple[SpecKey, ClientProfile], Learnt]


@dataclass(frozen=True, slots=True)
class ServerView:
    """One entry of `servers:` as the catalog sees it: a name and a visibility over a spec key."""

    name: ServerName
    spec_key: SpecKey
    tags: frozenset[str] = frozenset()
    expose_tools: frozenset[str] | None = None
    # What it ran before a reload, the last first: their lists stand until its own are learnt.
    former: tuple[SpecKey, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """One tool, prompt, resource or template as clients see it, with where it comes from."""

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
    is_template: bool = False
    is_resource: bool = False  # one with a URI, or a template of URIs


@dataclass(frozen=True, slots=True)
class NameConflict:
    """Two entries wanted one name: the later is listed under another, or, if it has a URI, behind the first."""

    wanted: str
    holder: ServerName
    server: ServerName
    raw_name: str
    given: str


@dataclass(frozen=True, slots=True)
class Change:
    """What the step to a version did, by server and raw name."""

    version: int
    added: frozenset[tuple[ServerName, str]]
    changed: frozenset[tuple[ServerName, str]]
    # And the names they had. What got another name is here and among the added.
    removed: Mapping[tuple[ServerName, str], str]


@dataclass(frozen=True, slots=True)
class Difference:
    """What several steps did together."""

    added: tuple[Entry, ...]
    changed: tuple[Entry, ...]
    removed: tuple[tuple[ServerName, str], ...]  # server and listed name


@dataclass(frozen=True, slots=True)
class Naming:
    """How entries get their names: a part of the configuration."""

    namespace: ToolNamespace = "prefix"
    separator: ToolSeparator = "_"


@dataclass(frozen=True, slots=True)
class Block:
    """What one server adds to a snapshot, and what that was made of: the same again is not made again."""

    view: ServerView
    known: Learnt
    naming: Naming
    entries: tuple[Entry, ...]
    by_raw_name: Mapping[str, Entry]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All entries of one kind of all servers at one version, in a fixed order."""

    kind: Kind
    version: int
    etag: str
    entries: tuple[Entry, ...]
    by_name: Mapping[str, Entry] = field(repr=False)
    by_server: Mapping[ServerName, Mapping[str, Entry]] = field(repr=False)  # raw name -> entry
    conflicts: tuple[NameConflict, ...] = ()
    complete: bool = True  # every enabled server has been learnt at least once
    pending: frozenset[SpecKey] = frozenset()  # not learnt yet, and the first attempt is not over
    changes: tuple[Change, ...] = field(default=(), repr=False)  # the last steps, oldest first
    # What clients of other profiles see, where some server lists something else for them.
    variants: Mapping[ClientProfile, Snapshot] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, compare=False
    )
    # For the next merge; none where some want the same name.
    blocks: Mapping[ServerName, Block] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, compare=False
    )

    def shows_what(self, other: Snapshot) -> bool:
        """Whether nobody can tell the two apart: not only equal, but made of the same parts."""
        return (
            self.entries is other.entries
            and self.by_server is other.by_server
            and self.variants.keys() == other.variants.keys()
            and all(one.shows_what(other.variants[profile]) for profile, one in self.variants.items())
        )

    def for_profile(self, profile: ClientProfile) -> Snapshot:
        """What clients of this profile see: their own variant, else what those without capabilities see."""
        return self.variants.get(profile, self)


def empty_snapshot(kind: Kind) -> Snapshot:
    """Nothing, before anything was learnt."""
    return Snapshot(
        kind=kind,
        version=0,
        etag="",
        entries=(),
        by_name=_NONE,
        by_server=MappingProxyType({}),
        complete=False,
    )


_NONE: Mapping[str, Entry] = MappingProxyType({})


def fingerprint(entries: Iterable[Entry]) -> str:
    """The ETag of a list: it follows the definitions and their order, nothing else."""
    return hashlib.sha256(b"".join([entry.digest for entry in entries])).hexdigest()[:32]


def raw_key(entry: Entry | Listed) -> str:
    """What tells an entry from all others of its server: a template may be spelt like a resource."""
    name = entry.raw_name if isinstance(entry, Entry) else entry.name
    return f"\0{name}" if entry.is_template else name


def merge(
    servers: Iterable[ServerView], learnt: AllLearnt, *, naming: Naming, previous: Snapshot
) -> Snapshot:
    """Build the next snapshot with its variants. The version goes up by one when the entries differ."""
    views = sorted(servers, key=lambda view: view.name)
    base = _merge_for(EMPTY_PROFILE, views, learnt, naming, previous)
    if base.etag != previous.etag or not previous.version:
        version = previous.version + 1
        change = _change(version, previous, base)
        base = replace(base, version=version, changes=(*previous.changes, change)[-KEPT_CHANGES:])
    spec_keys = {view.spec_key for view in views}
    profiles = sorted({profile for key, profile in learnt if key in spec_keys} - {EMPTY_PROFILE})
    if not profiles:
        return base
    variants = {
        profile: replace(
            _merge_for(profile, views, learnt, naming, previous.variants.get(profile, previous)),
            version=base.version,
        )
        for profile in profiles
    }
    return replace(base, variants=MappingProxyType(variants))


def difference_since(snapshot: Snapshot, version: int) -> Difference | None:
    """What has changed since `version`; None where that is too long ago, or never was."""
    if version == snapshot.version:
        return Difference((), (), ())
    steps = [change for change in snapshot.changes if change.version > version]
    if version > snapshot.version or not steps or steps[0].version != version + 1:
        return None
    # The names that a reader of that version knows what was touched by: None where it was not there.
    known: dict[tuple[ServerName, str], str | None] = {}
    kept: set[tuple[ServerName, str]] = set()  # touched, and under the same name all the time
    for step in steps:
        for key, name in step.removed.items():
            if key not in known:
                known[key] = name
                kept.discard(key)
        for key in step.added:
            known.setdefault(key, None)
        kept |= step.changed - known.keys()
    now = {(entry.server, raw_key(entry)): entry for entry in snapshot.entries}
    added: list[Entry] = []
    changed = [now[key] for key in kept]
    removed: list[tuple[ServerName, str]] = []
    for key, former in known.items():
        entry = now.get(key)
        if former is not None and (entry is None or entry.name != former):
            removed.append((key[0], former))
        if entry is not None:
            # Gone and here again: whoever missed both sees a change.
            (changed if entry.name == former else added).append(entry)
    return Difference(
        tuple(sorted(added, key=_BY_SERVER)), tuple(sorted(changed, key=_BY_SERVER)), tuple(sorted(removed))
    )


def _merge_for(
    profile: ClientProfile,
    views: list[ServerView],
    learnt: AllLearnt,
    naming: Naming,
    previous: Snapshot,
) -> Snapshot:
    """What clients of one profile see, at the version of `previous`."""
    kind = previous.kind
    offers: list[tuple[ServerView, Learnt]] = []
    complete = True
    for view in views:
        known = learnt.get((view.spec_key, profile)) or learnt.get((view.spec_key, EMPTY_PROFILE))
        complete = complete and known is not None
        known = known or _known_formerly(view, learnt)
        if known is not None:
            offers.append((view, known))
    blocks = {view.name: _block(kind, view, known, naming, previous) for view, known in offers}
    few = _merge_few(blocks, views, previous)
    if few is not None:
        return replace(few, complete=complete, changes=previous.changes)
    entries = _in_order(kind, (entry for block in blocks.values() for entry in block.entries))
    by_name = {entry.name: entry for entry in reversed(entries) if not entry.is_template}
    by_server = {view.name: _NONE for view in views}
    conflicts: tuple[NameConflict, ...] = ()
    if kind == "resources":
        if len({(entry.name, entry.is_template) for entry in entries}) < len(entries):
            conflicts = _shared_uris(entries)
        by_server.update((name, block.by_raw_name) for name, block in blocks.items())
    elif len(by_name) == len(entries):
        # Nobody wanted another's name, so each has the one it wanted.
        by_server.update((name, block.by_raw_name) for name, block in blocks.items())
    else:
        blocks = {}
        entries, conflicts = _merge_apart(kind, offers, naming, previous)
        by_name = {entry.name: entry for entry in entries}
        apart: dict[ServerName, dict[str, Entry]] = {view.name: {} for view in views}
        for entry in entries:
            apart[entry.server][raw_key(entry)] = entry
        by_server.update((name, MappingProxyType(own)) for name, own in apart.items())
    return Snapshot(
        kind=kind,
        version=previous.version,
        etag=fingerprint(entries),
        entries=entries,
        by_name=MappingProxyType(by_name),
        by_server=MappingProxyType(by_server),
        conflicts=conflicts,
        complete=complete,
        changes=previous.changes,
        blocks=MappingProxyType(blocks),
    )


def _known_formerly(view: ServerView, learnt: AllLearnt) -> Learnt | None:
    """What was learnt of what it ran before: not sure to be so any more, and better than an empty list."""
    former = (learnt.get((key, EMPTY_PROFILE)) for key in view.former)
    known = next((one for one in former if one is not None), None)
    return None if known is None else replace(known, stale=True)


def _merge_few(
    blocks: dict[ServerName, Block], views: list[ServerView], previous: Snapshot
) -> Snapshot | None:
    """The snapshot before with what a few servers changed; None where it takes more than that to be right.

    The longest a change of one server may stop everything else is what this saves.
    """
    former = previous.blocks
    if not former or previous.conflicts or former.keys() != blocks.keys():
        return None
    if len(views) != len(previous.by_server) or any(view.name not in previous.by_server for view in views):
        return None
    changed = [(former[name], block) for name, block in blocks.items() if block is not former[name]]
    touched = [(old, new) for old, new in changed if old.entries is not new.entries]
    if sum(len(old.entries) + len(new.entries) for old, new in touched) > FEW_CHANGES:
        return None
    if not touched:
        return replace(previous, blocks=MappingProxyType(blocks))
    entries = list(previous.entries)
    by_name = dict(previous.by_name)
    for old, _ in touched:
        for entry in old.entries:
            del entries[bisect_left(entries, _TEMPLATES_LAST(entry), key=_TEMPLATES_LAST)]
            if not entry.is_template:
                del by_name[entry.name]
    for _, new in touched:
        for entry in new.entries:
            at = bisect_left(entries, _TEMPLATES_LAST(entry), key=_TEMPLATES_LAST)
            if at < len(entries) and _TEMPLATES_LAST(entries[at]) == _TEMPLATES_LAST(entry):
                return None  # two want one name
            entries.insert(at, entry)
            if not entry.is_template:
                by_name[entry.name] = entry
    by_server = {**previous.by_server, **{new.view.name: new.by_raw_name for _, new in touched}}
    return replace(
        previous,
        etag=fingerprint(entries),
        entries=tuple(entries),
        by_name=MappingProxyType(by_name),
        by_server=MappingProxyType(by_server),
        blocks=MappingProxyType(blocks),
    )


def _change(version: int, before: Snapshot, after: Snapshot) -> Change:
    """The step from one snapshot to the next; only servers whose blocks were made anew are looked at."""
    added: set[tuple[ServerName, str]] = set()
    changed: set[tuple[ServerName, str]] = set()
    removed: dict[tuple[ServerName, str], str] = {}
    for server in before.by_server.keys() | after.by_server.keys():
        old, new = before.by_server.get(server, _NONE), after.by_server.get(server, _NONE)
        if old is new:
            continue
        added.update((server, key) for key in new.keys() - old.keys())
        removed.update(((server, key), old[key].name) for key in old.keys() - new.keys())
        for key in old.keys() & new.keys():
            if old[key].name != new[key].name:
                removed[server, key] = old[key].name
                added.add((server, key))
            elif old[key].digest != new[key].digest:
                changed.add((server, key))
    return Change(version, frozenset(added), frozenset(changed), MappingProxyType(removed))


def _block(kind: Kind, view: ServerView, known: Learnt, naming: Naming, previous: Snapshot) -> Block:
    """The server's entries under the names they want; the former block where nothing has changed."""
    former = previous.blocks.get(view.name)
    if (
        former is not None
        and former.known is known
        and (former.view is view or former.view == view)
        and former.naming == naming
    ):
        return former
    before = previous.by_server.get(view.name, _NONE)
    entries = tuple(
        _entry(kind, _wanted_name(kind, view, one, naming), view, known, one, former=before.get(raw_key(one)))
        for one in _offered(kind, view, known)
    )
    if former is not None and former.entries == entries:
        return replace(former, view=view, known=known, naming=naming)
    return Block(view, known, naming, entries, MappingProxyType({raw_key(entry): entry for entry in entries}))


def _offered(kind: Kind, view: ServerView, known: Learnt) -> Iterable[Listed]:
    """What of a server's list may be shown at all."""
    exposed = view.expose_tools if kind == "tools" else None
    return (
        one
        for one in known.listed
        if (exposed is None or one.name in exposed) and one.name not in known.withheld
    )


def _wanted_name(kind: Kind, view: ServerView, one: Listed, naming: Naming) -> str:
    if kind == "resources":
        return one.name
    return listed_name(view.name, one.name, separator=naming.separator, prefix=naming.namespace == "prefix")


def _shared_uris(entries: tuple[Entry, ...]) -> tuple[NameConflict, ...]:
    """Entries with one URI stand side by side, in the order of their servers' names."""
    conflicts: list[NameConflict] = []
    holder: Entry | None = None
    for entry in entries:
        if holder is not None and (entry.name, entry.is_template) == (holder.name, holder.is_template):
            conflicts.append(
                NameConflict(entry.name, holder.server, entry.server, entry.raw_name, entry.name)
            )
        else:
            holder = entry
    return tuple(conflicts)


def _merge_apart(
    kind: Kind, offers: list[tuple[ServerView, Learnt]], naming: Naming, previous: Snapshot
) -> tuple[tuple[Entry, ...], tuple[NameConflict, ...]]:
    """The entries where some want the same name: who gets it depends on all of them."""
    offered = [(view, known, one) for view, known in offers for one in _offered(kind, view, known)]
    names = assign_names(
        [(view.name, one.name) for view, _, one in offered],
        separator=naming.separator,
        strategy=naming.namespace,
    )
    entries = _in_order(
        kind,
        (
            _entry(
                kind,
                names.names[view.name, one.name],
                view,
                known,
                one,
                former=previous.by_server.get(view.name, _NONE).get(raw_key(one)),
            )
            for view, known, one in offered
        ),
    )
    conflicts = tuple(
        NameConflict(
            wanted=collision.wanted,
            holder=ServerName(collision.holder[0]),
            server=ServerName(collision.server),
            raw_name=collision.raw,
            given=collision.listed,
        )
        for collision in names.collisions
    )
    return entries, conflicts


_BY_NAME = attrgetter("name")
_BY_SERVER = attrgetter("server", "is_template", "raw_name")
_TEMPLATES_LAST = attrgetter("is_template", "name")


def _in_order(kind: Kind, entries: Iterable[Entry]) -> tuple[Entry, ...]:
    """By name; they come in the order of their servers, which equal names keep."""
    in_order = sorted(entries, key=_BY_NAME)
    if kind != "resources":
        return tuple(in_order)
    return (*(one for one in in_order if not one.is_template), *(one for one in in_order if one.is_template))


def _entry(
    kind: Kind, name: str, view: ServerView, known: Learnt, one: Listed, *, former: Entry | None
) -> Entry:
    """The entry as clients see it; the former one where nothing of it has changed, as most have not."""
    if (
        former is not None
        and former.name == name
        and former.raw_definition == one.definition
        and former.spec_key == view.spec_key
        and former.source is known.source
        and former.stale is known.stale
    ):
        return former
    # A resource's name is for people; what tells it apart is its URI, which stays.
    keeps_its_bytes = name == one.name
    definition = one.definition if keeps_its_bytes else rename_definition(one.definition, name)
    return Entry(
        name=name,
        server=view.name,
        spec_key=view.spec_key,
        raw_name=one.name,
        definition=definition,
        raw_definition=one.definition,
        digest=hashlib.sha256(definition).digest(),
        source=known.source,
        stale=known.stale,
        safe_to_repeat=one.read_only or one.idempotent,
        is_template=one.is_template,
        is_resource=kind == "resources",
    )
