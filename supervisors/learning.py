"""What there is to learn, what became of it, and what comes next.

Pure: a plan goes in and a plan comes out; Bootstrap performs what follows. A spec key that has failed goes to the
back of the queue while it rests, so that one bad server costs the others nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import MappingProxyType

from mcpv_node.actors.status import LearningOutcome, LearningState, LearningStatus, LearningStep
from mcpv_node.settings import BootstrapMode, ServerName, SpecKey

# A server that could not be listed three times will not be by trying once more.
MAX_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Sweep:
    """One spec key in the plan."""

    spec_key: SpecKey
    server: ServerName
    state: LearningStep
    since: datetime
    attempts: int = 0
    reason: str = ""
    fresh: bool = False  # to be read though it is known
    run: int = 0  # the number of its last probe: the end of an earlier one says nothing
    resting: bool = False  # its next attempt is some seconds away

    @property
    def is_over(self) -> bool:
        return self.state in (LearningStep.LEARNT, LearningStep.FAILED)


@dataclass(frozen=True, slots=True)
class Plan:
    """All sweeps, in the order in which they have their turn."""

    sweeps: Mapping[SpecKey, Sweep] = field(default_factory=lambda: MappingProxyType({}))
    looked: bool = False  # the index has said what is missing
    runs: int = 0


Targets = Mapping[SpecKey, ServerName]


def look(plan: Plan, targets: Targets, missing: frozenset[SpecKey], now: datetime) -> Plan:
    """Take in which servers there are and which of them are not known.

    What is gone leaves the plan. What became known by itself, because somebody called the server, is learnt. What
    had failed stays failed: nothing has changed for it.
    """
    sweeps: dict[SpecKey, Sweep] = {}
    for key, sweep in plan.sweeps.items():
        server = targets.get(key)
        if server is None:
            continue
        sweep = replace(sweep, server=server)
        waits = sweep.state is LearningStep.PENDING and not sweep.fresh
        if key not in missing and (waits or sweep.state is LearningStep.FAILED):
            sweep = replace(sweep, state=LearningStep.LEARNT, since=now, reason="", resting=False)
        sweeps[key] = sweep
    for key, server in targets.items():
        if key not in sweeps:
            state = LearningStep.PENDING if key in missing else LearningStep.LEARNT
            sweeps[key] = Sweep(key, server, state, now)
    return replace(plan, sweeps=MappingProxyType(sweeps), looked=True)


def learn_again(plan: Plan, targets: Targets, now: datetime) -> Plan:
    """Plan these whatever is known of them; what runs already is not doubled."""
    sweeps = dict(plan.sweeps)
    for key, server in targets.items():
        there = sweeps.pop(key, None)
        if there is not None and there.state is LearningStep.RUNNING:
            sweeps[key] = there
        else:
            run = 0 if there is None else there.run
            sweeps[key] = Sweep(key, server, LearningStep.PENDING, now, fresh=True, run=run)
    return replace(plan, sweeps=MappingProxyType(sweeps))


def begin(
    plan: Plan, concurrency: int, has_place: Callable[[Sweep], bool], now: datetime
) -> tuple[Plan, tuple[Sweep, ...]]:
    """Give as many their turn as may run; return the plan and those that begin."""
    room = concurrency - sum(sweep.state is LearningStep.RUNNING for sweep in plan.sweeps.values())
    begun: list[Sweep] = []
    for sweep in plan.sweeps.values():
        if len(begun) >= room:
            break
        if sweep.state is LearningStep.PENDING and not sweep.resting and has_place(sweep):
            run = plan.runs + len(begun) + 1
            attempts = sweep.attempts + 1
            begun.append(
                replace(sweep, state=LearningStep.RUNNING, since=now, attempts=attempts, run=run, reason="")
            )
    return replace(_put(plan, *begun), runs=plan.runs + len(begun)), tuple(begun)


def end(plan: Plan, key: SpecKey, run: int, failure: str | None, now: datetime) -> Plan:
    """A probe has ended. A failed one rests until `rested`, as often as it may be tried again."""
    sweep = plan.sweeps.get(key)
    if sweep is None or sweep.run != run or sweep.state is not LearningStep.RUNNING:
        return plan
    if failure is None:
        return _put(plan, replace(sweep, state=LearningStep.LEARNT, since=now, fresh=False))
    if sweep.attempts >= MAX_ATTEMPTS:
        return _put(plan, replace(sweep, state=LearningStep.FAILED, since=now, fresh=False, reason=failure))
    waiting = replace(sweep, state=LearningStep.PENDING, since=now, reason=failure, resting=True)
    others = {other: kept for other, kept in plan.sweeps.items() if other != key}
    return replace(plan, sweeps=MappingProxyType({**others, key: waiting}))


def rested(plan: Plan, key: SpecKey, run: int) -> Plan:
    """It may have its turn again."""
    sweep = plan.sweeps.get(key)
    if sweep is None or sweep.run != run or not sweep.resting:
        return plan
    return _put(plan, replace(sweep, resting=False))


def resume(plan: Plan, now: datetime) -> Plan:
    """Go on after Bootstrap's own crash: its probes ended with it, through no fault of the servers."""
    sweeps = [
        replace(sweep, state=LearningStep.PENDING, since=now, attempts=sweep.attempts - 1)
        if sweep.state is LearningStep.RUNNING
        else replace(sweep, resting=False)
        for sweep in plan.sweeps.values()
    ]
    return replace(plan, sweeps=MappingProxyType({sweep.spec_key: sweep for sweep in sweeps}))


