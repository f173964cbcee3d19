"""How the node's beginnings look: how far learning is, what could not be learnt, which server is not up yet.

A person at a terminal gets a bar while learning is under way; everybody else gets lines. rich is imported for it only.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from mcpv_node.reports import InitReport, Learning, LearningOutcome

from .output import NOTHING, clean, counted, print_table

# A bar as wide as this reads at a glance and leaves room for the names beside it.
BAR_WIDTH = 30


def describe_learning(learning: Learning) -> str:
    """Say how far learning is, in one line."""
    if learning.mode == "disabled" and not learning.total:
        return "disabled"
    text = f"{learning.state}: {learning.completed} of {counted(learning.total, 'server')} known"
    if learning.failed:
        text += f", {learning.failed} failed"
    if learning.current:
        text += f"; learning {', '.join(learning.current)}"
    elif learning.state == "running":
        waiting = [one.server for one in learning.outcomes if one.state != "learnt"]
        text += f"; waiting for {', '.join(waiting)}" if waiting else ""
    return text


def print_learning(learning: Learning) -> None:
    """Print how far learning is."""
    text = clean(describe_learning(learning))
    if learning.state != "running" or not sys.stdout.isatty():
        click.echo(text)
        return
    from rich.console import Console
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    done = learning.completed + learning.failed
    grid = Table.grid(padding=(0, 1))
    grid.add_row(ProgressBar(total=learning.total, completed=done, width=BAR_WIDTH), Text(text))
    Console().print(grid)


def print_failed(outcomes: Sequence[LearningOutcome]) -> None:
    """Print which servers could not be learnt, and why."""
    for one in outcomes:
        if one.state == "failed":
            tries = counted(one.attempts, "attempt")
            click.echo(clean(f"{one.server} could not be learnt ({tries}): {one.reason}"))


def print_init(servers: Sequence[InitReport]) -> None:
    """Print the servers that have fewer instances than they should; none is no output."""
    late = [one for one in servers if one.state != "ready" and one.target]
    if not late:
        return
    click.echo()
    print_table(
        ("NOT UP", "STATE", "READY", "RETRIES", "NEXT TRY"),
        [
            (
                one.name,
                one.state,
                f"{one.ready} of {one.target}",
                str(one.retries),
                one.next_try_at or NOTHING,
            )
            for one in late
        ],
    )
