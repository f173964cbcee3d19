"""Whose an instance is: lanes, owners, requests that go on with one instance, what is kept warm for whom."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from support.server_cores import Desk, grants, make_policy, refusals, starts, stops

from mcpv_node.actors.callers import ClientProfile
from mcpv_node.actors.leases import LeaseKind, StartCause
from mcpv_node.actors.server_type import core, facts
from mcpv_node.actors.server_type.facts import SHARED_LANE, Lane
from mcpv_node.actors.server_type.messages import ServerState
from mcpv_node.settings import ServerStrategy

SAMPLING = Lane(ClientProfile("sampling"))
ROOTS = Lane(ClientProfile("roots"))

IDLE = 60.0


def desk_of(strategy: ServerStrategy = "stateless", *, ready: int = 0, **settings: float) -> Desk:
    """Four instances of one call each, unless told otherwise; `ready` of them are there already."""
    policy = replace(make_policy(max_instances=4, strategy=strategy, idle_seconds=IDLE), **settings)
    return Desk(policy).pool(ready)


def use(desk: Desk, lease: int, client: str, key: str = "", *, lane: Lane = SHARED_LANE) -> str | None:
    """One call from beginning to end; the instance that served it."""
    desk.acquire(lease, client=client, key=key, lane=lane)
    served_by = desk.holder(lease)
    desk.pass_time(0.125)
    desk.release(lease)
    return served_by


# --- owners -------------------------------------------------------------------------------------


def test_nobody_owns_an_instance_before_its_server_has_asked_something() -> None:
    desk = desk_of()
    desk.acquire(1, client="a", lane=SAMPLING)
    desk.ready(1)

    assert desk.instance(1).lane == SAMPLING
    desk.owned(1, "a")
    assert desk.instance(1).lane == Lane(SAMPLING.profile, "a")


def test_an_instance_with_an_owner_serves_its_owner_alone() -> None:
    desk = desk_of(ready=1, max_concurrent=5)
    desk.acquire(1, client="a")
    desk.owned(1, "a")

    others = desk.acquire(2, client="b")
    own = desk.acquire(3, client="a")

    assert starts(others) == [("fs-2", "tool_call")]
    assert grants(own) == [(3, "fs-1")]
    assert grants(desk.ready(2)) == [(2, "fs-2")]


def test_who_waits_for_an_instance_that_becomes_anothers_gets_another() -> None:
    desk = desk_of(ready=1, max_instances=2)
    desk.acquire(1, client="a")
    desk.acquire(2, client="b")
    desk.acquire(3, client="c", within=100.0)
    desk.ready(2)
    desk.release(2)

    actions = desk.owned(1, "a")

    assert starts(actions) == []
    assert desk.waiting() == []
    assert (desk.holder(1), desk.holder(3)) == ("fs-1", "fs-2")


def test_a_claim_starts_what_those_who_wait_need_now() -> None:
    desk = desk_of("stateful", ready=1)
    desk.acquire(1, client="a", key="k")
    desk.acquire(2, client="b", key="k")
    assert starts(desk.log) == []

    actions = desk.owned(1, "a")

    assert starts(actions) == [("fs-2", "tool_call")]
    assert grants(desk.release(1)) == []
    assert grants(desk.ready(2)) == [(2, "fs-2")]


def test_a_clients_own_instance_comes_before_one_that_is_free_for_longer() -> None:
    desk = desk_of(ready=2, max_concurrent=2)
    use(desk, 1, "a")
    desk.owned(1, "a")
    desk.acquire(2, client="a")

    assert [use(desk, lease, "a") for lease in (3, 4)] == ["fs-1", "fs-1"]
    assert use(desk, 5, "b") == "fs-2"


def test_whose_own_instance_is_busy_may_have_a_shared_one() -> None:
    desk = desk_of(ready=2)
    desk.acquire(1, client="a")
    desk.owned(1, "a")

    assert use(desk, 2, "a") == "fs-2"


def test_an_instance_keeps_its_first_owner() -> None:
    desk = desk_of(ready=1, max_concurrent=2)
    desk.acquire(1, client="a")
    desk.acquire(2, client="b")
    desk.owned(1, "a")

    desk.owned(1, "b")

    assert desk.instance(1).lane.owner == "a"


def test_calls_under_way_go_on_when_the_instance_becomes_anothers() -> None:
    desk = desk_of(ready=1, max_concurrent=2)
    desk.acquire(1, client="a")
    desk.acquire(2, client="b")

    actions = desk.owned(1, "a")

    assert (refusals(actions), stops(actions)) == ([], [])
    assert desk.holder(2) == "fs-1"


@pytest.mark.parametrize(("number", "client"), [(9, "a"), (1, "")])
def test_a_claim_of_nobody_or_on_nothing_changes_nothing(number: int, client: str) -> None:
    desk = desk_of(ready=1)
    before = desk.state

    assert desk.owned(number, client) == []
    assert desk.state == before


# --- owners and bindings ------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["stateful", "exclusive"])
def test_a_key_that_two_clients_use_is_bound_for_each_once_the_instance_is_ones_own(
    strategy: ServerStrategy,
) -> None:
    desk = desk_of(strategy, ready=2)
    use(desk, 1, "a", "k")
    use(desk, 2, "b", "k")
    assert desk.state.bindings.keys() == {"k"}

    desk.owned(1, "a")

    assert [use(desk, lease, client, "k") for lease, client in enumerate("baba", 3)] == [
        "fs-2",
        "fs-1",
        "fs-2",
        "fs-1",
    ]


def test_a_client_with_several_keys_finds_each_ones_instance() -> None:
    desk = desk_of("exclusive", ready=2)
    first = [use(desk, lease, "a", key) for lease, key in enumerate("kl", 1)]
    for number in (1, 2):
        desk.owned(number, "a")

    again = [use(desk, lease, "a", key) for lease, key in enumerate("lk", 3)]

    assert first == ["fs-1", "fs-2"]
    assert again == ["fs-2", "fs-1"]


def test_a_key_waits_for_its_own_busy_instance_although_a_shared_one_is_free() -> None:
    desk = desk_of("stateful", ready=2)
    desk.acquire(1, client="a", key="k")
    desk.owned(1, "a")

    desk.acquire(2, client="a", key="k")

    assert desk.waiting() == [2]
    assert grants(desk.release(1)) == [(2, "fs-1")]


def test_a_key_whose_own_instance_is_gone_is_bound_anew() -> None:
    desk = desk_of("stateful", ready=2)
    use(desk, 1, "a", "k")
    desk.owned(1, "a")
    desk.exit(1)

    assert [use(desk, lease, "a", "k") for lease in (2, 3)] == ["fs-2", "fs-2"]


def test_keys_of_others_on_an_instance_that_becomes_anothers_are_bound_anew() -> None:
    desk = desk_of("stateful", ready=1)
    use(desk, 1, "a", "k")
    use(desk, 2, "b", "l")

    desk.owned(1, "a")
    desk.acquire(3, client="b", key="l")
    desk.ready(2)

    assert desk.holder(3) == "fs-2"
    assert use(desk, 4, "a", "k") == "fs-1"


def test_a_key_in_use_when_its_instance_becomes_ones_own_does_not_expire() -> None:
    desk = desk_of("stateful", ready=2, binding_ttl=10.0)
    desk.acquire(1, client="a", key="k")
    desk.owned(1, "a")

    desk.tick(100.0)
    desk.release(1)

    assert use(desk, 2, "a", "k") == "fs-1"


# --- the end of a client ------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["stateless", "stateful", "exclusive", "persistent"])
def test_an_idle_instance_of_a_client_that_is_gone_stops_at_once(strategy: ServerStrategy) -> None:
    desk = desk_of(strategy, ready=2, binding_ttl=0.0)
    use(desk, 1, "a", "k")
    desk.owned(1, "a")

    assert stops(desk.client_gone("a")) == [("fs-1", "its client is gone")]


def test_a_busy_instance_of_a_client_that_is_gone_stops_once_it_does_nothing() -> None:
    desk = desk_of(ready=1, max_concurrent=3)
    desk.acquire(1, client="a")
    desk.acquire(2, client="a", kind=LeaseKind.TASK)
    desk.owned(1, "a")

    assert stops(desk.client_gone("a")) == []
    assert stops(desk.release(1)) == []
    assert stops(desk.release(2)) == [("fs-1", "its client is gone")]


@pytest.mark.parametrize("client", ["b", "", "unknown"])
def test_the_end_of_a_client_touches_nothing_that_is_not_its_own(client: str) -> None:
    desk = desk_of(ready=2)
    use(desk, 1, "a")
    desk.owned(1, "a")
    use(desk, 2, "b")
    before = desk.state

    assert desk.client_gone(client) == []
    assert desk.state == before


# --- requests that go on with one instance ------------------------------------------------------


def test_a_request_that_goes_on_with_an_instance_gets_that_one_whatever_is_free() -> None:
    desk = desk_of("stateful", ready=3)
    use(desk, 1, "a", "k")

    assert grants(desk.acquire(2, client="a", key="k", instance=3)) == [(2, "fs-3")]


def test_it_waits_for_its_busy_instance_starts_nothing_and_holds_up_nobody() -> None:
    desk = desk_of(ready=1)
    desk.acquire(1)

    actions = desk.acquire(2, client="a", instance=1)
    other = desk.acquire(3, client="a")

    assert (starts(actions), grants(actions), refusals(actions)) == ([], [], [])
    assert starts(other) == [("fs-2", "tool_call")]
    assert grants(desk.ready(2)) == [(3, "fs-2")]
    assert grants(desk.release(1)) == [(2, "fs-1")]


def test_it_makes_nobody_give_way() -> None:
    desk = desk_of(ready=2, max_instances=2)
    desk.acquire(1)
    desk.acquire(2, lane=SAMPLING, instance=1)

    assert stops(desk.tick(1.0)) == []


def gone(desk: Desk) -> None:
    desk.exit(1)


def retired(desk: Desk) -> None:
    desk.retire(1)


def draining(desk: Desk) -> None:
    desk.acquire(90, instance=1)
    desk.operator_stop()


def starting(desk: Desk) -> None:
    desk.exit(1, asked=True)
    desk.state = replace(desk.state, serial=0)
    desk.acquire(91)


@pytest.mark.parametrize("how", [gone, retired, draining, starting])
def test_it_is_refused_at_once_where_its_instance_does_not_serve(how: object) -> None:
    desk = desk_of(ready=1)
    how(desk)  # type: ignore[operator]

    actions = desk.acquire(2, instance=1)

    assert refusals(actions) == [(2, "instance_died")]
    assert starts(actions) == []


@pytest.mark.parametrize("how", [gone, retired])
def test_it_is_refused_when_its_instance_goes_while_it_waits(how: object) -> None:
    desk = desk_of(ready=2)
    desk.acquire(1, instance=1)
    desk.acquire(2, instance=1)
    desk.log.clear()

    how(desk)  # type: ignore[operator]

    assert refusals(desk.log) == [(2, "instance_died")]


def test_it_may_go_on_with_an_instance_that_has_become_anothers() -> None:
    desk = desk_of(ready=1)
    use(desk, 1, "a")
    desk.owned(1, "a")

    assert grants(desk.acquire(2, client="a-again", instance=1)) == [(2, "fs-1")]
    assert desk.instance(1).lane.owner == "a"


def test_it_binds_no_key() -> None:
    desk = desk_of("stateful", ready=2)
    use(desk, 1, "a", "k")
    desk.acquire(2, client="a", key="k", instance=2)
    desk.acquire(3, client="b", key="l", instance=2, kind=LeaseKind.TASK)
    desk.release(2)

    assert use(desk, 4, "a", "k") == "fs-1"
    assert desk.state.bindings.keys() == {"k"}


# --- leases that need no slot -------------------------------------------------------------------


@pytest.mark.parametrize("kind", [LeaseKind.TASK, LeaseKind.SUBSCRIPTION])
def test_a_task_and_a_subscription_need_no_slot(kind: LeaseKind) -> None:
    desk = desk_of(ready=1, max_instances=1)
    desk.acquire(1)

    assert grants(desk.acquire(2, kind=kind)) == [(2, "fs-1")]
    assert grants(desk.acquire(3, kind=kind, instance=1)) == [(3, "fs-1")]


def test_one_start_is_enough_for_all_that_need_no_slot_and_the_calls_beside_them() -> None:
    desk = desk_of()
    for lease in (1, 2, 3):
        desk.acquire(lease, kind=LeaseKind.SUBSCRIPTION)
    desk.acquire(4)
    desk.acquire(5, kind=LeaseKind.SUBSCRIPTION)

    assert starts(desk.log) == [("fs-1", "tool_call")]
    assert {lease for lease, _ in grants(desk.ready(1))} == {1, 2, 3, 4, 5}


def test_a_call_that_waits_for_a_slot_holds_up_nobody_who_needs_none() -> None:
    desk = desk_of(max_instances=1)
    desk.acquire(1, client="a")
    desk.acquire(2, client="a")
    desk.acquire(3, client="a", kind=LeaseKind.SUBSCRIPTION)

    assert grants(desk.ready(1)) == [(1, "fs-1"), (3, "fs-1")]


# --- servers that hear of the client with each request ------------------------------------------


def test_a_modern_server_has_one_lane_for_all() -> None:
    desk = desk_of(max_concurrent=3)
    desk.acquire(1, lane=SAMPLING)
    desk.acquire(2, lane=ROOTS)
    assert len(starts(desk.log)) == 2, "nobody knows yet"
    desk.exit(2, asked=True)

    assert grants(desk.ready(1, any_lane=True)) == [(1, "fs-1"), (2, "fs-1")]
    assert grants(desk.acquire(3)) == [(3, "fs-1")]


def test_once_a_server_is_known_to_be_modern_one_start_serves_all_lanes() -> None:
    desk = desk_of(max_concurrent=3)
    desk.acquire(1)
    desk.ready(1, any_lane=True)
    desk.exit(1, asked=True)
    desk.log.clear()

    for lease, lane in enumerate((SAMPLING, ROOTS, SHARED_LANE), 2):
        desk.acquire(lease, lane=lane)

    assert starts(desk.log) == [("fs-2", "tool_call")]
    assert desk.instance(2).lane == SAMPLING, "should it have become a legacy one, it serves who caused it"


def test_a_key_keeps_its_instance_from_the_call_that_started_a_modern_server_on() -> None:
    desk = desk_of("stateful", max_concurrent=2)
    desk.acquire(1, key="k", lane=SAMPLING)
    desk.acquire(2, key="l", client="other", lane=ROOTS)
    desk.ready(2, any_lane=True)
    desk.ready(1, any_lane=True)
    first = desk.holder(1)
    for lease in (1, 2):
        desk.release(lease)

    assert [use(desk, 3 + n, "me", "k", lane=lane) for n, lane in enumerate((SAMPLING, ROOTS))] == [first] * 2


def test_a_modern_server_that_comes_back_as_a_legacy_one_has_lanes_again() -> None:
    desk = desk_of()
    desk.acquire(1)
    desk.ready(1, any_lane=True)
    desk.exit(1, asked=True)
    desk.acquire(2, lane=SAMPLING)
    desk.ready(2)

    assert starts(desk.acquire(3, lane=ROOTS)) == [("fs-3", "tool_call")]


def test_a_warm_pool_of_a_modern_server_is_everybodys() -> None:
    desk = desk_of(min_ready=1)
    desk.clients(1)
    desk.ready(1, any_lane=True)
    desk.log.clear()

    assert use(desk, 1, "a", lane=SAMPLING) == "fs-1"
    assert (starts(desk.log), stops(desk.tick(10 * IDLE))) == ([], [])


# --- singletons ---------------------------------------------------------------------------------


def test_a_singleton_has_one_instance_for_everybody_and_forwards_nothing_of_a_client() -> None:
    desk = desk_of("singleton", max_instances=1, max_concurrent=2)
    desk.acquire(1, client="a", lane=SAMPLING)
    desk.acquire(2, client="b", lane=ROOTS)

    assert starts(desk.log) == [("fs-1", "tool_call")]
    assert desk.instance(1).lane == SHARED_LANE
    assert grants(desk.ready(1)) == [(1, "fs-1"), (2, "fs-1")]


# --- what is kept warm --------------------------------------------------------------------------


def always_on(**settings: float) -> Desk:
    """Its one warm instance is ready."""
    desk = desk_of(always_on=True, **settings)
    desk.warm()
    desk.ready(1)
    return desk


def test_a_warm_instance_that_becomes_a_clients_own_is_replaced() -> None:
    desk = always_on()
    desk.acquire(1, client="a")

    assert starts(desk.owned(1, "a")) == [("fs-2", "always_on")]
    desk.ready(2)
    assert use(desk, 2, "b") == "fs-2"


def test_a_clients_own_instance_is_not_what_the_desired_count_keeps() -> None:
    desk = always_on()
    use(desk, 1, "a")
    desk.owned(1, "a")
    desk.ready(2)

    stopped = stops(desk.tick(IDLE))

    assert stopped == [("fs-1", "idle")]
    assert stops(desk.tick(10 * IDLE)) == []


def test_where_there_is_room_for_one_only_it_is_warm_for_others_when_its_client_has_left_it_idle() -> None:
    desk = always_on(max_instances=1)
    use(desk, 1, "a")
    waits = starts(desk.owned(1, "a"))
    wake = desk.next_wake

    stopped = stops(desk.tick(IDLE))

    assert waits == []
    assert wake is not None
    assert stopped == [("fs-1", "idle")]
    assert starts(desk.exit(1, asked=True)) == [("fs-2", "always_on")]
    assert desk.next_wake is None or desk.next_wake > desk.now


def test_what_is_kept_warm_is_in_the_lane_that_was_asked_for_last() -> None:
    desk = always_on()
    desk.acquire(1, client="a", lane=ROOTS)
    desk.ready(2)

    started = starts(desk.owned(2, "a"))
    desk.ready(3)
    old = stops(desk.tick(IDLE))

    assert started == [("fs-3", "always_on")]
    assert desk.instance(3).lane == ROOTS
    assert old == [("fs-1", "idle")]
    assert use(desk, 2, "b", lane=ROOTS) == "fs-3"


def test_the_caller_of_another_lane_brings_the_warm_instance_of_that_lane() -> None:
    desk = always_on()

    actions = desk.acquire(1, client="a", lane=ROOTS)

    assert starts(actions) == [("fs-2", "tool_call")]


def test_what_is_warm_follows_the_lane_although_the_call_itself_needs_no_start() -> None:
    desk = desk_of(min_ready=2)
    desk.clients(1)
    for number in (1, 2):
        desk.ready(number)
    desk.acquire(1, lane=ROOTS)  # and a second one, to be warm
    desk.ready(3)
    desk.ready(4)
    desk.acquire(2)
    desk.exit(4)
    desk.tick(2 * IDLE)
    assert [it.id for it in desk.state.instances if it.serves] == ["fs-1", "fs-2", "fs-3"]

    actions = desk.acquire(3, lane=ROOTS, kind=LeaseKind.SUBSCRIPTION)

    assert grants(actions) == [(3, "fs-3")]
    assert starts(actions) == [("fs-5", "min_ready")]


def test_a_probe_does_not_say_what_is_kept_warm() -> None:
    desk = always_on()
    use(desk, 1, "a", lane=ROOTS)
    desk.ready(2)

    desk.acquire(2, cause=StartCause.BOOTSTRAP)

    assert desk.state.lane == ROOTS


def test_an_instance_only_a_probe_used_is_not_kept_for_a_lane_nobody_asks_for() -> None:
    desk = desk_of(min_ready=1)
    desk.acquire(1, cause=StartCause.BOOTSTRAP)
    desk.ready(1)
    desk.acquire(2, lane=ROOTS)
    desk.ready(2)
    desk.clients(1)

    assert stops(desk.release(1)) == [("fs-1", "its lists are learnt")]


def test_a_server_that_serves_its_clients_is_ready_whosever_its_instances_are() -> None:
    desk = always_on(max_instances=1)
    desk.acquire(1, client="a")
    desk.owned(1, "a")

    assert desk.shown is ServerState.READY
    assert core.explain(desk.policy, desk.state) == (ServerState.READY, "always-on")


# --- at the cap ---------------------------------------------------------------------------------


def test_at_the_cap_the_longest_idle_instance_of_another_client_gives_way() -> None:
    desk = desk_of(ready=2, max_instances=2)
    for lease, client in enumerate("ab", 1):
        use(desk, lease, client)
        desk.owned(lease, client)

    actions = desk.acquire(3, client="c")

    assert stops(actions) == [("fs-1", "it gives way to other clients")]
    assert starts(desk.exit(1, asked=True)) == [("fs-3", "tool_call")]
    assert grants(desk.ready(3)) == [(3, "fs-3")]


def test_the_pool_that_is_kept_warm_makes_nobodys_instance_give_way() -> None:
    desk = always_on(max_instances=1)
    use(desk, 1, "a")

    assert stops(desk.owned(1, "a") + desk.tick(IDLE / 2)) == []


# --- found again --------------------------------------------------------------------------------


def test_an_instance_that_was_found_is_whose_it_was() -> None:
    desk = desk_of()
    desk.found(1, ready=False)
    desk.found(1, lane=Lane(ROOTS.profile, "a"))

    assert grants(desk.acquire(1, client="b", lane=ROOTS)) == []
    assert grants(desk.acquire(2, client="a", lane=ROOTS)) == [(2, "fs-1")]


def test_an_instance_that_was_found_while_it_starts_serves_its_own_lane() -> None:
    desk = desk_of()
    desk.found(1, ready=False)
    desk.found(1, ready=False, lane=ROOTS)
    desk.acquire(1)
    desk.acquire(2, lane=ROOTS)

    assert grants(desk.ready(1)) == [(2, "fs-1")]


def test_a_modern_server_that_was_found_has_one_lane_for_all() -> None:
    desk = desk_of()
    desk.found(1, ready=False)
    desk.found(1, any_lane=True)

    assert grants(desk.acquire(1, lane=ROOTS)) == [(1, "fs-1")]
    assert desk.state.any_lane


def test_an_owner_that_is_known_is_not_forgotten_for_an_older_answer() -> None:
    desk = desk_of()
    desk.found(1, ready=False)
    desk.ready(1)
    desk.acquire(1, client="a")
    desk.owned(1, "a")

    desk.found(1)

    assert desk.instance(1).lane.owner == "a"


# --- starts that ended over our question --------------------------------------------------------


def test_a_start_that_ended_over_our_question_is_made_again_and_nobody_hears_of_it() -> None:
    desk = desk_of()
    desk.acquire(1)

    actions = desk.fail(1, asked_wrongly=True)

    assert starts(actions) == [("fs-2", "tool_call")]
    assert refusals(actions) == []
    assert desk.state.failures == 0
    assert grants(desk.ready(2)) == [(1, "fs-2")]


def test_an_operators_start_that_ended_over_our_question_is_made_again() -> None:
    desk = desk_of()
    desk.operator_start()

    assert starts(desk.fail(1, asked_wrongly=True)) == [("fs-2", "operator")]


def test_a_start_that_ended_over_our_question_is_not_made_again_for_nobody() -> None:
    desk = desk_of()
    desk.acquire(1)
    desk.release(1)

    assert starts(desk.fail(1, asked_wrongly=True)) == []
    assert isinstance(desk.state, facts.State)
    assert desk.shown is ServerState.COLD
