"""Results and errors between the eras."""

from __future__ import annotations

import json

import pytest
from mcp_types import methods

from mcpv_node.protocol import (
    CACHEABLE,
    RemoteProtocolError,
    error_to_legacy,
    error_to_modern,
    to_legacy,
    to_modern,
)

INFO = b'{"name":"gate","version":"1"}'
SIGNED = {"io.modelcontextprotocol/serverInfo": {"name": "gate", "version": "1"}}
HINTS = {"ttlMs": 5, "cacheScope": "private"}
BODIES: dict[str, dict[str, object]] = {
    "prompts/list": {"prompts": []},
    "resources/list": {"resources": []},
    "resources/read": {"contents": []},
    "resources/templates/list": {"resourceTemplates": []},
    "tools/list": {"tools": []},
    "tools/call": {"content": []},
    "prompts/get": {"messages": []},
    "completion/complete": {"completion": {"values": []}},
}


def sent(value: object) -> bytes:
    return json.dumps(value).encode()


def modern(method: str, result: object) -> dict[str, object]:
    shaped = to_modern(method, sent(result), server_info=INFO, ttl_ms=5, cache_scope="private")
    whole: dict[str, object] = json.loads(shaped)
    return whole


@pytest.mark.parametrize(("method", "body"), BODIES.items())
def test_a_legacy_result_becomes_one_of_the_modern_schema(method: str, body: dict[str, object]) -> None:
    shaped = modern(method, body)

    hints = HINTS if method in CACHEABLE else {}
    assert shaped == body | {"resultType": "complete", "_meta": SIGNED} | hints
    methods.validate_server_result(method, "2026-07-28", shaped)


@pytest.mark.parametrize(("method", "body"), BODIES.items())
def test_a_result_that_went_there_comes_back_as_it_was(method: str, body: dict[str, object]) -> None:
    before = sent(body | {"_meta": {"x": 1.0}, "vendor": [1.0]})

    after = to_legacy(method, to_modern(method, before, server_info=INFO, ttl_ms=5, cache_scope="public"))

    assert json.loads(after) == json.loads(before)


def test_what_a_server_says_of_itself_stands() -> None:
    said = {
        "tools": [],
        "resultType": "complete",
        "ttlMs": 9,
        "cacheScope": "public",
        "_meta": {"io.modelcontextprotocol/serverInfo": {"name": "origin", "version": "2"}},
    }

    assert modern("tools/list", said) == said


@pytest.mark.parametrize(
    "result",
    [
        b'{"content":[],"resultType":"complete"}',
        b'{"content":[],"result\\u0054ype":"complete"}',
        b'{"content":[],"_meta":{"a":1}}',
        b'{"content":[],"\\u005fmeta":{"a":1}}',
        b'{"content":[{"text":"\\"_meta\\""}]}',
        b'{"content":[{"_meta":{"a":1}}]}',
        b'{ "content" : [] }',
        b'{"content":[]}',
        b"{}",
    ],
)
def test_each_member_that_is_added_stands_there_once(result: bytes) -> None:
    shaped = to_modern("tools/call", result, server_info=INFO, ttl_ms=5, cache_scope="private")
    names: list[str] = []
    json.loads(shaped, object_pairs_hook=lambda pairs: names.extend(name for name, _ in pairs) or dict(pairs))
    before = json.loads(result)
    after = json.loads(shaped)

    assert names.count("resultType") == 1
    assert names.count("io.modelcontextprotocol/serverInfo") == 1
    assert after.pop("_meta") == {**before.pop("_meta", {}), **SIGNED}
    assert after == {**before, "resultType": "complete"}


def test_meta_that_is_null_says_nothing() -> None:
    assert modern("tools/call", {"_meta": None})["_meta"] == SIGNED
    assert to_legacy("tools/call", b'{"_meta":null}') == b'{"_meta":null}'


def test_a_modern_result_passes_as_the_very_bytes() -> None:
    result = b'{ "resultType":"complete", "content":[ ], "_meta":{"io.modelcontextprotocol/serverInfo":{}} }'

    assert to_modern("tools/call", result, server_info=INFO, ttl_ms=0, cache_scope="private") is result


