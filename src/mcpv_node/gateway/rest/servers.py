"""The servers: why each is as it is, and an operator's orders to it."""

from __future__ import annotations

import asyncio
from typing import Final

from litestar import Response, get, post
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.openapi import ResponseSpec
from litestar.params import FromPath
from msgspec import Struct
from msgspec.structs import replace

from mcpv_node.actors.kernel import ActorError, AskTimeout
from mcpv_node.actors.server_type.messages import (
    CallCounts,
    OperatorStart,
    OperatorStop,
    Retry,
    ServerState,
    Settled,
    Why,
    WhyReport,
)
from mcpv_node.actors.status import LearningOutcome
from mcpv_node.actors.world import Server
from mcpv_node.gateway.services import DoorServices
from mcpv_node.settings import ServerName
from mcpv_node.telemetry import rfc3339

from .learning import OutcomeBody, outcome_body, show_outcomes
from .lists import ListsBody, show_lists
from .problems import PROBLEMS
from .state import REPORT_BOUND, Wait, services_of


class LastExitBody(Struct, frozen=True):
    """How an instance's process ended."""

    code: int | None
    signal: int | None
    at: str


class CallsBody(Struct, frozen=True):
    """Calls since the node started."""

    ok: int
    failed: int
    refused: int


class InstanceBody(Struct, frozen=True, rename="camel"):
    """One live session to a server."""

    id: str
    pid: int | None
    state: str
    busy: int
    started_at: str
    idle_since: str | None
    era: str | None
    bindings: int


class ServerBody(Struct, frozen=True, rename="camel"):
    """One server, and why it is as it is."""

    name: str
    spec_key: str
    state: str
    reason: str
    since: str
    next_try_at: str | None
    desired: int
    waiting: int
    start_cause: str | None
    last_exit: LastExitBody | None
    stderr: list[str]
    starts: int
    restarts: int
    calls: CallsBody
    shared_with: list[str]
    instances: list[InstanceBody]
    learning: OutcomeBody | None
    lists: dict[str, ListsBody] | None = None  # of one server alone, where they can be had


class ServersBody(Struct, frozen=True):
    """All servers, by name."""

    servers: list[ServerBody]


class ActBody(Struct, frozen=True):
    """What became of an order."""

    name: str
    state: str
    reason: str


# With `wait`, when it is over.
_OUTCOME: Final = {**PROBLEMS, 200: ResponseSpec(ActBody, generate_examples=False, description="The outcome")}


@get("/servers", responses=PROBLEMS)
async def list_servers(state: State) -> ServersBody:
    """Every server and why it is as it is."""
    services = services_of(state)
    outcomes = await show_outcomes(services)
    servers = services.node.world.world.servers.values()
    bodies = await asyncio.gather(
        *(_report_or_why_not(services, server, outcomes.get(server.view.spec_key)) for server in servers)
    )
    return ServersBody(servers=sorted(bodies, key=lambda body: body.name))


async def _report_or_why_not(
    services: DoorServices, server: Server, outcome: LearningOutcome | None
) -> ServerBody:
    """One that does not answer, because its owner is being restarted, must not cost the others their places."""
    try:
        return await report_of(server, outcome)
    except ActorError as error:
        report = WhyReport(
            name=server.view.name,
            spec_key=server.view.spec_key,
            state=ServerState.STARTING,
            reason=f"its owner does not answer: {error}",
            since=services.node.clock.wall(),
            next_try_at=None,
            desired=0,
            waiting=0,
            start_cause=None,
            last_exit=None,
            stderr=(),
            starts=0,
            restarts=0,
            calls=CallCounts(),
        )
        return _server_body(report, server, outcome)


@get("/servers/{name:str}", responses=PROBLEMS)
async def show_server(state: State, name: FromPath[str]) -> ServerBody:
    """One server and why it is as it is."""
    services, server = services_of(state), find_server(state, name)
    outcomes = await show_outcomes(services)
    body = await report_of(server, outcomes.get(server.view.spec_key))
    return replace(body, lists=await show_lists(services, server))


@post("/servers/{name:str}/start", status_code=202, responses=_OUTCOME)
async def start_server(state: State, name: FromPath[str], wait: Wait = None) -> Response[ActBody]:
    """Lift a stop and start one instance."""
    return await _act(state, name, OperatorStart(), wait)


@post("/servers/{name:str}/stop", status_code=202, responses=_OUTCOME)
async def stop_server(state: State, name: FromPath[str], wait: Wait = None) -> Response[ActBody]:
    """Drain and stop; the server stays stopped until it is started, retried or edited."""
    return await _act(state, name, OperatorStop(), wait)


@post("/servers/{name:str}/retry", status_code=202, responses=_OUTCOME)
async def retry_server(state: State, name: FromPath[str], wait: Wait = None) -> Response[ActBody]:
    """Forget failures and try again now."""
    return await _act(state, name, Retry(), wait)


def find_server(state: State, name: str) -> Server:
    server = services_of(state).node.world.world.servers.get(ServerName(name))
    if server is None:
        raise NotFoundException(f"there is no server named {name}")
    return server


async def report_of(server: Server, outcome: LearningOutcome | None = None) -> ServerBody:
    """What a server type says of itself, under this name."""
    return _server_body(await server.handle.ask(Why(), REPORT_BOUND), server, outcome)


async def _act(
    state: State, name: str, order: OperatorStart | OperatorStop | Retry, wait: float | None
) -> Response[ActBody]:
    server = find_server(state, name)
    reached: ServerState = await server.handle.ask(order, REPORT_BOUND)
    status = 202
    if wait is not None:
        try:
            reached = await server.handle.ask(Settled(), wait)
        except AskTimeout:
            reached = (await server.handle.ask(Why(), REPORT_BOUND)).state
        else:
            status = 200
    report = await server.handle.ask(Why(), REPORT_BOUND)
    return Response(content=ActBody(name=name, state=str(reached), reason=report.reason), status_code=status)


def _server_body(report: WhyReport, server: Server, outcome: LearningOutcome | None) -> ServerBody:
    """The report of a server type under the name it was asked for by: several entries may share it."""
    last = report.last_exit
    return ServerBody(
        name=server.view.name,
        spec_key=report.spec_key,
        state=str(report.state),
        reason=report.reason,
        since=rfc3339(report.since),
        next_try_at=None if report.next_try_at is None else rfc3339(report.next_try_at),
        desired=report.desired,
        waiting=report.waiting,
        start_cause=None if report.start_cause is None else str(report.start_cause),
        last_exit=None if last is None else LastExitBody(last.code, last.signal, rfc3339(last.at)),
        stderr=list(report.stderr),
        starts=report.starts,
        restarts=report.restarts,
        calls=CallsBody(report.calls.ok, report.calls.failed, report.calls.refused),
        shared_with=sorted({report.name, *report.shared_with, *server.shared_with} - {server.view.name}),
        instances=[
            InstanceBody(
                id=one.id,
                pid=one.pid,
                state=str(one.state),
                busy=one.busy,
                started_at=rfc3339(one.started_at),
                idle_since=None if one.idle_since is None else rfc3339(one.idle_since),
                era=one.era,
                bindings=one.bindings,
            )
            for one in report.instances
        ],
        learning=outcome_body(outcome),
    )
