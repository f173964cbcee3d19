"""What is known of one server's lists, and an operator's word that changed definitions are as they should be."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import Request, post
from litestar.datastructures import State
from litestar.exceptions import ClientException, NotFoundException
from litestar.params import FromPath
from msgspec import Struct

from mcpv_node.actors.index_messages import Approve, DescribeLists, ListsReport
from mcpv_node.actors.kernel import ActorError
from mcpv_node.actors.snapshot import KINDS, Kind
from mcpv_node.actors.world import Server
from mcpv_node.gateway.services import DoorServices
from mcpv_node.settings import ServerName

from .problems import PROBLEMS
from .state import REPORT_BOUND, services_of


class ListsBody(Struct, frozen=True, rename="camel"):
    """One kind of one server's lists."""

    learnt: bool
    entries: int
    learnt_at: str | None
    source: str | None
    stale: bool
    failure: str | None
    conflicts: list[str]
    rejected: list[str]
    changed: list[str]
    withheld: list[str]


class ApproveBody(Struct, frozen=True, forbid_unknown_fields=True):
    """Whose changed definitions are good; none named: all of the server's."""

    tools: list[str] | None = None


class ApprovedBody(Struct, frozen=True):
    """The tools whose definitions were approved."""

    name: str
    approved: list[str]


@post("/servers/{name:str}/approve", status_code=200, responses=PROBLEMS)
async def approve_tools(request: Request[Any, Any, State], state: State, name: FromPath[str]) -> ApprovedBody:
    """Take the changed definitions of this server's tools for good. The body is optional."""
    services = services_of(state)
    server = services.node.world.world.servers.get(ServerName(name))
    if server is None:
        raise NotFoundException(f"there is no server named {name}")
    names = _parse_body(await request.body()).tools
    approve = Approve(server.view.spec_key, None if names is None else frozenset(names))
    approved = await services.node.indexes["tools"].ask(approve, REPORT_BOUND)
    return ApprovedBody(name=name, approved=list(approved))


async def show_lists(services: DoorServices, server: Server) -> dict[str, ListsBody] | None:
    """Ask what is known of each kind; None while an index is being restarted."""
    indexes = services.node.indexes
    try:
        reports = await asyncio.gather(
            *(indexes[kind].ask(DescribeLists(server.view.spec_key), REPORT_BOUND) for kind in KINDS)
        )
    except ActorError:
        return None
    return {
        str(kind): _body(report, _conflicts(services, kind, server.view.name))
        for kind, report in zip(KINDS, reports, strict=True)
    }


def _conflicts(services: DoorServices, kind: Kind, name: ServerName) -> list[str]:
    return [
        f"{conflict.wanted} is {conflict.holder}'s; {conflict.server}'s {conflict.raw_name} is "
        + ("behind it" if conflict.given == conflict.wanted else f"listed as {conflict.given}")
        for conflict in services.node.world.world.snapshot(kind).conflicts
        if name in (conflict.server, conflict.holder)
    ]


def _body(report: ListsReport, conflicts: list[str]) -> ListsBody:
    return ListsBody(
        learnt=report.learnt,
        entries=report.entries,
        learnt_at=report.learnt_at,
        source=report.source,
        stale=report.stale,
        failure=report.failure,
        conflicts=conflicts,
        rejected=list(report.rejected),
        changed=list(report.changed),
        withheld=list(report.withheld),
    )


def _parse_body(body: bytes) -> ApproveBody:
    try:
        return msgspec.json.decode(body, type=ApproveBody) if body.strip() else ApproveBody()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ClientException(f"the body is not {{tools: [NAME..]}}: {error}") from None
