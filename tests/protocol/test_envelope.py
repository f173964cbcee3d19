"""What one JSON-RPC message may look like, and how it goes out again."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpv_node.protocol import (
    EnvelopeError,
    Failure,
    Notification,
    RawId,
    Request,
    Success,
    encode_failure,
    encode_failure_raw,
    encode_notification,
    encode_request,
    encode_success,
    guess_id,
    keep,
    one_line,
    parse_message,
    success_around,
)

PARSE_ERROR = -32700
INVALID_REQUEST = -32600


def refusal(data: bytes, *, depth: int = 512) -> EnvelopeError:
    with pytest.raises(EnvelopeError) as caught:
        parse_message(data, depth=depth)
    return caught.value


def request(members: bytes) -> bytes:
    return b'{"jsonrpc":"2.0",' + members + b"}"


@pytest.mark.parametrize(
    ("data", "kind", "id"),
    [
        (b'"id":1,"method":"ping"', Request, b"1"),
        (b'"id":-7,"method":"ping"', Request, b"-7"),
        (b'"id":0,"method":"ping"', Request, b"0"),
        (b'"id":123456789012345678901234567890,"method":"ping"', Request, b"123456789012345678901234567890"),
        (b'"id":"1","method":"ping"', Request, b'"1"'),
        (b'"id":"","method":"ping"', Request, b'""'),
        (b'"id":"\\u0061\xc3\xa9","method":"ping"', Request, b'"\\u0061\xc3\xa9"'),
        (b'"id" :  5 ,"method":"ping"', Request, b"5"),
        (b'"method":"ping"', Notification, None),
        (b'"id":1,"result":{}', Success, b"1"),
        (b'"id":1,"result":null', Success, b"1"),
        (b'"id":1,"error":{"code":1,"message":"x"}', Failure, b"1"),
        (b'"id":null,"error":{"code":1,"message":"x"}', Failure, None),
        (b'"error":{"code":1,"message":"x"}', Failure, None),
        (b'"id":1,"method":"ping","unknown":[1]', Request, b"1"),
    ],
)
def test_each_kind_of_message_is_told_apart_and_its_id_kept_to_the_byte(
    data: bytes, kind: type, id: bytes | None
) -> None:
    message = parse_message(request(data))

    assert type(message) is kind
    assert getattr(message, "id", None) == id


@pytest.mark.parametrize(
    "payload",
    [
        b'{"big":123456789012345678901234567890,"float":1.0,"b":1,"a":2}',
        b'{ "spaced" : [ 1 , 2 ] }',
        b'{"same":1,"same":2}',
        b'{"text":"\\u00e9\xc3\xa9\\/"}',
        b'{"half an emoji":"\\ud83d"}',
        b'{"half an emoji":"\\uDE00 and \\\\ud83d","id":1,"method":2}',
    ],
)
def test_a_payload_is_the_bytes_its_sender_wrote(payload: bytes) -> None:
    called = parse_message(request(b'"id":1,"method":"m","params":' + payload))
    answered = parse_message(request(b'"result":' + payload + b',"id":1'))
    failed = parse_message(request(b'"id":1,"error":' + payload))

    assert isinstance(called, Request)
    assert called.params is not None
    assert bytes(called.params) == payload
    assert isinstance(answered, Success)
    assert bytes(answered.result) == payload
    assert answered.id == b"1"
    assert isinstance(failed, Failure)
    assert bytes(failed.error) == payload


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not JSON"),
        (b" ", "not JSON"),
        (b"hello", "not JSON"),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping"', "not JSON"),
        (b'{"jsonrpc":"2.0","id":1,"method":"ping"}}', "not JSON"),
        (b'\xef\xbb\xbf{"jsonrpc":"2.0","id":1,"method":"ping"}', "not JSON"),
        (b'[{"jsonrpc":"2.0"', "not JSON"),
        (b"12 13", "not JSON"),
        (request(b'"id":01,"method":"ping"'), "not JSON"),
        (request(b'"id":1,"method":"ping","params":{"a":NaN}'), "not JSON"),
        (request(b'"id":1,"method":"ping","params":{"a":1,}'), "not JSON"),
        (request(b'"id":1,"method":"ping","params":{"a":"\\q"}'), "not JSON"),
        (request(b'"id":1,"method":"ping","params":{"a":"x\ny"}'), "not JSON"),
        (request(b'"id":1,"method":"ping","params":{"a":"\\ud83d",}'), "not JSON"),
        (request(b'"id":1,"method":"ping","params":{"a":"\xff"}'), "not UTF-8"),
        (request(b'"id":1,"method":"ping","params":{"a":"\xed\xa0\x80"}'), "not UTF-8"),
        (request(b'"id":1,"method":"ping","\xff":1'), "not UTF-8"),
        (request(b'"id":1,"id":2,"method":"ping"'), 'more than one "id"'),
        (request(b'"id":1,"id":1,"method":"ping"'), 'more than one "id"'),
        (request(b'"id":1,"\\u0069d":2,"method":"ping"'), 'more than one "id"'),
        (request(b'"id":1,"i\\u0064":2,"method":"ping"'), 'more than one "id"'),
        (request(b'"id":1,"method":"ping","method":"tools/call"'), 'more than one "method"'),
        (request(b'"id":1,"method":"ping","m\\u0065thod":"x"'), 'more than one "method"'),
        (request(b'"id":1,"method":"ping","params":{"a":"\\ud83d"},"id":2'), 'more than one "id"'),
    ],
)
def test_what_cannot_be_read_is_a_parse_error(data: bytes, why: str) -> None:
    error = refusal(data)

    assert error.code == PARSE_ERROR
    assert why in error.message


@pytest.mark.parametrize(
    ("data", "why", "id"),
    [
        (b"1", "not an object", None),
        (b'"text"', "not an object", None),
        (b"null", "not an object", None),
        (b"[]", "batch", None),
        (b' [{"jsonrpc":"2.0","id":1,"method":"ping"}]', "2025-06-18", None),
        (b"{}", '"jsonrpc"', None),
        (b'{"id":1,"method":"ping"}', '"jsonrpc"', b"1"),
        (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', '"jsonrpc"', b"1"),
        (b'{"jsonrpc":2.0,"id":1,"method":"ping"}', '"jsonrpc"', b"1"),
        (request(b'"id":null,"method":"ping"'), '"id"', None),
        (request(b'"id":true,"method":"ping"'), '"id"', None),
        (request(b'"id":1.0,"method":"ping"'), '"id"', None),
        (request(b'"id":1e3,"method":"ping"'), '"id"', None),
        (request(b'"id":{},"method":"ping"'), '"id"', None),
        (request(b'"id":[1],"method":"ping"'), '"id"', None),
        (request(b'"id":1,"method":7'), '"method"', b"1"),
        (request(b'"id":1,"method":null'), '"method"', b"1"),
        (request(b'"id":"a","method":"ping","params":[1]'), '"params"', b'"a"'),
        (request(b'"id":1,"method":"ping","params":null'), '"params"', b"1"),
        (request(b'"id":1,"method":"ping","params":"x"'), '"params"', b"1"),
        (request(b'"method":"ping","params":[]'), '"params"', None),
        (request(b'"id":1,"method":"ping","result":{}'), "both a request and a response", b"1"),
        (request(b'"id":1,"method":"ping","error":{}'), "both a request and a response", b"1"),
        (request(b'"id":1,"result":{},"error":{}'), "both", b"1"),
        (request(b'"id":1,"error":"text"'), '"error"', b"1"),
        (request(b'"id":1,"error":null'), '"error"', b"1"),
        (request(b'"id":true,"error":{}'), '"id"', None),
        (request(b'"id":null,"result":{}'), '"id"', None),
        (request(b'"result":{}'), '"id" is missing', None),
        (request(b'"id":1'), "neither a request nor a response", b"1"),
        (request(b'"params":{}'), "neither a request nor a response", None),
    ],
)
def test_json_that_is_no_message_is_an_invalid_request(data: bytes, why: str, id: bytes | None) -> None:
    error = refusal(data)

    assert error.code == INVALID_REQUEST
    assert why in error.message
    assert error.id == id


@pytest.mark.parametrize("brackets", [(b"[", b"]"), (b'{"a":', b"}")])
def test_depth_is_counted_to_the_level(brackets: tuple[bytes, bytes]) -> None:
    opening, closing = brackets

    def nested(levels: int) -> bytes:
        inside = opening * (levels - 1) + b"1" + closing * (levels - 1)
        return request(b'"id":1,"result":' + inside)

    assert isinstance(parse_message(nested(20), depth=20), Success)
    error = refusal(nested(21), depth=20)
    assert error.code == PARSE_ERROR
    assert "deeper than 20" in error.message
    assert error.id == b"1"


@pytest.mark.parametrize(
    "text", [b"[" * 600, b'\\"' + b"[" * 600, b"\\\\\\\\" + b"{" * 600, b'x\\\\\\"' + b"[" * 600]
)
def test_brackets_inside_strings_and_side_by_side_are_not_deep(text: bytes) -> None:
    data = request(b'"id":1,"result":["' + text + b'",' + b",".join([b"[{}]"] * 600) + b"]")

    assert isinstance(parse_message(data), Success)


@pytest.mark.parametrize("closed", [True, False])
def test_nesting_that_would_break_the_parser_is_a_parse_error(closed: bool) -> None:
    data = b"[" * 100_000 + (b"]" * 100_000 if closed else b"")

    assert refusal(data).code == PARSE_ERROR
    assert refusal(request(b'"id":1,"result":' + data), depth=1_000_000).code == PARSE_ERROR


def test_repeated_keys_further_inside_are_nobodys_business() -> None:
    data = request(b'"id":1,"method":"m","params":{"id":1,"id":2,"method":3,"list":[{"id":4,"\\u0069d":5}]}')

    assert isinstance(parse_message(data), Request)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_read_and_free_to_change_afterwards(kind: type) -> None:
    source = bytearray(request(b'"id":1,"method":"m","params":{"a":1}'))

    message = parse_message(kind(source))
    source.clear() if kind is bytearray else None

    assert isinstance(message, Request)
    assert message.params is not None
    assert bytes(message.params) == b'{"a":1}'


def test_keep_gives_the_same_value_without_the_line_around_it() -> None:
    message = parse_message(request(b'"id":1,"result":{"a":1},"x":"' + b"x" * 100 + b'"'))
    assert isinstance(message, Success)

    kept = keep(message.result)

    assert bytes(kept) == b'{"a":1}'
    assert kept is not message.result


def outcome(data: bytes) -> object:
    """The message, or the code of its refusal."""
    try:
        return parse_message(data)
    except EnvelopeError as error:
        return error.code


@given(st.binary(max_size=200))
def test_noise_is_a_parse_error_and_nothing_else(data: bytes) -> None:
    assert outcome(b"{" + data) == PARSE_ERROR or _is_json(b"{" + data)


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data.decode())
    except ValueError:
        return False
    return True


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abé", max_size=4), inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from(["jsonrpc", "id", "method", "params", "result", "error", "x"])


@given(st.dictionaries(KEYS, JSON | st.just("2.0")))
def test_any_object_is_a_message_or_an_invalid_request(value: dict[str, object]) -> None:
    found = outcome(json.dumps(value).encode())

    is_call = isinstance(found, Request | Notification)
    is_answer = isinstance(found, Success | Failure)
    assert found == INVALID_REQUEST or (is_call if "method" in value else is_answer)


@given(
    st.integers(), st.text(st.characters(codec="utf-8")), st.dictionaries(st.text(max_size=3), st.integers())
)
def test_a_request_is_read_as_it_was_written(id: int, method: str, params: dict[str, int]) -> None:
    raw = json.dumps(params, indent=1).encode()

    line = encode_request(id, method, raw)
    message = parse_message(line)

    assert b"\n" not in line
    assert isinstance(message, Request)
    assert int(message.id) == id
    assert message.method == method
    assert json.loads(bytes(message.params or b"")) == params


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (encode_request(7, "ping"), b'{"jsonrpc":"2.0","id":7,"method":"ping"}'),
        (
            encode_request(RawId(b'"7"'), "ping", b"{}"),
            b'{"jsonrpc":"2.0","id":"7","method":"ping","params":{}}',
        ),
        (encode_notification('a"\n'), b'{"jsonrpc":"2.0","method":"a\\"\\n"}'),
        (encode_notification("n", b"{}"), b'{"jsonrpc":"2.0","method":"n","params":{}}'),
        (encode_success(RawId(b'"x"'), b'{"a":\r\n1}'), b'{"jsonrpc":"2.0","id":"x","result":{"a":  1}}'),
        (
            encode_failure(None, code=-32700, message="no"),
            b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"no"}}',
        ),
        (
            encode_failure(RawId(b"1"), code=-31001, message="full", data=b'{"reason":"overloaded"}'),
            b'{"jsonrpc":"2.0","id":1,"error":{"code":-31001,"message":"full","data":{"reason":"overloaded"}}}',
        ),
        (encode_failure_raw(RawId(b"1"), b'{"code": 1}'), b'{"jsonrpc":"2.0","id":1,"error":{"code": 1}}'),
    ],
)
def test_each_message_is_written_on_one_line(line: bytes, expected: bytes) -> None:
    assert line == expected


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b'{"a":\n"x\\ny",\t"b":1}', b'{"a": "x\\ny",\t"b":1}'),
        (b'{"a":\r1}', b'{"a": 1}'),
        (b'{"a":\r\n1}', b'{"a":  1}'),
        (b'{"a":1}', b'{"a":1}'),
    ],
)
def test_only_line_breaks_are_replaced(data: bytes, line: bytes) -> None:
    assert one_line(data) == line


@pytest.mark.parametrize(
    ("head", "id"),
    [
        (b'{"jsonrpc":"2.0","id":12,"result":{"cut', b"12"),
        (b' { "id" : "a" , "x', b'"a"'),
        (b'{"jsonrpc":"2.0","result":{"id":12,"x":1},"id":3}', None),
        (b'{"jsonrpc":"2.0","id":1', None),
        (b'{"jsonrpc":"2.0","id":1.5,"result":{}', None),
        (b'{"id":"\xff","result":{}', None),
        (b"", None),
    ],
)
def test_the_id_of_an_unreadable_message_is_told_only_from_its_front(head: bytes, id: bytes | None) -> None:
    assert guess_id(head) == id


def test_what_stands_around_a_result_makes_the_same_answer_without_a_copy() -> None:
    head, tail = success_around(RawId(b'"a"'))

    assert head + b'{"tools":[]}' + tail == encode_success(RawId(b'"a"'), b'{"tools":[]}')
