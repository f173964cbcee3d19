"""`mcpv-node logs`: what the node has logged, and what it logs from now on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import msgspec

from mcpv_node.client import NodeUnreachable

from .common import common_options, connect, invocation
from .output import clean

LEVELS = ("debug", "info", "warning", "error")

# What stands at its own place in a line, or is said by the message already.
_SHOWN_APART = frozenset({"at", "level", "message", "event", "error", "server"})

_COLOURS = {"warning": "yellow", "error": "red", "critical": "red", "debug": "bright_black"}


@click.command("logs", short_help="Show the log, or follow it.")
@click.option("-f", "--follow", is_flag=True, help="Go on with each line as it is written, until Ctrl-C.")
@click.option(
    "--level", type=click.Choice(LEVELS), metavar="LEVEL", help=f"At least this: {', '.join(LEVELS)}."
)
@click.option("--server", metavar="NAME", help="What is about this server alone.")
@common_options
def command(follow: bool, level: str | None, server: str | None) -> None:
    """Show the last lines of the node's log; with --json as they are in its file.

    What the node was told not to log (`log.level`) is not there either.

    \b
    mcpv-node logs --level warning
    mcpv-node logs -f --server fs
    """
    try:
        for line in connect().logs(level=level, server=server, follow=follow):
            click.echo(line.decode(errors="replace") if invocation().as_json else readable(line))
    except KeyboardInterrupt:
        return
    except NodeUnreachable:
        if not follow:
            raise
        click.echo("the node has ended", err=True)


def readable(line: bytes) -> str:
    """Write one line for people: when, how much it matters, what, and the rest of its fields."""
    try:
        return _sentence(msgspec.json.decode(line, type=dict[str, Any]))
    except msgspec.DecodeError:
        return clean(line.decode(errors="replace"))


def _sentence(said: Mapping[str, Any]) -> str:
    level = str(said.get("level", ""))
    message = str(said.get("message", said.get("reason", "")))
    fields = " ".join(
        f"{name}={value}"
        for name, value in said.items()
        if name not in _SHOWN_APART and not (isinstance(value, str) and value in message)
    )
    # The date is today's in most of them; the second is enough to find one again.
    time = str(said.get("at", said.get("kind", "")))[11:19]
    head = f"{time} {click.style(level.ljust(7), fg=_COLOURS.get(level))}"
    text = " ".join(clean(part) for part in (message, fields) if part)
    trace = "".join(f"\n  {clean(one)}" for one in str(said.get("error", "")).splitlines())
    return f"{head} {text}{trace}"
