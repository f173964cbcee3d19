"""The headers that repeat a modern request's body, so that whoever stands between need not read it.

The body is the truth. A front compares and refuses what differs (`HeaderMismatch`); a back is sent headers made from
the very params that go to it, with the server's own names.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Final

import msgspec
from msgspec import Raw

from .errors import RemoteProtocolError
from .mirroring import MirroredParam
from .params import NAMED_BY
from .reading import is_there, read_object, read_text

VERSION_HEADER: Final = "mcp-protocol-version"
SESSION_HEADER: Final = "mcp-session-id"
METHOD_HEADER: Final = "mcp-method"
NAME_HEADER: Final = "mcp-name"
PARAM_PREFIX: Final = "mcp-param-"

# What Mcp-Name repeats: the member that says what the request is about.
_NAMED: Final = frozenset(
    {"tools/call", "prompts/get", "resources/read", "tasks/get", "tasks/update", "tasks/cancel"}
)
# Of an extension that leaves checking to the server: compared when it is there, not missed when it is not.
_NAME_IS_OPTIONAL: Final = frozenset({"tasks/get", "tasks/update", "tasks/cancel"})

_ONCE: Final = frozenset({VERSION_HEADER, METHOD_HEADER, NAME_HEADER})
_OBJECT: Final = ord("{")
_OWS: Final = " \t"
_PRINTABLE: Final = re.compile(r"[\x20-\x7e\t]*")
_PLAIN: Final = re.compile(r"[\x20-\x7e]*")
_SENTINEL_START: Final = "=?base64?"
_SENTINEL: Final = re.compile(r"=\?base64\?(.*)\?=")
# No longer than a number anybody means; longer ones are compared as text.
_DECIMAL: Final = re.compile(r"-?[0-9]{1,40}(?:\.[0-9]{1,40})?")
_LONGEST_NUMBER: Final = 80
# Names that were compared; a client calls the same few all the time.
REMEMBERED: Final = 256
_NOTHING: Final = Raw(b"")
# Beyond these a JavaScript reader would not write the same digits.
_SAFE_INTEGER: Final = 2**53 - 1


class HeaderMismatch(RemoteProtocolError):
    """A header is missing, unreadable, or says something else than the body."""


class McpHeaders(msgspec.Struct, frozen=True, kw_only=True):
    """What a request's headers say to MCP, with the white space around the values gone."""

    version: str | None = None
    session: str | None = None
    method: str | None = None
    name: str | None = None
    # By the name behind the prefix, in lower case.
    params: dict[str, str] = msgspec.field(default_factory=dict[str, str])
    # Who reads the first copy and who reads the last one would disagree.
    repeated: frozenset[str] = frozenset()


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> McpHeaders:
    """Read the headers as a server interface hands them over, in any case."""
    found: dict[str, str] = {}
    params: dict[str, str] = {}
    repeated: set[str] = set()
    for raw_name, raw_value in raw:
        if raw_name[:3].lower() != b"mcp":
            continue
        name = raw_name.decode("latin-1").lower()
        value = raw_value.decode("latin-1").strip(_OWS)
        place, key = (
            (params, name.removeprefix(PARAM_PREFIX)) if name.startswith(PARAM_PREFIX) else (found, name)
        )
        if key in place:
            repeated.add(name)
        place[key] = value
    return McpHeaders(
        version=found.get(VERSION_HEADER),
        session=found.get(SESSION_HEADER),
        method=found.get(METHOD_HEADER),
        name=found.get(NAME_HEADER),
        params=params,
        repeated=frozenset(repeated),
    )


def check_headers(headers: McpHeaders, *, version: str, method: str, params: Mapping[str, Raw]) -> None:
    """Compare what every request repeats with its body; raise `HeaderMismatch` at the first difference."""
    if headers.repeated:
        for name in sorted(headers.repeated & _ONCE):
            raise HeaderMismatch(f"the header {name} came more than once")
    if headers.version != version:
        raise _differs("Mcp-Protocol-Version", headers.version, version)
    if headers.method != method:
        raise _differs("Mcp-Method", headers.method, method)
    member = NAMED_BY[method] if method in _NAMED else None
    if member is None:
        return
    if headers.name is not None and bytes(params.get(member, _NOTHING)) == _plain_text(headers.name):
        return
    if not is_there(params, member):
        return
    if headers.name is None and method in _NAME_IS_OPTIONAL:
        return
    named = read_text(params, member, f"the {member} of {method}")
    said = None if headers.name is None else decode_value("Mcp-Name", headers.name)
    if said != named:
        raise _differs("Mcp-Name", said, named)


