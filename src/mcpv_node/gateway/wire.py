"""The HTTP server's protocol with one habit changed: what belongs to one answer goes out in one write.

uvicorn writes the head of an answer, and then its body, each with a call to the system; the reader is woken for the
head and has nothing to read yet. Here an answer is held until it is complete, and a piece of a stream until the turn
of the loop in which it was written is over.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class WholeAnswers(HttpToolsProtocol):
    """See the module."""

    _held: _Held

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._held = _Held(transport, self.loop)
        super().connection_made(cast("asyncio.Transport", self._held))

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
