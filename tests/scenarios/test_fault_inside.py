"""What happens to a node from inside: its clocks jump, its owners crash, it is asked for more while it ends."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.embedded import options, run, running, until
from support.nodes import BadServer
from support.processes import alive

from mcpv_node.actors.callers import Caller
from mcpv_node.actors.instance.messages import Answer, Call
from mcpv_node.actors.kernel import ActorError, Handle
from mcpv_node.actors.leases import Acquire, Lease, Refused, Release, new_lease_id
from mcpv_node.actors.server_type import (
    Activation,
    OperatorStart,
    OperatorStop,
    Retry,
    ServerTypeMessage,
    Settled,
    Warm,
    Why,
    WhyReport,
)
from mcpv_node.node import NodeRuntime
from mcpv_node.settings import ServerName
from mcpv_node.telemetry import SystemClock

LONG = 600

# More than anything takes here; the scenario has a bound of its own.
BOUND = 20.0

# Failures are replayed with it.
SEED = 20261120

CALLER = Caller(principal="somebody", client="test", key="key")


class JumpingClock(SystemClock):
    """The machine's clock, whose date somebody sets while the node runs."""

    def __init__(self) -> None:
        self.offset = timedelta()

    def wall(self) -> datetime:
        return datetime.now(UTC) + self.offset


class Inside:
    """A node in this process, and its servers by their handles."""

    def __init__(self, node: NodeRuntime, servers: dict[str, BadServer]) -> None:
        self.node, self.servers = node, servers

    def handle(self, name: str) -> Handle[ServerTypeMessage]:
        return self.node.context.world.world.servers[ServerName(name)].handle

    async def why(self, name: str) -> WhyReport:
        return await self.handle(name).ask(Why(), BOUND)

    async def until_report(self, name: str, condition: Callable[[WhyReport], bool]) -> WhyReport:
        """Ask again and again until the report is such; `TIMEOUT` of the scenario is the bound."""
        while not condition(report := await self.why(name)):  # noqa: ASYNC110  (nothing tells of it)
            await asyncio.sleep(0.005)
        return report

    async def acquire(self, name: str) -> Lease:
        granted = await self.try_to_acquire(name)
        assert isinstance(granted, Lease), granted
        return granted

    async def try_to_acquire(self, name: str) -> Lease | Refused:
        deadline = self.node.context.clock.monotonic() + BOUND
        return await self.handle(name).ask(Acquire(new_lease_id(), CALLER, deadline), BOUND)

    async def use(self, lease: Lease, tool: str, **arguments: object) -> str:
        """Make a call under a lease; return the text."""
        params = msgspec.json.encode({"name": tool, "arguments": arguments})
        deadline = self.node.context.clock.monotonic() + BOUND
        answer = await lease.instance.ask(Call(lease.lease, CALLER, "tools/call", params, deadline), BOUND)
        assert isinstance(answer, Answer), answer
        assert answer.result is not None, answer
        return str(msgspec.json.decode(answer.result)["content"][0]["text"])

    async def call(self, name: str, tool: str, **arguments: object) -> str:
        """Acquire, call, release."""
        lease = await self.acquire(name)
        try:
            return await self.use(lease, tool, **arguments)
        finally:
            self.handle(name).tell(Release(lease.lease))

    async def crash(self, name: str) -> None:
        """Have the owner of a server type crash in a handler, and wait for its next incarnation."""
        cell = self.handle(name).cell
        before = cell.incarnation
        no_number: Any = "many"
        self.handle(name).tell(Activation(no_number))
        await until(lambda: cell.incarnation > before and cell.actor is not None)


@asynccontextmanager
async def inside(
    folder: Path, *servers: BadServer, clock: SystemClock | None = None, **settings: Any
) -> AsyncIterator[Inside]:
    """Have such a node; nothing is learnt, so that nothing runs but what a test starts."""
    entries = [server.entry(**{"idleSeconds": LONG, **settings}) for server in servers]
    given = options(folder, *entries, bootstrapMode="disabled")
    if clock is not None:
        given = replace(given, clock=clock)
    async with running(given) as (node, _file):
        yield Inside(node, {server.name: server for server in servers})
    assert not any(alive(pid) for server in servers for pid in server.starts())


