"""What the supervisor of a node decides: every event in every phase, with values."""

from __future__ import annotations

import signal
from dataclasses import replace
from random import Random

import pytest

from mcpv_node.service.keeping import (
    Action,
    Event,
    Keeping,
    KeepingPolicy,
    Leaving,
    Phase,
    Say,
    Signalled,
    SignalNode,
    SignOfLife,
    StartNode,
    Woke,
    decide,
)
from mcpv_node.service.node_process import Exited
from mcpv_node.supervisors import Backoff, RestartWindow

POLICY = KeepingPolicy(
    stop_bound=40.0,
    watchdog=30.0,
    window=RestartWindow(max_restarts=2, period=60.0),
    backoff=Backoff(base=1.0, maximum=8.0, reset_after=30.0),
)

RUNNING = Keeping(since=100.0)
AGAIN = Keeping(starts=2, since=100.0, restarts=(99.0,), in_a_row=1)
BACKING_OFF = Keeping(phase=Phase.BACKING_OFF, wake_at=105.0, in_a_row=1)
STOPPING = Keeping(phase=Phase.STOPPING, wake_at=140.0)
ENDED = Keeping(phase=Phase.ENDED, code=0)

CRASH = Exited(signal=signal.SIGKILL)


def heard(state: Keeping, event: Event, now: float = 101.0) -> tuple[Keeping, tuple[Action, ...]]:
    """Decide; what was said is left out."""
    after, actions = decide(state, event, now, policy=POLICY, chance=Random(1))
    return after, tuple(action for action in actions if not isinstance(action, Say))


def said(state: Keeping, event: Event, now: float = 101.0) -> str:
    """The one line that was said."""
    _, actions = decide(state, event, now, policy=POLICY, chance=Random(1))
    lines = [action.text for action in actions if isinstance(action, Say)]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize("state", [RUNNING, AGAIN, STOPPING])
def test_a_node_that_ends_with_0_was_asked_to_and_stays_ended(state: Keeping) -> None:
    after, actions = heard(state, Exited(code=0))

    assert (after.phase, after.code, after.wake_at, actions) == (Phase.ENDED, 0, None, ())


@pytest.mark.parametrize("code", [2, 3])
def test_a_first_start_that_is_mistaken_ends_with_its_own_code(code: int) -> None:
    after, actions = heard(RUNNING, Exited(code=code))

    assert (after.phase, after.code, actions) == (Phase.ENDED, code, ())


@pytest.mark.parametrize("code", [2, 3])
def test_a_later_start_may_find_the_configuration_mended(code: int) -> None:
    after, _ = heard(AGAIN, Exited(code=code))

    assert after.phase is Phase.BACKING_OFF


@pytest.mark.parametrize(
    "exited", [CRASH, Exited(code=1), Exited(signal=signal.SIGTERM), Exited(error="no such file")]
)
def test_any_other_end_is_followed_by_a_start_after_a_delay(exited: Exited) -> None:
    waiting, actions = heard(RUNNING, exited)
    assert (waiting.phase, actions) == (Phase.BACKING_OFF, ())
    assert waiting.wake_at is not None
    assert 101.5 <= waiting.wake_at <= 102.0

    started, actions = heard(waiting, Woke(), waiting.wake_at)

    assert actions == (StartNode(),)
    assert started == Keeping(
        starts=2, since=waiting.wake_at, restarts=(waiting.wake_at,), in_a_row=1, wake_at=None
    )


def test_the_delay_grows_while_the_node_does_not_stay_up() -> None:
    second, _ = heard(replace(AGAIN, restarts=()), CRASH)
    third, _ = heard(replace(AGAIN, restarts=(), in_a_row=2), CRASH)

    assert second.wake_at is not None
    assert third.wake_at is not None
    assert 1.0 <= second.wake_at - 101.0 <= 2.0
    assert 2.0 <= third.wake_at - 101.0 <= 4.0


def test_a_node_that_was_healthy_for_a_while_begins_anew() -> None:
    after, _ = heard(replace(AGAIN, in_a_row=7), CRASH, now=130.0)

    assert after.in_a_row == 1


def test_more_restarts_than_the_window_admits_end_it_with_1() -> None:
    state = replace(AGAIN, restarts=(50.0, 99.0))

    after, actions = heard(state, CRASH)

    assert (after.phase, after.code, actions) == (Phase.ENDED, 1, ())
    assert "giving up" in said(state, CRASH)


def test_restarts_of_long_ago_are_forgotten() -> None:
    after, _ = heard(replace(AGAIN, restarts=(1.0, 2.0, 99.0)), CRASH)

    assert (after.phase, after.restarts) == (Phase.BACKING_OFF, (99.0,))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_passed_on_each_time_and_bounded_from_the_first(number: int) -> None:
    first, actions = heard(RUNNING, Signalled(number))
    assert (first.phase, first.wake_at, actions) == (Phase.STOPPING, 141.0, (SignalNode(number),))

    assert heard(first, Signalled(number), now=120.0) == (first, (SignalNode(number),))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_it_backs_off_ends_it_at_once(number: int) -> None:
    after, actions = heard(BACKING_OFF, Signalled(number))

    assert (after.phase, after.code, after.wake_at, actions) == (Phase.ENDED, 0, None, ())


