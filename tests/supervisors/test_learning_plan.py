"""The plan of what is to be learnt, as values: what is looked at, what has its turn, what an end means."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

import pytest
from support.fakes import BEGINNING

from mcpv_node.actors.status import LearningState, LearningStep
from mcpv_node.settings import ServerName, SpecKey
from mcpv_node.supervisors import learning
from mcpv_node.supervisors.learning import MAX_ATTEMPTS, Plan, Sweep

KEY = SpecKey("key")
TARGETS = {KEY: ServerName("a")}


def plan_of(*sweeps: Sweep, looked: bool = True, runs: int = 9) -> Plan:
    return Plan(MappingProxyType({one.spec_key: one for one in sweeps}), looked, runs)


def sweep(state: LearningStep, key: str = "key", **fields: object) -> Sweep:
    given = Sweep(SpecKey(key), ServerName(f"server-{key}"), state, BEGINNING)
    return replace(given, **fields)  # type: ignore[arg-type]


PENDING, RUNNING, LEARNT, FAILED = LearningStep


@pytest.mark.parametrize(
    ("before", "is_missing", "after"),
    [
        (None, True, PENDING),
        (None, False, LEARNT),
        (sweep(PENDING), True, PENDING),
        (sweep(PENDING), False, LEARNT),
        # Somebody wants it read whatever is known.
        (sweep(PENDING, fresh=True), False, PENDING),
        (sweep(RUNNING), True, RUNNING),
        # Its probe says so itself.
        (sweep(RUNNING), False, RUNNING),
        (sweep(LEARNT), False, LEARNT),
        (sweep(LEARNT), True, LEARNT),
        (sweep(FAILED), True, FAILED),
        (sweep(FAILED, reason="no luck"), False, LEARNT),
    ],
)
def test_a_look_takes_in_what_is_there(before: Sweep | None, is_missing: bool, after: LearningStep) -> None:
    plan = Plan() if before is None else plan_of(before)

    looked = learning.look(plan, TARGETS, frozenset(TARGETS if is_missing else ()), BEGINNING)

    assert looked.looked
    assert [(one.state, one.server) for one in looked.sweeps.values()] == [(after, "a")]
    assert after is FAILED or looked.sweeps[KEY].reason == ""


@pytest.mark.parametrize("state", LearningStep)
def test_what_is_gone_leaves_the_plan(state: LearningStep) -> None:
    assert learning.look(plan_of(sweep(state)), {}, frozenset(), BEGINNING).sweeps == {}


@pytest.mark.parametrize("state", LearningStep)
def test_asked_for_afresh_it_is_planned_unless_it_runs(state: LearningStep) -> None:
    before = plan_of(sweep(state, attempts=3, reason="no luck", resting=True))

    [after] = learning.learn_again(before, TARGETS, BEGINNING).sweeps.values()

    if state is RUNNING:
        assert after == before.sweeps[KEY]
    else:
        assert (after.state, after.fresh, after.attempts, after.resting) == (PENDING, True, 0, False)


def test_turns_are_given_in_order_as_far_as_there_is_room() -> None:
    names = ("a", "b", "c", "d", "e", "f")
    states = (RUNNING, PENDING, PENDING, FAILED, PENDING, PENDING)
    sweeps = [sweep(state, key) for key, state in zip(names, states, strict=True)]
    sweeps[1] = replace(sweeps[1], resting=True)

    plan, begun = learning.begin(plan_of(*sweeps), 3, lambda one: one.spec_key != "c", BEGINNING)

    assert [(one.spec_key, one.run, one.attempts) for one in begun] == [("e", 10, 1), ("f", 11, 1)]
    assert [one.state for one in plan.sweeps.values()] == [
        RUNNING,
        PENDING,
        PENDING,
        FAILED,
        RUNNING,
        RUNNING,
    ]
    assert plan.runs == 11


@pytest.mark.parametrize(
    ("attempts", "failure", "after", "rests"),
    [
        (1, None, LEARNT, False),
        (MAX_ATTEMPTS, None, LEARNT, False),
        (1, "no luck", PENDING, True),
        (MAX_ATTEMPTS - 1, "no luck", PENDING, True),
        (MAX_ATTEMPTS, "no luck", FAILED, False),
    ],
)
def test_the_end_of_a_probe(attempts: int, failure: str | None, after: LearningStep, rests: bool) -> None:
    running = sweep(RUNNING, attempts=attempts, run=7, fresh=True)

    ended = learning.end(plan_of(running, sweep(PENDING, "other")), KEY, 7, failure, BEGINNING)

    one = ended.sweeps[KEY]
    assert (one.state, one.resting, one.reason) == (after, rests, failure or "")
    # One that has failed waits behind the others, and is still to be read afresh.
    assert list(ended.sweeps) == (["other", "key"] if rests else ["key", "other"])
    assert one.fresh is rests


@pytest.mark.parametrize(
    "plan",
    [Plan(), plan_of(sweep(RUNNING, run=8)), plan_of(sweep(PENDING, run=7)), plan_of(sweep(LEARNT, run=7))],
)
def test_the_end_of_an_earlier_probe_says_nothing(plan: Plan) -> None:
    assert learning.end(plan, KEY, 7, "no luck", BEGINNING) == plan


def test_only_the_rest_of_its_own_run_ends_a_rest() -> None:
    plan = plan_of(sweep(PENDING, run=7, resting=True))

    assert learning.rested(plan, KEY, 6) == plan
    assert not learning.rested(plan, KEY, 7).sweeps[KEY].resting


def test_after_a_crash_what_ran_waits_for_its_turn_and_the_attempt_is_not_counted() -> None:
    plan = plan_of(
        sweep(RUNNING, "a", attempts=2), sweep(PENDING, "b", attempts=1, resting=True), sweep(FAILED, "c")
    )

    resumed = learning.resume(plan, BEGINNING)

    assert [(one.state, one.attempts, one.resting) for one in resumed.sweeps.values()] == [
        (PENDING, 1, False),
        (PENDING, 1, False),
        (FAILED, 0, False),
    ]


@pytest.mark.parametrize(
    ("states", "looked", "expected"),
    [
        ((), False, LearningState.PENDING),
        ((), True, LearningState.COMPLETED),
        ((PENDING,), True, LearningState.RUNNING),
        ((RUNNING, FAILED), True, LearningState.RUNNING),
        ((LEARNT, LEARNT), True, LearningState.COMPLETED),
        ((LEARNT, FAILED), True, LearningState.FAILED),
    ],
)
def test_the_state_of_the_whole(
    states: tuple[LearningStep, ...], looked: bool, expected: LearningState
) -> None:
    sweeps = [sweep(state, str(number)) for number, state in enumerate(states)]

    status = learning.status(plan_of(*sweeps, looked=looked), "metadata")

    assert status.state is expected
    assert (status.total, status.completed, status.failed) == (
        len(states),
        states.count(LEARNT),
        states.count(FAILED),
    )


def test_where_it_is_disabled_there_is_nothing_to_wait_for() -> None:
    assert learning.status(Plan(), "disabled").state is LearningState.COMPLETED


def test_what_was_known_all_along_has_not_moved() -> None:
    before = plan_of(sweep(RUNNING, "a"), sweep(LEARNT, "b"))
    after = plan_of(sweep(LEARNT, "a"), sweep(LEARNT, "b"), sweep(LEARNT, "c"), sweep(PENDING, "d"))

    moved = [(was, one.spec_key) for was, one in learning.moves(before, after)]

    assert moved == [(RUNNING, "a"), (None, "d")]
