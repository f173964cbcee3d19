"""What of a request's params a server gets to see."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from mcpv_node.protocol import BackMeta, RemoteProtocolError, params_for_back, parse_call, subject_of

P = "io.modelcontextprotocol/"
FRONT = {
    f"{P}protocolVersion": "2099-01-01",
    f"{P}clientInfo": {"name": "front"},
    f"{P}clientCapabilities": {"roots": {}},
    f"{P}logLevel": "debug",
    f"{P}subscriptionId": 3,
    "progressToken": "theirs",
}
KEPT = {
    "traceparent": "00-1",
    "tracestate": "s",
    "baggage": "b",
    "vendor/x": [1.0],
    f"{P}related-task": {"taskId": "t"},
}
BACK = BackMeta(
    version="2026-07-28", capabilities=b'{ "sampling": {} }', client_info=b'{"name":"c"}', log_level="info"
)
MODERN = {
    f"{P}protocolVersion": "2026-07-28",
    f"{P}clientInfo": {"name": "c"},
    f"{P}clientCapabilities": {"sampling": {}},
    f"{P}logLevel": "info",
}


def sent(value: object) -> bytes:
    return json.dumps(value).encode()


def read(value: bytes | None) -> dict[str, object]:
    assert value is not None
    return msgspec.json.decode(value, type=dict[str, object])


@pytest.mark.parametrize("token", [None, 7])
def test_a_legacy_server_is_told_nothing_of_the_clients_connection(token: int | None) -> None:
    params = params_for_back("tools/list", sent({"_meta": FRONT | KEPT}), meta=None, progress_token=token)

    assert read(params)["_meta"] == KEPT | ({} if token is None else {"progressToken": token})


@pytest.mark.parametrize("said", [{}, {"_meta": {}}, {"_meta": FRONT | KEPT}])
def test_a_modern_server_is_told_who_asks_in_our_words(said: dict[str, object]) -> None:
    params = params_for_back("tools/list", sent(said), meta=BACK, progress_token=7)

    kept = KEPT if said.get("_meta") else {}
    assert read(params) == {"_meta": kept | MODERN | {"progressToken": 7}}


def test_a_modern_server_gets_meta_with_a_request_that_has_no_params() -> None:
    assert read(params_for_back("tools/list", None, meta=BACK)) == {"_meta": MODERN}


def test_what_a_client_does_not_say_its_server_is_not_told() -> None:
    back = BackMeta(version="2026-07-28", capabilities=b"{}")

    params = read(params_for_back("tools/list", sent({"_meta": FRONT}), meta=back))

    assert params == {"_meta": {f"{P}protocolVersion": "2026-07-28", f"{P}clientCapabilities": {}}}


def test_capabilities_go_to_a_modern_server_as_their_client_wrote_them() -> None:
    params = params_for_back("tools/list", None, meta=BACK)

    assert params is not None
    assert b'{ "sampling": {} }' in params


@pytest.mark.parametrize(
    "params", [None, b"{}", b'{ "cursor" : "x" }', b'{"name":"own", "_meta": {"a": 1.0} }']
)
def test_where_nothing_changes_the_very_bytes_pass(params: bytes | None) -> None:
    assert (
        params_for_back("tools/call", params, meta=None, name="own" if params and b"own" in params else None)
        == params
    )


@pytest.mark.parametrize(
    ("method", "before", "after"),
    [
        (
            "tools/call",
            {"name": "s_t", "arguments": {"name": "s_t"}},
            {"name": "own", "arguments": {"name": "s_t"}},
        ),
        ("prompts/get", {"name": "s_t"}, {"name": "own"}),
        ("resources/read", {"uri": "x"}, {"uri": "own"}),
        ("resources/subscribe", {"uri": "x"}, {"uri": "own"}),
        ("tasks/get", {"taskId": "x"}, {"taskId": "own"}),
        (
            "completion/complete",
            {
                "ref": {"type": "ref/prompt", "name": "x", "title": "T"},
                "argument": {"name": "x", "value": ""},
            },
            {
                "ref": {"type": "ref/prompt", "name": "own", "title": "T"},
                "argument": {"name": "x", "value": ""},
            },
        ),
        (
            "completion/complete",
            {"ref": {"type": "ref/resource", "uri": "x"}},
            {"ref": {"type": "ref/resource", "uri": "own"}},
        ),
        (
            "completion/complete",
            {"ref": {"type": "ref/else", "uri": "x"}},
            {"ref": {"type": "ref/else", "uri": "x"}},
        ),
        ("tools/list", {"name": "x"}, {"name": "x"}),
    ],
)
def test_a_request_names_what_its_server_calls_it(method: str, before: object, after: object) -> None:
    assert read(params_for_back(method, sent(before), meta=None, name="own")) == after


@given(
    st.dictionaries(st.text(), st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False))
)
def test_arguments_keep_their_bytes(arguments: dict[str, object]) -> None:
    raw = json.dumps(arguments).encode()

    params = params_for_back("tools/call", b'{"name":"x","arguments":' + raw + b"}", meta=BACK, name="own")

    assert params is not None
    assert b'"arguments":' + raw in params


@pytest.mark.parametrize("params", [b"[]", b'{"_meta":1}'])
def test_params_that_cannot_be_read_are_refused(params: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="is not an object"):
        params_for_back("tools/list", params, meta=None)


@pytest.mark.parametrize(
    ("method", "params", "subject"),
    [
        ("tools/call", {"name": "t"}, "t"),
        ("prompts/get", {"name": "p"}, "p"),
        ("resources/read", {"uri": "u"}, "u"),
        ("resources/unsubscribe", {"uri": "u"}, "u"),
        ("tasks/cancel", {"taskId": "k"}, "k"),
        ("completion/complete", {"ref": {"type": "ref/prompt", "name": "p"}}, "p"),
        ("completion/complete", {"ref": {"type": "ref/resource", "uri": "u"}}, "u"),
        ("completion/complete", {"ref": {"type": "ref/else"}}, None),
        ("tools/list", {"name": "t"}, None),
    ],
)
def test_what_a_request_is_about_is_read(method: str, params: object, subject: str | None) -> None:
    assert subject_of(method, sent(params)) == subject


@pytest.mark.parametrize(
    ("method", "params", "why"),
    [
        ("tools/call", None, "the name of tools/call is missing"),
        ("tools/call", b'{"name":1}', "the name of tools/call is not a string"),
        ("completion/complete", b"{}", "the ref of a completion is missing"),
        ("completion/complete", b'{"ref":1}', "the ref of a completion is not an object"),
        ("completion/complete", b'{"ref":{}}', "the type of a completion's ref is missing"),
        (
            "completion/complete",
            b'{"ref":{"type":"ref/prompt"}}',
            "the name of a completion's ref is missing",
        ),
    ],
)
def test_a_request_about_nothing_is_told_what_is_missing(method: str, params: bytes | None, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        subject_of(method, params)


@pytest.mark.parametrize("token", [None, 7])
@pytest.mark.parametrize("name", [None, "a", "b"])
def test_params_that_have_been_read_are_not_read_again_and_come_out_the_same(
    token: int | None, name: str | None
) -> None:
    params = Raw(b'{"name":"a","arguments":{"x":1},"_meta":{"progressToken":"t","trace":"kept"}}')
    call = parse_call(params)
    assert call.members is not None
    before = dict(call.members)

    again = params_for_back("tools/call", params, meta=None, progress_token=token, name=name)
    known = params_for_back(
        "tools/call", params, meta=None, progress_token=token, name=name, members=call.members
    )

    assert known == again
    assert call.members == before


def test_other_params_have_members_of_their_own() -> None:
    call = parse_call(Raw(b'{"name":"a"}')).with_params(Raw(b'{"name":"a","arguments":{}}'))

    assert call.members is None
    assert params_for_back("tools/call", call.params, meta=None, members=call.members) == bytes(call.params)
