"""What the scheduler of a server type costs, by itself and with processes.

    .venv/bin/python benchmarks/scheduler.py [--seconds N] [--rounds N] [--samples N] [--json]

Measured, with DESIGN section 9's bounds: acquire and release through the real ServerType actor against a pair of
asyncio.Lock and dict (<= 3x); 1, 10 and 100 server types at once (100 <= 1.3x one); with a queue of 100 that takes
turns; stateful with 1,000 keys bound, and with a pool of 16 instances; the decisions alone, without an actor; a cold
call over spawn and handshake (<= 10 ms more) and the first restart of an always-on server over the same (<= 50 ms).
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

from call_path import measure_cold_calls, measure_restarts
from ground import BOUND, CALLER, TYPES, LockedPool, make_context, start_type, timed, use_once
from loguru import logger
from support import Options, Report, run_benchmark, us

from mcpv_node.actors import NodeContext, World
from mcpv_node.actors.kernel import ActorSystem, Handle
from mcpv_node.actors.leases import Acquire, InstanceId, LeaseKind, Release, StartCause, new_lease_id
from mcpv_node.actors.server_type import ServerTypeMessage, core, facts
from mcpv_node.settings import ServerName, ServerSpec

FEW_TYPES = 10
QUEUED = 100
KEYS = 1000
WIDE = 16

# As many clients take turns in the queue.
CLIENTS = 10

# Never reached: what is measured is not a timeout.
FAR = 1e9


async def measure(options: Options) -> Report:
    logger.remove()
    report = Report(
        "scheduler",
        f"{options.rounds} slices of {options.seconds:g} s each, interleaved; single events {options.samples} times; medians",
    )
    await measure_actors(options, report)
    await measure_decisions(options, report)
    await measure_cold_calls(options, report)
    await measure_restarts(options, report)
    return report


# --- through the actor --------------------------------------------------------------------------


async def measure_actors(options: Options, report: Report) -> None:
    with tempfile.TemporaryDirectory() as folder:
        system = ActorSystem(asyncio.get_running_loop())
        node = make_context(system, World(), folder=Path(folder))
        servers = [start_type(node, f"s{number}") for number in range(TYPES)]
        now = node.clock.monotonic()
        for server in servers:
            await use_once(server, now)
        queue = await Queue.open(node, now)
        sticky = await start_sticky(node, now)
        pool = LockedPool()

        async def locked() -> None:
            await pool.release(await pool.acquire())

        async def alone() -> None:
            await use_once(servers[0], now)

        async def one_type() -> None:
            await asyncio.gather(*(use_once(servers[0], now) for _ in range(TYPES)))

        async def ten_types() -> None:
            await asyncio.gather(*(use_once(servers[number % FEW_TYPES], now) for number in range(TYPES)))

        async def all_types() -> None:
            await asyncio.gather(*(use_once(server, now) for server in servers))

        async def with_key() -> None:
            await use_with_key(sticky, now)

        work: dict[str, Callable[[], Awaitable[None]]] = {
            "locked": locked,
            "alone": alone,
            "one": one_type,
            "ten": ten_types,
            "all": all_types,
            "queue": queue.turn,
            "sticky": with_key,
        }
        found: dict[str, list[float]] = {name: [] for name in work}
        for _ in range(options.rounds):
            for name, each in work.items():
                found[name].append(await timed(each, options.seconds))
        queue.close()
        system.close()
    times = {name: median(values) for name, values in found.items()}
    own = times["alone"] / times["locked"]
    report.add("lock and dict: acquire and release", us(times["locked"]))
    report.add(
        "server type: acquire and release", f"{us(times['alone'])} = {own:.2f}x", "<= 3x", within=own <= 3
    )
    report.add(f"1 type, {TYPES} at once: each", us(times["one"] / TYPES))
    report.add(
        f"{FEW_TYPES} types, {TYPES} at once: each",
        f"{us(times['ten'] / TYPES)} = {times['ten'] / times['one']:.2f}x",
    )
    many = times["all"] / times["one"]
    report.add(
        f"{TYPES} types, {TYPES} at once: each",
        f"{us(times['all'] / TYPES)} = {many:.2f}x",
        "<= 1.3x",
        within=many <= 1.3,
    )
    report.add(
        f"with a queue of {QUEUED} of {CLIENTS} clients: release, next served, acquire", us(times["queue"])
    )
    report.add(f"stateful, {KEYS:,} keys bound: acquire and release", us(times["sticky"]))


class Queue:
    """A server type with one slot and so many callers waiting that each release serves the next of them."""

    def __init__(self, server: Handle[ServerTypeMessage], now: float) -> None:
        self._server = server
        self._deadline = now + FAR
        self._callers = [replace(CALLER, turn=f"client-{number}") for number in range(CLIENTS)]
        self._asked = 0
        self._waiting: dict[int, asyncio.Task[object]] = {}
        self._served: asyncio.Queue[int] = asyncio.Queue()

    @classmethod
    async def open(cls, node: NodeContext, now: float) -> Queue:
        queue = cls(start_type(node, "queue", max_concurrent=1, queue_timeout_seconds=FAR), now)
        for _ in range(QUEUED + 1):
            queue._ask()
        return queue

    async def turn(self) -> None:
        """The one that runs is over: the next is served, and another takes its place in the queue."""
        async with asyncio.timeout(BOUND):
            lease = await self._served.get()
        self._ask()
        self._server.tell(Release(lease))  # type: ignore[arg-type]

    def _ask(self) -> None:
        lease = new_lease_id()
        self._asked += 1
        caller = self._callers[self._asked % CLIENTS]
        task = asyncio.ensure_future(self._server.ask(Acquire(lease, caller, self._deadline), FAR))
        self._waiting[lease] = task
        task.add_done_callback(lambda done: self._on_served(lease, done))

    def _on_served(self, lease: int, done: asyncio.Task[object]) -> None:
        del self._waiting[lease]
        if not done.cancelled() and done.exception() is None:
            self._served.put_nowait(lease)

    def close(self) -> None:
        for task in list(self._waiting.values()):
            task.cancel()


async def start_sticky(node: NodeContext, now: float) -> Handle[ServerTypeMessage]:
    """A stateful server type to which a thousand keys are bound."""
    server = start_type(node, "sticky", strategy="stateful")
    for number in range(KEYS):
        await use_with_key(server, now, f"key-{number}")
    return server


async def use_with_key(server: Handle[ServerTypeMessage], now: float, key: str = "key-500") -> None:
    lease = new_lease_id()
    await server.ask(Acquire(lease, replace(CALLER, key=key), now + BOUND), BOUND)
    server.tell(Release(lease))


# --- the decisions alone ------------------------------------------------------------------------


async def measure_decisions(options: Options, report: Report) -> None:
    """Without an actor: what of the time above is deciding."""
    free = DecidedPool(instances=1)
    wide = DecidedPool(instances=WIDE)
    keyed = DecidedPool(instances=1, strategy="stateful")
    for number in range(KEYS):
        keyed.use(f"key-{number}")

    async def use_free() -> None:
        free.use()

    async def use_wide() -> None:
        wide.use()

    async def use_keyed() -> None:
        keyed.use("key-500")

    work = {
        "the decisions alone": use_free,
        f"the decisions alone, {WIDE} instances": use_wide,
        f"the decisions alone, {KEYS:,} keys": use_keyed,
    }
    found: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(options.rounds):
        for name, each in work.items():
            found[name].append(await timed(each, options.seconds / 2))
    for name, values in found.items():
        report.add(name, us(median(values)))


class DecidedPool:
    """One state of the core with its instances ready."""

    def __init__(self, *, instances: int, strategy: str = "stateless") -> None:
        spec = ServerSpec(
            name=ServerName("core"),
            command="none",
            max_concurrent=TYPES,
            max_instances=instances,
            min_ready=instances,
            strategy=strategy,  # type: ignore[arg-type]
            session_ttl_seconds=0.0,
        )
        self._policy = facts.Policy.of(spec)
        self._state = facts.State()
        self._decide(facts.ClientsChanged(1))
        for number in range(1, instances + 1):
            self._decide(facts.BecameReady(InstanceId(f"core-{number}")))

    def use(self, key: str = "") -> None:
        """Acquire and release."""
        lease = new_lease_id()
        self._decide(facts.AcquireAsked(lease, StartCause.TOOL_CALL, LeaseKind.CALL, FAR, "client", key))
        self._decide(facts.Released(lease))

    def _decide(self, event: facts.Event) -> None:
        self._state, _ = core.decide(self._policy, "core", self._state, event, 0.0)


if __name__ == "__main__":
    sys.exit(run_benchmark(__doc__, measure))
