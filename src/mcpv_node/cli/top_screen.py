"""How `top` fills a screen: which rows are shown, how wide each column is, what is cut.

Pure: a frame and a size in, lines of styled pieces out. Each section gets the lines it wants while there is room;
where there is not, each keeps a few, and says how many rows are not shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from .output import STYLES, clean

# Text and its style; a line is several of them.
Piece: TypeAlias = tuple[str, str]
Line: TypeAlias = tuple[Piece, ...]
Row: TypeAlias = tuple[str, ...]

SERVER_HEADERS = ("SERVER", "STATE", "INST", "BUSY", "WAIT", "OK", "FAILED", "RESTARTS", "REASON")
INSTANCE_HEADERS = ("INSTANCE", "PID", "STATE", "BUSY", "CPU %", "MEMORY", "STARTED")

# Columns of numbers stand on the right.
_RIGHT = frozenset({"PID", "INST", "BUSY", "WAIT", "OK", "FAILED", "RESTARTS", "CPU %", "MEMORY"})

# A name may be 32 characters long; an instance's has its number behind it.
_WIDEST = {"SERVER": 32, "INSTANCE": 36}

_LEVELS = {"warning": "yellow", "error": "red", "critical": "red"}

_GAP = "  "
_ELLIPSIS = "…"

# What every section keeps when there is too little room, its heading apart.
LEAST_ROWS = 3

# What the keys do; of these the first that fits beside the totals.
HINTS = (
    "q quit  space pause  s sort: {sort}  ↑↓ scroll",
    "q quit  space pause  s sort: {sort}",
    "q quit  s sort: {sort}",
    "q quit",
)

SORTS = ("name", "trouble", "load")
_CALM = frozenset({"ready", "cold", "disabled"})


@dataclass(frozen=True, slots=True)
class Frame:
    """All that is shown at once."""

    title: str
    totals: str
    servers: tuple[Row, ...]
    instances: tuple[Row, ...]
    tree: tuple[str, ...]
    recent: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Look:
    """What the person at the screen has chosen."""

    sort: str = SORTS[0]
    offset: int = 0
    is_paused: bool = False


def on_key(look: Look, key: str, *, page: int) -> Look | None:
    """Give what a key makes of it; None: it is over."""
    match key:
        case "q" | "Q" | "escape":
            return None
        case " " | "p":
            return replace(look, is_paused=not look.is_paused)
        case "s":
            following = SORTS[(SORTS.index(look.sort) + 1) % len(SORTS)]
            return replace(look, sort=following, offset=0)
        case "down" | "j":
            return replace(look, offset=look.offset + 1)
        case "up" | "k":
            return replace(look, offset=max(0, look.offset - 1))
        case "page-down":
            return replace(look, offset=look.offset + page)
        case "page-up":
            return replace(look, offset=max(0, look.offset - page))
        case _:
            return look


def lay_out(frame: Frame, look: Look, width: int, height: int) -> list[Line]:
    """Fill a screen; never more than `height` lines of `width` columns."""
    servers = _sorted(frame.servers, look.sort)
    servers = servers[min(look.offset, max(0, len(servers) - LEAST_ROWS)) :]
    wants = [len(servers), len(frame.instances), len(frame.tree), len(frame.recent)]
    # Two lines on top; each section has a gap above and, but for the tree, a heading.
    shown = [index for index, want in enumerate(wants) if want]
    around = sum(2 for _ in shown)
    given = allot(height - 2 - around, wants)
    lines: list[Line] = [
        (_cut(frame.title, width, "bold"),),
        _totals(frame.totals, look, width),
    ]
    for index in shown:
        lines.append(())
        match index:
            case 0:
                lines += table(SERVER_HEADERS, servers, given[0], width)
            case 1:
                lines += table(INSTANCE_HEADERS, frame.instances, given[1], width)
            case 2:
                lines.append((_cut("TREE", width, "bold"),))
                lines += [(_cut(line, width),) for line in _some(frame.tree, given[2])]
            case _:
                lines.append((_cut("RECENT", width, "bold"),))
                # The latest of them.
                latest = frame.recent[len(frame.recent) - given[3] :]
                lines += [(_cut(line, width, _style_of(line)),) for line in latest]
    return lines[:height]


def allot(free: int, wants: Sequence[int]) -> list[int]:
    """Share `free` lines among sections that want so many: all a few first, then the first ones more."""
    given = [min(want, LEAST_ROWS) for want in wants]
    for index in reversed(range(len(given))):
        # Too small a screen for even that: the last sections go first.
        excess = sum(given) - max(0, free)
        given[index] -= min(given[index], max(0, excess))
    left = max(0, free - sum(given))
    # What is last only fills up: lines of the log are always more than there is room for.
    for index, want in enumerate(wants):
        more = min(left, want - given[index])
        given[index] += more
        left -= more
    return given


def table(headers: Row, rows: Sequence[Row], limit: int, width: int) -> list[Line]:
    """Give a heading and at most `limit` rows; the last column takes what is left of the width."""
    cells = [tuple(clean(cell) for cell in row) for row in rows]
    shown = cells if len(cells) <= limit else cells[: max(0, limit - 1)]
    widths = [
        min(_WIDEST.get(header, 999), max([len(header), *(len(row[column]) for row in shown)]))
        for column, header in enumerate(headers)
    ]
    lines: list[Line] = [_row(headers, headers, widths, width, heading=True)]
    lines += [_row(headers, row, widths, width) for row in shown]
    if len(shown) < len(cells) and limit:
        lines.append((_cut(f"{_ELLIPSIS} {len(cells) - len(shown)} more", width, "dim"),))
    return lines


def _row(headers: Row, row: Row, widths: Sequence[int], width: int, *, heading: bool = False) -> Line:
    pieces: list[Piece] = []
    used = 0
    for column, cell in enumerate(row):
        left = width - used
        if left <= 0:
            break
        space = min(widths[column], left)
        is_last = column == len(row) - 1
        text = _short(cell, space if not is_last else left)
        if not is_last:
            text = text.rjust(space) if headers[column] in _RIGHT else text.ljust(space)
        text = text[:left] if is_last else (text + _GAP)[:left]
        pieces.append((text, "bold" if heading else STYLES.get(cell, "")))
        used += len(text)
    return tuple(pieces)


def _totals(totals: str, look: Look, width: int) -> Line:
    paused = "PAUSED  " if look.is_paused else ""
    free = width - len(totals) - len(paused)
    hints = (hint.format(sort=look.sort) for hint in HINTS)
    hint = next((hint for hint in hints if free > len(hint) + 1), "")
    return (_cut(totals, width), (" " * max(0, free - len(hint)), ""), (paused, "reverse"), (hint, "dim"))


def _sorted(rows: Sequence[Row], sort: str) -> list[Row]:
    match sort:
        case "trouble":
            return sorted(rows, key=lambda row: (row[1] in _CALM, -int(row[7]), row[0]))
        case "load":
            return sorted(rows, key=lambda row: (-int(row[3]) - int(row[4]), -int(row[5]), row[0]))
        case _:
            return list(rows)


def _style_of(line: str) -> str:
    """A line of the log begins with the time, then comes its level."""
    words = line.split(maxsplit=2)
    return _LEVELS.get(words[1], "") if len(words) > 1 else ""


def _some(lines: Sequence[str], limit: int) -> list[str]:
    if len(lines) <= limit:
        return list(lines)
    return [*lines[: max(0, limit - 1)], *([f"{_ELLIPSIS} {len(lines) - limit + 1} more"] if limit else [])]


def _cut(text: str, width: int, style: str = "") -> Piece:
    return _short(text, width), style


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + _ELLIPSIS[: min(1, width)]
