"""What the actors cost by themselves, without processes or sockets between.

    .venv/bin/python benchmarks/actors.py [--seconds N] [--rounds N] [--samples N] [--json]

Measured, with DESIGN section 9's bounds: an ask and a tell, on the loop and on a thread; acquire and release through
the real ServerType actor against a pair of asyncio.Lock and dict (<= 3x), and over 100 server types concurrently
against one (<= 1.3x); an actor's crash until its monitor was told and the restarted child answers, in asks of the
same run that go through a mailbox, as a crash does (p50 <= 12, p99 <= 60), and in such that are read at once, which are
calls rather; the memory of an idle session (<= 20 KB), from a node in a process of its own.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from ground import BOUND, TYPES, LockedPool, make_context, start_type, timed, use_once
from loguru import logger
from support import Node, Options, Report, echo_entry, percentile, rss_kb, run_benchmark, us

from mcpv_node.actors import World
from mcpv_node.actors.kernel import (
    ActorSystem,
    Down,
    Handle,
    LoopActor,
    Request,
    ThreadActor,
    answers,
    handles,
)
from mcpv_node.actors.kernel.cell import ASKS_AT_ONCE
from mcpv_node.supervisors import ChildSpec, RestartWindow, Supervisor, SupervisorSpec

SESSIONS = 1000


async def measure(options: Options) -> Report:
    logger.remove()  # crashes are made on purpose here
    report = Report(
        "actors",
        f"{options.rounds} slices of {options.seconds:g} s each, interleaved; single events {20 * options.samples} times; medians",
    )
    await measure_messages(options, report)
    await measure_leases(options, report)
    await measure_crashes(options, report)
    await measure_memory(options, report)
    return report


# --- messages -----------------------------------------------------------------------------------


class _Add(Request[int]):
    """Asked."""


class _Tick:
    """Told."""


class LoopCounter(LoopActor[int]):
    """Counts on the loop."""

    count = 0

    @answers(_Add)
    def _on_add(self, _: _Add) -> int:
        self.count += 1
        return self.count

    @handles(_Tick)
    def _on_tick(self, _: _Tick) -> None:
        self.count += 1


class ThreadCounter(ThreadActor[int]):
    """Counts on a thread."""

    count = 0

    @answers(_Add)
    def _on_add(self, _: _Add) -> int:
        self.count += 1
        return self.count

    @handles(_Tick)
    def _on_tick(self, _: _Tick) -> None:
        self.count += 1


async def measure_messages(options: Options, report: Report) -> None:
    system = ActorSystem(asyncio.get_running_loop())
    found: dict[str, list[float]] = {}
    on_loop, on_thread = Handle[Any].create(system, "loop"), Handle[Any].create(system, "thread")
    on_loop.cell.start(LoopCounter())
    on_thread.cell.start(ThreadCounter())
    for _ in range(options.rounds):
        for name, handle in (("loop", on_loop), ("thread", on_thread)):

            async def ask(handle: Handle[Any] = handle) -> None:
                await handle.ask(_Add(), BOUND)

            async def ask_together(handle: Handle[Any] = handle) -> None:
                await asyncio.gather(*(handle.ask(_Add(), BOUND) for _ in range(TYPES)))

            async def tell(handle: Handle[Any] = handle) -> None:
                for _ in range(TYPES):
                    handle.tell(_Tick())
                await handle.ask(_Add(), BOUND)

            found.setdefault(f"ask, {name}", []).append(await timed(ask, options.seconds))
            each = await timed(ask_together, options.seconds)
            found.setdefault(f"ask, {name}, {TYPES} at once", []).append(each / TYPES)
            found.setdefault(f"tell, {name}", []).append(await timed(tell, options.seconds) / TYPES)
    system.close()
    for what, times in sorted(found.items()):
        report.add(what, us(median(times)))


# --- acquire and release ------------------------------------------------------------------------


async def measure_leases(options: Options, report: Report) -> None:
    with tempfile.TemporaryDirectory() as folder:
        system = ActorSystem(asyncio.get_running_loop())
        node = make_context(system, World(), folder=Path(folder))
        servers = [start_type(node, f"s{number}") for number in range(TYPES)]
        now = node.clock.monotonic()
        for server in servers:
            await use_once(server, now)
        pool = LockedPool()

        async def locked() -> None:
            await pool.release(await pool.acquire())

        async def actor() -> None:
            await use_once(servers[0], now)

        async def one_type() -> None:
            await asyncio.gather(*(use_once(servers[0], now) for _ in range(TYPES)))

        async def all_types() -> None:
            await asyncio.gather(*(use_once(server, now) for server in servers))

        found: dict[Callable[[], Awaitable[None]], list[float]] = {}
        for _ in range(options.rounds):
            for work in (locked, actor, one_type, all_types):
                found.setdefault(work, []).append(await timed(work, options.seconds))
        system.close()
    pair, own = median(found[locked]), median(found[actor])
    one, many = median(found[one_type]) / TYPES, median(found[all_types]) / TYPES
    report.add("lock and dict: acquire and release", us(pair))
    report.add(
        "server type: acquire and release", f"{us(own)} = {own / pair:.2f}x", "<= 3x", within=own / pair <= 3
    )
    report.add(f"one type, {TYPES} at once", us(one))
    report.add(
        f"{TYPES} types, one each at once",
        f"{us(many)} = {many / one:.2f}x",
        "<= 1.3x",
        within=many / one <= 1.3,
    )


# --- a crash ------------------------------------------------------------------------------------


class _Crash:
    """Told, it ends whoever reads it."""


class Fragile(LoopActor[None]):
    """Crashes when told."""

    @answers(_Add)
    def _on_add(self, _: _Add) -> int:
        return self.incarnation

    @handles(_Crash)
    def _on_crash(self, _: _Crash) -> None:
        raise RuntimeError("as told")


class Witness(LoopActor[None]):
    """Hears of ends."""

    heard: asyncio.Event

    def on_down(self, down: Down) -> None:
        self.heard.set()


async def measure_crashes(options: Options, report: Report) -> None:
    count = 20 * options.samples
    system = ActorSystem(asyncio.get_running_loop())
    fragile, witness = Handle[Any].create(system, "fragile"), Handle[Any].create(system, "witness")
    watcher = Witness()
    watcher.heard = asyncio.Event()
    witness.cell.start(watcher)
    root = Handle[Any].create(system, "root")
    root.cell.start(
        Supervisor(
            SupervisorSpec(
                children=(ChildSpec(id="fragile", start=Fragile, handle=fragile),),
                # As few restarts are remembered as by a supervisor that gives up after some.
                window=RestartWindow(max_restarts=100, period=0.002),
            ),
            sink=lambda _: None,
        )
    )
    asks: list[float] = []
    at_once: list[float] = []
    crashes: list[float] = []
    await fragile.ask(_Add(), BOUND)
    for number in range(count):
        for kept, before in ((asks, ASKS_AT_ONCE), (at_once, 0)) * 3:
            # Every so many asks one takes its turn in the mailbox.
            system.asks_at_once = before
            began = perf_counter()
            await fragile.ask(_Add(), BOUND)
            kept.append(perf_counter() - began)
        watcher.heard.clear()
        fragile.watch(witness)
        began = perf_counter()
        fragile.tell(_Crash())
        await watcher.heard.wait()
        incarnation = await fragile.ask(_Add(), BOUND)
        crashes.append(perf_counter() - began)
        if incarnation != number + 2:
            raise RuntimeError("it was not restarted")
    system.close()
    report.add("ask, by way of the mailbox", us(median(asks)))
    for name, share, bound in (("p50", 0.5, 12), ("p99", 0.99, 60)):
        took = percentile(crashes, share)
        count = took / median(asks)
        report.add(
            f"crash, monitor told, restarted, answers: {name}",
            f"{us(took)} = {count:.1f} asks ({took / median(at_once):.0f} read at once)",
            f"<= {bound} asks",
            within=count <= bound,
        )


# --- memory -------------------------------------------------------------------------------------


async def measure_memory(options: Options, report: Report) -> None:
    sessions = SESSIONS if options.samples > 2 else 20
    async with Node([echo_entry("echo")], bootstrapMode="disabled") as node:
        await node.servers()
        for _ in range(20):
            (await node.open_session())[0].close()
        before = rss_kb(node.pid)
        for _ in range(sessions):
            (await node.open_session())[0].close()
        own = (rss_kb(node.pid) - before) / sessions
    report.add(f"an idle session, of {sessions:,}", f"{own:.1f} KB", "<= 20 KB", within=own <= 20)


if __name__ == "__main__":
    sys.exit(run_benchmark(__doc__, measure, seconds=0.2))
