"""`mcpv-node stop`: ask the node to drain and end, and return when its process is gone."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click

from mcpv_node.client import BadAnswer, NodeUnreachable
from mcpv_node.node_file import NodeFile, NodeFileError, is_running, read_node_file
from mcpv_node.settings import SettingsError, load_settings
from mcpv_node.state_dir import running_supervisor
from mcpv_node.telemetry.clock import SystemClock

from .common import CommandFailed, chosen_state_dir, common_options, connect, invocation
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
    supervisor = _supervisor()
    if supervisor is not None:
        _stop_supervised(supervisor)
        return
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


def _supervisor() -> int | None:
    try:
        return running_supervisor(chosen_state_dir())
    except OSError:
        # A folder we may not look into has no node that we may stop; `connect` says so.
        return None


def _stop_supervised(supervisor: int) -> None:
    """Stop a node by way of its supervisor, which starts it again when it ends in any other."""
    folder = chosen_state_dir()
    try:
        node: NodeFile | None = read_node_file(folder)
    except (FileNotFoundError, NodeFileError):
        # Its next start is still to come, and will not.
        node = None
    bound = _drain_bound(node) + AFTER_DRAIN
    with suppress(ProcessLookupError):
        os.kill(supervisor, signal.SIGTERM)
    # It ends after its node. Its lock goes a moment before it does.
    if not _wait_for_end(supervisor, lambda: running_supervisor(folder) == supervisor, bound):
        raise CommandFailed(
            f"the node and its supervisor still run after {bound:g} s; end them with `kill {supervisor}` (a second "
            "kill skips the drain, a third ends the node at once)"
        )
    if invocation().as_json:
        print_json(
            {"stopped": True, "pid": supervisor if node is None else node.pid, "supervisor": supervisor}
        )
    else:
        click.echo(f"the node and its supervisor have stopped (process {supervisor})")


def wait_until_gone(node: NodeFile, timeout: float) -> bool:
    """Wait until the node's process has ended; tell whether it has."""
    return _wait_for_end(node.pid, lambda: is_running(node), timeout)


def _wait_for_end(pid: int, is_there: Callable[[], bool], timeout: float) -> bool:
    """Wait until a process has ended; `is_there` tells whether it is still the one that is meant."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except (AttributeError, OSError):
        # No pidfd on this system.
        return _poll_until_gone(is_there, timeout)
    try:
        # Asked after the descriptor is ours: from here on the id cannot become another process unseen.
        if not is_there():
            return True
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        return bool(ended.poll(timeout * 1000))
    finally:
        os.close(descriptor)


def _poll_until_gone(is_there: Callable[[], bool], timeout: float) -> bool:
    clock = SystemClock()
    deadline = clock.monotonic() + timeout
    while is_there():
        if clock.monotonic() > deadline:
            return False
        time.sleep(POLL_INTERVAL)
    return True


def _drain_bound(node: NodeFile | None) -> float:
    if node is None or node.config_path is None:
        return DEFAULT_DRAIN
    try:
        settings = load_settings(Path(node.config_path), environ=os.environ).settings
    except SettingsError:
        return DEFAULT_DRAIN
    return max((server.drain_timeout_seconds for server in settings.servers), default=0.0)
