"""Subscribers: who is told of a change, and who is not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from support.actors import Do, crash
from support.catalogs import learnt, merged, servers_of, tool, view
from support.owners import Home, home, run, turns, until

from mcpv_node.actors.index_messages import ConsumerId, Join, Leave, SnapshotChanged
from mcpv_node.actors.kernel import Handle, answers
from mcpv_node.actors.snapshot import KINDS
from mcpv_node.actors.subscribers import Roster, Subscribers
from mcpv_node.actors.world import EVERYTHING, Selector
from mcpv_node.settings import ServerName

NAMES = ("alpha", "beta")
ALPHA = Selector(server=ServerName("alpha"))


class CrashableSubscribers(Subscribers):
    """One that does what it is told on top."""

    @answers(Do)
    def _on_do(self, request: Do) -> Any:
        return request.what(self)


class Audience:
    """Consumers that remember what they were told."""

    def __init__(self, at_home: Home) -> None:
        self.home = at_home
        self.place = at_home.context.subscribers
        self.told: dict[int, list[SnapshotChanged]] = {}

    def join(
        self,
        consumer: int,
        selector: Selector = EVERYTHING,
        notify: Callable[[SnapshotChanged], None] | None = None,
    ) -> None:
        heard = self.told.setdefault(consumer, [])
        self.place.tell(Join(ConsumerId(consumer), selector, notify or heard.append))

    def publish(self, **notes: str) -> None:
        """A new snapshot; each server's one tool says what it is given here."""
        cell = self.home.context.world
        lists = [learnt(name, tool("x", notes.get(name, ""))) for name in NAMES]
        cell.publish(merged(map(view, NAMES), *lists, previous=cell.world.tools))

    def announce(self) -> None:
        tools = self.home.context.world.world.tools
        self.place.tell(SnapshotChanged("tools", tools.version, tools.etag))

    async def change(self, **notes: str) -> None:
        await turns()  # who joins knows the world of the moment it is let in
        self.publish(**notes)
        self.announce()
        await turns()

    def counts(self) -> dict[int, int]:
        return {consumer: len(heard) for consumer, heard in self.told.items()}


@asynccontextmanager
async def audience(tmp_path: Path, *, restarts: int = 0) -> AsyncIterator[Audience]:
    async with home(tmp_path, played=("events", "index")) as at_home:
        roster = Roster()
        nobody: Handle[Any] = Handle.create(at_home.system, "nobody")
        at_home.context.world.publish_servers(servers_of(map(view, NAMES), nobody))
        people = Audience(at_home)
        people.publish()
        await at_home.fill(
            "subscribers",
            lambda: CrashableSubscribers(at_home.context, roster),
            handle=at_home.context.subscribers,
            restarts=restarts,
        )
        yield people


def test_a_consumer_is_told_of_a_change_of_its_own_view_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with audience(tmp_path) as people:
            people.join(1)
            people.join(2, ALPHA)

            await people.change(beta="new")
            assert people.counts() == {1: 1, 2: 0}
            await people.change(beta="new", alpha="new")
            assert people.counts() == {1: 2, 2: 1}

    run(main())


def test_it_is_told_the_etag_of_its_view_and_the_version_of_the_catalog(tmp_path: Path) -> None:
    async def main() -> None:
        async with audience(tmp_path) as people:
            people.join(2, ALPHA)
            await people.change(alpha="new")

            world = people.home.context.world.world
            assert people.told[2] == [
                SnapshotChanged("tools", world.tools.version, world.view("tools", ALPHA).etag)
            ]

    run(main())


def test_an_announcement_without_a_change_is_told_to_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        async with audience(tmp_path) as people:
            people.join(1)

            await people.change()

            assert people.counts() == {1: 0}

    run(main())


def test_of_many_changes_at_once_only_the_latest_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with audience(tmp_path) as people:
            people.join(1)
            await turns()
            for number in range(5):
                people.publish(alpha=str(number))
                people.announce()
            await turns()

            [news] = people.told[1]
            assert news.version == people.home.context.world.world.tools.version

    run(main())


def test_who_left_is_told_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with audience(tmp_path) as people:
            people.join(1)
            people.place.tell(Leave(ConsumerId(1)))
            people.place.tell(Leave(ConsumerId(9)))

            await people.change(alpha="new")

            assert people.counts() == {1: 0}
            assert people.home.sample("mcpv_subscribers", kind="tools") == 0.0

    run(main())


def test_who_joins_again_has_its_view_replaced(tmp_path: Path) -> None:
    async def main() -> None:
        async with audience(tmp_path) as people:
            people.join(1)
            people.join(1, ALPHA)

            await turns()
            told = people.counts()
            assert told == {1: 3}, "it is told of each list that it sees otherwise now"

            await people.change(beta="new")

            assert people.counts() == told
            assert people.home.sample("mcpv_subscribers", kind="tools") == 1.0

    run(main())


def test_one_that_fails_to_listen_hurts_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        async with audience(tmp_path) as people:
            people.join(1, notify=crash)
            people.join(2)

            await people.change(alpha="new")
            await people.change(alpha="newer")

            assert people.counts()[2] == 2
            assert people.place.cell.crashes == 0

    run(main())


def test_a_crash_loses_nobody_and_no_change(tmp_path: Path) -> None:
    async def main() -> None:
        async with audience(tmp_path, restarts=9) as people:
            people.join(1)
            await turns()

            def crash_instead_of_telling(_: object) -> None:
                people.publish(alpha="new")
                raise ValueError("boom")

            people.place.tell(Do(crash_instead_of_telling))
            await until(lambda: people.place.cell.incarnation == 2)
            await turns()
            assert people.counts() == {1: 1}

            await people.change(alpha="newer")
            assert people.counts() == {1: 2}

    run(main())


def test_a_second_crash_at_once_loses_nobody_either(tmp_path: Path) -> None:
    async def main() -> None:
        async with audience(tmp_path, restarts=9) as people:
            people.join(1)
            await turns()
            for incarnation in (2, 3):
                people.place.tell(Do(crash))
                await until(lambda at=incarnation: people.place.cell.incarnation == at)

            await people.change(alpha="new")

            assert people.counts() == {1: 1}
            assert people.home.sample("mcpv_subscribers", kind="prompts") == 1.0

    run(main())


def test_of_a_thousand_all_hear_the_latest_once_though_one_fails_to_listen(tmp_path: Path) -> None:
    async def main() -> None:
        async with audience(tmp_path) as people:
            people.join(0, notify=crash)
            for consumer in range(1, 1000):
                people.join(consumer)
            await turns()

            for number in range(5):
                people.publish(alpha=str(number))
                people.announce()
            await turns()

            latest = people.home.context.world.world.tools.version
            assert [[one.version for one in people.told[key]] for key in range(1, 1000)] == [[latest]] * 999
            assert people.place.cell.crashes == 0

    run(main())


def test_it_is_told_of_the_kind_that_has_changed_and_of_no_other(tmp_path: Path) -> None:
    async def main() -> None:
        async with audience(tmp_path) as people:
            people.join(1)
            await turns()
            cell = people.home.context.world
            prompts = [learnt(name, tool("x")) for name in NAMES]
            cell.publish(merged(map(view, NAMES), *prompts, kind="prompts", previous=cell.world.prompts))
            for kind in KINDS:
                snapshot = cell.world.snapshot(kind)
                people.place.tell(SnapshotChanged(kind, snapshot.version, snapshot.etag))
            await turns()

            assert [news.kind for news in people.told[1]] == ["prompts"]

    run(main())
