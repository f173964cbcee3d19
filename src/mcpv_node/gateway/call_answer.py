"""The answer to one call: JSON when the reply is all there is to say, a stream of events when something comes first.

Nothing is committed until then, or until the client must see a sign of life or learn how to come back. That a client
hangs up does not cancel its call, for in this era it says so: the call goes on, and what it has to say is read from
its stream by whoever comes back for it.
"""

from __future__ import annotations

import asyncio

from mcpv_node.actors.context import NodeContext

from .asgi import Exchange
from .outbox import Mark, Outbox, Reader
from .presence import Presence
from .sessions import Session
from .streams import SIGN_OF_LIFE, event_of, opening_of

# Proxies and NATs forget a connection that is silent for a minute; twice in that time is safe (seconds).
KEEPALIVE = 25.0

# A call that takes longer than most is worth coming back for, and a client can come back once it was told how (seconds).
RESUMABLE_AFTER = 5.0


class CallAnswer:
    """See the module. Whoever makes one ends with `abandon`, which is nothing after `finish`."""

    __slots__ = ("_exchange", "_is_over", "_node", "_outbox", "_presence", "_session", "_writing")

    def __init__(self, exchange: Exchange, session: Session, node: NodeContext) -> None:
        self._exchange = exchange
        self._session = session
        self._node = node
        self._outbox: Outbox | None = None
        self._presence: Presence | None = None
        self._writing: asyncio.Task[None] | None = None
        self._is_over = False
        patience = RESUMABLE_AFTER if session.primes else KEEPALIVE
        node.system.deadlines.add(self._commit, node.system.loop.time() + patience)

    def emit(self, message: bytes, *, may_be_dropped: bool) -> bool:
        """Say this before the answer, on the call's own stream.

        False: it was not taken, because the call is over or its client owes us too much reading. What may be dropped
        gives way to what follows; what may not is kept until it has been written.
        """
        if self._is_over:
            return False
        return self._session.streams.put(self._commit(), message, may_be_dropped=may_be_dropped)

    def notify(self, message: bytes) -> None:
        """Emit what is of no use to anybody once more of it has come."""
        self.emit(message, may_be_dropped=True)

    async def wait_gone(self) -> None:
        """Return once nobody has read the call's stream for so long that nobody is expected back."""
        self._commit()
        assert self._presence is not None
        await self._presence.wait_gone()

    async def finish(self, reply: bytes | None) -> None:
        """Answer, and return when the answer has been written; None: the client has cancelled, there is none."""
        self._is_over = True
        self._node.system.deadlines.remove(self._commit)
        if self._outbox is not None and self._writing is not None:
            self._session.streams.finish(self._outbox, reply, self._node.clock.monotonic())
            await self._writing
        elif reply is not None:
            await self._exchange.answer(200, reply)
        else:
            # A cancelled request has no answer, and a stream is what may end without one.
            await self._exchange.start_events()
            await self._exchange.end_events()

    def abandon(self) -> None:
        """There will be no answer."""
        if self._is_over:
            return
        self._is_over = True
        self._node.system.deadlines.remove(self._commit)
        if self._outbox is not None and self._writing is not None:
            self._session.streams.finish(self._outbox, None, self._node.clock.monotonic())
            self._writing.cancel()

    def _commit(self) -> Outbox:
        if self._outbox is None:
            self._node.system.deadlines.remove(self._commit)
            self._presence = Presence()
            self._outbox = self._session.streams.open(self._presence)
            writing = write_events(self._exchange, self._outbox.connect(), primes=self._session.primes)
            self._writing = self._node.system.loop.create_task(writing)
        return self._outbox


async def write_events(exchange: Exchange, reader: Reader, *, primes: bool) -> None:
    """Answer a request with a stream, until the stream ends, somebody else reads it, or the client has gone."""
    exchange.connection.when_lost(reader.close)
    try:
        await exchange.start_events()
        await exchange.send_event(opening_of(reader, primes=primes))
        while (item := await reader.next(KEEPALIVE)) is not Mark.CLOSED:
            await exchange.send_event(SIGN_OF_LIFE if isinstance(item, Mark) else event_of(reader, item))
        await exchange.end_events()
    finally:
        exchange.connection.forget(reader.close)
        reader.close()
