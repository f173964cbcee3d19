"""What host and node say to each other: frozen, picklable, and nothing heavy before it is asked for."""

from __future__ import annotations

import dataclasses
import os
import pickle
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

import mcpv_node
from mcpv_node import (
    CallError,
    CallTool,
    Failed,
    GetPrompt,
    ListedTool,
    ListTools,
    NodeDown,
    ReadResource,
    Reload,
    Reloaded,
    ServerEvent,
    SnapshotChanged,
    StartNode,
    Stop,
    Subscribe,
    ToolList,
    ToolResult,
    Unsubscribe,
    Why,
    WhyReport,
)
from mcpv_node.actors.server_type import CallCounts, ServerState
from mcpv_node.settings import Change, ChangeClass, NodeSettings, ServerName, SpecKey
from mcpv_node.telemetry import EventKind

REPORT = WhyReport(
    name=ServerName("fs"),
    spec_key=SpecKey("0" * 64),
    state=ServerState.COLD,
    reason="not running; the next call starts it",
    since=datetime(2026, 1, 31, tzinfo=UTC),
    next_try_at=None,
    desired=0,
    waiting=0,
    start_cause=None,
    last_exit=None,
    stderr=(),
    starts=0,
    restarts=0,
    calls=CallCounts(),
)
MESSAGES = [
    CallTool("clock_now", {"tz": "UTC"}, key="k", timeout=3.0, id="1"),
    ListTools("clock", id="2"),
    Why("clock", id="3"),
    GetPrompt("notes_sum", {"of": "x"}, id="4"),
    ReadResource("note:1", key="k", id="5"),
    Reload(id="6"),
    Reloaded("6", (Change(ChangeClass.ADDED, "fs"),), ("a warning",)),
    Stop(),
    Stop(drain=False),
    StartNode("node.yaml", id="7"),
    StartNode(NodeSettings(servers=()), state_dir=Path("/x"), environ={"A": "b"}, outlives_host=True, id="8"),
    # In Thespian, where the sender is the subscriber.
    Subscribe("events"),
    Unsubscribe("tools"),
    ToolResult("1", b'{"content":[]}', False),
    ToolList("2", 4, "etag", (ListedTool("clock_now", "clock", b"{}"),)),
    Failed("1", "overloaded", "too much", {"retryAfter": 1}),
    SnapshotChanged("tools", 4, "etag"),
    NodeDown("asked to stop"),
    ServerEvent(
        id="b-1",
        at=datetime(2026, 1, 31, tzinfo=UTC),
        kind=EventKind.SERVER_STATE,
        server="fs",
        from_="cold",
        to="starting",
        missed=2,
    ),
    REPORT,
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_survives_pickling(message: object) -> None:
    assert pickle.loads(pickle.dumps(message)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_a_message_cannot_be_changed(message: object) -> None:
    names = [field.name for field in dataclasses.fields(message)]  # type: ignore[arg-type]
    for name in names:
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(message, name, None)


def test_an_error_survives_pickling_too() -> None:
    error = pickle.loads(pickle.dumps(CallError(Failed("1", "overloaded", "too much", {"retryAfter": 1}))))

    assert isinstance(error, CallError)
    assert (str(error), error.id, error.reason, error.data) == (
        "too much",
        "1",
        "overloaded",
        {"retryAfter": 1},
    )


def test_every_message_of_the_package_is_among_those_that_were_tried() -> None:
    tried = {type(message).__name__ for message in MESSAGES}

    # What is no message: the doors of the three ways, and the error that stands for `Failed`.
    assert set(mcpv_node.__all__) - tried == {"CallError", "ListedTool", "Node", "NodeActor"}


def test_a_start_names_the_process_that_it_was_made_in() -> None:
    assert StartNode().pid == os.getpid()


def test_every_request_has_an_id_of_its_own() -> None:
    assert len({CallTool("x").id, CallTool("x").id, ListTools().id, Why("x").id}) == 4


def test_every_public_name_is_there() -> None:
    for name in mcpv_node.__all__:
        assert getattr(mcpv_node, name).__name__ == name
    with pytest.raises(AttributeError, match="nope"):
        _ = mcpv_node.nope


def test_importing_the_package_imports_nothing_else_of_it() -> None:
    code = (
        "import sys; before = set(sys.modules); import mcpv_node;"
        "print(sorted({name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names),"
        "[name for name in sys.modules if name.startswith('mcpv_node.')])"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.strip() == "['mcpv_node'] []"
