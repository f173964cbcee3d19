"""One entry of a configuration file is changed; everything else in it stays as it was written.

Pure: text in, text out. Where an entry and each of its keys stand comes from the marks of the YAML nodes, and only
those lines or characters are replaced: comments, order, quotes and spacing of all the rest are kept to the byte,
also where a writer that goes through data would lose them. What is new is written by the YAML library.
A comment line directly below an entry, as deep as its keys, belongs to it and goes with it; one above it stays.

What comes out is YAML again, but not yet a good configuration: whoever saves it loads it first.

    EditError
    ├── NoSuchEntry    no entry has this name in this text
    ├── EntryExists    one has it already
    └── NotEditable    the text is not what these functions can change; the message says where
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from .places import INDENT, NotYaml, Placed, read_places, write_block, write_inline

SERVERS = "servers"


class EditError(ValueError):
    """The text cannot be changed as asked."""


class NoSuchEntry(EditError):
    """No entry of the text has this name."""


class EntryExists(EditError):
    """An entry of the text has this name already."""


class NotEditable(EditError):
    """The text is not what can be changed entry by entry."""


def entry_names(text: str) -> tuple[str, ...]:
    """Give the names of the entries under `servers:`, in their order; raises NotEditable."""
    return tuple(name for entry in _read(text).entries if (name := _name(entry)) is not None)


def add(text: str, entry: Mapping[str, object]) -> str:
    """Put `entry`, which has a name, behind the last one; raises EntryExists, NotEditable."""
    document = _read(text)
    name = str(entry["name"])
    if any(_name(one) == name for one in document.entries):
        raise EntryExists(f'there is already a server named "{name}"')
    if not document.entries:
        return _with_first(document, entry)
    last = document.entries[-1]
    if document.is_flow:
        return _spliced(text, last.end.index, last.end.index, f", {write_inline(entry)}")
    lines = document.lines
    end = _own_end(lines, last)
    block = _item(entry, _dash_column(lines, last))
    gap = "\n" if _stand_apart(document) else ""
    return "".join([*lines[:end], _ended("", lines[end - 1]), gap, block, *lines[end:]])


def edit(text: str, name: str, changes: Mapping[str, object], unset: Collection[str] = ()) -> str:
    """Set and remove keys of the entry `name`; raises NoSuchEntry, NotEditable.

    A key may lead into a table, as `restart.maxRetries` and `env.API_KEY` do; what follows the first dot is one
    name. Removing what is not there is no error.
    """
    if "name" in {*changes, *unset}:
        raise NotEditable("a server keeps its name: clients know its tools by it; remove it and add another")
    for path in unset:
        text = _unset(text, name, path)
    for path, value in changes.items():
        text = _set(text, name, path, value)
    return text


def remove(text: str, name: str) -> str:
    """Take the entry `name` out; raises NoSuchEntry, NotEditable."""
    document = _read(text)
    entry = _find(document, name)
    if document.is_flow:
        spans = [(one.start.index, one.end.index) for one in document.entries]
        return _without(text, spans, document.entries.index(entry))
    lines = document.lines
    before, after = list(lines[: _first_line(lines, entry)]), lines[_own_end(lines, entry) :]
    # Two gaps would be left where one was.
    if before and not before[-1].strip() and (not after or not after[0].strip()):
        del before[-1]
    if len(document.entries) == 1 and document.key is not None:
        at = document.key.end
        line = before[at.line]
        before[at.line] = f"{line[: at.column]}: []{line[at.column + 1 :]}"
    return "".join([*before, *after])


@dataclass(frozen=True, slots=True)
class _Document:
    """A configuration file's text and nodes, as far as its entries go."""

    text: str
    lines: Sequence[str]
    # The key `servers` and its list; None where they are not written.
    key: Placed | None = None
    value: Placed | None = None
    # Whether the whole document is written in { }.
    all_flow: bool = False

    @property
    def entries(self) -> tuple[Placed, ...]:
        return self.value.items if self.value is not None else ()

    @property
    def is_flow(self) -> bool:
        return self.value is not None and self.value.is_flow


