"""The restart window and the backoff: numbers in, numbers out."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpv_node.supervisors import Backoff, RestartWindow


def test_max_restarts_within_the_period_are_admitted_and_one_more_is_not() -> None:
    window = RestartWindow(max_restarts=3, period=5.0)

    assert window.admits([1.0, 2.0], now=3.0)
    assert not window.admits([1.0, 2.0, 3.0], now=4.0)


def test_a_restart_older_than_the_period_does_not_count() -> None:
    window = RestartWindow(max_restarts=1, period=5.0)

    assert not window.admits([10.0], now=15.0)
    assert window.admits([10.0], now=15.001)


def test_a_window_of_no_restarts_admits_none() -> None:
    assert not RestartWindow(max_restarts=0).admits([], now=0.0)


def test_only_recent_restarts_are_kept() -> None:
    assert RestartWindow(period=5.0).recent([1.0, 6.0, 7.0], now=11.0) == (6.0, 7.0)


@given(st.lists(st.floats(0, 100)).map(sorted), st.integers(0, 10))
def test_admitting_depends_on_the_recent_ones_alone(restarts: list[float], most: int) -> None:
    window = RestartWindow(max_restarts=most, period=5.0)

    assert window.admits(restarts, 50.0) == window.admits(window.recent(restarts, 50.0), 50.0)


@pytest.mark.parametrize(("n", "longest"), [(1, 1.0), (2, 2.0), (3, 4.0), (4, 5.0), (5, 5.0), (5000, 5.0)])
def test_delays_double_up_to_the_maximum(n: int, longest: float) -> None:
    backoff = Backoff(base=1.0, maximum=5.0)
    delays = [backoff.delay(n, Random(seed)) for seed in range(50)]

    assert all(longest / 2 <= delay <= longest for delay in delays)
    assert len(set(delays)) > 1


def test_the_same_chance_gives_the_same_delay() -> None:
    assert Backoff().delay(3, Random(7)) == Backoff().delay(3, Random(7))


def test_restarts_in_a_row_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match="counted from 1"):
        Backoff().delay(0, Random(1))
