"""How answers look: JSON as the node sent it, tables for people, plain aligned text where nobody looks.

rich is imported only for a terminal. What comes from servers is shown without its control characters: a tool's
name must not be able to move the cursor.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

NOTHING = "-"

# Between two columns of plain text; more than one space, so that columns can be told from words.
_GAP = "  "


def print_json(value: Any) -> None:
    """Print a value as JSON on one line."""
    click.echo(json.dumps(value, ensure_ascii=False))


def print_body(body: bytes) -> None:
    """Print an answer as the node sent it."""
    click.echo(body.decode("utf-8", errors="replace").rstrip("\n"))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under headers."""
    cleaned = [[clean(cell) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        _print_aligned([list(headers), *cleaned])
        return
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold")
    for row in cleaned:
        # Text, not str: a name in brackets is no markup.
        table.add_row(*[Text(cell, style=STYLES.get(cell, "")) for cell in row])
    Console().print(table)


def print_facts(facts: Sequence[tuple[str, str | None]], *, indent: str = "") -> None:
    """Print what is known, one fact on a line; a fact without a value is left out."""
    known = [(label, value) for label, value in facts if value is not None]
    width = max((len(label) for label, _ in known), default=0)
    for label, value in known:
        click.echo(f"{indent}{label.ljust(width)}{_GAP}{clean(value)}".rstrip())


def print_lines(lines: Sequence[str], *, indent: str = "  ") -> None:
    """Print lines somebody else wrote."""
    for line in lines:
        click.echo(indent + clean(line))


def clean(text: str) -> str:
    """Give text for one line: control characters become a space or a mark."""
    return "".join(
        character if character.isprintable() else " " if character.isspace() else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )


def clean_text(text: str) -> str:
    """Give text of many lines without what a terminal would obey."""
    return "\n".join(clean(line.replace("\t", "    ")) for line in text.split("\n"))


def counted(number: int, noun: str) -> str:
    """Say how many: `1 start`, `2 starts`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


STYLES = {
    "ready": "green",
    "busy": "green",
    "starting": "cyan",
    "degraded": "yellow",
    "backing_off": "yellow",
    "draining": "yellow",
    "stale": "yellow",
    "suspended": "red",
    "failed": "red",
    "disabled": "dim",
    "cold": "dim",
}


def _print_aligned(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        click.echo(_GAP.join(cells).rstrip())