# ---- clocks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("days", [-4000, -1, 1, 4000])
def test_a_date_that_jumps_changes_nothing_that_runs_or_waits(tmp_path: Path, days: int) -> None:
    clock = JumpingClock()
    server = BadServer(tmp_path, "timed")

    async def main() -> None:
        async with inside(
            tmp_path, server, clock=clock, maxInstances=1, maxConcurrent=1, callTimeoutSeconds=BOUND
        ) as it:
            pid = await it.call("timed", "pid")
            lease = await it.acquire("timed")
            running_call = asyncio.ensure_future(it.use(lease, "sleep", seconds=0.3))
            waiting = asyncio.ensure_future(it.call("timed", "pid"))
            await it.until_report("timed", lambda report: report.waiting == 1)

            clock.offset = timedelta(days=days)
            again = [await it.why("timed") for _ in range(3)]

            assert await running_call == "slept 0.3"
            it.handle("timed").tell(Release(lease.lease))
            assert await waiting == pid
            assert server.starts() == [int(pid)]
            assert {report.state for report in again} == {"ready"}
            # A moment that has been told keeps its name.
            assert len({report.instances[0].started_at for report in again}) == 1

    run(main)


@pytest.mark.parametrize("days", [-4000, 4000])
def test_a_date_that_jumps_moves_no_idle_stop_and_no_next_try(tmp_path: Path, days: int) -> None:
    clock = JumpingClock()
    server = BadServer(tmp_path, "timed")
    restart = {"maxRetries": 5, "baseSeconds": 0.2, "maxSeconds": 0.2}

    async def main() -> None:
        async with inside(tmp_path, server, clock=clock, restart=restart, idleSeconds=0.1) as it:
            first = await it.call("timed", "pid")
            clock.offset = timedelta(days=days)
            await until(lambda: not alive(int(first)))
            server.behave(EXIT_IN_HANDSHAKE=1)
            for _ in range(2):
                assert isinstance(await it.try_to_acquire("timed"), Refused)
            clock.offset = timedelta(days=-days)
            server.behave()

            # It waits for the next try, which is as far away as it was.
            assert int(await it.call("timed", "pid")) == server.starts()[-1]

    run(main)


# ---- a server type that crashes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("crashes", [1, 2, 3])
def test_a_server_type_that_crashes_goes_on_with_its_processes_and_its_leases(
    tmp_path: Path, crashes: int
) -> None:
    """From the second crash within five seconds on there is no estate: it asks the instances that live."""
    server = BadServer(tmp_path, "owned")

    async def main() -> None:
        async with inside(tmp_path, server, maxInstances=3, maxConcurrent=1) as it:
            leases = [await it.acquire("owned") for _ in range(3)]
            pids = [await it.use(lease, "pid") for lease in leases]
            # Under the same leases: it is the callers who end them.
            slow = [asyncio.ensure_future(it.use(lease, "sleep", seconds=1.0)) for lease in leases[:2]]
            await until(lambda: len(server.told("call sleep")) == 2)
            it.handle("owned").tell(Release(leases[2].lease))

            for _ in range(crashes):
                await it.crash("owned")

            # The one that is free is the only one that may be given away.
            assert await it.call("owned", "pid") == pids[2]
            report = await it.why("owned")
            assert sorted(str(one.pid) for one in report.instances) == sorted(pids)
            assert sum(one.busy for one in report.instances) == 2
            assert [await call for call in slow] == ["slept 1.0"] * 2
            for lease in leases[:2]:
                it.handle("owned").tell(Release(lease.lease))
            assert {await it.call("owned", "pid") for _ in range(6)} <= set(pids)
            report = await it.why("owned")
            assert sum(one.busy for one in report.instances) == 0
            assert [str(pid) for pid in server.starts()] == pids
            assert server.told("stop") == []

    run(main)


@pytest.mark.parametrize("crashes", [1, 2])
def test_a_server_type_that_crashes_during_a_start_starts_no_second_one(tmp_path: Path, crashes: int) -> None:
    server = BadServer(tmp_path, "owned", START_DELAY=0.7)

    async def main() -> None:
        async with inside(tmp_path, server, maxInstances=1) as it:
            calls = [asyncio.ensure_future(it.call("owned", "pid")) for _ in range(5)]
            await until(lambda: bool(server.starts()))

            for _ in range(crashes):
                await it.crash("owned")
            texts = await asyncio.gather(*calls, return_exceptions=True)

            served = {text for text in texts if isinstance(text, str)}
            # A handle asks once more after a restart, and not for ever: who met both crashes is told so.
            assert crashes > 1 or len([text for text in texts if isinstance(text, str)]) == 5
            assert all(isinstance(text, str | ActorError) for text in texts), texts
            assert served <= {str(pid) for pid in server.starts()}
            assert await it.call("owned", "pid") == str(server.starts()[0])
            assert len(server.starts()) == 1

    run(main)


