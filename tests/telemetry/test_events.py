"""How moments and events are written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from support.fakes import BEGINNING, FakeClock

from mcpv_node.telemetry import Clock, Event, EventKind, SystemClock, rfc3339


def test_moment_is_written_in_utc_with_milliseconds() -> None:
    there = datetime(2026, 1, 31, 10, 8, 7, 6999, tzinfo=timezone(timedelta(hours=1)))

    assert rfc3339(there) == "2026-01-31T09:08:07.006Z"


def test_moment_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="time zone"):
        rfc3339(datetime(2026, 1, 31))


def test_system_clock_tells_utc_and_never_goes_back() -> None:
    clock: Clock = SystemClock()

    first, second = clock.monotonic(), clock.monotonic()

    assert first <= second
    assert clock.wall().tzinfo is UTC


def test_fake_clock_moves_both_faces_when_advanced_and_never_else() -> None:
    fake = FakeClock()
    clock: Clock = fake

    before = clock.monotonic(), clock.wall()
    fake.advance(1.5)

    assert before == (1000.0, BEGINNING)
    assert (clock.monotonic(), clock.wall()) == (1001.5, BEGINNING + timedelta(seconds=1.5))


def test_fake_clock_does_not_go_back() -> None:
    with pytest.raises(ValueError, match="back"):
        FakeClock().advance(-1)


def test_event_is_published_under_the_names_of_the_contract() -> None:
    event = Event(
        kind=EventKind.INSTANCE_STATE,
        at=BEGINNING,
        server="fs",
        instance="fs-1",
        from_="starting",
        to="ready",
        reason="handshake done",
        cause="tool_call",
        client="c1",
        actor="Instance",
    )

    assert event.to_data() == {
        "at": "2026-01-31T09:08:07.006Z",
        "kind": "instance_state",
        "server": "fs",
        "instance": "fs-1",
        "from": "starting",
        "to": "ready",
        "reason": "handshake done",
        "cause": "tool_call",
        "client": "c1",
    }


def test_event_leaves_out_what_does_not_apply() -> None:
    assert Event(kind=EventKind.CONFIG_APPLIED, at=BEGINNING).to_data() == {
        "at": "2026-01-31T09:08:07.006Z",
        "kind": "config_applied",
    }
