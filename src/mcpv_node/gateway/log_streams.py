"""The node's log as streams: what is kept of it first, then each line as it is written.

A reader that does not keep up loses the oldest of what waits for it, is told so, and holds nobody up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from mcpv_node.protocol import comment, encode_event
from mcpv_node.telemetry import rfc3339
from mcpv_node.telemetry.log_ring import LogLine

from .asgi import AsgiExchange
from .call_answer import KEEPALIVE
from .outbox import Mark, Outbox
from .services import DoorServices

# More lines than are written while a reader on the same machine takes one turn.
BACKLOG = 1024

# What is kept is written in pieces, so that it costs the others no turn of a noticeable length.
PIECE = 256

_KEEPALIVE_COMMENT: Final = comment("keepalive")

Shows = Callable[[LogLine], bool]


class LogStreams:
    """The streams of one door, which end when it closes."""

    def __init__(self, services: DoorServices) -> None:
        self._services = services
        self._streams: set[Outbox] = set()
        self._closed = False

    def close(self) -> None:
        """End every stream; no other begins."""
        self._closed = True
        for stream in list(self._streams):
            stream.finish()

    async def serve(self, exchange: AsgiExchange, *, after: str | None, shows: Shows, follow: bool) -> None:
        """Answer a request with the lines that `shows` admits; without `follow`, with those that are kept alone."""
        ring, outbox = self._services.log, Outbox("log", messages=BACKLOG)
        if self._closed or not follow:
            outbox.finish()
        self._streams.add(outbox)

        def hear(line: LogLine) -> None:
            if shows(line):
                outbox.put(self._encode(line), may_be_dropped=True)

        kept, is_known = self._kept(after)
        if not outbox.is_finished:
            ring.follow(hear)
        gone = asyncio.get_running_loop().create_task(exchange.disconnected())
        gone.add_done_callback(lambda _: outbox.finish())
        try:
            await exchange.start_events()
            # The client's headers are complete once something follows them.
            await exchange.send_event(_KEEPALIVE_COMMENT)
            if not is_known:
                await exchange.send_event(self._reset("the last event id is not known here"))
            for start in range(0, len(kept), PIECE):
                piece = [self._encode(line) for line in kept[start : start + PIECE] if shows(line)]
                if piece:
                    await exchange.send_event(b"".join(piece))
                await asyncio.sleep(0)
            reader = outbox.connect()
            while (item := await reader.next(KEEPALIVE)) is not Mark.CLOSED:
                if outbox.dropped and outbox.skip():
                    await exchange.send_event(self._reset("the reader did not keep up"))
                else:
                    await exchange.send_event(_KEEPALIVE_COMMENT if isinstance(item, Mark) else item.message)
            await exchange.end_events()
        finally:
            gone.cancel()
            self._streams.discard(outbox)
            ring.unfollow(hear)

    def _kept(self, after: str | None) -> tuple[tuple[LogLine, ...], bool]:
        if after is None:
            return self._services.log.all(), True
        boot, _, number = after.rpartition("-")
        # Ten digits: more lines than any life has, and no number that takes long to read.
        if (
            boot != self._services.node.boot
            or not number.isascii()
            or not number.isdigit()
            or len(number) > 10
        ):
            return (), False
        missed = self._services.log.after(int(number))
        return missed or (), missed is not None

    def _encode(self, line: LogLine) -> bytes:
        return encode_event(line.data, event="log", id=f"{self._services.node.boot}-{line.number}")

    def _reset(self, reason: str) -> bytes:
        node = self._services.node
        data = msgspec.json.encode({"at": rfc3339(node.clock.wall()), "kind": "reset", "reason": reason})
        return encode_event(data, event="reset", id=f"{node.boot}-{self._services.log.newest}")
