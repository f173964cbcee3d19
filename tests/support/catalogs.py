"""Tools, servers and lists for tests of the catalog."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from mcpv_node.actors.callers import EMPTY_PROFILE, ClientProfile
from mcpv_node.actors.instance.messages import Lists, ListsFailed
from mcpv_node.actors.kernel import Handle
from mcpv_node.actors.leases import InstanceId
from mcpv_node.actors.snapshot import (
    Kind,
    Learnt,
    Naming,
    ServerView,
    Snapshot,
    Source,
    empty_snapshot,
    merge,
)
from mcpv_node.actors.world import Server, World
from mcpv_node.protocol import Capabilities, Listed, Rejected, ServerHello
from mcpv_node.settings import NodeLimits, NodeSettings, ServerName, ServerSpec, SpecKey


def key_of(server: str) -> SpecKey:
    """A spec key as the store takes it."""
    return SpecKey(sha256(server.encode()).hexdigest())


def tool(name: str, note: str = "", *, read_only: bool = False) -> Listed:
    """A tool as a server lists it; its white space and its unknown member must survive."""
    hints = b',"annotations":{"readOnlyHint":true}' if read_only else b""
    definition = b'{"name":"%s", "inputSchema": {"type":"object"},"x":"%s"%s}' % (
        name.encode(),
        note.encode(),
        hints,
    )
    return Listed(name, definition, read_only=read_only)


def view(
    name: str, *tags: str, exposes: Iterable[str] | None = None, key: SpecKey | None = None
) -> ServerView:
    return ServerView(
        ServerName(name),
        key or key_of(name),
        frozenset(tags),
        None if exposes is None else frozenset(exposes),
    )


def learnt(server: str, *tools: Listed, stale: bool = False, source: Source = Source.LIVE) -> Learnt:
    return Learnt(key_of(server), EMPTY_PROFILE, tools, source, stale)


def merged(
    servers: Iterable[ServerView],
    *lists: Learnt,
    previous: Snapshot | None = None,
    kind: Kind = "tools",
    **names: Any,
) -> Snapshot:
    return merge(
        servers,
        {(one.spec_key, one.profile): one for one in lists},
        naming=Naming(names.get("namespace", "prefix"), names.get("separator", "_")),
        previous=previous or empty_snapshot(kind),
    )


def servers_of(views: Iterable[ServerView], handle: Handle[Any]) -> dict[ServerName, Server]:
    return {one.name: Server(ServerSpec(name=one.name, command="none"), one, handle) for one in views}


def world_of(
    views: Iterable[ServerView], handle: Handle[Any], tools: Snapshot | None = None, page_size: int = 1000
) -> World:
    settings = NodeSettings(servers=(), limits=NodeLimits(list_page=page_size))
    return World(settings=settings, servers=servers_of(views, handle), tools=tools or empty_snapshot("tools"))


def hello(*, tools: bool = True) -> ServerHello:
    return ServerHello(
        version="2025-11-25",
        name="s",
        server_version="1",
        capabilities=Capabilities(tools=tools, raw=b'{"tools":{}}' if tools else b"{}"),
    )


def lists(
    server: str,
    *tools: Listed,
    has_tools: bool = True,
    rejected: tuple[Rejected, ...] = (),
    kind: Kind = "tools",
    profile: ClientProfile = EMPTY_PROFILE,
) -> Lists:
    """What an instance of `server` tells once it has read all pages."""
    return Lists(
        kind,
        key_of(server),
        profile,
        InstanceId(f"{server}-1"),
        hello(tools=has_tools),
        tools,
        rejected,
        offered=has_tools,
    )


def lists_failed(server: str, kind: Kind = "tools") -> ListsFailed:
    return ListsFailed(kind, key_of(server), EMPTY_PROFILE, InstanceId(f"{server}-1"), "no luck")
