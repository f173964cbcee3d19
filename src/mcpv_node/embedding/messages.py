"""The messages between a host application and the node it holds.

All but a `Subscribe` that holds a pykka ref are frozen and picklable. A request that fails is answered with `Failed`,
whose reason is one of DESIGN 7.6's or a JSON-RPC word; messages never raise.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import msgspec

from mcpv_node.actors.index_messages import SnapshotChanged
from mcpv_node.actors.kernel import Request
from mcpv_node.actors.server_type import WhyReport
from mcpv_node.actors.snapshot import Kind
from mcpv_node.settings import Change, ChangeClass

# As long as a server may be silent by default.
CALL_TIMEOUT = 60.0


def _new_id() -> str:
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class ToolResult:
    """The server's own result of a call, a prompt or a resource: `raw` is its bytes.

    `is_error` is what the tool says of itself.
    """

    id: str
    raw: bytes
    is_error: bool

    def json(self) -> Any:
        """The result as Python data."""
        return msgspec.json.decode(self.raw)


@dataclass(frozen=True, slots=True)
class Failed:
    """There is no result, and why; `data` is the error's own, such as `executed` and `retryAfter`."""

    id: str
    reason: str
    message: str
    data: Mapping[str, Any] = field(default_factory=dict[str, Any])


class CallError(Exception):
    """`Failed`, for those who call methods: the same reason, message and data."""

    def __init__(self, failed: Failed) -> None:
        super().__init__(failed.message)
        self.id = failed.id
        self.reason = failed.reason
        self.message = failed.message
        self.data = failed.data

    def __reduce__(self) -> tuple[type[CallError], tuple[Failed]]:
        """An exception is copied by its args, which are the message alone."""
        return type(self), (Failed(self.id, self.reason, self.message, self.data),)


@dataclass(frozen=True, slots=True)
class CallTool(Request[ToolResult | Failed]):
    """Call a tool by its listed name. `timeout` (seconds) covers queue, start and call together.

    Calls with the same `key` may be bound to one instance of a stateful server.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    key: str | None = field(default=None, kw_only=True)
    timeout: float = field(default=CALL_TIMEOUT, kw_only=True)
    id: str = field(default_factory=_new_id, kw_only=True)


@dataclass(frozen=True, slots=True)
class GetPrompt(Request[ToolResult | Failed]):
    """Get a prompt by its listed name; the rest as with `CallTool`."""

    name: str
    arguments: Mapping[str, str] = field(default_factory=dict[str, str])
    key: str | None = field(default=None, kw_only=True)
    timeout: float = field(default=CALL_TIMEOUT, kw_only=True)
    id: str = field(default_factory=_new_id, kw_only=True)


@dataclass(frozen=True, slots=True)
class ReadResource(Request[ToolResult | Failed]):
    """Read a resource by its URI; the rest as with `CallTool`."""

    uri: str
    key: str | None = field(default=None, kw_only=True)
    timeout: float = field(default=CALL_TIMEOUT, kw_only=True)
    id: str = field(default_factory=_new_id, kw_only=True)


@dataclass(frozen=True, slots=True)
class ListedTool:
    """One tool: `definition` is its server's own JSON under the listed name."""

    name: str
    server: str
    definition: bytes


@dataclass(frozen=True, slots=True)
class ToolList:
    """All tools at one version; `etag` changes when the definitions do."""

    id: str
    version: int
    etag: str
    tools: tuple[ListedTool, ...]


@dataclass(frozen=True, slots=True)
class ListTools(Request[ToolList | Failed]):
    """List the tools, of one server under its own names if `server` is given. Starts nothing."""

    server: str | None = None
    id: str = field(default_factory=_new_id, kw_only=True)


@dataclass(frozen=True, slots=True)
class Why(Request[WhyReport | Failed]):
    """Why is this server as it is?"""

    server: str
    id: str = field(default_factory=_new_id, kw_only=True)


@dataclass(frozen=True, slots=True)
class Reloaded:
    """The configuration is in effect; no changes, when it already was."""

    id: str
    changes: tuple[Change, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reload(Request[Reloaded | Failed]):
    """Read the configuration's files again and bring them into effect: all of it, or nothing of it.

    What is wrong with them comes as `Failed` with the reason `rejected`, its `problems` in `data`.
    """

    id: str = field(default_factory=_new_id, kw_only=True)


class Subscriber(Protocol):
    """Who hears: a pykka `ActorRef`, or what looks like one. `tell` must not block."""

    actor_urn: str

    def tell(self, message: Any) -> None:
        """Take the message; pykka's ActorDeadError when there is nobody any more."""
        ...


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Have `subscriber` told SnapshotChanged: now, and whenever the list changes; NodeDown at the end."""

    kind: Kind
    subscriber: Subscriber


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Tell `subscriber` nothing more about this kind."""

    kind: Kind
    subscriber: Subscriber


@dataclass(frozen=True, slots=True)
class Stop(Request[None]):
    """Drain and stop the node; answered when it has stopped."""


@dataclass(frozen=True, slots=True)
class NodeDown:
    """The node has ended; nothing more will come from it."""

    reason: str


# What is answered by the node when it is up, and waits until then.
CallRequest: TypeAlias = CallTool | GetPrompt | ReadResource
NodeRequest: TypeAlias = CallRequest | ListTools | Why | Reload
NodeMessage: TypeAlias = NodeRequest | Subscribe | Unsubscribe | Stop

__all__ = [
    "CALL_TIMEOUT",
    "CallRequest",
    "CallError",
    "CallTool",
    "Change",
    "ChangeClass",
    "Failed",
    "GetPrompt",
    "ListTools",
    "ListedTool",
    "NodeDown",
    "NodeMessage",
    "NodeRequest",
    "ReadResource",
    "Reload",
    "Reloaded",
    "SnapshotChanged",
    "Stop",
    "Subscribe",
    "Subscriber",
    "ToolList",
    "ToolResult",
    "Unsubscribe",
    "Why",
    "WhyReport",
]
