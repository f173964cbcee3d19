"""Bringing another configuration into effect while the node serves: all of it, or nothing of it.

What is new starts beside the old, and where a server runs already, or is to run always, its first handshake has to
succeed. Only then is the new state of things assigned, in one step that cannot fail; then the old drains. Whatever
fails before that step is undone in reverse.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeAlias

from loguru import logger

from mcpv_node.actors import NodeContext, Server
from mcpv_node.actors.clients import ListClients
from mcpv_node.actors.config import ReloadFailed
from mcpv_node.actors.index_messages import ServersChanged
from mcpv_node.actors.kernel import ActorError, Handle
from mcpv_node.actors.server_type import (
    RETRY_ADVICE,
    DrainNow,
    OperatorStart,
    Reconfigure,
    ServerState,
    Settled,
    Why,
    WhyReport,
)
from mcpv_node.actors.snapshot import KINDS, ServerView
from mcpv_node.actors.status import Learn, LearningMessage
from mcpv_node.actors.world import Selector
from mcpv_node.settings import (
    Difference,
    NodeSettings,
    ServerGroup,
    ServerName,
    SpecKey,
    compare,
    enabled_groups,
    pool_settings,
    secret_values,
)
from mcpv_node.supervisors import AddGroup, ChildUp, GroupsChanged, InitMessage, RemoveGroup

from .bounds import INSTANCE_STOP_MARGIN
from .groups import RunningGroup, ServerGroups, servers_of

# A report is made of what the server's actor has at hand; seconds.
REPORT_BOUND = 2.0

# Starting a group starts two actors and no process; seconds.
GROUP_BOUND = 10.0

# So many new servers are started side by side.
HANDSHAKE_CONCURRENCY = 8

# So many reloads may follow each other before a server's lists are learnt; then they are empty until they are.
FORMER_KEPT = 4

# What two server types of one configuration never have in common: the runnable thing and how its pool is kept.
_GroupKey: TypeAlias = tuple[str, Hashable]

# States in which a server that was asked to be up is up.
_UP = frozenset({ServerState.READY, ServerState.DEGRADED})


@dataclass(frozen=True, slots=True)
class Reloading:
    """Applies configurations to one node. One at a time: that is the Config actor's to see to."""

    node: NodeContext
    groups: ServerGroups
    init: Handle[InitMessage]
    learning: Handle[LearningMessage]
    doors: Sequence[Handle[ServersChanged]]  # where those are who see a part of the node

    async def apply(self, new: NodeSettings) -> Difference:
        """Bring `new` into effect and say what that changed; ReloadFailed when all is as it was."""
        difference = compare(self.node.settings, new)
        if difference.is_empty():
            return difference
        # Before anything is started: what new servers write is masked from their first line on.
        self.node.redact.learn(secret_values(new))
        old = {_key(running.group): running for running in self.groups.running}
        fresh = [self.groups.make(group) for group in difference.added]
        removed = [old[_key(group)] for group in difference.removed]
        begun: list[RunningGroup] = []
        is_good = False
        try:
            for running in fresh:
                begun.append(running)
                await self._add(running)
            await self._shake_hands(await self._to_be_warm(fresh, removed))
            is_good = True
        finally:
            if not is_good:
                self._undo(begun)
        self._assign(difference, old, fresh)
        for running in removed:
            logger.bind(server=running.group.name).info(
                "{} drains: it has been replaced or removed", running.id
            )
        return difference

    def _undo(self, begun: Sequence[RunningGroup]) -> None:
        for running in reversed(begun):
            logger.bind(server=running.group.name).info("{} ends: it is not to serve after all", running.id)
            running.server.tell(DrainNow())
            self.init.tell(RemoveGroup(running.id))

    async def _add(self, running: RunningGroup) -> None:
        try:
            outcome = await self.init.ask(AddGroup(self.groups.spec(running)), GROUP_BOUND)
        except ActorError as error:
            raise ReloadFailed(f"{running.group.name}: its actors did not start: {error}") from error
        if not isinstance(outcome, ChildUp):
            raise ReloadFailed(f"{running.group.name}: its actors did not start: {outcome}")

    async def _to_be_warm(
        self, fresh: Sequence[RunningGroup], removed: Sequence[RunningGroup]
    ) -> list[RunningGroup]:
        """Which of the new ones somebody would miss at once: each must show that it can have an instance.

        Those that are to run always, that take the place of one that runs, or are kept warm for clients that are there.
        """
        running = await self._running_names(removed)
        selectors = await self._selectors()
        return [
            one
            for one in fresh
            if one.group.specs[0].activation_mode == "always-on"
            or any(spec.name in running for spec in one.group.specs)
            or (
                one.group.specs[0].min_ready > 0
                and any(
                    selector.selects(server.view)
                    for server in servers_of([one]).values()
                    for selector in selectors
                )
            )
        ]

    async def _running_names(self, removed: Sequence[RunningGroup]) -> frozenset[ServerName]:
        reports = await asyncio.gather(
            *(running.server.ask(Why(), REPORT_BOUND) for running in removed), return_exceptions=True
        )
        return frozenset(
            spec.name
            for running, report in zip(removed, reports, strict=True)
            if isinstance(report, WhyReport) and report.instances
            for spec in running.group.specs
        )

    async def _selectors(self) -> frozenset[Selector]:
        """What those who are there see."""
        try:
            registered = await self.node.clients.ask(ListClients(), REPORT_BOUND)
        except ActorError as error:
            raise ReloadFailed(f"who is registered could not be found out: {error}") from error
        return frozenset(one.client.selector for one in registered)

    async def _shake_hands(self, wanted: Sequence[RunningGroup]) -> None:
        left = iter(wanted)

        async def take_turns() -> list[str]:
            return [fault for running in left if (fault := await _shake_hand(running)) is not None]

        faults = await asyncio.gather(*(take_turns() for _ in range(HANDSHAKE_CONCURRENCY)))
        found = sorted(fault for some in faults for fault in some)
        if found:
            raise ReloadFailed("; ".join(found))

    def _assign(
        self,
        difference: Difference,
        old: Mapping[_GroupKey, RunningGroup],
        fresh: Sequence[RunningGroup],
    ) -> None:
        """The step that cannot fail. Who reads the world from here on sees the new servers, and only them."""
        serving = {_key(running.group): running for running in fresh}
        # Of the node's own keys the one that runs in the instances.
        polls_otherwise = difference.settings.refresh_seconds != self.node.settings.refresh_seconds
        for kept in difference.kept:
            running = old[_key(kept.before)]
            running.group = kept.after
            serving[_key(kept.after)] = running
            if kept.before != kept.after or polls_otherwise:
                running.server.tell(Reconfigure(kept.after, is_edit=kept.is_edit))
        self.groups.assign(serving[_key(group)] for group in enabled_groups(difference.settings))
        servers = with_former(servers_of(self.groups.running), self.node.world.world.servers)
        self.node.world.publish_servers(servers, difference.settings)
        for kind in KINDS:
            self.node.indexes[kind].tell(ServersChanged())
        for door in self.doors:
            door.tell(ServersChanged())
        self.node.clients.tell(ServersChanged())
        self.node.watches.tell(ServersChanged())
        self.learning.tell(Learn())
        # What is not among the groups any more drains: calls in hand go on for as long as their server says.
        self.init.tell(GroupsChanged())


