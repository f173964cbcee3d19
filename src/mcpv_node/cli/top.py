"""`mcpv-node top`: the node as it is now, again and again.

A frame is made of what the node says and of what the system says of its processes; it is data first, so what is shown
on a terminal and what is printed where nobody looks are the same. rich is imported only for a terminal.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from mcpv_node.client import NodeClient
from mcpv_node.reports import ServerReport
from mcpv_node.telemetry import SystemClock
from mcpv_node.transports import GroupUsage, usage_by_group

from .common import common_options, connect, invocation
from .logs import readable
from .output import NOTHING, counted, print_json, print_table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

# What fits below the tables of a screen.
RECENT_LINES = 8

# Faster, the screen would show little but its own asking (seconds).
SHORTEST_INTERVAL = 0.2

SERVER_HEADERS = ("SERVER", "STATE", "INSTANCES", "BUSY", "WAITING", "OK", "FAILED", "RESTARTS", "REASON")
INSTANCE_HEADERS = ("INSTANCE", "PID", "STATE", "BUSY", "CPU %", "MEMORY", "STARTED")

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """What the processes had used at a moment (monotonic seconds)."""

    at: float
    groups: Mapping[int, GroupUsage]


@dataclass(frozen=True, slots=True)
class Frame:
    """All that is shown at once."""

    title: str
    servers: tuple[tuple[str, ...], ...]
    instances: tuple[tuple[str, ...], ...]
    recent: tuple[str, ...]


@click.command("top")
@click.option(
    "--interval",
    type=click.FloatRange(SHORTEST_INTERVAL),
    default=1.0,
    metavar="SECONDS",
    show_default=True,
    help="How often the screen is made anew.",
)
@common_options
def command(interval: float) -> None:
    """Watch servers, instances (process, CPU, memory), queues, restarts and the latest lines of the log; Ctrl-C ends it.

    Where the output is no terminal it is printed once; with --json, the servers and what each process group uses.
    """
    client = connect()
    if invocation().as_json:
        _print_as_data(client)
        return
    frames = _frames(client, interval)
    if not sys.stdout.isatty():
        print_frame(next(frames))
        return
    from rich.live import Live

    with suppress(KeyboardInterrupt), Live(screen=True, auto_refresh=False) as live:
        for frame in frames:
            live.update(_render(frame), refresh=True)


def print_frame(frame: Frame) -> None:
    """Print one frame for who does not look at a screen."""
    click.echo(frame.title)
    for headers, rows in ((SERVER_HEADERS, frame.servers), (INSTANCE_HEADERS, frame.instances)):
        if rows:
            click.echo()
            print_table(headers, rows)
    if frame.recent:
        click.echo()
        click.echo("\n".join(frame.recent))


def _print_as_data(client: NodeClient) -> None:
    answer = client.servers()
    usage = usage_by_group(_pids(client, answer.value))
    print_json(
        {
            **json.loads(answer.body),
            "usage": {
                str(pid): {"rssBytes": one.rss_bytes, "cpuSeconds": one.cpu_seconds}
                for pid, one in usage.items()
            },
        }
    )


def _pids(client: NodeClient, servers: tuple[ServerReport, ...]) -> list[int]:
    """The leaders of the groups: the node, where it leads one, and every instance."""
    pids = (one.pid for server in servers for one in server.instances)
    return [client.node.pid, *(pid for pid in pids if pid is not None)]


def make_frame(
    client: NodeClient,
    servers: tuple[ServerReport, ...],
    now: Sample,
    before: Sample | None,
    lines: list[bytes],
) -> Frame:
    """Put together what the node says and what its processes use. Pure."""
    node = client.node
    shown = {one.id: one for server in servers for one in server.instances}
    title = (
        f"mcpv-node {node.version}  process {node.pid}  {node.http}/mcp  "
        f"{_memory(now.groups.get(node.pid))}  {_cpu(node.pid, now, before)} % CPU  "
        f"{counted(len(servers), 'server')}, {counted(len(shown), 'instance')}, "
        f"{sum(one.waiting for one in servers)} waiting"
    )
    return Frame(
        title,
        tuple(
            (
                server.name,
                server.state,
                str(len(server.instances)),
                str(sum(one.busy for one in server.instances)),
                str(server.waiting),
                str(server.calls.ok),
                str(server.calls.failed),
                str(server.restarts),
                server.reason or NOTHING,
            )
            for server in servers
        ),
        tuple(
            (
                one.id,
                NOTHING if one.pid is None else str(one.pid),
                one.state,
                str(one.busy),
                NOTHING if one.pid is None else _cpu(one.pid, now, before),
                NOTHING if one.pid is None else _memory(now.groups.get(one.pid)),
                (one.started_at or NOTHING)[11:19],
            )
            for one in shown.values()
        ),
        tuple(readable(line) for line in lines[-RECENT_LINES:]),
    )


def _frames(client: NodeClient, interval: float) -> Iterator[Frame]:
    clock, before = SystemClock(), None
    while True:
        servers = client.servers().value
        now = Sample(clock.monotonic(), usage_by_group(_pids(client, servers)))
        yield make_frame(client, servers, now, before, list(client.logs(level="info")))
        before = now
        time.sleep(interval)


def _cpu(pgid: int, now: Sample, before: Sample | None) -> str:
    """Of one processor, since the frame before."""
    if before is None or pgid not in now.groups or pgid not in before.groups or now.at <= before.at:
        return NOTHING
    # A process of the group that has ended takes what it had used with it.
    spent = max(0.0, now.groups[pgid].cpu_seconds - before.groups[pgid].cpu_seconds)
    return f"{100 * spent / (now.at - before.at):.0f}"


def _memory(usage: GroupUsage | None) -> str:
    return NOTHING if usage is None or not usage.rss_bytes else f"{usage.rss_bytes / _MIB:.0f} MB"


def _render(frame: Frame) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    return Group(
        Text(frame.title, style="bold"),
        _table(SERVER_HEADERS, frame.servers),
        _table(INSTANCE_HEADERS, frame.instances),
        *(Text.from_ansi(line) for line in frame.recent),
    )


def _table(headers: tuple[str, ...], rows: tuple[tuple[str, ...], ...]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    from .output import STYLES, clean

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="ellipsis", no_wrap=True)
    for row in rows:
        table.add_row(*[Text(clean(cell), style=STYLES.get(cell, "")) for cell in row])
    return table
