"""Who sits where: strategies, bindings, lanes, turns, scale-out and the way back."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from support.server_cores import Desk, grants, make_policy, refusals, starts, stops

from mcpv_node.actors.callers import ClientProfile
from mcpv_node.actors.leases import InstanceId, LeaseKind, StartCause
from mcpv_node.actors.server_type import core, facts
from mcpv_node.actors.server_type.facts import SHARED_LANE, Lane
from mcpv_node.settings import ServerStrategy

SAMPLING = Lane(ClientProfile("sampling"))
ROOTS = Lane(ClientProfile("roots"))

# A float holds it exactly, so that sums of it meet deadlines exactly.
TICK = 1 / 1024

TTL = 300.0
IDLE = 60.0


def desk_of(strategy: ServerStrategy = "stateless", *, ready: int = 0, **settings: float) -> Desk:
    """Four instances of one call each, unless told otherwise; `ready` of them are there already."""
    policy = replace(make_policy(max_instances=4, strategy=strategy), **settings)
    return Desk(policy).pool(ready)


def use(desk: Desk, lease: int, key: str = "", *, lane: Lane = SHARED_LANE) -> str | None:
    """One call from beginning to end; the instance that served it."""
    desk.acquire(lease, key=key, lane=lane)
    served_by = desk.holder(lease)
    desk.pass_time(TICK)
    desk.release(lease)
    return served_by


# --- least loaded -------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["stateless", "persistent"])
def test_calls_one_after_the_other_go_round_all_that_are_ready(strategy: ServerStrategy) -> None:
    desk = desk_of(strategy, ready=3)

    served_by = [use(desk, lease) for lease in range(1, 7)]

    assert served_by == ["fs-1", "fs-2", "fs-3"] * 2


def test_equally_busy_instances_take_turns_too() -> None:
    desk = desk_of(ready=2, max_concurrent=2)
    desk.acquire(1)
    desk.pass_time(1.0)
    desk.acquire(2)
    desk.pass_time(1.0)

    served_by = [use(desk, lease) for lease in range(3, 7)]

    assert served_by == ["fs-1", "fs-2"] * 2


def test_a_call_that_nobody_waits_for_is_a_load_until_the_server_has_answered() -> None:
    desk = desk_of(ready=2, max_concurrent=3)
    desk.acquire(1)
    desk.abandon(1)

    assert [use(desk, lease) for lease in (2, 3)] == ["fs-2", "fs-2"]


# --- bindings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("stateless", ["fs-1", "fs-2", "fs-3", "fs-1"]),
        ("stateful", ["fs-1"] * 4),
        ("exclusive", ["fs-1"] * 4),
        ("singleton", ["fs-1"] * 4),
        ("persistent", ["fs-1", "fs-2", "fs-3", "fs-1"]),
    ],
)
def test_the_strategy_says_where_the_calls_of_one_key_go(
    strategy: ServerStrategy, expected: list[str]
) -> None:
    desk = desk_of(strategy, ready=1 if strategy == "singleton" else 3)

    assert [use(desk, lease, "k") for lease in range(1, 5)] == expected


@pytest.mark.parametrize("strategy", ["stateful", "exclusive"])
def test_a_key_is_bound_by_its_first_use_to_whatever_instance_served_it(strategy: ServerStrategy) -> None:
    desk = desk_of(strategy, ready=2)

    first = {key: use(desk, lease, key) for lease, key in enumerate("ab", 1)}
    again = {key: use(desk, lease, key) for lease, key in enumerate("ba", 11)}

    assert first == {"a": "fs-1", "b": "fs-2"}
    assert again == first


def test_a_key_is_bound_to_the_instance_that_was_started_for_it() -> None:
    desk = desk_of("stateful")
    desk.acquire(1, key="k")
    desk.ready(1)

    assert desk.state.bindings["k"].instance == "fs-1"


def test_without_a_key_nothing_is_bound() -> None:
    desk = desk_of("stateful", ready=2)

    assert [use(desk, lease) for lease in (1, 2)] == ["fs-1", "fs-2"]
    assert desk.state.bindings == {}


def test_a_probe_binds_nothing() -> None:
    desk = desk_of("exclusive", ready=1, max_instances=1)
    desk.acquire(1, cause=StartCause.BOOTSTRAP, key="bootstrap")
    desk.release(1)

    assert use(desk, 2, "k") == "fs-1"


def test_a_bound_instance_serves_others_as_well_if_it_is_stateful() -> None:
    desk = desk_of("stateful", ready=1, max_instances=1)

    assert [use(desk, lease, key) for lease, key in enumerate(["a", "b", ""], 1)] == ["fs-1"] * 3


def test_who_waits_for_its_busy_instance_holds_up_nobody() -> None:
    desk = desk_of("stateful", ready=2)
    use(desk, 1, "k")
    desk.acquire(2, key="k")

    desk.acquire(3, key="k")
    desk.acquire(4, key="other")

    assert desk.waiting() == [3]
    assert desk.holder(4) == "fs-2"
    assert len(desk.state.instances) == 2  # no other instance would help the one that waits


def test_who_waits_behind_one_that_waits_for_its_busy_instance_is_not_held_up() -> None:
    desk = desk_of("stateful", ready=2, max_instances=2)
    desk.acquire(1, key="a")
    desk.acquire(2, key="b")
    desk.acquire(3, key="a", client="one")
    desk.acquire(4, key="c", client="one")

    assert grants(desk.release(2)) == [(4, "fs-2")]
    assert grants(desk.release(1)) == [(3, "fs-1")]


def test_who_waits_for_its_instance_gets_it_although_another_is_free() -> None:
    desk = desk_of("stateful", ready=2)
    desk.acquire(1, key="k")
    desk.acquire(2, key="k")

    assert grants(desk.release(1)) == [(2, "fs-1")]


def test_a_key_whose_instance_serves_no_more_is_bound_anew() -> None:
    desk = desk_of("stateful", ready=2)
    use(desk, 1, "k")
    desk.retire(1)

    assert use(desk, 2, "k") == "fs-2"
    assert desk.state.bindings["k"].instance == "fs-2"


@pytest.mark.parametrize("asked", [True, False])
def test_bindings_vanish_with_the_instance(asked: bool) -> None:
    desk = desk_of("stateful", ready=2)
    use(desk, 1, "k")
    desk.acquire(2, key="k")

    desk.exit(1, asked=asked)

    assert desk.state.bindings == {}
    assert desk.state.keys == {}
    assert use(desk, 3, "k") == "fs-2"


def test_who_waited_for_an_instance_that_is_gone_goes_elsewhere() -> None:
    desk = desk_of("stateful", ready=2)
    desk.acquire(1, key="k")
    desk.acquire(2, key="k")

    assert grants(desk.exit(1)) == [(2, "fs-2")]


def test_who_waited_for_an_instance_whose_end_suspends_the_server_is_refused_like_who_comes_now() -> None:
    desk = desk_of("stateful", ready=2, max_retries=0)
    desk.acquire(1, key="k")
    desk.acquire(2, key="k")

    who_waited = desk.exit(1)
    who_comes = desk.acquire(3)

    assert (grants(who_waited), refusals(who_waited)) == ([], [(2, "suspended")])
    assert refusals(who_comes) == [(3, "suspended")]


def test_the_end_of_an_older_call_does_not_bind_its_key_back() -> None:
    desk = desk_of("stateful", ready=2)
    desk.acquire(1, key="k")
    desk.retire(1)
    use(desk, 2, "k")

    desk.release(1)

    assert desk.state.bindings["k"].instance == "fs-2"


# --- time to live -------------------------------------------------------------------------------


def test_a_binding_expires_after_its_time_and_not_before() -> None:
    desk = desk_of("stateful", ready=2, binding_ttl=TTL)
    desk.clients(0)
    use(desk, 1, "k")

    desk.tick(TTL - 0.125)
    before = set(desk.state.bindings)
    wake = desk.next_wake
    desk.tick(0.125)

    assert before == {"k"}
    assert wake == desk.now
    assert desk.state.bindings == {}


def test_every_use_makes_a_binding_young_again() -> None:
    desk = desk_of("stateful", ready=1, binding_ttl=TTL)
    use(desk, 1, "k")
    desk.tick(TTL - 1)
    use(desk, 2, "k")

    desk.tick(TTL - 1)

    assert set(desk.state.bindings) == {"k"}


def test_a_time_to_live_of_zero_is_for_ever() -> None:
    desk = desk_of("stateful", ready=1, binding_ttl=0.0)
    use(desk, 1, "k")

    desk.tick(1e9)

    assert set(desk.state.bindings) == {"k"}
    assert desk.next_wake is None


def test_a_key_does_not_expire_while_a_call_uses_it_and_its_time_begins_at_the_end() -> None:
    desk = desk_of("stateful", ready=1, binding_ttl=TTL)
    desk.acquire(1, key="k")
    desk.tick(10 * TTL)
    in_use = set(desk.state.bindings)
    desk.release(1)

    desk.tick(TTL - 0.125)

    assert in_use == set(desk.state.bindings) == {"k"}


def test_a_key_does_not_expire_while_a_call_waits_for_its_instance() -> None:
    desk = desk_of("stateful", ready=2, binding_ttl=10.0, queue_timeout=100.0)
    use(desk, 1, "k")
    desk.acquire(2, key="other")  # the longest idle one
    desk.acquire(3, key="third")
    busy_with = desk.holder(3)
    assert busy_with == desk.state.bindings["k"].instance
    desk.acquire(4, key="k")

    later = desk.tick(20.0)

    assert starts(later) == []
    assert grants(desk.release(2)) == []  # free, but not where the state of this key is
    assert grants(desk.release(3)) == [(4, busy_with)]


def test_only_the_keys_that_were_not_used_expire() -> None:
    desk = desk_of("stateful", ready=1, binding_ttl=TTL)
    use(desk, 1, "old")
    desk.pass_time(1.0)
    use(desk, 2, "young")

    desk.tick(TTL - 0.5)

    assert set(desk.state.bindings) == {"young"}


@pytest.mark.parametrize("strategy", ["stateful", "exclusive"])
def test_an_instance_with_bindings_is_kept_until_they_expire(strategy: ServerStrategy) -> None:
    desk = desk_of(strategy, ready=1, binding_ttl=TTL, idle_seconds=IDLE)
    use(desk, 1, "k")

    kept = stops(desk.tick(TTL - 0.125))
    gone = stops(desk.tick(0.125))

    assert kept == []
    assert gone == [("fs-1", "idle")]


def test_bindings_do_not_outlive_a_strategy_that_has_none() -> None:
    desk = desk_of("stateful", ready=2)
    use(desk, 1, "k")

    desk.reconfigure(replace(desk.policy, strategy="stateless"))

    assert desk.state.bindings == {}
    assert [use(desk, lease, "k") for lease in (2, 3)] == ["fs-2", "fs-1"]


def test_a_strategy_that_becomes_exclusive_leaves_each_instance_its_last_key() -> None:
    desk = desk_of("stateful", ready=1)
    for lease, key in enumerate("abc", 1):
        use(desk, lease, key)
    use(desk, 10, "b")

    desk.reconfigure(replace(desk.policy, strategy="exclusive"))

    assert set(desk.state.bindings) == {"b"}


# --- exclusive ----------------------------------------------------------------------------------


def test_an_exclusive_instance_serves_one_key_alone() -> None:
    desk = desk_of("exclusive", ready=1, max_concurrent=2)
    desk.acquire(1, key="a")

    actions = desk.acquire(2, key="b")

    assert starts(actions) == [("fs-2", "tool_call")]
    assert grants(desk.ready(2)) == [(2, "fs-2")]
    assert grants(desk.acquire(3, key="a")) == [(3, "fs-1")]


def test_calls_without_a_key_go_to_no_instance_that_a_key_has() -> None:
    desk = desk_of("exclusive", ready=2)
    use(desk, 1, "a")

    assert use(desk, 2) == "fs-2"


@pytest.mark.parametrize("strategy", ["stateful", "exclusive"])
def test_one_start_is_enough_for_all_calls_of_one_new_key(strategy: ServerStrategy) -> None:
    desk = desk_of(strategy)

    for lease in range(1, 6):
        desk.acquire(lease, key="k")

    assert starts(desk.log) == [("fs-1", "tool_call")]


@pytest.mark.parametrize(("strategy", "expected"), [("stateful", 2), ("exclusive", 3)])
def test_as_many_start_as_the_waiting_keys_need(strategy: ServerStrategy, expected: int) -> None:
    desk = desk_of(strategy, max_concurrent=2)

    for lease, key in enumerate("aabbc", 1):
        desk.acquire(lease, key=key)

    assert len(starts(desk.log)) == expected


def full_of_keys(**settings: float) -> Desk:
    """Two exclusive instances at the cap: `a` was used before `b`."""
    desk = desk_of("exclusive", ready=2, max_instances=2, idle_seconds=IDLE, queue_timeout=500.0, **settings)
    use(desk, 1, "a")
    desk.pass_time(5.0)
    use(desk, 2, "b")
    desk.pass_time(5.0)
    return desk


def test_at_the_cap_the_key_that_was_idle_longest_gives_way_after_its_idle_time_and_not_before() -> None:
    desk = full_of_keys()
    a_idle_since = desk.instance(1).idle_since
    assert a_idle_since is not None

    at_once = stops(desk.acquire(3, key="c"))
    wake = desk.next_wake
    early = stops(desk.tick(IDLE - 10.5))
    in_time = stops(desk.tick(1.0))

    assert (at_once, early) == ([], [])
    assert wake == a_idle_since + IDLE
    assert in_time == [("fs-1", "it gives way to other clients")]
    assert starts(desk.exit(1, asked=True)) == [("fs-3", "tool_call")]
    assert grants(desk.ready(3)) == [(3, "fs-3")]
    assert set(desk.state.bindings) == {"b", "c"}


def test_a_key_in_use_gives_way_to_nobody() -> None:
    desk = full_of_keys()
    desk.acquire(3, key="a")
    desk.acquire(4, key="c")

    actions = desk.tick(2 * IDLE)

    assert stops(actions) == [("fs-2", "it gives way to other clients")]


def test_no_more_keys_give_way_than_are_needed_and_nobody_looks_again_while_they_leave() -> None:
    desk = full_of_keys()
    desk.acquire(3, key="c", within=900.0)

    actions = desk.tick(3 * IDLE)

    assert stops(actions) == [("fs-1", "it gives way to other clients")]
    assert desk.next_wake is not None
    assert desk.next_wake > desk.now


def test_as_many_keys_give_way_at_once_as_new_ones_wait() -> None:
    desk = full_of_keys()
    desk.acquire(3, key="c")
    desk.acquire(4, key="d")

    actions = desk.tick(3 * IDLE)

    assert [name for name, _ in stops(actions)] == ["fs-1", "fs-2"]


def test_nothing_gives_way_while_nothing_may_start() -> None:
    desk = full_of_keys()
    desk.pass_time(2 * IDLE)
    desk.state = replace(desk.state, failures=3, failed_at=desk.now, next_try_at=desk.now + 10.0)

    actions = desk.acquire(3, key="c")
    wake = desk.next_wake

    assert stops(actions) == []
    assert wake == desk.now + 10.0
    assert stops(desk.tick(10.0)) == [("fs-1", "it gives way to other clients")]


def test_an_exclusive_call_waits_for_the_binding_that_expires_first() -> None:
    desk = full_of_keys(binding_ttl=20.0)
    desk.acquire(3, key="c")

    actions = desk.tick(11.0)

    assert grants(actions) == [(3, "fs-1")]
    assert "a" not in desk.state.bindings


# --- singleton, persistent ----------------------------------------------------------------------


def test_callers_of_a_singleton_share_its_instance_and_each_free_slot_serves_the_next() -> None:
    desk = desk_of("singleton", max_instances=1, max_concurrent=2)
    for lease in (1, 2, 3, 4):
        desk.acquire(lease)
    desk.ready(1)

    assert len(starts(desk.log)) == 1
    assert desk.granted() == [1, 2]
    assert grants(desk.release(1)) == [(3, "fs-1")]  # a partial release is enough
    assert grants(desk.release(3)) == [(4, "fs-1")]


@pytest.mark.parametrize(
    ("strategy", "is_reaped"),
    [
        ("stateless", True),
        ("stateful", True),
        ("exclusive", True),
        ("singleton", True),
        ("persistent", False),
    ],
)
def test_idle_instances_without_bindings_are_reaped_unless_persistent(
    strategy: ServerStrategy, is_reaped: bool
) -> None:
    desk = desk_of(strategy, ready=1, max_instances=1, idle_seconds=IDLE)
    use(desk, 1)

    wake = desk.next_wake
    stopped = stops(desk.tick(IDLE))

    assert (wake is not None) is is_reaped
    assert stopped == ([("fs-1", "idle")] if is_reaped else [])


# --- lanes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["stateless", "stateful", "exclusive", "persistent"])
def test_lanes_never_cross(strategy: ServerStrategy) -> None:
    desk = desk_of(strategy, ready=1)

    actions = desk.acquire(1, lane=SAMPLING, key="k")

    assert starts(actions) == [("fs-2", "tool_call")]
    assert desk.instance(2).lane == SAMPLING
    assert grants(desk.ready(2)) == [(1, "fs-2")]
    assert use(desk, 2, "other") == "fs-1"


def test_a_free_instance_of_another_lane_is_left_alone_while_there_is_room() -> None:
    desk = desk_of(ready=1, max_instances=2)

    assert stops(desk.acquire(1, lane=SAMPLING)) == []


def test_a_start_for_one_lane_is_none_for_another() -> None:
    desk = desk_of()
    desk.acquire(1, lane=SAMPLING)
    desk.acquire(2, lane=ROOTS)

    assert grants(desk.ready(2)) == [(2, "fs-2")]
    assert grants(desk.ready(1)) == [(1, "fs-1")]


def test_at_the_cap_the_longest_idle_instance_of_another_lane_makes_room() -> None:
    desk = desk_of(ready=2, max_instances=2)
    use(desk, 1)
    desk.pass_time(1.0)
    use(desk, 2)
    desk.pass_time(1.0)
    use(desk, 3)  # fs-1 again

    actions = desk.acquire(4, lane=SAMPLING)

    assert stops(actions) == [("fs-2", "it gives way to other clients")]
    assert starts(desk.exit(2, asked=True)) == [("fs-3", "tool_call")]
    assert grants(desk.ready(3)) == [(4, "fs-3")]


def test_a_busy_instance_makes_room_when_it_is_free() -> None:
    desk = desk_of(ready=1, max_instances=1)
    desk.acquire(1)
    waits = stops(desk.acquire(2, lane=SAMPLING))

    assert waits == []
    assert stops(desk.release(1)) == [("fs-1", "it gives way to other clients")]


def test_nothing_makes_room_for_whom_a_start_is_under_way() -> None:
    desk = desk_of(ready=1, max_instances=2)
    desk.acquire(1, lane=SAMPLING)

    actions = desk.tick(0.5)

    assert stops(actions) == []
    assert desk.next_wake is not None
    assert desk.next_wake > desk.now


def test_an_instance_with_bindings_makes_room_only_after_its_idle_time() -> None:
    desk = desk_of("stateful", ready=1, max_instances=1, idle_seconds=IDLE, queue_timeout=500.0)
    use(desk, 1, "k")

    at_once = stops(desk.acquire(2, key="x", lane=SAMPLING))
    later = stops(desk.tick(IDLE))

    assert at_once == []
    assert later == [("fs-1", "it gives way to other clients")]


def test_the_same_key_in_two_lanes_is_two_keys() -> None:
    desk = desk_of("stateful", ready=2, max_concurrent=1)
    use(desk, 1, "k")
    desk.acquire(2, key="k", lane=SAMPLING)
    desk.ready(3)
    desk.release(2)

    served_by = [use(desk, 3, "k"), use(desk, 4, "k", lane=SAMPLING), use(desk, 5, "k")]

    assert served_by == ["fs-1", "fs-3", "fs-1"]


# --- turns --------------------------------------------------------------------------------------


def queue_of(*clients: str, **settings: float) -> Desk:
    """One instance, busy with call 0; one waiter for each name, numbered from 1."""
    desk = desk_of(ready=1, max_instances=1, queue_limit=5000, queue_timeout=1e9, **settings)
    desk.acquire(0)
    for lease, client in enumerate(clients, 1):
        desk.acquire(lease, client=client)
    desk.log.clear()
    return desk


def served(desk: Desk) -> list[int]:
    """Release call after call until nobody waits; the order in which they were served."""
    running = next(lease for it in desk.state.instances for lease in it.busy)
    while desk.state.waiters:
        ((following, _),) = grants(desk.release(running))
        running = following  # type: ignore[assignment]
    return desk.granted()


@pytest.mark.parametrize(
    ("clients", "expected"),
    [
        ("aaaa", [1, 2, 3, 4]),
        ("aaab", [1, 4, 2, 3]),
        ("aabb", [1, 3, 2, 4]),
        ("aaabbc", [1, 4, 6, 2, 5, 3]),
        ("abab", [1, 2, 3, 4]),
        ("baaa", [1, 2, 3, 4]),
    ],
)
def test_clients_take_turns_and_each_is_served_in_its_own_order(clients: str, expected: list[int]) -> None:
    assert served(queue_of(*clients)) == expected


def test_a_thousand_calls_of_one_client_let_another_one_through_at_once() -> None:
    desk = queue_of(*"a" * 1000)
    desk.release(0)

    desk.acquire(2000, client="b")

    assert grants(desk.release(1)) == [(2000, "fs-1")]


def test_a_stream_of_new_clients_does_not_starve_one_that_was_served_before() -> None:
    desk = queue_of("a", "a")
    desk.release(0)
    running, passed = 1, 0

    while not any(lease == 2 for lease in desk.granted()):
        for _ in range(2):
            desk.acquire(
                100 + len(desk.log) + len(desk.state.waiters), client=f"new-{len(desk.log)}-{passed}"
            )
            passed += 1
        ((running, _),) = grants(desk.release(running))
        assert passed <= 10

    assert passed <= 10


def test_turns_are_forgotten_when_nobody_waits() -> None:
    desk = queue_of("a", "a", "b")
    during = set(desk.state.turns)
    served(desk)

    assert during == {"a", "b"}
    assert desk.state.turns == {}


@pytest.mark.parametrize("how", ["released", "refused", "start failed"])
def test_turns_are_forgotten_however_the_queue_ends(how: str) -> None:
    desk = Desk(make_policy(max_instances=1, start_timeout=1.0))
    desk.acquire(1, client="a", within=5.0)
    match how:
        case "released":
            desk.release(1)
        case "refused":
            desk.tick(5.0)
        case _:
            desk.fail(1, fatal=True)

    assert desk.waiting() == []
    assert desk.state.turns == {}


def test_a_queue_that_never_empties_remembers_only_those_who_wait() -> None:
    desk = queue_of("for ever")
    for lease in range(10, 60):
        desk.acquire(lease, client=f"client-{lease}")
        desk.release(lease)

    assert set(desk.state.turns) == {"for ever"}


def test_clients_without_a_name_take_turns_by_their_keys() -> None:
    desk = desk_of("stateful", ready=1, max_instances=1)
    desk.acquire(0, key="x")
    for lease, key in enumerate("aab", 1):
        desk.acquire(lease, key=key)

    assert served(desk)[-3:] == [1, 3, 2]


# --- growing and shrinking ----------------------------------------------------------------------


def test_a_burst_starts_what_it_needs_in_parallel_and_not_more() -> None:
    desk = desk_of(max_instances=8, max_concurrent=2)

    for lease in range(1, 6):
        desk.acquire(lease)

    assert len(starts(desk.log)) == 3


def test_a_burst_stops_at_the_cap() -> None:
    desk = desk_of(max_instances=3)

    for lease in range(1, 20):
        desk.acquire(lease)

    assert len(starts(desk.log)) == 3


def test_free_slots_and_starts_under_way_count_before_anything_is_started() -> None:
    desk = desk_of(ready=1, max_concurrent=2, max_instances=4)
    for lease in (1, 2, 3, 4):
        desk.acquire(lease)
    first = starts(desk.log)

    second = starts(desk.acquire(5))

    assert len(first) == 1
    assert len(second) == 1


def test_bound_waiters_start_nothing_among_those_who_do() -> None:
    desk = desk_of("stateful", ready=1)
    desk.acquire(1, key="a")
    log = [desk.acquire(lease, key=key) for lease, key in enumerate(["a", "a", "b", "a", "c"], 2)]

    assert [len(starts(actions)) for actions in log] == [0, 0, 1, 0, 1]


def test_surplus_is_trimmed_after_its_idle_time_down_to_what_is_kept_ready() -> None:
    desk = desk_of(min_ready=1, idle_seconds=IDLE)
    desk.clients(1)
    for lease in range(1, 4):
        desk.acquire(lease)
    for number in range(1, 4):
        desk.ready(number)
    for lease in range(1, 4):
        desk.release(lease)

    early = stops(desk.tick(IDLE - 0.125))
    wake = desk.next_wake
    late = stops(desk.tick(0.25))

    assert early == []
    assert wake == desk.now - 0.125
    assert len(late) == 2
    assert sum(it.serves for it in desk.state.instances) == 1
    assert desk.next_wake is None


def test_everything_stops_with_clients_connected_where_nothing_is_kept_ready() -> None:
    desk = desk_of(ready=2, idle_seconds=IDLE)
    desk.clients(3)

    assert len(stops(desk.tick(IDLE))) == 2


def test_what_is_kept_ready_starts_in_parallel_and_goes_when_the_last_client_has_left() -> None:
    desk = desk_of(min_ready=3, idle_seconds=IDLE)

    begun = starts(desk.clients(1))
    for number in (1, 2, 3):
        desk.ready(number)
    kept = stops(desk.tick(10 * IDLE))
    left = stops(desk.clients(0))

    assert begun == [("fs-1", "min_ready"), ("fs-2", "min_ready"), ("fs-3", "min_ready")]
    assert kept == []
    assert len(left) == 3


def test_a_call_while_the_warm_pool_starts_starts_nothing_beside_it() -> None:
    desk = desk_of(min_ready=2)
    desk.clients(1)

    assert starts(desk.acquire(1)) == []
    assert grants(desk.ready(2)) == [(1, "fs-2")]


# --- other settings while it runs ---------------------------------------------------------------


def test_a_higher_cap_helps_those_who_wait_at_once() -> None:
    desk = desk_of(ready=1, max_instances=1)
    for lease in (1, 2, 3):
        desk.acquire(lease)

    assert len(starts(desk.reconfigure(replace(desk.policy, max_instances=3)))) == 2


def test_a_lower_cap_drains_what_is_too_much_and_keeps_what_keys_are_bound_to() -> None:
    desk = desk_of("stateful", ready=3)
    use(desk, 1, "k")
    use(desk, 2)
    desk.acquire(3)

    actions = desk.reconfigure(replace(desk.policy, max_instances=1))

    assert stops(actions) == [("fs-2", "drained")]
    assert [it.id for it in desk.state.instances if it.serves] == ["fs-1"]
    assert stops(desk.release(3)) == [("fs-3", "drained")]


def test_more_waiters_than_a_lowered_cap_allows_start_nothing() -> None:
    desk = desk_of(ready=4)
    for lease in range(1, 9):
        desk.acquire(lease)
    desk.log.clear()

    desk.reconfigure(replace(desk.policy, max_instances=2))
    desk.exit(1, asked=True)

    assert starts(desk.log) == []


def test_a_drained_surplus_lets_its_call_finish() -> None:
    desk = desk_of(ready=2)
    desk.acquire(1)
    desk.acquire(2)

    at_once = stops(desk.reconfigure(replace(desk.policy, max_instances=1)))
    (surplus,) = [it for it in desk.state.instances if it.drain_until is not None]
    stopped = stops(desk.release(int(surplus.busy[0])))

    assert at_once == []
    assert stopped == [(surplus.id, "drained")]


def test_more_calls_at_once_are_given_out_at_once() -> None:
    desk = desk_of(ready=1, max_instances=1)
    for lease in (1, 2, 3):
        desk.acquire(lease)

    assert grants(desk.reconfigure(replace(desk.policy, max_concurrent=2))) == [(2, "fs-1")]


def test_a_shorter_idle_time_counts_for_those_who_are_idle_already() -> None:
    desk = desk_of(ready=1, idle_seconds=600.0)
    desk.tick(IDLE)

    assert stops(desk.reconfigure(replace(desk.policy, idle_seconds=IDLE))) == [("fs-1", "idle")]


# --- calls nobody waits for ---------------------------------------------------------------------


def test_an_abandoned_call_keeps_its_slot_until_the_server_has_answered() -> None:
    desk = desk_of(ready=1, max_instances=1)
    desk.acquire(1)
    desk.abandon(1)

    assert grants(desk.acquire(2)) == []
    assert grants(desk.release(1)) == [(2, "fs-1")]


def test_an_abandoned_call_keeps_its_instance_from_being_idle() -> None:
    desk = desk_of(ready=1, idle_seconds=IDLE)
    desk.acquire(1)
    desk.abandon(1)

    assert stops(desk.tick(10 * IDLE)) == []


@pytest.mark.parametrize("abandoned_first", [True, False])
def test_a_drain_does_not_wait_for_an_abandoned_call(abandoned_first: bool) -> None:
    desk = desk_of(ready=1)
    desk.acquire(1)
    log = [desk.abandon(1), desk.drain()] if abandoned_first else [desk.drain(), desk.abandon(1)]

    assert stops([action for actions in log for action in actions]) == [("fs-1", "drained")]


def test_an_abandoned_call_is_abandoned_once_and_an_unknown_one_never() -> None:
    desk = desk_of(ready=1)
    desk.acquire(1)
    desk.abandon(1)
    once = desk.state

    desk.abandon(1)
    desk.abandon(77)

    assert desk.state == once


def test_a_key_is_in_use_while_its_abandoned_call_runs() -> None:
    desk = desk_of("stateful", ready=1, binding_ttl=TTL)
    desk.acquire(1, key="k")
    desk.abandon(1)
    desk.tick(2 * TTL)

    assert set(desk.state.bindings) == {"k"}


# --- found again --------------------------------------------------------------------------------


def test_an_instance_that_was_found_goes_on_with_its_calls() -> None:
    desk = desk_of(max_instances=1, max_concurrent=2)

    desk.found(1, busy=(7,), abandoned=(8,))

    assert grants(desk.acquire(9)) == []
    assert grants(desk.release(7)) == [(9, "fs-1")]
    assert grants(desk.acquire(10)) == []
    assert grants(desk.release(8)) == [(10, "fs-1")]


def test_an_instance_that_is_asked_what_it_does_counts_as_a_start_until_it_has_said_so() -> None:
    desk = desk_of()
    desk.found(1, ready=False)

    nothing = starts(desk.acquire(5))
    granted = grants(desk.found(1, ready=True))

    assert nothing == []
    assert granted == [(5, "fs-1")]


def test_nothing_is_started_beside_instances_that_are_still_being_found() -> None:
    desk = desk_of(min_ready=2, always_on=True)
    desk.state = replace(desk.state, warm=True)

    for number in (1, 2):
        desk.found(number, ready=False)
    desk.tick()

    assert starts(desk.log) == []


def test_an_instance_found_twice_is_found_once() -> None:
    desk = desk_of()
    desk.found(1)
    desk.acquire(3)

    desk.found(1)

    assert [it.id for it in desk.state.instances] == [InstanceId("fs-1")]
    assert desk.holder(3) == "fs-1"


def test_an_idle_instance_that_was_found_stops_after_its_time() -> None:
    desk = desk_of(idle_seconds=IDLE)
    desk.found(1)

    assert stops(desk.tick(IDLE)) == [("fs-1", "idle")]


def test_more_instances_found_than_allowed_are_drained() -> None:
    desk = desk_of(max_instances=1)
    desk.found(1, busy=(1,))
    desk.found(2)

    assert stops(desk.log) == [("fs-2", "drained")]


# --- refusals in a queue with keys --------------------------------------------------------------


def test_a_waiter_for_a_busy_instance_is_refused_like_any_other_when_its_time_is_over() -> None:
    desk = desk_of("stateful", ready=2, queue_timeout=30.0)
    desk.acquire(1, key="k")
    desk.acquire(2, key="k")

    assert refusals(desk.tick(29.875)) == []
    assert refusals(desk.tick(0.125)) == [(2, "queue_timeout")]


def test_leases_that_hold_no_slot_keep_a_key_in_use() -> None:
    desk = desk_of("stateful", ready=1, binding_ttl=TTL, idle_seconds=IDLE)
    desk.acquire(1, key="k", kind=LeaseKind.SUBSCRIPTION)

    assert stops(desk.tick(3 * TTL)) == []
    assert set(desk.state.bindings) == {"k"}


def test_the_decision_is_the_same_for_the_same_facts() -> None:
    desk = desk_of("exclusive", ready=2)
    asked = facts.AcquireAsked(7, StartCause.TOOL_CALL, LeaseKind.CALL, desk.now + 5, "c", "k")  # type: ignore[arg-type]

    once = core.decide(desk.policy, "fs", desk.state, asked, desk.now)

    assert core.decide(desk.policy, "fs", desk.state, asked, desk.now) == once


def test_what_a_lowered_cap_drains_takes_nobody_any_more() -> None:
    desk = Desk(make_policy(max_instances=2))
    desk.acquire(1)
    desk.ready(1)
    for lease in (2, 3, 4):
        desk.acquire(lease)
    desk.ready(2)

    desk.reconfigure(make_policy(max_instances=1, max_concurrent=2))

    [draining] = [it for it in desk.state.instances if it.drain_until is not None]
    assert len(draining.busy) == 1, "only the call it had"
    assert len(desk.state.waiters) == 1
