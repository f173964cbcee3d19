from __future__ import annotations

import asyncio

from support.fake_servers import run

from mcpv_node.gateway.outbox import Mark, Outbox


def test_messages_come_in_order_and_then_the_end() -> None:
    async def main() -> None:
        outbox = Outbox()
        outbox.put(b"1")
        outbox.put(b"2")
        outbox.close()
        outbox.put(b"too late")

        assert [await outbox.next(5) for _ in range(3)] == [b"1", b"2", Mark.CLOSED]

    run(main)


def test_the_oldest_gives_way_when_nobody_reads() -> None:
    async def main() -> None:
        outbox = Outbox(2)
        for number in range(5):
            outbox.put(b"%d" % number)

        assert outbox.dropped == 3
        assert outbox.take_all() == [b"3", b"4"]

    run(main)


def test_the_same_notification_waits_once() -> None:
    async def main() -> None:
        outbox = Outbox()
        for message in (b"a", b"b", b"a"):
            outbox.put_once(message)

        assert outbox.take_all() == [b"a", b"b"]

    run(main)


def test_a_reader_is_woken_by_a_message_by_the_end_and_by_its_own_bound() -> None:
    async def main() -> None:
        outbox = Outbox()
        loop = asyncio.get_running_loop()
        loop.call_soon(outbox.put, b"x")
        assert await outbox.next(5) == b"x"
        assert await outbox.next(0.001) is Mark.IDLE
        loop.call_soon(outbox.close)
        assert await outbox.next(5) is Mark.CLOSED

    run(main)
