"""The Store keeps what it is told, whatever the disk says; the ring of events forgets only the oldest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.actors import Do, crash
from support.catalogs import key_of
from support.fakes import BEGINNING
from support.owners import BOUND, home, run, until

from mcpv_node.actors.events import (
    RING_EVENTS,
    Events,
    Follow,
    Followed,
    IsFollowing,
    NumberedEvent,
    RecentEvents,
    Unfollow,
)
from mcpv_node.actors.index_messages import ConsumerId
from mcpv_node.actors.kernel import answers
from mcpv_node.actors.store import LoadCatalog, SaveLists, SaveVersion, Store
from mcpv_node.settings import ServerName
from mcpv_node.store import CatalogRecord, KindVersion, ListedEntry
from mcpv_node.telemetry import Event, EventKind

RECORD = CatalogRecord(
    spec_key=key_of("fs"),
    profile="",
    server_name=ServerName("fs"),
    lists={"tools": (ListedEntry("x", b'{"name":"x"}'),)},
    learnt_at="2026-01-31T09:08:07.006Z",
    era="2025-11-25",
)


class CrashableEvents(Events):
    """One that does what it is told on top."""

    @answers(Do)
    def _on_do(self, request: Do) -> Any:
        return request.what(self)


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    async def main() -> None:
        async with home(tmp_path) as at_home:
            store = await at_home.fill("store", lambda: Store(tmp_path))
            store.tell(SaveLists(RECORD))
            store.tell(SaveVersion("tools", KindVersion(7, "etag")))

            kept = await store.ask(LoadCatalog(), BOUND)

            assert kept.records == (RECORD,)
            assert kept.versions == {"tools": KindVersion(7, "etag")}

    run(main())


def test_a_disk_that_refuses_does_not_end_the_store(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "catalog").write_text("a file where the folder should be")
        async with home(tmp_path) as at_home:
            store = await at_home.fill("store", lambda: Store(tmp_path))
            store.tell(SaveLists(RECORD))
            store.tell(SaveVersion("tools", KindVersion(7, "etag")))

            assert (await store.ask(LoadCatalog(), BOUND)).records == ()
            assert store.cell.crashes == 0

    run(main())


def event(number: int, server: str = "fs") -> Event:
    return Event(kind=EventKind.SERVER_STATE, at=BEGINNING, server=server, reason=str(number))


def test_the_ring_keeps_the_newest_under_ids_that_count_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with home(tmp_path) as at_home:
            ring = await at_home.fill("ring", lambda: Events("boot"))
            for number in range(RING_EVENTS + 5):
                ring.tell(event(number))

            found = await ring.ask(RecentEvents(limit=RING_EVENTS * 2), BOUND)

            assert (len(found), found[0].id, found[-1].id) == (
                RING_EVENTS,
                "boot-6",
                f"boot-{RING_EVENTS + 5}",
            )

    run(main())


def test_events_can_be_asked_for_by_server(tmp_path: Path) -> None:
    async def main() -> None:
        async with home(tmp_path) as at_home:
            ring = await at_home.fill("ring", lambda: Events("boot"))
            for number in range(6):
                ring.tell(event(number, "fs" if number % 2 else "other"))

            found = await ring.ask(RecentEvents(limit=2, server="fs"), BOUND)

            assert [one.event.reason for one in found] == ["3", "5"]

    run(main())


def test_a_crash_forgets_no_event(tmp_path: Path) -> None:
    async def main() -> None:
        async with home(tmp_path) as at_home:
            ring = await at_home.fill("ring", lambda: CrashableEvents("boot"), restarts=1)
            ring.tell(event(1))
            ring.tell(Do(crash))
            ring.tell(event(2))
            await until(lambda: ring.cell.incarnation == 2)

            assert [one.id for one in await ring.ask(RecentEvents(), BOUND)] == ["boot-1", "boot-2"]

    run(main())


def test_a_follower_hears_what_comes_and_is_told_what_it_missed_in_one_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with home(tmp_path) as at_home:
            ring = await at_home.fill("ring", lambda: Events("boot"))
            heard: list[NumberedEvent] = []
            ring.tell(event(1))
            ring.tell(event(2))

            followed = await ring.ask(Follow(ConsumerId(1), heard.append, after="boot-1"), BOUND)
            ring.tell(event(3))
            assert await ring.ask(IsFollowing(ConsumerId(1)), BOUND)
            ring.tell(Unfollow(ConsumerId(1)))
            ring.tell(event(4))

            assert not await ring.ask(IsFollowing(ConsumerId(1)), BOUND)
            assert followed == Followed("boot-2", (NumberedEvent("boot", 2, event(2)),))
            assert [one.id for one in heard] == ["boot-3"]

    run(main())


def test_a_follower_that_fails_disturbs_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        async with home(tmp_path) as at_home:
            ring = await at_home.fill("ring", lambda: Events("boot"))
            heard: list[NumberedEvent] = []
            await ring.ask(Follow(ConsumerId(1), crash), BOUND)
            await ring.ask(Follow(ConsumerId(2), heard.append), BOUND)

            ring.tell(event(1))

            assert len(await ring.ask(RecentEvents(), BOUND)) == len(heard) == 1
            assert ring.cell.crashes == 0

    run(main())
