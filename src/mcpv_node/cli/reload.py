"""`mcpv-node reload`: bring the configuration as it is now into effect, all of it or nothing of it."""

from __future__ import annotations

import click

from mcpv_node.client import NodeClient, NodeRefused
from mcpv_node.reports import Reloaded

from .common import CommandFailed, common_options, connect, invocation
from .output import print_body, print_table
from .progress import working

# What a change costs, for people.
_MEANINGS = {
    "added": "added",
    "removed": "removed; its calls in hand are finished",
    "replaced": "replaced: new processes, the old ones finish their calls",
    "pool": "other settings for the same processes",
    "view": "seen otherwise; nothing restarts",
    "node": "in effect",
    "restart": "needs a restart of the node",
}


# What the node answers when a configuration cannot be brought into effect.
REJECTED = 422


@click.command("reload", short_help="Bring the configuration into effect as it is now.")
@common_options
def command() -> None:
    """Bring the configuration as it is now into effect, and say what that changed.

    The node also does so by itself, soon after a file has changed, and on SIGHUP.

    \b
      mcpv-node reload
    """
    try:
        client = connect()
        with working("bringing the configuration into effect"):
            answer = client.reload()
    except NodeRefused as refusal:
        if refusal.status != REJECTED:
            raise
        said = "\n  ".join(str(refusal).split("\n"))
        raise CommandFailed(
            f"nothing is changed, the node goes on as it was: {said}\n"
            "correct the configuration, then `mcpv-node reload`; `mcpv-node validate` judges it without the node",
            details={"status": refusal.status, "title": refusal.title, "problems": list(refusal.problems)},
        ) from None
    if invocation().as_json:
        print_body(answer.body)
    else:
        print_reloaded(answer.value)
        if not answer.value.changes:
            _print_last_change(client)


def _print_last_change(client: NodeClient) -> None:
    """The node looks at its files by itself: what was just edited is often in effect before anybody asks."""
    config = client.node_state().value.config
    if config is None:
        return
    what = ", ".join(f"{one.name}: {one.what}" for one in config.changes) or "as it was started"
    click.echo(f"what is in the files is in effect since {config.applied_at} ({what})")


def print_reloaded(reloaded: Reloaded) -> None:
    """Print one line for each change."""
    for warning in reloaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    if not reloaded.changes:
        click.echo("nothing has changed")
        return
    print_table(
        ("CHANGED", "HOW"),
        [(change.name, _MEANINGS.get(change.what, change.what)) for change in reloaded.changes],
    )
