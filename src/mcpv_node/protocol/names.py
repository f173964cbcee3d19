"""The names under which clients see the tools of many servers.

Every listed name matches `^[A-Za-z0-9_-]{1,64}$`: one dotted name makes some clients drop the whole list. The same
tools get the same names in whatever order the servers are given.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from itertools import count
from typing import Final, Literal

import msgspec

Strategy = Literal["prefix", "flat"]

MAX_NAME: Final = 64
# "_" and six hex digits: 16 million endings for the few names that need one.
_ENDING_DIGITS: Final = 6
_KEPT: Final = MAX_NAME - 1 - _ENDING_DIGITS
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9_-]")


class Collision(msgspec.Struct, frozen=True):
    """Two tools wanted one name: the first of them has it, the other one is listed under another."""

    wanted: str
    holder: tuple[str, str]
    server: str
    raw: str
    listed: str


class Assignment(msgspec.Struct, frozen=True):
    """The listed name of every (server, raw name), and which of them had to give way."""

    names: dict[tuple[str, str], str]
    collisions: tuple[Collision, ...] = ()


def listed_name(server: str, raw: str, *, separator: str = "_", prefix: bool = True) -> str:
    """The name a tool is listed under as long as no other tool wants the same."""
    name = _FOREIGN.sub("_", f"{server}{separator}{raw}" if prefix else raw) or "_"
    return name if len(name) <= MAX_NAME else _with_ending(name, _digest(server, raw))


def assign_names(
    tools: Iterable[tuple[str, str]], *, separator: str = "_", strategy: Strategy = "prefix"
) -> Assignment:
    """Name all tools: servers in the order of their names, each one's tools in the order given."""
    names: dict[tuple[str, str], str] = {}
    holders: dict[str, tuple[str, str]] = {}
    collisions: list[Collision] = []
    for server, raw in sorted(dict.fromkeys(tools), key=lambda tool: tool[0]):
        wanted = listed_name(server, raw, separator=separator, prefix=strategy == "prefix")
        listed = wanted
        if wanted in holders:
            listed = _free_name(wanted, server, raw, holders)
            collisions.append(Collision(wanted, holders[wanted], server, raw, listed))
        holders[listed] = (server, raw)
        names[server, raw] = listed
    return Assignment(names, tuple(collisions))


def _free_name(wanted: str, server: str, raw: str, taken: dict[str, tuple[str, str]]) -> str:
    name = _with_ending(wanted, _digest(server, raw))
    # Another tool may be called just that, by chance or by malice.
    for attempt in count(2):
        if name not in taken:
            break
        name = _with_ending(wanted, _digest(server, f"{raw}\0{attempt}"))
    return name


def _with_ending(name: str, digest: str) -> str:
    return f"{name[:_KEPT]}_{digest}"


def _digest(server: str, raw: str) -> str:
    # A name may hold half a surrogate pair when it came from configuration; it still has its own digest.
    data = f"{server}\0{raw}".encode(errors="surrogatepass")
    return hashlib.sha256(data).hexdigest()[:_ENDING_DIGITS]
