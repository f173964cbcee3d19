"""The owner of the guard process: its own crashes cost nobody, the process's death is made good."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from support.actors import Do, crash
from support.fakes import FakeClock
from support.owners import BOUND, Home, home, run, turns, until
from support.processes import alive, start_time

from mcpv_node.actors.guard import Enlist, Guard, GuardPost, StrikeOff
from mcpv_node.actors.kernel import Handle, answers
from mcpv_node.transports import LedgerEntry, ReapReport, read_ledger


class CrashableGuard(Guard):
    """One that does what it is told on top."""

    @answers(Do)
    def _on_do(self, request: Do) -> Any:
        return request.what(self)


class Post:
    """A guard on a ledger of its own."""

    def __init__(self, at_home: Home, ledger: Path, prefix: str) -> None:
        self.home = at_home
        self.ledger = ledger
        self.prefix = prefix
        self.reports: list[ReapReport] = []
        self.place = GuardPost()
        self.guard: Handle[Any] = Handle.create(at_home.system, "guard")

    def make(self) -> CrashableGuard:
        return CrashableGuard(self.ledger, self.prefix, on_reaped=self.reports.append, post=self.place)

    async def pid(self) -> int:
        """The guard process's, while the actor runs."""
        return int(await self.guard.ask(Do(lambda actor: actor.estate.pid), BOUND))

    async def is_back(self, incarnation: int) -> None:
        await until(
            lambda: self.guard.cell.incarnation == incarnation and self.guard.statistics().state == "running"
        )

    def listed(self) -> list[int]:
        return [entry.pgid for entry in read_ledger(self.ledger)]


@asynccontextmanager
async def guarded(tmp_path: Path, *, restarts: int = 0, prefix: str | None = None) -> AsyncIterator[Post]:
    async with home(tmp_path, clock=FakeClock()) as at_home:
        post = Post(at_home, tmp_path / "ledger.jsonl", prefix or f"test-{uuid4().hex[:8]}/")
        await at_home.fill("guard", post.make, restarts=restarts, handle=post.guard)
        yield post


@contextmanager
def a_server(prefix: str) -> Iterator[LedgerEntry]:
    """A process group that carries our mark."""
    mark = f"{prefix}s-1"
    process = subprocess.Popen(["/bin/sleep", "300"], env={"MCPV_INSTANCE": mark}, process_group=0)
    try:
        yield LedgerEntry(mark, process.pid, process.pid, start_time(process.pid), "sleep", "now")
    finally:
        process.kill()
        process.wait()


def test_what_is_enlisted_is_in_the_ledger_until_it_is_struck_off(tmp_path: Path) -> None:
    async def main() -> None:
        async with guarded(tmp_path) as post:
            with a_server(post.prefix) as entry:
                await post.guard.ask(Enlist(entry), BOUND)
                assert post.listed() == [entry.pgid]

                post.guard.tell(StrikeOff(entry.pgid))
                await turns()
                assert post.listed() == []

    run(main())


def test_the_first_start_reaps_what_a_dead_node_left_and_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        prefix = f"test-{uuid4().hex[:8]}/"
        with a_server(prefix) as entry:
            async with guarded(tmp_path, prefix=prefix) as post:
                assert [orphan.pid for report in post.reports for orphan in report.ended] == [entry.pid]

    run(main())


def test_a_crash_keeps_the_guard_process_and_the_servers(tmp_path: Path) -> None:
    async def main() -> None:
        async with guarded(tmp_path, restarts=9) as post:
            with a_server(post.prefix) as entry:
                await post.guard.ask(Enlist(entry), BOUND)
                before = await post.pid()

                post.guard.tell(Do(crash))
                await post.is_back(2)

                assert await post.pid() == before
                assert alive(entry.pid)
                assert len(post.reports) == 1, "only a first start reaps"
                post.guard.tell(StrikeOff(entry.pgid))
                await turns()
                assert post.listed() == []

    run(main())


def test_a_guard_process_that_is_killed_is_replaced_and_no_server_ends(tmp_path: Path) -> None:
    async def main() -> None:
        async with guarded(tmp_path, restarts=9) as post:
            with a_server(post.prefix) as entry:
                await post.guard.ask(Enlist(entry), BOUND)
                before = await post.pid()

                os.kill(before, signal.SIGKILL)
                await post.is_back(2)

                assert await post.pid() != before
                assert alive(await post.pid())
                assert alive(entry.pid)
                assert post.listed() == [entry.pgid]

    run(main())


def test_a_second_crash_at_once_ends_neither_the_guard_nor_a_server(tmp_path: Path) -> None:
    async def main() -> None:
        async with guarded(tmp_path, restarts=9) as post:
            with a_server(post.prefix) as entry:
                await post.guard.ask(Enlist(entry), BOUND)
                before = await post.pid()

                for incarnation in (2, 3):
                    post.guard.tell(Do(crash))
                    await post.is_back(incarnation)

                assert alive(entry.pid)
                assert await post.pid() == before
                assert post.listed() == [entry.pgid]

    run(main())


def test_a_disk_that_refuses_costs_one_start_and_not_the_guard(tmp_path: Path) -> None:
    async def main() -> None:
        async with guarded(tmp_path) as post:
            entry = LedgerEntry(f"{post.prefix}s-1", 999_999, 999_999, 1, "x", "now")

            def break_disk(actor: Any) -> None:
                actor._ledger.close()

            await post.guard.ask(Do(break_disk), BOUND)
            with pytest.raises(OSError, match="Bad file descriptor"):
                await post.guard.ask(Enlist(entry), BOUND)
            post.guard.tell(StrikeOff(999_999))
            await turns()

            assert post.guard.cell.crashes == 0
            assert alive(await post.pid())

    run(main())


def test_an_orderly_end_ends_the_guard_process_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with guarded(tmp_path) as post:
            pid = await post.pid()

            await post.home.stop(post.guard)

            assert not alive(pid)

    run(main())
