"""Which era a message belongs to."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from msgspec import Raw

from mcpv_node.protocol import (
    LEGACY,
    MODERN_METHODS,
    Failure,
    Legacy,
    McpHeaders,
    Message,
    Modern,
    ModernNotice,
    Notification,
    RawId,
    Refused,
    Request,
    Success,
    judge_line,
    judge_post,
    modern_http_status,
)

MODERN = "2026-07-28"
UNKNOWN = "1900-01-01"
REMOVED = [
    "initialize",
    "ping",
    "logging/setLevel",
    "resources/subscribe",
    "resources/unsubscribe",
    "no/such",
]
ANSWERS: list[Message] = [Success(RawId(b"1"), Raw(b"{}")), Failure(RawId(b"1"), Raw(b"{}"))]


def meta(version: object = MODERN, **more: object) -> dict[str, object]:
    said = {"protocolVersion": version, "clientCapabilities": {}, **more}
    return {f"io.modelcontextprotocol/{key}": value for key, value in said.items() if value is not None}


def request(method: str = "tools/list", said: object = None, **params: object) -> Request:
    whole = params | ({} if said is None else {"_meta": said})
    return Request(RawId(b"1"), method, Raw(json.dumps(whole).encode()) if whole else None)


def headers(version: str | None = MODERN, method: str | None = "tools/list", **more: Any) -> McpHeaders:
    return McpHeaders(version=version, method=method, **more)


def test_a_whole_modern_request_is_served() -> None:
    verdict = judge_post(request(said=meta(clientInfo={"name": "c", "version": "1"})), headers())

    assert isinstance(verdict, Modern)
    assert (verdict.meta.version, verdict.meta.client_name) == (MODERN, "c")


@pytest.mark.parametrize("method", sorted(MODERN_METHODS))
def test_every_modern_method_is_served(method: str) -> None:
    about = {"name": "n", "uri": "n", "taskId": "n"}

    verdict = judge_post(request(method, meta(), **about), headers(method=method, name="n"))

    assert isinstance(verdict, Modern)


@pytest.mark.parametrize("method", REMOVED)
def test_what_the_modern_era_has_not_is_not_found(method: str) -> None:
    verdict = judge_post(request(method, meta()), headers(method=method))

    assert isinstance(verdict, Refused)
    assert (verdict.http_status, verdict.code) == (404, -32601)
    assert f'"{method}"' in verdict.message


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (None, "protocolVersion and io.modelcontextprotocol/clientCapabilities"),
        ({}, "protocolVersion"),
        (meta(version=None), "protocolVersion"),
        (meta(clientCapabilities=None), "clientCapabilities"),
        (meta(clientCapabilities=[]), "clientCapabilities is not an object"),
        (meta(logLevel="loud"), "loud"),
        (meta(version=7), "protocolVersion is not a string"),
        ([], "_meta"),
    ],
)
def test_a_modern_request_whose_meta_is_not_whole_has_invalid_params(said: object, why: str) -> None:
    verdict = judge_post(request(said=said), headers())

    assert isinstance(verdict, Refused)
    assert (verdict.http_status, verdict.code) == (400, -32602)
    assert why in verdict.message


@pytest.mark.parametrize("requested", [UNKNOWN, "2025-11-25", "2099-01-01", ""])
def test_an_unknown_version_is_told_the_modern_ones_only(requested: str) -> None:
    verdict = judge_post(request(said=meta(requested)), headers(requested))

    assert isinstance(verdict, Refused)
    assert (verdict.http_status, verdict.code) == (400, -32022)
    assert verdict.data is not None
    assert msgspec.json.decode(verdict.data) == {"supported": [MODERN], "requested": requested}


@pytest.mark.parametrize(
    ("message", "sent"),
    [
        (request(said=meta()), headers(None)),
        (request(said=meta()), headers("2025-11-25")),
        (request(said=meta()), headers(UNKNOWN)),
        (request(said=meta(UNKNOWN)), headers()),
        (request(said=meta()), headers(method=None)),
        (request(said=meta()), headers(method="tools/call")),
        (request("tools/call", meta(), name="a"), headers(method="tools/call")),
        (request("tools/call", meta(), name="a"), headers(method="tools/call", name="b")),
        (request("tools/call", meta(), name="a"), headers(method="tools/call", name="=?base64?*?=")),
        (request("resources/read", meta(), uri="a"), headers(method="resources/read", name="b")),
        (request(said=meta()), headers(repeated=frozenset({"mcp-method"}))),
    ],
)
def test_headers_that_differ_from_the_body_are_a_mismatch(message: Request, sent: McpHeaders) -> None:
    verdict = judge_post(message, sent)

    assert isinstance(verdict, Refused)
    assert (verdict.http_status, verdict.code) == (400, -32020)


@pytest.mark.parametrize("session", [None, "s"])
@pytest.mark.parametrize("version", [None, *LEGACY])
@pytest.mark.parametrize(
    "message",
    [
        request("initialize", protocolVersion="2025-11-25"),
        request("ping"),
        request("tools/list", {"progressToken": 1}),
        request("tools/call", name="protocolVersion"),
        request("tools/call", {"io.modelcontextprotocol/clientInfo": {"name": "protocolVersion"}}),
        Request(RawId(b"1"), "tools/list", Raw(b'{"_meta":"protocolVersion"}')),
        Notification("notifications/initialized"),
        *ANSWERS,
    ],
)
def test_what_names_no_modern_version_is_legacy(
    message: Message, version: str | None, session: str | None
) -> None:
    assert judge_post(message, headers(version, None, session=session)) == Legacy()


def test_a_session_id_on_a_modern_request_is_ignored() -> None:
    assert isinstance(judge_post(request(said=meta()), headers(session="s")), Modern)


def test_initialize_settles_on_a_legacy_version_whatever_draft_the_header_names() -> None:
    message = request("initialize", protocolVersion="DRAFT-2027")

    assert judge_post(message, headers("DRAFT-2027", None)) == Legacy()


@pytest.mark.parametrize(
    "message", [request("ping"), request("tools/list"), Notification("notifications/initialized")]
)
def test_an_unknown_version_in_the_header_alone_is_told_the_modern_ones(message: Message) -> None:
    verdict = judge_post(message, headers(UNKNOWN, None, session="s"))

    assert isinstance(verdict, Refused)
    assert (verdict.http_status, verdict.code) == (400, -32022)


@pytest.mark.parametrize("method", ["server/discover", "subscriptions/listen"])
def test_what_only_a_modern_client_asks_is_held_to_the_modern_rules(method: str) -> None:
    verdict = judge_post(request(method), headers(None, None))

    assert isinstance(verdict, Refused)
    assert (verdict.http_status, verdict.code) == (400, -32602)


@pytest.mark.parametrize("sent", [headers(None, None, session="s"), headers("2025-11-25", None)])
def test_a_session_that_asks_a_modern_method_is_still_legacy(sent: McpHeaders) -> None:
    assert judge_post(request("server/discover"), sent) == Legacy()


def test_a_modern_notification_is_accepted() -> None:
    message = Notification("notifications/cancelled", Raw(b'{"requestId":1}'))

    assert judge_post(message, headers(method=None)) == ModernNotice()


def test_a_notification_may_name_its_version_in_the_body_alone() -> None:
    message = Notification("notifications/cancelled", Raw(json.dumps({"_meta": meta()}).encode()))

    assert judge_post(message, headers(None, None)) == ModernNotice()


@pytest.mark.parametrize("message", ANSWERS)
def test_a_modern_client_posts_no_responses(message: Message) -> None:
    verdict = judge_post(message, headers(method=None))

    assert isinstance(verdict, Refused)
    assert (verdict.http_status, verdict.code) == (400, -32600)


@pytest.mark.parametrize("opened", [False, True])
def test_on_lines_a_request_with_a_version_is_modern_at_any_time(*, opened: bool) -> None:
    assert isinstance(judge_line(request(said=meta()), opened=opened), Modern)


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize(
    ("message", "code"),
    [
        (request(said=meta(UNKNOWN)), -32022),
        (request(said=meta("2025-11-25")), -32022),
        (request(said=meta(clientCapabilities=None)), -32602),
        (request("ping", meta()), -32601),
        (request("initialize", meta()), -32601),
    ],
)
def test_on_lines_a_modern_request_is_held_to_the_same_rules(
    message: Request, code: int, *, opened: bool
) -> None:
    verdict = judge_line(message, opened=opened)

    assert isinstance(verdict, Refused)
    assert verdict.code == code


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize(
    "message", [request("initialize"), request("ping"), request("tools/list", {"progressToken": 1}), *ANSWERS]
)
def test_on_lines_what_names_no_version_is_legacy(message: Message, *, opened: bool) -> None:
    assert judge_line(message, opened=opened) == Legacy()


@pytest.mark.parametrize(("opened", "expected"), [(False, Refused), (True, Legacy)])
def test_on_lines_a_probe_without_meta_is_modern_until_a_session_is_open(
    expected: type[object], *, opened: bool
) -> None:
    assert isinstance(judge_line(request("server/discover"), opened=opened), expected)


@pytest.mark.parametrize(
    ("said", "opened", "expected"),
    [
        (None, True, Legacy()),
        (None, False, ModernNotice()),
        (meta(), True, ModernNotice()),
        (meta(), False, ModernNotice()),
    ],
)
def test_on_lines_a_notification_belongs_to_the_session_unless_it_names_a_version(
    said: object, expected: object, *, opened: bool
) -> None:
    params = None if said is None else Raw(json.dumps({"_meta": said}).encode())

    assert judge_line(Notification("notifications/cancelled", params), opened=opened) == expected


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (-32700, 400),
        (-32600, 400),
        (-32601, 404),
        (-32602, 400),
        (-32603, 200),
        (-32020, 400),
        (-32021, 400),
        (-32022, 400),
        (-31001, 200),
        (7, 200),
    ],
)
def test_a_modern_error_has_the_status_of_the_specification(code: int, status: int) -> None:
    assert modern_http_status(code) == status