def test_crashes_at_random_moments_lose_no_slot_and_no_process(tmp_path: Path) -> None:
    server = BadServer(tmp_path, "owned")
    chance = random.Random(SEED)

    async def main() -> None:
        async with inside(tmp_path, server, maxInstances=2, maxConcurrent=2) as it:
            ended = 0

            async def caller() -> int:
                nonlocal ended
                answers = 0
                for _ in range(12):
                    try:
                        await it.call("owned", "echo", text="x")
                        answers += 1
                    except ActorError:
                        continue  # it met two crashes
                    finally:
                        ended += 1
                return answers

            callers = [asyncio.ensure_future(caller()) for _ in range(8)]
            for _ in range(4):
                due = ended + chance.randrange(1, 15)
                await until(lambda due=due: ended >= due or all(one.done() for one in callers))
                await it.crash("owned")
            answers = await asyncio.gather(*callers)

            assert sum(answers) > 8 * 12 // 2
            report = await it.until_report(
                "owned", lambda report: not any(it.busy for it in report.instances)
            )
            assert report.waiting == 0
            living = sorted(pid for pid in server.starts() if alive(pid))
            assert sorted(one.pid or 0 for one in report.instances) == living
            assert len(living) <= 2
            # All four slots are there.
            leases = [await it.acquire("owned") for _ in range(4)]
            assert len({lease.lease for lease in leases}) == 4
            for lease in leases:
                it.handle("owned").tell(Release(lease.lease))

    run(main)


# ---- starts around the end --------------------------------------------------------------------------------------


def test_nothing_is_started_by_whoever_asks_while_the_node_ends(tmp_path: Path) -> None:
    busy, cold = BadServer(tmp_path, "busy"), BadServer(tmp_path, "cold")

    async def main() -> None:
        async with inside(tmp_path, busy, cold, maxInstances=2) as it:
            lease = await it.acquire("busy")
            call = asyncio.ensure_future(it.use(lease, "sleep", seconds=0.6))
            await until(lambda: bool(busy.told("call sleep")))
            stopping = asyncio.ensure_future(it.node.stop("drain"))
            await it.until_report("busy", lambda report: report.state == "draining")

            outcomes = await asyncio.gather(
                *(it.try_to_acquire(name) for name in ("busy", "cold") for _ in range(5)),
                it.handle("busy").ask(OperatorStart(), BOUND),
                it.handle("busy").ask(Retry(), BOUND),
                it.handle("cold").ask(OperatorStart(), BOUND),
                return_exceptions=True,
            )
            it.handle("busy").tell(Warm())
            text = await call
            it.handle("busy").tell(Release(lease.lease))
            await stopping

            granted = [outcome for outcome in outcomes if isinstance(outcome, Lease)]
            refused = [outcome.failure.reason for outcome in outcomes if isinstance(outcome, Refused)]
            assert granted == []
            assert set(refused) == {"stopping"}
            assert all(isinstance(outcome, Refused | ActorError | str) for outcome in outcomes), outcomes
            assert text == "slept 0.6"
            assert len(busy.starts()) == 1
            assert cold.starts() == []

    run(main)


def test_nothing_is_started_by_whoever_asks_after_the_node_has_ended(tmp_path: Path) -> None:
    server = BadServer(tmp_path, "late")

    async def main() -> None:
        async with inside(tmp_path, server) as it:
            await it.node.stop("now")

            handle = it.handle("late")
            for message in (OperatorStart(), Retry(), OperatorStop(), Settled()):
                with pytest.raises(ActorError):
                    await handle.ask(message, BOUND)
            with pytest.raises(ActorError):
                await it.acquire("late")
            handle.tell(Warm())

            assert server.starts() == []

    run(main)


def test_an_end_in_the_middle_of_many_starts_leaves_none_of_them(tmp_path: Path) -> None:
    servers = [BadServer(tmp_path, f"slow{number}", START_DELAY=5) for number in range(5)]

    async def main() -> None:
        async with inside(tmp_path, *servers, stopGraceSeconds=0.2) as it:
            calls = [
                asyncio.ensure_future(it.try_to_acquire(server.name)) for server in servers for _ in range(2)
            ]
            await until(lambda: sum(len(server.starts()) for server in servers) >= 3)

            await it.node.stop("now")
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            pids = [pid for server in servers for pid in server.starts()]

            assert all(isinstance(outcome, Refused | ActorError) for outcome in outcomes), outcomes
            assert not any(map(alive, pids))
            assert [pid for server in servers for pid in server.starts()] == pids

    run(main)