def with_former(
    servers: Mapping[ServerName, Server], before: Mapping[ServerName, Server]
) -> Mapping[ServerName, Server]:
    """Say of each server what it ran before, so that its tools do not vanish while the new ones are learnt."""
    return MappingProxyType(
        {
            name: server
            if (old := before.get(name)) is None
            else replace(server, view=replace(server.view, former=_former(server.view, old.view)))
            for name, server in servers.items()
        }
    )


def _former(view: ServerView, old: ServerView) -> tuple[SpecKey, ...]:
    keys = dict.fromkeys((old.spec_key, *old.former))
    return tuple(key for key in keys if key != view.spec_key)[:FORMER_KEPT]


async def _shake_hand(running: RunningGroup) -> str | None:
    """Have one instance up, and say what went wrong if it does not come up."""
    spec = running.group.specs[0]
    bound = spec.start_timeout_seconds + INSTANCE_STOP_MARGIN
    try:
        await running.server.ask(OperatorStart(), REPORT_BOUND)
        state = await running.server.ask(Settled(with_retries=False), bound)
        if state in _UP:
            return None
        report = await running.server.ask(Why(), REPORT_BOUND)
    except ActorError as error:
        return f"{spec.name}: {error}"
    last = "".join(f"\n  {line}" for line in report.stderr[-5:])
    # It goes away again: there is nothing to retry.
    return f"{spec.name}: {report.reason.removesuffix(RETRY_ADVICE)}{last}"


def _key(group: ServerGroup) -> _GroupKey:
    return group.spec_key, pool_settings(group.specs[0])
