"""The REST application: what the node is and does, as JSON, for operators and programs.

Mounted below `/api` by the HTTP door, which has checked host, origin and token before. Errors are problems after
RFC 9457; those of 7.6 carry their `reason`. The descriptions of the routes are their documentation at
`/api/openapi.json`.
"""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, TypeAlias

import msgspec
from litestar import Litestar, Request, Response, Router, get, post
from litestar.datastructures import State
from litestar.exceptions import HTTPException, NotFoundException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin
from loguru import logger
from msgspec import Raw, Struct

from mcpv_node.actors.kernel import ActorError, AskTimeout, MailboxFull
from mcpv_node.actors.server_type.messages import (
    OperatorStart,
    OperatorStop,
    Retry,
    ServerState,
    Settled,
    Why,
    WhyReport,
)
from mcpv_node.actors.snapshot import ToolEntry
from mcpv_node.actors.status import LearningOutcome
from mcpv_node.actors.world import Server
from mcpv_node.protocol import Reason, http_status_for
from mcpv_node.settings import ServerName
from mcpv_node.telemetry import rfc3339

from .asgi import PROBLEM, TITLES
from .rest_learning import (
    InitBody,
    LearningBody,
    OutcomeBody,
    learning_body,
    outcome_body,
    refresh_catalog,
    show_init,
    show_learning,
    show_outcomes,
)
from .services import DoorServices, TreeData

# A report is made from memory; an owner that takes longer is being restarted (seconds).
REPORT_BOUND = 5.0

# No start or drain takes longer; a client that wants to wait on may ask again (seconds).
MAX_WAIT = 600.0

Wait: TypeAlias = Annotated[float | None, QueryParameter(ge=0, le=MAX_WAIT)]

_PROBLEM = PROBLEM.decode()


class NodeBody(Struct, frozen=True, rename="camel"):
    """The node itself."""

    pid: int
    start_time: str
    version: str
    http: str | None
    socket: str | None
    token_file: str | None
    config_path: str | None
    node_id: str
    boot: str
    state_dir: str
    ready: bool
    servers: int
    tools: int
    learning: LearningBody | None
    init: list[InitBody] | None


class TreeBody(Struct, frozen=True):
    """One place in the tree of actors."""

    id: str
    kind: str
    state: str
    restarts: int
    since: str
    children: list[TreeBody]


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


class ServersBody(Struct, frozen=True):
    """All servers, by name."""

    servers: list[ServerBody]


class ActBody(Struct, frozen=True):
    """What became of an order."""

    name: str
    state: str
    reason: str


class StopBody(Struct, frozen=True):
    """The node has taken the order to stop."""

    state: str


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


class _Rest(Litestar):
    """Litestar that knows msgspec only.

    By itself it imports pydantic and attrs where somebody has installed them, for types we do not use: 8 MB.
    """

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return [*plugins, MsgspecDIPlugin()]


def create_rest_app(services: DoorServices) -> Litestar:
    """Make the application. Its services travel in its state, as `services`."""
    return _Rest(
        route_handlers=[
            Router(
                path="/api/v1",
                route_handlers=[
                    show_node,
                    show_tree,
                    list_servers,
                    show_server,
                    show_tools,
                    refresh_catalog,
                    stop_node,
                    start_server,
                    stop_server,
                    retry_server,
                ],
            )
        ],
        state=State({"services": services}),
        exception_handlers={HTTPException: _on_http_error, ActorError: _on_actor_error, Exception: _on_error},
        openapi_config=OpenAPIConfig(
            title="mcpv-node",
            version=services.version,
            path="/api",
            render_plugins=[JsonRenderPlugin(path="/openapi.json")],
            use_handler_docstrings=True,
        ),
        # Our own logging is set up by whoever runs the node; Litestar's would start a thread.
        logging_config=None,
        request_max_body_size=services.node.settings.limits.body_bytes,
    )


@get("/node")
async def show_node(state: State) -> NodeBody:
    """Which node this is, and how to reach it."""
    services = _services(state)
    info, node = services.info(), services.node
    world = node.world.world
    learning, init = await asyncio.gather(show_learning(services), show_init(services))
    return NodeBody(
        pid=info.pid,
        start_time=info.start_time,
        version=info.version,
        http=info.http,
        socket=info.socket,
        token_file=info.token_file,
        config_path=info.config_path,
        node_id=node.node_id,
        boot=node.boot,
        state_dir=str(node.state_dir),
        ready=services.is_ready(),
        servers=len(world.servers),
        tools=len(world.tools.entries),
        learning=None if learning is None else learning_body(learning),
        init=init,
    )


@get("/tree", sync_to_thread=False)
def show_tree(state: State) -> TreeBody:
    """The tree of actors with their states."""
    return _tree_body(_services(state).tree())


