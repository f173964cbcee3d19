"""The log: its last lines, and each as it is written."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final

from litestar import Request, get
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.params import FromQuery
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send

from mcpv_node.gateway.asgi import SSE, AsgiExchange, accepts
from mcpv_node.gateway.log_streams import LogStreams
from mcpv_node.telemetry.log_ring import LogLine

from .problems import PROBLEMS


class Level(StrEnum):
    """How much a line matters, at least."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


_SEVERITIES: Final = {Level.DEBUG: 10, Level.INFO: 20, Level.WARNING: 30, Level.ERROR: 40}


class LogStream(ASGIResponse):
    """An answer that is written by the streams of the door, past the framework."""

    def __init__(
        self, streams: LogStreams, *, after: str | None, level: Level, server: str | None, follow: bool
    ) -> None:
        super().__init__()
        self._streams = streams
        self._after = after
        self._severity = _SEVERITIES[level]
        self._server = server
        self._follow = follow

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = AsgiExchange({**scope}, receive, send)  # type: ignore[arg-type]
        await self._streams.serve(exchange, after=self._after, shows=self._shows, follow=self._follow)

    def _shows(self, line: LogLine) -> bool:
        return line.severity >= self._severity and self._server in (None, line.server)


@get("/logs", media_type=SSE.decode(), sync_to_thread=False, responses=PROBLEMS)
def follow_logs(
    request: Request[Any, Any, State],
    state: State,
    level: FromQuery[Level] = Level.DEBUG,
    server: FromQuery[str | None] = None,
    follow: FromQuery[bool] = True,
) -> LogStream:
    """The log as server-sent events `log`, each with one line as JSON: those that are kept, then each that is written.

    `level` and `server` choose; with `follow=false` the answer ends with what is kept. What the node was told not to
    log is not here either. `Last-Event-ID` resumes; an event `reset` says that some lines were missed.
    """
    if not accepts(request.headers.get("accept"), SSE.decode()):
        raise HTTPException("Accept must admit text/event-stream", status_code=406)
    streams = state["logs"]
    assert isinstance(streams, LogStreams)
    after = request.headers.get("last-event-id") or None
    return LogStream(streams, after=after, level=level, server=server, follow=follow)
