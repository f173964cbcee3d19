"""The catalog: every list with where each entry comes from. Reading it starts nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.params import FromQuery
from msgspec import Raw, Struct

from mcpv_node.actors.snapshot import ToolEntry

from .servers import ServerBody, report_of
from .state import services_of


class ToolBody(Struct, frozen=True, rename="camel"):
    """One tool, and where it comes from."""

    name: str
    server: str
    spec_key: str
    raw_name: str
    source: str
    stale: bool
    cold: bool
    definition: Any


class CatalogBody(Struct, frozen=True):
    """All tools at one version."""

    version: int
    etag: str
    complete: bool
    entries: list[ToolBody]
    full: bool = True


@get("/catalog/tools")
async def show_tools(
    request: Request[Any, Any, State], state: State, since: FromQuery[int | None] = None
) -> Response[CatalogBody | None]:
    """All tools, without starting anything. `since` is answered with the whole list."""
    world = services_of(state).node.world.world
    headers = {"ETag": f'"{world.tools.etag}"', "Cache-Control": "no-cache"}
    if since is None and _matches(request.headers.get("if-none-match"), world.tools.etag):
        return Response(content=None, status_code=304, headers=headers)
    names = {entry.server for entry in world.tools.entries} & world.servers.keys()
    reports = await asyncio.gather(
        *(report_of(world.servers[name]) for name in names), return_exceptions=True
    )
    warm = {report.name for report in reports if isinstance(report, ServerBody) and report.instances}
    body = CatalogBody(
        version=world.tools.version,
        etag=world.tools.etag,
        complete=world.tools.complete,
        entries=[_tool_body(entry, cold=entry.server not in warm) for entry in world.tools.entries],
    )
    return Response(content=body, headers=headers)


def _tool_body(entry: ToolEntry, *, cold: bool) -> ToolBody:
    return ToolBody(
        name=entry.name,
        server=entry.server,
        spec_key=entry.spec_key,
        raw_name=entry.raw_name,
        source=str(entry.source),
        stale=entry.stale,
        cold=cold,
        definition=Raw(entry.definition),
    )


def _matches(if_none_match: str | None, etag: str) -> bool:
    """Weak comparison, as If-None-Match wants it."""
    if if_none_match is None:
        return False
    given = {tag.strip().removeprefix("W/").strip('"') for tag in if_none_match.split(",")}
    return "*" in given or etag in given
