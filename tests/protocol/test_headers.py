"""The headers that repeat a modern request's body."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.shared.inbound import InboundModernRoute, classify_inbound_request, validate_mcp_param_headers
from mcp_types import methods
from msgspec import Raw

from mcpv_node.protocol import (
    BackMeta,
    HeaderMismatch,
    McpHeaders,
    MirroredParam,
    check_headers,
    check_param_headers,
    decode_value,
    encode_value,
    members,
    params_for_back,
    parse_mirrored,
    read_headers,
    request_headers,
)

VERSION = "2026-07-28"


def test_headers_are_read_in_any_case_and_without_the_space_around_them() -> None:
    headers = read_headers(
        [
            (b"Host", b"h"),
            (b"MCP-Protocol-Version", b" 2026-07-28\t"),
            (b"mcp-session-id", b"s"),
            (b"Mcp-Method", b"tools/call"),
            (b"MCP-NAME", b"  a b  "),
            (b"Mcp-Param-Region", b"us"),
            (b"mcp-param-Level", b""),
        ]
    )

    assert headers == McpHeaders(
        version="2026-07-28",
        session="s",
        method="tools/call",
        name="a b",
        params={"region": "us", "level": ""},
    )


def test_a_header_that_came_twice_is_remembered() -> None:
    headers = read_headers(
        [(b"mcp-name", b"a"), (b"Mcp-Name", b"a"), (b"mcp-param-x", b"1"), (b"mcp-param-x", b"1")]
    )

    assert headers.repeated == {"mcp-name", "mcp-param-x"}


def check(method: str, params: bytes, said: dict[str, object]) -> None:
    headers = McpHeaders(**({"version": VERSION, "method": method} | said))  # type: ignore[arg-type]
    check_headers(headers, version=VERSION, method=method, params=members(params))


@pytest.mark.parametrize(
    ("method", "params", "said"),
    [
        ("tools/list", b"{}", {}),
        ("tools/list", b'{"name":"a"}', {"name": "ignored"}),
        ("tools/call", b'{"name":"a"}', {"name": "a"}),
        ("tools/call", b'{"name":" a "}', {"name": "=?base64?IGEg?="}),
        ("tools/call", b'{"name":"\xc3\xa9"}', {"name": "=?base64?w6k=?="}),
        ("tools/call", b"{}", {}),
        ("prompts/get", b'{"name":"a"}', {"name": "a"}),
        ("resources/read", b'{"uri":"x://y"}', {"name": "x://y"}),
        ("tasks/get", b'{"taskId":"t"}', {"name": "t"}),
        ("tasks/get", b'{"taskId":"t"}', {}),
    ],
)
def test_headers_that_repeat_the_body_pass(method: str, params: bytes, said: dict[str, object]) -> None:
    check(method, params, said)


@pytest.mark.parametrize(
    ("method", "params", "said", "why"),
    [
        ("tools/list", b"{}", {"version": None}, "Mcp-Protocol-Version is missing"),
        ("tools/list", b"{}", {"version": "2025-11-25"}, 'says "2025-11-25", the body says "2026-07-28"'),
        ("tools/list", b"{}", {"method": None}, "Mcp-Method is missing"),
        ("tools/list", b"{}", {"method": "tools/call"}, 'Mcp-Method says "tools/call"'),
        ("tools/list", b"{}", {"method": "Tools/List"}, "Mcp-Method"),
        ("tools/call", b'{"name":"a"}', {}, "Mcp-Name is missing"),
        ("tools/call", b'{"name":"a"}', {"name": "A"}, 'Mcp-Name says "A", the body says "a"'),
        ("tools/call", b'{"name":"a"}', {"name": ""}, "Mcp-Name"),
        ("tools/call", b'{"name":"a"}', {"name": "=?base64?!!?="}, "base64 in the header Mcp-Name"),
        ("tools/call", b'{"name":"a"}', {"name": "=?base64?YR==?="}, "base64"),
        ("tools/call", b'{"name":"a"}', {"name": "=?base64?YQ?="}, "base64"),
        ("tools/call", b'{"name":"a"}', {"name": "=?base64?/w==?="}, "base64"),
        ("tools/call", b'{"name":"a"}', {"name": "a\x00"}, "not allowed"),
        ("tools/call", b'{"name":"a"}', {"name": "\xe9"}, "not allowed"),
        ("prompts/get", b'{"name":"a"}', {}, "Mcp-Name is missing"),
        ("resources/read", b'{"uri":"x://y"}', {"name": "x://Y"}, "Mcp-Name"),
        ("tasks/get", b'{"taskId":"t"}', {"name": "u"}, "Mcp-Name"),
        ("tools/list", b"{}", {"repeated": frozenset({"mcp-method"})}, "mcp-method came more than once"),
        ("tools/list", b"{}", {"repeated": frozenset({"mcp-protocol-version"})}, "more than once"),
        ("tools/call", b'{"name":"a"}', {"name": "a", "repeated": frozenset({"mcp-name"})}, "more than once"),
    ],
)
def test_headers_that_differ_from_the_body_are_refused(
    method: str, params: bytes, said: dict[str, object], why: str
) -> None:
    with pytest.raises(HeaderMismatch, match=why):
        check(method, params, said)


MIRRORED = (MirroredParam(("region",), "Region"), MirroredParam(("where", "zone"), "Zone"))


@pytest.mark.parametrize(
    ("arguments", "params"),
    [
        (None, {}),
        (b"{}", {}),
        (b'{"region":null,"where":null}', {}),
        (b'{"region":"us"}', {"region": "us"}),
        (b'{"region":""}', {"region": ""}),
        (b'{"region":true}', {"region": "true"}),
        (b'{"region":false,"where":{"zone":"a"}}', {"region": "false", "zone": "a"}),
        (b'{"region":42}', {"region": "42"}),
        (b'{"region":42}', {"region": "42.0"}),
        (b'{"region":42.0}', {"region": "42"}),
        (b'{"region":4.2e1}', {"region": "42"}),
        (b'{"region":-7}', {"region": "-7"}),
        (b'{"region":123456789012345678901234567890}', {"region": "123456789012345678901234567890"}),
        (b'{"region":"=?base64?x?="}', {"region": "=?base64?PT9iYXNlNjQ/eD89?="}),
        (b'{"where":{"zone":"\xe4\xb8\x96"}}', {"zone": "=?base64?5LiW?="}),
        (b'{"region":{"a":1},"where":7}', {}),
        (b"{}", {"unknown": "x"}),
    ],
)
def test_arguments_that_their_headers_repeat_pass(arguments: bytes | None, params: dict[str, str]) -> None:
    check_param_headers(McpHeaders(params=params), MIRRORED, arguments)


@pytest.mark.parametrize(
    ("arguments", "params", "why"),
    [
        (b'{"region":"us"}', {}, 'Mcp-Param-Region is missing, and the argument "region"'),
        (b'{"where":{"zone":"a"}}', {}, 'Mcp-Param-Zone is missing, and the argument "where.zone"'),
        (b"{}", {"region": "us"}, 'no argument "region"'),
        (None, {"region": "us"}, 'no argument "region"'),
        (b'{"region":null}', {"region": "null"}, "no argument"),
        (b'{"region":[1]}', {"region": "[1]"}, "no argument"),
        (b'{"region":"us"}', {"region": "US"}, "differs"),
        (b'{"region":"42"}', {"region": "42.0"}, "differs"),
        (b'{"region":42}', {"region": "42.5"}, "differs"),
        (b'{"region":42}', {"region": "0x2a"}, "differs"),
        (b'{"region":42}', {"region": "4.2e1"}, "differs"),
        (b'{"region":true}', {"region": "True"}, "differs"),
        (b'{"region":true}', {"region": "1"}, "differs"),
        (b'{"region":"us"}', {"region": "=?base64?dXM?="}, "base64"),
        (b'{"region":"us"}', {"region": "us\x7f"}, "not allowed"),
    ],
)
def test_arguments_that_their_headers_do_not_repeat_are_refused(
    arguments: bytes | None, params: dict[str, str], why: str
) -> None:
    with pytest.raises(HeaderMismatch, match=why):
        check_param_headers(McpHeaders(params=params), MIRRORED, arguments)


def test_a_mirrored_header_that_came_twice_is_refused() -> None:
    headers = McpHeaders(params={"region": "us"}, repeated=frozenset({"mcp-param-region"}))

    with pytest.raises(HeaderMismatch, match="Mcp-Param-Region came more than once"):
        check_param_headers(headers, MIRRORED, b'{"region":"us"}')


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ("us-west1", "us-west1"),
        ("", ""),
        ("a b", "a b"),
        ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
        (" padded ", "=?base64?IHBhZGRlZCA=?="),
        ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
        ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        ("a\tb", "=?base64?YQli?="),
    ],
)
def test_a_value_is_written_as_the_specification_shows_it(value: str, encoded: str) -> None:
    assert encode_value(value) == encoded


@given(st.text())
def test_every_value_survives_a_header(value: str) -> None:
    encoded = encode_value(value)
    (name, read), *_ = read_headers([(b"mcp-param-x", encoded.encode("latin-1"))]).params.items()

    assert name == "x"
    assert decode_value("Mcp-Param-X", read) == value


def test_a_back_is_sent_what_its_own_params_say() -> None:
    params = b'{"name":"own","arguments":{"region":" us","where":{"zone":7.0},"other":"x"}}'

    assert request_headers("tools/call", params, version=VERSION, mirrored=MIRRORED) == [
        ("Mcp-Protocol-Version", VERSION),
        ("Mcp-Method", "tools/call"),
        ("Mcp-Name", "own"),
        ("Mcp-Param-Region", "=?base64?IHVz?="),
        ("Mcp-Param-Zone", "7"),
    ]


@pytest.mark.parametrize(
    ("method", "params"), [("tools/list", None), ("tools/list", b'{"name":"x"}'), ("tools/call", b"{}")]
)
def test_a_request_about_nothing_in_particular_has_no_name(method: str, params: bytes | None) -> None:
    assert request_headers(method, params, version=VERSION) == [
        ("Mcp-Protocol-Version", VERSION),
        ("Mcp-Method", method),
    ]


@given(
    st.dictionaries(
        st.sampled_from(["region", "plain"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.text()
        | st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_what_a_back_is_sent_a_front_accepts(arguments: dict[str, object]) -> None:
    params = msgspec.json.encode({"name": "t é", "arguments": arguments})

    built = request_headers("tools/call", params, version=VERSION, mirrored=MIRRORED)
    headers = read_headers([(name.encode(), value.encode()) for name, value in built])

    check_headers(headers, version=VERSION, method="tools/call", params=members(params))
    check_param_headers(headers, MIRRORED, Raw(msgspec.json.encode(arguments)))


def test_a_request_that_we_send_passes_the_sdks_own_ladder() -> None:
    arguments = {"region": " us", "where": {"zone": 7}}
    schema = {
        "type": "object",
        "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "where": {"type": "object", "properties": {"zone": {"type": "integer", "x-mcp-header": "Zone"}}},
        },
    }
    called = msgspec.json.encode({"name": "prefixed", "arguments": arguments})
    back = BackMeta(version=VERSION, capabilities=b"{}", client_info=b'{"name":"c","version":"1"}')

    params = params_for_back("tools/call", called, meta=back, progress_token=1, name="é")
    mirrored = parse_mirrored(msgspec.json.encode(schema))
    sent = dict(request_headers("tools/call", params, version=VERSION, mirrored=mirrored))

    assert params is not None
    body = {"method": "tools/call", "params": msgspec.json.decode(params, type=dict[str, object])}
    lower = {name.lower(): value for name, value in sent.items()}
    assert isinstance(classify_inbound_request(body, headers=lower), InboundModernRoute)
    assert validate_mcp_param_headers(schema, arguments, lower) is None
    methods.validate_client_request("tools/call", VERSION, body["params"])  # type: ignore[arg-type]
