"""`GET /api/v1/events`: who follows, who resumes, who does not keep up."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.fake_servers import FakeNode, fake_node, make_settings, run, until
from support.raw_http import RawConnection

from mcpv_node.actors.events import RING_EVENTS, Chronicle, Events, EventsMessage
from mcpv_node.actors.kernel import Handle
from mcpv_node.gateway import HttpDoor, Sessions
from mcpv_node.gateway.event_streams import BACKLOG
from mcpv_node.protocol import SseDecoder, SseEvent
from mcpv_node.settings import ListenSettings
from mcpv_node.telemetry import EventKind

PATH = "/api/v1/events"


class Reader:
    """One client of the stream."""

    def __init__(self, connection: RawConnection) -> None:
        self.connection = connection
        self.status = 0
        self.headers: dict[str, str] = {}
        self._decoder = SseDecoder(max_bytes=1 << 20)
        self._events: list[SseEvent] = []

    async def begin(self, path: str, **headers: str) -> None:
        """Send the request and read to the first sign that the stream is there."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        await self.connection.send("GET", path, {"Accept": "text/event-stream", **given})
        await self.read_head()

    async def read_head(self) -> None:
        self.status, self.headers = await self.connection.read_head()
        assert self.status == 200
        assert (await self.connection.read_chunk()).startswith(b":")

    async def next(self) -> SseEvent | None:
        """The next event; None at the end of the stream."""
        while not self._events:
            chunk = await self.connection.read_chunk()
            if not chunk:
                return None
            self._events += self._decoder.feed(chunk)
        return self._events.pop(0)

    async def take(self, count: int) -> list[SseEvent]:
        found = [await self.next() for _ in range(count)]
        return [event for event in found if event is not None]

    async def ids(self, count: int) -> list[str]:
        return [event.id for event in await self.take(count)]


@dataclass
class Stage:
    """An open door and a ring of events."""

    node: FakeNode
    url: str
    door: Handle[Any]
    ring: Handle[EventsMessage]

    @property
    def followers(self) -> int:
        chronicle = self.ring.cell.estate
        return len(chronicle.followers) if isinstance(chronicle, Chronicle) else 0

    def tell(
        self,
        count: int = 1,
        *,
        server: str = "alpha",
        kind: EventKind = EventKind.SERVER_STATE,
        size: int = 1,
    ) -> None:
        """Have so many things happen."""
        for _ in range(count):
            self.node.services.node.tell_event(kind, server=server, to="ready", reason="x" * size)

    @asynccontextmanager
    async def reading(self, path: str = PATH, **headers: str) -> AsyncIterator[Reader]:
        before = self.followers
        reader = Reader(await RawConnection.open(self.url))
        try:
            await reader.begin(path, **headers)
            yield reader
        finally:
            await reader.connection.close()
        await until(lambda: self.followers == before)

    async def kill_ring(self) -> None:
        """End the ring's incarnation, and wait for the next."""
        before = self.ring.cell.incarnation
        self.ring.kill()
        await until(lambda: self.ring.cell.incarnation > before)


async def send_without_reading(url: str) -> socket.socket:
    """Ask for the stream on a socket from which nobody reads yet."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    sock = socket.socket()
    sock.setblocking(False)
    await loop.sock_connect(sock, (parts.hostname, parts.port))
    await loop.sock_sendall(
        sock, f"GET {PATH} HTTP/1.1\r\nHost: {parts.netloc}\r\nAccept: text/event-stream\r\n\r\n".encode()
    )
    return sock


@pytest.fixture(autouse=True)
def _no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of lines would be most of the time these tests take."""
    monkeypatch.setattr("mcpv_node.actors.events.log_event", lambda _event: None)


