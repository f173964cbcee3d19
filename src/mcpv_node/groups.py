"""The groups of the server types: the supervisor of a server type's instances, then the server type.

What each group is made of is asked anew at every start of one of its actors, so that a reload can change it. The ids
of groups are never used twice: while the old group of a server drains, the new one stands beside it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

from mcpv_node.actors import (
    HttpInstance,
    Instance,
    NodeContext,
    Server,
    ServerType,
    StdioInstance,
    SuspendedServer,
)
from mcpv_node.actors.guard import GuardMessage
from mcpv_node.actors.instance import InstanceMessage
from mcpv_node.actors.kernel import ActorSystem, Handle
from mcpv_node.actors.leases import InstanceId
from mcpv_node.actors.server_type import ServerTypeMessage
from mcpv_node.actors.server_type.facts import Lane
from mcpv_node.actors.snapshot import ServerView
from mcpv_node.settings import ServerGroup, ServerName
from mcpv_node.supervisors import (
    ChildKeeper,
    ChildSpec,
    DynamicSpec,
    Restart,
    RestartWindow,
    ServerGroupSpec,
    StartChild,
    Strategy,
    SupervisionEvent,
    SupervisorSpec,
    dynamic_child,
    supervisor_child,
)

from .bounds import INSTANCE_STOP_MARGIN, drain_bound, stop_bound


@dataclass(slots=True)
class RunningGroup:
    """One server type of the tree; `group` is what its next incarnation is made of."""

    id: str
    group: ServerGroup
    server: Handle[ServerTypeMessage]


class ServerGroups:
    """Which groups there are to be, in the order of the configuration. Used on the loop's thread."""

    def __init__(
        self,
        system: ActorSystem,
        context: Callable[[], NodeContext],
        guard: Handle[GuardMessage],
        sink: Callable[[SupervisionEvent], None],
    ) -> None:
        self._system = system
        self._context = context
        self._guard = guard
        self._sink = sink
        self._made: Counter[ServerName] = Counter()
        self._running: tuple[RunningGroup, ...] = ()
        self._made_now: dict[str, RunningGroup] = {}

    @property
    def running(self) -> tuple[RunningGroup, ...]:
        """The groups that serve."""
        return self._running

    @property
    def existing(self) -> tuple[RunningGroup, ...]:
        """The groups that serve, and those that drain or are about to serve."""
        return tuple(self._made_now.values())

    def make(self, group: ServerGroup) -> RunningGroup:
        """Give `group` an id and a place of its own; it is not among the running ones yet."""
        self._made[group.name] += 1
        number = self._made[group.name]
        # No server's name has a dot in it, so no two servers' groups have one id.
        group_id = group.name if number == 1 else f"{group.name}.{number}"
        handle = Handle[ServerTypeMessage].create(self._system, f"server-{group_id}")
        running = self._made_now[group_id] = RunningGroup(group_id, group, handle)
        return running

    def assign(self, running: Iterable[RunningGroup]) -> None:
        """From now on these are the groups."""
        self._running = tuple(running)

    def forget(self, group_id: str) -> RunningGroup | None:
        """This group has ended for good; give what it was, if it was not to serve any more."""
        gone = self._made_now.get(group_id)
        if gone is None or gone in self._running:
            return None
        return self._made_now.pop(group_id)

    def specs(self) -> list[ServerGroupSpec]:
        """Every running group as a child of Init."""
        return [self.spec(one) for one in self._running]

    def spec(self, running: RunningGroup) -> ServerGroupSpec:
        """One group as a child of Init."""
        spec = running.group.specs[0]
        instances = Handle[StartChild].create(self._system, f"instances-{running.id}")

        def start_instance(instance_id: InstanceId, lane: Lane, may_probe: bool) -> Handle[InstanceMessage]:
            handle = Handle[InstanceMessage].create(self._system, f"instance-{instance_id}")
            instances.tell(StartChild(self._instance_child(running, instance_id, lane, may_probe, handle)))
            return handle

        def live_instances() -> list[tuple[InstanceId, Handle[InstanceMessage]]]:
            keeper = instances.cell.actor
            if not isinstance(keeper, ChildKeeper):
                return []
            return [(InstanceId(child.id), child.handle) for child in keeper.children()]

        return ServerGroupSpec(
            child=supervisor_child(
                running.id,
                SupervisorSpec(
                    strategy=Strategy.REST_FOR_ONE,
                    # A server type that crashes goes on from its estate; more than this is a defect of ours.
                    window=RestartWindow(max_restarts=5, period=10.0),
                    children=(
                        dynamic_child("instances", DynamicSpec(), handle=instances, sink=self._sink),
                        ChildSpec(
                            id="server-type",
                            start=lambda: ServerType(
                                self._context(),
                                running.group,
                                start_instance,
                                live_instances,
                                group_id=running.id,
                            ),
                            handle=running.server,
                            grace=lambda: drain_bound(running.group.specs[0]),
                        ),
                    ),
                ),
                restart=Restart.PERMANENT,
                sink=self._sink,
            ),
            server=running.server,
            baseline=max(1, spec.min_ready) if spec.activation_mode == "always-on" else 0,
            warm_timeout=spec.start_timeout_seconds + INSTANCE_STOP_MARGIN,
            name=running.group.name,
            stand_in=lambda reason: SuspendedServer(self._context(), lambda: running.group, reason),
        )

    def _instance_child(
        self,
        running: RunningGroup,
        instance_id: InstanceId,
        lane: Lane,
        may_probe: bool,
        handle: Handle[InstanceMessage],
    ) -> ChildSpec:
        spec, spec_key = running.group.specs[0], running.group.spec_key
        kind: Callable[..., Instance]
        kind = partial(StdioInstance, guard=self._guard) if spec.is_stdio else HttpInstance
        return ChildSpec(
            id=instance_id,
            start=lambda: kind(
                self._context(),
                spec=spec,
                spec_key=spec_key,
                instance_id=instance_id,
                owner=running.server,
                lane=lane,
                may_probe=may_probe,
            ),
            handle=handle,
            restart=Restart.TEMPORARY,
            grace=lambda: stop_bound(running.group.specs[0]),
        )


def servers_of(running: Iterable[RunningGroup]) -> Mapping[ServerName, Server]:
    """Every enabled entry by its name, with the server type that runs it."""
    servers: dict[ServerName, Server] = {}
    for one in running:
        enabled = [spec for spec in one.group.specs if not spec.disabled]
        for spec in enabled:
            view = ServerView(
                name=spec.name,
                spec_key=one.group.spec_key,
                tags=frozenset(spec.tags),
                expose_tools=None if spec.expose_tools is None else frozenset(spec.expose_tools),
            )
            shared = tuple(other.name for other in enabled if other is not spec)
            servers[spec.name] = Server(spec, view, one.server, shared)
    return MappingProxyType(servers)
