"""One log line for every event, with its fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from loguru import logger

from mcpv_node.actors.kernel import Crashed, Killed, Shutdown
from mcpv_node.supervisors import (
    ChildDidNotStop,
    ChildExited,
    ChildGaveUp,
    ChildKilled,
    ChildRestarting,
    ChildStarted,
    SupervisionEvent,
    SupervisorGaveUp,
    log_event,
)

LINES: list[tuple[SupervisionEvent, str, str]] = [
    (ChildStarted("root", "fs", 1), "DEBUG", "root/fs started"),
    (ChildExited("root", "fs", 1, Shutdown(), asked=True), "DEBUG", "root/fs ended: asked to stop"),
    (ChildExited("root", "fs", 1, Killed("oom"), asked=False), "WARNING", "root/fs ended: oom"),
    (ChildExited("root", "fs", 1, Crashed("x"), asked=True), "DEBUG", "root/fs ended: crashed: x"),
    (ChildRestarting("root", "fs", 1, Crashed("x"), 0.25), "WARNING", "root/fs is restarting in 0.2s"),
    (ChildKilled("root", "fs", 1, "has no grace"), "WARNING", "root/fs is killed: has no grace"),
    (
        ChildDidNotStop("root", "fs", 1, "Store"),
        "ERROR",
        "root/fs did not stop: the thread of Store is left behind",
    ),
    (ChildGaveUp("root", "fs", 1, Crashed("x")), "ERROR", "root/fs gave up and is suspended: crashed: x"),
    (SupervisorGaveUp("root", "fs", 1, Crashed("x")), "ERROR", "root gave up because of fs: crashed: x"),
]


@pytest.fixture
def records() -> Iterator[list[Any]]:
    seen: list[Any] = []
    sink = logger.add(lambda message: seen.append(message.record), level="TRACE", format="{message}")
    yield seen
    logger.remove(sink)


@pytest.mark.parametrize(("event", "level", "line"), LINES)
def test_an_event_is_one_line(records: list[Any], event: SupervisionEvent, level: str, line: str) -> None:
    log_event(event)

    (record,) = records
    assert (record["level"].name, record["message"]) == (level, line)
    assert record["extra"] == {
        "event": type(event).__name__,
        "supervisor": "root",
        "child": "fs",
        "incarnation": 1,
    }


def test_every_kind_of_event_is_listed() -> None:
    assert {type(event) for event, _, _ in LINES} == set(SupervisionEvent.__args__)
