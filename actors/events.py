"""The ring of what happened: every transition gets an id, a log line and a place among the last 4,096."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TypeAlias

from mcpv_node.telemetry import Event
from mcpv_node.telemetry.logs import log_event

from .kernel import LoopActor, Request, answers, handles

# Hours of a quiet node, a minute of a crash storm; at about 300 bytes each it is a megabyte.
RING_EVENTS = 4096


@dataclass(frozen=True, slots=True)
class NumberedEvent:
    """An event with its id `<boot>-<n>`, n counting up by one."""

    id: str
    event: Event


@dataclass(frozen=True, slots=True)
class RecentEvents(Request[tuple[NumberedEvent, ...]]):
    """The newest events, oldest first; of one server if it is named."""

    limit: int = 100
    server: str | None = None


EventsMessage: TypeAlias = Event | RecentEvents


class Events(LoopActor[tuple[int, deque[NumberedEvent]]]):
    """See the module. The ring is the estate: a restart forgets nothing."""

    def __init__(self, boot: str) -> None:
        super().__init__()
        self._boot_id = boot
        self._ring: deque[NumberedEvent] = deque(maxlen=RING_EVENTS)
        self._count = 0

    def on_start(self, estate: tuple[int, deque[NumberedEvent]] | None = None) -> None:
        if estate is not None:
            self._count, self._ring = estate

    @handles(Event)
    def _on_event(self, event: Event) -> None:
        self._count += 1
        self._ring.append(NumberedEvent(f"{self._boot_id}-{self._count}", event))
        self.estate = (self._count, self._ring)
        log_event(event)

    @answers(RecentEvents)
    def _on_recent(self, request: RecentEvents) -> tuple[NumberedEvent, ...]:
        found = [one for one in self._ring if request.server in (None, one.event.server)]
        return tuple(found[-request.limit :])
