"""What a supervisor decides, as tables and as stories; nothing runs and no time passes."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from support.rehearsal import Rehearsal, a_spec, words

from mcpv_node.actors.kernel import Crashed, ExitReason, Killed, Normal, Shutdown
from mcpv_node.supervisors import (
    AutoShutdown,
    Backoff,
    ChildExited,
    ChildKind,
    ChildRestarting,
    ChildSpec,
    Phase,
    Restart,
    RestartWindow,
    Strategy,
)
from mcpv_node.supervisors.decisions import (
    Add,
    Arm,
    Begin,
    Child,
    Close,
    Delete,
    Exited,
    GraceExpired,
    Group,
    Input,
    Mode,
    RetryDue,
    StartAgain,
    Started,
    StartTimedOut,
    StopAll,
    Terminate,
    decide,
    decide_restart,
)

CRASH = Crashed("boom")
REASONS: list[ExitReason] = [Normal(), Shutdown(), CRASH, Killed()]
TRANSIENT, TEMPORARY, PERMANENT = Restart.TRANSIENT, Restart.TEMPORARY, Restart.PERMANENT
ALL, REST, ONE = Strategy.ONE_FOR_ALL, Strategy.REST_FOR_ONE, Strategy.ONE_FOR_ONE


def abc(**fields: Any) -> tuple[ChildSpec, ChildSpec, ChildSpec]:
    return a_spec("a", **fields), a_spec("b", **fields), a_spec("c", **fields)


# --- the restart table ------------------------------------------------------------------------------

RESTARTS = {
    (PERMANENT, Normal()): True,
    (PERMANENT, Shutdown()): True,
    (PERMANENT, CRASH): True,
    (PERMANENT, Killed()): True,
    (TRANSIENT, Normal()): False,
    (TRANSIENT, Shutdown()): False,
    (TRANSIENT, CRASH): True,
    (TRANSIENT, Killed()): True,
    (TEMPORARY, Normal()): False,
    (TEMPORARY, Shutdown()): False,
    (TEMPORARY, CRASH): False,
    (TEMPORARY, Killed()): False,
}


def test_the_restart_table_is_complete() -> None:
    assert set(RESTARTS) == {(restart, reason) for restart in Restart for reason in REASONS}


@pytest.mark.parametrize(("restart", "reason"), RESTARTS)
def test_a_child_is_restarted_as_the_table_says(restart: Restart, reason: ExitReason) -> None:
    group = Rehearsal(a_spec("a", restart=restart)).begin()

    deeds = group.end("a", reason)

    assert decide_restart(restart, reason) is RESTARTS[restart, reason]
    assert ("start a" in deeds) is RESTARTS[restart, reason]


def test_a_temporary_child_is_forgotten_when_it_ends() -> None:
    group = Rehearsal(a_spec("a", restart=TEMPORARY)).begin()

    assert group.end("a", CRASH) == ["forget a"]
    assert group.ids() == []


def test_a_transient_child_that_is_done_stays_as_a_spec() -> None:
    group = Rehearsal(a_spec("a", restart=TRANSIENT)).begin()

    assert group.end("a", Normal()) == []
    assert group.phases() == ["stopped"]


# --- every phase, every input -----------------------------------------------------------------------

INPUTS: dict[str, Input] = {
    "started": Started("a", 3),
    "exited": Exited("a", 3, CRASH),
    "start timed out": StartTimedOut("a", 3),
    "grace expired": GraceExpired("a", 3),
    "retry due": RetryDue("a", 3),
    "add": Add(a_spec("a"), PERMANENT, 0, 7),
    "terminate": Terminate("a", 7),
    "start again": StartAgain("a", 7),
    "delete": Delete("a", 7),
    "stop all": StopAll(),
    "begin": Begin(),
}
TAKEN = ["reply 7 AlreadyThere"]
STOPS = ["stop a", "arm GraceExpired a"]
STARTS = ["start a", "arm StartTimedOut a"]
PAIRS: dict[str, dict[str, list[str]]] = {
    "stopped": {
        "started": [],
        "exited": [],
        "start timed out": [],
        "grace expired": [],
        "retry due": [],
        "add": TAKEN,
        "terminate": ["reply 7 Terminated"],
        "start again": STARTS,
        "delete": ["forget a", "reply 7 Deleted"],
        "stop all": ["finish Shutdown"],
        "begin": [],
    },
    "starting": {
        "started": ["disarm a"],
        "exited": ["disarm a", *STARTS],
        "start timed out": ["kill a"],
        "grace expired": [],
        "retry due": [],
        "add": TAKEN,
        "terminate": ["disarm a", *STOPS],
        "start again": TAKEN,
        "delete": TAKEN,
        "stop all": ["disarm a", *STOPS],
        "begin": [],
    },
    "running": {
        "started": [],
        "exited": ["disarm a", *STARTS],
        "start timed out": [],
        "grace expired": [],
        "retry due": [],
        "add": TAKEN,
        "terminate": STOPS,
        "start again": TAKEN,
        "delete": TAKEN,
        "stop all": STOPS,
        "begin": [],
    },
    "stopping": {
        "started": [],
        "exited": ["disarm a", "close a"],
        "start timed out": [],
        "grace expired": ["kill a"],
        "retry due": [],
        "add": TAKEN,
        "terminate": [],
        "start again": TAKEN,
        "delete": TAKEN,
        "stop all": [],
        "begin": [],
    },
    "backing_off": {
        "started": [],
        "exited": [],
        "start timed out": [],
        "grace expired": [],
        "retry due": STARTS,
        "add": TAKEN,
        "terminate": ["disarm a", "close a", "reply 7 Terminated"],
        "start again": TAKEN,
        "delete": TAKEN,
        "stop all": ["disarm a", "close a", "finish Shutdown"],
        "begin": [],
    },
}
NOTICES = ("started", "exited", "start timed out", "grace expired", "retry due")


def one_child(phase: str, incarnation: int = 3) -> Group:
    wanted = phase not in ("stopped", "stopping")
    child = Child(a_spec("a"), PERMANENT, phase=Phase(phase), incarnation=incarnation, wanted=wanted)
    return Group("root", (child,), mode=Mode.RUNNING)


def test_every_pair_of_phase_and_input_is_listed() -> None:
    assert set(PAIRS) == set(Phase) - {Phase.SUSPENDED}
    assert all(set(row) == set(INPUTS) for row in PAIRS.values())


@pytest.mark.parametrize(("phase", "name"), [(phase, name) for phase in PAIRS for name in INPUTS])
def test_a_child_in_this_phase_meets_this_input(phase: str, name: str) -> None:
    _, actions = decide(one_child(phase), INPUTS[name], now=1.0, rng=Random(1))

    assert words(actions) == PAIRS[phase][name]


@pytest.mark.parametrize(("phase", "name"), [(phase, name) for phase in PAIRS for name in NOTICES])
def test_a_late_notice_of_an_older_incarnation_is_ignored(phase: str, name: str) -> None:
    group = one_child(phase, incarnation=4)

    after, actions = decide(group, INPUTS[name], now=1.0, rng=Random(1))

    assert (after, actions) == (group, ())


def test_a_duplicate_notice_is_ignored() -> None:
    group = Rehearsal(a_spec("a", restart=TRANSIENT)).begin()

    group.hear(Exited("a", 1, Normal()))
    state = group.group

    assert group.hear(Exited("a", 1, CRASH)) == []
    assert group.group == state


@pytest.mark.parametrize("name", ["started", "exited", "retry due", "terminate", "start again", "delete"])
def test_an_input_about_an_unknown_child_starts_and_stops_nothing(name: str) -> None:
    group = Group("root", mode=Mode.RUNNING)

    after, actions = decide(group, INPUTS[name], now=1.0, rng=Random(1))

    assert after == group
    assert words(actions) in ([], ["reply 7 NotFound"])


# --- starting and stopping --------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", Strategy)
def test_children_start_in_order_each_after_the_one_before_has_started(strategy: Strategy) -> None:
    group = Rehearsal(*abc(), strategy=strategy)

    assert group.hear(Begin()) == ["start a"]
    assert group.start("a") == ["start b"]
    assert group.start("b") == ["start c"]
    assert group.start("c") == ["started"]


def test_a_supervisor_without_children_has_started_at_once() -> None:
    assert Rehearsal().hear(Begin()) == ["started"]


@pytest.mark.parametrize("strategy", Strategy)
def test_a_failing_start_stops_those_already_started_in_reverse(strategy: Strategy) -> None:
    group = Rehearsal(*abc(), strategy=strategy)
    group.hear(Begin())
    group.start("a")
    group.start("b")

    assert group.end("c", CRASH) == ["stop b"]
    assert group.end("b", Shutdown()) == ["stop a"]
    assert group.end("a", Shutdown()) == ["finish Crashed"]
    assert group.group.ending == Crashed("child c failed to start: crashed: boom")


def test_a_start_that_times_out_fails() -> None:
    group = Rehearsal(a_spec("a", start_timeout=2))
    group.hear(Begin())

    assert group.hear(StartTimedOut("a", 1)) == ["kill a"]
    assert group.end("a", Killed("did not start within 2 s")) == ["finish Crashed"]


@pytest.mark.parametrize("restart", Restart)
def test_a_child_that_has_nothing_to_do_is_kept_unless_temporary(restart: Restart) -> None:
    group = Rehearsal(a_spec("a", restart=restart), a_spec("b"))
    group.hear(Begin())

    deeds = group.end("a", Normal())

    assert "start b" in deeds
    assert group.ids() == (["b"] if restart is TEMPORARY else ["a", "b"])
    assert group.start("b") == ["started"]


@pytest.mark.parametrize("strategy", Strategy)
def test_children_stop_in_reverse_each_after_the_one_behind_has_ended(strategy: Strategy) -> None:
    group = Rehearsal(*abc(), strategy=strategy).begin()

    assert group.hear(StopAll()) == ["stop c"]
    assert group.end("c", Shutdown()) == ["stop b"]
    assert group.end("b", CRASH) == ["stop a"]
    assert group.end("a", Normal()) == ["finish Shutdown"]


def test_a_child_that_dies_while_its_turn_to_stop_has_not_come_is_not_restarted() -> None:
    group = Rehearsal(*abc()).begin()
    group.hear(StopAll())

    assert group.end("a", CRASH) == []
    assert group.end("c", Shutdown()) == ["stop b"]
    assert group.end("b", Shutdown()) == ["finish Shutdown"]


def test_stop_is_idempotent() -> None:
    group = Rehearsal(a_spec("a")).begin()
    group.hear(StopAll())

    assert group.hear(StopAll()) == []
    group.end("a", Shutdown())
    assert group.hear(StopAll()) == []


def test_stop_while_starting_stops_what_has_been_started() -> None:
    group = Rehearsal(*abc())
    group.hear(Begin())
    group.start("a")

    assert group.hear(StopAll()) == ["stop b"]
    assert group.end("b", Shutdown()) == ["stop a"]
    assert group.end("a", Shutdown()) == ["finish Shutdown"]


def test_an_expired_grace_kills() -> None:
    group = Rehearsal(a_spec("a", grace=2)).begin()
    group.hear(StopAll())

    assert Arm(GraceExpired("a", 1), 2) in group.actions
    assert group.hear(GraceExpired("a", 1)) == ["kill a"]
    assert group.end("a", Killed()) == ["finish Shutdown"]


def test_a_child_without_grace_is_killed_at_once() -> None:
    group = Rehearsal(a_spec("a", grace=0)).begin()

    assert group.hear_all(StopAll()) == ["kill a"]


def test_an_unbounded_grace_has_no_timer() -> None:
    spec = replace(a_spec("a"), kind=ChildKind.SUPERVISOR, grace=None, start_timeout=None)
    group = Rehearsal(spec).begin()

    assert group.hear_all(StopAll()) == ["stop a"]


def test_exit_as_asked_is_not_an_error() -> None:
    group = Rehearsal(a_spec("a")).begin()
    group.hear(Terminate("a", 1))

    assert group.end("a", Crashed("in on_shutdown")) == ["reply 1 Terminated"]
    assert group.events()[-1] == ChildExited("root", "a", 1, Crashed("in on_shutdown"), asked=True)


# --- strategies -------------------------------------------------------------------------------------


def test_one_for_one_restarts_the_child_alone() -> None:
    group = Rehearsal(*abc()).begin()

    assert group.end("b", CRASH) == ["start b"]
    assert group.phases() == ["running", "starting", "running"]


def test_one_for_all_stops_the_siblings_in_reverse_then_starts_all_in_order() -> None:
    group = Rehearsal(*abc(), strategy=ALL).begin()

    assert group.end("b", CRASH) == ["stop c"]
    assert group.end("c", Shutdown()) == ["stop a"]
    assert group.end("a", Shutdown()) == ["start a"]
    assert group.start("a") == ["start b"]
    assert group.start("b") == ["start c"]
    assert group.start("c") == []
    assert group.phases() == ["running"] * 3


def test_rest_for_one_touches_exactly_those_started_later() -> None:
    group = Rehearsal(*abc(), strategy=REST).begin()

    assert group.end("b", CRASH) == ["stop c"]
    assert group.end("c", Shutdown()) == ["start b"]
    assert group.start("b") == ["start c"]
    group.start("c")
    assert [child.incarnation for child in group.group.children] == [1, 2, 2]


def test_a_child_that_is_not_restarted_takes_nobody_along() -> None:
    group = Rehearsal(a_spec("a", restart=TRANSIENT), a_spec("b"), strategy=ALL).begin()

    assert group.end("a", Normal()) == []
    assert group.phases() == ["stopped", "running"]


@pytest.mark.parametrize("strategy", [ALL, REST])
def test_a_temporary_bystander_is_stopped_and_not_restarted(strategy: Strategy) -> None:
    group = Rehearsal(a_spec("a"), a_spec("b", restart=TEMPORARY), strategy=strategy).begin()
    group.end("a", CRASH)

    assert group.end("b", Shutdown()) == ["forget b", "start a"]


def test_a_bystander_that_was_terminated_stays_terminated() -> None:
    group = Rehearsal(*abc(), strategy=ALL).begin()
    group.hear(Terminate("c", 1))
    group.end("c", Shutdown())

    group.end("a", CRASH)
    group.end("b", Shutdown())
    group.start("a")
    group.start("b")

    assert group.phases() == ["running", "running", "stopped"]


def test_a_group_restart_counts_once_even_if_siblings_crash_meanwhile() -> None:
    group = Rehearsal(*abc(), strategy=ALL, window=RestartWindow(max_restarts=1)).begin()

    group.end("a", CRASH)
    group.end("b", CRASH)
    group.end("c", CRASH)

    assert group.phases() == ["starting", "stopped", "stopped"]
    assert len(group.group.restarts) == 1


def test_when_another_child_fails_its_restart_those_already_restarted_are_stopped() -> None:
    group = Rehearsal(*abc(), strategy=ALL).begin()
    group.end("c", CRASH)
    group.end("b", Shutdown())
    group.end("a", Shutdown())
    group.start("a")

    assert group.end("b", CRASH) == ["stop a"]
    assert group.end("a", Shutdown()) == ["start a"]


def test_a_child_that_crashes_while_later_ones_start_is_restarted_after_them() -> None:
    group = Rehearsal(a_spec("a"), a_spec("b"))
    group.hear(Begin())
    group.start("a")

    assert group.end("a", CRASH) == []
    assert group.start("b") == ["start a"]
    assert group.start("a") == ["started"]


# --- the window and the backoff ---------------------------------------------------------------------


def test_restarts_within_the_window_are_made() -> None:
    group = Rehearsal(a_spec("a"), window=RestartWindow(max_restarts=3, period=5)).begin()

    for _ in range(3):
        assert group.end("a", CRASH) == ["start a"]
        group.start("a")


@pytest.mark.parametrize("strategy", Strategy)
def test_at_the_limit_the_supervisor_stops_its_children_and_ends_as_crashed(strategy: Strategy) -> None:
    window = RestartWindow(max_restarts=0, period=5)
    group = Rehearsal(*abc(), strategy=strategy, window=window).begin()

    assert group.end("b", CRASH) == ["giveup b", "stop c"]
    assert group.end("c", Shutdown()) == ["stop a"]
    assert group.end("a", Shutdown()) == ["finish Crashed"]
    assert group.group.ending == Crashed("gave up: more than 0 restarts within 5 s; child b: crashed: boom")


def test_failed_restarts_count_towards_the_limit() -> None:
    group = Rehearsal(a_spec("a"), window=RestartWindow(max_restarts=2)).begin()

    assert group.end("a", CRASH) == ["start a"]
    assert group.end("a", CRASH) == ["start a"]
    assert group.end("a", CRASH) == ["giveup a", "finish Crashed"]


def test_restarts_that_are_long_ago_are_forgiven() -> None:
    group = Rehearsal(a_spec("a"), window=RestartWindow(max_restarts=1, period=5)).begin()
    for _ in range(4):
        assert group.end("a", CRASH) == ["start a"]
        group.start("a")
        group.now += 5.1


def test_the_siblings_of_one_for_one_share_the_window() -> None:
    group = Rehearsal(*abc(), window=RestartWindow(max_restarts=2)).begin()
    group.end("a", CRASH)
    group.end("b", CRASH)

    assert group.end("c", CRASH)[0] == "giveup c"


def test_the_backoff_grows_with_each_failure_and_is_reset_by_health() -> None:
    backoff = Backoff(base=1, maximum=8, reset_after=60)
    group = Rehearsal(a_spec("a", backoff=backoff), window=RestartWindow(max_restarts=9)).begin()

    for longest in (1, 2, 4, 8, 8):
        assert group.end("a", CRASH) == []
        assert longest / 2 <= last_delay(group) <= longest
        group.hear(RetryDue("a", group.child("a").incarnation))
    group.start("a")
    group.now += 59
    group.end("a", CRASH)
    assert last_delay(group) >= 4
    group.hear(RetryDue("a", group.child("a").incarnation))
    group.start("a")
    group.now += 60
    group.end("a", CRASH)
    assert last_delay(group) <= 1


def test_stop_while_backing_off_cancels_the_timer() -> None:
    group = Rehearsal(a_spec("a", backoff=Backoff())).begin()
    group.end("a", CRASH)

    assert group.hear_all(StopAll()) == ["disarm a", "close a", "finish Shutdown"]


def test_a_backing_off_child_does_not_delay_its_one_for_one_siblings() -> None:
    group = Rehearsal(a_spec("a", backoff=Backoff()), a_spec("b")).begin()
    group.end("a", CRASH)

    assert group.end("b", CRASH) == ["start b"]


@pytest.mark.parametrize("strategy", [ALL, REST])
def test_a_group_waits_for_its_backing_off_child(strategy: Strategy) -> None:
    group = Rehearsal(a_spec("a", backoff=Backoff()), a_spec("b"), strategy=strategy).begin()
    group.end("a", CRASH)

    assert group.end("b", Shutdown()) == []
    assert group.hear(RetryDue("a", 1)) == ["start a"]


def test_removing_a_restarting_child_calls_its_retry_off() -> None:
    group = Rehearsal(a_spec("a", backoff=Backoff())).begin()
    group.end("a", CRASH)

    assert group.hear_all(Terminate("a", 1)) == ["disarm a", "close a", "reply 1 Terminated"]
    assert group.hear(RetryDue("a", 1)) == []


# --- requests ---------------------------------------------------------------------------------------


def test_adding_to_a_running_supervisor_starts_the_child_and_answers() -> None:
    group = Rehearsal(a_spec("a")).begin()

    assert group.hear(Add(a_spec("b"), PERMANENT, 0, 5)) == ["start b"]
    assert group.start("b") == ["up 5 b"]
    assert group.hear(StopAll()) == ["stop b"]


def test_an_added_child_that_does_not_start_is_answered_and_forgotten() -> None:
    group = Rehearsal().begin()
    group.hear(Add(a_spec("b"), PERMANENT, 0, 5))

    assert group.end("b", CRASH) == ["reply 5 StartFailed", "forget b"]
    assert group.group.mode is Mode.RUNNING


def test_a_child_added_while_the_others_start_waits_for_its_turn() -> None:
    group = Rehearsal(a_spec("a"))
    group.hear(Begin())

    assert group.hear(Add(a_spec("b"), PERMANENT, 0, 5)) == []
    assert group.start("a") == ["start b"]
    assert group.end("b", CRASH) == ["reply 5 StartFailed", "forget b", "started"]


def test_nothing_is_added_to_a_stopping_supervisor() -> None:
    group = Rehearsal(a_spec("a")).begin()
    group.hear(StopAll())

    assert group.hear(Add(a_spec("b"), PERMANENT, 0, 5)) == ["reply 5 Refused"]


def test_a_terminated_child_stays_until_it_is_started_again() -> None:
    group = Rehearsal(a_spec("a")).begin()
    group.hear(Terminate("a", 1))
    group.end("a", Shutdown())

    assert group.hear(StartAgain("a", 2)) == ["start a"]
    assert group.start("a") == ["up 2 a"]


def test_a_restart_that_fails_is_answered_and_leaves_the_child_stopped() -> None:
    group = Rehearsal(a_spec("a")).begin()
    group.hear(Terminate("a", 1))
    group.end("a", Shutdown())
    group.hear(StartAgain("a", 2))

    assert group.end("a", CRASH) == ["reply 2 StartFailed"]
    assert group.phases() == ["stopped"]


def test_terminating_a_temporary_child_forgets_it() -> None:
    group = Rehearsal(a_spec("a", restart=TEMPORARY)).begin()
    group.hear(Terminate("a", 1))

    assert group.end("a", Shutdown()) == ["reply 1 Terminated", "forget a"]


def test_everybody_who_waits_for_one_end_is_answered_once() -> None:
    group = Rehearsal(a_spec("a")).begin()
    group.hear(Terminate("a", 1))
    group.hear(Terminate("a", 2))

    assert group.end("a", Shutdown()) == ["reply 1 Terminated", "reply 2 Terminated"]
    assert group.hear(Terminate("a", 3)) == ["reply 3 Terminated"]


def test_terminating_a_starting_child_answers_its_starter_too() -> None:
    group = Rehearsal().begin()
    group.hear(Add(a_spec("a"), TEMPORARY, 0, 1))
    group.hear(Terminate("a", 2))

    assert group.end("a", Shutdown()) == ["reply 1 StartFailed", "reply 2 Terminated", "forget a"]


def test_one_for_one_children_are_terminated_side_by_side() -> None:
    group = Rehearsal(*abc()).begin()

    assert group.hear(Terminate("a", 1)) == ["stop a"]
    assert group.hear(Terminate("c", 2)) == ["stop c"]
    assert group.end("b", CRASH) == ["start b"]


def test_a_child_whose_end_is_final_is_closed_and_a_restarting_one_is_not() -> None:
    group = Rehearsal(a_spec("a"), a_spec("b", restart=TRANSIENT)).begin()

    group.end("a", CRASH)
    assert Close("a", CRASH) not in group.actions
    group.end("b", Normal())
    assert Close("b", Normal()) in group.actions


# --- significant children ---------------------------------------------------------------------------

ANY, EVERY = AutoShutdown.ANY_SIGNIFICANT, AutoShutdown.ALL_SIGNIFICANT


def significant(child_id: str, restart: Restart = TRANSIENT) -> ChildSpec:
    return a_spec(child_id, significant=True, restart=restart)


@pytest.mark.parametrize(("restart", "reason"), [(TRANSIENT, Normal()), (TEMPORARY, CRASH)])
def test_the_end_of_any_significant_child_ends_the_supervisor(restart: Restart, reason: ExitReason) -> None:
    group = Rehearsal(a_spec("a"), significant("b", restart), auto_shutdown=ANY).begin()

    assert "stop a" in group.end("b", reason)
    assert group.end("a", Shutdown()) == ["finish Shutdown"]


def test_a_significant_child_that_is_restarted_ends_nothing() -> None:
    group = Rehearsal(significant("a"), auto_shutdown=ANY).begin()

    assert group.end("a", CRASH) == ["start a"]


def test_the_end_of_the_last_significant_child_ends_the_supervisor() -> None:
    group = Rehearsal(significant("a"), significant("b"), a_spec("c"), auto_shutdown=EVERY).begin()

    assert group.end("a", Normal()) == []
    assert group.end("b", Normal()) == ["stop c"]


def test_terminating_a_significant_child_ends_nothing() -> None:
    group = Rehearsal(significant("a"), auto_shutdown=ANY).begin()
    group.hear(Terminate("a", 1))

    assert group.end("a", Shutdown()) == ["reply 1 Terminated"]
    assert group.group.mode is Mode.RUNNING


def test_a_significant_bystander_ends_nothing() -> None:
    group = Rehearsal(a_spec("a"), significant("b", TEMPORARY), strategy=ALL, auto_shutdown=ANY).begin()
    group.end("a", CRASH)

    assert group.end("b", Shutdown()) == ["forget b", "start a"]


def test_a_child_that_is_not_significant_ends_nothing() -> None:
    group = Rehearsal(significant("a"), a_spec("b", restart=TEMPORARY), auto_shutdown=ANY).begin()

    assert group.end("b", Normal()) == ["forget b"]


# --- events -----------------------------------------------------------------------------------------


def test_the_restart_and_its_delay_are_told() -> None:
    group = Rehearsal(a_spec("a")).begin()

    group.end("a", CRASH)

    assert group.events()[-1] == ChildRestarting("root", "a", 1, CRASH, 0.0)


def last_delay(group: Rehearsal) -> float:
    return [event.delay for event in group.events() if isinstance(event, ChildRestarting)][-1]
