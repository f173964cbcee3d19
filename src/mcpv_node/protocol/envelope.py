"""One JSON-RPC message: its envelope is parsed, its payload stays the bytes its sender wrote.

Promises:

* What `parse_message` returns is valid JSON in valid UTF-8, nested no deeper than asked, with one `id` and one
  `method`, and of the shape MCP gives a message. Whatever else comes in is an `EnvelopeError`, never anything else.
* An id goes back to the byte: `1`, `"1"` and `"\\u0031"` are three ids.
* `params`, `result` and `error` are views into the received bytes and keep all of them alive. That costs nothing
  while a message passes through; who stores one takes `keep(raw)`, a copy.
* What the encoders return is one line without its newline, whatever white space the payload carries.
"""

from __future__ import annotations

import re
from itertools import accumulate
from typing import Final, NewType

import msgspec
from msgspec import UNSET, Raw, UnsetType

from .errors import INVALID_REQUEST, PARSE_ERROR, EnvelopeError
from .members import member_pairs, members

# The JSON text of an id as it was sent.
RawId = NewType("RawId", bytes)

# Deep enough for any real schema; the parser's own stack, which it shares with Python's, ends near 1,000.
DEFAULT_DEPTH: Final = 512


class Request(msgspec.Struct, frozen=True, gc=False):
    """A call that wants an answer under its id."""

    id: RawId
    method: str
    params: Raw | None = None


class Notification(msgspec.Struct, frozen=True, gc=False):
    """A message that wants no answer."""

    method: str
    params: Raw | None = None


class Success(msgspec.Struct, frozen=True, gc=False):
    """An answer with its result."""

    id: RawId
    result: Raw


class Failure(msgspec.Struct, frozen=True, gc=False):
    """An answer with its error; without an id when the peer could not tell which request it was."""

    id: RawId | None
    error: Raw


Message = Request | Notification | Success | Failure


class _Envelope(msgspec.Struct, frozen=True, gc=False):
    """The common case in one pass; whatever does not fit is looked at again, slowly, for a good sentence."""

    jsonrpc: str
    id: Raw | UnsetType = UNSET
    method: str | UnsetType = UNSET
    params: Raw | UnsetType = UNSET
    result: Raw | UnsetType = UNSET
    error: Raw | UnsetType = UNSET


_decode_envelope: Final = msgspec.json.Decoder(_Envelope).decode

_OBJECT: Final = ord("{")
_INTEGER: Final = re.compile(rb"-?[0-9]+")
_NOT_MARKS: Final = bytes(set(range(256)) - set(b'{}[]"'))
_PEELS: Final = 8
_STEP: Final = {ord("{"): 1, ord("["): 1, ord("}"): -1, ord("]"): -1}
_LEADING_ID: Final = re.compile(
    rb'\s*\{\s*(?:"jsonrpc"\s*:\s*"2\.0"\s*,\s*)?"id"\s*:\s*(-?[0-9]+|"[^"\\\x00-\x1f]*")\s*,'
)
_LINE_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")


def parse_message(data: bytes | bytearray | memoryview, *, depth: int = DEFAULT_DEPTH) -> Message:
    """Read one message; raise `EnvelopeError` with the code and sentence to answer when it is none."""
    if not isinstance(data, bytes):
        # A view into a buffer that its owner goes on using would change under the reader.
        data = bytes(data)
    if not data.isascii() and not _is_utf8(data):
        # The parser takes the bytes of a string it does not look into as they are.
        raise EnvelopeError(PARSE_ERROR, "the message is not UTF-8", guess_id(data))
    # A short message cannot be deep, nor one with few brackets, and counting them is cheap.
    if (
        len(data) > depth
        and data.count(b"[") + data.count(b"{") > depth
        and _is_deeper(_brackets(data), depth)
    ):
        raise _too_deep(data, depth)
    try:
        # A backslash may spell a letter of a key; most messages have none, and one id and one method.
        if b"\\u00" in data or data.count(b'"id"') > 1 or data.count(b'"method"') > 1:
            _check_repeated_keys(data)
        try:
            found = _decode_envelope(data)
        except msgspec.DecodeError:
            found = _decode_slowly(data)
    except RecursionError:
        # The caller asked for more depth than the parser has, or stands deep in the stack itself.
        raise _too_deep(data, depth) from None
    return _classify(found)


