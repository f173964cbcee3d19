"""The place in an event stream: what was heard, and where to go on after it breaks. Pure but for the reading."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from mcpv_node.protocol import RemoteProtocolError, SseDecoder

from .exchange import Answer, ExchangeError
from .types import HttpFailure

# Seconds, where the server does not say.
DEFAULT_RETRY = 1.0

# A server that says 0 means soon, and not a thousand times a second; one that says a day does not mean it.
MIN_RETRY, MAX_RETRY = 0.05, 300.0

# What grows when nothing is heard stops growing here.
MAX_BACKOFF = 30.0

# A server repeats at most what it keeps for a stream, and after an id that we name; a few are plenty.
_REMEMBERED = 256


@dataclass(slots=True)
class Place:
    """Where one logical stream is, over the connections that carry it one after another."""

    last_id: str = ""
    retry: int | None = None
    # Fruitless turns in a row: a connection refused, a stream that brought nothing.
    fruitless: int = 0
    delivered: deque[str] = field(default_factory=lambda: deque[str](maxlen=_REMEMBERED))

    def delay(self) -> float:
        """Seconds until the next try."""
        asked = DEFAULT_RETRY if self.retry is None else self.retry / 1000
        first = min(max(asked, MIN_RETRY), MAX_RETRY)
        # The exponent is bounded, for its own sake.
        return max(first, min(first * 2.0 ** min(self.fruitless, 10), MAX_BACKOFF))


async def read_events(
    answer: Answer, place: Place, *, limit: int, on_event: Callable[[str, bytes], None]
) -> None:
    """Tell each event of a stream, its kind and data, until the stream ends; raises ExchangeError if it breaks.

    An event whose id was delivered over an earlier connection is not told again.
    """
    decoder = SseDecoder(max_bytes=limit)
    # Only earlier ones: an event without an id of its own bears the one before it.
    known = frozenset(place.delivered)
    while piece := await answer.next_piece():
        try:
            events = decoder.feed(piece)
        except RemoteProtocolError as error:
            raise ExchangeError(HttpFailure("too_large", f"sent what is too large: {error}")) from error
        if decoder.last_event_id and decoder.last_event_id != place.last_id:
            place.last_id = decoder.last_event_id
            place.fruitless = 0
        if decoder.retry is not None:
            place.retry = decoder.retry
        for event in events:
            if event.id and event.id in known:
                continue
            if event.id and (not place.delivered or place.delivered[-1] != event.id):
                place.delivered.append(event.id)
            place.fruitless = 0
            on_event(event.event, event.data)
