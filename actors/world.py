"""The one frozen value that every request reads, and the cell it stands in.

A request reads `cell.world` once and works on that; what is published meanwhile is for the next one. Only the
indexes and a reload assign it, on the loop's thread.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from mcpv_node.protocol import (
    ListName,
    RemoteProtocolError,
    ServerHello,
    Template,
    best_match,
    one_line,
    open_list_result,
    parse_template,
)
from mcpv_node.settings import NodeSettings, ServerName, ServerSpec, SpecKey

from .callers import EMPTY_PROFILE, ClientProfile
from .kernel import Handle
from .server_type.messages import ServerTypeMessage
from .snapshot import Entry, Kind, ServerView, Snapshot, empty_snapshot, fingerprint, raw_key

# Views that are remembered in one world; past it somebody asks for ever new selections, and all are made anew.
REMEMBERED_VIEWS = 1024


@dataclass(frozen=True, slots=True)
class Selector:
    """What part of the node a path, a token or a line asks for. No field set: everything."""

    server: ServerName | None = None
    tags: frozenset[str] | None = None
    profile: str | None = None

    def selects(self, view: ServerView) -> bool:
        """A tag selector shows servers that share a tag with it, and servers without tags."""
        if self.server is not None:
            return view.name == self.server
        if self.tags:
            return not view.tags or bool(view.tags & self.tags)
        return True

    def thins_out(self, kind: Kind) -> bool:
        """Whether some entries of the servers it selects are hidden."""
        return False

    def shows(self, kind: Kind, entry: Entry) -> bool:
        """Whether it shows this entry of a server that it selects."""
        return True


EVERYTHING = Selector()


@dataclass(frozen=True, slots=True)
class Server:
    """One entry of `servers:` and the server type that runs it."""

    spec: ServerSpec
    view: ServerView
    handle: Handle[ServerTypeMessage]
    shared_with: tuple[ServerName, ...] = ()


@dataclass(frozen=True, slots=True)
class ListPage:
    """A part of a list: a JSON object on one line that is not closed yet, and the name it ends with."""

    opened: bytes
    last: str | None  # None: nothing follows


@dataclass(frozen=True, slots=True)
class View:
    """What one selector sees of a kind, with the bytes of its pages."""

    kind: Kind
    etag: str
    entries: tuple[Entry, ...]  # in the order of their shown names
    targets: Mapping[str, Entry]  # every name a request may use here
    raw_names: bool
    page_size: int
    _pages: dict[tuple[ListName, str | None], ListPage] = field(
        default_factory=dict[tuple[ListName, str | None], ListPage], repr=False, compare=False
    )
    _templates: list[tuple[Template, Entry]] = field(
        default_factory=list[tuple[Template, Entry]], repr=False, compare=False
    )

    def name_of(self, entry: Entry) -> str:
        """The name an entry has here."""
        return entry.raw_name if self.raw_names else entry.name

    def definition_of(self, entry: Entry) -> bytes:
        """The definition under the name it has here."""
        return entry.raw_definition if self.raw_names else entry.definition

    def template_for(self, uri: str) -> Entry | None:
        """The entry whose template spells out most of `uri`."""
        if not self._templates and self.entries:
            self._templates.extend(_templates_of(self.entries))
        match = best_match(uri, [template for template, _ in self._templates])
        return next((entry for template, entry in self._templates if template is match), None)

    def page(self, kind: ListName, after: str | None = None) -> ListPage:
        """The part of a list behind the name `after`; of a name that is gone, behind where it would be."""
        cached = self._pages.get((kind, after))
        if cached is None:
            cached = self._make_page(kind, after)
            # Who asks for places that no page ends at fills no memory.
            if after is None or len(self._pages) <= len(self.entries) // self.page_size + 2:
                self._pages[kind, after] = cached
        return cached

    def _make_page(self, kind: ListName, after: str | None) -> ListPage:
        entries = self.entries
        if self.kind == "resources":
            entries = tuple(entry for entry in entries if entry.is_template is (kind == "templates"))
        start = 0 if after is None else bisect_right(entries, after, key=self.name_of)
        shown = entries[start : start + self.page_size]
        is_last = start + self.page_size >= len(entries)
        opened = open_list_result(kind, [self.definition_of(entry) for entry in shown])
        return ListPage(one_line(opened), None if is_last else self.name_of(shown[-1]))


@dataclass(frozen=True, slots=True)
class World:
    """The settings in effect, the servers and the catalog, at one revision."""

    revision: int = 0
    settings: NodeSettings = field(default_factory=lambda: NodeSettings(servers=()))
    servers: Mapping[ServerName, Server] = field(default_factory=lambda: MappingProxyType({}))
    tools: Snapshot = field(default_factory=lambda: empty_snapshot("tools"))
    resources: Snapshot = field(default_factory=lambda: empty_snapshot("resources"))
    prompts: Snapshot = field(default_factory=lambda: empty_snapshot("prompts"))
    hellos: Mapping[SpecKey, ServerHello] = field(default_factory=lambda: MappingProxyType({}))
    _views: dict[tuple[Kind, Selector, ClientProfile], View] = field(
        default_factory=dict[tuple[Kind, Selector, ClientProfile], View], repr=False, compare=False
    )

    def snapshot(self, kind: Kind) -> Snapshot:
        """The whole catalog of one kind."""
        match kind:
            case "tools":
                return self.tools
            case "resources":
                return self.resources
            case "prompts":
                return self.prompts

    @property
    def is_learning(self) -> bool:
        """Whether some server is being listed for the very first time."""
        return bool(self.tools.pending or self.resources.pending or self.prompts.pending)

    def view(self, kind: Kind, selector: Selector, profile: ClientProfile = EMPTY_PROFILE) -> View:
        """What `selector` sees of a kind. Memoised here, so it dies with this world."""
        snapshot = self.snapshot(kind)
        known_profile = profile if profile in snapshot.variants else EMPTY_PROFILE
        view = self._views.get((kind, selector, known_profile))
        if view is None:
            if len(self._views) >= REMEMBERED_VIEWS:
                self._views.clear()
            view = self._make_view(snapshot.for_profile(known_profile), selector)
            self._views[kind, selector, known_profile] = view
        return view

    def selected(self, selector: Selector) -> Iterable[Server]:
        """The servers that `selector` sees, by name."""
        return (server for server in self.servers.values() if selector.selects(server.view))

    def _make_view(self, snapshot: Snapshot, selector: Selector) -> View:
        kind = snapshot.kind
        raw_names = selector.server is not None
        visible = frozenset(server.view.name for server in self.selected(selector))
        is_whole = snapshot.by_server.keys() <= visible and not selector.thins_out(kind)
        if is_whole and not raw_names and not snapshot.conflicts:
            return View(
                kind=kind,
                etag=snapshot.etag,
                entries=snapshot.entries,
                targets=_AllTargets(snapshot),
                raw_names=False,
                page_size=self.settings.limits.list_page,
            )
        seen = (
            entry for entry in snapshot.entries if entry.server in visible and selector.shows(kind, entry)
        )
        # Of one URI that several servers list, the first server's stands.
        entries = tuple({(entry.name, entry.is_template): entry for entry in reversed(list(seen))}.values())
        targets: dict[str, Entry] = {}
        if raw_names:
            entries = tuple(sorted(entries, key=lambda entry: entry.raw_name))
        else:
            entries = entries[::-1]
            # `server.tool` is always accepted, in the server's own spelling; a listed name wins.
            targets.update((f"{entry.server}.{entry.raw_name}", entry) for entry in entries)
        targets.update(
            (raw_key(entry) if raw_names or entry.is_template else entry.name, entry) for entry in entries
        )
        return View(
            kind=kind,
            etag=fingerprint(entries),
            entries=entries,
            targets=MappingProxyType(targets),
            raw_names=raw_names,
            page_size=self.settings.limits.list_page,
        )


def _templates_of(entries: Iterable[Entry]) -> Iterator[tuple[Template, Entry]]:
    """The templates that can be read; who lists one that cannot is asked for none by it."""
    for entry in entries:
        if entry.is_template:
            with suppress(RemoteProtocolError):
                yield parse_template(entry.raw_name), entry


class _AllTargets(Mapping[str, Entry]):
    """Every name a request may use where all is seen: looked up, because making them all takes long.

    `server.tool` is always accepted, in the server's own spelling; a listed name wins.
    """

    __slots__ = ("_snapshot",)

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def __getitem__(self, name: str) -> Entry:
        entry = self._snapshot.by_name.get(name)
        if entry is not None:
            return entry
        # Both a server's name and a tool's may have a dot in it.
        server, dot, raw_name = name.partition(".")
        while dot:
            entries = self._snapshot.by_server.get(ServerName(server))
            if entries is not None and raw_name in entries:
                return entries[raw_name]
            more, dot, raw_name = raw_name.partition(".")
            server = f"{server}.{more}"
        raise KeyError(name)

    def get(self, name: str, default: Entry | None = None) -> Entry | None:  # type: ignore[override]
        """Every call comes here with a listed name."""
        return self._snapshot.by_name.get(name) or super().get(name, default)

    def __iter__(self) -> Iterator[str]:
        dotted = (f"{entry.server}.{entry.raw_name}" for entry in self._snapshot.entries)
        return iter(dict.fromkeys([*dotted, *self._snapshot.by_name]))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class WorldCell:
    """Where the current world stands."""

    __slots__ = ("world",)

    def __init__(self, world: World) -> None:
        self.world = world

    def publish(self, snapshot: Snapshot, hellos: Mapping[SpecKey, ServerHello] | None = None) -> None:
        """Replace one kind's snapshot, and with it what the servers say of themselves."""
        world = self.world
        is_the_same = snapshot.shows_what(world.snapshot(snapshot.kind))
        match snapshot.kind:
            case "tools":
                world = replace(world, tools=snapshot)
            case "resources":
                world = replace(world, resources=snapshot)
            case "prompts":
                world = replace(world, prompts=snapshot)
        self.world = replace(
            world,
            revision=world.revision + 1,
            hellos=world.hellos if hellos is None else hellos,
            # What others see of the other kinds is as it was, and mostly nothing of this one has changed, either.
            _views={
                key: view for key, view in world._views.items() if is_the_same or key[0] != snapshot.kind
            },
        )

    def publish_servers(
        self, servers: Mapping[ServerName, Server], settings: NodeSettings | None = None
    ) -> None:
        """Replace which servers there are and, where given, the settings in effect: both at once."""
        self.world = replace(
            self.world,
            revision=self.world.revision + 1,
            settings=settings or self.world.settings,
            servers=MappingProxyType(dict(servers)),
            _views={},
        )
