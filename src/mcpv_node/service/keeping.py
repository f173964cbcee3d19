"""What the supervisor of a node does about what it hears: pure, a state and an event in, a state and actions out.

A node that ends with 0 was asked to, by whomever, and stays ended. Any other end is a fault: the node is started again
after a growing delay, and where that does not help within the window, the supervisor gives up. A first start that
ends with 2 or 3 is a mistake in the command line or the configuration, which no second start mends. A node that serves
gives signs of life; one that stops to is ended, and that is a fault like any other.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass, field, replace
from enum import StrEnum
from random import Random
from typing import Final, TypeAlias, assert_never

from mcpv_node.supervisors import Backoff, RestartWindow

from .definition import WATCHDOG_SECONDS
from .node_process import Exited

# Usage and configuration: exit codes that a first start passes on.
PASSED_ON: Final = frozenset({2, 3})

# The exit code of a supervisor that gave up, and of a stop that had to be enforced.
GAVE_UP: Final = 1

# Between SIGABRT, at which a node that hangs says where, and SIGKILL; seconds.
ABORT_GRACE: Final = 5.0

STOP_SIGNALS: Final = frozenset({signal.SIGTERM, signal.SIGINT})


@dataclass(frozen=True, slots=True)
class KeepingPolicy:
    """How often and how fast a node is started again.

    `stop_bound`: seconds that an asked stop may take; `watchdog`: seconds that may pass between two signs of life.
    """

    stop_bound: float
    watchdog: float = WATCHDOG_SECONDS
    # Five starts that fail at once take about half a minute: long enough for a port to become free, and short
    # enough that whoever waits hears of it.
    window: RestartWindow = field(default_factory=lambda: RestartWindow(max_restarts=5, period=60.0))
    backoff: Backoff = field(default_factory=lambda: Backoff(base=1.0, maximum=30.0, reset_after=60.0))


class Phase(StrEnum):
    """Where the node stands."""

    RUNNING = "running"
    BACKING_OFF = "backing_off"
    STOPPING = "stopping"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Keeping:
    """What the supervisor knows of its node; times are on the monotonic clock."""

    phase: Phase = Phase.RUNNING
    starts: int = 1
    since: float = 0.0
    restarts: tuple[float, ...] = ()
    in_a_row: int = 0  # restarts without `reset_after` seconds of health between them
    wake_at: float | None = None
    # When the next sign of life is overdue; None before the first, and where none is expected.
    silent_at: float | None = None
    is_aborted: bool = False
    code: int | None = None  # the supervisor's exit code, once it has ended


# ---- what is heard ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Signalled:
    """Somebody has signalled the supervisor."""

    number: int


@dataclass(frozen=True, slots=True)
class Woke:
    """`wake_at` has passed."""


@dataclass(frozen=True, slots=True)
class SignOfLife:
    """Every actor of the node has answered."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """The node stops, by whomever it was asked: it drains, and gives no more signs of life."""


Event: TypeAlias = Exited | Signalled | Woke | SignOfLife | Leaving


# ---- what follows -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartNode:
    """Start it, with the options of the first time."""


@dataclass(frozen=True, slots=True)
class SignalNode:
    """Pass a signal on."""

    number: int


@dataclass(frozen=True, slots=True)
class Say:
    """Write a line to the log."""

    level: str
    text: str


Action: TypeAlias = StartNode | SignalNode | Say


def decide(
    state: Keeping, event: Event, now: float, *, policy: KeepingPolicy, chance: Random
) -> tuple[Keeping, tuple[Action, ...]]:
    """Say what follows from `event` at `now`. An event that comes too late changes nothing."""
    if state.phase is Phase.ENDED:
        return state, ()
    match event:
        case Exited():
            return _on_exited(state, event, now, policy, chance)
        case Signalled(number=number):
            return _on_signal(state, number, now, policy)
        case Woke():
            return _on_woke(state, now, policy)
        case SignOfLife():
            is_expected = state.phase is Phase.RUNNING and not state.is_aborted
            return (replace(state, silent_at=now + policy.watchdog) if is_expected else state), ()
        case Leaving():
            return replace(state, silent_at=None), ()
        case _:
            assert_never(event)


def _on_exited(
    state: Keeping, exited: Exited, now: float, policy: KeepingPolicy, chance: Random
) -> tuple[Keeping, tuple[Action, ...]]:
    if state.phase is Phase.BACKING_OFF:
        return state, ()
    # One that had not begun to serve ends by the very signal.
    is_as_asked = exited.code == 0 or (state.phase is Phase.STOPPING and exited.signal in STOP_SIGNALS)
    if is_as_asked:
        return _end(state, 0), (Say("INFO", "the node has ended as it was asked to"),)
    if state.phase is Phase.STOPPING:
        # It was asked, and ended otherwise: by the third signal, by ours, or by a fault on its way out.
        return _end(state, exited.code or GAVE_UP), (
            Say("WARNING", f"the node {exited} while it was stopping"),
        )
    if state.starts == 1 and exited.code in PASSED_ON:
        return _end(state, exited.code), (Say("ERROR", f"the node {exited}: starting it again cannot help"),)
    lived = now - state.since
    in_a_row = 1 if lived >= policy.backoff.reset_after else state.in_a_row + 1
    recent = policy.window.recent(state.restarts, now)
    said = f"the node {exited}" if exited.error is not None else f"the node {exited} after {lived:.1f} s"
    if not policy.window.admits(recent, now):
        count = len(recent)
        gave_up = f"{said}; it was started again {count} times within {policy.window.period:g} s: giving up"
        return _end(state, GAVE_UP), (Say("ERROR", gave_up),)
    delay = policy.backoff.delay(in_a_row, chance)
    waiting = replace(
        state,
        phase=Phase.BACKING_OFF,
        restarts=recent,
        in_a_row=in_a_row,
        wake_at=now + delay,
        silent_at=None,
    )
    return waiting, (Say("WARNING", f"{said}; starting it again in {delay:.1f} s"),)


def _on_signal(
    state: Keeping, number: int, now: float, policy: KeepingPolicy
) -> tuple[Keeping, tuple[Action, ...]]:
    if number not in STOP_SIGNALS:
        # A node that starts reads its configuration anyway.
        return state, (SignalNode(number),) if state.phase is Phase.RUNNING else ()
    name = signal.Signals(number).name
    match state.phase:
        case Phase.BACKING_OFF:
            return _end(state, 0), (Say("INFO", f"{name}: the node is not started again"),)
        case Phase.STOPPING:
            return state, (SignalNode(number),)
        case _:
            stopping = replace(state, phase=Phase.STOPPING, wake_at=now + policy.stop_bound, silent_at=None)
            return stopping, (Say("INFO", f"{name}: the node is asked to stop"), SignalNode(number))


def _on_woke(state: Keeping, now: float, policy: KeepingPolicy) -> tuple[Keeping, tuple[Action, ...]]:
    if state.silent_at is not None and now >= state.silent_at:
        if state.is_aborted:
            return replace(state, silent_at=None), (SignalNode(signal.SIGKILL),)
        silent = Say("ERROR", f"the node gave no sign of life for {policy.watchdog:g} s: it is ended")
        aborted = replace(state, is_aborted=True, silent_at=now + ABORT_GRACE)
        return aborted, (silent, SignalNode(signal.SIGABRT))
    if state.wake_at is None or now < state.wake_at:
        return state, ()
    if state.phase is Phase.BACKING_OFF:
        started = replace(
            state,
            phase=Phase.RUNNING,
            starts=state.starts + 1,
            since=now,
            restarts=(*state.restarts, now),
            wake_at=None,
            is_aborted=False,
        )
        return started, (Say("INFO", f"start {started.starts} of the node"), StartNode())
    late = Say("ERROR", "the node did not stop in time and is killed; its guard ends its servers")
    return replace(state, wake_at=None), (late, SignalNode(signal.SIGKILL))


def _end(state: Keeping, code: int) -> Keeping:
    return replace(state, phase=Phase.ENDED, wake_at=None, silent_at=None, code=code)
