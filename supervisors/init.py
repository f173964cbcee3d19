"""Init: the supervisor of the server types.

Each server type has a group of its own: the supervisor of its instances, then the ServerType. Groups stand
alone: one that gives up is kept as a suspended record and costs the others nothing. Always-on servers are
warmed when Init starts or a group is added, a few at a time, so that a hundred of them do not start at once.

Which groups there are is the composition root's to say, each time Init starts or is told to look again; so a crash
of its own loses none.
It counts nothing: what it says of the servers is what they say of themselves.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from loguru import logger

from mcpv_node.actors.kernel import Cell, Deferred, ExitReason, Handle, LoopActor, Request, answers, handles
from mcpv_node.actors.server_type import ServerState, ServerTypeMessage, Settled, Warm, Why, WhyReport
from mcpv_node.actors.status import InitState, InitStatus, ShowInit, project_init
from mcpv_node.settings import ServerName

from .dynamic import DynamicSupervisor
from .events import EventSink, log_event
from .keeper import ChildCallback
from .messages import (
    AlreadyThere,
    ChildStatus,
    ChildUp,
    NotFound,
    Phase,
    RestartChild,
    RestartOutcome,
    StartChild,
    StartOutcome,
    TerminateChild,
    TerminateOutcome,
)
from .specs import ChildSpec, DynamicSpec, GivingUp

# So many always-on servers are started side by side.
WARM_CONCURRENCY = 4

# A report is made from memory; a server type that takes longer is being restarted (seconds).
REPORT_BOUND = 2.0


@dataclass(frozen=True, slots=True)
class ServerGroupSpec:
    """One server type's group, and what Init has to know of it."""

    child: ChildSpec
    server: Handle[ServerTypeMessage]
    baseline: int  # so many are to be ready without any client; 0: it starts cold
    warm_timeout: float  # seconds after which the next one has its turn, whatever became of this one
    name: ServerName | None = None  # of the server, where that is not the group's
    # What stands in the server's place once the group has given up, and why that was; a retry has it end.
    stand_in: Callable[[ExitReason], LoopActor[None]] | None = None


@dataclass(frozen=True, slots=True)
class AddGroup(Request[StartOutcome]):
    """Start one more group, and warm it if it is always-on; answered once the group has started."""

    group: ServerGroupSpec


@dataclass(frozen=True, slots=True)
class RemoveGroup(Request[TerminateOutcome]):
    """Drain and stop the group of this name, and forget it; answered once it has ended."""

    name: str


@dataclass(frozen=True, slots=True)
class GroupsChanged:
    """Which groups there are to be has changed, or what they are: look again, start and drain what that asks for."""


InitMessage: TypeAlias = AddGroup | RemoveGroup | GroupsChanged | ShowInit


@dataclass(frozen=True, slots=True)
class _GroupUp:
    """Starting a group has come to an end; `asked` by whoever added it."""

    group: ServerGroupSpec
    outcome: StartOutcome | RestartOutcome | Exception
    asked: Deferred[StartOutcome] | None


@dataclass(frozen=True, slots=True)
class _Warmed:
    """One that was told to warm has settled, or has taken too long."""

    outcome: ServerState | Exception


@dataclass(frozen=True, slots=True)
class _Retry:
    """What stood in for a server has ended: somebody wants its group tried again."""

    group_id: str


@dataclass(frozen=True, slots=True)
class _Reported:
    groups: tuple[ServerGroupSpec, ...]
    reports: list[WhyReport | BaseException] | Exception
    asked: Deferred[tuple[InitStatus, ...]]