def test_a_legacy_result_passes_as_the_very_bytes() -> None:
    result = b'{ "content":[ ], "ttlMs":1, "_meta":{ } }'

    assert to_legacy("tools/call", result) is result


@pytest.mark.parametrize("kind", ["input_required", "task"])
def test_an_interim_result_is_not_cacheable(kind: str) -> None:
    assert modern("resources/read", {"resultType": kind}) == {"resultType": kind, "_meta": SIGNED}


@pytest.mark.parametrize("kind", ["input_required", "task", "later"])
def test_a_result_that_is_not_complete_has_no_legacy_form(kind: str) -> None:
    with pytest.raises(RemoteProtocolError, match=kind):
        to_legacy("tools/call", sent({"resultType": kind}))


def test_payloads_keep_their_bytes_on_both_ways() -> None:
    payload = b'{ "n": 123456789012345678901234567890, "f":1.0,"e":"\\u00e9", "half":"\\ud83d" }'
    before = b'{"structuredContent":' + payload + b"}"

    there = to_modern("tools/call", before, server_info=INFO, ttl_ms=0, cache_scope="private")

    assert payload in there
    assert to_legacy("tools/call", there) == before


@pytest.mark.parametrize("other", ["tools/call", "tasks/get"])
def test_a_ttl_that_is_no_caching_hint_stays(other: str) -> None:
    assert json.loads(to_legacy(other, b'{"resultType":"complete","ttlMs":1}')) == {"ttlMs": 1}


NOT_FOUND = {"code": -32002, "message": "no such"}


@pytest.mark.parametrize(
    ("data", "uri", "after"),
    [
        ({}, "x://y", {"data": {"uri": "x://y"}}),
        ({"data": None}, "x://y", {"data": {"uri": "x://y"}}),
        ({"data": {"why": 1}}, "x://y", {"data": {"why": 1, "uri": "x://y"}}),
        ({"data": {"uri": "z://"}}, "x://y", {"data": {"uri": "z://"}}),
        ({"data": "text"}, "x://y", {"data": "text"}),
        ({}, None, {}),
    ],
)
def test_a_resource_not_found_is_invalid_params_to_a_modern_client(
    data: dict[str, object], uri: str | None, after: dict[str, object]
) -> None:
    error = error_to_modern(sent(NOT_FOUND | data), uri=uri)

    assert json.loads(error) == {"code": -32602, "message": "no such"} | after


def test_a_visit_that_a_modern_client_cannot_make_is_a_capability_it_misses() -> None:
    error = error_to_modern(sent({"code": -32042, "message": "m", "data": {"elicitations": []}}))

    assert json.loads(error) == {
        "code": -32021,
        "message": "m",
        "data": {"requiredCapabilities": {"elicitation": {"url": {}}}},
    }


@pytest.mark.parametrize("code", [-32601, -32602, -32000, -32021, 7, "x", 1.5])
def test_every_other_error_passes_as_the_very_bytes(code: object) -> None:
    error = sent({"code": code, "message": "m", "data": {"x": 1.0}})

    assert error_to_modern(error, uri="x://y") is error
    assert error_to_legacy("tools/call", error) is error
    assert error_to_legacy("resources/read", error) is error


@pytest.mark.parametrize(
    ("method", "data", "code"),
    [
        ("resources/read", {"uri": "x://y"}, -32002),
        ("resources/read", {"uri": None}, -32602),
        ("resources/read", "text", -32602),
        ("tools/call", {"uri": "x://y"}, -32602),
    ],
)
def test_a_legacy_client_knows_a_missing_resource_by_its_own_code(
    method: str, data: object, code: int
) -> None:
    error = json.loads(error_to_legacy(method, sent({"code": -32602, "message": "m", "data": data})))

    assert error == {"code": code, "message": "m", "data": data}


def test_a_missing_resource_that_went_there_comes_back_as_it_was() -> None:
    error = sent(NOT_FOUND | {"data": {"uri": "x://y"}})

    assert json.loads(error_to_legacy("resources/read", error_to_modern(error))) == json.loads(error)
