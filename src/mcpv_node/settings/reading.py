"""From a document's nodes to our types, with every problem noted and none raised.

The nodes are what any markup offers: scalars with their text as written, lists and tables, each with its line.
What is allowed comes from the types in `types`: a field that cannot be read is noted and left at its default, and
reading goes on, so that all problems are found in one pass.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final, TypeVar, cast

import msgspec
from msgspec import inspect

from .expand import Expander, ExpansionError, references
from .problems import Problem, quoted
from .types import NAME_PATTERN, SPELLINGS


@dataclass(frozen=True, slots=True)
class Scalar:
    """One value as written; `plain` when it stands without quotes."""

    text: str
    plain: bool
    line: int

    @property
    def is_null(self) -> bool:
        return self.plain and self.text in _NULLS


@dataclass(frozen=True, slots=True)
class Listing:
    """A list."""

    items: tuple[Node, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Table:
    """Keys and values in their order; keys written twice are set apart."""

    entries: tuple[tuple[Scalar, Node], ...]
    line: int
    doubles: tuple[Scalar, ...] = ()

    def get(self, key: str) -> Node | None:
        return next((value for name, value in self.entries if name.text == key), None)


Node = Scalar | Listing | Table

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})
_BOOLEANS: Mapping[str, bool] = {
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")

# Longer than any count or size that makes sense; a longer run of digits is a mistake.
_MAX_DIGITS = 18

# So many keys are worth naming all; of more, only the nearest one is.
_FEW_KEYS = 8

# Keys of earlier systems, and what they are called here.
_RENAMED: Mapping[str, str] = {
    "startupStrategy": "use bootstrapMode (metadata or disabled) for what is learnt at the start, and "
    "activationMode or defaultActivationMode (on-demand or always-on) for what is kept running",
    "routeTimeoutSeconds": "use callTimeoutSeconds of each server",
    "toolRefreshSeconds": "use refreshSeconds",
    "toolNamespaceStrategy": "use toolNamespace",
    "serverInitMaxRetries": "use restart.maxRetries of each server",
    "serverInitRetryBaseSeconds": "use restart.baseSeconds of each server",
    "serverInitRetryMaxSeconds": "use restart.maxSeconds of each server",
    "http": "use url and headers",
    "mcpServers": "use servers, a list whose entries have a name",
}


class _Bad:
    """What a value that cannot be read reads as."""


_BAD: Final = _Bad()

T = TypeVar("T", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Fields:
    """What was read of one table."""

    path: str
    # By field name, for the type's constructor.
    values: Mapping[str, object]
    # By key: what was written, and what of it could not be read (nested keys as `restart.maxSeconds`).
    given: frozenset[str]
    bad: frozenset[str]

    def build(self, cls: type[T]) -> T:
        return cls(**self.values)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was written, and what it came through: `${VAR}` and `${file:PATH}` as written."""

    file: Path
    line: int
    through: tuple[str, ...] = ()


