"""What a server type decides, event by event."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.server_cores import (
    BEGINNING,
    Desk,
    changes,
    grants,
    make_policy,
    of,
    refusals,
    starts,
    stops,
)

from mcpv_node.actors.leases import LeaseKind, StartCause
from mcpv_node.actors.server_type import core, facts
from mcpv_node.actors.server_type.core import desired, explain, restart_delay
from mcpv_node.actors.server_type.facts import Refuse, State
from mcpv_node.actors.server_type.messages import ServerState
from mcpv_node.settings import RestartSettings, ServerName, ServerSpec

# --- a slot -------------------------------------------------------------------------------------


def test_the_first_caller_starts_one_instance_and_waits() -> None:
    desk = Desk()

    actions = desk.acquire(1)

    assert starts(actions) == [("fs-1", "tool_call")]
    assert grants(actions) == []
    assert changes(actions) == [("cold", "starting")]


def test_twenty_cold_callers_share_one_start() -> None:
    desk = Desk(make_policy(max_instances=1))

    for lease in range(20):
        desk.acquire(lease)

    assert starts(desk.log) == [("fs-1", "tool_call")]


@pytest.mark.parametrize(("concurrent", "expected"), [(1, 4), (4, 1), (3, 2), (2, 2)])
def test_as_many_instances_start_as_the_waiting_callers_need(concurrent: int, expected: int) -> None:
    desk = Desk(make_policy(max_instances=8, max_concurrent=concurrent))

    for lease in range(4):
        desk.acquire(lease)

    assert len(starts(desk.log)) == expected


def test_a_start_under_way_for_a_probe_serves_the_caller_too() -> None:
    desk = Desk()

    desk.acquire(1, cause=StartCause.BOOTSTRAP)
    desk.acquire(2)

    assert starts(desk.log) == [("fs-1", "bootstrap")]


def test_the_caller_gets_the_slot_when_the_start_is_ready_and_learns_how_long_it_took() -> None:
    desk = Desk()
    desk.acquire(1)
    desk.pass_time(3.0)

    actions = desk.ready()

    assert of(facts.Grant, actions) == [facts.Grant(facts.LeaseId(1), facts.InstanceId("fs-1"), 3.0, 3.0)]


def test_who_waited_for_a_slot_and_not_for_a_start_is_told_so() -> None:
    desk = Desk().up(calls=1)
    desk.acquire(2)
    desk.pass_time(4.0)

    [grant] = of(facts.Grant, desk.release(1))

    assert (grant.queued, grant.started) == (4.0, 0.0)


def test_a_free_slot_is_given_at_once() -> None:
    desk = Desk().up()

    assert grants(desk.acquire(1)) == [(1, "fs-1")]


def test_waiters_are_served_in_the_order_they_came() -> None:
    desk = Desk().up(calls=1)
    for lease in (2, 3, 4):
        desk.acquire(lease)

    for lease in (1, 2, 3):
        desk.release(lease)

    assert desk.granted() == [2, 3, 4]


def test_nobody_overtakes_those_who_wait() -> None:
    desk = Desk(make_policy(max_instances=2))
    desk.up(calls=1)
    desk.acquire(2)
    desk.ready(2)
    desk.acquire(3)

    assert grants(desk.log) == [(2, "fs-2")]


def test_the_least_loaded_instance_gets_the_call_and_among_equals_the_longest_idle() -> None:
    desk = Desk(make_policy(max_instances=2, max_concurrent=2, min_ready=2))
    desk.clients(1)
    desk.ready(2)
    desk.pass_time(1.0)
    desk.ready(1)

    assert [desk.acquire(lease) and desk.log[-1].id for lease in (1, 2, 3)] == ["fs-2", "fs-1", "fs-2"]  # type: ignore[union-attr]


def test_no_instance_gets_more_calls_than_it_may_have_at_once() -> None:
    desk = Desk(make_policy(max_concurrent=2)).up()

    for lease in (1, 2, 3):
        desk.acquire(lease)

    assert desk.granted() == [1, 2]


def test_a_lease_that_holds_no_slot_leaves_it_to_calls_and_keeps_the_instance() -> None:
    desk = Desk(make_policy(idle_seconds=5.0)).up()
    desk.acquire(1, kind=LeaseKind.SUBSCRIPTION)

    assert grants(desk.acquire(2)) == [(2, "fs-1")]

    desk.release(2)
    assert stops(desk.tick(100.0)) == []
    desk.release(1)
    assert stops(desk.tick(5.0)) == [("fs-1", "idle")]


# --- asked twice, unknown -----------------------------------------------------------------------


def test_asking_again_for_a_granted_lease_grants_the_same_slot() -> None:
    desk = Desk(make_policy(max_concurrent=2)).up(calls=1)

    assert grants(desk.acquire(1)) == [(1, "fs-1")]
    assert len(desk.instance().busy) == 1


def test_asking_again_while_waiting_keeps_the_place_in_the_queue() -> None:
    desk = Desk().up(calls=1)
    desk.acquire(2)
    desk.acquire(3)

    desk.acquire(2)
    desk.release(1)

    assert desk.granted() == [2]
    assert [waiter.lease for waiter in desk.state.waiters] == [3]


def test_a_second_release_is_nothing() -> None:
    desk = Desk().up(calls=1)
    desk.release(1)
    before = desk.state

    assert desk.release(1) == []
    assert desk.state == before


def test_a_waiter_that_releases_leaves_the_queue_and_the_start_goes_on() -> None:
    desk = Desk()
    desk.acquire(1)

    desk.release(1)
    actions = desk.ready()

    assert grants(actions) == []
    assert desk.shown is ServerState.READY


@pytest.mark.parametrize("event", ["ready", "fail", "exit", "retire", "release"])
def test_an_unknown_id_changes_nothing(event: str) -> None:
    desk = Desk().up(calls=1)
    before = desk.state

    assert getattr(desk, event)(99) == []
    assert desk.state == before


def test_a_second_notice_of_ready_makes_the_instance_no_younger() -> None:
    desk = Desk(make_policy(idle_seconds=10.0)).up()
    desk.pass_time(9.0)

    desk.ready()

    assert stops(desk.tick(1.0)) == [("fs-1", "idle")]


# --- refusals -----------------------------------------------------------------------------------


def test_a_full_queue_refuses_with_advice_and_forgets_nobody() -> None:
    desk = Desk(make_policy(queue_limit=2)).up(calls=1)
    desk.acquire(2)
    desk.acquire(3)

    [refusal] = of(Refuse, desk.acquire(4))

    assert (refusal.reason.value, refusal.retry_after) == ("overloaded", core.OVERLOADED_RETRY_AFTER)
    assert [waiter.lease for waiter in desk.state.waiters] == [2, 3]


def test_a_waiter_is_refused_when_its_queue_timeout_is_over_and_not_before() -> None:
    desk = Desk(make_policy(queue_timeout=30.0)).up(calls=1)
    desk.acquire(2)

    assert desk.next_wake == BEGINNING + 30.0
    assert refusals(desk.tick(29.9)) == []
    assert refusals(desk.tick(0.1)) == [(2, "queue_timeout")]


def test_a_start_under_way_extends_the_patience_up_to_its_own_end() -> None:
    desk = Desk(make_policy(queue_timeout=5.0, start_timeout=20.0))
    desk.acquire(1)

    assert refusals(desk.tick(5.0)) == []
    assert refusals(desk.tick(14.9)) == []
    assert refusals(desk.tick(0.1)) == [(1, "start_failed")]


def test_where_queue_and_start_end_together_the_start_is_to_blame() -> None:
    desk = Desk(make_policy(queue_timeout=30.0, start_timeout=30.0))
    desk.acquire(1)

    assert refusals(desk.tick(30.0)) == [(1, "start_failed")]


def test_the_callers_own_deadline_caps_everything() -> None:
    desk = Desk(make_policy(queue_timeout=30.0, start_timeout=20.0))
    desk.acquire(1, within=2.0)

    assert desk.next_wake == BEGINNING + 2.0
    assert refusals(desk.tick(2.0)) == [(1, "queue_timeout")]


def test_who_does_not_queue_at_all_still_waits_for_a_start() -> None:
    desk = Desk(make_policy(queue_timeout=0.0))

    assert starts(desk.acquire(1)) == [("fs-1", "tool_call")]
    assert grants(desk.ready()) == [(1, "fs-1")]
    assert refusals(desk.acquire(2)) == [(2, "queue_timeout")]


def test_nothing_is_started_for_a_caller_whose_deadline_is_over() -> None:
    desk = Desk()

    actions = desk.acquire(1, within=0.0)

    assert (starts(actions), refusals(actions)) == ([], [(1, "queue_timeout")])


def test_the_start_survives_the_callers_that_gave_up() -> None:
    desk = Desk()
    desk.acquire(1, within=2.0)
    desk.tick(2.0)

    assert stops(desk.log) == []
    desk.ready()
    assert grants(desk.acquire(2)) == [(2, "fs-1")]


def test_a_failed_start_refuses_exactly_those_who_waited_for_it() -> None:
    desk = Desk()
    desk.acquire(1)
    desk.acquire(2)

    actions = desk.fail()
    later = desk.acquire(3)

    assert refusals(actions) == [(1, "start_failed"), (2, "start_failed")]
    assert all("no luck" in refusal.message for refusal in of(Refuse, actions))
    assert refusals(later) == []


def test_a_failed_start_refuses_nobody_while_another_instance_may_serve_them() -> None:
    desk = Desk(make_policy(max_instances=2)).up(calls=1)
    desk.acquire(2)

    actions = desk.fail(2)

    assert refusals(actions) == []


def test_an_instance_that_vanishes_before_it_was_ready_is_a_failed_start() -> None:
    desk = Desk()
    desk.acquire(1)

    assert refusals(desk.exit(asked=False)) == [(1, "start_failed")]
    assert desk.state.failures == 1


def test_a_crash_lets_those_who_wait_wait_for_the_replacement() -> None:
    desk = Desk().up(calls=1)
    desk.acquire(2)

    actions = desk.exit()

    assert refusals(actions) == []
    assert starts(actions) == [("fs-2", "tool_call")]
    assert grants(desk.ready(2)) == [(2, "fs-2")]


# --- restarts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failures", "least", "most"),
    [
        (1, 0.0, 0.0),
        (2, 0.5, 1.0),
        (3, 1.0, 2.0),
        (4, 2.0, 4.0),
        (5, 4.0, 8.0),
        (7, 15.0, 30.0),
        (99, 15.0, 30.0),
    ],
)
def test_delays_double_from_base_to_the_maximum_with_half_of_each_left_to_chance(
    failures: int, least: float, most: float
) -> None:
    policy = make_policy(backoff_base=1.0, backoff_max=30.0)

    assert restart_delay(policy, failures, 0.0) == least
    assert restart_delay(policy, failures, 1.0) == most


@given(
    st.integers(1, 10**9),
    st.floats(0, 1, exclude_max=True),
    st.floats(0.001, 1e6),
    st.floats(0.001, 31_536_000),
)
def test_no_number_of_failures_makes_a_delay_that_is_no_delay(
    failures: int, chance: float, base: float, maximum: float
) -> None:
    delay = restart_delay(make_policy(backoff_base=base, backoff_max=maximum), failures, chance)

    assert 0.0 <= delay <= maximum


def crash_until(desk: Desk, failures: int) -> None:
    """Have the next start fail again and again, each as soon as it may be tried."""
    for _ in range(failures):
        if desk.state.next_try_at is not None:
            desk.tick(max(0.0, desk.state.next_try_at - desk.now))
        if not desk.state.instances:
            desk.operator_start()
        desk.fail(desk.state.serial)


def test_the_first_restart_of_an_always_on_server_is_at_once() -> None:
    desk = Desk(make_policy(always_on=True))
    desk.warm()
    desk.ready()

    assert starts(desk.exit()) == [("fs-2", "always_on")]


def test_the_second_failure_backs_off_and_time_alone_tries_again() -> None:
    desk = Desk(make_policy(always_on=True, backoff_base=4.0))
    desk.warm()
    desk.fail(1)

    actions = desk.fail(2)

    assert changes(actions) == [("starting", "backing_off")]
    assert desk.next_wake == BEGINNING + 4.0
    assert starts(desk.tick(3.9)) == []
    assert starts(desk.tick(0.1)) == [("fs-3", "always_on")]


def test_who_meets_backing_off_waits_if_the_next_try_comes_in_time() -> None:
    desk = Desk(make_policy(backoff_base=4.0))
    crash_until(desk, 2)

    assert refusals(desk.acquire(1)) == []
    assert starts(desk.tick(4.0)) == [("fs-3", "tool_call")]


@pytest.mark.parametrize("within", [1.0, 4.0])
def test_who_meets_backing_off_is_refused_at_once_if_it_does_not(within: float) -> None:
    desk = Desk(make_policy(backoff_base=4.0))
    crash_until(desk, 2)

    [refusal] = of(Refuse, desk.acquire(1, within=within))

    assert (refusal.reason.value, refusal.retry_after) == ("backing_off", 4.0)
    assert "no luck" in refusal.message


def test_who_has_waited_is_refused_at_once_when_the_next_try_is_beyond_its_own_patience() -> None:
    desk = Desk(make_policy(queue_timeout=30.0, backoff_base=8.0, start_timeout=100.0)).up(calls=1)
    desk.exit()
    desk.tick()
    desk.operator_start()
    desk.ready(2)
    desk.acquire(2)
    desk.acquire(3)
    desk.pass_time(25.0)

    actions = desk.exit(2)

    assert refusals(actions) == [(3, "backing_off")]


def test_a_caller_after_the_delay_does_not_meet_backing_off() -> None:
    desk = Desk(make_policy(backoff_base=4.0))
    crash_until(desk, 2)
    desk.pass_time(5.0)

    assert starts(desk.acquire(1, within=1.0)) == [("fs-3", "tool_call")]


@pytest.mark.parametrize("retries", [0, 1, 5])
def test_more_failures_in_a_row_than_allowed_suspend(retries: int) -> None:
    desk = Desk(make_policy(max_retries=retries))
    crash_until(desk, retries)
    assert desk.shown is not ServerState.SUSPENDED

    crash_until(desk, 1)

    assert desk.shown is ServerState.SUSPENDED
    assert refusals(desk.acquire(1)) == [(1, "suspended")]
    assert starts(desk.tick(10_000.0)) == []


def test_a_fatal_failure_suspends_at_once_and_says_what_lifts_it() -> None:
    desk = Desk(make_policy(always_on=True))
    desk.warm()

    desk.fail(fatal=True)

    state, reason = explain(desk.policy, desk.state)
    assert (state, desk.next_wake) == (ServerState.SUSPENDED, None)
    assert reason == "no luck; `server retry` tries again"


def test_a_failure_after_a_suspension_does_not_lift_it() -> None:
    desk = Desk(make_policy(max_instances=2))
    desk.acquire(1)
    desk.acquire(2)
    desk.fail(1, fatal=True)

    desk.fail(2)

    assert desk.shown is ServerState.SUSPENDED


def test_retry_forgets_the_failures_and_tries_again() -> None:
    desk = Desk(make_policy(always_on=True))
    desk.warm()
    desk.fail(fatal=True)

    actions = desk.retry()

    assert starts(actions) == [("fs-2", "always_on")]
    assert desk.state.failures == 0


def test_a_start_by_an_operator_does_not_lift_a_suspension() -> None:
    desk = Desk()
    desk.operator_start()
    desk.fail(fatal=True)

    assert starts(desk.operator_start()) == []
    assert starts(desk.retry()) == []


def test_sixty_seconds_of_health_forgive_the_failures_before() -> None:
    desk = Desk(make_policy(always_on=True, max_retries=2))
    desk.warm()
    desk.fail(1)
    desk.ready(2)
    desk.pass_time(core.HEALTHY_AFTER)

    desk.exit(2)

    assert (desk.state.failures, starts(desk.log)[-1]) == (1, ("fs-3", "always_on"))


def test_less_than_sixty_seconds_of_health_do_not() -> None:
    desk = Desk(make_policy(always_on=True))
    desk.warm()
    desk.fail(1)
    desk.ready(2)
    desk.pass_time(core.HEALTHY_AFTER - 0.1)

    desk.exit(2)

    assert desk.state.failures == 2


def test_one_healthy_instance_does_not_let_another_fail_without_backing_off() -> None:
    desk = Desk(make_policy(max_instances=2, queue_timeout=1000.0, backoff_base=4.0)).up(calls=1)
    desk.tick(1000.0)
    desk.acquire(2)

    desk.fail(2)
    actions = desk.fail(3)

    assert starts(actions) == []
    assert desk.state.next_try_at == desk.now + 4.0


def test_an_exit_that_was_asked_for_is_no_failure() -> None:
    desk = Desk(make_policy(idle_seconds=5.0)).up()
    desk.tick(5.0)

    actions = desk.exit(asked=True)

    assert desk.state.failures == 0
    assert changes(actions) == [("draining", "cold")]


def test_an_exit_that_comes_before_the_stop_was_heard_is_no_failure_either() -> None:
    desk = Desk(make_policy(idle_seconds=5.0)).up()
    desk.tick(5.0)

    desk.exit(asked=False)

    assert desk.state.failures == 0


def test_leases_on_an_instance_end_with_it() -> None:
    desk = Desk(make_policy(max_concurrent=2)).up(calls=2)

    desk.exit()

    assert desk.release(1) == desk.release(2) == []


# --- instances that leave -----------------------------------------------------------------------


def test_a_retired_instance_gets_no_more_calls_and_counts_until_it_is_gone() -> None:
    desk = Desk().up()

    desk.retire()

    assert (grants(desk.acquire(1)), starts(desk.log)) == ([], [])
    assert starts(desk.exit()) == [("fs-2", "tool_call")]


def test_a_retired_instance_is_replaced_beside_it_where_there_is_room() -> None:
    desk = Desk(make_policy(max_instances=2, always_on=True))
    desk.warm()
    desk.ready()

    assert starts(desk.retire()) == [("fs-2", "always_on")]


@pytest.mark.parametrize(("at_fault", "failures"), [(True, 1), (False, 0)])
def test_a_retired_instance_counts_as_a_failure_if_it_was_at_fault(at_fault: bool, failures: int) -> None:
    desk = Desk().up()
    desk.retire(at_fault=at_fault)

    desk.exit()

    assert desk.state.failures == failures


def test_the_result_of_a_start_that_is_being_stopped_is_never_used() -> None:
    desk = Desk(make_policy(max_instances=2))
    desk.acquire(1)
    desk.retire(1)

    actions = desk.ready(1)

    assert grants(actions) == []
    assert grants(desk.ready(2)) == [(1, "fs-2")]


def test_an_idle_instance_stops_after_its_time() -> None:
    desk = Desk(make_policy(idle_seconds=60.0)).up(calls=1)
    desk.pass_time(100.0)
    desk.release(1)

    assert desk.next_wake == desk.now + 60.0
    assert stops(desk.tick(59.9)) == []
    assert stops(desk.tick(0.1)) == [("fs-1", "idle")]


def test_a_busy_instance_is_never_idle() -> None:
    desk = Desk(make_policy(idle_seconds=1.0)).up(calls=1)

    assert (stops(desk.tick(1000.0)), desk.next_wake) == ([], None)


def test_a_persistent_server_is_not_reaped() -> None:
    desk = Desk(make_policy(strategy="persistent")).up()

    assert (stops(desk.tick(1e6)), desk.next_wake) == ([], None)


def test_only_instances_above_the_desired_count_are_reaped_the_longest_idle_first() -> None:
    desk = Desk(make_policy(max_instances=3, min_ready=1, idle_seconds=10.0))
    desk.clients(1)
    desk.ready(1)
    desk.acquire(1)
    desk.acquire(2)
    desk.ready(2)
    desk.release(2)
    desk.pass_time(1.0)
    desk.release(1)

    assert stops(desk.tick(9.0)) == [("fs-2", "idle")]
    assert (stops(desk.tick(1e6)), desk.next_wake) == ([], None)


# --- how many -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("always_on", "min_ready", "clients", "warm", "expected"),
    [
        (False, 0, 0, False, 0),
        (False, 0, 5, True, 0),
        (False, 2, 0, True, 0),
        (False, 2, 1, False, 2),
        (False, 2, 9, False, 2),
        (True, 0, 0, False, 0),
        (True, 0, 0, True, 1),
        (True, 1, 0, True, 1),
        (True, 3, 0, True, 3),
        (True, 3, 7, True, 3),
    ],
)
def test_the_desired_count(always_on: bool, min_ready: int, clients: int, warm: bool, expected: int) -> None:
    policy = make_policy(always_on=always_on, min_ready=min_ready)

    assert desired(policy, State(clients=clients, warm=warm)) == expected


@pytest.mark.parametrize("state", [State(held=True, warm=True), State(draining=True, warm=True)])
def test_nothing_is_desired_of_a_server_that_is_held_or_drains(state: State) -> None:
    assert desired(make_policy(always_on=True), state) == 0


def test_an_always_on_server_waits_for_its_turn_and_then_starts_what_is_desired() -> None:
    desk = Desk(make_policy(always_on=True, min_ready=2, max_instances=4))

    assert starts(desk.tick(100.0)) == []
    assert starts(desk.warm()) == [("fs-1", "always_on"), ("fs-2", "always_on")]


def test_a_call_does_not_wait_for_the_servers_turn() -> None:
    desk = Desk(make_policy(always_on=True))

    assert starts(desk.acquire(1)) == [("fs-1", "tool_call")]


def test_the_warm_pool_follows_the_clients() -> None:
    desk = Desk(make_policy(min_ready=2, max_instances=4, idle_seconds=10.0))

    assert starts(desk.clients(1)) == [("fs-1", "client_activate"), ("fs-2", "client_activate")]
    desk.ready(1)
    desk.ready(2)
    assert stops(desk.tick(100.0)) == []
    assert starts(desk.clients(2)) == []
    assert stops(desk.clients(0)) == [("fs-1", "idle"), ("fs-2", "idle")]


def test_the_cap_holds_for_whatever_is_desired() -> None:
    desk = Desk(make_policy(always_on=True, min_ready=5, max_instances=2))

    assert len(starts(desk.warm())) == 2


def test_a_lost_warm_instance_is_replaced_while_clients_are_there() -> None:
    desk = Desk(make_policy(min_ready=1, max_instances=2))
    desk.clients(1)
    desk.ready(1)

    assert starts(desk.exit(1)) == [("fs-2", "min_ready")]


def test_what_could_not_be_started_when_the_first_client_came_is_started_for_that_later() -> None:
    desk = Desk(make_policy(min_ready=2, max_instances=2))
    desk.acquire(1)
    desk.fail(1)
    desk.acquire(2)
    desk.fail(2)
    assert desk.state.next_try_at is not None

    assert starts(desk.clients(1)) == []
    desk.now = desk.state.next_try_at

    assert starts(desk.tick(0.0)) == [("fs-3", "client_activate"), ("fs-4", "client_activate")]


# --- probes -------------------------------------------------------------------------------------


def test_an_instance_that_only_a_probe_used_stops_once_released() -> None:
    desk = Desk()
    desk.acquire(1, cause=StartCause.BOOTSTRAP)
    desk.ready()

    assert stops(desk.release(1)) == [("fs-1", "its lists are learnt")]


def test_an_instance_that_somebody_else_used_as_well_stays() -> None:
    desk = Desk(make_policy(max_concurrent=2))
    desk.acquire(1, cause=StartCause.BOOTSTRAP)
    desk.ready()
    desk.acquire(2)
    desk.release(2)

    assert stops(desk.release(1)) == []


def test_an_instance_that_somebody_waits_for_stays() -> None:
    desk = Desk()
    desk.acquire(1, cause=StartCause.BOOTSTRAP)
    desk.ready()
    desk.acquire(2)

    actions = desk.release(1)

    assert (stops(actions), grants(actions)) == ([], [(2, "fs-1")])


def test_an_instance_that_is_desired_stays_after_a_probe() -> None:
    desk = Desk(make_policy(min_ready=1))
    desk.acquire(1, cause=StartCause.BOOTSTRAP)
    desk.ready()
    desk.clients(1)

    assert stops(desk.release(1)) == []


def test_an_instance_that_was_there_before_the_probe_stays() -> None:
    desk = Desk().up()
    desk.acquire(1, cause=StartCause.BOOTSTRAP)

    assert stops(desk.release(1)) == []


def test_an_instance_whose_probe_gave_up_is_reaped_even_if_the_server_is_persistent() -> None:
    desk = Desk(make_policy(strategy="persistent", idle_seconds=10.0))
    desk.acquire(1, cause=StartCause.BOOTSTRAP)
    desk.release(1)
    desk.ready()

    assert stops(desk.tick(10.0)) == [("fs-1", "idle")]


# --- operators, the node's end ------------------------------------------------------------------


def test_an_operators_start_has_one_instance_up_without_a_call() -> None:
    desk = Desk()

    assert starts(desk.operator_start()) == [("fs-1", "operator")]
    assert starts(desk.operator_start()) == []


def test_an_operators_stop_refuses_callers_and_waiters_and_lets_calls_finish() -> None:
    desk = Desk().up(calls=1)
    desk.acquire(2)

    actions = desk.operator_stop()

    assert (refusals(actions), stops(actions)) == ([(2, "stopping")], [])
    assert refusals(desk.acquire(3)) == [(3, "stopping")]
    assert stops(desk.release(1)) == [("fs-1", "drained")]
    assert changes(desk.exit(asked=True)) == [("draining", "disabled")]


def test_a_drain_that_takes_too_long_ends_the_calls() -> None:
    desk = Desk(make_policy(drain_timeout=15.0)).up(calls=1)
    desk.operator_stop()

    assert desk.next_wake == BEGINNING + 15.0
    assert stops(desk.tick(14.9)) == []
    assert stops(desk.tick(0.1)) == [("fs-1", "the drain timeout ran out")]


def test_an_idle_instance_and_one_that_starts_are_stopped_at_once_by_a_stop() -> None:
    desk = Desk(make_policy(max_instances=2)).up(calls=1)
    desk.acquire(2)
    desk.release(1)
    desk.release(2)

    assert stops(desk.operator_stop()) == [("fs-1", "drained"), ("fs-2", "drained")]


def test_a_held_server_stays_down_whoever_is_there() -> None:
    desk = Desk(make_policy(always_on=True, min_ready=1))
    desk.operator_stop()

    assert starts(desk.warm() + desk.clients(3) + desk.tick(1000.0) + desk.acquire(1)) == []


def test_a_start_lifts_an_operators_stop() -> None:
    desk = Desk()
    desk.operator_stop()

    assert starts(desk.operator_start()) == [("fs-1", "operator")]


def test_a_start_during_a_drain_takes_the_instance_back() -> None:
    desk = Desk().up(calls=1)
    desk.operator_stop()

    desk.operator_start()

    assert desk.shown is ServerState.READY
    desk.release(1)
    assert grants(desk.acquire(2)) == [(2, "fs-1")]


def test_a_start_while_the_last_instance_is_still_stopping_is_not_forgotten() -> None:
    desk = Desk().up()
    desk.operator_stop()

    assert starts(desk.operator_start()) == []
    assert starts(desk.exit(asked=True)) == [("fs-2", "operator")]


def test_a_stop_after_a_start_wins() -> None:
    desk = Desk().up()
    desk.operator_stop()
    desk.operator_start()

    desk.operator_stop()

    assert starts(desk.exit(asked=True)) == []


def test_retry_lifts_an_operators_stop() -> None:
    desk = Desk()
    desk.operator_stop()

    desk.retry()

    assert starts(desk.acquire(1)) == [("fs-1", "tool_call")]


def test_a_node_that_stops_waits_for_calls_but_not_longer_than_it_is_told() -> None:
    desk = Desk(make_policy(drain_timeout=15.0)).up(calls=1)

    assert stops(desk.drain()) == []
    assert refusals(desk.acquire(2)) == [(2, "stopping")]
    assert stops(desk.drain(patience=0.0)) == [("fs-1", "the drain timeout ran out")]


def test_a_drain_is_never_made_longer() -> None:
    desk = Desk(make_policy(drain_timeout=15.0)).up(calls=1)
    desk.drain(patience=3.0)
    desk.drain()

    assert desk.next_wake == BEGINNING + 3.0


def test_a_server_type_that_goes_on_after_it_was_asked_to_end_serves_again() -> None:
    desk = Desk().up(calls=1)
    desk.drain()

    desk.state = core.resume(desk.state)
    desk.tick()

    assert (desk.shown, desk.next_wake) == (ServerState.READY, None)


# --- what is shown ------------------------------------------------------------------------------


def test_every_state_says_why_and_what_happens_next() -> None:
    said: dict[ServerState, str] = {}

    def note(desk: Desk) -> Desk:
        state, reason = explain(desk.policy, desk.state)
        said[state] = reason
        assert state is desk.shown
        return desk

    note(Desk())
    desk = Desk(make_policy(always_on=True, min_ready=2, max_instances=2, backoff_base=4.0))
    desk.warm()
    note(desk)
    desk.ready(1)
    note(desk)
    desk.ready(2)
    note(desk)
    desk.acquire(1)
    desk.operator_stop()
    note(desk)
    desk.exit(1, asked=True)
    desk.exit(2, asked=True)
    note(desk)
    desk.retry()
    for number in (3, 4, 5):
        desk.fail(number)
    note(desk)
    desk.tick(8.0)
    desk.fail(6, fatal=True)
    desk.exit(7, asked=True)
    note(desk)

    assert said == {
        ServerState.COLD: "not running; the next call starts it",
        ServerState.STARTING: "starting because of always_on",
        ServerState.DEGRADED: "1 of 2 instances are ready; 1 starting",
        ServerState.READY: "always-on",
        ServerState.DRAINING: "an operator stopped it; calls in hand finish first",
        ServerState.DISABLED: "an operator stopped it; `server start` lifts it",
        ServerState.BACKING_OFF: "try 3 after: no luck",
        ServerState.SUSPENDED: "no luck; `server retry` tries again",
    }


@pytest.mark.parametrize(
    ("desk", "reason"),
    [
        (Desk().up(), "idle; stops after 60 s without calls"),
        (Desk().up(calls=1), "serving calls"),
        (Desk(make_policy(min_ready=1)), "kept warm: minReady while clients are connected"),
    ],
)
def test_a_ready_server_says_what_keeps_it(desk: Desk, reason: str) -> None:
    if not desk.state.instances:
        desk.clients(1)
        desk.ready()

    assert explain(desk.policy, desk.state) == (ServerState.READY, reason)


def test_a_server_that_failed_once_and_is_not_needed_says_what_happened() -> None:
    desk = Desk()
    desk.acquire(1)
    desk.fail()

    assert explain(desk.policy, desk.state) == (
        ServerState.COLD,
        "not running since: no luck; the next call starts it",
    )


def test_a_node_that_stops_does_not_blame_an_operator() -> None:
    desk = Desk().up(calls=1)
    desk.drain()

    assert explain(desk.policy, desk.state)[1] == "it is stopping for good; calls in hand finish first"


def test_the_policy_is_what_the_configuration_says() -> None:
    spec = ServerSpec(
        name=ServerName("fs"),
        strategy="persistent",
        activation_mode="always-on",
        max_concurrent=3,
        min_ready=2,
        max_instances=7,
        idle_seconds=1.0,
        queue_limit=4,
        queue_timeout_seconds=5.0,
        start_timeout_seconds=6.0,
        drain_timeout_seconds=8.0,
        restart=RestartSettings(max_retries=9, base_seconds=10.0, max_seconds=11.0),
    )

    assert facts.Policy.of(spec) == make_policy(
        always_on=True,
        strategy="persistent",
        max_concurrent=3,
        min_ready=2,
        max_instances=7,
        idle_seconds=1.0,
        queue_limit=4,
        queue_timeout=5.0,
        start_timeout=6.0,
        drain_timeout=8.0,
        max_retries=9,
        backoff_base=10.0,
        backoff_max=11.0,
    )
