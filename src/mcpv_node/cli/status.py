"""`mcpv-node status [SERVER]`: the node and its servers at a glance, or one server with its instances."""

from __future__ import annotations

import click

from mcpv_node.client import NodeClient
from mcpv_node.reports import ConfigProblem, InstanceReport, ServerReport

from .beginnings import print_failed, print_init, print_learning
from .common import common_options, connect, invocation
from .output import NOTHING, print_body, print_facts, print_lines, print_table
from .servers import print_servers
from .tree import draw_tree


@click.command("status", short_help="Show the node, its servers and its tree.")
@click.argument("server", required=False)
@common_options
def command(server: str | None) -> None:
    """Show the node, its servers and its tree of actors, or one SERVER and its instances.

    \b
      mcpv-node status
      mcpv-node status clock
    """
    client = connect()
    if server is None:
        _show_node(client)
    else:
        _show_server(client, server)


def print_instances(instances: tuple[InstanceReport, ...]) -> None:
    """Print one line for each instance."""
    headers = ("INSTANCE", "PID", "STATE", "BUSY", "STARTED", "IDLE SINCE", "ERA")
    print_table(headers, [_instance_row(instance) for instance in instances])


def _show_node(client: NodeClient) -> None:
    state = client.node_state()
    if invocation().as_json:
        print_body(state.body)
        return
    node = client.node
    print_facts(
        (
            ("node", f"mcpv-node {node.version}, process {node.pid}"),
            ("endpoint", node.endpoint),
            ("config", node.config_path),
            ("socket", node.socket),
        )
    )
    beginnings = state.value
    if beginnings.config is not None and beginnings.config.problem is not None:
        click.echo()
        print_problem(beginnings.config.problem)
        click.echo()
    if beginnings.learning is not None:
        click.echo("learning  ", nl=False)
        print_learning(beginnings.learning)
        print_failed(beginnings.learning.outcomes)
    servers = client.servers().value
    if servers:
        click.echo()
        print_servers(servers)
    print_init(beginnings.init or ())
    click.echo()
    click.echo("\n".join(draw_tree(client.tree().value)))


def print_problem(problem: ConfigProblem) -> None:
    """Say that the files are not what is in effect, why, and what to do."""
    click.echo("the configuration has been changed, and the change is not in effect:")
    print_lines([line for text in (problem.reason, *problem.problems) for line in text.split("\n")])
    click.echo("correct it: the node sees that by itself, or at once with mcpv-node reload")


def _show_server(client: NodeClient, name: str) -> None:
    answer = client.server(name)
    if invocation().as_json:
        print_body(answer.body)
        return
    report: ServerReport = answer.value
    print_servers([report])
    if report.instances:
        click.echo()
        print_instances(report.instances)


def _instance_row(instance: InstanceReport) -> tuple[str, ...]:
    return (
        instance.id,
        NOTHING if instance.pid is None else str(instance.pid),
        instance.state,
        str(instance.busy),
        instance.started_at or NOTHING,
        instance.idle_since or NOTHING,
        instance.era or NOTHING,
    )
