"""Lists of tools, resources, resource templates and prompts: read page by page, joined byte by byte.

A definition is the server's own bytes, whatever unknown fields it has. A malformed entry is left out alone, with
the reason: one bad tool does not cost a server its others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

import msgspec
from msgspec import Raw

from .errors import RemoteProtocolError
from .members import items, members

# What is listed by a request of its own.
ListName: TypeAlias = Literal["tools", "resources", "templates", "prompts"]


class ListShape(msgspec.Struct, frozen=True):
    """How one list is asked for, and where its entries and their names stand."""

    method: str
    member: str  # of the result
    key: str  # of an entry: what tells it from the others of its server
    one: str  # what an entry is called in a sentence


LISTS: Final[Mapping[ListName, ListShape]] = MappingProxyType(
    {
        "tools": ListShape("tools/list", "tools", "name", "tool"),
        "resources": ListShape("resources/list", "resources", "uri", "resource"),
        "templates": ListShape(
            "resources/templates/list", "resourceTemplates", "uriTemplate", "resource template"
        ),
        "prompts": ListShape("prompts/list", "prompts", "name", "prompt"),
    }
)


class Listed(msgspec.Struct, frozen=True):
    """One entry in its server's own words; `name` is its URI where it has one.

    The hints are what a tool says of itself, not a proof.
    """

    name: str
    definition: bytes
    read_only: bool = False
    idempotent: bool = False
    is_template: bool = False


class Rejected(msgspec.Struct, frozen=True):
    """An entry that was left out."""

    index: int
    name: str | None
    why: str


class Page(msgspec.Struct, frozen=True):
    """One page of a list. An empty cursor is a cursor: only None ends the list."""

    entries: tuple[Listed, ...]
    rejected: tuple[Rejected, ...] = ()
    next_cursor: str | None = None


class _Malformed(Exception):
    """Why an entry cannot be listed; ends in `parse_page`."""


def list_params(cursor: str | None = None) -> bytes:
    """The params that ask for a page."""
    return b"{}" if cursor is None else msgspec.json.encode({"cursor": cursor})


def parse_page(kind: ListName, result: bytes | Raw) -> Page:
    """Read one page; a page that is none at all is a `RemoteProtocolError`."""
    shape = LISTS[kind]
    answer = f"the server's answer to {shape.method}"
    found = _read_object(result)
    if found is None:
        raise RemoteProtocolError(f"{answer} is not an object")
    if shape.member not in found:
        raise RemoteProtocolError(f"{answer} has no {shape.member}")
    try:
        raw_entries = items(found[shape.member])
    except msgspec.DecodeError:
        raise RemoteProtocolError(f"the {shape.member} in {answer} are not an array") from None

    entries: dict[str, Listed] = {}
    rejected: list[Rejected] = []
    for index, raw in enumerate(raw_entries):
        try:
            entry = _parse_entry(kind, raw)
            if entry.name in entries:
                raise _Malformed(f"another {shape.one} of this page has the same {shape.key}")
        except _Malformed as malformed:
            rejected.append(Rejected(index, _name_of(raw, shape), str(malformed)))
        else:
            entries[entry.name] = entry
    return Page(tuple(entries.values()), tuple(rejected), _next_cursor(found, answer))


def list_result(kind: ListName, definitions: Iterable[bytes], next_cursor: str | None = None) -> bytes:
    """The result of a list request."""
    joined = open_list_result(kind, definitions)
    if next_cursor is None:
        return joined + b"}"
    return joined + b',"nextCursor":' + msgspec.json.encode(next_cursor) + b"}"


def open_list_result(kind: ListName, definitions: Iterable[bytes]) -> bytes:
    """The same without what closes it, so that more members can follow."""
    return b'{"%s":[' % LISTS[kind].member.encode() + b",".join(definitions) + b"]"


def rename_definition(definition: bytes | Raw, name: str) -> bytes:
    """The same definition under another name."""
    found: dict[str, object] = dict(members(definition))
    found["name"] = name
    return msgspec.json.encode(found)


def _parse_entry(kind: ListName, raw: Raw) -> Listed:
    shape = LISTS[kind]
    found = _read_object(raw)
    if found is None:
        raise _Malformed("it is not an object")
    if shape.key not in found:
        raise _Malformed(f"it has no {shape.key}")
    name = _read_text(found[shape.key])
    if name is None:
        raise _Malformed(f"its {shape.key} is not a string")
    if not name:
        raise _Malformed(f"its {shape.key} is empty")
    if kind != "tools":
        return Listed(name=name, definition=bytes(raw), is_template=kind == "templates")
    _check_schema(found)
    hints = _read_object(found["annotations"]) if "annotations" in found else None
    return Listed(
        name=name,
        definition=bytes(raw),
        read_only=_is_true(hints, "readOnlyHint"),
        idempotent=_is_true(hints, "idempotentHint"),
    )


def _check_schema(found: dict[str, Raw]) -> None:
    if "inputSchema" not in found:
        raise _Malformed("it has no inputSchema")
    schema = _read_object(found["inputSchema"])
    if schema is None:
        raise _Malformed("its inputSchema is not an object")
    if "type" not in schema or _read_text(schema["type"]) != "object":
        raise _Malformed('the type of its inputSchema is not "object"')


def _name_of(raw: Raw, shape: ListShape) -> str | None:
    found = _read_object(raw)
    return None if found is None or shape.key not in found else _read_text(found[shape.key])


def _next_cursor(found: dict[str, Raw], answer: str) -> str | None:
    raw = found.get("nextCursor")
    if raw is None or bytes(raw) == b"null":
        return None
    cursor = _read_text(raw)
    if cursor is None:
        raise RemoteProtocolError(f"the nextCursor in {answer} is not a string")
    return cursor


def _is_true(hints: dict[str, Raw] | None, name: str) -> bool:
    raw = None if hints is None else hints.get(name)
    return raw is not None and bytes(raw) == b"true"


def _read_object(raw: bytes | Raw) -> dict[str, Raw] | None:
    try:
        return members(raw)
    except msgspec.DecodeError:
        return None


def _read_text(raw: Raw) -> str | None:
    try:
        return msgspec.json.decode(raw, type=str)
    except msgspec.DecodeError:
        return None
