"""The catalog: every list with where each entry comes from. Reading it starts nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, FromQuery
from msgspec import Raw, Struct, field

from mcpv_node.actors.snapshot import KINDS, Difference, Entry, Snapshot, difference_since
from mcpv_node.actors.world import World

from .problems import PROBLEMS
from .servers import ServerBody, report_of
from .state import services_of


class EntryBody(Struct, frozen=True, rename="camel"):
    """One tool, resource, template or prompt, and where it comes from."""

    name: str
    server: str
    spec_key: str
    raw_name: str
    source: str
    stale: bool
    cold: bool
    definition: Any


class CatalogBody(Struct, frozen=True):
    """All entries of a kind at one version."""

    version: int
    etag: str
    complete: bool
    entries: list[EntryBody]
    full: bool = True


class RemovedBody(Struct, frozen=True):
    """An entry that is not there any more."""

    name: str
    server: str


class DifferenceBody(Struct, frozen=True):
    """What has changed between two versions; `changed` and `added` are as they are now."""

    from_: int = field(name="from")
    to: int
    added: list[EntryBody]
    changed: list[EntryBody]
    removed: list[RemovedBody]


@get(
    "/catalog/{kind:str}",
    responses={**PROBLEMS, 304: ResponseSpec(None, description="It is what you have")},
)
async def show_catalog(
    request: Request[Any, Any, State], state: State, kind: FromPath[str], since: FromQuery[int | None] = None
) -> Response[CatalogBody | DifferenceBody | None]:
    """All entries of `tools`, `resources` or `prompts`, without starting anything.

    `since` is a version: answered with what has changed, or with everything where that is too long ago. Templates are
    among the resources.
    """
    world = services_of(state).node.world.world
    snapshot = next((world.snapshot(one) for one in KINDS if one == kind), None)
    if snapshot is None:
        raise NotFoundException(f"there is no catalog of {kind}; there is one of {', '.join(KINDS)}")
    headers = {"ETag": f'"{snapshot.etag}"', "Cache-Control": "no-cache"}
    if since is None and _matches(request.headers.get("if-none-match"), snapshot.etag):
        return Response(content=None, status_code=304, headers=headers)
    difference = None if since is None else difference_since(snapshot, since)
    body: CatalogBody | DifferenceBody
    if since is None or difference is None:
        warm = await _warm(world, snapshot.entries)
        body = _whole(snapshot, warm)
    else:
        warm = await _warm(world, (*difference.added, *difference.changed))
        body = _changes(since, snapshot.version, difference, warm)
    return Response(content=body, headers=headers)


async def _warm(world: World, entries: Iterable[Entry]) -> set[str]:
    """Of the servers of these entries, those that run."""
    names = {entry.server for entry in entries} & world.servers.keys()
    reports = await asyncio.gather(
        *(report_of(world.servers[name]) for name in names), return_exceptions=True
    )
    return {report.name for report in reports if isinstance(report, ServerBody) and report.instances}


def _whole(snapshot: Snapshot, warm: set[str]) -> CatalogBody:
    return CatalogBody(
        version=snapshot.version,
        etag=snapshot.etag,
        complete=snapshot.complete,
        entries=_bodies(snapshot.entries, warm),
    )


def _changes(since: int, version: int, difference: Difference, warm: set[str]) -> DifferenceBody:
    return DifferenceBody(
        from_=since,
        to=version,
        added=_bodies(difference.added, warm),
        changed=_bodies(difference.changed, warm),
        removed=[RemovedBody(name, server) for server, name in difference.removed],
    )


def _bodies(entries: Iterable[Entry], warm: set[str]) -> list[EntryBody]:
    return [
        EntryBody(
            name=entry.name,
            server=entry.server,
            spec_key=entry.spec_key,
            raw_name=entry.raw_name,
            source=str(entry.source),
            stale=entry.stale,
            cold=entry.server not in warm,
            definition=Raw(entry.definition),
        )
        for entry in entries
    ]


def _matches(if_none_match: str | None, etag: str) -> bool:
    """Weak comparison, as If-None-Match wants it."""
    if if_none_match is None:
        return False
    given = {tag.strip().removeprefix("W/").strip('"') for tag in if_none_match.split(",")}
    return "*" in given or etag in given
