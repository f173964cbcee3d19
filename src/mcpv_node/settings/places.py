"""Where everything in a YAML text stands, and how new values are written into it.

The only module that knows the round-trip library: its nodes, with their marks, become ours, and data becomes text.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode
from ruamel.yaml.scalarstring import DoubleQuotedScalarString

# A list as long as this is written in one line, as a command is typed.
FLOW_WIDTH = 100

# How far nested lines stand below their key: what the packaged files do.
INDENT = 2

# Longer than any value: lines are never folded.
_NO_FOLDING = 1_000_000

# What every YAML reader takes for the same text without quotes; all else is put in quotes, for readers differ.
_PLAIN = re.compile(r"[A-Za-z0-9_./-][A-Za-z0-9_./+-]*(?: [A-Za-z0-9_./+-]+)*")

_BLOCK_SCALARS = frozenset({"|", ">"})


class NotYaml(ValueError):
    """The text is not YAML; the message says on which line."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a text: lines and columns from 0, and the character's number."""

    line: int
    column: int
    index: int


@dataclass(frozen=True, slots=True)
class Placed:
    """A node and its place. The end of a block is behind the comments and gaps that follow it."""

    kind: Literal["scalar", "list", "table"]
    start: Mark
    end: Mark
    # Written in [ ] or { }.
    is_flow: bool = False
    # Of a scalar; the style is empty where it stands without quotes.
    text: str = ""
    style: str = ""
    items: tuple[Placed, ...] = ()
    pairs: tuple[tuple[Placed, Placed], ...] = ()

    @property
    def is_empty(self) -> bool:
        """Tell whether nothing is written here."""
        return self.kind == "scalar" and not self.text and not self.style

    @property
    def is_inline(self) -> bool:
        """Tell whether its marks are exactly where it begins and ends."""
        return self.style not in _BLOCK_SCALARS if self.kind == "scalar" else self.is_flow

    def pair(self, key: str) -> tuple[Placed, Placed] | None:
        """Give a key of a table and its value."""
        return next((pair for pair in self.pairs if pair[0].kind == "scalar" and pair[0].text == key), None)

    def inside(self) -> Iterator[Placed]:
        """Give what it is made of."""
        yield from self.items
        for pair in self.pairs:
            yield from pair


def read_places(text: str) -> Placed | None:
    """Read a text; None when nothing is written in it. Raises NotYaml."""
    try:
        root: Any = YAML(typ="safe", pure=True).compose(text)
        return None if root is None else _placed(root)
    except MarkedYAMLError as error:
        said: Any = error
        mark = said.problem_mark or said.context_mark
        raise NotYaml(f"line {mark.line + 1 if mark else 1} is not YAML: {said.problem}") from None
    except (YAMLError, RecursionError):
        raise NotYaml("the file is not YAML") from None


def write_block(table: Mapping[str, object]) -> str:
    """Write a table on lines, short lists in one."""
    return _written(_styled(table))


def write_inline(value: object) -> str:
    """Write a value in one line."""
    # Behind a key: a scalar alone would be a document, and with an end of its own.
    styled: Any = _styled({"v": value})
    for table in _collections(styled):
        table.fa.set_flow_style()
    return _written(styled).strip().removeprefix("{v: ").removesuffix("}")


def read_value(text: str) -> object:
    """Read what a person typed as a value, as YAML reads it; raises NotYaml."""
    try:
        loader: Any = YAML(typ="safe", pure=True)
        return cast("object", loader.load(text))
    except (YAMLError, RecursionError, ValueError):
        raise NotYaml(
            f"{text!r} is not one YAML value; put a text with special characters in quotes"
        ) from None


def _placed(node: Any) -> Placed:
    start, end = _mark(node.start_mark), _mark(node.end_mark)
    if isinstance(node, ScalarNode):
        scalar: Any = node
        style = str(scalar.style or "")
        return Placed("scalar", start, end, text=str(scalar.value), style=style)
    is_flow = bool(node.flow_style)
    if isinstance(node, MappingNode):
        table: Any = node
        pairs = tuple((_placed(key), _placed(value)) for key, value in table.value)
        return Placed("table", start, end, is_flow, pairs=pairs)
    return Placed("list", start, end, is_flow, items=tuple(_placed(item) for item in node.value))


def _mark(mark: Any) -> Mark:
    return Mark(int(mark.line), int(mark.column), int(mark.index))


def _written(data: Any) -> str:
    writer: Any = YAML()
    writer.width = _NO_FOLDING
    writer.indent(mapping=INDENT, sequence=2 * INDENT, offset=INDENT)
    out = io.StringIO()
    writer.dump(data, out)
    return out.getvalue()


def _styled(value: object) -> object:
    if isinstance(value, Mapping):
        table: Any = CommentedMap()
        for key, item in cast("Mapping[str, object]", value).items():
            table[key] = _styled(item)
        return cast("object", table)
    if isinstance(value, list | tuple):
        given = cast("Sequence[object]", value)
        items: Any = CommentedSeq([_styled(item) for item in given])
        if sum(len(str(item)) + 2 for item in given) <= FLOW_WIDTH:
            items.fa.set_flow_style()
        return cast("object", items)
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        return DoubleQuotedScalarString(value)
    return value


def _collections(data: Any) -> Iterator[Any]:
    if isinstance(data, CommentedMap | CommentedSeq):
        held: Any = data
        yield held
        for value in held.values() if isinstance(data, CommentedMap) else held:
            yield from _collections(value)
