"""The HTTP server's protocol with five habits changed.

**What belongs to one answer goes out in one write.** uvicorn writes the head of an answer, and then its body, each with
a call to the system; the reader is woken for the head and has nothing to read yet. Here an answer is held until it is
complete, and a piece of a stream until the turn of the loop in which it was written is over.

**A head that was let in is not parsed again.** A client sends the same bytes before every body, but for a few values
(`heads.Spelling`). Where a request begins with them and all before it on the connection has been answered, it goes to
the application without a parser, a scope or messages between. Whatever is different, larger or oddly cut, uvicorn reads.

**A request is told by its connection when the client has gone**: a task that waits for that costs more than most calls.

**Who is still sending sees its answer.** A connection that is closed before all was read of it is reset, and a client that
reads only once it has sent everything then finds nothing: not that its body is too large, nor that its token is wrong.

**Nobody waits for a goodbye.** TLS has one for both sides, and the loop waits half a minute for that of a client which, being
idle, does not even read ours: so long would a node take to stop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, Protocol, cast

from loguru import logger
from uvicorn.protocols.http.httptools_impl import (
    HEADER_VALUE_RE,
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from .asgi import JSON, Exchange, TooLarge
from .heads import CONNECTION, Connection, Head, Headers, spell

# A larger body is read by uvicorn, which lets the client wait while we do (bytes).
MAX_BODY: Final = 65536

# Whoever has its answer may go on sending for this long, for nothing (seconds); nginx's `lingering_timeout` is the same.
LINGER: Final = 5.0

# A client that is there answers the end of TLS in a fraction of this (seconds).
GOODBYE: Final = 1.0


class Application(Protocol):
    """What answers requests."""

    async def serve(self, exchange: Exchange) -> None: ...


class WholeAnswers(HttpToolsProtocol):
    """See the module."""

    _held: _Held
    _connection: Connection

    # Whether uvicorn's parser stands between two requests, and what came first after that.
    _is_between = True
    _first = b""

    # The request that is read or answered without it, and what came after that request.
    _known: KnownExchange | None = None
    _later = b""

    # When the client last did something, or was last answered, and what looks at that.
    _active_at = 0.0
    _watch: asyncio.TimerHandle | None = None

    _is_ending = False

    # What ends a connection whose last answer has gone while its client is still sending, and one that has been closed.
    _lingering: asyncio.TimerHandle | None = None
    _goodbye: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._held = _Held(transport, self.loop, self._close)
        self._connection = Connection()
        # Each request is given a copy.
        self.app_state = {**self.app_state, CONNECTION: self._connection}
        super().connection_made(cast("asyncio.Transport", self._held))
        self._active_at = self.loop.time()
        self._watch = self.loop.call_later(self.timeout_keep_alive, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._watch, self._lingering, self._goodbye):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)
        self._connection.lost()

    # --- reading --------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        self._active_at = self.loop.time()
        known = self._known
        if known is None:
            known = self._recognise(data)
            if known is None:
                if self._lingering is None:
                    if self._is_between:
                        self._first = data
                    super().data_received(data)
                return
            self._known = known
        rest = data if known.is_whole else known.take(data)
        if rest:
            # The client does not wait for its answer.
            self._later += rest
            self.flow.pause_reading()

    def _recognise(self, data: bytes) -> KnownExchange | None:
        """The request that `data` begins, where it has the head of the last one and nothing else is under way."""
        head = self._connection.head
        if head is None or head.spelling is None or not self._is_between or self._is_answering:
            return None
        reading = head.spelling.read(data)
        if reading is None or reading[1] > MAX_BODY:
            return None
        begin, length, own = reading
        return KnownExchange(self, head, own, self._connection, begin, length)

    @property
    def _is_answering(self) -> bool:
        """Whether a request that uvicorn has read has no whole answer yet."""
        cycle = cast("RequestResponseCycle | None", self.cycle)
        return cycle is not None and not cycle.response_complete

    def on_message_begin(self) -> None:
        self._is_between = False
        super().on_message_begin()

    def on_message_complete(self) -> None:
        self._is_between = True
        super().on_message_complete()

    # --- answering ------------------------------------------------------------------------------

    def serve(self, exchange: KnownExchange) -> None:
        """All of the request is there."""
        exchange.task = self.loop.create_task(self._serve(exchange))
        self.tasks.add(exchange.task)

    async def _serve(self, exchange: KnownExchange) -> None:
        try:
            await cast("Application", self.app).serve(exchange)
        except Exception as error:  # noqa: BLE001  (a request's border: the client gets no stack trace)
            logger.opt(exception=error).error("a request failed inside the node")
            if not exchange.is_started:
                await exchange.problem(500, "the request failed inside the node")
        finally:
            self.tasks.discard(exchange.task)
            if not exchange.is_over:
                self.transport.close()

    def write(self, data: bytes) -> None:
        """A piece of an answer."""
        if not self._connection.is_lost:
            self._held.write(data)

    def finish(self, *pieces: bytes) -> None:
        """The last pieces of the answer to what was read here."""
        if not self._connection.is_lost:
            self._held.send(pieces)
        self._known = None
        self.server_state.total_requests += 1
        if self._is_ending:
            self.transport.close()
        if self.transport.is_closing():
            return
        self._active_at = self.loop.time()
        if self._later:
            self.flow.resume_reading()
            later, self._later = self._later, b""
            self.data_received(later)

    async def until_writable(self) -> None:
        """Wait while the client does not read."""
        if self.flow.write_paused and not self._connection.is_lost:
            await self.flow.drain()

    def head_of(self, status: int, headers: bytes) -> bytes:
        """The first lines of an answer, and these."""
        close = b"connection: close\r\n" if self._is_ending else b""
        added = _encode_added(tuple(self.server_state.default_headers))
        return b"%b%b%b%b\r\n" % (STATUS_LINE[status], added, headers, close)

    def on_response_complete(self) -> None:
        self._held.flush()
        self._active_at = self.loop.time()
        head = self._connection.head
        if head is not None and head.spelling is None and head.mcp is not None:
            head.spelling = spell(head, self._first)
        self._first = b""
        super().on_response_complete()

    # --- its end --------------------------------------------------------------------------------

    def _look(self) -> None:
        """Close what waits for its client for too long: for another request, or for the rest of one."""
        is_whole = (
            self._known.is_whole if self._known is not None else self._is_between and self._is_answering
        )
        left = self._active_at + self.timeout_keep_alive - self.loop.time()
        if is_whole or left > 0:
            self._watch = self.loop.call_later(self.timeout_keep_alive if is_whole else left, self._look)
        else:
            self.transport.close()

    def _close(self, transport: asyncio.Transport) -> None:
        """Close the connection; if its client is still sending, tell it that nothing more comes, and close it later."""
        if not self._is_between and self._lingering is None and not self._connection.is_lost:
            self._lingering = self.loop.call_later(LINGER, self.transport.close)
            self.flow.resume_reading()
            if transport.can_write_eof():
                transport.write_eof()
            return
        transport.close()
        if self.scheme == "https" and self._goodbye is None:
            self._goodbye = self.loop.call_later(GOODBYE, self._hang_up, transport)

    def _hang_up(self, transport: asyncio.Transport) -> None:
        """The client has had its time, unless it still reads the last answer."""
        if transport.get_write_buffer_size():
            self._goodbye = self.loop.call_later(GOODBYE, self._hang_up, transport)
        else:
            transport.abort()

    def timeout_keep_alive_handler(self) -> None:
        """uvicorn's own timer, of which `_look` is the better one: it sees both ways of reading."""

    def shutdown(self) -> None:
        if self._known is None or not self._known.is_whole:
            super().shutdown()
        else:
            self._is_ending = True