def _read(text: str) -> _Document:
    lines = text.splitlines(keepends=True)
    try:
        root = read_places(text)
    except NotYaml as error:
        raise NotEditable(str(error)) from None
    if root is None:
        return _Document(text, lines)
    if root.kind != "table":
        raise NotEditable("the file is no configuration: its top level is not keys with values")
    key, value = root.pair(SERVERS) or (None, None)
    if key is None or value is None or value.is_empty:
        return _Document(text, lines, key, None, root.is_flow)
    if value.kind != "list":
        raise NotEditable(f"line {value.start.line + 1}: servers is not a list")
    for entry in value.items:
        _check_entry(entry, key)
    return _Document(text, lines, key, value, root.is_flow)


def _check_entry(entry: Placed, key: Placed) -> None:
    line = entry.start.line + 1
    if entry.kind != "table":
        raise NotEditable(f"line {line}: an entry of servers is not keys with values")
    if entry.start.index < key.end.index:
        raise NotEditable(f"an entry of servers is an alias of what stands on line {line}")


def _find(document: _Document, name: str) -> Placed:
    for entry in document.entries:
        if _name(entry) == name:
            return entry
    raise NoSuchEntry(f'there is no server named "{name}" here')


def _name(entry: Placed) -> str | None:
    pair = entry.pair("name")
    return pair[1].text if pair is not None else None


def _set(text: str, name: str, path: str, value: object) -> str:
    document = _read(text)
    table = _find(document, name)
    key, dot, below = path.partition(".")
    pair = table.pair(key)
    if dot and pair is not None and pair[1].pairs:
        _refuse_alias(*pair)
        table, key = pair[1], below
        pair = table.pair(key)
    elif dot:
        value = {below: value}
    if pair is None:
        return _with_key(document, table, key, value)
    _refuse_alias(*pair)
    return _with_value(document, *pair, value)


def _with_key(document: _Document, table: Placed, key: str, value: object) -> str:
    """Write a key that is not there yet behind the last one of `table`."""
    text, lines = document.text, document.lines
    if table.is_flow:
        end = _end_in_flow(text, *table.pairs[-1])
        return _spliced(text, end, end, f", {write_inline({key: value})[1:-1]}")
    end = _last_line(lines, table) + 1
    block = _indented(write_block({key: value}), table.pairs[0][0].start.column)
    return "".join([*lines[:end], _ended("", lines[end - 1]), block, *lines[end:]])


def _with_value(document: _Document, key: Placed, value: Placed, new: object) -> str:
    """Write another value behind a key that is there."""
    text, written = document.text, write_inline(new)
    if value.is_empty:
        colon = key.end.index + 1
        return _spliced(text, colon, colon, f" {written}")
    if value.is_inline:
        return _spliced(text, value.start.index, value.end.index, written)
    # A block reaches over lines: they go, and the value comes behind its key.
    lines, last, at = document.lines, _last_line(document.lines, value), key.end
    return "".join([*lines[: at.line], f"{lines[at.line][: at.column + 1]} {written}\n", *lines[last + 1 :]])


def _unset(text: str, name: str, path: str) -> str:
    document = _read(text)
    table = _find(document, name)
    key, dot, below = path.partition(".")
    pair = table.pair(key)
    if dot:
        if pair is None or pair[1].pair(below) is None:
            return text
        _refuse_alias(*pair)
        # A table without keys would be refused: with its last key it goes itself.
        if len(pair[1].pairs) > 1:
            table = pair[1]
            pair = table.pair(below)
    if pair is None:
        return text
    return _without_key(document, table, *pair)


def _without_key(document: _Document, table: Placed, key: Placed, value: Placed) -> str:
    text, lines = document.text, document.lines
    index = table.pairs.index((key, value))
    if table.is_flow:
        spans = [(own.start.index, _end_in_flow(text, own, inner)) for own, inner in table.pairs]
        return _without(text, spans, index)
    first = key.start.line
    if index == 0 and lines[first][: key.start.column].strip():
        # It stands behind the dash: the next key takes its place.
        return _spliced(text, key.start.index, table.pairs[1][0].start.index, "")
    # The value of an alias is elsewhere.
    last = first if _is_alias(key, value) else max(first, _last_line(lines, value))
    return "".join([*lines[:first], *lines[last + 1 :]])


