"""How news reaches a subscriber, and what becomes of it while the subscriber does not take it.

What waits at a subscriber is bounded. When the bound is reached, the newest piece is kept here in the place of the one
before it, and told once there is room: who hears of lists is told the latest, who hears of events also how many it has
missed.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, auto
from typing import Any

import pykka
from loguru import logger

from mcpv_node.actors.events import NumberedEvent

from .messages import News, NodeDown, ServerEvent, Subscriber

# As many as a reader of `/api/v1/events` may leave waiting: a burst of a storm, some hundred kilobytes.
BACKLOG = 1024

# While a subscriber does not keep up, how often it is looked whether it has (seconds).
LOOK_INTERVAL = 0.1


class Offered(Enum):
    """What became of a piece of news."""

    TOLD = auto()
    HELD = auto()  # the subscriber has too much to read already
    GONE = auto()  # there is no subscriber any more


class Feed:
    """One subscription's way to its subscriber."""

    __slots__ = ("_held", "_subscriber")

    def __init__(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber
        self._held: News | None = None

    def offer(self, news: News) -> Offered:
        """Tell the subscriber, or keep this until `release`."""
        if self.release() is Offered.GONE:
            return Offered.GONE
        self._held = follow(self._held, news)
        return self.release()

    def release(self) -> Offered:
        """Tell what was kept, if there is room now."""
        news = self._held
        if news is None:
            return Offered.TOLD
        if _backlog(self._subscriber) >= BACKLOG:
            return Offered.HELD
        self._held = None
        return Offered.TOLD if tell(self._subscriber, news) else Offered.GONE


def follow(kept: News | None, news: News) -> News:
    """The newer takes the place of what was kept; an event counts what it has taken the place of."""
    if isinstance(news, ServerEvent) and isinstance(kept, ServerEvent):
        return replace(news, missed=news.missed + kept.missed + 1)
    return news


def tell(subscriber: Subscriber, message: News | NodeDown) -> bool:
    """False when there is nobody any more; a subscriber that fails is its host's affair, and not told again."""
    try:
        subscriber.tell(message)
    except pykka.ActorDeadError:
        return False
    except Exception as error:  # noqa: BLE001  (a foreign callback)
        logger.opt(exception=error).warning("a subscriber could not be told")
        return False
    return True


def to_server_event(numbered: NumberedEvent, *, missed: int) -> ServerEvent:
    """Give the form in which hosts hear of an event."""
    event = numbered.event
    return ServerEvent(
        id=numbered.id,
        at=event.at,
        kind=event.kind,
        server=event.server,
        instance=event.instance,
        from_=event.from_,
        to=event.to,
        reason=event.reason,
        cause=event.cause,
        client=event.client,
        missed=missed,
    )


def _backlog(subscriber: Subscriber) -> int:
    """How much waits to be read there; 0 where that cannot be seen."""
    inbox: Any = getattr(subscriber, "actor_inbox", None)
    return int(inbox.qsize()) if hasattr(inbox, "qsize") else 0
