"""ASGI as we use it: a request to read from, and the few ways to answer it.

No framework stands between the HTTP server and `/mcp`; this is what would be left of one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from typing import Any, Final, TypeAlias

import msgspec

from .heads import AUTHORIZATION, CONNECTION, CONTENT_LENGTH, Connection, Head, Headers, first_of_each

Scope: TypeAlias = MutableMapping[str, Any]
AsgiMessage: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[AsgiMessage]]
Send: TypeAlias = Callable[[AsgiMessage], Awaitable[None]]
AsgiApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON: Final = b"application/json"
PROBLEM: Final = b"application/problem+json"
SSE: Final = b"text/event-stream"

# Clients of a kind all send the same; whoever sends ever new ones fills no memory.
REMEMBERED: Final = 64

TITLES: Final = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    406: "Not Acceptable",
    409: "Conflict",
    412: "Precondition Failed",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    421: "Misdirected Request",
    429: "Too Many Requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}


class TooLarge(Exception):
    """The body is larger than it may be; what came of it has been dropped."""


class Disconnected(Exception):
    """The client went away before it had sent everything."""


class Exchange:
    """One request and the answer to it."""

    __slots__ = (
        "_authorization",
        "_length",
        "_receive",
        "_send",
        "head",
        "is_started",
        "method",
        "path",
        "scope",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self._receive = receive
        self._send = send
        self.is_started = False  # something of the answer has gone out
        lines: Headers = scope["headers"]
        headers = dict(lines)
        is_repeated = len(headers) != len(lines)
        if is_repeated:
            headers = first_of_each(lines)
        self._length = headers.pop(CONTENT_LENGTH, b"")
        self._authorization = headers.pop(AUTHORIZATION, None)
        self.head = self._known(headers, is_repeated=is_repeated) or Head(
            self.method, self.path, headers, is_repeated=is_repeated
        )

    def remember_head(self) -> None:
        """It has been let in: the next request on this connection may have the same head."""
        if not self.head.is_repeated:
            self.head.is_ours = True
            self.connection.head = self.head

    def _known(self, headers: dict[bytes, bytes], *, is_repeated: bool) -> Head | None:
        """The head of the request before on this connection, where it is the very same."""
        state = self.scope.get("state")
        connection: Connection | None = None if state is None else state.get(CONNECTION)
        known = None if connection is None or is_repeated else connection.head
        if known is None or known.headers != headers or known.is_repeated:
            return None
        return known if known.path == self.path and known.method == self.method else None

    @property
    def connection(self) -> Connection:
        """What it came on."""
        connection: Connection = self.scope["state"][CONNECTION]
        return connection

    @property
    def is_tls(self) -> bool:
        return bool(self.scope.get("scheme") == "https")

    @property
    def authorization(self) -> str | None:
        """The value of the Authorization header."""
        return _text(self._authorization)

    def header(self, name: bytes) -> str | None:
        """The value of another header, by its lower-case name."""
        return _text(self.head.headers.get(name))

    def count(self, name: bytes) -> int:
        """How often a header stands in the request."""
        if not self.head.is_repeated:
            return int(name in self.head.headers)
        return sum(1 for other, _ in self.scope["headers"] if other == name)

    async def body(self, limit: int) -> bytes:
        """The whole body; TooLarge as soon as it is known to be more than `limit` bytes."""
        declared = self._length
        if declared.isdigit() and (len(declared) > len(str(limit)) or int(declared) > limit):
            raise TooLarge
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise TooLarge
            chunks.append(chunk)
            if not message.get("more_body", False):
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    async def disconnected(self) -> None:
        """Return once the client has gone."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def send(self, message: AsgiMessage) -> None:
        """For an application that answers by itself."""
        self.is_started = True
        await self._send(message)

    async def answer(
        self,
        status: int,
        body: bytes = b"",
        *,
        rest: tuple[bytes, ...] = (),
        content_type: bytes = JSON,
        headers: Headers | None = None,
    ) -> None:
        """Answer with one body, whose `rest` may follow in pieces."""
        size = len(body) + sum(map(len, rest)) if rest else len(body)
        lines: Headers = [(b"content-length", b"%d" % size)]
        if body:
            lines.append((b"content-type", content_type))
        if headers:
            lines += headers
        self.is_started = True
        await self._send({"type": "http.response.start", "status": status, "headers": lines})
        # A body of a HEAD request is not sent; the server below us sees to that.
        for piece in rest:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
            body = piece
        await self._send({"type": "http.response.body", "body": body})

    async def problem(self, status: int, detail: str, *, headers: Headers | None = None) -> None:
        """Answer with an error after RFC 9457."""
        body = msgspec.json.encode(
            {"type": "about:blank", "title": TITLES[status], "status": status, "detail": detail}
        )
        await self.answer(status, body, content_type=PROBLEM, headers=headers)

    async def start_events(self, headers: Headers | None = None) -> None:
        """Begin a stream of events."""
        lines: Headers = [
            (b"content-type", SSE),
            (b"cache-control", b"no-store"),
            # A proxy that collects the stream before it passes it on makes it useless.
            (b"x-accel-buffering", b"no"),
        ]
        if headers:
            lines += headers
        self.is_started = True
        await self._send({"type": "http.response.start", "status": 200, "headers": lines})

    async def send_event(self, data: bytes) -> None:
        """Send bytes of the stream; waits while the client does not read."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end_events(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1").strip()


@lru_cache(REMEMBERED)
def accepts(accept: str | None, wanted: str) -> bool:
    """Whether an Accept header admits a media type. No header admits everything."""
    if accept is None:
        return True
    kind = wanted.partition("/")[0]
    for entry in accept.lower().split(","):
        media, *parameters = (part.strip() for part in entry.split(";"))
        if media in (wanted, f"{kind}/*", "*/*"):
            return not any(_is_zero(parameter) for parameter in parameters)
    return False


@lru_cache(REMEMBERED)
def is_json(content_type: str | None) -> bool:
    """Whether a Content-Type header says JSON, whatever its parameters."""
    return content_type is not None and content_type.partition(";")[0].strip().lower() == "application/json"


def _is_zero(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    return name.strip() == "q" and not value.strip().strip("0.")
