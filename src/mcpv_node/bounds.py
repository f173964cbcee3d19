"""How long the parts of a stop may take, in seconds, and what they add up to.

The node holds itself to these; whoever stops a node, or waits for one that stops, goes by the same.
"""

from __future__ import annotations

from collections.abc import Iterable

from mcpv_node.settings import ServerSpec

# Between the end of an instance's grace and the moment its actor is killed: TERM, KILL, a scan for escapees.
INSTANCE_STOP_MARGIN = 6.0

# What a stop may take beyond the longest drain and grace of the servers: the doors, the guard, the last files.
STOP_MARGIN = 10.0

# From the end of the tree to the end of the process: an interpreter that ends on a busy machine.
EXIT_MARGIN = 5.0


def stop_bound(spec: ServerSpec) -> float:
    """How long the stop of one instance may take."""
    return spec.stop_grace_seconds + INSTANCE_STOP_MARGIN


def drain_bound(spec: ServerSpec) -> float:
    """How long the stop of a server type with calls in hand may take."""
    return spec.drain_timeout_seconds + stop_bound(spec)


def longest_stop(servers: Iterable[ServerSpec]) -> float:
    """How long the stop of a whole node with these servers may take, before it kills what is left."""
    return max((drain_bound(spec) for spec in servers), default=INSTANCE_STOP_MARGIN) + STOP_MARGIN


def process_end_bound(servers: Iterable[ServerSpec]) -> float:
    """How long after it was asked to stop the process of a node with these servers is gone."""
    return longest_stop(servers) + EXIT_MARGIN
