"""Who listens to an HTTP session in tests, and a session that ends with the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from mcpv_node.transports.http import (
    HttpFailure,
    HttpLimits,
    HttpRoute,
    HttpSession,
    HttpSseSession,
    StreamableHttpSession,
)

# What takes longer has hung.
TIMEOUT = 10.0

LIMITS = HttpLimits(message_bytes=1024 * 1024, requests=8)


class RecordingHttpSink:
    """Keeps what a session told; `settles` says which message is the reply of its request."""

    def __init__(self, settles: Callable[[bytes], bool] = lambda data: b'"result"' in data) -> None:
        self.messages: list[tuple[bytes, int | None]] = []
        self.over: dict[int, HttpFailure | None] = {}
        self.send_failures: list[HttpFailure] = []
        self.lost: list[str] = []
        self.streams_lost: list[HttpFailure] = []
        self.session: HttpSession | None = None
        self._settles = settles
        self._changed = asyncio.Event()

    def on_message(self, data: bytes, request: int | None) -> None:
        self.messages.append((data, request))
        if request is not None and self.session is not None and self._settles(data):
            self.session.settle(request)
        self._changed.set()

    def on_request_over(self, request: int, failure: HttpFailure | None) -> None:
        assert request not in self.over
        self.over[request] = failure
        self._changed.set()

    def on_send_failed(self, failure: HttpFailure) -> None:
        self.send_failures.append(failure)
        self._changed.set()

    def on_stream_lost(self, failure: HttpFailure) -> None:
        self.streams_lost.append(failure)
        self._changed.set()

    def on_session_lost(self, why: str) -> None:
        self.lost.append(why)
        self._changed.set()

    @property
    def data(self) -> list[bytes]:
        return [data for data, _ in self.messages]

    async def until(self, condition: Callable[[], Any]) -> None:
        """Wait until `condition` holds; it is looked at whenever something was told."""
        async with asyncio.timeout(TIMEOUT):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_over(self, number: int) -> HttpFailure | None:
        await self.until(lambda: number in self.over)
        return self.over[number]

    async def until_failed(self, number: int) -> HttpFailure:
        failure = await self.until_over(number)
        assert failure is not None, "it did not fail"
        return failure


@asynccontextmanager
async def streamable(
    url: str, sink: RecordingHttpSink, *, limits: HttpLimits = LIMITS, **route: Any
) -> AsyncIterator[StreamableHttpSession]:
    """A session of Streamable HTTP."""
    session = StreamableHttpSession(HttpRoute(url, **route), sink=sink, limits=limits)
    async with _while_open(session, sink):
        yield session


@asynccontextmanager
async def sse(
    url: str, sink: RecordingHttpSink, *, limits: HttpLimits = LIMITS, **route: Any
) -> AsyncIterator[HttpSseSession]:
    """A session of HTTP+SSE."""
    session = HttpSseSession(HttpRoute(url, **route), sink=sink, limits=limits)
    async with _while_open(session, sink):
        yield session


@asynccontextmanager
async def _while_open(
    session: StreamableHttpSession | HttpSseSession, sink: RecordingHttpSink
) -> AsyncIterator[None]:
    sink.session = session
    try:
        yield
    finally:
        await session.close(grace=2.0)
        assert_nothing_runs()


def assert_nothing_runs() -> None:
    """No task of a session is left; those of the test's server are its own."""
    left = [task for task in asyncio.all_tasks() if "transports/http" in _file_of(task)]
    assert left == []


def _file_of(task: asyncio.Task[Any]) -> str:
    code = getattr(task.get_coro(), "cr_code", None)
    return code.co_filename if code is not None else ""
