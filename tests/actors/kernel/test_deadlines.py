"""One timer for all waits: who waits longest does not keep the others, and who was answered is not disturbed."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from mcpv_node.actors.kernel.deadlines import COARSENESS, Deadlines


class FakeTimer:
    """One call of the loop's to come."""

    def __init__(self, moment: float, ring: Callable[[], None]) -> None:
        self.moment = moment
        self.ring = ring
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeLoop:
    """A clock that is moved by hand, and rings what it was asked to."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[FakeTimer] = []
        self.rings = 0

    def time(self) -> float:
        return self.now

    def call_at(self, moment: float, ring: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(moment, ring)
        self.timers.append(timer)
        return timer

    def next_ring(self) -> float:
        return min((timer.moment for timer in self.timers if not timer.is_cancelled), default=math.inf)

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while (moment := self.next_ring()) <= end:
            self.now = max(self.now, moment)
            timer = next(it for it in self.timers if it.moment == moment and not it.is_cancelled)
            self.timers.remove(timer)
            self.rings += 1
            timer.ring()
        self.now = end


@pytest.fixture
def clock() -> FakeLoop:
    return FakeLoop()


@pytest.fixture
def deadlines(clock: FakeLoop) -> Deadlines:
    return Deadlines(clock)  # type: ignore[arg-type]


class Wait:
    """Somebody who waits."""

    def __init__(self, deadlines: Deadlines, deadline: float) -> None:
        self.calls = 0
        deadlines.add(self.due, deadline)

    def due(self) -> None:
        self.calls += 1


def test_a_wait_ends_at_its_deadline_and_not_before(clock: FakeLoop, deadlines: Deadlines) -> None:
    wait = Wait(deadlines, 105.0)

    clock.pass_time(4.999)
    assert not wait.calls

    clock.pass_time(0.001)
    assert wait.calls == 1


def test_a_nearer_deadline_is_not_kept_by_those_that_came_before(
    clock: FakeLoop, deadlines: Deadlines
) -> None:
    late, soon = Wait(deadlines, 200.0), Wait(deadlines, 101.0)

    clock.pass_time(1.0)

    assert soon.calls == 1
    assert not late.calls


def test_each_of_many_ends_at_most_the_coarseness_late(clock: FakeLoop, deadlines: Deadlines) -> None:
    waits = [(101.0 + number / 1000, Wait(deadlines, 101.0 + number / 1000)) for number in range(200)]

    while not all(wait.calls for _, wait in waits):
        clock.pass_time(0.001)
        for deadline, wait in waits:
            assert wait.calls or clock.now < deadline + COARSENESS + 0.001
            assert not wait.calls or clock.now >= deadline - 0.0005

    assert clock.rings <= 0.2 / COARSENESS + 2


def test_who_does_not_wait_any_more_is_left_alone(clock: FakeLoop, deadlines: Deadlines) -> None:
    gone, other = Wait(deadlines, 101.0), Wait(deadlines, 102.0)

    deadlines.remove(gone.due)
    clock.pass_time(5.0)

    assert not gone.calls
    assert other.calls == 1
    assert clock.next_ring() == math.inf


def test_who_is_called_may_end_the_wait_of_another(clock: FakeLoop, deadlines: Deadlines) -> None:
    other = Wait(deadlines, 101.0)
    deadlines.remove(other.due)
    deadlines.add(lambda: deadlines.remove(other.due), 101.0)
    deadlines.add(other.due, 101.0)

    clock.pass_time(5.0)

    assert not other.calls


def test_nothing_rings_after_the_end(clock: FakeLoop, deadlines: Deadlines) -> None:
    Wait(deadlines, 101.0)

    deadlines.close()

    assert clock.next_ring() == math.inf