def keep(raw: Raw) -> Raw:
    """The same value without the line around it: for who stores it."""
    return raw.copy()


def guess_id(head: bytes) -> RawId | None:
    """The id of a message that could not be read, when it stands where most senders write it: at the front."""
    found = _LEADING_ID.match(head)
    if found is None or not _is_utf8(found[1]):
        return None
    return RawId(found[1])


def encode_request(id: int | RawId, method: str, params: bytes | Raw | None = None) -> bytes:
    """One line that asks."""
    return one_line(
        b"".join((b'{"jsonrpc":"2.0","id":', _id(id), b',"method":', _text(method), *_params(params)))
    )


def encode_notification(method: str, params: bytes | Raw | None = None) -> bytes:
    """One line that tells."""
    return one_line(b"".join((b'{"jsonrpc":"2.0","method":', _text(method), *_params(params))))


def encode_success(id: RawId | int, result: bytes | Raw) -> bytes:
    """One line that answers."""
    return one_line(b"".join((b'{"jsonrpc":"2.0","id":', _id(id), b',"result":', result, b"}")))


def success_around(id: RawId) -> tuple[bytes, bytes]:
    """What stands before and after a result that is on one line already, so that a long one is not copied."""
    return b"".join((b'{"jsonrpc":"2.0","id":', id, b',"result":')), b"}"


def encode_failure(
    id: RawId | int | None, *, code: int, message: str, data: bytes | Raw | None = None
) -> bytes:
    """One line that answers with an error of our own."""
    error = [b'{"code":', b"%d" % code, b',"message":', _text(message)]
    if data is not None:
        error += [b',"data":', bytes(data)]
    return encode_failure_raw(id, b"".join((*error, b"}")))


def encode_failure_raw(id: RawId | int | None, error: bytes | Raw) -> bytes:
    """One line that answers with somebody else's error, untouched."""
    shown = b"null" if id is None else _id(id)
    return one_line(b"".join((b'{"jsonrpc":"2.0","id":', shown, b',"error":', error, b"}")))


def error_code(error: bytes | Raw) -> int | None:
    """The code of a JSON-RPC error object; None where it has none that is one."""
    try:
        return msgspec.json.decode(members(error).get("code", Raw(b"null")), type=int | None)
    except msgspec.DecodeError:
        return None


def one_line(data: bytes) -> bytes:
    """The same JSON without line breaks: inside valid JSON they are only ever white space between tokens."""
    if b"\n" in data or b"\r" in data:
        return data.translate(_LINE_BREAKS)
    return data


def _id(id: int | RawId) -> bytes:
    return b"%d" % id if isinstance(id, int) else id


def _text(value: str) -> bytes:
    return msgspec.json.encode(value)


def _params(params: bytes | Raw | None) -> tuple[bytes | Raw, ...]:
    return (b"}",) if params is None else (b',"params":', params, b"}")


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _brackets(data: bytes) -> bytes:
    """The brackets outside of strings, and nothing else."""
    bare = data.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in data else data
    marks = bare.translate(None, _NOT_MARKS)
    # Two quotes side by side leave what is inside a string and what is not as it was.
    return b"".join(marks.replace(b'""', b"").split(b'"')[::2])


def _is_deeper(brackets: bytes, depth: int) -> bool:
    rest = brackets
    for _ in range(_PEELS):
        rest = rest.replace(b"{}", b"").replace(b"[]", b"")
    # A peel takes two levels at most, and what is wide but not deep is gone after a few.
    if len(rest) + 2 * _PEELS <= depth:
        return False
    return max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > depth


def _too_deep(data: bytes, depth: int) -> EnvelopeError:
    return EnvelopeError(PARSE_ERROR, f"the message is nested deeper than {depth} levels", guess_id(data))


def _check_repeated_keys(data: bytes) -> None:
    """Two readers of a message with two ids or methods may each believe another one."""
    try:
        keys = [key for key, _ in member_pairs(data)]
    except msgspec.DecodeError:
        return  # Reading it once more says what is wrong with it.
    for name in ("id", "method"):
        if keys.count(name) > 1:
            raise EnvelopeError(PARSE_ERROR, f'the message has more than one "{name}"')


