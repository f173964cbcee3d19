"""ASGI as we use it: a request to read from, and the few ways to answer it.

No framework stands between the HTTP server and `/mcp`; this is what would be left of one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, MutableMapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import msgspec

from .heads import CONNECTION, CONTENT_LENGTH, Connection, Head, Headers, headers_in, take_own

if TYPE_CHECKING:
    from .auth import Authority

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


class Exchange(ABC):
    """One request and the answer to it.

    `own` are the headers that are no part of its head; `authority` is whose it is, once that is known; `on_status` is
    told the status of the answer when it goes out.
    """

    __slots__ = ("authority", "connection", "head", "is_started", "method", "on_status", "own", "path")

    def __init__(self, head: Head, own: dict[bytes, str], connection: Connection) -> None:
        self.head = head
        self.own = own
        self.method = head.method
        self.path = head.path
        self.connection = connection  # what it came on
        self.authority: Authority | None = None
        self.on_status: Callable[[Exchange, int], None] | None = None
        self.is_started = False  # something of the answer has gone out

    @property
    @abstractmethod
    def lines(self) -> Iterable[tuple[bytes, bytes]]:
        """All headers, line by line."""

    @property
    @abstractmethod
    def client(self) -> str:
        """The address it came from, "" where there is none."""

    @property
    @abstractmethod
    def is_tls(self) -> bool: ...

    @abstractmethod
    async def body(self, limit: int) -> bytes:
        """The whole body; TooLarge as soon as it is known to be more than `limit` bytes."""

    @abstractmethod
    def answer(
        self,
        status: int,
        body: bytes = b"",
        *,
        rest: tuple[bytes, ...] = (),
        content_type: bytes = JSON,
        headers: Headers | None = None,
    ) -> Coroutine[None, None, None]:
        """Answer with one body, whose `rest` may follow in pieces."""

    @abstractmethod
    async def start_stream(self, headers: Headers) -> None:
        """Answer with a body that comes piece by piece."""

    @abstractmethod
    async def send_event(self, data: bytes) -> None:
        """Send bytes of the stream; waits while the client does not read."""

    @abstractmethod
    async def end_events(self) -> None: ...

    def remember_head(self) -> None:
        """It has been let in: the next request on this connection may have the same head."""
        if not self.head.repeated:
            self.head.is_ours = True
            self.connection.head = self.head

    def header(self, name: bytes) -> str | None:
        """The value of a header, by its lower-case name; one that is the request's own is in `own`."""
        return self.head.text(name)

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
        await self.start_stream(lines + headers if headers else lines)

    def begins(self, status: int) -> None:
        """The answer goes out now."""
        self.is_started = True
        if self.on_status is not None:
            self.on_status(self, status)


class AsgiExchange(Exchange):
    """One that came through the HTTP server's ASGI interface."""

    __slots__ = ("_receive", "_send", "scope")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        lines: Headers = scope["headers"]
        headers, repeated = headers_in(lines)
        own = take_own(headers)
        head = Head(scope["method"], scope["path"], headers, repeated)
        connection: Connection = scope["state"][CONNECTION]
        super().__init__(connection.same_as(head) or head, own, connection)

    @property
    def lines(self) -> Iterable[tuple[bytes, bytes]]:
        lines: Headers = self.scope["headers"]
        return lines

    @property
    def client(self) -> str:
        address = self.scope.get("client")
        return "" if address is None else str(address[0])

    @property
    def is_tls(self) -> bool:
        return bool(self.scope.get("scheme") == "https")

    async def body(self, limit: int) -> bytes:
        declared = self.own.get(CONTENT_LENGTH, "")
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

    async def pass_on(self, app: AsgiApp, more: Mapping[str, Any]) -> None:
        """Have another application answer it, with `more` in its scope."""
        await app({**self.scope, **more}, self._receive, self._pass)

    async def _pass(self, message: AsgiMessage) -> None:
        if message["type"] == "http.response.start":
            self.begins(message["status"])
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
        size = len(body) + sum(map(len, rest)) if rest else len(body)
        lines: Headers = [(b"content-length", b"%d" % size)]
        if body:
            lines.append((b"content-type", content_type))
        if headers:
            lines += headers
        self.begins(status)
        await self._send({"type": "http.response.start", "status": status, "headers": lines})
        # A body of a HEAD request is not sent; the server below us sees to that.
        for piece in rest:
            await self._send({"type": "http.response.body", "body": body, "more_body": True})
            body = piece
        await self._send({"type": "http.response.body", "body": body})

    async def start_stream(self, headers: Headers) -> None:
        self.begins(200)
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def send_event(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end_events(self) -> None:
        await self._send({"type": "http.response.body", "body": b""})


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
