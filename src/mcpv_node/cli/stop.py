"""`mcpv-node stop`: ask the node to drain and end, and return when its process is gone."""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress
from pathlib import Path

import click

from mcpv_node.client import BadAnswer, NodeUnreachable
from mcpv_node.node_file import NodeFile, is_running
from mcpv_node.settings import SettingsError, load_settings
from mcpv_node.telemetry.clock import SystemClock

from .common import CommandFailed, common_options, connect, invocation
from .output import print_json
from .progress import working

# After the drain: closing the doors, the servers' own grace, the store's last write.
AFTER_DRAIN = 10.0

# What a server is given when the configuration cannot be read any more: the default of drainTimeoutSeconds.
DEFAULT_DRAIN = 30.0

# Only where there is no pidfd.
POLL_INTERVAL = 0.05


@click.command("stop", short_help="Stop the node and wait until it is gone.")
@common_options
def command() -> None:
    """Stop the node: drain, end the servers, and wait until it is gone.

    \b
      mcpv-node stop
    """
    client = connect()
    node = client.node
    bound = _drain_bound(node) + AFTER_DRAIN
    with suppress(NodeUnreachable, BadAnswer):
        # A node that is stopping already closes its doors first: its process decides, not the answer.
        client.stop_node()
    with working("waiting for calls in hand, then for the node to end"):
        is_gone = wait_until_gone(node, bound)
    if not is_gone:
        raise CommandFailed(
            f"the node still runs after {bound:g} s; end it with `kill {node.pid}` (a second kill skips the "
            "drain, a third ends it at once)"
        )
    if invocation().as_json:
        print_json({"stopped": True, "pid": node.pid})
    else:
        click.echo(f"the node has stopped (process {node.pid})")


def wait_until_gone(node: NodeFile, timeout: float) -> bool:
    """Wait until the node's process has ended; tell whether it has."""
    try:
        descriptor = os.pidfd_open(node.pid)
    except ProcessLookupError:
        return True
    except (AttributeError, OSError):
        # No pidfd on this system.
        return _poll_until_gone(node, timeout)
    try:
        # Asked after the descriptor is ours: from here on the id cannot become another process unseen.
        if not is_running(node):
            return True
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        return bool(ended.poll(timeout * 1000))
    finally:
        os.close(descriptor)


def _poll_until_gone(node: NodeFile, timeout: float) -> bool:
    clock = SystemClock()
    deadline = clock.monotonic() + timeout
    while is_running(node):
        if clock.monotonic() > deadline:
            return False
        time.sleep(POLL_INTERVAL)
    return True


def _drain_bound(node: NodeFile) -> float:
    if node.config_path is None:
        return DEFAULT_DRAIN
    try:
        settings = load_settings(Path(node.config_path), environ=os.environ).settings
    except SettingsError:
        return DEFAULT_DRAIN
    return max((server.drain_timeout_seconds for server in settings.servers), default=0.0)
