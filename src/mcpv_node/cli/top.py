"""`mcpv-node top`: the node as it is now, again and again.

A frame is made of what the node says and of what the system says of its processes; it is data first, so what is shown
on a terminal and what is printed where nobody looks are the same. rich is imported only for a terminal.
"""

from __future__ import annotations

import json
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import click

from mcpv_node.client import NodeClient
from mcpv_node.reports import ServerReport, TreePlace
from mcpv_node.telemetry import SystemClock
from mcpv_node.transports import GroupUsage, usage_by_group

from .common import common_options, connect, invocation
from .logs import readable
from .output import NOTHING, counted, print_json, print_table
from .top_screen import INSTANCE_HEADERS, SERVER_HEADERS, Frame, Look, lay_out, on_key
from .tree import draw_tree

if TYPE_CHECKING:
    from rich.text import Text

# More than fits below the tables of any screen.
RECENT_LINES = 60

# Where nobody scrolls, the last few say what goes on.
PRINTED_LINES = 8

# Faster, the screen would show little but its own asking (seconds).
SHORTEST_INTERVAL = 0.2

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """What the processes had used at a moment (monotonic seconds)."""

    at: float
    groups: Mapping[int, GroupUsage]


@click.command("top", short_help="Watch the node on a screen.")
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
    """Watch servers, instances (process, CPU, memory), queues, restarts, the tree and the latest lines of the log.

    Keys: q ends it, space pauses, s sorts by name, trouble or load, the arrow keys scroll the servers. Where the output
    is no terminal it is printed once; with --json, the servers and what each process group uses.

    \b
      mcpv-node top
      mcpv-node top --interval 5
    """
    client = connect()
    if invocation().as_json:
        _print_as_data(client)
        return
    watch = Watch(client)
    if not sys.stdout.isatty():
        print_frame(watch.look())
        return
    with suppress(KeyboardInterrupt):
        _show(watch, interval)


@dataclass(slots=True)
class Watch:
    """Looks at a node again and again; what the processes use is told from one look to the next."""

    client: NodeClient
    before: Sample | None = None
    recent: deque[str] = field(default_factory=lambda: deque[str](maxlen=RECENT_LINES))
    last_line: str | None = None

    def look(self) -> Frame:
        """Ask the node and the system how it is now."""
        servers = self.client.servers().value
        now = Sample(SystemClock().monotonic(), usage_by_group(_pids(self.client, servers)))
        lines, self.last_line = self.client.logs_since(self.last_line, level="info")
        self.recent.extend(click.unstyle(readable(line)) for line in lines[-RECENT_LINES:])
        frame = make_frame(self.client, servers, now, self.before, self.client.tree().value, self.recent)
        self.before = now
        return frame


def _show(watch: Watch, interval: float) -> None:
    from rich.console import Console
    from rich.live import Live

    from .keys import reading_keys

    console, clock = Console(), SystemClock()
    look, frame = Look(), watch.look()
    with Live(screen=True, auto_refresh=False, console=console) as live, reading_keys() as next_key:
        due = clock.monotonic() + interval
        while True:
            width, height = console.size
            live.update(_styled(frame, look, width, height), refresh=True)
            key = next_key(max(0.0, due - clock.monotonic()))
            if key is not None:
                chosen = on_key(look, key, page=max(1, height // 2))
                if chosen is None:
                    return
                look = chosen
            if clock.monotonic() >= due:
                due = clock.monotonic() + interval
                frame = frame if look.is_paused else watch.look()


def _styled(frame: Frame, look: Look, width: int, height: int) -> Text:
    from rich.text import Text

    screen = Text(no_wrap=True)
    for number, line in enumerate(lay_out(frame, look, width, height)):
        if number:
            screen.append("\n")
        for text, style in line:
            screen.append(text, style)
    return screen


def print_frame(frame: Frame) -> None:
    """Print one frame for who does not look at a screen."""
    click.echo(frame.title)
    click.echo(frame.totals)
    for headers, rows in ((SERVER_HEADERS, frame.servers), (INSTANCE_HEADERS, frame.instances)):
        if rows:
            click.echo()
            print_table(headers, rows)
    for lines in (frame.tree, frame.recent[-PRINTED_LINES:]):
        if lines:
            click.echo()
            click.echo("\n".join(lines))


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
    tree: TreePlace,
    recent: Iterable[str],
) -> Frame:
    """Put together what the node says and what its processes use. Pure."""
    node = client.node
    shown = {one.id: one for server in servers for one in server.instances}
    title = (
        f"mcpv-node {node.version}  process {node.pid}  {_memory(now.groups.get(node.pid))}  "
        f"{_cpu(node.pid, now, before)} % CPU  {node.endpoint}"
    )
    totals = (
        f"{counted(len(servers), 'server')}  {counted(len(shown), 'instance')}  "
        f"{sum(one.busy for one in shown.values())} busy  {sum(one.waiting for one in servers)} waiting"
    )
    return Frame(
        title,
        totals,
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
        tuple(draw_tree(tree)),
        tuple(recent),
    )


def _cpu(pgid: int, now: Sample, before: Sample | None) -> str:
    """Of one processor, since the frame before."""
    if before is None or pgid not in now.groups or pgid not in before.groups or now.at <= before.at:
        return NOTHING
    # A process of the group that has ended takes what it had used with it.
    spent = max(0.0, now.groups[pgid].cpu_seconds - before.groups[pgid].cpu_seconds)
    return f"{100 * spent / (now.at - before.at):.0f}"


def _memory(usage: GroupUsage | None) -> str:
    return NOTHING if usage is None or not usage.rss_bytes else f"{usage.rss_bytes / _MIB:.0f} MB"