def _is_alias(key: Placed, value: Placed) -> bool:
    return value.start.index < key.end.index


def _refuse_alias(key: Placed, value: Placed) -> None:
    if _is_alias(key, value):
        line = value.start.line + 1
        raise NotEditable(f"{key.text} is an alias of what stands on line {line}, which others may share")


def _with_first(document: _Document, entry: Mapping[str, object]) -> str:
    if document.all_flow:
        raise NotEditable(
            "the file is written in { }, without entries; write `servers: []` on a line of its own"
        )
    block = _item(entry, INDENT)
    key, value = document.key, document.value
    if key is None:
        return _ended(document.text, document.text) + f"{SERVERS}:\n{block}"
    text = document.text
    if value is not None:
        text = _spliced(text, value.start.index, value.end.index, "")
    lines = text.splitlines(keepends=True)
    at = key.end
    lines[at.line] = lines[at.line][: at.column + 1] + _after_colon(lines[at.line][at.column + 1 :])
    return "".join([*lines[: at.line + 1], block, *lines[at.line + 1 :]])


def _after_colon(rest: str) -> str:
    comment = rest.strip()
    return f"  {comment}\n" if comment else "\n"


def _without(text: str, spans: Sequence[tuple[int, int]], index: int) -> str:
    """Take one of several things with commas between them out."""
    start, end = spans[index]
    if index + 1 < len(spans):
        end = spans[index + 1][0]
    elif index > 0:
        start = spans[index - 1][1]
    return _spliced(text, start, end, "")


def _spliced(text: str, start: int, end: int, new: str) -> str:
    return text[:start] + new + text[end:]


def _ended(text: str, last: str) -> str:
    """Give `text`, with the line end that `last` may lack."""
    return text if not last or last.endswith("\n") else text + "\n"


def _first_line(lines: Sequence[str], entry: Placed) -> int:
    line = entry.start.line
    while line > 0 and not lines[line].lstrip().startswith("-"):
        line -= 1
    return line


def _dash_column(lines: Sequence[str], entry: Placed) -> int:
    return _depth(lines[_first_line(lines, entry)])


def _own_end(lines: Sequence[str], entry: Placed) -> int:
    """Give the line behind an entry and the comments that belong to it."""
    end = _last_line(lines, entry) + 1
    column = entry.pairs[0][0].start.column if entry.pairs else 0
    while end < len(lines) and _is_comment(lines[end]) and _depth(lines[end]) >= column:
        end += 1
    return end


def _last_line(lines: Sequence[str], node: Placed) -> int:
    """Give the last line with something of `node`: the mark of a block's end is behind comments and gaps."""
    start, end = node.start.line, node.end
    if node.is_empty:
        return start
    if node.is_inline:
        return end.line
    # What looks like a comment may be the text of a block scalar inside.
    deepest = max((_last_line(lines, one) for one in node.inside() if not one.is_empty), default=start)
    last = min(end.line - 1 if end.column == 0 or node.kind != "scalar" else end.line, len(lines) - 1)
    while last > deepest and (
        not lines[last].strip() or (node.kind != "scalar" and _is_comment(lines[last]))
    ):
        last -= 1
    return max(last, deepest)


def _end_in_flow(text: str, key: Placed, value: Placed) -> int:
    """Give where a key's value ends inside { }."""
    if value.is_empty:
        return text.index(":", key.end.index) + 1
    _refuse_alias(key, value)
    return value.end.index


def _is_comment(line: str) -> bool:
    return line.lstrip().startswith("#")


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def _stand_apart(document: _Document) -> bool:
    """Tell whether the entries of this file are kept apart by empty lines."""
    if len(document.entries) < 2:
        return False
    *_, before, last = document.entries
    gap = document.lines[_last_line(document.lines, before) + 1 : _first_line(document.lines, last)]
    return any(not line.strip() for line in gap)


def _item(entry: Mapping[str, object], dash: int) -> str:
    return " " * dash + "- " + _indented(write_block(entry), dash + INDENT).lstrip(" ")


def _indented(block: str, column: int) -> str:
    return "".join(" " * column + line if line.strip() else line for line in block.splitlines(keepends=True))
