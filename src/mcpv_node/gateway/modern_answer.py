"""The answer to one modern request: JSON when the reply is all there is to say, a stream when something comes first.

Nothing is committed until then, or until the client must see a sign of life. Whoever makes one ends with `finish`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Final

from mcpv_node.actors.kernel import ActorSystem
from mcpv_node.protocol import comment, encode_event

from .asgi import Exchange
from .modern_reply import ModernReply
from .outbox import Entry, Mark, Outbox, Reader

# Proxies and NATs forget a connection that is silent for a minute; twice in that time is safe (seconds).
KEEPALIVE = 25.0

# What the stream is called; no client sees it, for none can be resumed.
RESPONSE: Final = "response"

SIGN_OF_LIFE: Final = comment("keepalive")


class ModernAnswer:
    """See the module."""

    __slots__ = ("_exchange", "_outbox", "_system", "_writing")

    def __init__(self, exchange: Exchange, system: ActorSystem) -> None:
        self._exchange = exchange
        self._system = system
        self._outbox: Outbox | None = None
        self._writing: asyncio.Task[None] | None = None
        system.deadlines.add(self._show_life, system.loop.time() + KEEPALIVE)

    def tell(self, message: bytes) -> None:
        """Say this before the reply; it gives way to what follows where the client does not read."""
        self._commit(()).put(message, may_be_dropped=True)

    async def finish(self, reply: ModernReply | None) -> None:
        """Answer, and return when the answer has been written; None: there will be no reply."""
        self._system.deadlines.remove(self._show_life)
        if self._outbox is None or self._writing is None:
            if reply is not None:
                await write_reply(self._exchange, reply)
            return
        self._outbox.finish()
        try:
            if reply is not None:
                await self._writing
                await self._exchange.send_event(encode_event(reply.data))
                await self._exchange.end_events()
        finally:
            self._writing.cancel()

    def _show_life(self) -> None:
        self._commit((SIGN_OF_LIFE,))

    def _commit(self, opening: tuple[bytes, ...]) -> Outbox:
        if self._outbox is None:
            self._system.deadlines.remove(self._show_life)
            self._outbox = Outbox(RESPONSE)
            writing = _write(self._exchange, self._outbox.connect(), opening)
            self._writing = self._system.loop.create_task(writing)
        return self._outbox


def write_reply(exchange: Exchange, reply: ModernReply) -> Coroutine[None, None, None]:
    """Answer with what is all there is to say."""
    return exchange.answer(reply.http_status, reply.head, rest=reply.rest)


async def _write(exchange: Exchange, reader: Reader, opening: tuple[bytes, ...]) -> None:
    await exchange.start_events()
    for event in opening:
        await exchange.send_event(event)
    while (item := await reader.next(KEEPALIVE)) is not Mark.CLOSED:
        await exchange.send_event(as_event(item))


def as_event(item: Entry | Mark) -> bytes:
    """What is written for what a reader was given."""
    return SIGN_OF_LIFE if isinstance(item, Mark) else encode_event(item.message)
