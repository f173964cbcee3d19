"""The one frozen value that every request reads, and the cell it stands in.

A request reads `cell.world` once and works on that; what is published meanwhile is for the next one. Only the
index and a reload assign it, on the loop's thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from mcpv_node.protocol import one_line, tools_result
from mcpv_node.settings import ServerName, ServerSpec

from .kernel import Handle
from .server_type.messages import ServerTypeMessage
from .snapshot import EMPTY_TOOLS, ServerView, ToolEntry, ToolSnapshot, fingerprint


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


EVERYTHING = Selector()


@dataclass(frozen=True, slots=True)
class Server:
    """One entry of `servers:` and the server type that runs it."""

    spec: ServerSpec
    view: ServerView
    handle: Handle[ServerTypeMessage]
    shared_with: tuple[ServerName, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolView:
    """What one selector sees of the tools, with the bytes of its pages."""

    etag: str
    entries: tuple[ToolEntry, ...]
    targets: Mapping[str, ToolEntry]  # every name a call may use here
    raw_names: bool
    page_size: int

    def page(self, number: int) -> bytes | None:
        """The result of `tools/list` for one page, on one line, or None past the end."""
        start = number * self.page_size
        if number and start >= len(self.entries):
            return None
        cached = self._pages.get(number)
        if cached is None:
            entries = self.entries[start : start + self.page_size]
            more = start + self.page_size < len(self.entries)
            cached = one_line(
                tools_result(
                    [entry.raw_definition if self.raw_names else entry.definition for entry in entries],
                    next_cursor=f"{self.etag}.{number + 1}" if more else None,
                )
            )
            self._pages[number] = cached
        return cached

    _pages: dict[int, bytes] = field(default_factory=dict[int, bytes], repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class World:
    """Servers, their visibility and the catalog, at one revision."""

    revision: int = 0
    servers: Mapping[ServerName, Server] = field(default_factory=lambda: MappingProxyType({}))
    tools: ToolSnapshot = EMPTY_TOOLS
    page_size: int = 1000
    _views: dict[Selector, ToolView] = field(
        default_factory=dict[Selector, ToolView], repr=False, compare=False
    )

    def tool_view(self, selector: Selector) -> ToolView:
        """What `selector` sees. Memoised here, so it dies with this world."""
        view = self._views.get(selector)
        if view is None:
            view = self._views[selector] = self._make_view(selector)
        return view

    def _make_view(self, selector: Selector) -> ToolView:
        tools = self.tools
        raw_names = selector.server is not None
        visible = frozenset(name for name, server in self.servers.items() if selector.selects(server.view))
        if not raw_names and tools.by_server.keys() <= visible:
            return ToolView(
                etag=fingerprint(tools.entries),
                entries=tools.entries,
                targets=_AllTargets(tools),
                raw_names=False,
                page_size=self.page_size,
            )
        entries = tuple(entry for entry in tools.entries if entry.server in visible)
        targets: dict[str, ToolEntry] = {}
        if raw_names:
            entries = tuple(sorted(entries, key=lambda entry: entry.raw_name))
            targets.update((entry.raw_name, entry) for entry in entries)
        else:
            # `server.tool` is always accepted, in the server's own spelling; a listed name wins.
            targets.update((f"{entry.server}.{entry.raw_name}", entry) for entry in entries)
            targets.update((entry.name, entry) for entry in entries)
        return ToolView(
            etag=fingerprint(entries),
            entries=entries,
            targets=MappingProxyType(targets),
            raw_names=raw_names,
            page_size=self.page_size,
        )


class _AllTargets(Mapping[str, ToolEntry]):
    """Every name a call may use where all servers are seen: looked up, because making them all takes long.

    `server.tool` is always accepted, in the server's own spelling; a listed name wins.
    """

    __slots__ = ("_tools",)

    def __init__(self, tools: ToolSnapshot) -> None:
        self._tools = tools

    def __getitem__(self, name: str) -> ToolEntry:
        entry = self._tools.by_name.get(name)
        if entry is not None:
            return entry
        # Both a server's name and a tool's may have a dot in it.
        server, dot, raw_name = name.partition(".")
        while dot:
            entries = self._tools.by_server.get(ServerName(server))
            if entries is not None and raw_name in entries:
                return entries[raw_name]
            more, dot, raw_name = raw_name.partition(".")
            server = f"{server}.{more}"
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        dotted = (f"{entry.server}.{entry.raw_name}" for entry in self._tools.entries)
        return iter(dict.fromkeys([*dotted, *self._tools.by_name]))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class WorldCell:
    """Where the current world stands."""

    __slots__ = ("world",)

    def __init__(self, world: World) -> None:
        self.world = world

    def publish_tools(self, tools: ToolSnapshot) -> None:
        self.world = replace(self.world, revision=self.world.revision + 1, tools=tools, _views={})

    def publish_servers(self, servers: Mapping[ServerName, Server]) -> None:
        self.world = replace(
            self.world, revision=self.world.revision + 1, servers=MappingProxyType(dict(servers)), _views={}
        )
