"""One timer for all waits: who waits longest does not keep the others, and who was answered is not disturbed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import pytest

from mcpv_node.actors.kernel.deadlines import COARSENESS, Deadlines, Overdue


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


def wait_until(deadlines: Deadlines, deadline: float) -> asyncio.Future[None]:
    future: asyncio.Future[None] = asyncio.Future(loop=asyncio.new_event_loop())
    future.get_loop().close()
    deadlines.add(future, deadline)
    return future


def is_overdue(wait: asyncio.Future[None]) -> bool:
    return wait.done() and isinstance(wait.exception(), Overdue)


def test_a_wait_ends_at_its_deadline_and_not_before(clock: FakeLoop, deadlines: Deadlines) -> None:
    wait = wait_until(deadlines, 105.0)

    clock.pass_time(4.999)
    assert not wait.done()

    clock.pass_time(0.001)
    assert is_overdue(wait)


def test_a_nearer_deadline_is_not_kept_by_those_that_came_before(
    clock: FakeLoop, deadlines: Deadlines
) -> None:
    late, soon = wait_until(deadlines, 200.0), wait_until(deadlines, 101.0)

    clock.pass_time(1.0)

    assert is_overdue(soon)
    assert not late.done()


def test_each_of_many_ends_at_most_the_coarseness_late(clock: FakeLoop, deadlines: Deadlines) -> None:
    waits = [(101.0 + number / 1000, wait_until(deadlines, 101.0 + number / 1000)) for number in range(200)]

    while not all(wait.done() for _, wait in waits):
        clock.pass_time(0.001)
        for deadline, wait in waits:
            assert wait.done() or clock.now < deadline + COARSENESS + 0.001
            assert not wait.done() or clock.now >= deadline - 0.0005

    assert clock.rings <= 0.2 / COARSENESS + 2


def test_who_does_not_wait_any_more_is_left_alone(clock: FakeLoop, deadlines: Deadlines) -> None:
    gone, other = wait_until(deadlines, 101.0), wait_until(deadlines, 102.0)

    deadlines.remove(gone)
    clock.pass_time(5.0)

    assert not gone.done()
    assert is_overdue(other)
    assert clock.next_ring() == math.inf


def test_nothing_rings_after_the_end(clock: FakeLoop, deadlines: Deadlines) -> None:
    wait_until(deadlines, 101.0)

    deadlines.close()

    assert clock.next_ring() == math.inf
