"""`mcpv-node tools`: the catalog of tools, and how far each entry can be trusted. Starts nothing."""

from __future__ import annotations

import click

from mcpv_node.client import CatalogTool

from .common import common_options, connect, invocation
from .output import print_body, print_table


@click.command("tools")
@common_options
def command() -> None:
    """List the tools of all servers."""
    answer = connect().tools()
    if invocation().as_json:
        print_body(answer.body)
        return
    catalog = answer.value
    if catalog.entries:
        print_table(
            ("TOOL", "SERVER", "SOURCE"), [(tool.name, tool.server, _marks(tool)) for tool in catalog.entries]
        )
    else:
        click.echo("no tools are known")
    if not catalog.complete:
        click.echo("some servers have not been learnt yet; `mcpv-node servers` shows which", err=True)


def _marks(tool: CatalogTool) -> str:
    marks = [tool.source] if tool.source else []
    marks += ["stale"] if tool.stale else []
    marks += ["cold"] if tool.cold else []
    return ", ".join(marks)
