"""One request that stays open."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from mcp_types import methods

from mcpv_node.protocol import (
    ACKNOWLEDGED,
    PROMPTS_CHANGED,
    RESOURCE_UPDATED,
    RESOURCES_CHANGED,
    TASK_CHANGED,
    TOOLS_CHANGED,
    ListenFilter,
    RawId,
    RemoteProtocolError,
    acknowledged_params,
    listen_params,
    listen_result,
    parse_listen,
    subscription_of,
    tag_notification,
    untag_notification,
)

KEY = "io.modelcontextprotocol/subscriptionId"
EVERYTHING = ListenFilter(
    tools_list_changed=True,
    prompts_list_changed=True,
    resources_list_changed=True,
    resource_subscriptions=("a://1", "a://2"),
    task_ids=("t",),
)
NOTHING = ListenFilter()


def sent(value: object) -> bytes:
    return json.dumps(value).encode()


def read(value: bytes | None) -> Any:
    assert value is not None
    return msgspec.json.decode(value)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, NOTHING),
        ({"toolsListChanged": True}, ListenFilter(tools_list_changed=True)),
        ({"promptsListChanged": True}, ListenFilter(prompts_list_changed=True)),
        ({"resourcesListChanged": True}, ListenFilter(resources_list_changed=True)),
        ({"toolsListChanged": False, "promptsListChanged": None}, NOTHING),
        ({"resourceSubscriptions": ["b", "a", "b"]}, ListenFilter(resource_subscriptions=("b", "a"))),
        ({"taskIds": ["t", "t"]}, ListenFilter(task_ids=("t",))),
        ({"resourceSubscriptions": [], "taskIds": None}, NOTHING),
        ({"vendor/kind": True}, NOTHING),
    ],
)
def test_what_a_client_wants_is_read(wanted: object, found: ListenFilter) -> None:
    assert parse_listen(sent({"notifications": wanted})) == found


@pytest.mark.parametrize(
    ("params", "why"),
    [
        (None, "notifications of subscriptions/listen are missing"),
        ({}, "notifications of subscriptions/listen are missing"),
        ({"notifications": []}, "notifications is not an object"),
        (
            {"notifications": {"toolsListChanged": 1}},
            "toolsListChanged of subscriptions/listen is neither true nor false",
        ),
        (
            {"notifications": {"resourceSubscriptions": "a"}},
            "resourceSubscriptions of subscriptions/listen is not an array",
        ),
        ({"notifications": {"taskIds": [1]}}, "taskIds of subscriptions/listen is not an array of strings"),
    ],
)
def test_a_client_that_wants_it_wrongly_is_told_what_is_wrong(params: object, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        parse_listen(None if params is None else sent(params))


@pytest.mark.parametrize("wanted", [EVERYTHING, NOTHING])
def test_what_we_want_of_a_server_is_what_it_reads(wanted: ListenFilter) -> None:
    assert parse_listen(listen_params(wanted)) == wanted


def test_nothing_is_said_of_what_is_not_wanted() -> None:
    assert (
        listen_params(ListenFilter(tools_list_changed=True)) == b'{"notifications":{"toolsListChanged":true}}'
    )


@pytest.mark.parametrize("id", [b"1", b'"1"', b'"\\u0031"'])
def test_the_first_notification_says_what_was_agreed_under_the_clients_own_id(id: bytes) -> None:
    params = acknowledged_params(RawId(id), EVERYTHING)

    assert subscription_of(params) == id
    assert parse_listen(params) == EVERYTHING
    methods.parse_server_notification(ACKNOWLEDGED, "2026-07-28", read(params))


def test_only_what_is_available_is_agreed_to() -> None:
    available = ListenFilter(tools_list_changed=True, resource_subscriptions=("a://2", "a://3"), task_ids=())

    assert EVERYTHING.within(available) == ListenFilter(
        tools_list_changed=True, resource_subscriptions=("a://2",)
    )
    assert EVERYTHING.within(EVERYTHING) == EVERYTHING
    assert EVERYTHING.within(NOTHING) == NOTHING.within(EVERYTHING) == NOTHING


@pytest.mark.parametrize(
    ("method", "params", "alone"),
    [
        (TOOLS_CHANGED, None, ListenFilter(tools_list_changed=True)),
        (PROMPTS_CHANGED, {}, ListenFilter(prompts_list_changed=True)),
        (RESOURCES_CHANGED, None, ListenFilter(resources_list_changed=True)),
        (RESOURCE_UPDATED, {"uri": "a://1"}, ListenFilter(resource_subscriptions=("a://1",))),
        (TASK_CHANGED, {"taskId": "t"}, ListenFilter(task_ids=("t",))),
    ],
)
def test_a_notification_is_for_who_asked_for_its_kind(
    method: str, params: object, alone: ListenFilter
) -> None:
    raw = None if params is None else sent(params)

    assert alone.admits(method, raw)
    assert EVERYTHING.admits(method, raw)
    assert not NOTHING.admits(method, raw)


@pytest.mark.parametrize(
    ("method", "params"),
    [
        (RESOURCE_UPDATED, {"uri": "a://3"}),
        (TASK_CHANGED, {"taskId": "u"}),
        ("notifications/message", {}),
        ("notifications/progress", {}),
        ("notifications/cancelled", {}),
    ],
)
def test_no_subscription_hears_what_nobody_can_ask_for(method: str, params: object) -> None:
    assert not EVERYTHING.admits(method, sent(params))


@pytest.mark.parametrize(
    ("method", "why"), [(RESOURCE_UPDATED, "the uri of"), (TASK_CHANGED, "the taskId of")]
)
def test_a_notification_about_nothing_is_the_servers_fault(method: str, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        EVERYTHING.admits(method, None)


@pytest.mark.parametrize(
    ("params", "after"),
    [
        (None, b'{"_meta":{"%s":"9"}}'),
        (b"{}", b'{"_meta":{"%s":"9"}}'),
        (b'{"uri":"a", "x":[ 1.0 ]}', b'{"uri":"a","x":[ 1.0 ],"_meta":{"%s":"9"}}'),
        (b'{"_meta":{"%s":4,"k":1.0},"uri":"a"}', b'{"_meta":{"%s":"9","k":1.0},"uri":"a"}'),
    ],
)
def test_a_notification_is_tagged_with_its_readers_subscription(params: bytes | None, after: bytes) -> None:
    before = None if params is None else params.replace(b"%s", KEY.encode())

    assert tag_notification(before, RawId(b'"9"')) == after.replace(b"%s", KEY.encode())


@pytest.mark.parametrize(
    ("params", "after"),
    [
        (None, None),
        (b'{ "uri":"a" }', b'{ "uri":"a" }'),
        (b'{"uri":"a","_meta":{"%s":4}}', b'{"uri":"a"}'),
        (b'{"uri":"a","_meta":{"%s":4,"k":1.0}}', b'{"uri":"a","_meta":{"k":1.0}}'),
    ],
)
def test_a_legacy_client_sees_no_subscription(params: bytes | None, after: bytes | None) -> None:
    before = None if params is None else params.replace(b"%s", KEY.encode())

    assert untag_notification(before) == after


@pytest.mark.parametrize("params", [None, b"{}", b'{"_meta":{}}'])
def test_a_notification_without_a_tag_is_nobodys(params: bytes | None) -> None:
    assert subscription_of(params) is None


def test_a_tag_that_is_no_id_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="subscriptionId is neither"):
        subscription_of(sent({"_meta": {KEY: [1]}}))


def test_a_subscription_ends_with_a_result_of_the_schema() -> None:
    result = read(listen_result(RawId(b"7"), server_info=b'{"name":"gate","version":"1"}'))

    assert result == {
        "resultType": "complete",
        "_meta": {KEY: 7, "io.modelcontextprotocol/serverInfo": {"name": "gate", "version": "1"}},
    }
    methods.validate_server_result("subscriptions/listen", "2026-07-28", result)
