"""What a supervisor does about what it hears: the decision, apart from the act.

Pure: `decide` takes a group of children, one input and the time, and returns the next group and the actions
to perform, in order. It is level-triggered: an input changes what is known or wanted of a child, and then
whatever stands between the children and what is wanted of them is stopped or started next.

An input about an incarnation that is no longer the current one, or in a phase where it means nothing, is late
or a duplicate; it changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from random import Random
from typing import Any, TypeAlias, assert_never

from msgspec import Struct, field
from msgspec.structs import replace

from mcpv_node.actors.kernel import Crashed, ExitReason, Killed, Normal, Shutdown

from .events import ChildExited, ChildKilled, ChildRestarting, ChildStarted, SupervisionEvent
from .messages import (
    AlreadyThere,
    Deleted,
    DeleteOutcome,
    NotFound,
    Phase,
    Refused,
    RestartOutcome,
    StartFailed,
    StartOutcome,
    Terminated,
    TerminateOutcome,
)
from .specs import AutoShutdown, ChildSpec, Restart, Strategy
from .window import RestartWindow

# --- what is known ----------------------------------------------------------------------------------

LIVE = frozenset({Phase.STARTING, Phase.RUNNING, Phase.STOPPING})


class Mode(StrEnum):
    """Where a supervisor stands."""

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    ENDED = "ended"


class Child(Struct, frozen=True):
    """One child at one moment."""

    spec: ChildSpec
    restart: Restart
    phase: Phase = Phase.STOPPED
    incarnation: int = 0
    # Whether it is to run: what is and what is wanted meet in `_Turn.advance`.
    wanted: bool = True
    # It lives, and has to end first, because a sibling's failure takes it along.
    recycled: bool = False
    # It was added at run time and has not started yet: if it fails, it is forgotten.
    on_trial: bool = False
    # Who waits for its start, and who for its end. A start that somebody waits for is not retried.
    start_asks: tuple[int, ...] = ()
    stop_asks: tuple[int, ...] = ()
    restarts: int = 0
    failures: int = 0  # in a row
    since: float = 0.0
    running_since: float | None = None
    retry_at: float | None = None
    last_exit: ExitReason | None = None

    @property
    def id(self) -> str:
        return self.spec.id

    @property
    def is_live(self) -> bool:
        return self.phase in LIVE

    @property
    def must_stop(self) -> bool:
        return self.is_live and (self.recycled or not self.wanted)

    @property
    def may_start(self) -> bool:
        return self.phase is Phase.STOPPED and self.wanted


class Group(Struct, frozen=True):
    """A supervisor's children, in start order, and the rules they live by."""

    name: str
    children: tuple[Child, ...] = ()
    strategy: Strategy = Strategy.ONE_FOR_ONE
    window: RestartWindow = field(default_factory=RestartWindow)
    auto_shutdown: AutoShutdown = AutoShutdown.NEVER
    mode: Mode = Mode.NEW
    # When it restarted, as far as the window still counts it.
    restarts: tuple[float, ...] = ()
    # Why it ends, once it does.
    ending: ExitReason | None = None


# --- what is heard ----------------------------------------------------------------------------------


class Begin(Struct, frozen=True):
    """Start the children."""


class Started(Struct, frozen=True):
    id: str
    incarnation: int


class Exited(Struct, frozen=True):
    id: str
    incarnation: int
    reason: ExitReason


class StartTimedOut(Struct, frozen=True):
    id: str
    incarnation: int


class GraceExpired(Struct, frozen=True):
    id: str
    incarnation: int


class RetryDue(Struct, frozen=True):
    id: str
    incarnation: int


# `ask` is the number under which the asker waits for its reply.


class Add(Struct, frozen=True):
    spec: ChildSpec
    restart: Restart
    incarnation: int
    ask: int


class Terminate(Struct, frozen=True):
    id: str
    ask: int


class StartAgain(Struct, frozen=True):
    id: str
    ask: int


class Delete(Struct, frozen=True):
    id: str
    ask: int


class StopAll(Struct, frozen=True):
    """Stop the children, then end."""


