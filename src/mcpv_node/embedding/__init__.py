"""The node for host applications: the same messages for pykka, plain threads and asyncio.

# Layout

`messages` is what host and node say to each other, `actor` the node as a pykka actor, `asyncio_node` that actor behind
methods that can be awaited.
"""

from .actor import NodeActor
from .asyncio_node import Node
from .messages import (
    CallError,
    CallTool,
    Failed,
    GetPrompt,
    ListedTool,
    ListTools,
    NodeDown,
    ReadResource,
    Reload,
    Reloaded,
    ServerEvent,
    SnapshotChanged,
    StartNode,
    Stop,
    Subscribe,
    ToolList,
    ToolResult,
    Unsubscribe,
    Why,
    WhyReport,
)

__all__ = [
    "CallError",
    "CallTool",
    "Failed",
    "GetPrompt",
    "ListTools",
    "ListedTool",
    "Node",
    "NodeActor",
    "NodeDown",
    "ReadResource",
    "Reload",
    "Reloaded",
    "ServerEvent",
    "SnapshotChanged",
    "StartNode",
    "Stop",
    "Subscribe",
    "ToolList",
    "ToolResult",
    "Unsubscribe",
    "Why",
    "WhyReport",
]
