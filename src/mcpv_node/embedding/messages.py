"""The messages between a host application and the node it holds.

All but a `Subscribe` that holds a pykka ref are frozen and picklable. A request that fails is answered with `Failed`,
whose reason is one of DESIGN 7.6's or a JSON-RPC word; messages never raise.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from mcpv_node.actors.index_messages import SnapshotChanged
from mcpv_node.actors.kernel import Request
from mcpv_node.actors.server_type import WhyReport
from mcpv_node.actors.snapshot import Kind
from mcpv_node.settings import Change, ChangeClass, NodeSettings
from mcpv_node.telemetry import EventKind

# What can be subscribed to: a kind of list, or what happens in the node.
Topic: TypeAlias = Kind | Literal["events"]

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
    """Who hears: a pykka `ActorRef`, or what looks like one. `tell` must not block.

    Where it has an `actor_inbox` with `qsize()`, as the refs of pykka's own actors do, it is told nothing more while
    too much waits there.
    """

    actor_urn: str

    def tell(self, message: Any) -> None:
        """Take the message; pykka's ActorDeadError when there is nobody any more."""
        ...


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Have `subscriber` told of `kind` from now on, and NodeDown at the end.

    For "tools", "resources" and "prompts" it hears SnapshotChanged: now, and whenever the list changes. For "events"
    it hears a ServerEvent for every transition; one that subscribes before the tree is up hears all since the start.
    In Thespian the sender is its own subscriber.
    """

    kind: Topic
    subscriber: Subscriber | None = None


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """Tell `subscriber` (in Thespian: the sender) nothing more about this kind."""

    kind: Topic
    subscriber: Subscriber | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEvent:
    """One transition: what, when, whose, from where to where, and why; as in `GET /api/v1/events`.

    `missed`: so many events before this one were not told, because the subscriber had too much to read already; at
    least so many, where the node itself does not know. What it wants to know then is the state: `Why`, `ListTools`.
    """

    id: str
    at: datetime
    kind: EventKind
    server: str | None = None
    instance: str | None = None
    # `from` is a word of the language, hence the underscore.
    from_: str | None = None
    to: str | None = None
    reason: str | None = None
    cause: str | None = None
    client: str | None = None
    missed: int = 0


@dataclass(frozen=True, slots=True)
class Stop(Request[None]):
    """Stop the node; answered when it has stopped. `drain` False: without waiting for the calls in hand."""

    drain: bool = field(default=True, kw_only=True)


@dataclass(frozen=True, slots=True)
class NodeDown:
    """The node has ended; nothing more will come from it."""

    reason: str


@dataclass(frozen=True, slots=True)
class StartNode:
    """Thespian: start a node in the process of the actor that hears this. What comes after it waits until it is up.

    The fields are those of `NodeActor.start()`; paths and `environ` are those of the actor's process. Answered only if
    no node comes up, with `Failed`; the sender hears `NodeDown` when one that did has ended.

    The node ends with its host: with the process of the actor's parent, and with the application's. `pid` is taken for
    the application where Thespian does not say which process that is. `outlives_host` True: it does not.
    """

    config: str | os.PathLike[str] | NodeSettings | None = None
    state_dir: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    http: str | None = field(default=None, kw_only=True)
    token: str | None = field(default=None, kw_only=True)
    environ: Mapping[str, str] | None = field(default=None, kw_only=True)
    outlives_host: bool = field(default=False, kw_only=True)
    pid: int = field(default_factory=os.getpid, kw_only=True)
    id: str = field(default_factory=_new_id, kw_only=True)


@dataclass(frozen=True, slots=True)
class AwaitUp(Request["None | Failed"]):
    """Answered when the tree is up, or `Failed` when it will not be."""

    id: str = field(default_factory=_new_id, kw_only=True)


@dataclass(frozen=True, slots=True)
class AwaitDown(Request[NodeDown]):
    """Answered when the node has ended."""


# What is answered by the node when it is up, and waits until then.
CallRequest: TypeAlias = CallTool | GetPrompt | ReadResource
NodeRequest: TypeAlias = CallRequest | ListTools | Why | Reload
NodeMessage: TypeAlias = NodeRequest | Subscribe | Unsubscribe | Stop | AwaitUp | AwaitDown
News: TypeAlias = SnapshotChanged | ServerEvent

__all__ = [
    "CALL_TIMEOUT",
    "AwaitDown",
    "AwaitUp",
    "CallRequest",
    "CallError",
    "CallTool",
    "Change",
    "ChangeClass",
    "Failed",
    "EventKind",
    "GetPrompt",
    "ListTools",
    "ListedTool",
    "News",
    "NodeDown",
    "NodeMessage",
    "NodeRequest",
    "ReadResource",
    "Reload",
    "Reloaded",
    "ServerEvent",
    "SnapshotChanged",
    "StartNode",
    "Stop",
    "Subscribe",
    "Subscriber",
    "ToolList",
    "ToolResult",
    "Topic",
    "Unsubscribe",
    "Why",
    "WhyReport",
]