def is_over(plan: Plan, keys: Iterable[SpecKey]) -> bool:
    """Whether nothing is to come for any of these."""
    return plan.looked and all(key not in plan.sweeps or plan.sweeps[key].is_over for key in keys)


def moves(before: Plan, after: Plan) -> tuple[tuple[LearningStep | None, Sweep], ...]:
    """Which sweeps have another state, and what it was. What was known all along has not moved."""
    found: list[tuple[LearningStep | None, Sweep]] = []
    for key, sweep in after.sweeps.items():
        earlier = before.sweeps.get(key)
        was = None if earlier is None else earlier.state
        is_known = was is None and sweep.state is LearningStep.LEARNT
        if sweep.state is not was and not is_known:
            found.append((was, sweep))
    return tuple(found)


def status(plan: Plan, mode: BootstrapMode) -> LearningStatus:
    """The plan as others may see it."""
    sweeps = sorted(plan.sweeps.values(), key=lambda sweep: sweep.server)
    return LearningStatus(
        mode=mode,
        state=_state(plan, mode),
        total=len(sweeps),
        completed=sum(sweep.state is LearningStep.LEARNT for sweep in sweeps),
        failed=sum(sweep.state is LearningStep.FAILED for sweep in sweeps),
        current=tuple(sweep.server for sweep in sweeps if sweep.state is LearningStep.RUNNING),
        outcomes=MappingProxyType(
            {
                sweep.spec_key: LearningOutcome(
                    sweep.spec_key, sweep.server, sweep.state, sweep.attempts, sweep.reason, sweep.since
                )
                for sweep in sweeps
            }
        ),
    )


def _state(plan: Plan, mode: BootstrapMode) -> LearningState:
    states = {sweep.state for sweep in plan.sweeps.values()}
    if states & {LearningStep.PENDING, LearningStep.RUNNING}:
        return LearningState.RUNNING
    if not plan.looked and mode != "disabled":
        return LearningState.PENDING
    return LearningState.FAILED if LearningStep.FAILED in states else LearningState.COMPLETED


def _put(plan: Plan, *sweeps: Sweep) -> Plan:
    changed = {sweep.spec_key: sweep for sweep in sweeps}
    return replace(plan, sweeps=MappingProxyType({**plan.sweeps, **changed}))
