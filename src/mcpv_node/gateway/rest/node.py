"""The node itself: what it is, its tree of actors, and its end."""

from __future__ import annotations

import asyncio

from litestar import get, post
from litestar.datastructures import State
from msgspec import Struct

from mcpv_node.gateway.services import TreeData
from mcpv_node.telemetry import rfc3339

from .config import ConfigBody, show_config
from .learning import InitBody, LearningBody, learning_body, show_init, show_learning
from .problems import PROBLEMS
from .state import services_of


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
    config: ConfigBody | None
    # Of the HTTP door where that is https: the SHA-256 of its certificate's DER, in hex.
    certificate: str | None = None


class NodeSummary(Struct, frozen=True, rename="camel"):
    """One node, and where it is."""

    id: str
    boot: str
    pid: int
    version: str
    http: str | None
    ready: bool


class NodesBody(Struct, frozen=True):
    """The nodes that work together: without a cluster, this one alone."""

    nodes: list[NodeSummary]


class TreeBody(Struct, frozen=True):
    """One place in the tree of actors."""

    id: str
    kind: str
    state: str
    restarts: int
    since: str
    children: list[TreeBody]


class StopBody(Struct, frozen=True):
    """The node has taken the order to stop."""

    state: str


@get("/node", responses=PROBLEMS)
async def show_node(state: State) -> NodeBody:
    """Which node this is, and how to reach it."""
    services = services_of(state)
    info, node = services.info(), services.node
    world = node.world.world
    learning, init, config = await asyncio.gather(
        show_learning(services), show_init(services), show_config(services)
    )
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
        config=config,
        certificate=info.certificate,
    )


@get("/nodes", sync_to_thread=False, responses=PROBLEMS)
def list_nodes(state: State) -> NodesBody:
    """List the nodes that work together."""
    services = services_of(state)
    info, node = services.info(), services.node
    return NodesBody(
        [NodeSummary(node.node_id, node.boot, info.pid, info.version, info.http, services.is_ready())]
    )


@get("/tree", sync_to_thread=False, responses=PROBLEMS)
def show_tree(state: State) -> TreeBody:
    """The tree of actors with their states."""
    return _tree_body(services_of(state).tree())


@post("/node/stop", status_code=202, sync_to_thread=False, responses=PROBLEMS)
def stop_node(state: State) -> StopBody:
    """Drain and end the node; answered before it does."""
    services_of(state).request_stop()
    return StopBody(state="stopping")


def _tree_body(place: TreeData) -> TreeBody:
    return TreeBody(
        id=place.id,
        kind=place.kind,
        state=place.state,
        restarts=place.restarts,
        since=rfc3339(place.since),
        children=[_tree_body(child) for child in place.children],
    )
