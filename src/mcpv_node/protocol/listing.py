"""Lists of tools: read page by page from a server, joined byte by byte for a client.

A definition is the server's own bytes, whatever unknown fields it has. A malformed entry is left out alone, with
the reason: one bad tool does not cost a server its others.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Raw

from .errors import RemoteProtocolError
from .members import items, members

LIST_TOOLS: Final = "tools/list"


class ListedTool(msgspec.Struct, frozen=True):
    """One tool in its server's own words; the hints are what it says of itself, not a proof."""

    name: str
    definition: bytes
    read_only: bool = False
    idempotent: bool = False


class Rejected(msgspec.Struct, frozen=True):
    """An entry that was left out."""

    index: int
    name: str | None
    why: str


class Page(msgspec.Struct, frozen=True):
    """One page of a list. An empty cursor is a cursor: only None ends the list."""

    entries: tuple[ListedTool, ...]
    rejected: tuple[Rejected, ...] = ()
    next_cursor: str | None = None


class _Malformed(Exception):
    """Why an entry cannot be listed; ends in `parse_tools_page`."""


def list_params(cursor: str | None = None) -> bytes:
    """The params that ask for a page."""
    return b"{}" if cursor is None else msgspec.json.encode({"cursor": cursor})


def parse_tools_page(result: bytes | Raw) -> Page:
    """Read one page; a page that is none at all is a `RemoteProtocolError`."""
    found = _read_object(result)
    if found is None:
        raise RemoteProtocolError("the server's answer to tools/list is not an object")
    if "tools" not in found:
        raise RemoteProtocolError("the server's answer to tools/list has no tools")
    try:
        raw_entries = items(found["tools"])
    except msgspec.DecodeError:
        raise RemoteProtocolError("the tools in the server's answer to tools/list are not an array") from None

    entries: dict[str, ListedTool] = {}
    rejected: list[Rejected] = []
    for index, raw in enumerate(raw_entries):
        try:
            tool = _parse_tool(raw)
            if tool.name in entries:
                raise _Malformed("another tool of this page has the same name")
        except _Malformed as malformed:
            rejected.append(Rejected(index, _name_of(raw), str(malformed)))
        else:
            entries[tool.name] = tool
    return Page(tuple(entries.values()), tuple(rejected), _next_cursor(found))


def tools_result(definitions: Iterable[bytes], next_cursor: str | None = None) -> bytes:
    """The result of `tools/list`."""
    joined = b'{"tools":[' + b",".join(definitions) + b"]"
    if next_cursor is None:
        return joined + b"}"
    return joined + b',"nextCursor":' + msgspec.json.encode(next_cursor) + b"}"


def rename_definition(definition: bytes | Raw, name: str) -> bytes:
    """The same definition under another name."""
    found: dict[str, object] = dict(members(definition))
    found["name"] = name
    return msgspec.json.encode(found)


def _parse_tool(raw: Raw) -> ListedTool:
    found = _read_object(raw)
    if found is None:
        raise _Malformed("it is not an object")
    if "name" not in found:
        raise _Malformed("it has no name")
    name = _read_text(found["name"])
    if name is None:
        raise _Malformed("its name is not a string")
    if not name:
        raise _Malformed("its name is empty")
    _check_schema(found)
    hints = _read_object(found["annotations"]) if "annotations" in found else None
    return ListedTool(
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


def _name_of(raw: Raw) -> str | None:
    found = _read_object(raw)
    return None if found is None or "name" not in found else _read_text(found["name"])


def _next_cursor(found: dict[str, Raw]) -> str | None:
    raw = found.get("nextCursor")
    if raw is None or bytes(raw) == b"null":
        return None
    cursor = _read_text(raw)
    if cursor is None:
        raise RemoteProtocolError("the nextCursor in the server's answer to tools/list is not a string")
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
