"""The HTTP server's protocol with two habits changed.

What belongs to one answer goes out in one write. uvicorn writes the head of an answer, and then its body, each with a
call to the system; the reader is woken for the head and has nothing to read yet. Here an answer is held until it is
complete, and a piece of a stream until the turn of the loop in which it was written is over.

A request finds its connection in its state, and is told by it when the client has gone: a task that waits for that
costs more than most calls.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .heads import CONNECTION, Connection


class WholeAnswers(HttpToolsProtocol):
    """See the module."""

    _held: _Held
    _connection: Connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._held = _Held(transport, self.loop)
        self._connection = Connection()
        # Each request is given a copy.
        self.app_state = {**self.app_state, CONNECTION: self._connection}
        super().connection_made(cast("asyncio.Transport", self._held))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._connection.lost()

    def on_response_complete(self) -> None:
        self._held.flush()
        super().on_response_complete()


class _Held:
    """A transport that keeps what it is given until it is told to send it, or this turn of the loop is over."""

    __slots__ = ("_loop", "_pieces", "_transport", "is_closing")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._pieces: list[bytes] = []
        self.is_closing = transport.is_closing  # looked up on every request

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._pieces:
            self._loop.call_soon(self.flush)
        self._pieces.append(data)

    def flush(self) -> None:
        pieces, self._pieces = self._pieces, []
        if pieces and not self.is_closing():
            self._transport.writelines(pieces)

    def close(self) -> None:
        self.flush()
        self._transport.close()
