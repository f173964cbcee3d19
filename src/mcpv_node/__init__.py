"""mcpv-node: one place that owns your MCP servers.

# Layout

`node` is the composition root; `actors` and `supervisors` are what lives in it; `gateway` are its doors;
`embedding` is the node for host applications, and its names are this package's public names.

Nothing is imported until it is asked for: the `stdio` command must start in a few milliseconds.
"""

from __future__ import annotations

# By this name type checkers know it; importing it from typing would cost `stdio` a millisecond.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from .embedding import (
        CallError,
        CallTool,
        Failed,
        GetPrompt,
        ListedTool,
        ListTools,
        Node,
        NodeActor,
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


def __getattr__(name: str) -> object:
    if name in __all__:
        from importlib import import_module

        value: object = getattr(import_module(".embedding", __name__), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