Due: TypeAlias = StartTimedOut | GraceExpired | RetryDue
Input: TypeAlias = Begin | Started | Exited | Due | Add | Terminate | StartAgain | Delete | StopAll


# --- what is to be done -----------------------------------------------------------------------------


class Start(Struct, frozen=True):
    """Make this incarnation and start it."""

    id: str
    incarnation: int


class Stop(Struct, frozen=True):
    id: str


class Kill(Struct, frozen=True):
    id: str
    why: str


class Arm(Struct, frozen=True):
    """Hear `due` in `delay` seconds. A child has one timer at most."""

    due: Due
    delay: float


class Disarm(Struct, frozen=True):
    id: str


class Close(Struct, frozen=True):
    """No incarnation will follow, for all one knows: refuse what waits for the child."""

    id: str
    reason: ExitReason


class Forget(Struct, frozen=True):
    id: str


class Report(Struct, frozen=True):
    event: SupervisionEvent


class Reply(Struct, frozen=True):
    ask: int
    outcome: StartOutcome | RestartOutcome | TerminateOutcome | DeleteOutcome


class ReplyUp(Struct, frozen=True):
    """The child that was asked for has started."""

    ask: int
    id: str
    incarnation: int


class BecomeStarted(Struct, frozen=True):
    """Every child has started, and so has the supervisor."""


class GiveUp(Struct, frozen=True):
    """Restarting does not cure this child; the group is being stopped."""

    id: str
    incarnation: int
    reason: ExitReason


class Finish(Struct, frozen=True):
    """No child is left; end."""

    reason: ExitReason


Action: TypeAlias = (
    Start
    | Stop
    | Kill
    | Arm
    | Disarm
    | Close
    | Forget
    | Report
    | Reply
    | ReplyUp
    | BecomeStarted
    | GiveUp
    | Finish
)


# --- the decisions ----------------------------------------------------------------------------------


def decide_restart(restart: Restart, reason: ExitReason) -> bool:
    """The restart table: whether a child that ended by itself is started again."""
    match restart:
        case Restart.PERMANENT:
            return True
        case Restart.TRANSIENT:
            return is_failure(reason)
        case Restart.TEMPORARY:
            return False
        case _:
            assert_never(restart)


def is_failure(reason: ExitReason) -> bool:
    """Whether an actor that ended for `reason` met something it did not expect."""
    match reason:
        case Normal() | Shutdown():
            return False
        case Crashed() | Killed():
            return True
        case _:
            assert_never(reason)


def decide(group: Group, heard: Input, *, now: float, rng: Random) -> tuple[Group, tuple[Action, ...]]:
    """Take one input and say what follows from it. `rng` is for the jitter of delays alone."""
    turn = _Turn(group, now=now, rng=rng)
    turn.take(heard)
    turn.advance()
    return turn.result()


