"""The tree of actors in as few lines as say it all: what is well is named, what is not has a line of its own.

Pure: the node's answer in, lines out.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from mcpv_node.reports import TreePlace

from .output import counted

RUNNING = "running"

# As many names fit beside their parent on a narrow screen; of more, their number is said.
NAMES_IN_A_LINE = 6


def draw_tree(root: TreePlace) -> list[str]:
    """Draw a tree, its root on the first line."""
    return [_named(root), *_joined(_rows(root.children))]


def _joined(rows: Sequence[tuple[str, list[str]]]) -> list[str]:
    lines: list[str] = []
    for index, (text, inner) in enumerate(rows):
        is_last = index == len(rows) - 1
        lines.append(("└── " if is_last else "├── ") + text)
        lines += [("    " if is_last else "│   ") + line for line in inner]
    return lines


def _rows(places: Sequence[TreePlace]) -> list[tuple[str, list[str]]]:
    """Each line's text, and the lines below it."""
    rows: list[tuple[str, list[str]]] = []
    for is_plain, some in groupby(places, lambda place: not place.children and _is_well(place)):
        group = list(some)
        if is_plain:
            rows.append((_together(group), []))
        else:
            rows += [_row(place) for place in group]
    return rows


def _row(place: TreePlace) -> tuple[str, list[str]]:
    if not place.children:
        return _named(place), []
    if _is_well(place):
        return f"{place.id}: {_together(place.children)}", []
    well = [child for child in place.children if _is_well(child)]
    ill = [child for child in place.children if not _is_well(child)]
    return _named(place), _joined([_row(child) for child in ill] + ([(_together(well), [])] if well else []))


def _together(places: Sequence[TreePlace]) -> str:
    if len(places) > NAMES_IN_A_LINE:
        return f"{len(places)}, all {RUNNING}"
    return ", ".join(place.id for place in places)


def _named(place: TreePlace) -> str:
    facts = [place.state] if place.state != RUNNING else []
    facts += [counted(place.restarts, "restart")] if place.restarts else []
    return f"{place.id} ({', '.join(facts)})" if facts else place.id


def _is_well(place: TreePlace) -> bool:
    return place.state == RUNNING and not place.restarts and all(map(_is_well, place.children))
