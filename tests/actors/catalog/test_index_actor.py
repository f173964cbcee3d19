"""The Index: what it learns, keeps, publishes and tells, also across its own crashes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.actors import Do, crash
from support.catalogs import key_of, learnt, lists, lists_failed, merged, servers_of, tool, view
from support.owners import BOUND, Home, home, run, turns, until

from mcpv_node.actors.index import Index
from mcpv_node.actors.index_messages import AwaitLists, ServersChanged, SnapshotChanged, Unlearnt
from mcpv_node.actors.kernel import Handle, answers
from mcpv_node.actors.snapshot import ServerView, Source
from mcpv_node.actors.store import Store
from mcpv_node.protocol import Rejected

ALPHA, BETA = view("alpha"), view("beta")


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


# --- any order ----------------------------------------------------------------------------------

NAMES = ("a", "a_b", "c")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("lists"), st.sampled_from(NAMES), st.sampled_from(["x", "b_x", "y"])),
        st.tuples(st.just("failed"), st.sampled_from(NAMES), st.just("")),
        st.tuples(st.just("servers"), st.sampled_from(NAMES), st.just("")),
        st.tuples(st.just("turn"), st.just(""), st.just("")),
    ),
    max_size=10,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(STEPS)
def test_any_interleaving_ends_where_a_fresh_rebuild_ends_and_versions_only_grow(
    tmp_path_factory: Any, steps: list[tuple[str, str, str]]
) -> None:
    async def main() -> None:
        known: dict[str, Any] = {}
        hidden: set[str] = set()
        seen: list[int] = []
        async with library(tmp_path_factory.mktemp("state"), *map(view, NAMES)) as shelf:
            everyone = dict(shelf.world.servers)
            for kind, name, raw in steps:
                if kind == "lists":
                    shelf.index.tell(lists(name, tool(raw)))
                    known[name] = learnt(name, tool(raw))
                elif kind == "failed":
                    shelf.index.tell(lists_failed(name))
                    if name in known:
                        known[name] = learnt(name, *known[name].listed, stale=True)
                elif kind == "servers":
                    hidden ^= {name}
                    shelf.home.context.world.publish_servers(
                        {key: server for key, server in everyone.items() if key not in hidden}
                    )
                    shelf.index.tell(ServersChanged())
                else:
                    await turns(3)
                seen.append(shelf.world.tools.version)
            await shelf.settle()
            seen.append(shelf.world.tools.version)

            fresh = merged([view(name) for name in NAMES if name not in hidden], *known.values())
            assert shelf.world.tools.entries == fresh.entries
            assert shelf.world.tools.etag == fresh.etag
            assert seen == sorted(seen)

    run(main())
