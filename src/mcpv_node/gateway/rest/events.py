"""The events: every transition of the node as it happens."""

from __future__ import annotations

from typing import Any

from litestar import Request, get
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.params import FromQuery
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from mcpv_node.gateway.asgi import SSE, AsgiExchange, accepts
from mcpv_node.gateway.event_streams import EventStreams
from mcpv_node.telemetry import Event, EventKind

from .problems import PROBLEMS


class EventStream(ASGIResponse):
    """An answer that is written by the streams of the door, past the framework."""

    def __init__(
        self,
        streams: EventStreams,
        *,
        after: str | None,
        server: str | None,
        kinds: frozenset[EventKind],
        follow: bool,
    ) -> None:
        super().__init__()
        self._streams = streams
        self._after = after
        self._server = server
        self._kinds = kinds
        self._follow = follow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = AsgiExchange({**scope}, receive, send)  # type: ignore[arg-type]
        if self._follow:
            await self._streams.serve(exchange, after=self._after, shows=self._shows)
        else:
            await self._streams.serve_kept(exchange, shows=self._shows)

    def _shows(self, event: Event) -> bool:
        if self._server is not None and event.server != self._server:
            return False
        return not self._kinds or event.kind in self._kinds


@get("/events", media_type=SSE.decode(), sync_to_thread=False, responses=PROBLEMS)
def follow_events(
    request: Request[Any, Any, State],
    state: State,
    server: FromQuery[str | None] = None,
    kind: FromQuery[list[EventKind] | None] = None,
    follow: FromQuery[bool] = True,
) -> EventStream:
    """Every transition, as server-sent events: of one `server`, of some kinds (`kind` may be repeated), or all.

    `Last-Event-ID` resumes after that event. An event `reset` says that some were missed: read the state anew.
    With `follow=false` the answer is all that is remembered, and ends.
    """
    if not accepts(request.headers.get("accept"), SSE.decode()):
        raise HTTPException("Accept must admit text/event-stream", status_code=406)
    streams = state["streams"]
    assert isinstance(streams, EventStreams)
    after = request.headers.get("last-event-id") or None
    return EventStream(streams, after=after, server=server, kinds=frozenset(kind or ()), follow=follow)
