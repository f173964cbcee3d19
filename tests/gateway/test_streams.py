"""The streams of one session: whose events an id leads to, and what is kept of them."""

from __future__ import annotations

import pytest
from support.fake_servers import run

from mcpv_node.gateway.outbox import STREAM_BYTES, Entry, Outbox, Reader
from mcpv_node.gateway.streams import KEPT_SECONDS, KEPT_STREAMS, SESSION_BYTES, Streams


async def read_all(reader: Reader | None) -> list[bytes]:
    """Everything that can be read without waiting for more."""
    assert reader is not None
    found: list[bytes] = []
    while isinstance(item := await reader.next(0.001), Entry):
        found.append(item.message)
    reader.close()
    return found


def answered(streams: Streams, answer: bytes, now: float = 0.0) -> Outbox:
    """A stream that has ended with an answer nobody has read."""
    outbox = streams.open()
    streams.finish(outbox, answer, now)
    return outbox


def test_an_id_leads_to_what_follows_in_its_own_stream() -> None:
    async def main() -> None:
        streams = Streams()
        one, two = streams.open(), streams.open()
        for outbox, letter in ((one, b"a"), (two, b"b"), (streams.standing, b"c")):
            for number in (b"1", b"2", b"3"):
                assert streams.put(outbox, letter + number, may_be_dropped=True)

        for outbox, letter in ((one, b"a"), (two, b"b"), (streams.standing, b"c")):
            assert await read_all(streams.connect(f"{outbox.name}-1")) == [letter + b"2", letter + b"3"]
            assert await read_all(streams.connect(f"{outbox.name}-3")) == []

    run(main)


@pytest.mark.parametrize(
    "event_id", [None, "", "-", "1", "x-1", "other.1-1", "{}-4", "{}-x", "{}-²", "{}--1"]
)
def test_an_id_that_was_never_given_reads_the_standing_stream(event_id: str | None) -> None:
    streams = Streams()
    outbox = answered(streams, b"answer")

    reader = streams.connect(None if event_id is None else event_id.format(outbox.name))

    assert reader is not None
    assert reader.outbox is streams.standing


def test_another_sessions_id_leads_nowhere() -> None:
    async def main() -> None:
        mine, other = Streams(), Streams()
        outbox = answered(other, b"secret")
        mine.open()

        reader = mine.connect(f"{outbox.name}-0")

        assert reader is not None
        assert reader.outbox is mine.standing
        assert await read_all(reader) == []

    run(main)


def test_an_ended_stream_is_kept_for_a_while_and_then_known_to_be_gone() -> None:
    async def main() -> None:
        streams = Streams()
        outbox = answered(streams, b"answer", 100.0)
        streams.expire(100.0 + KEPT_SECONDS - 1)
        assert await read_all(streams.connect(f"{outbox.name}-0")) == [b"answer"]
        streams.expire(100.0 + KEPT_SECONDS)

        assert streams.connect(f"{outbox.name}-0") is None
        assert streams.kept_bytes == 0

    run(main)


def test_a_stream_that_is_being_read_does_not_expire() -> None:
    async def main() -> None:
        streams = Streams()
        outbox = answered(streams, b"answer")
        reader = streams.connect(f"{outbox.name}-0")
        streams.expire(KEPT_SECONDS * 10)

        assert await read_all(reader) == [b"answer"]

    run(main)


def test_a_stream_without_an_answer_is_not_kept() -> None:
    streams = Streams()
    outbox = streams.open()
    streams.finish(outbox, None, 0.0)

    assert streams.connect(f"{outbox.name}-0") is None


def test_so_many_ended_streams_are_kept_and_the_oldest_goes() -> None:
    streams = Streams()
    outboxes = [answered(streams, b"answer") for _ in range(KEPT_STREAMS + 1)]

    kept = [streams.connect(f"{outbox.name}-0") is not None for outbox in outboxes]

    assert kept == [False, *[True] * KEPT_STREAMS]


def test_all_streams_of_a_session_together_are_bounded() -> None:
    streams = Streams()
    part = bytes(STREAM_BYTES // 2)
    for _ in range(20):
        outbox = streams.open()
        streams.put(outbox, part, may_be_dropped=True)
        streams.put(outbox, part, may_be_dropped=False)
        assert streams.kept_bytes <= SESSION_BYTES

    assert not streams.put(outbox, part, may_be_dropped=False)
    streams.finish(outbox, part, 0.0)
    assert streams.kept_bytes <= SESSION_BYTES + len(part)


def test_an_answer_nobody_came_for_is_the_last_to_go() -> None:
    async def main() -> None:
        streams = Streams()
        large = bytes(STREAM_BYTES)
        awaited = answered(streams, large)
        had = answered(streams, large)
        await read_all(streams.connect(f"{had.name}-0"))
        for _ in range(3):
            streams.put(streams.open(), large, may_be_dropped=True)
        assert streams.connect(f"{had.name}-0") is None
        assert len(await read_all(streams.connect(f"{awaited.name}-0"))) == 1

    run(main)


def test_the_end_of_the_session_ends_the_standing_stream_and_keeps_nothing() -> None:
    streams = Streams()
    answered(streams, b"answer")
    streams.close()

    assert streams.standing.is_finished
    assert streams.kept_bytes == 0
