"""A supervisor: it starts its children in order, restarts those that fail, and stops them in reverse.

It has started once all of its children have; a child that cannot be started fails it. When restarting does not
cure a child, it stops the others and ends as crashed, which leaves the decision to its own supervisor.
"""

from __future__ import annotations

from random import Random
from typing import Any

from mcpv_node.actors.kernel import ExitReason, Handle

from .decisions import Begin, Child, GiveUp, Group, Input, StopAll, decide
from .errors import SpecError
from .events import EventSink, SupervisorGaveUp, log_event
from .keeper import ChildKeeper
from .messages import ChildStatus
from .specs import ChildKind, ChildSpec, Restart, SupervisorSpec, check_significant


class Supervisor(ChildKeeper):
    """See the module. Asked in messages: WhichChildren, CountChildren, StartChild and its siblings."""

    def __init__(
        self, spec: SupervisorSpec, *, sink: EventSink = log_event, rng: Random | None = None
    ) -> None:
        super().__init__(sink=sink, rng=rng)
        self._spec = spec
        self._group = Group("not started")

    def on_start(self, estate: None = None) -> None:
        self.hold_start()
        now = self._now()
        self._group = Group(
            name=self.cell.name,
            children=tuple(
                Child(
                    spec,
                    spec.restart or self._default_restart(),
                    incarnation=self._place(spec).cell.incarnation,
                    since=now,
                )
                for spec in self._spec.children
            ),
            strategy=self._spec.strategy,
            window=self._spec.window,
            auto_shutdown=self._spec.auto_shutdown,
        )
        self._consult(Begin())

    def on_shutdown(self) -> None:
        self._consult(StopAll())

    def children(self) -> tuple[ChildStatus, ...]:
        return tuple(self._status(child) for child in self._group.children)

    def _consult(self, heard: Input) -> None:
        self._group, actions = decide(self._group, heard, now=self._now(), rng=self._rng)
        self._perform_all(actions)

    def _on_give_up(self, action: GiveUp) -> None:
        self._tell_sink(SupervisorGaveUp(self.cell.name, action.id, action.incarnation, action.reason))

    def _on_finish(self, reason: ExitReason) -> None:
        self.exit(reason)

    def _has(self, child_id: str) -> bool:
        return any(child.id == child_id for child in self._group.children)

    def _default_restart(self) -> Restart:
        return Restart.PERMANENT

    def _refusal(self, spec: ChildSpec) -> str | None:
        try:
            check_significant(spec, self._spec.auto_shutdown)
        except SpecError as error:
            return str(error)
        return None


def supervisor_child(
    child_id: str,
    spec: SupervisorSpec,
    *,
    handle: Handle[Any] | None = None,
    restart: Restart | None = None,
    sink: EventSink = log_event,
) -> ChildSpec:
    """The child spec of a supervisor under a supervisor: no bound but those of its own children."""
    return ChildSpec(
        id=child_id,
        start=lambda: Supervisor(spec, sink=sink),
        handle=handle,
        restart=restart,
        grace=None,
        start_timeout=None,
        kind=ChildKind.SUPERVISOR,
    )
