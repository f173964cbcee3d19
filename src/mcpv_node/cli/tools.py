"""`mcpv-node tools`: the catalog of tools, and how far each entry can be trusted. Starts nothing."""

from __future__ import annotations

import click

from mcpv_node.reports import CatalogEntry

from .common import common_options, connect, invocation
from .output import print_body, print_table


@click.command("tools")
@common_options
def command() -> None:
    """List the tools of all servers.

    \b
      mcpv-node tools
    """
    answer = connect().catalog("tools")
    if invocation().as_json:
        print_body(answer.body)
        return
    catalog = answer.value
    if catalog.entries:
        print_table(
            ("TOOL", "SERVER", "SOURCE"), [(tool.name, tool.server, marks(tool)) for tool in catalog.entries]
        )
    else:
        click.echo("no tools are known")
    if not catalog.complete:
        click.echo("some servers have not been learnt yet; `mcpv-node status` shows which", err=True)


def marks(entry: CatalogEntry) -> str:
    """Say how far an entry can be trusted: where it was learnt, whether it may have changed, whether its server runs."""
    found = [entry.source] if entry.source else []
    found += ["stale"] if entry.stale else []
    found += ["cold"] if entry.cold else []
    return ", ".join(found)
