"""The modern era over HTTP: every POST stands for itself, and its answer is the end of it.

An answer is JSON when it is all there is to say, and a stream of events when something comes before it; nothing is
committed until then, or until the client must see a sign of life. A stream cannot be resumed, so a client that hangs
up does not want the answer any more: its request is cancelled.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from functools import partial
from typing import Final

from loguru import logger
from msgspec import Struct

from mcpv_node.actors.callers import Caller
from mcpv_node.actors.clients import Seen
from mcpv_node.protocol import (
    INVALID_REQUEST,
    MODERN,
    Legacy,
    McpHeaders,
    Message,
    Modern,
    ModernNotice,
    RawId,
    Refused,
    Request,
    RequestMeta,
    Verdict,
    encode_event,
    encode_failure,
    read_headers,
)

from .asgi import Exchange
from .callers import UNNAMED, make_modern_caller
from .heads import Connection
from .listening import Subscription
from .modern import ModernFront
from .modern_answer import KEEPALIVE, ModernAnswer, as_event, write_reply
from .modern_flight import ModernFlight
from .modern_reply import Asked, ModernReply, overloaded
from .outbox import Mark, Outbox
from .places import Place
from .services import DoorServices
from .visibility import resolve_selector

# A longer one would only be a way to fill memory.
MAX_KEY = 256

# A client that asks all the time is said to be there this often (seconds), and more often where that counts.
SEEN_SECONDS: Final = 1.0
SEEN_PER_LIMIT: Final = 20

KEY_HEADER: Final = b"mcpv-key"

# What the stream is called; no client sees it, for it cannot be resumed.
SUBSCRIPTION: Final = "subscription"


class ModernClient(Struct):
    """A client on one connection: what it said of itself and where it asked, what follows, and when it was seen last."""

    meta: RequestMeta
    key: str | None
    place: Place
    caller: Caller
    seen: Seen
    seen_at: float

    def is_same(self, meta: RequestMeta, key: str | None, place: Place) -> bool:
        """Whether the next request says the same, at the same place; what is the same is mostly one object."""
        return self.meta is meta and self.place is place and self.key == key


class ModernHttp:
    """What one HTTP door says to modern clients."""

    def __init__(self, services: DoorServices) -> None:
        self._services = services
        self._front = ModernFront(services)
        # The subscriptions that are open, and where they were made.
        self._streams: dict[Outbox, Place] = {}
        self._is_closed = False

    def close_streams(self) -> None:
        """End every subscription with its result; calls go on."""
        self._is_closed = True
        for stream in list(self._streams):
            stream.finish()

    def look_again(self) -> None:
        """A reload may have made another part of the node of what a path names.

        A subscription goes on with what it was made for, so where that is something else now it ends, with its result,
        and its client makes another.
        """
        world = self._services.node.world.world
        for stream, place in list(self._streams.items()):
            if resolve_selector(world, place.wanted, within=place.within) != place.selector:
                stream.finish()

    def answer(
        self, exchange: Exchange, place: Place, message: Message, verdict: Verdict, headers: McpHeaders
    ) -> Coroutine[None, None, None]:
        """Answer a message that `judge_post` has found not to be a legacy one."""
        match verdict:
            case Refused():
                id = message.id if isinstance(message, Request) else None
                return _refuse(exchange, verdict, id)
            case ModernNotice() | Legacy():
                return exchange.answer(202)
            case _:
                assert isinstance(message, Request)  # nothing else is judged to be served
                return self._serve(exchange, place, message, verdict, headers)

    def _serve(
        self, exchange: Exchange, place: Place, request: Request, said: Modern, headers: McpHeaders
    ) -> Coroutine[None, None, None]:
        key = exchange.header(KEY_HEADER)
        if key is not None and not 0 < len(key) <= MAX_KEY:
            why = f"Mcpv-Key is not 1 to {MAX_KEY} characters long"
            return exchange.answer(400, encode_failure(request.id, code=INVALID_REQUEST, message=why))
        client = self._see(exchange.connection, said.meta, key, place)
        step = self._front.receive(
            Asked(request, said.meta, said.params, client.caller, place.selector, headers=headers)
        )
        if isinstance(step, ModernReply):
            return write_reply(exchange, step)
        if isinstance(step, ModernFlight):
            return self._run(exchange, step)
        return self._stream(exchange, step, client.seen, place)

    def _see(self, connection: Connection, meta: RequestMeta, key: str | None, place: Place) -> ModernClient:
        """Who asks, and say that this client is there, unless its connection has just said so."""
        node = self._services.node
        now = node.clock.monotonic()
        client = connection.client
        if client is None or not client.is_same(meta, key, place):
            caller = make_modern_caller(place.principal, meta, key=key)
            seen = Seen(place.principal, meta.client_name or UNNAMED, place.selector)
            at = client.seen_at if client is not None and client.seen == seen else -math.inf
            client = connection.client = ModernClient(meta, key, place, caller, seen, at)
        pause = min(SEEN_SECONDS, node.settings.client_inactive_seconds / SEEN_PER_LIMIT)
        if now - client.seen_at >= pause:
            client.seen_at = now
            node.clients.tell(client.seen)
        return client

    async def _run(self, exchange: Exchange, flight: ModernFlight) -> None:
        answer = ModernAnswer(exchange, self._services.node.system)
        connection = exchange.connection
        hang_up = partial(flight.cancel, "the client hung up")
        connection.when_lost(hang_up)
        reply: ModernReply | None = None
        try:
            reply = await flight.run(answer.tell)
        finally:
            # Answered, a client may hang up: what waits for its next round goes on waiting.
            connection.forget(hang_up)
            await answer.finish(reply)

    async def _stream(self, exchange: Exchange, subscription: Subscription, seen: Seen, place: Place) -> None:
        if len(self._streams) >= self._services.node.settings.limits.sessions:
            await write_reply(exchange, overloaded(subscription.id, "too many subscriptions are open"))
            return
        stream = Outbox(SUBSCRIPTION)
        reader = stream.connect()
        self._streams[stream] = place
        if self._is_closed:
            stream.finish()
        exchange.connection.when_lost(stream.finish)

        def tell(message: bytes) -> None:
            # Twice the same news is no more than once, where nobody has read it yet.
            if not stream.is_waiting(message):
                stream.put(message, may_be_dropped=True)

        # Servers may have to be started for what it wants to hear of; meanwhile it is shown signs of life.
        beginning = asyncio.get_running_loop().create_task(subscription.begin(tell))
        beginning.add_done_callback(partial(_end_if_failed, stream))
        try:
            await exchange.start_events()
            while (item := await reader.next(KEEPALIVE)) is not Mark.CLOSED:
                await exchange.send_event(as_event(item))
                if item is Mark.IDLE:
                    # Who listens is there, though it asks nothing.
                    self._services.node.clients.tell(seen)
            if not exchange.connection.is_lost:
                await exchange.send_event(encode_event(subscription.finish()))
                await exchange.end_events()
        finally:
            exchange.connection.forget(stream.finish)
            beginning.cancel()
            del self._streams[stream]
            subscription.drop()


def is_modern(exchange: Exchange) -> bool:
    """Whether a request without a body is a modern client's, who has neither streams to open nor sessions to end."""
    headers = read_headers(exchange.lines)
    return headers.session is None and headers.version in MODERN


def _end_if_failed(stream: Outbox, beginning: asyncio.Task[None]) -> None:
    """A subscription that could not begin is over; its client hears so by the result, without an agreement."""
    if not beginning.cancelled() and (error := beginning.exception()) is not None:
        logger.opt(exception=error).error("a subscription failed inside the node")
        stream.finish()


async def _refuse(exchange: Exchange, refused: Refused, id: RawId | None) -> None:
    body = encode_failure(id, code=refused.code, message=refused.message, data=refused.data)
    await exchange.answer(refused.http_status, body)