class _Turn:
    """One decision in the making: the children as they become, the actions as they are decided."""

    def __init__(self, group: Group, *, now: float, rng: Random) -> None:
        self._group = group
        self._now = now
        self._rng = rng
        self._children = {child.id: child for child in group.children}
        self._mode = group.mode
        self._restarts = group.restarts
        self._ending = group.ending
        self._actions: list[Action] = []

    def result(self) -> tuple[Group, tuple[Action, ...]]:
        group = replace(
            self._group,
            children=tuple(self._children.values()),
            mode=self._mode,
            restarts=self._restarts,
            ending=self._ending,
        )
        return group, tuple(self._actions)

    # --- what an input changes ------------------------------------------------------------------

    def take(self, heard: Input) -> None:
        match heard:
            case Begin():
                if self._mode is Mode.NEW:
                    self._mode = Mode.STARTING
            case Started():
                child = self._current(heard.id, heard.incarnation, Phase.STARTING)
                if child is not None:
                    self._on_started(child)
            case Exited():
                child = self._current(heard.id, heard.incarnation, *LIVE)
                if child is not None:
                    self._on_exited(child, heard.reason)
            case StartTimedOut():
                child = self._current(heard.id, heard.incarnation, Phase.STARTING)
                if child is not None:
                    self._kill(child, f"did not start within {child.spec.start_timeout:g} s")
            case GraceExpired():
                child = self._current(heard.id, heard.incarnation, Phase.STOPPING)
                if child is not None:
                    self._kill(child, f"did not stop within {child.spec.grace_now():g} s")
            case RetryDue():
                child = self._current(heard.id, heard.incarnation, Phase.BACKING_OFF)
                if child is not None:
                    self._enter(child, Phase.STOPPED, retry_at=None)
            case Add():
                self._on_add(heard)
            case Terminate():
                self._on_terminate(heard)
            case StartAgain():
                self._on_start_again(heard)
            case Delete():
                self._on_delete(heard)
            case StopAll():
                self._shut(Shutdown())
            case _:
                assert_never(heard)

    def _on_started(self, child: Child) -> None:
        self._do(Disarm(child.id))
        self._report(ChildStarted, child)
        for ask in child.start_asks:
            self._do(ReplyUp(ask, child.id, child.incarnation))
        self._enter(child, Phase.RUNNING, running_since=self._now, start_asks=(), on_trial=False)

    def _on_exited(self, child: Child, reason: ExitReason) -> None:
        asked = child.phase is Phase.STOPPING
        was_starting = child.phase is Phase.STARTING
        self._do(Disarm(child.id))
        self._report(ChildExited, child, reason=reason, asked=asked)
        child = self._enter(child, Phase.STOPPED, last_exit=reason)
        if not child.wanted:
            self._lay_down(child, reason)
        elif child.recycled:
            # It counts as stopped with its siblings, whether the request or its own end came first.
            self._put(replace(child, recycled=False))
            if child.restart is Restart.TEMPORARY:
                self._lay_down(child, reason)
        elif was_starting and child.start_asks:
            self._lay_down(child, reason)  # what follows is for the asker to decide
        elif was_starting and not is_failure(reason):
            self._lay_down(child, reason)  # OTP's `ignore`: it looked around and has nothing to do
        elif was_starting and self._mode is Mode.STARTING and child.restarts == 0:
            self._shut(Crashed(f"child {child.id} failed to start: {reason}", _cause(reason)))
        elif decide_restart(child.restart, reason):
            self._restart(child, reason)
        else:
            self._lay_down(child, reason)
            self._shut_automatically(child)

    def _on_add(self, add: Add) -> None:
        there = self._children.get(add.spec.id)
        if self._mode not in (Mode.STARTING, Mode.RUNNING):
            self._do(Reply(add.ask, Refused(add.spec.id, f"{self._group.name} is stopping")))
        elif there is not None:
            self._do(Reply(add.ask, AlreadyThere(there.id, there.phase)))
        else:
            self._put(
                Child(
                    add.spec,
                    add.restart,
                    incarnation=add.incarnation,
                    on_trial=True,
                    start_asks=(add.ask,),
                    since=self._now,
                )
            )

    def _on_terminate(self, terminate: Terminate) -> None:
        child = self._children.get(terminate.id)
        if child is None:
            self._do(Reply(terminate.ask, NotFound(terminate.id)))
            return
        was_wanted = child.wanted
        child = self._put(replace(child, wanted=False, stop_asks=(*child.stop_asks, terminate.ask)))
        if child.is_live:
            return
        if was_wanted:
            self._lay_down(self._call_off_retry(child), Shutdown())
        else:
            self._put(self._answer_asks(child, Shutdown()))

    def _on_start_again(self, again: StartAgain) -> None:
        child = self._children.get(again.id)
        if child is None:
            self._do(Reply(again.ask, NotFound(again.id)))
        elif self._mode not in (Mode.STARTING, Mode.RUNNING):
            self._do(Reply(again.ask, Refused(again.id, f"{self._group.name} is stopping")))
        elif child.phase is not Phase.STOPPED or child.wanted:
            self._do(Reply(again.ask, AlreadyThere(child.id, child.phase)))
        else:
            self._put(replace(child, wanted=True, start_asks=(again.ask,)))

    def _on_delete(self, delete: Delete) -> None:
        child = self._children.get(delete.id)
        if child is None:
            self._do(Reply(delete.ask, NotFound(delete.id)))
        elif child.phase is not Phase.STOPPED or child.wanted:
            self._do(Reply(delete.ask, AlreadyThere(child.id, child.phase)))
        else:
            self._forget(child)
            self._do(Reply(delete.ask, Deleted(child.id)))

    # --- what a failure means -------------------------------------------------------------------

    def _restart(self, child: Child, reason: ExitReason) -> None:
        """Start the child and its companions again, unless that was tried too often already."""
        window = self._group.window
        if not window.admits(self._restarts, self._now):
            self._do(GiveUp(child.id, child.incarnation, reason))
            self._shut(
                Crashed(
                    f"gave up: more than {window.max_restarts} restarts within {window.period:g} s; "
                    f"child {child.id}: {reason}",
                    _cause(reason),
                )
            )
            return
        self._restarts = (*window.recent(self._restarts, self._now), self._now)
        delay, failures = self._delay(child)
        self._report(ChildRestarting, child, reason=reason, delay=delay)
        child = self._put(replace(child, restarts=child.restarts + 1, failures=failures, running_since=None))
        if delay > 0:
            self._enter(child, Phase.BACKING_OFF, retry_at=self._now + delay)
            self._do(Arm(RetryDue(child.id, child.incarnation), delay))
        for companion in self._companions(child):
            if companion.is_live:
                self._put(replace(companion, recycled=True))
            else:
                self._call_off_retry(companion)

    def _delay(self, child: Child) -> tuple[float, int]:
        backoff = child.spec.backoff
        if backoff is None:
            return 0.0, child.failures + 1
        was_healthy = (
            child.running_since is not None and self._now - child.running_since >= backoff.reset_after
        )
        failures = 1 if was_healthy else child.failures + 1
        return backoff.delay(failures, self._rng), failures

    def _companions(self, child: Child) -> list[Child]:
        """The siblings that are restarted with `child`."""
        strategy = self._group.strategy
        match strategy:
            case Strategy.ONE_FOR_ONE:
                return []
            case Strategy.ONE_FOR_ALL:
                return [sibling for sibling in self._children.values() if sibling.id != child.id]
            case Strategy.REST_FOR_ONE:
                ids = list(self._children)
                return list(self._children.values())[ids.index(child.id) + 1 :]
            case _:
                assert_never(strategy)

    def _lay_down(self, child: Child, reason: ExitReason) -> None:
        """The child has ended, and nothing but a request will start it again."""
        self._do(Close(child.id, reason))
        child = self._answer_asks(child, reason)
        child = self._put(replace(child, wanted=False, recycled=False, running_since=None))
        if child.restart is Restart.TEMPORARY or child.on_trial:
            self._forget(child)

    def _answer_asks(self, child: Child, reason: ExitReason) -> Child:
        """Tell those who wait for the child's start or end that it has ended."""
        for ask in child.start_asks:
            self._do(Reply(ask, StartFailed(child.id, reason)))
        for ask in child.stop_asks:
            self._do(Reply(ask, Terminated(child.id)))
        return replace(child, start_asks=(), stop_asks=())

    def _shut_automatically(self, child: Child) -> None:
        """A child has ended by itself, for good: its supervisor may have nothing left to live for."""
        if not child.spec.significant:
            return
        auto_shutdown = self._group.auto_shutdown
        match auto_shutdown:
            case AutoShutdown.NEVER:
                return
            case AutoShutdown.ANY_SIGNIFICANT:
                self._shut(Shutdown())
            case AutoShutdown.ALL_SIGNIFICANT:
                if not any(other.spec.significant and other.wanted for other in self._children.values()):
                    self._shut(Shutdown())
            case _:
                assert_never(auto_shutdown)

    def _shut(self, reason: ExitReason) -> None:
        """From here on everything stops; the first reason stands."""
        if self._mode in (Mode.STOPPING, Mode.ENDED):
            return
        self._mode = Mode.STOPPING
        self._ending = reason
        for child in list(self._children.values()):
            if child.is_live:
                self._put(replace(child, wanted=False, recycled=False))
            elif child.wanted:
                self._lay_down(self._call_off_retry(child), reason)

    def _call_off_retry(self, child: Child) -> Child:
        if child.phase is not Phase.BACKING_OFF:
            return child
        self._do(Disarm(child.id))
        return self._enter(child, Phase.STOPPED, retry_at=None)

    # --- from what is to what is wanted ---------------------------------------------------------

    def advance(self) -> None:
        """Stop what must stop, start what may start, and see whether that was all."""
        if self._mode in (Mode.NEW, Mode.ENDED):
            return
        self._stop_next()
        if self._mode is not Mode.STOPPING:
            self._start_next()
        children = self._children.values()
        if self._mode is Mode.STARTING and all(
            child.phase is Phase.RUNNING or not (child.wanted or child.is_live) for child in children
        ):
            self._mode = Mode.RUNNING
            self._do(BecomeStarted())
        if self._mode is Mode.STOPPING and not any(child.is_live for child in children):
            self._mode = Mode.ENDED
            assert self._ending is not None
            self._do(Finish(self._ending))

    def _one_at_a_time(self) -> bool:
        """Order matters, unless running children stand alone."""
        return self._mode is not Mode.RUNNING or self._group.strategy is not Strategy.ONE_FOR_ONE

    def _stop_next(self) -> None:
        must_stop = [child for child in reversed(self._children.values()) if child.must_stop]
        if self._one_at_a_time():
            if any(child.phase is Phase.STOPPING for child in must_stop):
                return
            must_stop = must_stop[:1]
        for child in must_stop:
            if child.phase is not Phase.STOPPING:
                self._stop(child)

    def _stop(self, child: Child) -> None:
        if child.phase is Phase.STARTING:
            self._do(Disarm(child.id))
        child = self._enter(child, Phase.STOPPING)
        grace = child.spec.grace_now()
        if grace == 0:
            self._kill(child, "has no grace")
            return
        self._do(Stop(child.id))
        if grace is not None:
            self._do(Arm(GraceExpired(child.id, child.incarnation), grace))

    def _start_next(self) -> None:
        children = self._children.values()
        may_start = [child for child in children if child.may_start]
        if self._one_at_a_time():
            if any(child.must_stop or child.phase is Phase.STARTING for child in children):
                return
            if self._group.strategy is not Strategy.ONE_FOR_ONE and any(
                child.phase is Phase.BACKING_OFF for child in children
            ):
                return
            may_start = may_start[:1]
        for child in may_start:
            self._start(child)

    def _start(self, child: Child) -> None:
        child = self._enter(child, Phase.STARTING, incarnation=child.incarnation + 1, running_since=None)
        self._do(Start(child.id, child.incarnation))
        if child.spec.start_timeout is not None:
            self._do(Arm(StartTimedOut(child.id, child.incarnation), child.spec.start_timeout))

    # --- small steps ----------------------------------------------------------------------------

    def _kill(self, child: Child, why: str) -> None:
        self._report(ChildKilled, child, why=why)
        self._do(Kill(child.id, why))

    def _current(self, child_id: str, incarnation: int, *phases: Phase) -> Child | None:
        """The child, if this incarnation is its current one and in one of these phases."""
        child = self._children.get(child_id)
        if child is None or child.incarnation != incarnation or child.phase not in phases:
            return None
        return child

    def _put(self, child: Child) -> Child:
        self._children[child.id] = child
        return child

    def _enter(self, child: Child, phase: Phase, **changes: Any) -> Child:
        return self._put(replace(child, phase=phase, since=self._now, **changes))

    def _forget(self, child: Child) -> None:
        del self._children[child.id]
        self._do(Forget(child.id))

    def _report(self, event: Callable[..., SupervisionEvent], child: Child, **fields: Any) -> None:
        self._do(Report(event(self._group.name, child.id, child.incarnation, **fields)))

    def _do(self, action: Action) -> None:
        self._actions.append(action)


def _cause(reason: ExitReason) -> str:
    """What was wrong at the bottom."""
    return reason.root_cause if isinstance(reason, Crashed) else str(reason)
