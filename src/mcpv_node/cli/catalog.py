"""`mcpv-node catalog refresh [SERVER...]`: have the lists of servers learnt again."""

from __future__ import annotations

import click

from mcpv_node.client import Learning

from .beginnings import print_failed, print_learning
from .common import CommandFailed, common_options, connect, invocation
from .output import counted, print_body

# What the node accepts: a sweep of many servers may take so long.
LONGEST_WAIT = 600.0


@click.group("catalog")
@common_options
def command() -> None:
    """Learn again what servers offer."""


@command.command("refresh")
@click.argument("servers", nargs=-1, metavar="[SERVER]...")
@click.option(
    "--wait",
    type=click.FloatRange(0, LONGEST_WAIT),
    metavar="SECONDS",
    help="Wait for the outcome, this long at most.",
)
@common_options
def refresh(servers: tuple[str, ...], wait: float | None) -> None:
    """Read the lists of these servers again, or of all; one that does not run is started for it."""
    answer = connect().refresh(servers, wait=wait)
    learning = answer.value
    if invocation().as_json:
        print_body(answer.body)
    else:
        print_learning(learning)
        print_failed(learning.outcomes)
    if wait is not None:
        _fail_unless_learnt(learning, wait)


def _fail_unless_learnt(learning: Learning, wait: float) -> None:
    failed = [one.server for one in learning.outcomes if one.state == "failed"]
    if failed:
        raise CommandFailed(f"{counted(len(failed), 'server')} could not be learnt: {', '.join(failed)}")
    late = [one.server for one in learning.outcomes if one.state != "learnt"]
    if late:
        raise CommandFailed(
            f"{counted(len(late), 'server')} not learnt within {wait:g} s: {', '.join(late)}; "
            "`mcpv-node status` shows how far it is"
        )
