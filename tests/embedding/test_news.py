"""What is told to a subscriber that does not take it, without a node."""

from __future__ import annotations

import queue
from datetime import UTC, datetime
from typing import Any

import pykka
import pytest

from mcpv_node import NodeDown, ServerEvent, SnapshotChanged
from mcpv_node.embedding import news
from mcpv_node.embedding.news import Feed, Offered, follow, tell
from mcpv_node.telemetry import EventKind

AT = datetime(2026, 1, 31, tzinfo=UTC)


def event(number: int, missed: int = 0) -> ServerEvent:
    """Return the event with this number."""
    return ServerEvent(id=f"boot-{number}", at=AT, kind=EventKind.CALL_FAILED, missed=missed)


def changed(version: int) -> SnapshotChanged:
    """Return the news of this version."""
    return SnapshotChanged("tools", version, f"etag{version}")


class Reader:
    """A subscriber with an inbox like that of pykka's actors; it reads when the test does."""

    def __init__(self) -> None:
        self.actor_urn = "urn:reader"
        self.actor_inbox: queue.Queue[Any] = queue.Queue()

    def tell(self, message: Any) -> None:
        self.actor_inbox.put(message)

    def read(self) -> list[Any]:
        """Take everything that waits."""
        return [self.actor_inbox.get_nowait() for _ in range(self.actor_inbox.qsize())]


class Unbounded:
    """A subscriber whose inbox cannot be looked into."""

    actor_urn = "urn:unbounded"

    def __init__(self, error: Exception | None = None) -> None:
        self.heard: list[Any] = []
        self.error = error

    def tell(self, message: Any) -> None:
        if self.error is not None:
            raise self.error
        self.heard.append(message)


@pytest.fixture
def reader(monkeypatch: pytest.MonkeyPatch) -> Reader:
    """Return a reader with whom two pieces may wait."""
    monkeypatch.setattr(news, "BACKLOG", 2)
    return Reader()


def test_who_keeps_up_is_told_everything_in_order(reader: Reader) -> None:
    feed = Feed(reader)
    read: list[Any] = []

    for number in range(5):
        assert feed.offer(event(number)) is Offered.TOLD
        read += reader.read()

    assert read == [event(number) for number in range(5)]


def test_who_does_not_keep_up_is_told_the_newest_event_and_how_many_it_missed(reader: Reader) -> None:
    feed = Feed(reader)

    told = [feed.offer(event(number)) for number in range(6)]
    before = reader.read()
    after = feed.release()

    assert told == [Offered.TOLD] * 2 + [Offered.HELD] * 4
    assert before == [event(0), event(1)]
    assert (after, reader.read()) == (Offered.TOLD, [event(5, missed=3)])


def test_what_was_kept_is_told_before_what_comes_next(reader: Reader) -> None:
    feed = Feed(reader)
    for number in range(4):
        feed.offer(event(number))
    reader.read()

    assert feed.offer(event(4)) is Offered.TOLD

    assert reader.read() == [event(3, missed=1), event(4)]


def test_a_list_that_changed_often_is_told_as_it_is_now(reader: Reader) -> None:
    feed = Feed(reader)
    for version in range(6):
        feed.offer(changed(version))
    reader.read()

    feed.release()

    assert reader.read() == [changed(5)]


def test_nothing_is_told_twice(reader: Reader) -> None:
    feed = Feed(reader)
    feed.offer(event(1))

    assert feed.release() is Offered.TOLD

    assert reader.read() == [event(1)]


def test_an_inbox_that_cannot_be_looked_into_is_told_everything() -> None:
    unbounded = Unbounded()
    feed = Feed(unbounded)

    for number in range(news.BACKLOG + 5):
        feed.offer(event(number))

    assert len(unbounded.heard) == news.BACKLOG + 5


@pytest.mark.parametrize("error", [pykka.ActorDeadError("gone"), ZeroDivisionError()])
def test_a_subscriber_that_cannot_be_told_is_gone(error: Exception) -> None:
    feed = Feed(Unbounded(error))

    assert feed.offer(event(1)) is Offered.GONE
    assert tell(Unbounded(error), NodeDown("over")) is False


@pytest.mark.parametrize(
    ("kept", "newer", "expected"),
    [
        (None, event(1), event(1)),
        (event(1), event(2), event(2, missed=1)),
        (event(1, missed=3), event(2), event(2, missed=4)),
        (event(1, missed=3), event(2, missed=2), event(2, missed=6)),
        (changed(1), changed(2), changed(2)),
    ],
)
def test_the_newer_takes_the_place_of_the_older(kept: Any, newer: Any, expected: Any) -> None:
    assert follow(kept, newer) == expected
