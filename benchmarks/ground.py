"""Owners as a node has them, without the node: what the benchmarks of actors and of the scheduler stand on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter
from types import MappingProxyType
from typing import Any

from mcpv_node.actors import Events, NodeContext, ServerType, World, WorldCell
from mcpv_node.actors.callers import Caller
from mcpv_node.actors.clients import ClientsMessage
from mcpv_node.actors.events import EventsMessage
from mcpv_node.actors.index_messages import (
    IndexMessage,
    SubscribersMessage,
)
from mcpv_node.actors.instance import InstanceMessage
from mcpv_node.actors.instance.messages import InstanceReady
from mcpv_node.actors.kernel import (
    ActorSystem,
    Handle,
    LoopActor,
)
from mcpv_node.actors.leases import Acquire, InstanceId, Lease, LeaseId, Release, new_lease_id
from mcpv_node.actors.server_type import ServerTypeMessage
from mcpv_node.actors.server_type.facts import Lane
from mcpv_node.actors.snapshot import KINDS
from mcpv_node.actors.watch_messages import WatchesMessage
from mcpv_node.protocol import parse_initialize_result
from mcpv_node.settings import NodeSettings, ServerName, ServerSpec, group_servers
from mcpv_node.telemetry import SystemClock
from mcpv_node.telemetry.metrics import Metrics

TYPES = 100

# What is asked here is answered in microseconds; longer means that it hangs (seconds).
BOUND = 30.0

CALLER = Caller(principal="benchmark", client="benchmark", key="benchmark")


def make_context(system: ActorSystem, world: World, *, folder: Path) -> NodeContext:
    """As much of a node as its owners need; nobody listens to what they tell."""
    events = Handle[EventsMessage].create(system, "events")
    events.cell.start(Events("boot"))
    return NodeContext(
        node_id="benchmark",
        boot="boot",
        system=system,
        clock=SystemClock(),
        state_dir=folder,
        environ=MappingProxyType({}),
        world=WorldCell(world),
        metrics=Metrics(),
        events=events,
        indexes={kind: Handle[IndexMessage].create(system, f"index-{kind}") for kind in KINDS},
        subscribers=Handle[SubscribersMessage].create(system, "subscribers"),
        clients=Handle[ClientsMessage].create(system, "clients"),
        watches=Handle[WatchesMessage].create(system, "watches"),
    )


async def timed(work: Callable[[], Awaitable[None]], seconds: float) -> float:
    """Do it for so long and give the time of one, in batches: the clock is not what is measured."""
    count = 0
    began = perf_counter()
    while perf_counter() - began < seconds:
        for _ in range(50):
            await work()
        count += 50
    return (perf_counter() - began) / count


class _FakeInstance(LoopActor[None]):
    """Ready at once; nobody calls it."""

    def __init__(self, instance_id: InstanceId, owner: Handle[ServerTypeMessage]) -> None:
        super().__init__()
        self._id = instance_id
        self._owner = owner

    def on_start(self, estate: None = None) -> None:
        hello = parse_initialize_result(
            b'{"protocolVersion":"2025-11-25","capabilities":{},"serverInfo":{"name":"x","version":"1"}}'
        )
        self._owner.tell(InstanceReady(self._id, hello))


def start_type(node: NodeContext, name: str, **settings: Any) -> Handle[ServerTypeMessage]:
    """A real ServerType whose instances are ready at once."""
    wide: dict[str, Any] = {"max_concurrent": 2 * TYPES, "max_instances": 1, "idle_seconds": 600.0}
    spec = ServerSpec(name=ServerName(name), command="none", **{**wide, **settings})
    group = group_servers(NodeSettings(servers=(spec,)))[0]
    server = Handle[ServerTypeMessage].create(node.system, f"server-{name}")

    def start_instance(instance_id: InstanceId, _lane: Lane, _may_probe: bool) -> Handle[InstanceMessage]:
        handle = Handle[InstanceMessage].create(node.system, f"instance-{instance_id}")
        handle.cell.start(_FakeInstance(instance_id, server))
        return handle

    server.cell.start(ServerType(node, group, start_instance))
    return server


class LockedPool:
    """What the actor is compared with: one lock and one dict."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._busy: dict[LeaseId, float] = {}

    async def acquire(self) -> LeaseId:
        async with self._lock:
            lease = new_lease_id()
            self._busy[lease] = perf_counter()
            return lease

    async def release(self, lease: LeaseId) -> None:
        async with self._lock:
            del self._busy[lease]


async def use_once(server: Handle[ServerTypeMessage], now: float) -> None:
    lease = await server.ask(Acquire(new_lease_id(), CALLER, now + BOUND), BOUND)
    if not isinstance(lease, Lease):
        raise RuntimeError(f"refused: {lease.failure.message}")
    # As a call does it.
    server.tell_now(Release(lease.lease))
