"""Texts of other programs: read into plain data, and changed in one place with the rest kept to the byte.

JSON may have comments and commas at the end, as clients accept it. Messages name places and never quote values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from .shapes import as_table

# Deeper than any configuration; a file that is nested further was not written for a client.
MAX_DEPTH = 64

_TOKEN = re.compile(
    r"""(?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
      | (?P<skip>//[^\n]*|/\*.*?\*/|\s+)
      | (?P<mark>[{}\[\]:,])
      | (?P<word>[^\s{}\[\]:,"'/]+)""",
    re.VERBOSE | re.DOTALL,
)
_INDENTED = re.compile(r"^(?P<indent>[ \t]+)\S", re.MULTILINE)


class DocumentError(ValueError):
    """A text is not what its client reads, or cannot be changed there; the message says why."""


def read_json(text: str) -> dict[str, object]:
    """Read an object of JSON with comments; raises DocumentError."""
    if not text.strip():
        return {}
    try:
        # What most files are, and what is read fastest and strictest.
        data: object = json.loads(text)
    except (ValueError, RecursionError):
        data = _read_with_comments(text) if any(True for _ in _tokens(text)) else {}
    if not isinstance(data, dict):
        raise DocumentError("is no JSON object")
    return cast("dict[str, object]", data)


def read_toml(text: str) -> dict[str, object]:
    """Read TOML; raises DocumentError."""
    import tomllib

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DocumentError(f"is not TOML: {error}") from None
    except RecursionError:
        raise DocumentError("is nested too deeply") from None


def put(text: str, path: Sequence[str], value: object, *, is_toml: bool = False) -> str:
    """Set what the keys of `path` lead to, and change nothing else; raises DocumentError."""
    read = read_toml if is_toml else read_json
    before = read(text)
    if get(before, path) == value:
        return text
    changed = _put_toml(text, path, value) if is_toml else _put_json(text, path, value)
    # A comment in an odd place, a key written twice: better said than found out by the client.
    if read(changed) != _with(before, path, value):
        raise DocumentError("is written in a way that one place of it cannot be changed")
    return changed


def write(path: Sequence[str], value: object, *, is_toml: bool = False) -> str:
    """Write a document with nothing else in it."""
    return put("", path, value, is_toml=is_toml)


def get(document: Mapping[str, object], path: Sequence[str]) -> object:
    """Give what the keys of `path` lead to, or None."""
    value: object = document
    for key in path:
        value = as_table(value).get(key)
    return value


def _read_with_comments(text: str) -> object:
    import pyjson5

    try:
        return cast("object", pyjson5.decode(text, maxdepth=MAX_DEPTH))
    except pyjson5.Json5NestingTooDeep:
        raise DocumentError("is nested too deeply") from None
    except pyjson5.Json5Exception as error:
        place = re.search(r"near (\d+)", str(error))
        line = f" (line {text.count(chr(10), 0, int(place[1])) + 1})" if place else ""
        raise DocumentError(f"is not JSON{line}") from None


def _with(document: Mapping[str, object], path: Sequence[str], value: object) -> object:
    key, *rest = path
    inner = document.get(key)
    if not rest:
        return {**document, key: value}
    return {**document, key: _with(as_table(inner), rest, value)}


def _put_toml(text: str, path: Sequence[str], value: object) -> str:
    import tomlkit

    document: Any = tomlkit.parse(text)
    table: Any = document
    for key in path[:-1]:
        if key not in table:
            # Without a header of its own: it is there for what is in it.
            table[key] = tomlkit.table(is_super_table=True)
        inner: Any = table[key]
        if not hasattr(inner, "keys"):
            raise DocumentError(f"has {key}, which is no table")
        table = inner
    new: Any = tomlkit.table()
    for key, item in as_table(value).items():
        new[key] = item
    table[path[-1]] = new
    return tomlkit.dumps(document)


@dataclass(frozen=True, slots=True)
class _Token:
    text: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Member:
    """A key of an object, and where it and its value stand."""

    key: str
    start: int
    value: int
    end: int


@dataclass(frozen=True, slots=True)
class _Object:
    start: int
    # Of its closing bracket.
    close: int
    members: tuple[_Member, ...]


def _put_json(text: str, path: Sequence[str], value: object) -> str:
    tokens = tuple(_tokens(text))
    if not tokens:
        return text + json.dumps(_nested(path, value), indent=2, ensure_ascii=False) + "\n"
    at, rest = tokens[0].start, list(path)
    while True:
        if text[at] != "{":
            raise DocumentError(f"has {path[len(path) - len(rest) - 1]}, which is no object")
        table = _object(text, tokens, at)
        key = rest.pop(0)
        member = next((one for one in reversed(table.members) if one.key == key), None)
        if member is None:
            return _with_member(text, table, key, _nested(rest, value))
        if not rest:
            written = _written(text, value, _indent_at(text, member.start))
            return text[: member.value] + written + text[member.end :]
        at = member.value


def _nested(path: Sequence[str], value: object) -> object:
    for key in reversed(path):
        value = {key: value}
    return value


def _with_member(text: str, table: _Object, key: str, value: object) -> str:
    unit = _unit(text)
    if not table.members:
        outer = _indent_at(text, table.start)
        line = f"\n{outer}{unit}{json.dumps(key)}: {_written(text, value, outer + unit)}"
        rest = text[table.start + 1 :]
        gap = "" if rest.lstrip(" \t").startswith(("\n", "//", "/*")) else f"\n{outer}"
        return text[: table.start + 1] + line + gap + rest
    last = table.members[-1]
    tail = text[last.end : table.close]
    # A comma at the end may be there already; one inside a comment is none.
    has_comma = any(token.text == "," for token in _tokens(tail))
    comma_end = last.end + next(token.end for token in _tokens(tail) if token.text == ",") if has_comma else 0
    end = comma_end or last.end
    comma = "" if has_comma else ","
    line_end = text.find("\n", end, table.close)
    if line_end < 0:
        return f"{text[:end]}{comma} {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}{text[end:]}"
    indent = _indent_at(text, last.start)
    member = f"\n{indent}{json.dumps(key)}: {_written(text, value, indent)}"
    return text[:end] + comma + text[end:line_end] + member + text[line_end:]


def _written(text: str, value: object, indent: str) -> str:
    written = json.dumps(value, indent=_unit(text), ensure_ascii=False)
    return written.replace("\n", f"\n{indent}")


def _unit(text: str) -> str:
    found = _INDENTED.search(text)
    return found["indent"] if found else "  "


def _indent_at(text: str, index: int) -> str:
    line = text[text.rfind("\n", 0, index) + 1 : index]
    return line[: len(line) - len(line.lstrip())]


def _object(text: str, tokens: Sequence[_Token], start: int) -> _Object:
    first = next(number for number, token in enumerate(tokens) if token.start == start)
    members: list[_Member] = []
    key: _Token | None = None
    value: _Token | None = None
    last = tokens[first]
    depth = 0
    for token in tokens[first:]:
        if depth == 1 and token.text in (",", "}"):
            if key is not None and value is not None:
                members.append(_Member(_key(key.text), key.start, value.start, last.end))
            key = value = None
        elif depth == 1 and key is None:
            key = token
        elif depth == 1 and value is None and token.text != ":":
            value = token
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token.text, 0)
        if depth == 0:
            return _Object(start, token.start, tuple(members))
        last = token
    raise DocumentError("is not JSON: a bracket is not closed")


def _key(text: str) -> str:
    if text[0] == '"':
        return str(json.loads(text))
    return text[1:-1] if text[0] == "'" else text


def _tokens(text: str) -> Iterator[_Token]:
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            raise DocumentError("is not JSON")
        position = found.end()
        if found["skip"] is None:
            yield _Token(found[0], found.start(), found.end())
