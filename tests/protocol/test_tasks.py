"""Tasks of both eras are recognised, and their ids exchanged; nothing else of what is said changes."""

from __future__ import annotations

import pytest
from msgspec import Raw

from mcpv_node.protocol import (
    RemoteProtocolError,
    TaskState,
    asks_for_task,
    created_task,
    names_task,
    rename_task,
    task_state,
)

LEGACY = b'{"task":{"taskId":"t","status":"working","ttl":1500,"n":1.0},"_meta":{"big":12345678901234567890}}'
MODERN = b'{"resultType":"task","taskId":"t","status":"working","ttlMs":null,"n":1.0}'


@pytest.mark.parametrize(
    ("result", "state"),
    [
        (LEGACY, TaskState("t", "working", 1.5)),
        (MODERN, TaskState("t", "working", None)),
        (b'{"content":[],"task":{"taskId":"t","status":"working"}}', None),
        (b'{"resultType":"complete","task":{"taskId":"t","status":"working"}}', None),
        (b'{"task":"task"}', None),
        (b'{"task":{"taskId":"t"}}', None),
        (b'{"task":null}', None),
        (b'{"structuredContent":{"task":1}}', None),
        (b"{}", None),
    ],
)
def test_a_call_has_become_a_task_where_its_result_says_so(result: bytes, state: TaskState | None) -> None:
    assert created_task(result) == state


@pytest.mark.parametrize(
    ("status", "is_over"),
    [
        ("working", False),
        ("input_required", False),
        ("completed", True),
        ("failed", True),
        ("cancelled", True),
        ("unheard of", False),
    ],
)
def test_a_task_is_over_when_nothing_more_will_become_of_it(status: str, is_over: bool) -> None:
    state = task_state(b'{"taskId":"t","status":"%s"}' % status.encode())

    assert state is not None
    assert state.is_over is is_over


@pytest.mark.parametrize("said", [b"{}", b'{"taskId":"t"}', b'{"status":"working"}'])
def test_an_acknowledgement_says_nothing_of_a_task(said: bytes) -> None:
    assert task_state(said) is None


@pytest.mark.parametrize(
    "said", [b'{"taskId":7,"status":"working"}', b'{"taskId":"t","status":"working","ttl":"long"}', b"[]"]
)
def test_what_cannot_be_read_is_named(said: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        task_state(said)


@pytest.mark.parametrize(
    ("said", "renamed"),
    [
        (LEGACY, LEGACY.replace(b'"t"', b'"new"')),
        (MODERN, MODERN.replace(b'"t"', b'"new"')),
        (
            b'{"content":[{"text":"t"}],"_meta":{"a":1.0,"io.modelcontextprotocol/related-task":{"taskId":"t"}}}',
            b'{"content":[{"text":"t"}],"_meta":{"a":1.0,"io.modelcontextprotocol/related-task":{"taskId":"new"}}}',
        ),
        (b'{"taskId": "other", "x": 1.0}', b'{"taskId": "other", "x": 1.0}'),
        (b'{ "task": "t" , "x": [1.0] }', b'{ "task": "t" , "x": [1.0] }'),
    ],
)
def test_an_id_is_exchanged_wherever_it_names_the_task_and_nothing_else_changes(
    said: bytes, renamed: bytes
) -> None:
    assert rename_task(said, "t", "new") == renamed


def test_a_call_asks_for_a_task_with_a_member_of_its_own() -> None:
    assert asks_for_task(b'{"name":"x","task":{}}')
    assert not asks_for_task(b'{"name":"x","arguments":{"task":{}}}')
    assert not asks_for_task(b'{"name":"x","task":null}')
    assert not asks_for_task(None)


def test_a_status_is_of_the_task_it_names() -> None:
    assert names_task(Raw(b'{"taskId":"t"}'), "t")
    assert not names_task(Raw(b'{"taskId":"u"}'), "t")
    assert not names_task(None, "t")