class KnownExchange(Exchange):
    """A request whose head has the bytes of the one before on its connection."""

    __slots__ = ("_at", "_missing", "_pieces", "_wire", "is_over", "is_whole", "task")

    task: asyncio.Task[None]  # what serves it, once all of it has come

    def __init__(
        self,
        wire: WholeAnswers,
        head: Head,
        own: dict[bytes, str],
        connection: Connection,
        begin: int,
        length: int,
    ) -> None:
        super().__init__(head, own, connection)
        self._wire = wire
        self._at = begin  # where the body stands in what came first
        self._missing = length  # of it, in bytes
        self._pieces: list[bytes] = []
        self.is_whole = False  # all of it has come
        self.is_over = False  # all of the answer has gone

    def take(self, data: bytes) -> bytes:
        """Take what came; returns what is not of this request."""
        end = self._at + self._missing
        piece = data[self._at : end]
        if piece:
            self._pieces.append(piece)
        self._missing -= len(piece)
        self._at = 0
        if not self._missing:
            self.is_whole = True
            self._wire.serve(self)
        return data[end:]

    @property
    def lines(self) -> Iterable[tuple[bytes, bytes]]:
        own = [(name, value.encode("latin-1")) for name, value in self.own.items()]
        return [*self.head.headers.items(), *own]

    @property
    def client(self) -> str:
        address = self._wire.client
        return "" if address is None else str(address[0])

    @property
    def is_tls(self) -> bool:
        return self._wire.scheme == "https"

    async def body(self, limit: int) -> bytes:
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        if len(body) > limit:
            raise TooLarge
        return body

    async def answer(
        self,
        status: int,
        body: bytes = b"",
        *,
        rest: tuple[bytes, ...] = (),
        content_type: bytes = JSON,
        headers: Headers | None = None,
    ) -> None:
        if self._wire.flow.write_paused:
            await self._wire.until_writable()
        self.begins(status)
        size = len(body) + sum(map(len, rest)) if rest else len(body)
        lines = b"content-length: %d\r\n" % size
        if body:
            lines += b"content-type: %b\r\n" % content_type
        if headers:
            lines += encode_headers(headers)
        self.is_over = True
        self._wire.finish(self._wire.head_of(status, lines) + body, *rest)

    async def start_stream(self, headers: Headers) -> None:
        await self._wire.until_writable()
        self.begins(200)
        self._wire.write(self._wire.head_of(200, encode_headers(headers) + b"transfer-encoding: chunked\r\n"))

    async def send_event(self, data: bytes) -> None:
        await self._wire.until_writable()
        if data:
            self._wire.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def end_events(self) -> None:
        await self._wire.until_writable()
        self.is_over = True
        self._wire.finish(b"0\r\n\r\n")


