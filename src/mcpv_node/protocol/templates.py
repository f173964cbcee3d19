"""URI templates (RFC 6570) as MCP servers use them, asked only one thing: may this URI be one of theirs?

    {x}        one or more characters other than "/"           {+x}  {#x}    one or more of any
    {/x} {.x}  the same behind "/" or "."                      {?x} {&x} {;x} a query or parameters, or nothing

Time is linear in the length of the URI for each part of the template, whatever both are: positions are the bits of a
number, and a part moves all of them at once. The server reads the values out itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from .errors import RemoteProtocolError

# Longer than any URI that browsers and servers agree on.
MAX_URI: Final = 8192

_PART: Final = re.compile(r"\{([^{}]*)\}|([^{}]+)")
_VARIABLE: Final = re.compile(r"[^\s:*+#/.;?&=,!@|][^\s:*]*(?::[0-9]{1,4}|\*)?")
_OPERATORS: Final = "+#/.;?&"

# One bit for each place between two characters: bit 0 stands before the first.
_Places = int


class _Subject:
    """A URI, ready to be matched."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.end: _Places = 1 << len(uri)
        self.anything: _Places = self.end - 1
        self.segments: _Places = _places(char != "/" for char in uri)
        self._found: dict[str, _Places] = {}

    def places_of(self, text: str) -> _Places:
        """Where the text begins; looked for once, however often a template repeats it."""
        if text not in self._found:
            begins = bytearray(len(self.uri))
            at = self.uri.find(text)
            while at >= 0:
                begins[at] = 1
                at = self.uri.find(text, at + 1)
            self._found[text] = _places(begins)
        return self._found[text]


def _places(marks: Iterable[int]) -> _Places:
    """The marks as bits, the first one the lowest."""
    return int("0" + "".join("1" if mark else "0" for mark in marks)[::-1], 2)


_Move = Callable[[_Subject, _Places], _Places]


class Template(msgspec.Struct, frozen=True):
    """One template; the smaller its `rank`, the more of a URI it spells out."""

    text: str
    rank: tuple[int, int, int, str]
    # What every URI of the template begins with.
    prefix: str
    moves: tuple[_Move, ...]

    def matches(self, uri: str) -> bool:
        """Whether the template may have made this URI."""
        if len(uri) > MAX_URI or not uri.startswith(self.prefix):
            return False
        subject = _Subject(uri)
        places: _Places = 1
        for move in self.moves:
            places = move(subject, places)
            if not places:
                return False
        return bool(places & subject.end)


def parse_template(text: str) -> Template:
    """Read a template; one that cannot be read is a `RemoteProtocolError`."""
    if len(text) > MAX_URI:
        raise RemoteProtocolError(f"a URI template has {len(text)} characters; it may have {MAX_URI}")
    moves: list[_Move] = []
    literals: list[str] = []
    expressions = 0
    greedy = 0
    at = 0
    for part in _PART.finditer(text):
        if part.start() != at:
            break
        at = part.end()
        if part[2] is None:
            inside = _parse_expression(text, part[1])
            expressions += 1
            greedy += _one in inside
            moves += inside
        else:
            literals.append(part[2])
            moves.append(_literal(part[2]))
    if at != len(text):
        raise RemoteProtocolError(f'the URI template "{text}" has a brace without its other half')
    spelled = sum(map(len, literals))
    prefix = text.partition("{")[0]
    return Template(text, (-spelled, greedy, expressions, text), prefix, tuple(moves))


def best_match(uri: str, templates: Iterable[Template]) -> Template | None:
    """The template that spells out most of the URI; None when none may have made it."""
    return min((one for one in templates if one.matches(uri)), key=lambda one: one.rank, default=None)


def _parse_expression(text: str, inside: str) -> list[_Move]:
    operator = inside[0] if inside and inside[0] in _OPERATORS else ""
    names = inside.removeprefix(operator).split(",")
    if not all(map(_VARIABLE.fullmatch, names)):
        raise RemoteProtocolError(f'the URI template "{text}" has "{{{inside}}}", which names no variable')
    if operator in ("?", "&", ";"):
        return [_optionally(operator, _some_segment if operator == ";" else _some)]
    if operator == "":
        return [_one_segment]
    if operator == "+":
        return [_one]
    if operator == "#":
        return [_literal("#"), _one]
    moves: list[_Move] = []
    for name in names:
        moves += [_literal(operator), _one if name.endswith("*") else _one_segment]
    return moves


def _literal(text: str) -> _Move:
    def move(subject: _Subject, places: _Places) -> _Places:
        return (subject.places_of(text) & places) << len(text)

    return move


def _optionally(mark: str, rest: _Move) -> _Move:
    begin = _literal(mark)

    def move(subject: _Subject, places: _Places) -> _Places:
        return places | rest(subject, begin(subject, places))

    return move


def _one(subject: _Subject, places: _Places) -> _Places:
    return _run(subject.anything, _step(subject.anything, places))


def _one_segment(subject: _Subject, places: _Places) -> _Places:
    return _run(subject.segments, _step(subject.segments, places))


def _some(subject: _Subject, places: _Places) -> _Places:
    return _run(subject.anything, places)


def _some_segment(subject: _Subject, places: _Places) -> _Places:
    return _run(subject.segments, places)


def _step(allowed: _Places, places: _Places) -> _Places:
    """One character further, where it is allowed."""
    return (places & allowed) << 1


def _run(allowed: _Places, places: _Places) -> _Places:
    """Any number of allowed characters further."""
    # Adding lets a carry run from each place to the end of its stretch of allowed characters; what it has turned over
    # on its way are the places reached.
    return (((places & allowed) + allowed) ^ allowed) | places
