"""A small HTTP server as a test writes it: each request is handed to a function, which answers byte by byte."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

# A test that waits longer for a request has a client that does not send it.
TIMEOUT = 10.0


class Request:
    """One request that came, and the means to answer it."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes,
    ) -> None:
        self._reader = reader
        self._is_gone = asyncio.Event()
        self.method, self.path, self.headers, self.body = method, path, headers, body
        self._writer = writer
        self.is_answered = False
        self.is_whole = False
        # What a test lets the answer wait for.
        self.go_on = asyncio.Event()

    def json(self) -> Any:
        return json.loads(self.body)

    async def reply(
        self, status: int = 200, body: bytes = b"", content_type: str = "application/json", **headers: str
    ) -> None:
        """Answer whole."""
        given = {
            "Content-Length": str(len(body)),
            **({"Content-Type": content_type} if body else {}),
            **headers,
        }
        await self._head(status, given)
        await self._write(body)
        self.is_whole = True

    async def stream(self, **headers: str) -> None:
        """Begin a stream of events."""
        await self._head(
            200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked", **headers}
        )

    async def chunk(self, data: bytes) -> None:
        """Send some bytes of a stream."""
        await self._write(b"%x\r\n%b\r\n" % (len(data), data))

    async def event(self, data: bytes, *, id: str | None = None) -> None:
        name = f"id: {id}\n".encode() if id is not None else b""
        await self.chunk(name + b"data: " + data + b"\n\n")

    async def end(self) -> None:
        """End a stream as one should."""
        await self._write(b"0\r\n\r\n")
        self.is_whole = True

    def cut(self) -> None:
        """Break the connection, at once and rudely."""
        self._writer.transport.abort()

    async def raw(self, data: bytes) -> None:
        """Send bytes that are no HTTP."""
        self.is_answered = True
        await self._write(data)

    async def closed(self) -> None:
        """In a handler: wait until the client has gone."""
        async with asyncio.timeout(TIMEOUT):
            with suppress(ConnectionError):
                await self._reader.read()
        self._is_gone.set()

    async def until_gone(self) -> None:
        """In a test: wait until a handler has seen the client go."""
        async with asyncio.timeout(TIMEOUT):
            await self._is_gone.wait()

    async def _head(self, status: int, headers: dict[str, str]) -> None:
        self.is_answered = True
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        await self._write(f"HTTP/1.1 {status} Status\r\n{lines}\r\n".encode())

    async def _write(self, data: bytes) -> None:
        self._writer.write(data)
        with suppress(ConnectionError):
            await self._writer.drain()


Handler = Callable[[Request], Awaitable[None]]


class HttpServer:
    """A server on loopback for the length of a `with`; it keeps what it was asked."""

    def __init__(self, handler: Handler, *, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.failures: list[BaseException] = []
        self._handler = handler
        self._tls = tls
        self._came = asyncio.Condition()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> HttpServer:
        self._server = await asyncio.start_server(
            self._on_connection, "127.0.0.1", 0, ssl=self._tls, limit=1 << 26
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()
        if kind is None and self.failures:
            raise self.failures[0]

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}/mcp"

    async def asked(self, number: int) -> Request:
        """Wait for the `number`-th request, counted from one."""
        async with asyncio.timeout(TIMEOUT), self._came:
            await self._came.wait_for(lambda: len(self.requests) >= number)
        return self.requests[number - 1]

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while (request := await self._read(reader, writer)) is not None:
                async with self._came:
                    self.requests.append(request)
                    self._came.notify_all()
                await self._handler(request)
                if not request.is_whole:
                    break
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # Cancelled at the end of the test; asyncio would complain of a connection that ends so.
            pass
        except AssertionError as error:
            self.failures.append(error)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = head.strip().split("\r\n")
        method, path, _ = first.split()
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        return Request(reader, writer, method, path, headers, body)


def script(*steps: Handler) -> Handler:
    """Answer the first request by the first step, and so on; a request too many is a failure."""
    left = list(steps)

    async def handle(request: Request) -> None:
        if not left:
            raise AssertionError(f"nobody expected {request.method} {request.path} {request.body[:100]!r}")
        await left.pop(0)(request)

    return handle


def json_reply(body: bytes = b"{}", status: int = 200, **headers: str) -> Handler:
    """A step: answer with JSON."""

    async def handle(request: Request) -> None:
        await request.reply(status, body, **headers)

    return handle


def status(code: int, **headers: str) -> Handler:
    """A step: answer with a status and nothing else."""

    async def handle(request: Request) -> None:
        await request.reply(code, **headers)

    return handle