def encode_headers(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Headers as they are written; ValueError for what would be more than a header."""
    for name, value in headers:
        if HEADER_VALUE_RE.search(value):
            raise ValueError(f"{name!r} cannot have this value: {value!r}")
    return b"".join(b"%b: %b\r\n" % line for line in headers)


# What the server adds to every answer is another once a second.
_encode_added: Final = lru_cache(1)(encode_headers)


class _Held:
    """A transport that keeps what it is given until it is told to send it, or this turn of the loop is over."""

    __slots__ = ("_close", "_loop", "_pieces", "_transport", "is_closing")

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        close: Callable[[asyncio.Transport], None],
    ) -> None:
        self._transport = transport
        self._loop = loop
        self._close = close
        self._pieces: list[bytes] = []
        self.is_closing = transport.is_closing  # looked up on every request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._pieces:
            self._loop.call_soon(self.flush)
        self._pieces.append(data)

    def send(self, pieces: Sequence[bytes]) -> None:
        """Send these, after what is held."""
        if self._pieces:
            pieces = (*self._pieces, *pieces)
            self._pieces.clear()
        if pieces and not self.is_closing():
            self._transport.writelines(pieces)

    def flush(self) -> None:
        self.send(())

    def close(self) -> None:
        self.flush()
        self._close(self._transport)