def test_a_reload_is_passed_on_to_a_node_that_runs_and_to_no_other() -> None:
    reload = Signalled(signal.SIGHUP)

    assert heard(RUNNING, reload) == (RUNNING, (SignalNode(signal.SIGHUP),))
    assert heard(BACKING_OFF, reload) == (BACKING_OFF, ())
    assert heard(STOPPING, reload) == (STOPPING, ())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_node_that_ends_by_the_signal_that_asks_for_a_stop_had_not_begun_to_serve(number: int) -> None:
    after, _ = heard(STOPPING, Exited(signal=number))

    assert after.code == 0


@pytest.mark.parametrize(("exited", "code"), [(Exited(code=1), 1), (Exited(code=3), 3), (CRASH, 1)])
def test_a_node_that_fails_while_it_stops_is_not_started_again(exited: Exited, code: int) -> None:
    after, actions = heard(STOPPING, exited)

    assert (after.phase, after.code, actions) == (Phase.ENDED, code, ())


def test_a_node_that_does_not_stop_in_time_is_killed_once() -> None:
    assert heard(STOPPING, Woke(), now=139.9) == (STOPPING, ())

    late, actions = heard(STOPPING, Woke(), now=140.0)

    assert actions == (SignalNode(signal.SIGKILL),)
    assert heard(late, Woke(), now=141.0) == (late, ())


def test_a_node_that_gives_no_sign_of_life_any_more_is_ended_and_at_last_killed() -> None:
    watched, actions = heard(RUNNING, SignOfLife(), now=101.0)
    assert (watched.silent_at, actions) == (131.0, ())
    assert heard(watched, SignOfLife(), now=110.0)[0].silent_at == 140.0
    assert heard(watched, Woke(), now=130.9) == (watched, ())

    aborted, actions = heard(watched, Woke(), now=131.0)
    assert actions == (SignalNode(signal.SIGABRT),)
    # What it had said before is no reason to let it live.
    assert heard(aborted, SignOfLife(), now=132.0) == (aborted, ())

    killed, actions = heard(aborted, Woke(), now=136.0)
    assert actions == (SignalNode(signal.SIGKILL),)
    assert heard(killed, Woke(), now=1e9) == (killed, ())

    waiting, _ = heard(killed, CRASH, now=137.0)
    assert waiting.wake_at is not None
    started, _ = heard(waiting, Woke(), now=waiting.wake_at)
    assert (started.phase, started.is_aborted, started.silent_at) == (Phase.RUNNING, False, None)


def test_a_node_that_has_not_given_a_first_sign_is_waited_for() -> None:
    assert heard(RUNNING, Woke(), now=1e9) == (RUNNING, ())


@pytest.mark.parametrize("event", [Leaving(), Signalled(signal.SIGTERM)])
def test_a_node_that_stops_gives_no_signs_and_is_not_ended_for_it(event: Event) -> None:
    watched, _ = heard(RUNNING, SignOfLife())

    leaving, _ = heard(watched, event)

    assert leaving.silent_at is None
    assert heard(replace(leaving, wake_at=None), Woke(), now=1e9)[1] == ()


@pytest.mark.parametrize("state", [BACKING_OFF, STOPPING])
def test_a_late_sign_of_life_changes_nothing(state: Keeping) -> None:
    assert heard(state, SignOfLife()) == (state, ())


@pytest.mark.parametrize("state", [RUNNING, AGAIN])
def test_waking_a_node_that_runs_does_nothing(state: Keeping) -> None:
    assert heard(state, Woke(), now=1e9) == (state, ())


def test_waking_too_early_does_nothing() -> None:
    assert heard(BACKING_OFF, Woke(), now=104.9) == (BACKING_OFF, ())


def test_the_end_of_a_node_that_has_ended_already_does_nothing() -> None:
    assert heard(BACKING_OFF, CRASH) == (BACKING_OFF, ())


@pytest.mark.parametrize("event", [CRASH, Exited(code=0), Signalled(signal.SIGTERM), Woke()])
def test_what_comes_after_the_end_changes_nothing(event: Event) -> None:
    assert heard(ENDED, event) == (ENDED, ())


@pytest.mark.parametrize(
    ("exited", "words"),
    [
        (Exited(code=1), "ended with exit code 1 after 1.0 s"),
        (CRASH, "was ended by SIGKILL after 1.0 s"),
        (Exited(signal=99), "was ended by signal 99 after 1.0 s"),
        (Exited(error="no such file"), "could not be started: no such file; starting it again"),
    ],
)
def test_every_start_again_says_why(exited: Exited, words: str) -> None:
    assert words in said(RUNNING, exited)


def test_the_default_window_is_met_by_a_node_that_cannot_start() -> None:
    """Five delays at their longest, and a second for each start, fit into the period: it does give up."""
    policy = KeepingPolicy(stop_bound=1.0)
    longest = sum(min(policy.backoff.maximum, policy.backoff.base * 2.0**n) for n in range(5))

    assert longest + 5 * 1.0 <= policy.window.period