@asynccontextmanager
async def open_door(folder: Path) -> AsyncIterator[Stage]:
    settings = make_settings(listen=ListenSettings(http="127.0.0.1:0"))
    async with fake_node(folder, settings=settings) as node:
        ring: Handle[EventsMessage] = await node.start(Events("boot"), "ring")
        close = ring.cell.on_ended
        ring.cell.on_ended = lambda _incarnation, _reason: ring.cell.start(Events("boot"))
        node.services = replace(node.services, node=replace(node.services.node, events=ring))
        urls: list[str] = []
        sessions = await node.start(Sessions(node.services), "sessions")
        door = await node.start(
            HttpDoor(node.services, sessions, on_bound=lambda url, _: urls.append(url)), "http"
        )
        connection = await RawConnection.open(urls[0])
        while (await connection.ask("GET", "/api/v1/node")).status == 503:
            pass
        await connection.close()
        try:
            yield Stage(node, urls[0], door, ring)
        finally:
            ring.cell.on_ended = close


def test_what_happens_is_heard_as_it_happens(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            stage.tell()
            async with stage.reading() as reader:
                stage.tell(2)
                first, second = await reader.take(2)

        assert reader.headers["content-type"] == "text/event-stream"
        assert (first.event, first.id, second.id) == ("server_state", "boot-2", "boot-3")
        data = json.loads(first.data)
        assert list(data) == ["at", "kind", "server", "to", "reason"]
        assert (data["kind"], data["server"], data["to"]) == ("server_state", "alpha", "ready")

    run(main)


def test_who_comes_again_is_told_what_it_missed_once_and_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            stage.tell(5)
            async with stage.reading(Last_Event_ID="boot-2") as reader:
                stage.tell(3)
                ids = await reader.ids(6)
            async with stage.reading(Last_Event_ID=ids[-1]) as reader:
                stage.tell()
                following = await reader.ids(1)

        assert ids == ["boot-3", "boot-4", "boot-5", "boot-6", "boot-7", "boot-8"]
        assert following == ["boot-9"]

    run(main)


@pytest.mark.parametrize("id", ["other-3", "boot-9", "boot-1", "boot-", "boot-x", "boot--1", "nonsense", "3"])
def test_who_knows_what_is_not_known_here_is_told_so_first(tmp_path: Path, id: str) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            stage.tell(RING_EVENTS + 2 if id == "boot-1" else 5)
            async with stage.reading(Last_Event_ID=id) as reader:
                reset = await reader.next()
                stage.tell()
                following = await reader.next()
            assert reset is not None
            async with stage.reading(Last_Event_ID=reset.id) as reader:
                resumed = await reader.next()

        assert reset.event == "reset"
        assert json.loads(reset.data)["kind"] == "reset"
        assert following is not None
        assert following.event == "server_state"
        assert resumed == following

    run(main)


def test_a_whole_ring_can_be_caught_up_with(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            stage.tell(RING_EVENTS + 5)
            async with stage.reading(Last_Event_ID="boot-5") as reader:
                ids = await reader.ids(RING_EVENTS)

        assert ids == [f"boot-{number}" for number in range(6, RING_EVENTS + 6)]

    run(main)


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("?server=beta", ["boot-2", "boot-4", "boot-6", "boot-8"]),
        ("?kind=call_failed", ["boot-3", "boot-4", "boot-7", "boot-8"]),
        ("?kind=call_failed&server=alpha", ["boot-3", "boot-7"]),
        ("?kind=call_failed&kind=server_state&server=alpha", ["boot-1", "boot-3", "boot-5", "boot-7"]),
    ],
)
def test_a_reader_may_want_a_part(tmp_path: Path, query: str, ids: list[str]) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:

            def happen() -> None:
                for kind in (EventKind.SERVER_STATE, EventKind.CALL_FAILED):
                    for server in ("alpha", "beta"):
                        stage.tell(server=server, kind=kind)

            happen()
            async with stage.reading(PATH + query, Last_Event_ID="boot-0") as reader:
                happen()
                found = await reader.ids(len(ids))
        assert found == ids

    run(main)


