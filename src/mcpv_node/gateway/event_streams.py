"""The node's events as streams: each reader hears what happens as it happens, and resumes by the id it knows last.

A reader that does not keep up costs a bounded backlog and holds nobody up: when it is full the reader is told `reset`,
because it has missed something, and goes on from there. What it wants to know then is the state, which it reads anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Final

import msgspec

from mcpv_node.actors.events import (
    RING_EVENTS,
    Follow,
    IsFollowing,
    NumberedEvent,
    RecentEvents,
    Unfollow,
)
from mcpv_node.actors.index_messages import ConsumerId
from mcpv_node.actors.kernel import ActorError
from mcpv_node.protocol import comment, encode_event
from mcpv_node.telemetry import Event, rfc3339

from .asgi import AsgiExchange, Exchange
from .call_answer import KEEPALIVE
from .outbox import Mark, Outbox
from .services import DoorServices, new_consumer_id

# The ring answers from memory; longer means that it is being restarted (seconds).
RING_BOUND = 5.0

# A burst of a storm that a reader on the same machine takes in one turn; at 300 bytes each it is 300 KB.
BACKLOG = 1024

# What a reader has missed is written in pieces, so that it costs the others no turn of a noticeable length.
PIECE = 256

_KEEPALIVE_COMMENT: Final = comment("keepalive")

Filter = Callable[[Event], bool]


class EventStreams:
    """The streams of one door, which end when it closes."""

    def __init__(self, services: DoorServices) -> None:
        self._node = services.node
        self._streams: set[Outbox] = set()
        self._closed = False

    def close(self) -> None:
        """End every stream; no other begins."""
        self._closed = True
        for stream in list(self._streams):
            stream.finish()

    async def serve(self, exchange: AsgiExchange, *, after: str | None, shows: Filter) -> None:
        """Answer a request with the events that `shows` admits, from the one after the id `after` on."""
        stream = _Stream(shows)
        if self._closed:
            stream.outbox.finish()
        self._streams.add(stream.outbox)
        events, consumer = self._node.events, new_consumer_id()
        gone = asyncio.get_running_loop().create_task(exchange.disconnected())
        gone.add_done_callback(lambda _: stream.outbox.finish())
        try:
            followed = await events.ask(Follow(consumer, stream.hear, after), RING_BOUND)
            stream.newest = stream.newest or followed.newest
            await exchange.start_events()
            # The client's headers are complete once something follows them.
            await exchange.send_event(_KEEPALIVE_COMMENT)
            if not followed.is_known:
                why = "the last event id is not known here"
                await exchange.send_event(_encode_reset(followed.newest, why, self._node.clock.wall()))
            await self._replay(exchange, followed.missed, shows)
            reader = stream.outbox.connect()
            while (item := await reader.next(KEEPALIVE)) is not Mark.CLOSED:
                if stream.has_missed():
                    why = "the reader did not keep up"
                    await exchange.send_event(_encode_reset(stream.newest, why, self._node.clock.wall()))
                elif not isinstance(item, Mark):
                    await exchange.send_event(item.message)
                elif await self._is_followed(consumer):
                    await exchange.send_event(_KEEPALIVE_COMMENT)
                else:
                    # The ring has lost its followers: who comes again with the id it knows hears what became of it.
                    break
            await exchange.end_events()
        finally:
            gone.cancel()
            self._streams.discard(stream.outbox)
            events.tell(Unfollow(consumer))

    async def serve_kept(self, exchange: Exchange, *, shows: Filter) -> None:
        """Answer a request with the events that are remembered, and end."""
        kept = await self._node.events.ask(RecentEvents(RING_EVENTS), RING_BOUND)
        await exchange.start_events()
        await self._replay(exchange, kept, shows)
        await exchange.end_events()

    async def _is_followed(self, consumer: ConsumerId) -> bool:
        try:
            return await self._node.events.ask(IsFollowing(consumer), RING_BOUND)
        except ActorError:
            return False

    @staticmethod
    async def _replay(exchange: Exchange, missed: tuple[NumberedEvent, ...], shows: Filter) -> None:
        for start in range(0, len(missed), PIECE):
            piece = [_encode(one) for one in missed[start : start + PIECE] if shows(one.event)]
            if piece:
                await exchange.send_event(b"".join(piece))
            await asyncio.sleep(0)


class _Stream:
    """What waits for one reader."""

    __slots__ = ("_shows", "newest", "outbox")

    def __init__(self, shows: Filter) -> None:
        self.outbox = Outbox("events", messages=BACKLOG)
        self.newest = ""  # the id of the newest event, shown or not
        self._shows = shows

    def hear(self, numbered: NumberedEvent) -> None:
        """One event more."""
        self.newest = numbered.id
        if self._shows(numbered.event):
            self.outbox.put(_encode(numbered), may_be_dropped=True)

    def has_missed(self) -> bool:
        """Whether something had to give way; then nothing of it waits any more."""
        return bool(self.outbox.dropped) and bool(self.outbox.skip())


def _encode(numbered: NumberedEvent) -> bytes:
    event = numbered.event
    return encode_event(msgspec.json.encode(event.to_data()), event=event.kind, id=numbered.id)


def _encode_reset(id: str, reason: str, at: datetime) -> bytes:
    """What says that something was missed; with the id from which the stream goes on."""
    data = msgspec.json.encode({"at": rfc3339(at), "kind": "reset", "reason": reason})
    return encode_event(data, event="reset", id=id)
