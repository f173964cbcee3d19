"""The ring of what happened: every transition gets an id, a log line and a place among the last 4,096.

Followers hear each event as it comes. One who was away says which event it knows last and is given what it missed in
the same answer that makes it a follower: nothing is lost between the two, and nothing comes twice.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

from loguru import logger

from mcpv_node.telemetry import Event
from mcpv_node.telemetry.logs import log_event

from .index_messages import ConsumerId
from .kernel import LoopActor, Request, answers, handles

# Hours of a quiet node, a minute of a crash storm; at about 300 bytes each it is a megabyte.
RING_EVENTS = 4096


@dataclass(frozen=True, slots=True)
class NumberedEvent:
    """An event with its place in this life of the ring, `number` counting up by one."""

    boot: str
    number: int
    event: Event

    @property
    def id(self) -> str:
        """`<boot>-<n>`."""
        return f"{self.boot}-{self.number}"


@dataclass(frozen=True, slots=True)
class RecentEvents(Request[tuple[NumberedEvent, ...]]):
    """The newest events, oldest first; of one server if it is named."""

    limit: int = 100
    server: str | None = None


@dataclass(frozen=True, slots=True)
class Followed:
    """From now on the follower hears every event; it has missed these, oldest first.

    `is_known` False: what it knew last is not in the ring, so what it has missed cannot be said. `newest` is the id
    of the newest event, for who goes on from here.
    """

    newest: str
    missed: tuple[NumberedEvent, ...] = ()
    is_known: bool = True


@dataclass(frozen=True, slots=True)
class Follow(Request[Followed]):
    """Have `notify` called, on the loop's thread, for every event to come, and be told those after the id `after`.

    `notify` must not block or raise. A consumer that follows already is followed anew.
    """

    consumer: ConsumerId
    notify: Callable[[NumberedEvent], None]
    after: str | None = None


@dataclass(frozen=True, slots=True)
class IsFollowing(Request[bool]):
    """Whether the consumer still hears what happens."""

    consumer: ConsumerId


@dataclass(frozen=True, slots=True)
class Unfollow:
    """The consumer is gone; nothing is told to it any more."""

    consumer: ConsumerId


EventsMessage: TypeAlias = Event | RecentEvents | Follow | IsFollowing | Unfollow


@dataclass(slots=True)
class Chronicle:
    """The estate. `boot` is one life of the ring: when it is lost, its numbers begin again under another."""

    boot: str
    ring: deque[NumberedEvent] = field(default_factory=lambda: deque(maxlen=RING_EVENTS))
    followers: dict[ConsumerId, Callable[[NumberedEvent], None]] = field(
        default_factory=dict[ConsumerId, Callable[[NumberedEvent], None]]
    )

    @property
    def newest(self) -> int:
        """The number of the newest event, 0 before the first."""
        return self.ring[-1].number if self.ring else 0

    def after(self, id: str) -> tuple[NumberedEvent, ...] | None:
        """What came after this event; None where it is not known what did."""
        boot, _, number = id.rpartition("-")
        oldest = self.newest - len(self.ring)
        # Ten digits: more events than any life has, and no number that takes long to read.
        if boot != self.boot or not number.isascii() or not number.isdigit() or len(number) > 10:
            return None
        if not oldest <= int(number) <= self.newest:
            return None
        return tuple(islice(self.ring, int(number) - oldest, None))


class Events(LoopActor[Chronicle]):
    """See the module. The ring and who follows it are the estate, each changed by one assignment or deletion."""

    def __init__(self, boot: str) -> None:
        super().__init__()
        self._chronicle = Chronicle(boot)

    def on_start(self, estate: Chronicle | None = None) -> None:
        if estate is not None:
            self._chronicle = estate
        elif self.incarnation > 1:
            self._chronicle = Chronicle(f"{self._chronicle.boot}.{self.incarnation}")
        self.estate = self._chronicle

    @handles(Event)
    def _on_event(self, event: Event) -> None:
        chronicle = self._chronicle
        numbered = NumberedEvent(chronicle.boot, chronicle.newest + 1, event)
        chronicle.ring.append(numbered)
        for notify in chronicle.followers.values():
            self._tell(notify, numbered)
        log_event(event)

    @answers(RecentEvents)
    def _on_recent(self, request: RecentEvents) -> tuple[NumberedEvent, ...]:
        found = [one for one in self._chronicle.ring if request.server in (None, one.event.server)]
        return tuple(found[-request.limit :])

    @answers(Follow)
    def _on_follow(self, request: Follow) -> Followed:
        chronicle = self._chronicle
        missed = () if request.after is None else chronicle.after(request.after)
        chronicle.followers[request.consumer] = request.notify
        newest = f"{chronicle.boot}-{chronicle.newest}"
        return Followed(newest, missed or (), is_known=missed is not None)

    @answers(IsFollowing)
    def _on_is_following(self, request: IsFollowing) -> bool:
        return request.consumer in self._chronicle.followers

    @handles(Unfollow)
    def _on_unfollow(self, message: Unfollow) -> None:
        self._chronicle.followers.pop(message.consumer, None)

    def _tell(self, notify: Callable[[NumberedEvent], None], numbered: NumberedEvent) -> None:
        try:
            notify(numbered)
        except Exception as error:  # noqa: BLE001  (a foreign callback: its failure is its own)
            logger.opt(exception=error).warning("a follower could not be told of an event")
