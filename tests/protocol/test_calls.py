"""What is read of a call, and what is rewritten."""

from __future__ import annotations

import pytest
from msgspec import Raw

from mcpv_node.protocol import (
    CALL,
    RawId,
    RemoteProtocolError,
    cancelled,
    params_for_back,
    parse_call,
    parse_cancelled,
    parse_progress,
    retoken_progress,
)


def test_a_call_says_its_tool_its_token_and_its_routing_key() -> None:
    params = Raw(b'{"name":"t","arguments":{"a":1},"_meta":{"progressToken":"p","mcpv/key":"k"}}')

    call = parse_call(params)

    assert (call.name, call.key, call.params) == ("t", "k", params)
    assert call.progress_token is not None
    assert bytes(call.progress_token) == b'"p"'


def test_a_bare_call_has_neither_token_nor_key() -> None:
    call = parse_call(Raw(b'{"name":"t"}'))

    assert (call.progress_token, call.key) == (None, None)


@pytest.mark.parametrize(
    ("params", "why"),
    [
        (None, "no params"),
        (b"{}", "name of tools/call is missing"),
        (b'{"name":1}', "name of tools/call is not a string"),
        (b'{"name":"t","_meta":[]}', "_meta is not an object"),
        (b'{"name":"t","_meta":{"progressToken":1.5}}', "progressToken is neither"),
        (b'{"name":"t","_meta":{"progressToken":null}}', "progressToken is neither"),
        (b'{"name":"t","_meta":{"mcpv/key":7}}', "mcpv/key"),
    ],
)
def test_a_call_that_cannot_be_read_says_why(params: bytes | None, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        parse_call(None if params is None else Raw(params))


ARGUMENTS = b'{"n":123456789012345678901234567890,"f":1.0, "b":[ 1,2 ],"e":"\\u00e9","a":1,"a":2}'


@pytest.mark.parametrize(
    ("before", "token", "after"),
    [
        (b'{"name":"s_t","arguments":%s}', None, b'{"name":"t","arguments":%s}'),
        (b'{"arguments":%s,"x":null,"name":"s_t"}', None, b'{"arguments":%s,"x":null,"name":"t"}'),
        (b'{"name":"s_t","arguments":%s}', 7, b'{"name":"t","arguments":%s,"_meta":{"progressToken":7}}'),
        (
            b'{"_meta":{"a":1.0,"progressToken":"p","b":[ ]},"name":"s_t","arguments":%s}',
            7,
            b'{"_meta":{"a":1.0,"progressToken":7,"b":[ ]},"name":"t","arguments":%s}',
        ),
        (
            b'{"name":"s_t","_meta":{"progressToken":"p","b":[ ]},"arguments":%s}',
            None,
            b'{"name":"t","_meta":{"b":[ ]},"arguments":%s}',
        ),
        (
            b'{"name":"s_t","_meta":{ "b":[ ]},"arguments":%s}',
            None,
            b'{"name":"t","_meta":{ "b":[ ]},"arguments":%s}',
        ),
    ],
)
@pytest.mark.parametrize("arguments", [ARGUMENTS, b'{"half":"\\ud83d"}'])
def test_only_the_name_and_the_token_of_a_call_change(
    before: bytes, token: int | None, after: bytes, arguments: bytes
) -> None:
    assert (
        params_for_back(CALL, Raw(before % arguments), meta=None, name="t", progress_token=token)
        == after % arguments
    )


def test_an_escaped_key_is_still_itself_beside_half_an_emoji() -> None:
    params = b'{"\\ud83d\\ude00":1,"name":"s_t","arguments":{"text":"\\ud83d"}}'

    assert params_for_back(CALL, params, meta=None, name="t", progress_token=None) == (
        '{"\N{GRINNING FACE}":1,"name":"t","arguments":{"text":"\\ud83d"}}'.encode()
    )


def test_a_repeated_name_is_one_name_afterwards() -> None:
    assert (
        params_for_back(CALL, b'{"name":"a","name":"b"}', meta=None, name="t", progress_token=None)
        == b'{"name":"t"}'
    )


def test_a_cancellation_names_the_request_to_the_byte() -> None:
    assert cancelled(7) == b'{"requestId":7}'
    assert cancelled(RawId(b'"7"'), "too late") == b'{"requestId":"7","reason":"too late"}'
    assert parse_cancelled(b'{"requestId":"7","reason":"x"}') == b'"7"'
    assert parse_cancelled(cancelled(-7)) == b"-7"


@pytest.mark.parametrize("params", [None, b"{}", b"[]", b'{"requestId":null}', b'{"requestId":1.5}'])
def test_a_cancellation_of_nothing_is_refused(params: bytes | None) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_cancelled(params)


def test_progress_changes_its_token_and_nothing_else() -> None:
    params = b'{"progress":1.0,"progressToken":12,"total":30000000000000000000000,"message":"\\u00e9"}'

    assert bytes(parse_progress(params)) == b"12"
    assert retoken_progress(params, b'"p"') == (
        b'{"progress":1.0,"progressToken":"p","total":30000000000000000000000,"message":"\\u00e9"}'
    )


@pytest.mark.parametrize("params", [None, b"{}", b"[]", b'{"progressToken":null}', b'{"progressToken":{}}'])
def test_progress_of_nothing_is_refused(params: bytes | None) -> None:
    with pytest.raises(RemoteProtocolError):
        parse_progress(params)
