"""What the clock answers."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from mcpv_node.servers.clock import clock_tools

NOON = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)


def call(tool: str, **arguments: str) -> Any:
    return clock_tools(lambda: NOON)[tool].handler(json.dumps(arguments).encode())


def test_now_is_utc_unless_asked_otherwise() -> None:
    expected = {
        "timezone": "UTC",
        "datetime": "2026-07-01T12:00:00+00:00",
        "weekday": "Wednesday",
        "dst": False,
    }

    assert call("now") == expected
    assert call("now", tz="UTC") == expected


def test_now_elsewhere_knows_summer_time() -> None:
    answer = call("now", tz="Europe/Berlin")

    assert answer["datetime"] == "2026-07-01T14:00:00+02:00"
    assert answer["dst"] is True


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("14:30", "2026-07-01T14:30:00+02:00", "2026-07-01T21:30:00+09:00"),
        ("2026-01-31T23:00", "2026-01-31T23:00:00+01:00", "2026-02-01T07:00:00+09:00"),
        ("2026-01-31T23:00Z", "2026-02-01T00:00:00+01:00", "2026-02-01T08:00:00+09:00"),
    ],
)
def test_a_time_is_converted_from_zone_to_zone(text: str, start: str, end: str) -> None:
    answer = call("convert", time=text, **{"from": "Europe/Berlin", "to": "Asia/Tokyo"})

    assert answer["from"]["datetime"] == start
    assert answer["to"]["datetime"] == end


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "/etc/passwd", "Europe", "a\0b"])
def test_an_unknown_zone_is_named(zone: str) -> None:
    with pytest.raises(ValueError, match="there is no time zone") as caught:
        call("now", tz=zone)
    assert f'"{zone}"' in str(caught.value)


@pytest.mark.parametrize("text", ["soon", "", "25:00"])
def test_what_is_no_time_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=f'"{text}" is no time'):
        call("convert", time=text, **{"from": "UTC", "to": "UTC"})
