"""The gauges of `/metrics` that are asked for when somebody looks, instead of kept up to date on every call."""

from __future__ import annotations

import asyncio
from collections import Counter

from mcpv_node.actors.context import NodeContext
from mcpv_node.actors.server_type import InstanceState, Why, WhyReport

# A server type answers in one turn of the loop; one that does not is left out of this look.
REPORT_TIMEOUT = 1.0


async def refresh_gauges(node: NodeContext) -> None:
    """Ask every server type how many instances and waiters it has, and look how deep the mailboxes are."""
    handles = {server.handle.name: server.handle for server in node.world.world.servers.values()}
    reports = await asyncio.gather(
        *(handle.ask(Why(), REPORT_TIMEOUT) for handle in handles.values()), return_exceptions=True
    )
    for report in reports:
        # One that was removed while it answered would come back for ever.
        if isinstance(report, WhyReport) and report.name in node.world.world.servers:
            states = Counter(instance.state for instance in report.instances)
            for state in InstanceState:
                node.metrics.instances(report.name, state.value).set(states[state])
            node.metrics.waiters(report.name).set(report.waiting)
    depths = node.system.mailbox_depths()
    gone = {kind: 0 for (kind,) in node.metrics.mailbox_depth.known()}
    for kind, depth in {**gone, **depths}.items():
        node.metrics.mailbox_depth(kind).set(depth)