@dataclass(slots=True)
class Reader:
    """Reads the nodes of one file and notes what is wrong."""

    file: Path
    expander: Expander
    problems: list[Problem] = field(default_factory=list[Problem])
    warnings: list[Problem] = field(default_factory=list[Problem])
    # Which variables and files the value of a key came through.
    _through: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    _lines: dict[str, int] = field(default_factory=dict[str, int])

    def refuse(
        self,
        path: str,
        message: str,
        *,
        found: str | None = None,
        allowed: Iterable[str] = (),
        nearest: str | None = None,
    ) -> None:
        """Note a problem at the line of the key `path`, or of the nearest key above it that is in the file."""
        self.problems.append(
            Problem(self.file, self._line(path), path, message, found, tuple(allowed), nearest)
        )

    def warn(self, path: str, message: str) -> None:
        """Note what is accepted and perhaps not meant."""
        self.warnings.append(Problem(self.file, self._line(path), path, message))

    def mark(self, path: str, line: int) -> None:
        """Remember where the key `path` is."""
        self._lines[path] = line

    def origins(self) -> Mapping[str, Origin]:
        """Say where each key that was read stands."""
        return {
            path: Origin(self.file, line, self._through.get(path, ())) for path, line in self._lines.items()
        }

    def fields(
        self,
        node: Node,
        cls: type[msgspec.Struct],
        path: str,
        *,
        apart: Iterable[str] = (),
        hidden: Iterable[str] = (),
    ) -> Fields:
        """Read the keys of a table by the fields of `cls`.

        Keys in `apart` are known, and read by the caller; keys in `hidden` are no keys of a file.
        """
        table = self.table(node, path)
        known = {item.encode_name: item for item in _struct(cls).fields}
        for name in hidden:
            del known[name]
        if table is None:
            return Fields(path, {}, frozenset(), frozenset(known))

        values: dict[str, object] = {}
        bad: set[str] = set()
        for key, value in table.entries:
            where = join(path, key.text)
            self.mark(where, key.line)
            if key.text in apart:
                continue
            if key.text not in known:
                self._refuse_key(where, key.text, list(dict.fromkeys([*known, *apart])))
                continue
            read = self._value(value, known[key.text].type, where, bad=bad, key=key.text)
            if isinstance(read, _Bad):
                bad.add(key.text)
            else:
                values[known[key.text].name] = read
        given = frozenset(key.text for key, _ in table.entries)
        for item in known.values():
            if item.required and item.encode_name not in given and item.encode_name not in apart:
                self.refuse(path, f"{item.encode_name} is missing")
                bad.add(item.encode_name)
        return Fields(path, values, given, frozenset(bad))

    def _refuse_key(self, path: str, key: str, known: list[str]) -> None:
        nearest = _nearest_key(key, known)
        if key in _RENAMED:
            message = f"is not a key here: {_RENAMED[key]}"
        elif nearest is not None:
            message = f"is not a key here (did you mean {nearest}?)"
        elif 0 < len(known) <= _FEW_KEYS:
            message = f"is not a key here: {_one_of(known)} may be"
        else:
            message = "is not a key here"
        self.refuse(path, message, found=key, allowed=known, nearest=nearest)

    def table(self, node: Node, path: str) -> Table | None:
        """Take `node` as a table, with every key once."""
        if not isinstance(node, Table):
            self.refuse(path, f"is {_what(node)}, not keys with values")
            return None
        for key in node.doubles:
            self.problems.append(Problem(self.file, key.line, join(path, key.text), "is written twice"))
        return node

    def listing(self, node: Node, path: str) -> Listing | None:
        """Take `node` as a list."""
        if isinstance(node, Listing):
            return node
        self.refuse(path, f"is {_what(node)}, not a list")
        return None

    def text(self, node: Node, path: str) -> str | None:
        """Take `node` as a text, with its variables replaced."""
        if not isinstance(node, Scalar):
            self.refuse(path, f"is {_what(node)}, not a text")
            return None
        if node.is_null:
            self.refuse(path, 'has no value: leave the key out, or write "" for an empty text')
            return None
        return self._expanded(node, path)

    def _value(self, node: Node, kind: inspect.Type, path: str, *, bad: set[str], key: str) -> object | _Bad:
        """Read one value; what is bad inside it is added to `bad` under `key`."""
        kind = _without_none(kind)
        match kind:
            case inspect.StructType(cls=cls):
                return self._struct_value(node, cls, path, bad=bad, key=key)
            case inspect.VarTupleType(item_type=item):
                return self._tuple(node, item, path)
            case inspect.DictType(value_type=item):
                return self._dict(node, item, path, bad=bad, key=key)
            case _:
                return self._scalar(node, kind, path)

    def _struct_value(
        self, node: Node, cls: type[msgspec.Struct], path: str, *, bad: set[str], key: str
    ) -> object | _Bad:
        inner = self.fields(node, cls, path)
        bad.update(join(key, name) for name in inner.bad)
        try:
            return inner.build(cls)
        except TypeError:  # a required key is missing or bad, which was said already
            return _BAD

    def _tuple(self, node: Node, kind: inspect.Type, path: str) -> object | _Bad:
        listing = self.listing(node, path)
        if listing is None:
            return _BAD
        items: list[object] = []
        for index, item in enumerate(listing.items):
            where = f"{path}[{index}]"
            self.mark(where, item.line)
            items.append(self._value(item, kind, where, bad=set(), key=where))
        return _BAD if any(isinstance(item, _Bad) for item in items) else tuple(items)

    def _dict(self, node: Node, kind: inspect.Type, path: str, *, bad: set[str], key: str) -> object | _Bad:
        """Read keys that are free; one whose value is bad is left out, so that the others are still checked."""
        table = self.table(node, path)
        if table is None:
            return _BAD
        items: dict[str, object] = {}
        for name, value in table.entries:
            where = join(path, name.text)
            self.mark(where, name.line)
            item = self._value(value, kind, where, bad=bad, key=join(key, name.text))
            if isinstance(item, _Bad):
                bad.add(join(key, name.text))
            else:
                items[name.text] = item
        return items

    def _scalar(self, node: Node, kind: inspect.Type, path: str) -> object | _Bad:
        text = self.text(node, path)
        if text is None or not isinstance(node, Scalar):
            return _BAD
        # What is shown is what was written, never what a variable held.
        shown = quoted(node.text)
        match kind:
            case inspect.StrType():
                return self._checked_text(text, kind, path, shown)
            case inspect.LiteralType(values=values):
                return self._choice(text, [str(value) for value in values], path, shown)
            case inspect.BoolType():
                if node.plain and text in _BOOLEANS:
                    return _BOOLEANS[text]
                self.refuse(path, f"{shown} is not true or false", found=shown, allowed=("true", "false"))
            case inspect.IntType():
                if node.plain and _INTEGER.fullmatch(text) and len(text) <= _MAX_DIGITS:
                    return self._in_range(int(text), kind, path, shown)
                self._refuse_number(path, "a whole number", node, text)
            case inspect.FloatType():
                if node.plain and _NUMBER.fullmatch(text) and math.isfinite(float(text)):
                    return self._in_range(float(text), kind, path, shown)
                what = "a number from 0 to 1" if kind.le == 1 else "a number of seconds"
                self._refuse_number(path, what, node, text)
            case _:
                raise TypeError(f"{path}: no reader for {kind!r}")
        return _BAD

    def _checked_text(self, text: str, kind: inspect.StrType, path: str, shown: str) -> str | _Bad:
        if "\0" in text:
            self.refuse(path, "holds a NUL character")
        elif kind.min_length and len(text) < kind.min_length:
            self.refuse(path, "is empty")
        elif kind.pattern == NAME_PATTERN and not is_name(text):
            self.refuse(
                path,
                f"{shown} is not a name: up to 32 of a-z, 0-9, _ and -, the first a letter or a digit",
            )
        else:
            return text
        return _BAD

    def _choice(self, text: str, values: list[str], path: str, shown: str) -> str | _Bad:
        text = SPELLINGS.get(text, text)
        if text in values:
            return text
        near = difflib.get_close_matches(text, values, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        nearest = near[0] if near else None
        self.refuse(
            path, f"{shown} is not {_one_of(values)}{hint}", found=shown, allowed=values, nearest=nearest
        )
        return _BAD

    def _refuse_number(self, path: str, what: str, node: Scalar, text: str) -> None:
        shown = quoted(node.text)
        self.refuse(path, f"{shown} is not {what}{_unquote(node, text)}", found=shown, allowed=(what,))

    def _in_range(
        self, value: float, kind: inspect.IntType | inspect.FloatType, path: str, shown: str
    ) -> float | _Bad:
        if kind.ge is not None and value < kind.ge:
            self.refuse(path, f"{shown} is less than {kind.ge:g}", found=shown, allowed=(f">= {kind.ge:g}",))
        elif kind.gt is not None and value <= kind.gt:
            self.refuse(
                path, f"{shown} is not more than {kind.gt:g}", found=shown, allowed=(f"> {kind.gt:g}",)
            )
        elif kind.le is not None and value > kind.le:
            self.refuse(
                path, f"{shown} is more than {kind.le:.0f}", found=shown, allowed=(f"<= {kind.le:.0f}",)
            )
        else:
            return value
        return _BAD

    def _expanded(self, node: Scalar, path: str) -> str | None:
        try:
            self._through[path] = references(node.text)
            return self.expander.expand(node.text)
        except ExpansionError as error:
            self.refuse(path, str(error))
            return None

    def _line(self, path: str) -> int:
        while path not in self._lines and path:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self._lines.get(path, 1)


def join(path: str, key: str) -> str:
    """Give the key path of `key` inside `path`."""
    return f"{path}.{key}" if path else key


def is_name(text: str) -> bool:
    """Tell whether `text` may name a server or a profile."""
    return re.fullmatch(NAME_PATTERN, text) is not None and not text.endswith("\n")


# Working out a type's annotations takes 2 ms, and a configuration has thousands of entries of a few types.
@cache
def _struct(cls: type[msgspec.Struct]) -> inspect.StructType:
    return cast("inspect.StructType", inspect.type_info(cls))


def _without_none(kind: inspect.Type) -> inspect.Type:
    if isinstance(kind, inspect.UnionType):
        return next(one for one in kind.types if not isinstance(one, inspect.NoneType))
    return kind


def _nearest_key(key: str, known: list[str]) -> str | None:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.6) or [
        name for name in known if name.lower() == key.lower()
    ]
    return near[0] if near else None


def _what(node: Node) -> str:
    match node:
        case Scalar():
            return "empty" if node.is_null else "a single value"
        case Listing():
            return "a list"
        case Table():
            return "keys with values"


def _one_of(values: list[str]) -> str:
    *first, last = values
    return f"{', '.join(first)} or {last}"


def _unquote(node: Scalar, text: str) -> str:
    return " (it is in quotes)" if not node.plain and _NUMBER.fullmatch(text) else ""