def _decode_slowly(data: bytes) -> _Envelope:
    """Read what the fast pass refused: find the sentence that says why, or a reason to take it after all."""
    try:
        found = members(data)
    except msgspec.ValidationError:
        raise _not_an_object(data) from None
    except msgspec.DecodeError as error:
        raise _not_json(data, error) from None

    id = _known_id(found.get("id", UNSET))
    version = _text_of(found.get("jsonrpc"))
    if version is None:
        raise EnvelopeError(INVALID_REQUEST, '"jsonrpc" is missing or not a string; it must be "2.0"', id)
    method = found.get("method", UNSET)
    named: str | UnsetType = UNSET
    if method is not UNSET:
        text = _text_of(method)
        if text is None:
            raise EnvelopeError(INVALID_REQUEST, '"method" is not a string', id)
        named = text
    return _Envelope(
        jsonrpc=version,
        id=found.get("id", UNSET),
        method=named,
        params=found.get("params", UNSET),
        result=found.get("result", UNSET),
        error=found.get("error", UNSET),
    )


def _not_an_object(data: bytes) -> EnvelopeError:
    try:
        # The parser stops at the wrong type; what stands behind it may not even be JSON.
        msgspec.json.decode(data, type=Raw)
    except msgspec.DecodeError as error:
        return _not_json(data, error)
    if data.lstrip().startswith(b"["):
        sentence = "the message is a batch; MCP has none since version 2025-06-18"
    else:
        sentence = "the message is not an object"
    return EnvelopeError(INVALID_REQUEST, sentence)


def _not_json(data: bytes, error: msgspec.DecodeError) -> EnvelopeError:
    return EnvelopeError(PARSE_ERROR, f"the message is not JSON: {error}", guess_id(data))


def _text_of(raw: Raw | None) -> str | None:
    if raw is None:
        return None
    try:
        return msgspec.json.decode(raw, type=str)
    except msgspec.DecodeError:
        return None


def _classify(found: _Envelope) -> Message:
    if found.jsonrpc != "2.0":
        raise EnvelopeError(INVALID_REQUEST, '"jsonrpc" is not "2.0"', _known_id(found.id))
    if found.method is not UNSET:
        return _read_call(found, found.method)
    return _read_answer(found)


def _read_call(found: _Envelope, method: str) -> Request | Notification:
    if found.result is not UNSET or found.error is not UNSET:
        sentence = "the message is both a request and a response"
        raise EnvelopeError(INVALID_REQUEST, sentence, _known_id(found.id))
    params = None if found.params is UNSET else found.params
    if params is not None and memoryview(params)[0] != _OBJECT:
        raise EnvelopeError(INVALID_REQUEST, '"params" is not an object', _known_id(found.id))
    if found.id is UNSET:
        return Notification(method, params)
    id = _known_id(found.id)
    if id is None:
        raise _no_id(found.id)
    return Request(id, method, params)


def _read_answer(found: _Envelope) -> Success | Failure:
    if found.error is not UNSET:
        if found.result is not UNSET:
            sentence = 'the response has both "result" and "error"'
            raise EnvelopeError(INVALID_REQUEST, sentence, _known_id(found.id))
        if memoryview(found.error)[0] != _OBJECT:
            raise EnvelopeError(INVALID_REQUEST, '"error" is not an object', _known_id(found.id))
        id = _known_id(found.id)
        if id is None and found.id is not UNSET and bytes(found.id) != b"null":
            raise _no_id(found.id)
        return Failure(id, found.error)
    if found.result is not UNSET:
        id = _known_id(found.id)
        if id is None:
            raise _no_id(found.id)
        return Success(id, found.result)
    sentence = 'the message is neither a request nor a response: no "method", "result" or "error"'
    raise EnvelopeError(INVALID_REQUEST, sentence, _known_id(found.id))


def _no_id(raw: Raw | UnsetType) -> EnvelopeError:
    sentence = '"id" is missing' if raw is UNSET else '"id" is neither a string nor an integer'
    return EnvelopeError(INVALID_REQUEST, sentence)


def _known_id(raw: Raw | UnsetType) -> RawId | None:
    if raw is UNSET:
        return None
    text = bytes(raw)
    return RawId(text) if text.isdigit() or text[:1] == b'"' or _INTEGER.fullmatch(text) else None