@pytest.mark.parametrize(
    ("query", "headers", "status", "named"),
    [
        ("?kind=earthquake", {}, 400, "kind"),
        ("", {"Accept": "application/json"}, 406, "text/event-stream"),
    ],
)
def test_what_cannot_be_followed_is_a_problem(
    tmp_path: Path, query: str, headers: dict[str, str], status: int, named: str
) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            connection = await RawConnection.open(stage.url)
            answer = await connection.ask("GET", PATH + query, headers)
            await connection.close()
            assert stage.followers == 0

        assert answer.status == status
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert named in answer.json()["detail"]

    run(main)


def test_a_reader_that_does_not_keep_up_holds_nobody_up_is_told_so_and_goes_on_from_now(
    tmp_path: Path,
) -> None:
    # The sockets between us hold a few megabytes, the backlog its number of events; this is more than both.
    piece, pieces, size = 64, 2 * BACKLOG // 64, 16_000

    async def main() -> None:
        async with open_door(tmp_path) as stage, stage.reading() as quick:
            sock = await send_without_reading(stage.url)
            await until(lambda: stage.followers == 2)
            for number in range(pieces):
                stage.tell(piece, size=size)
                ids = await quick.ids(piece)
                assert ids[-1] == f"boot-{piece * (number + 1)}"
            newest = ids[-1]

            reader, writer = await asyncio.open_connection(sock=sock, limit=1 << 26)
            slow = Reader(RawConnection(reader, writer, ""))
            await slow.read_head()
            read: list[SseEvent] = []
            while not read or read[-1].event != "reset":
                read += await slow.take(1)
            stage.tell()
            following = await slow.ids(1)
            await slow.connection.close()
            await until(lambda: stage.followers == 1)

        *before, reset = read
        assert [event.id for event in before] == [f"boot-{number + 1}" for number in range(len(before))]
        assert len(before) < piece * pieces
        assert (reset.id, following) == (newest, [f"boot-{piece * pieces + 1}"])

    run(main)


def test_a_restart_of_the_ring_loses_no_reader_and_no_event(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage, stage.reading() as reader:
            stage.tell(2)
            await stage.kill_ring()
            stage.tell(2)
            ids = await reader.ids(4)

        assert ids == ["boot-1", "boot-2", "boot-3", "boot-4"]

    run(main)


def test_a_ring_that_has_lost_everything_begins_under_another_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcpv_node.gateway.event_streams.KEEPALIVE", 0.01)

    async def main() -> None:
        async with open_door(tmp_path) as stage:
            stage.tell(3)
            async with stage.reading() as reader:
                await stage.kill_ring()
                await stage.kill_ring()
                stage.tell(1)
                ended = await reader.next()
            async with stage.reading(Last_Event_ID="boot-3") as reader:
                reset = await reader.next()

        assert ended is None
        assert reset is not None
        assert (reset.event, reset.id) == ("reset", "boot.3-1")

    run(main)


def test_a_quiet_stream_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcpv_node.gateway.event_streams.KEEPALIVE", 0.01)

    async def main() -> None:
        async with open_door(tmp_path) as stage, stage.reading() as reader:
            assert [await reader.connection.read_chunk() for _ in range(3)] == [b": keepalive\n\n"] * 3

    run(main)


def test_the_streams_end_when_the_door_closes(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            reader = Reader(await RawConnection.open(stage.url))
            await reader.begin(PATH)
            await stage.node.stop(stage.door)
            ended = await reader.next()
            await reader.connection.close()
            await until(lambda: stage.followers == 0)

        assert ended is None

    run(main)


def test_a_door_that_is_killed_leaves_no_follower(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            reader = Reader(await RawConnection.open(stage.url))
            await reader.begin(PATH)
            stage.door.kill()
            await until(lambda: stage.followers == 0)
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await reader.next()
            await reader.connection.close()

    run(main)
