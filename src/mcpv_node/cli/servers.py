"""`mcpv-node servers`: all servers, and the state each is in."""

from __future__ import annotations

from collections.abc import Sequence

import click

from mcpv_node.reports import ServerReport

from .common import common_options, connect, invocation
from .output import NOTHING, print_body, print_table


@click.command("servers")
@common_options
def command() -> None:
    """List the servers and their states.

    \b
      mcpv-node servers
    """
    answer = connect().servers()
    if invocation().as_json:
        print_body(answer.body)
        return
    if not answer.value:
        click.echo("no servers are configured")
        return
    print_servers(answer.value)


def print_servers(servers: Sequence[ServerReport]) -> None:
    """Print one line for each server."""
    print_table(
        ("SERVER", "STATE", "INSTANCES", "BUSY", "WAITING", "RESTARTS", "REASON"),
        [_row(one) for one in servers],
    )


def _row(server: ServerReport) -> tuple[str, ...]:
    return (
        server.name,
        server.state,
        str(len(server.instances)),
        str(sum(instance.busy for instance in server.instances)),
        str(server.waiting),
        str(server.restarts),
        server.reason or NOTHING,
    )