class Init(DynamicSupervisor):
    """See the module. `groups` says, whenever Init starts or is told to look again, which there are."""

    def __init__(
        self,
        groups: Callable[[], Sequence[ServerGroupSpec]],
        *,
        on_group_gone: ChildCallback | None = None,
        sink: EventSink = log_event,
    ) -> None:
        super().__init__(
            DynamicSpec(giving_up=GivingUp.RECORD),
            on_child_gone=on_group_gone,
            on_child_gave_up=self._stand_in,
            sink=sink,
        )
        self._given_groups = groups
        self._server_groups: dict[str, ServerGroupSpec] = {}
        self._cold: deque[ServerGroupSpec] = deque()
        self._warming = 0
        self._not_up: set[str] = set()  # of the given groups
        self._standing_in: dict[str, Cell] = {}  # by the group that gave up

    def on_start(self, estate: None = None) -> None:
        """Started once the given groups are: whoever comes after us finds the always-on servers starting."""
        groups = self._given_groups()
        self._not_up = {group.child.id for group in groups}
        for group in groups:
            self._start_group(group, None)
        if groups:
            self.hold_start()

    # --- groups that come and go ----------------------------------------------------------------

    @answers(AddGroup)
    def _on_add_group(self, request: AddGroup) -> StartOutcome | Deferred[StartOutcome]:
        child = next((child for child in self.children() if child.id == request.group.child.id), None)
        if child is not None:
            return AlreadyThere(child.id, child.phase)
        deferred: Deferred[StartOutcome] = self.defer()
        self._start_group(request.group, deferred)
        return deferred

    def _start_group(self, group: ServerGroupSpec, asked: Deferred[StartOutcome] | None) -> None:
        """Start it, and go on when it is there: until then, after a crash of ours, nobody reads what it is told."""
        self._server_groups[group.child.id] = group
        myself: Handle[StartChild] = Handle(self.cell)
        self.run(
            myself.ask(StartChild(group.child), group.warm_timeout),
            lambda outcome: _GroupUp(group, outcome, asked),
        )

    @handles(_GroupUp)
    def _on_group_up(self, message: _GroupUp) -> None:
        group, outcome, asked = message.group, message.outcome, message.asked
        if group.child.id not in self._server_groups:
            self._on_terminate_child(TerminateChild(group.child.id))  # removed before it was there
        if isinstance(outcome, Exception):
            logger.bind(server=group.child.id).warning("its group is not up: {}", outcome)
            if asked is not None:
                asked.fail(outcome)
        elif asked is not None and not isinstance(outcome, NotFound):
            asked.answer(outcome)
        known = self._server_groups.get(group.child.id)
        if known is not None and known.baseline and isinstance(outcome, ChildUp):
            self._cold.append(group)
            self._warm_some()
        if group.child.id in self._not_up:
            self._not_up.discard(group.child.id)
            if not self._not_up:
                self.started()

    @answers(RemoveGroup)
    def _on_remove_group(self, request: RemoveGroup) -> TerminateOutcome | Deferred[TerminateOutcome]:
        self._server_groups.pop(request.name, None)
        self._dismiss(request.name)
        self._cold = deque(group for group in self._cold if group.child.id != request.name)
        return self._on_terminate_child(TerminateChild(request.name))

    @handles(GroupsChanged)
    def _on_groups_changed(self, _message: GroupsChanged) -> None:
        groups = {group.child.id: group for group in self._given_groups()}
        for child in self.children():
            if child.id not in groups and child.phase is not Phase.STOPPING:
                self._on_remove_group(RemoveGroup(child.id))
        for group in groups.values():
            known = self._server_groups.get(group.child.id)
            if known is None:
                self._start_group(group, None)
            else:
                self._update_group(known, group)

    def _update_group(self, known: ServerGroupSpec, group: ServerGroupSpec) -> None:
        """Its actors go on; what Init has to know of it may be another."""
        changed = replace(group, child=known.child)
        self._server_groups[known.child.id] = changed
        if changed.baseline and not known.baseline:
            self._cold.append(changed)
            self._warm_some()

    # --- groups that have given up --------------------------------------------------------------

    def _stand_in(self, group_id: str, reason: ExitReason) -> None:
        """Have the server's handle refuse with the reason, which nobody else knows."""
        group = self._server_groups.get(group_id)
        if group is None or group.stand_in is None or self._is_ending or group.server.is_alive():
            return
        cell = self._standing_in[group_id] = group.server.cell
        cell.on_started = None
        cell.on_ended = lambda _incarnation, _reason: self.note(_Retry(group_id))
        cell.start(group.stand_in(reason))

    @handles(_Retry)
    def _on_retry(self, message: _Retry) -> None:
        """Its place is free again: start the group anew, and warm it if it is always-on."""
        if self._standing_in.pop(message.group_id, None) is None:
            return
        myself: Handle[RestartChild] = Handle(self.cell)
        group = self._server_groups[message.group_id]
        self.run(
            myself.ask(RestartChild(message.group_id), group.warm_timeout),
            lambda outcome: _GroupUp(group, outcome, None),
        )

    def _dismiss(self, group_id: str) -> None:
        """Nothing stands in for this server any more."""
        cell = self._standing_in.pop(group_id, None)
        if cell is not None:
            cell.on_ended = None  # so that the cell closes with it
            cell.kill("its group is not to be there any more")

    def on_exit(self, reason: ExitReason) -> None:
        for group_id in list(self._standing_in):
            self._dismiss(group_id)
        super().on_exit(reason)

    # --- warming --------------------------------------------------------------------------------

    def _warm_some(self) -> None:
        while self._cold and self._warming < WARM_CONCURRENCY:
            group = self._cold.popleft()
            self._warming += 1
            group.server.tell(Warm())
            # One that backs off has had its turn: it will try again by itself.
            self.run(group.server.ask(Settled(with_retries=False), group.warm_timeout), _Warmed)

    @handles(_Warmed)
    def _on_warmed(self, _message: _Warmed) -> None:
        self._warming -= 1
        self._warm_some()

    # --- the status -----------------------------------------------------------------------------

    @answers(ShowInit)
    def _on_show(self, _request: ShowInit) -> Deferred[tuple[InitStatus, ...]]:
        deferred: Deferred[tuple[InitStatus, ...]] = self.defer()
        groups = tuple(self._server_groups.values())
        self.run(_ask_why(groups), lambda reports: _Reported(groups, reports, deferred))
        return deferred

    @handles(_Reported)
    def _on_reported(self, message: _Reported) -> None:
        if isinstance(message.reports, Exception):
            message.asked.fail(message.reports)
            return
        children = {child.id: child for child in self.children()}
        message.asked.answer(
            tuple(
                project_init(report, baseline=group.baseline)
                if isinstance(report, WhyReport)
                else without_report(group, children.get(group.child.id), report)
                for group, report in zip(message.groups, message.reports, strict=True)
            )
        )


async def _ask_why(groups: Sequence[ServerGroupSpec]) -> list[WhyReport | BaseException]:
    asks = (group.server.ask(Why(), REPORT_BOUND) for group in groups)
    return await asyncio.gather(*asks, return_exceptions=True)


def without_report(group: ServerGroupSpec, child: ChildStatus | None, why: BaseException) -> InitStatus:
    """Say of a group whose server type does not answer: it has given up, or is being restarted."""
    has_given_up = child is not None and child.phase is Phase.SUSPENDED
    return InitStatus(
        name=group.name or ServerName(group.child.id),
        state=InitState.SUSPENDED if has_given_up else InitState.PENDING,
        reason=f"its group gave up: {child.last_exit}" if child is not None and has_given_up else str(why),
        ready=0,
        target=group.baseline,
        retries=0 if child is None else child.restarts,
        next_try_at=None,
    )