def check_param_headers(
    headers: McpHeaders, mirrored: Iterable[MirroredParam], arguments: bytes | Raw | None
) -> None:
    """Compare each mirrored argument of a call with its header; raise `HeaderMismatch` at the first difference."""
    for param in mirrored:
        shown = f"Mcp-Param-{param.header}"
        key = param.header.lower()
        if PARAM_PREFIX + key in headers.repeated:
            raise HeaderMismatch(f"the header {shown} came more than once")
        header = headers.params.get(key)
        value = _value_at(arguments, param.path)
        text = None if value is None else _as_text(value)
        if header is None and text is None:
            continue
        where = ".".join(param.path)
        if header is None:
            raise HeaderMismatch(f'the header {shown} is missing, and the argument "{where}" is there')
        if text is None:
            raise HeaderMismatch(
                f'the header {shown} is there, and no argument "{where}" that it could repeat'
            )
        decoded = decode_value(shown, header)
        if decoded != text and not _is_same_number(value, decoded):
            raise HeaderMismatch(f'the header {shown} differs from the argument "{where}"')


def request_headers(
    method: str, params: bytes | Raw | None, *, version: str, mirrored: Sequence[MirroredParam] = ()
) -> list[tuple[str, str]]:
    """The headers for a request to a modern back, made from the params that go there."""
    built = [("Mcp-Protocol-Version", version), ("Mcp-Method", method)]
    if params is None or method not in _NAMED:
        return built
    member = NAMED_BY[method]
    found = read_object(params, f"the params of {method}")
    if is_there(found, member):
        built.append(("Mcp-Name", encode_value(read_text(found, member, f"the {member} of {method}"))))
    arguments = found.get("arguments")
    for param in mirrored:
        value = _value_at(arguments, param.path)
        text = None if value is None else _as_text(value)
        if text is not None:
            built.append((f"Mcp-Param-{param.header}", encode_value(text)))
    return built


def decode_value(header: str, value: str) -> str:
    """What a header's value means; raise `HeaderMismatch` when it cannot be read."""
    if not (value.isascii() and value.isprintable()) and not _PRINTABLE.fullmatch(value):
        raise HeaderMismatch(f"the header {header} holds characters that are not allowed there")
    if not value.startswith(_SENTINEL_START):
        return value
    found = _SENTINEL.fullmatch(value)
    if found is None:
        return value
    try:
        decoded = base64.b64decode(found[1], validate=True)
        text = decoded.decode()
    except (binascii.Error, UnicodeDecodeError):
        raise HeaderMismatch(f"the base64 in the header {header} cannot be read") from None
    # Two spellings of one value would let two readers disagree.
    if base64.b64encode(decoded).decode() != found[1]:
        raise HeaderMismatch(f"the base64 in the header {header} cannot be read")
    return text


def encode_value(value: str) -> str:
    """A value as a header can carry it."""
    if _PLAIN.fullmatch(value) and value == value.strip() and not _SENTINEL.fullmatch(value):
        return value
    return f"=?base64?{base64.b64encode(value.encode()).decode()}?="


@lru_cache(REMEMBERED)
def _plain_text(value: str) -> bytes | None:
    """The one JSON text that a header which needs no reading repeats, as nearly everybody writes it."""
    is_plain = value.isascii() and value.isprintable() and '"' not in value and "\\" not in value
    return f'"{value}"'.encode() if is_plain and not value.startswith(_SENTINEL_START) else None


def _differs(header: str, said: str | None, meant: str) -> HeaderMismatch:
    if said is None:
        return HeaderMismatch(f"the header {header} is missing")
    return HeaderMismatch(f'the header {header} says "{said}", the body says "{meant}"')


def _value_at(arguments: bytes | Raw | None, path: tuple[str, ...]) -> Raw | None:
    """The value at the end of the path; None when it is not there or null."""
    value = None if arguments is None else Raw(bytes(arguments))
    for key in path:
        if value is None or memoryview(value)[0] != _OBJECT:
            return None
        value = read_object(value, "the arguments").get(key)
    return None if value is None or bytes(value) == b"null" else value


def _as_text(value: Raw) -> str | None:
    """A string, number or truth as a header says it; None for what no header can say."""
    text = bytes(value)
    if text[:1] == b'"':
        return read_text({"value": value}, "value", "a mirrored argument")
    if text[:1] in (b"{", b"["):
        return None
    return _as_integer(text.decode())


def _as_integer(text: str) -> str:
    number = _as_number(text)
    if number is None or abs(number) > _SAFE_INTEGER or number != number.to_integral_value():
        return text
    return str(int(number))


def _as_number(text: str) -> Decimal | None:
    if len(text) > _LONGEST_NUMBER or text in ("true", "false"):
        return None
    return Decimal(text)


def _is_same_number(value: Raw | None, said: str) -> bool:
    if value is None or not _DECIMAL.fullmatch(said):
        return False
    text = bytes(value).decode()
    if text[:1] == '"':
        return False
    number = _as_number(text)
    return number is not None and number == Decimal(said)
