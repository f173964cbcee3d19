"""One stream's log: what its reader has, what gives way, what stays."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st
from support.fake_servers import run

from mcpv_node.gateway.outbox import STREAM_BYTES, STREAM_MESSAGES, Entry, Mark, Outbox, Reader, Room


async def read_all(reader: Reader) -> list[bytes]:
    """Everything that can be read without waiting for more."""
    found: list[bytes] = []
    while isinstance(item := await reader.next(0.001), Entry):
        found.append(item.message)
    return found


def put_notes(outbox: Outbox, *notes: bytes) -> None:
    for note in notes:
        assert outbox.put(note, may_be_dropped=True)


def test_messages_come_in_order_and_then_the_end() -> None:
    async def main() -> None:
        outbox = Outbox("s")
        reader = outbox.connect()
        put_notes(outbox, b"1", b"2")
        outbox.finish(b"answer")

        assert not outbox.put(b"too late", may_be_dropped=False)
        assert await read_all(reader) == [b"1", b"2", b"answer"]
        assert await reader.next(5) is Mark.CLOSED

    run(main)


def test_the_oldest_notification_gives_way_when_nobody_reads() -> None:
    async def main() -> None:
        outbox = Outbox("s")
        put_notes(outbox, *(b"%d" % number for number in range(STREAM_MESSAGES + 2)))

        assert outbox.dropped == 2
        assert (await read_all(outbox.connect()))[0] == b"2"

    run(main)


def test_bytes_are_bounded_and_one_larger_message_stands_alone() -> None:
    async def main() -> None:
        room = Room()
        outbox = Outbox("s", room)
        third = bytes(STREAM_BYTES // 3)
        put_notes(outbox, third, third, third, third)
        assert room.used <= STREAM_BYTES
        large = bytes(STREAM_BYTES * 2)
        put_notes(outbox, large)

        assert room.used == len(large)
        assert await read_all(outbox.connect()) == [large]

    run(main)


def test_what_is_owed_stays_when_notifications_give_way_and_is_refused_when_it_is_too_much() -> None:
    async def main() -> None:
        outbox = Outbox("s")
        assert outbox.put(b"question", may_be_dropped=False)
        put_notes(outbox, *([b"note"] * STREAM_MESSAGES * 2))
        accepted = sum(outbox.put(b"more", may_be_dropped=False) for _ in range(STREAM_MESSAGES))
        assert not outbox.put(b"note", may_be_dropped=True)
        outbox.finish(b"answer")

        owed = [b"question", *[b"more"] * (STREAM_MESSAGES - 1)]
        assert accepted == STREAM_MESSAGES - 1
        assert await read_all(outbox.connect()) == [*owed, b"answer"]

    run(main)


def test_what_was_owed_and_has_been_written_makes_room() -> None:
    async def main() -> None:
        outbox = Outbox("s")
        reader = outbox.connect()
        for _ in range(STREAM_MESSAGES):
            assert outbox.put(b"question", may_be_dropped=False)
        assert len(await read_all(reader)) == STREAM_MESSAGES

        assert outbox.put(b"one more", may_be_dropped=False)
        assert await read_all(reader) == [b"one more"]

    run(main)


def test_a_message_waits_until_it_is_written() -> None:
    async def main() -> None:
        outbox = Outbox("s")
        put_notes(outbox, b"a", b"b")
        reader = outbox.connect()
        assert outbox.is_waiting(b"a")
        await reader.next(5)
        assert outbox.is_waiting(b"a")
        await reader.next(5)

        assert not outbox.is_waiting(b"a")
        assert outbox.is_waiting(b"b")

    run(main)


def test_the_newest_reader_wins_and_has_what_the_former_did_not_write() -> None:
    async def main() -> None:
        outbox = Outbox("s")
        former = outbox.connect()
        put_notes(outbox, b"1", b"2", b"3")
        await former.next(5)
        await former.next(5)  # by asking it says that the first is written
        newest = outbox.connect()

        assert await former.next(5) is Mark.CLOSED
        assert await read_all(newest) == [b"2", b"3"]

    run(main)


def test_a_reader_may_ask_again_for_what_was_written() -> None:
    async def main() -> None:
        outbox = Outbox("s")
        put_notes(outbox, b"1", b"2", b"3")
        await read_all(outbox.connect())

        assert await read_all(outbox.connect(1)) == [b"2", b"3"]
        assert await read_all(outbox.connect()) == []
        assert await read_all(outbox.connect(0)) == [b"1", b"2", b"3"]

    run(main)


def test_a_reader_that_closed_leaves_what_follows_to_the_next() -> None:
    async def main() -> None:
        outbox = Outbox("s")
        reader = outbox.connect()
        reader.close()
        put_notes(outbox, b"1")

        assert not outbox.has_reader
        assert await reader.next(5) is Mark.CLOSED
        assert await read_all(outbox.connect()) == [b"1"]

    run(main)


def test_shedding_keeps_what_is_owed() -> None:
    async def main() -> None:
        room = Room()
        outbox = Outbox("s", room)
        outbox.put(b"asked", may_be_dropped=False)
        await read_all(outbox.connect())
        outbox.put(b"note", may_be_dropped=True)
        outbox.put(b"owed", may_be_dropped=False)
        outbox.shed()

        assert room.used == 4
        assert await read_all(outbox.connect(0)) == [b"owed"]

    run(main)


def test_a_reader_is_woken_by_a_message_by_the_end_and_by_its_own_bound() -> None:
    async def main() -> None:
        outbox = Outbox("s")
        reader = outbox.connect()
        loop = asyncio.get_running_loop()
        loop.call_soon(lambda: put_notes(outbox, b"x"))
        assert isinstance(await reader.next(5), Entry)
        assert await reader.next(0.001) is Mark.IDLE
        loop.call_soon(outbox.finish)
        assert await reader.next(5) is Mark.CLOSED

    run(main)


STEPS = st.lists(
    st.tuples(st.just("note"), st.integers(0, STREAM_BYTES // 2))
    | st.tuples(st.just("owed"), st.integers(0, STREAM_BYTES // 2))
    | st.tuples(st.just("notes"), st.integers(1, STREAM_MESSAGES))
    | st.tuples(st.just("read"), st.integers(1, 5))
    | st.tuples(st.just("reconnect"), st.just(0)),
    max_size=60,
)


@given(STEPS)
def test_what_was_taken_and_is_owed_is_read_once_and_in_order_within_the_bounds(
    steps: list[tuple[str, int]],
) -> None:
    async def main() -> None:
        room = Room()
        outbox = Outbox("s", room)
        reader = outbox.connect()
        taken: list[bytes] = []
        read: list[bytes] = []
        for number, (step, size) in enumerate(steps):
            owed = b"%d:" % number + bytes(size)
            if step == "owed" and outbox.put(owed, may_be_dropped=False):
                taken.append(owed)
            elif step == "note":
                outbox.put(bytes(size), may_be_dropped=True)
            elif step == "notes":
                for _ in range(size):
                    outbox.put(b"", may_be_dropped=True)
            elif step == "read":
                items = [await reader.next(0) for _ in range(size)]
                read += [item.message for item in items if isinstance(item, Entry)]
            elif step == "reconnect":
                reader = outbox.connect(reader.position)
            assert room.used <= STREAM_BYTES
        outbox.finish()
        read += await read_all(reader)

        assert [message for message in read if b":" in message] == taken

    run(main)