@get("/servers")
async def list_servers(state: State) -> ServersBody:
    """Every server and why it is as it is."""
    services = _services(state)
    outcomes = await show_outcomes(services)
    servers = services.node.world.world.servers.values()
    bodies = await asyncio.gather(
        *(_report(server, outcomes.get(server.view.spec_key)) for server in servers)
    )
    return ServersBody(servers=sorted(bodies, key=lambda body: body.name))


@get("/servers/{name:str}")
async def show_server(state: State, name: FromPath[str]) -> ServerBody:
    """One server and why it is as it is."""
    server = _find(state, name)
    outcomes = await show_outcomes(_services(state))
    return await _report(server, outcomes.get(server.view.spec_key))


@post("/servers/{name:str}/start")
async def start_server(state: State, name: FromPath[str], wait: Wait = None) -> Response[ActBody]:
    """Lift a stop and start one instance."""
    return await _act(state, name, OperatorStart(), wait)


@post("/servers/{name:str}/stop")
async def stop_server(state: State, name: FromPath[str], wait: Wait = None) -> Response[ActBody]:
    """Drain and stop; the server stays stopped until it is started, retried or edited."""
    return await _act(state, name, OperatorStop(), wait)


@post("/servers/{name:str}/retry")
async def retry_server(state: State, name: FromPath[str], wait: Wait = None) -> Response[ActBody]:
    """Forget failures and try again now."""
    return await _act(state, name, Retry(), wait)


@get("/catalog/tools")
async def show_tools(
    request: Request[Any, Any, State], state: State, since: FromQuery[int | None] = None
) -> Response[CatalogBody | None]:
    """All tools, without starting anything. `since` is answered with the whole list."""
    world = _services(state).node.world.world
    headers = {"ETag": f'"{world.tools.etag}"', "Cache-Control": "no-cache"}
    if since is None and _matches(request.headers.get("if-none-match"), world.tools.etag):
        return Response(content=None, status_code=304, headers=headers)
    names = {entry.server for entry in world.tools.entries} & world.servers.keys()
    reports = await asyncio.gather(*(_report(world.servers[name]) for name in names), return_exceptions=True)
    warm = {report.name for report in reports if isinstance(report, ServerBody) and report.instances}
    body = CatalogBody(
        version=world.tools.version,
        etag=world.tools.etag,
        complete=world.tools.complete,
        entries=[_tool_body(entry, cold=entry.server not in warm) for entry in world.tools.entries],
    )
    return Response(content=body, headers=headers)


@post("/node/stop", status_code=202, sync_to_thread=False)
def stop_node(state: State) -> StopBody:
    """Drain and end the node; answered before it does."""
    _services(state).request_stop()
    return StopBody(state="stopping")


def _services(state: State) -> DoorServices:
    services = state["services"]
    assert isinstance(services, DoorServices)
    return services


def _find(state: State, name: str) -> Server:
    server = _services(state).node.world.world.servers.get(ServerName(name))
    if server is None:
        raise NotFoundException(f"there is no server named {name}")
    return server


async def _report(server: Server, outcome: LearningOutcome | None = None) -> ServerBody:
    return _server_body(await server.handle.ask(Why(), REPORT_BOUND), server, outcome)


async def _act(
    state: State, name: str, order: OperatorStart | OperatorStop | Retry, wait: float | None
) -> Response[ActBody]:
    server = _find(state, name)
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


def _tree_body(place: TreeData) -> TreeBody:
    return TreeBody(
        id=place.id,
        kind=place.kind,
        state=place.state,
        restarts=place.restarts,
        since=rfc3339(place.since),
        children=[_tree_body(child) for child in place.children],
    )


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


def _problem(status: int, detail: str, *, reason: Reason | None = None) -> Response[bytes]:
    body: dict[str, object] = {
        "type": "about:blank",
        "title": TITLES.get(status, "Error"),
        "status": status,
        "detail": detail,
    }
    if reason is not None:
        body["reason"] = str(reason)
    return Response(content=msgspec.json.encode(body), status_code=status, media_type=_PROBLEM)


def _on_http_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    response = _problem(error.status_code, error.detail)
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


def _on_actor_error(_: Request[Any, Any, Any], error: ActorError) -> Response[bytes]:
    """The owner of what was asked for could not say it."""
    if isinstance(error, AskTimeout):
        reason = Reason.CALL_TIMEOUT
    elif isinstance(error, MailboxFull):
        reason = Reason.OVERLOADED
    else:
        reason = Reason.STOPPING
    return _problem(http_status_for(reason), str(error), reason=reason)


def _on_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    logger.bind(path=request.url.path).opt(exception=error).error("a request failed inside the node")
    return _problem(500, "the node failed at this; its log says how")
