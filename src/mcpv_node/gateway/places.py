"""Where a request to `/mcp` leads: who asks, and for which part of the node."""

from __future__ import annotations

from functools import lru_cache

from msgspec import Struct

from mcpv_node.actors.world import EVERYTHING, Selector, World
from mcpv_node.settings import ServerName

from .asgi import REMEMBERED
from .auth import Authority
from .heads import Connection
from .visibility import resolve_selector


class Place(Struct, frozen=True):
    """Who asks, and for which part of the node: what the path names, what the token may see, what both show now."""

    principal: str
    selector: Selector
    wanted: Selector = EVERYTHING
    within: Selector = EVERYTHING


class Visit(Struct, frozen=True):
    """A place, and what it was found by."""

    authority: Authority
    path: str
    revision: int
    place: Place


def find_place(world: World, authority: Authority, path: str, connection: Connection) -> Place | None:
    """Where `path` leads whoever has this authority; None where that is nowhere.

    The request before on the connection has mostly led there, too.
    """
    visit = connection.visit
    if (
        visit is not None
        and visit.authority is authority
        and visit.revision == world.revision
        and visit.path == path
    ):
        return visit.place
    wanted = parse_mcp_path(path)
    selector = None if wanted is None else resolve_selector(world, wanted, within=authority.selector)
    if wanted is None or selector is None:
        return None
    place = Place(authority.principal, selector, wanted, authority.selector)
    connection.visit = Visit(authority, path, world.revision, place)
    return place


@lru_cache(REMEMBERED)
def parse_mcp_path(path: str) -> Selector | None:
    """What a path below `/mcp` selects; None when it is not a path of ours. It may not exist all the same."""
    if path == "/mcp":
        return EVERYTHING
    match path.rstrip("/").split("/")[2:]:
        case []:
            return EVERYTHING
        case ["server", name] if name:
            return Selector(server=ServerName(name))
        case ["profile", name] if name:
            return Selector(profile=name)
        case ["tags", names]:
            tags = frozenset(tag for part in names.split(",") if (tag := part.strip().lower()))
            return Selector(tags=tags) if tags else None
        case _:
            return None
