"""Which arguments of a tool a modern HTTP request repeats in headers: `x-mcp-header` in its inputSchema.

An annotation that breaks a rule makes the whole tool unusable over HTTP, by the specification: a client must leave
it out of its list. The sentence of the error says why.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, cast

import msgspec
from msgspec import Raw

from .errors import RemoteProtocolError

ANNOTATION: Final = "x-mcp-header"

# RFC 9110, section 5.6.2: all that a header's name may be made of.
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# No number: a fraction is not written the same by everybody.
_TYPES: Final = frozenset({"string", "integer", "boolean"})

# Where JSON Schema 2020-12 (and the older "definitions") has a schema inside a schema. Elsewhere, in a default or an
# example, the same word is a user's data.
_HOLD_ONE: Final = frozenset(
    {
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)
_HOLD_LIST: Final = frozenset({"allOf", "anyOf", "items", "oneOf", "prefixItems"})
_HOLD_NAMED: Final = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties"})

# The names of properties from the root; None behind anything else than properties.
_Path = tuple[str, ...] | None


class MirroredParam(msgspec.Struct, frozen=True):
    """One argument that is repeated: where it is, and the header's name behind `Mcp-Param-`."""

    path: tuple[str, ...]
    header: str


def parse_mirrored(input_schema: bytes | Raw) -> tuple[MirroredParam, ...]:
    """The arguments to repeat, in the schema's order; `RemoteProtocolError` when an annotation is not allowed."""
    text = bytes(input_schema)
    if ANNOTATION.encode() not in text:
        return ()
    try:
        root: object = msgspec.json.decode(text)
    except msgspec.DecodeError:
        raise RemoteProtocolError("the inputSchema cannot be read") from None
    found: dict[str, MirroredParam] = {}
    for path, schema in _schemas(root):
        if ANNOTATION not in schema:
            continue
        if not path:
            raise RemoteProtocolError(f"an {ANNOTATION} stands where no plain property of the arguments is")
        param = _read_annotation(path, schema)
        other = found.setdefault(param.header.lower(), param)
        if other is not param:
            raise RemoteProtocolError(
                f'{_where(path)} and {_where(other.path)} have the same {ANNOTATION} "{param.header}"'
            )
    return tuple(found.values())


def _read_annotation(path: tuple[str, ...], schema: dict[str, object]) -> MirroredParam:
    header = schema[ANNOTATION]
    if not isinstance(header, str):
        raise RemoteProtocolError(f"the {ANNOTATION} of {_where(path)} is not a string")
    if not _TOKEN.fullmatch(header):
        raise RemoteProtocolError(f"the {ANNOTATION} of {_where(path)} is no name for a header: {header!r}")
    kind = schema.get("type")
    if not isinstance(kind, str) or kind not in _TYPES:
        raise RemoteProtocolError(
            f"{_where(path)} has an {ANNOTATION}, and its type is not string, integer or boolean"
        )
    return MirroredParam(path, header)


def _where(path: tuple[str, ...]) -> str:
    return f'the property "{".".join(path)}"'


def _schemas(root: object) -> Iterator[tuple[_Path, dict[str, object]]]:
    """Every schema in the schema, in order; with a stack of its own, since a schema may be deep."""
    waiting: list[tuple[_Path, object]] = [((), root)]
    while waiting:
        path, node = waiting.pop()
        if not isinstance(node, dict):
            continue
        schema = cast("dict[str, object]", node)
        yield path, schema
        inside: list[tuple[_Path, object]] = []
        for keyword, value in schema.items():
            inside += _inside(path, keyword, value)
        waiting += reversed(inside)


def _inside(path: _Path, keyword: str, value: object) -> list[tuple[_Path, object]]:
    if isinstance(value, dict):
        named = cast("dict[str, object]", value)
        if keyword == "properties":
            return [(None if path is None else (*path, name), sub) for name, sub in named.items()]
        if keyword in _HOLD_NAMED:
            return [(None, sub) for sub in named.values()]
        return [(None, named)] if keyword in _HOLD_ONE else []
    if isinstance(value, list) and keyword in _HOLD_LIST:
        return [(None, sub) for sub in cast("list[object]", value)]
    return []
