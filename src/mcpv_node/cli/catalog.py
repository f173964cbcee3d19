"""`mcpv-node catalog refresh|show|diff`: learn lists again, show what is known, show what has changed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext

import click

from mcpv_node.client import CatalogKind
from mcpv_node.reports import Catalog, CatalogEntry, Learning

from .beginnings import print_failed, print_learning
from .common import CommandFailed, common_options, connect, invocation
from .output import counted, print_body, print_table
from .progress import working
from .tools import marks

# What the node accepts: a sweep of many servers may take so long.
LONGEST_WAIT = 600.0


@click.group("catalog", short_help="Show what servers offer, or learn it again.")
@common_options
def command() -> None:
    """Show what servers offer and what of it has changed, or learn it again.

    \b
      mcpv-node catalog show
      mcpv-node catalog refresh --wait 60
    """


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
    """Read the lists of these servers again, or of all; one that does not run is started for it.

    \b
      mcpv-node catalog refresh
      mcpv-node catalog refresh clock notes --wait 60
    """
    client = connect()
    with working("reading lists") if wait else nullcontext():
        answer = client.refresh(servers, wait=wait)
    learning = answer.value
    if invocation().as_json:
        print_body(answer.body)
    else:
        print_learning(learning)
        print_failed(learning.outcomes)
    if wait is not None:
        _fail_unless_learnt(learning, wait)


_KINDS: tuple[CatalogKind, ...] = ("tools", "resources", "prompts")


@command.command("show")
@click.argument("kind", type=click.Choice(_KINDS), default="tools", metavar="[tools|resources|prompts]")
@click.option("--server", metavar="NAME", help="What this server offers alone.")
@common_options
def show(kind: CatalogKind, server: str | None) -> None:
    """Show what is known of one kind, tools unless said otherwise; templates are among the resources.

    Starts nothing. A source is `live` where it was read in this life of the node, `cache` where it comes from disk;
    `stale` could not be read again and may have changed; `cold` belongs to a server that does not run.

    \b
      mcpv-node catalog show
      mcpv-node catalog show resources --server notes
    """
    client = connect()
    if server is not None:
        client.server(server)  # refused where there is none of this name
    answer = client.catalog(kind, server=server)
    if invocation().as_json:
        print_body(answer.body)
        return
    _print_catalog(kind, answer.value)
    if not answer.value.complete:
        click.echo("some servers have not been learnt yet; `mcpv-node status` shows which", err=True)


@command.command("diff")
@click.argument("version", type=click.IntRange(0))
@click.argument("kind", type=click.Choice(_KINDS), default="tools", metavar="[tools|resources|prompts]")
@common_options
def diff(version: int, kind: CatalogKind) -> None:
    """Show what has changed since VERSION of a kind, as `catalog show` told it; everything if that is too long ago.

    \b
      mcpv-node catalog diff 7
      mcpv-node catalog diff 7 prompts
    """
    answer = connect().catalog_since(kind, version)
    if invocation().as_json:
        print_body(answer.body)
        return
    value = answer.value
    if isinstance(value, Catalog):
        click.echo(f"version {version} is not remembered: these are all {kind} there are", err=True)
        _print_catalog(kind, value)
        return
    rows = [
        *(("removed", one.name, one.server, "") for one in value.removed),
        *(("changed", one.name, one.server, marks(one)) for one in value.changed),
        *(("added", one.name, one.server, marks(one)) for one in value.added),
    ]
    click.echo(f"version {value.from_} to {value.to}: {counted(len(rows), 'change')}")
    if rows:
        print_table(("", "NAME", "SERVER", "SOURCE"), rows)


def _print_catalog(kind: CatalogKind, catalog: Catalog) -> None:
    click.echo(f"version {catalog.version}: {_counted(kind, catalog.entries)}")
    if catalog.entries:
        print_table(
            ("NAME", "SERVER", "SOURCE"), [(one.name, one.server, marks(one)) for one in catalog.entries]
        )


def _counted(kind: CatalogKind, entries: Sequence[CatalogEntry]) -> str:
    return counted(len(entries), kind.removesuffix("s"))


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
