"""The spans of one call: the whole of it, and inside how it waited for a slot, for a start, and for its server.

    tools/call fs_read      from its arrival to its answer
    ├── queue               until it had a slot
    │   └── start           of that, while an instance was starting
    └── call                until its server had answered

A retry and each round of a multi-round request add a queue and a call. What the server is told of the trace makes
its own spans children of `call`.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from msgspec import Raw

from mcpv_node.actors.callers import Caller
from mcpv_node.actors.context import NodeContext
from mcpv_node.actors.leases import Lease, Refused
from mcpv_node.protocol import CALL, GET_PROMPT, READ_RESOURCE, check_trace, read_trace, write_trace

from .asgi import Exchange
from .heads import TRACEPARENT
from .routing import Route

if TYPE_CHECKING:
    from mcpv_node.telemetry.tracing import OpenSpan, Tracing

# Who brought the request over HTTP may say in its headers what the request itself does not.
_arrived: ContextVar[dict[str, str] | None] = ContextVar("mcpv_arrived_trace", default=None)

# What is named, in the words of OpenTelemetry's conventions for MCP; names of tools and prompts are few.
_NAMED: Final = {
    CALL: "gen_ai.tool.name",
    GET_PROMPT: "gen_ai.prompt.name",
    READ_RESOURCE: "mcp.resource.uri",
}
_NAMES_THE_SPAN: Final = frozenset({CALL, GET_PROMPT})

_GOOD: Final = frozenset({"ok", "cancelled"})


def note_arrival(exchange: Exchange) -> None:
    """Remember what the headers say of a trace, for the calls that this task and those it makes will serve."""
    parent = exchange.own.get(TRACEPARENT)
    _arrived.set(None if parent is None else check_trace(parent, exchange.header(b"tracestate")))


class CallTrace:
    """See the module. For one call, used on the loop's thread."""

    __slots__ = ("_call", "_clock", "_queue", "_since", "_span")

    def __init__(self, node: NodeContext, tracing: Tracing, caller: Caller, route: Route, at: float) -> None:
        call = route.call
        attributes = {
            "mcp.method.name": call.method,
            "mcpv.server": route.server.spec.name,
            "mcpv.era": str(caller.era),
        }
        if call.method in _NAMED:
            attributes[_NAMED[call.method]] = call.name
        name = f"{call.method} {call.name}" if call.method in _NAMES_THE_SPAN else call.method
        self._clock = node.clock
        # The request's own word comes first: between client and us others may have written headers.
        parent = read_trace(call.params) or _arrived.get() or {}
        self._span = tracing.begin(name, parent, at, attributes)
        self._call: OpenSpan | None = None
        self._queue: OpenSpan | None = None
        self._since = at

    def waits(self, since: float) -> None:
        """It waits for a slot from here on."""
        self._unanswered()
        self._queue = self._span.begin("queue", "waits", since)
        self._since = since

    def waited(self, granted: Lease | Refused) -> None:
        """It has a slot, or has been told why not."""
        queue, self._queue = self._queue, None
        if queue is None:
            return
        now = self._clock.monotonic()
        if isinstance(granted, Refused):
            queue.end(now, error=str(granted.failure.reason))
            return
        if granted.started_seconds > 0:
            queue.begin("start", "waits", max(self._since, now - granted.started_seconds)).end(now)
        queue.end(now, {"mcpv.instance": granted.instance_id})

    def sends(self, lease: Lease, params: bytes | Raw) -> bytes | Raw:
        """It goes to its server now; its params with the trace in them."""
        attributes = {"mcpv.instance": lease.instance_id, "mcp.protocol.version": lease.hello.version}
        self._call = self._span.begin("call", "asks", self._clock.monotonic(), attributes)
        return write_trace(params, self._call.carry()) or params

    def answered(self, *, ok: bool) -> None:
        """Its server has answered, or will not."""
        if self._call is not None:
            self._call.end(self._clock.monotonic(), error=None if ok else "failed")
            self._call = None

    def ends(self, outcome: str, served: Lease | None) -> None:
        """It is over."""
        self._unanswered()
        self.answered(ok=outcome in _GOOD)
        attributes = {"mcpv.outcome": outcome}
        if served is not None:
            attributes["mcpv.instance"] = served.instance_id
        self._span.end(self._clock.monotonic(), attributes, error=None if outcome in _GOOD else outcome)

    def _unanswered(self) -> None:
        """A wait for a slot that nobody has answered."""
        queue, self._queue = self._queue, None
        if queue is not None:
            queue.end(self._clock.monotonic(), error="no_answer")
