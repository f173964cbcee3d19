"""What the HTTP server writes, and when it goes out."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from mcpv_node.gateway.wire import _Held


class Recorder:
    """As much of a transport as is used; it remembers each write."""

    def __init__(self) -> None:
        self.writes: list[list[bytes]] = []
        self.closed = False

    def writelines(self, pieces: list[bytes]) -> None:
        self.writes.append([*pieces])

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True


def hold() -> tuple[Any, Recorder]:
    recorder = Recorder()
    return _Held(cast("asyncio.Transport", recorder), asyncio.get_running_loop()), recorder


def test_an_answer_goes_out_in_one_write_when_it_is_complete() -> None:
    async def main() -> None:
        held, recorder = hold()

        held.write(b"head")
        held.write(b"body")
        held.flush()
        await asyncio.sleep(0)

        assert recorder.writes == [[b"head", b"body"]]

    asyncio.run(main())


def test_what_is_not_complete_goes_out_when_the_turn_is_over() -> None:
    async def main() -> None:
        held, recorder = hold()

        held.write(b"event")
        assert recorder.writes == []
        await asyncio.sleep(0)

        assert recorder.writes == [[b"event"]]

    asyncio.run(main())


def test_a_close_sends_what_is_held_and_nothing_is_written_after_it() -> None:
    async def main() -> None:
        held, recorder = hold()

        held.write(b"last words")
        held.close()
        held.write(b"too late")
        await asyncio.sleep(0)

        assert (recorder.writes, recorder.closed) == ([[b"last words"]], True)

    asyncio.run(main())
