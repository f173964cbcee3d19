"""What every supervisor does, whatever it decides: it fills cells, hears of their ends, and performs actions.

A keeper hears of its children through the callbacks of their cells, as messages to itself; such a message is
never refused for want of room, and one meant for an earlier incarnation of the keeper is dropped.
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Any, assert_never

from loguru import logger
from msgspec import Struct

from mcpv_node.actors.kernel import (
    Cell,
    Crashed,
    Deferred,
    ExitReason,
    Handle,
    LoopActor,
    ThreadActor,
    Timer,
    answers,
    handles,
)

from .decisions import (
    Action,
    Add,
    Arm,
    BecomeStarted,
    Child,
    Close,
    Delete,
    Disarm,
    Exited,
    Finish,
    Forget,
    GiveUp,
    Input,
    Kill,
    Reply,
    ReplyUp,
    Report,
    Start,
    StartAgain,
    Started,
    Stop,
    Terminate,
)
from .events import ChildDidNotStop, EventSink, SupervisionEvent, log_event
from .messages import (
    ChildCounts,
    ChildStatus,
    ChildUp,
    CountChildren,
    DeleteChild,
    DeleteOutcome,
    Refused,
    RestartChild,
    RestartOutcome,
    StartChild,
    StartOutcome,
    TerminateChild,
    TerminateOutcome,
    WhichChildren,
)
from .specs import ChildKind, ChildSpec, Restart

# Called on the loop's thread with a child's id and why it ended; what it raises is logged and goes no further.
ChildCallback = Callable[[str, ExitReason], object]


class _Heard(Struct, frozen=True):
    """An input, for the incarnation of the keeper that it is about."""

    keeper: int
    heard: Input


@dataclass(slots=True)
class _Place:
    """One child as the keeper handles it: its spec, its handle, its timer."""

    spec: ChildSpec
    handle: Handle[Any]
    timer: Timer | None = None
    # The incarnation in the cell is ours: a cell may come from outside, and somebody else may fill it.
    filled: int | None = None

    @property
    def cell(self) -> Cell:
        return self.handle.cell


class ChildKeeper(LoopActor[Any]):
    """See the module. `Supervisor` and `DynamicSupervisor` say what is decided."""

    def __init__(self, *, sink: EventSink = log_event, rng: Random | None = None) -> None:
        super().__init__()
        self._sink = sink
        self._rng = rng or Random()
        self._places: dict[str, _Place] = {}
        self._asks: dict[int, Deferred[Any]] = {}
        self._ask_numbers = itertools.count(1)

    # --- what the two kinds decide --------------------------------------------------------------

    @abc.abstractmethod
    def children(self) -> tuple[ChildStatus, ...]:
        """Every child in start order. On the loop's thread only."""

    @abc.abstractmethod
    def _consult(self, heard: Input) -> None:
        """Decide about `heard` and perform what follows."""

    @abc.abstractmethod
    def _on_give_up(self, action: GiveUp) -> None:
        """Restarting does not cure a child."""

    @abc.abstractmethod
    def _on_finish(self, reason: ExitReason) -> None:
        """All children have ended, and the keeper is to end with this reason."""

    @abc.abstractmethod
    def _has(self, child_id: str) -> bool:
        """Whether there is a child with this id."""

    @abc.abstractmethod
    def _default_restart(self) -> Restart:
        """What a child spec that says nothing means."""

    @abc.abstractmethod
    def _refusal(self, spec: ChildSpec) -> str | None:
        """Why this spec cannot be added, whatever the children are at the moment."""

    def _closed(self, child_id: str, reason: ExitReason) -> None:
        """A child has ended for good."""

    # --- requests -------------------------------------------------------------------------------

    @answers(WhichChildren)
    def _on_which_children(self, request: WhichChildren) -> tuple[ChildStatus, ...]:
        return self.children()

    @answers(CountChildren)
    def _on_count_children(self, request: CountChildren) -> ChildCounts:
        children = self.children()
        supervisors = sum(child.kind is ChildKind.SUPERVISOR for child in children)
        return ChildCounts(
            specs=len(children),
            active=sum(child.handle.is_alive() for child in children),
            workers=len(children) - supervisors,
            supervisors=supervisors,
        )

    @answers(StartChild)
    def _on_start_child(self, request: StartChild) -> StartOutcome | Deferred[StartOutcome]:
        spec = request.spec
        refusal = self._refusal(spec)
        if refusal is not None:
            return Refused(spec.id, refusal)
        deferred, ask = self._await_reply()
        is_new = not self._has(spec.id)
        place = self._place(spec) if is_new else self._places[spec.id]
        restart = spec.restart or self._default_restart()
        self._consult(Add(spec, restart, place.cell.incarnation, ask))
        if is_new and not self._has(spec.id):
            self._places.pop(spec.id, None)  # it was refused
        return deferred

    @answers(TerminateChild)
    def _on_terminate_child(self, request: TerminateChild) -> TerminateOutcome | Deferred[TerminateOutcome]:
        deferred, ask = self._await_reply()
        self._consult(Terminate(request.id, ask))
        return deferred

    @answers(RestartChild)
    def _on_restart_child(self, request: RestartChild) -> RestartOutcome | Deferred[RestartOutcome]:
        deferred, ask = self._await_reply()
        self._consult(StartAgain(request.id, ask))
        return deferred

    @answers(DeleteChild)
    def _on_delete_child(self, request: DeleteChild) -> DeleteOutcome | Deferred[DeleteOutcome]:
        deferred, ask = self._await_reply()
        self._consult(Delete(request.id, ask))
        return deferred

    @handles(_Heard)
    def _on_heard(self, message: _Heard) -> None:
        if message.keeper == self.incarnation:
            self._consult(message.heard)

    def on_exit(self, reason: ExitReason) -> None:
        """Whatever ended this keeper, it leaves no orphan."""
        for place in reversed(self._places.values()):
            if place.filled is not None:
                place.filled = None
                place.cell.on_started = place.cell.on_ended = None
                self._kill(place, f"its supervisor ended: {reason}")
            if place.cell.actor is None:
                place.cell.close(reason)

    # --- performing -----------------------------------------------------------------------------

    def _perform_all(self, actions: Iterable[Action]) -> None:
        for action in actions:
            self._perform(action)

    def _perform(self, action: Action) -> None:
        match action:
            case Report():
                self._tell_sink(action.event)
            case Disarm():
                self._disarm(self._places[action.id])
            case Start():
                self._start(self._places[action.id], action.incarnation)
            case Arm():
                place = self._places[action.due.id]
                place.timer = self.after(action.delay, _Heard(self.incarnation, action.due))
            case Stop():
                self._places[action.id].cell.stop()
            case Kill():
                self._kill(self._places[action.id], action.why)
            case Close():
                self._close(self._places[action.id], action.reason)
            case Forget():
                del self._places[action.id]
            case Reply():
                self._asks.pop(action.ask).answer(action.outcome)
            case ReplyUp():
                handle = self._places[action.id].handle
                self._asks.pop(action.ask).answer(ChildUp(action.id, action.incarnation, handle))
            case BecomeStarted():
                self.started()
            case GiveUp():
                self._on_give_up(action)
            case Finish():
                self._on_finish(action.reason)
            case _:
                assert_never(action)

    def _start(self, place: _Place, incarnation: int) -> None:
        child_id, cell = place.spec.id, place.cell
        if cell.actor is not None:
            self._tell_self(Exited(child_id, incarnation, Crashed(f"{cell.name} is filled by somebody else")))
            return
        try:
            actor = place.spec.start()
        except Exception as error:  # noqa: BLE001  (a spec's function is foreign; its failure is a failed start)
            logger.bind(supervisor=self.cell.name, child=child_id).opt(exception=error).error(
                "{} could not be made", cell.name
            )
            self._tell_self(Exited(child_id, incarnation, Crashed(repr(error))))
            return
        place.filled = incarnation
        cell.on_started = partial(self._hear_started, child_id, incarnation)
        cell.on_ended = partial(self._hear_ended, place, incarnation)
        cell.start(actor)

    def _hear_started(self, child_id: str, incarnation: int, _: int) -> None:
        self._tell_self(Started(child_id, incarnation))

    def _hear_ended(self, place: _Place, incarnation: int, _: int, reason: ExitReason) -> None:
        place.filled = None
        self._tell_self(Exited(place.spec.id, incarnation, reason))

    def _kill(self, place: _Place, why: str) -> None:
        cell = place.cell
        actor = cell.actor
        cell.kill(why)
        if isinstance(actor, ThreadActor) and actor.is_abandoned():
            self._tell_sink(
                ChildDidNotStop(self.cell.name, place.spec.id, actor.incarnation, type(actor).__name__)
            )

    def _close(self, place: _Place, reason: ExitReason) -> None:
        if place.cell.actor is None:
            place.cell.close(reason)
        self._closed(place.spec.id, reason)

    def _disarm(self, place: _Place) -> None:
        if place.timer is not None:
            place.timer.cancel()
            place.timer = None

    # --- small steps ----------------------------------------------------------------------------

    def _place(self, spec: ChildSpec) -> _Place:
        if spec.handle is not None:
            handle = spec.handle
        else:
            handle = Handle[Any].create(self.cell.system, f"{self.cell.name}.{spec.id}")
        place = self._places[spec.id] = _Place(spec, handle)
        return place

    def _await_reply(self) -> tuple[Deferred[Any], int]:
        ask = next(self._ask_numbers)
        deferred = self._asks[ask] = self.defer()
        return deferred, ask

    def _tell_self(self, heard: Input) -> None:
        self.note(_Heard(self.incarnation, heard))

    def _tell_sink(self, event: SupervisionEvent) -> None:
        try:
            self._sink(event)
        except Exception as error:  # noqa: BLE001  (a foreign callback must not end the tree)
            logger.bind(supervisor=self.cell.name).opt(exception=error).error("the event sink failed")

    def _call(self, callback: ChildCallback | None, child_id: str, reason: ExitReason) -> None:
        if callback is None:
            return
        try:
            callback(child_id, reason)
        except Exception as error:  # noqa: BLE001  (a foreign callback must not end the tree)
            logger.bind(supervisor=self.cell.name, child=child_id).opt(exception=error).error(
                "the callback of {} failed", self.cell.name
            )

    def _now(self) -> float:
        return self.cell.system.clock.monotonic()

    def _status(self, child: Child) -> ChildStatus:
        return ChildStatus(
            id=child.id,
            kind=child.spec.kind,
            phase=child.phase,
            incarnation=child.incarnation,
            restarts=child.restarts,
            since=child.since,
            handle=self._places[child.id].handle,
            last_exit=child.last_exit,
            retry_at=child.retry_at,
        )
