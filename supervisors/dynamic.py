"""A supervisor whose children are added while it runs, thousands of them, each standing alone.

A child is temporary unless its spec says otherwise, its id is unique, and it is forgotten once it has ended for
good. All children are stopped at once. To the decisions, each child is a group of one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any

from msgspec import structs

from mcpv_node.actors.kernel import Crashed, ExitReason, Handle, Shutdown

from .decisions import (
    Action,
    Add,
    Begin,
    Child,
    Delete,
    Exited,
    GiveUp,
    Group,
    Input,
    Mode,
    Reply,
    StartAgain,
    StopAll,
    Terminate,
    decide,
    is_failure,
)
from .events import ChildGaveUp, EventSink, SupervisorGaveUp, log_event
from .keeper import ChildCallback, ChildKeeper
from .messages import AlreadyThere, ChildStatus, Deleted, NotFound, Phase, Refused, Terminated
from .specs import ChildKind, ChildSpec, DynamicSpec, GivingUp, Restart


class DynamicSupervisor(ChildKeeper):
    """See the module.

    `on_child_gone` hears of every child that has ended and will not be started again, also of one whose start
    failed; `on_child_gave_up` of every child that is kept as a suspended record instead, until RestartChild
    starts it again or DeleteChild drops the record.
    """

    def __init__(
        self,
        spec: DynamicSpec | None = None,
        *,
        on_child_gone: ChildCallback | None = None,
        on_child_gave_up: ChildCallback | None = None,
        sink: EventSink = log_event,
        rng: Random | None = None,
    ) -> None:
        super().__init__(sink=sink, rng=rng)
        self._spec = spec or DynamicSpec()
        self._on_child_gone = on_child_gone
        self._on_child_gave_up = on_child_gave_up
        self._groups: dict[str, Group] = {}
        self._records: dict[str, _Record] = {}
        self._restarts: tuple[float, ...] = ()
        self._ending: ExitReason | None = None
        # Children about to become records: their end is a giving up, not a going.
        self._giving_up: set[str] = set()

    def on_shutdown(self) -> None:
        self._stop_all(Shutdown())

    @property
    def _is_ending(self) -> bool:
        return self._ending is not None

    def children(self) -> tuple[ChildStatus, ...]:
        live = (self._status(group.children[0]) for group in self._groups.values())
        return (*live, *(record.status for record in self._records.values()))

    # --- deciding -------------------------------------------------------------------------------

    def _consult(self, heard: Input) -> None:
        match heard:
            case Begin() | StopAll():
                self._stop_all(Shutdown())
            case Add():
                self._add(heard)
            case Terminate() | StartAgain() | Delete():
                self._asked_about(heard)
            case _:
                self._decide(heard.id, heard)

    def _decide(self, child_id: str, heard: Input) -> None:
        """Let the group of one decide; a child that is not there any more has nothing to say."""
        before = self._groups.get(child_id)
        if before is None:
            return
        if self._counts_together():
            before = structs.replace(before, restarts=self._restarts)
        after, actions = decide(before, heard, now=self._now(), rng=self._rng)
        if self._counts_together():
            self._restarts = after.restarts
        self._groups[child_id] = after
        record = self._foresee_record(before, after, heard, gave_up=_has_given_up(actions))
        self._perform_all(actions)
        self._tidy(child_id, after, record)

    def _add(self, add: Add) -> None:
        child_id = add.spec.id
        there = self._groups.get(child_id)
        limit = self._spec.max_children
        if self._ending is not None:
            self._perform(Reply(add.ask, Refused(child_id, f"{self.cell.name} is stopping")))
        elif there is not None:
            self._perform(Reply(add.ask, AlreadyThere(child_id, there.children[0].phase)))
        elif child_id in self._records:
            self._perform(Reply(add.ask, AlreadyThere(child_id, Phase.SUSPENDED)))
        elif limit is not None and len(self._groups) >= limit:
            self._perform(Reply(add.ask, Refused(child_id, f"{self.cell.name} has {limit} children already")))
        else:
            self._groups[child_id] = Group(self.cell.name, window=self._spec.window, mode=Mode.RUNNING)
            self._decide(child_id, add)

    def _asked_about(self, request: Terminate | StartAgain | Delete) -> None:
        record = self._records.get(request.id)
        if record is None and request.id not in self._groups:
            self._perform(Reply(request.ask, NotFound(request.id)))
            return
        if record is None:
            self._decide(request.id, request)
            return
        match request:
            case StartAgain():
                self._revive(record, request.ask)
            case Terminate():
                self._drop(record)
                self._perform(Reply(request.ask, Terminated(request.id)))
            case Delete():
                self._drop(record)
                self._perform(Reply(request.ask, Deleted(request.id)))

    def _revive(self, record: _Record, ask: int) -> None:
        """Start a suspended child again, with its restarts forgiven."""
        del self._records[record.spec.id]
        place = self._place(record.spec)
        self._consult(Add(record.spec, record.restart, place.cell.incarnation, ask))
        if record.spec.id not in self._groups and record.spec.id not in self._records:
            self._places.pop(record.spec.id, None)
            self._records[record.spec.id] = record

    def _drop(self, record: _Record) -> None:
        del self._records[record.spec.id]
        self._call(self._on_child_gone, record.spec.id, record.status.last_exit or Shutdown())

    # --- what a decision leads to ---------------------------------------------------------------

    def _foresee_record(self, before: Group, after: Group, heard: Input, *, gave_up: bool) -> _Record | None:
        """The record that will stand for the child, if this decision suspends it."""
        if self._spec.giving_up is not GivingUp.RECORD or not isinstance(heard, Exited):
            return None
        if not before.children:
            return None
        child = before.children[0]
        has_failed_trial = (
            child.on_trial
            and child.wanted
            and not after.children
            and child.restart is not Restart.TEMPORARY
            and is_failure(heard.reason)
        )
        if not gave_up and not has_failed_trial:
            return None
        self._giving_up.add(child.id)
        handle = self._places[child.id].handle
        status = replace(
            self._status(child),
            phase=Phase.SUSPENDED,
            since=self._now(),
            last_exit=heard.reason,
            retry_at=None,
        )
        return _Record(replace(child.spec, handle=handle), child.restart, status)

    def _tidy(self, child_id: str, group: Group, record: _Record | None) -> None:
        """Forget a child that has ended for good, or keep its record; end after the last one."""
        if not group.children or _is_over(group.children[0]):
            del self._groups[child_id]
            self._places.pop(child_id, None)
        if record is not None:
            self._giving_up.discard(child_id)
            self._records[child_id] = record
            self._tell_sink(
                ChildGaveUp(
                    self.cell.name, child_id, record.status.incarnation, record.status.last_exit or Shutdown()
                )
            )
            self._call(self._on_child_gave_up, child_id, record.status.last_exit or Shutdown())
        elif isinstance(group.ending, Crashed):
            self._stop_all(group.ending)
        self._end_if_empty()

    def _stop_all(self, reason: ExitReason) -> None:
        """Ask every child at once; the first reason stands."""
        if self._ending is not None:
            return
        self._ending = reason
        for child_id in reversed(list(self._groups)):
            self._decide(child_id, StopAll())
        self._end_if_empty()

    def _end_if_empty(self) -> None:
        if self._ending is not None and not self._groups:
            self.exit(self._ending)

    def _on_give_up(self, action: GiveUp) -> None:
        if self._counts_together():
            self._tell_sink(SupervisorGaveUp(self.cell.name, action.id, action.incarnation, action.reason))

    def _on_finish(self, reason: ExitReason) -> None:
        """One group of one is over; `_tidy` sees to the rest."""

    def _closed(self, child_id: str, reason: ExitReason) -> None:
        if child_id not in self._giving_up:
            self._call(self._on_child_gone, child_id, reason)

    def _counts_together(self) -> bool:
        return self._spec.giving_up is GivingUp.ESCALATE

    def _has(self, child_id: str) -> bool:
        return child_id in self._groups

    def _default_restart(self) -> Restart:
        return Restart.TEMPORARY

    def _refusal(self, spec: ChildSpec) -> str | None:
        return "significant, under a dynamic supervisor" if spec.significant else None


@dataclass(frozen=True, slots=True)
class _Record:
    """What stays of a child that gave up; the spec has the handle that others may hold."""

    spec: ChildSpec
    restart: Restart
    status: ChildStatus


def dynamic_child(
    child_id: str,
    spec: DynamicSpec | None = None,
    *,
    handle: Handle[Any] | None = None,
    restart: Restart | None = None,
    on_child_gone: ChildCallback | None = None,
    on_child_gave_up: ChildCallback | None = None,
    sink: EventSink = log_event,
) -> ChildSpec:
    """The child spec of a dynamic supervisor under a supervisor."""
    return ChildSpec(
        id=child_id,
        start=lambda: DynamicSupervisor(
            spec, on_child_gone=on_child_gone, on_child_gave_up=on_child_gave_up, sink=sink
        ),
        handle=handle,
        restart=restart,
        grace=None,
        start_timeout=None,
        kind=ChildKind.SUPERVISOR,
    )


def _is_over(child: Child) -> bool:
    return child.phase is Phase.STOPPED and not child.wanted


def _has_given_up(actions: tuple[Action, ...]) -> bool:
    return any(isinstance(action, GiveUp) for action in actions)
