"""The Index: what it learns, keeps, publishes and tells, also across its own crashes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from loguru import logger
from support.actors import Do, crash
from support.catalogs import key_of, lists, lists_failed, servers_of, tool, view
from support.fakes import FakeClock
from support.owners import BOUND, Home, home, run, turns, until

from mcpv_node.actors.callers import ClientProfile
from mcpv_node.actors.index import Catalog, Index
from mcpv_node.actors.index_messages import (
    AwaitLists,
    DescribeLists,
    LearningFailed,
    ServersChanged,
    SnapshotChanged,
    Unlearnt,
)
from mcpv_node.actors.kept_lists import KEPT_FORMER
from mcpv_node.actors.kernel import Handle, answers
from mcpv_node.actors.snapshot import ServerView, Source
from mcpv_node.actors.store import LoadCatalog, Store
from mcpv_node.actors.world import EVERYTHING
from mcpv_node.protocol import Rejected

ALPHA, BETA = view("alpha"), view("beta")
SAMPLER = ClientProfile('{"sampling":{}}')


class CrashableIndex(Index):
    """One that does what it is told on top."""

    @answers(Do)
    def _on_do(self, request: Do) -> Any:
        return request.what(self)


class Library:
    """An index over a real store, and the world it publishes."""

    def __init__(self, at_home: Home, store: Handle[Any]) -> None:
        self.home = at_home
        self.store = store
        self.index = at_home.context.indexes["tools"]

    @property
    def world(self) -> Any:
        return self.home.context.world.world

    def names(self) -> list[str]:
        return [entry.name for entry in self.world.tools.entries]

    async def settle(self) -> None:
        """Everything that was told has been handled, and what followed from it is published."""
        await self.index.ask(Unlearnt(), BOUND)
        await turns()

    async def crash(self) -> None:
        crashes = self.index.cell.crashes
        self.index.tell(Do(crash))
        await until(lambda: self.index.cell.crashes > crashes and self.index.statistics().state == "running")
        await self.settle()


@asynccontextmanager
async def library(tmp_path: Path, *views: ServerView, restarts: int = 0) -> AsyncIterator[Library]:
    """The state dir is kept, so that a second one is the next life of the node."""
    async with home(tmp_path, played=("events", "subscribers")) as at_home:
        nobody: Handle[Any] = Handle.create(at_home.system, "nobody")
        at_home.context.world.publish_servers(servers_of(views or (ALPHA, BETA), nobody))
        store = await at_home.fill("store", lambda: Store(tmp_path))
        shelf = Library(at_home, store)
        await at_home.fill(
            "index",
            lambda: CrashableIndex(at_home.context, store, "tools"),
            handle=at_home.context.indexes["tools"],
            restarts=restarts,
        )
        await shelf.settle()
        yield shelf


def test_what_a_server_lists_is_published_under_its_names(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path) as shelf:
            shelf.index.tell(lists("alpha", tool("x")))
            await shelf.settle()

            assert shelf.names() == ["alpha_x"]
            assert shelf.world.tools.entries[0].source is Source.LIVE
            assert not shelf.world.tools.complete

    run(main())


def test_lists_are_there_at_the_next_start_before_anything_runs(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path) as shelf:
            shelf.index.tell(lists("alpha", tool("x", "y  z")))
            await shelf.settle()
            before = shelf.world.tools
        async with library(tmp_path) as shelf:
            after = shelf.world.tools

            assert (after.etag, after.version) == (before.etag, before.version)
            assert after.entries[0].definition == before.entries[0].definition
            assert after.entries[0].source is Source.CACHE
            assert await shelf.index.ask(Unlearnt(), BOUND) == (key_of("beta"),)

    run(main())


def test_versions_go_on_counting_at_the_next_start(tmp_path: Path) -> None:
    async def main() -> None:
        versions = []
        for note in ("one", "two", "three"):
            async with library(tmp_path) as shelf:
                shelf.index.tell(lists("alpha", tool("x", note)))
                await shelf.settle()
                versions.append(shelf.world.tools.version)

        assert versions == sorted(set(versions))

    run(main())


def test_a_list_that_cannot_be_read_leaves_the_last_good_one_marked_stale(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path) as shelf:
            shelf.index.tell(lists("alpha", tool("x")))
            await shelf.settle()
            etag = shelf.world.tools.etag

            shelf.index.tell(lists_failed("alpha"))
            await shelf.settle()
            assert (shelf.names(), shelf.world.tools.entries[0].stale) == (["alpha_x"], True)
            assert shelf.world.tools.etag == etag

            shelf.index.tell(lists("alpha", tool("x")))
            await shelf.settle()
            assert not shelf.world.tools.entries[0].stale

    run(main())


def test_a_reading_that_an_order_cut_short_is_no_warning(tmp_path: Path) -> None:
    said: list[str] = []
    sink = logger.add(lambda message: said.append(message.record["message"]), level="WARNING")

    async def main() -> None:
        async with library(tmp_path) as shelf:
            shelf.index.tell(replace(lists_failed("alpha"), asked=True))
            shelf.index.tell(lists_failed("beta"))
            await shelf.settle()

    try:
        run(main())
    finally:
        logger.remove(sink)

    assert said == ["its tools could not be read: no luck"]


def test_a_list_that_is_the_same_once_more_publishes_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path) as shelf:
            shelf.index.tell(lists("alpha", tool("x")))
            await shelf.settle()
            published = shelf.world

            shelf.index.tell(lists("alpha", tool("x")))
            await shelf.settle()
            assert shelf.world is published

    run(main())


def test_a_failure_of_one_server_is_nothing_to_the_lists_of_another(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path) as shelf:
            shelf.index.tell(lists("beta", tool("y")))
            shelf.index.tell(lists_failed("alpha"))
            await shelf.settle()

            assert [(entry.name, entry.stale) for entry in shelf.world.tools.entries] == [("beta_y", False)]

    run(main())


def test_an_empty_list_of_a_server_that_has_tools_does_not_replace_a_good_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path) as shelf:
            shelf.index.tell(lists("alpha", tool("x")))
            shelf.index.tell(lists("alpha"))
            await shelf.settle()
            assert [(entry.name, entry.stale) for entry in shelf.world.tools.entries] == [("alpha_x", True)]
            report = await shelf.index.ask(DescribeLists(key_of("alpha")), BOUND)
            assert report.failure is not None
            assert "listed no tools" in report.failure
        async with library(tmp_path) as shelf:
            assert shelf.names() == ["alpha_x"]

    run(main())


def test_an_empty_list_that_the_server_has_announced_replaces_a_good_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path) as shelf:
            shelf.index.tell(lists("alpha", tool("x")))
            shelf.index.tell(replace(lists("alpha"), again=True))
            await shelf.settle()
            assert shelf.names() == []
        async with library(tmp_path) as shelf:
            assert shelf.names() == []

    run(main())


def test_an_empty_list_is_not_kept_for_the_next_start_unless_the_server_has_no_tools(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path) as shelf:
            shelf.index.tell(lists("alpha"))
            shelf.index.tell(lists("beta", has_tools=False))
            await shelf.settle()
            assert await shelf.index.ask(Unlearnt(), BOUND) == ()
        async with library(tmp_path) as shelf:
            assert await shelf.index.ask(Unlearnt(), BOUND) == (key_of("alpha"),)

    run(main())


def test_a_storm_of_lists_is_one_rebuild(tmp_path: Path) -> None:
    async def main() -> None:
        views = [view(f"s{number:03}") for number in range(100)]
        async with library(tmp_path, *views) as shelf:
            told = len(shelf.home.subscribers.of(SnapshotChanged))

            for one in views:
                shelf.index.tell(lists(one.name, tool("x")))
            await until(lambda: len(shelf.world.tools.entries) == 100)

            assert len(shelf.home.subscribers.of(SnapshotChanged)) - told <= 3, (
                "a batch of the mailbox at a time"
            )

    run(main())


def test_who_awaits_lists_is_answered_after_they_were_published(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path) as shelf:

            async def wait() -> tuple[str | None, list[str]]:
                news = await shelf.index.ask(AwaitLists(key_of("alpha")), BOUND)
                return news.failure, shelf.names()

            waiting = [asyncio.get_running_loop().create_task(wait()) for _ in range(2)]
            await turns()
            shelf.index.tell(lists("alpha", tool("x")))

            assert await asyncio.gather(*waiting) == [(None, ["alpha_x"])] * 2

    run(main())


def test_who_awaits_lists_hears_of_a_failure(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path) as shelf:
            waiting = asyncio.get_running_loop().create_task(
                shelf.index.ask(AwaitLists(key_of("alpha")), BOUND)
            )
            await turns()
            shelf.index.tell(lists_failed("beta"))
            await turns()
            assert not waiting.done()

            shelf.index.tell(lists_failed("alpha"))

            assert (await waiting).failure == "no luck"

    run(main())


def test_who_awaits_lists_that_are_known_does_not_wait(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path) as shelf:
            shelf.index.tell(lists("alpha", tool("x")))

            assert (await shelf.index.ask(AwaitLists(key_of("alpha")), BOUND)).failure is None

    run(main())


def test_lists_of_a_server_that_was_removed_meanwhile_do_no_harm(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path) as shelf:
            shelf.index.tell(lists("stranger", tool("x")))
            await shelf.settle()

            assert shelf.index.cell.crashes == 0
            assert shelf.names() == []

    run(main())


def test_other_servers_in_the_world_are_another_snapshot(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path) as shelf:
            for name in ("alpha", "beta"):
                shelf.index.tell(lists(name, tool("x")))
            await shelf.settle()
            version = shelf.world.tools.version

            shelf.home.context.world.publish_servers({ALPHA.name: shelf.world.servers[ALPHA.name]})
            shelf.index.tell(ServersChanged())
            await shelf.settle()

            assert (shelf.names(), shelf.world.tools.version) == (["alpha_x"], version + 1)

    run(main())


def test_changes_conflicts_and_refused_entries_are_events(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path, view("a"), view("a_b")) as shelf:
            shelf.index.tell(lists("a", tool("b_c"), rejected=(Rejected(1, "bad", "it has no inputSchema"),)))
            shelf.index.tell(lists("a_b", tool("c")))
            await shelf.settle()

            assert shelf.home.event_texts("entry_rejected") == [(None, None, "bad: it has no inputSchema")]
            [(_, _, conflict)] = shelf.home.event_texts("name_conflict")
            assert conflict is not None
            assert conflict.startswith("c: a_b_c is taken, listed as a_b_c_")
            _, to, reason = shelf.home.event_texts("catalog_changed")[-1]
            assert (to, reason) == (str(shelf.world.tools.version), "2 tools")
            assert shelf.home.sample("mcpv_catalog_version", kind="tools") == shelf.world.tools.version

    run(main())


# --- its own crashes ----------------------------------------------------------------------------


def test_a_crash_forgets_nothing_that_was_learnt(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path, restarts=9) as shelf:
            shelf.index.tell(lists("alpha", tool("x")))
            await shelf.settle()
            before = shelf.world.tools

            await shelf.crash()

            assert shelf.world.tools == before

    run(main())


def test_a_list_that_came_while_it_was_down_is_published(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path, restarts=9) as shelf:
            shelf.index.tell(Do(crash))
            shelf.index.tell(lists("alpha", tool("x")))
            await until(lambda: shelf.names() == ["alpha_x"])

    run(main())


def test_a_second_crash_at_once_reads_from_disk_and_no_version_goes_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path, restarts=9) as shelf:
            for note in ("one", "two"):
                shelf.index.tell(lists("alpha", tool("x", note)))
                await shelf.settle()
            before = shelf.world.tools

            await shelf.crash()
            await shelf.crash()

            after = shelf.world.tools
            assert (after.etag, after.version) == (before.etag, before.version)
            assert after.entries[0].source is Source.CACHE

    run(main())


def test_no_version_goes_back_even_if_the_disk_had_refused_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path, restarts=9) as shelf:
            for note in ("one", "two"):
                shelf.index.tell(lists("alpha", tool("x", note)))
                await shelf.settle()
            before = shelf.world.tools.version
            await shelf.home.stop(shelf.store)
            (tmp_path / "catalog" / "versions.json").unlink()
            await shelf.home.fill("store", lambda: Store(tmp_path), handle=shelf.store)

            await shelf.crash()
            await shelf.crash()

            assert shelf.world.tools.version >= before

    run(main())


def test_what_was_waited_for_in_vain_is_not_waited_for_again_after_two_crashes(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path, restarts=9) as shelf:
            shelf.index.tell(LearningFailed(key_of("alpha"), "no luck"))
            await shelf.settle()
            assert shelf.world.tools.pending == {key_of("beta")}

            await shelf.crash()
            await shelf.crash()

            assert shelf.world.tools.pending == {key_of("beta")}

    run(main())


# --- who waits for which reading ----------------------------------------------------------------


def test_who_wants_a_fresh_reading_is_not_answered_by_one_that_had_begun_before(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path) as shelf:
            clock = shelf.home.context.clock
            assert isinstance(clock, FakeClock)
            began = clock.monotonic()
            clock.advance(1.0)
            waiting = asyncio.get_running_loop().create_task(
                shelf.index.ask(AwaitLists(key_of("alpha"), fresh=True), BOUND)
            )
            await turns()

            shelf.index.tell(replace(lists("alpha", tool("x")), began=began))
            shelf.index.tell(replace(lists_failed("alpha"), began=began))
            await shelf.settle()
            assert not waiting.done()

            shelf.index.tell(replace(lists("alpha", tool("y")), began=clock.monotonic()))
            assert (await waiting).failure is None
            assert shelf.names() == ["alpha_y"]

    run(main())


def test_who_awaits_what_is_known_does_not_wait_for_another_server(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path) as shelf:
            shelf.index.tell(lists("alpha", tool("x")))
            await shelf.settle()

            shelf.index.tell(lists("beta", tool("y")))
            news = await shelf.index.ask(AwaitLists(key_of("alpha")), BOUND)

            assert news.failure is None

    run(main())


def test_what_a_client_of_another_profile_sees_is_not_what_was_awaited(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path) as shelf:
            waiting = asyncio.get_running_loop().create_task(
                shelf.index.ask(AwaitLists(key_of("alpha")), BOUND)
            )
            await turns()
            shelf.index.tell(lists("alpha", tool("x"), profile=SAMPLER))
            await shelf.settle()

            assert not waiting.done()
            assert key_of("alpha") in await shelf.index.ask(Unlearnt(), BOUND)

            shelf.index.tell(lists("alpha", tool("x")))
            assert (await waiting).failure is None

    run(main())


# --- what is kept of servers that are gone ------------------------------------------------------


def published(shelf: Library, *views: ServerView) -> None:
    """Have other servers in the node, as a reload does."""
    nobody: Handle[Any] = Handle.create(shelf.home.system, "nobody")
    shelf.home.context.world.publish_servers(servers_of(views, nobody))
    shelf.index.tell(ServersChanged())


def test_a_server_that_comes_back_has_its_list_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path) as shelf:
            shelf.index.tell(lists("alpha", tool("x")))
            await shelf.settle()
            published(shelf, BETA)
            await shelf.settle()
            assert shelf.names() == []
        async with library(tmp_path, BETA) as shelf:
            published(shelf, ALPHA, BETA)
            await shelf.settle()

            assert shelf.names() == ["alpha_x"]

    run(main())


def test_of_servers_that_do_not_come_back_only_so_many_are_kept(tmp_path: Path) -> None:
    async def main() -> None:
        views = [view(f"s{number:03}") for number in range(KEPT_FORMER + 3)]
        async with library(tmp_path, ALPHA, *views) as shelf:
            clock = shelf.home.context.clock
            assert isinstance(clock, FakeClock)
            for one in (ALPHA, *views):
                clock.advance(1.0)
                shelf.index.tell(lists(one.name, tool("x")))
                shelf.index.tell(lists_failed(one.name))
                await shelf.settle()

            published(shelf, ALPHA)
            await shelf.settle()

            estate = shelf.index.cell.estate
            assert isinstance(estate, Catalog)
            assert len(estate.learnt) == 1 + KEPT_FORMER
            assert set(estate.failures) == {key_of("alpha")}
            stored = await shelf.store.ask(LoadCatalog(), BOUND)
            kept = {record.spec_key for record in stored.records}
            assert len(kept) == 1 + KEPT_FORMER
            assert not kept & {key_of(f"s{number:03}") for number in range(3)}, "the oldest are forgotten"
            assert key_of("alpha") in kept, "one that is there is never forgotten, however old"

    run(main())


def test_a_call_after_an_edit_reaches_the_new_server_though_the_list_is_the_same(tmp_path: Path) -> None:
    async def main() -> None:
        edited = view("alpha", key=key_of("alpha with another environment"))
        async with library(tmp_path) as shelf:
            shelf.index.tell(lists("alpha", tool("x")))
            await shelf.settle()
            before = shelf.world
            new: Handle[Any] = Handle.create(shelf.home.system, "new")
            shelf.home.context.world.publish_servers(servers_of([edited, BETA], new))
            shelf.index.tell(ServersChanged())
            shelf.index.tell(replace(lists("alpha", tool("x")), spec_key=edited.spec_key))
            await shelf.settle()

            entry = shelf.world.view("tools", EVERYTHING).targets["alpha_x"]
            assert shelf.world.tools.etag == before.tools.etag
            assert entry.spec_key == edited.spec_key
            assert shelf.world.servers[entry.server].handle is new
            assert before.view("tools", EVERYTHING).targets["alpha_x"].spec_key == key_of("alpha")

    run(main())


def test_what_was_listed_before_the_server_was_let_in_is_kept_once_it_is(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path, BETA) as shelf:
            shelf.index.tell(lists("alpha", tool("x")))
            await shelf.settle()
            published(shelf, ALPHA, BETA)
            await shelf.settle()
        async with library(tmp_path, ALPHA) as shelf:
            assert shelf.names() == ["alpha_x"]

    run(main())


def test_a_reading_that_finds_nothing_new_is_no_news_but_to_who_waits_for_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path) as shelf:
            shelf.index.tell(lists("alpha", tool("x")))
            await shelf.settle()
            before, told = shelf.world, len(shelf.home.subscribers.of(SnapshotChanged))
            waiting = asyncio.get_running_loop().create_task(
                shelf.index.ask(AwaitLists(key_of("alpha"), fresh=True), BOUND)
            )
            await turns()

            shelf.index.tell(replace(lists("alpha", tool("x")), began=shelf.home.context.clock.monotonic()))

            assert (await waiting).failure is None
            assert shelf.world is before
            assert len(shelf.home.subscribers.of(SnapshotChanged)) == told

    run(main())


def test_a_reading_that_finds_nothing_new_is_written_nowhere(tmp_path: Path) -> None:
    async def main() -> None:
        async with library(tmp_path) as shelf:
            shelf.index.tell(lists("alpha", tool("x")))
            await shelf.settle()
            await shelf.store.ask(LoadCatalog(), BOUND)
            path = tmp_path / "catalog" / f"{key_of('alpha')}.json"
            path.unlink()

            shelf.index.tell(lists("alpha", tool("x")))
            await shelf.settle()
            await shelf.store.ask(LoadCatalog(), BOUND)
            assert not path.exists()

            shelf.index.tell(lists("alpha", tool("x", "new")))
            await shelf.settle()
            await shelf.store.ask(LoadCatalog(), BOUND)
            assert path.exists()

    run(main())


def test_a_late_list_of_what_a_server_was_before_its_edit_is_not_shown(tmp_path: Path) -> None:
    async def main() -> None:
        edited = view("alpha", key=key_of("alpha with another environment"))
        async with library(tmp_path, edited) as shelf:
            shelf.index.tell(replace(lists("alpha", tool("new")), spec_key=edited.spec_key))
            shelf.index.tell(lists("alpha", tool("old")))
            await shelf.settle()

            assert shelf.names() == ["alpha_new"]

    run(main())


def test_an_etag_is_the_same_over_restarts_and_in_whatever_order_servers_start(tmp_path: Path) -> None:
    async def main() -> None:
        views = [view(name) for name in ("a", "a_b", "b", "c")]
        told = {one.name: lists(one.name, tool("b_x"), tool("x"), tool("y")) for one in views}
        etags: set[str] = set()
        names: set[tuple[str, ...]] = set()
        for life, order in enumerate((views, views[::-1], [*views[2:], *views[:2]])):
            folder = tmp_path / str(life)
            folder.mkdir()
            for _ in range(2):  # the second time, what is listed comes from the store
                async with library(folder, *order) as shelf:
                    if not shelf.names():
                        for one in order:
                            shelf.index.tell(told[one.name])
                            await shelf.settle()
                    etags.add(shelf.world.tools.etag)
                    names.add(tuple(shelf.names()))

        assert len(etags) == 1
        assert len(names) == 1

    run(main())
