"""What a modern request says of itself."""

from __future__ import annotations

import pytest

from mcpv_node.protocol import RemoteProtocolError, parse_request_meta

VERSION = b'"io.modelcontextprotocol/protocolVersion":"2026-07-28"'
CAPABILITIES = b'"io.modelcontextprotocol/clientCapabilities":{ "roots": {}, "x": 1.0 }'


def params(*said: bytes) -> bytes:
    return b'{"_meta":{' + b",".join(said) + b"}}"


def test_everything_a_request_says_is_read() -> None:
    info = b'{"name":"c","version":"2","icons":[]}'

    meta = parse_request_meta(
        params(
            VERSION,
            CAPABILITIES,
            b'"io.modelcontextprotocol/clientInfo":' + info,
            b'"io.modelcontextprotocol/logLevel":"notice"',
            b'"progressToken":7',
            b'"mcpv/key":"k"',
            b'"traceparent":"00-1"',
        )
    )

    assert meta.version == "2026-07-28"
    assert (meta.client_name, meta.client_version, meta.client_info) == ("c", "2", info)
    assert meta.capabilities == b'{ "roots": {}, "x": 1.0 }'
    assert meta.profile == '{"roots":{},"x":1.0}'
    assert meta.log_level == "notice"
    assert meta.progress_token is not None
    assert bytes(meta.progress_token) == b"7"
    assert meta.key == "k"


def test_what_a_request_says_again_is_what_it_said_before_and_nothing_else() -> None:
    token = b'"progressToken":%d'
    long = b'"x":"%s"' % (b"x" * 5000)

    one, same = (parse_request_meta(params(VERSION, CAPABILITIES, token % 1)) for _ in range(2))
    other = parse_request_meta(params(VERSION, CAPABILITIES, token % 2))
    more = parse_request_meta(params(VERSION, CAPABILITIES, token % 1, long))

    assert one == same == more
    assert one != other


def test_a_request_need_not_say_more_than_its_version_and_capabilities() -> None:
    meta = parse_request_meta(params(VERSION, CAPABILITIES))

    assert (meta.client_name, meta.client_version, meta.client_info) == ("", "", None)
    assert (meta.log_level, meta.progress_token, meta.key) == (None, None, None)


@pytest.mark.parametrize(
    ("sent", "why"),
    [
        (None, "protocolVersion and io.modelcontextprotocol/clientCapabilities"),
        (b"{}", "protocolVersion and io.modelcontextprotocol/clientCapabilities"),
        (params(VERSION), "must have io.modelcontextprotocol/clientCapabilities"),
        (params(CAPABILITIES), "must have io.modelcontextprotocol/protocolVersion"),
        (b"[]", "params is not an object"),
        (b'{"_meta":1}', "_meta is not an object"),
        (
            params(CAPABILITIES, b'"io.modelcontextprotocol/protocolVersion":1'),
            "protocolVersion is not a string",
        ),
        (
            params(VERSION, b'"io.modelcontextprotocol/clientCapabilities":[]'),
            "clientCapabilities is not an object",
        ),
        (params(VERSION, b'"io.modelcontextprotocol/clientCapabilities":null'), "is not an object"),
        (
            params(VERSION, CAPABILITIES, b'"io.modelcontextprotocol/clientInfo":"c"'),
            "clientInfo is not an object",
        ),
        (
            params(VERSION, CAPABILITIES, b'"io.modelcontextprotocol/clientInfo":{"name":1}'),
            r"clientInfo\.name is not a string",
        ),
        (
            params(VERSION, CAPABILITIES, b'"io.modelcontextprotocol/logLevel":"loud"'),
            '"loud" is none of debug',
        ),
        (params(VERSION, CAPABILITIES, b'"progressToken":{}'), "progressToken is neither"),
        (params(VERSION, CAPABILITIES, b'"mcpv/key":1'), "mcpv/key"),
    ],
)
def test_a_request_that_says_it_wrongly_is_told_what_is_wrong(sent: bytes | None, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        parse_request_meta(sent)
