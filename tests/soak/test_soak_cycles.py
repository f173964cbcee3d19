"""Ten thousand starts and ends of instances in one node: nothing is left, and nothing grows.

    bin/test -m soak                        about a minute
    SOAK_CYCLES=400 bin/test -m soak        to see that it works

Every cycle is a real process with a real handshake and one call; it ends in one of four ways, in turn: killed, told
to terminate by somebody else, stopped by an operator, and its owner inside the node killed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest
import uvloop
from loguru import logger
from support.embedded import options, running, until
from support.processes import marked, open_fds

from mcpv_node.actors.callers import Caller
from mcpv_node.actors.instance.messages import Answer, Call
from mcpv_node.actors.kernel import Handle
from mcpv_node.actors.leases import Acquire, Lease, Release, new_lease_id
from mcpv_node.actors.server_type import OperatorStop, Retry, ServerTypeMessage
from mcpv_node.node import NodeRuntime
from mcpv_node.settings import ServerName

CYCLES = int(os.environ.get("SOAK_CYCLES", "10000"))

# So many server types go through their cycles side by side: what one leaves may hide in what another does.
LANES = 4

# Far more than one start and one end take.
BOUND = 30.0

# Ten thousand cycles at the slowest rate that is still worth waiting for.
SOAK_TIMEOUT = 1200

# A sample of the memory every so many cycles: enough for the median of a quarter.
SAMPLE_EVERY = 10

# The allocator's own ups and downs between the second quarter and the last; a leak of 2 KB a cycle is more.
MEMORY_SLACK = 16 * 1024 * 1024

# Lines about processes that are gone stay until there are 512 of them; this is far more, and far less than all.
LEDGER_LINES = 1500

# What a cycle does must be cheap: a shell starts in a millisecond. It answers every call with its process id.
STUB = r"""
while IFS= read -r line; do
    case $line in *'"id":'*) ;; *) continue ;; esac
    id=${line#*'"id":'}
    id=${id%%[,\}]*}
    case $line in
        *'"initialize"'*) result='{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"stub","version":"1"}}' ;;
        *'"tools/list"'*) result='{"tools":[{"name":"pid","inputSchema":{"type":"object"}}]}' ;;
        *) result='{"content":[{"type":"text","text":"'$$'"}]}' ;;
    esac
    printf '{"jsonrpc":"2.0","id":%s,"result":%s}\n' "$id" "$result"
done
"""

CALLER = Caller(principal="soak", client="soak", key="soak")

Server = Handle[ServerTypeMessage]
End = Callable[[Server, Lease, int], Awaitable[None]]


@dataclass(slots=True)
class Figures:
    """What the soak has seen."""

    done: int = 0
    memory: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])

    def medians(self) -> list[float]:
        """Return the median memory of each quarter of the cycles, in MiB."""
        quarters: list[list[int]] = [[], [], [], []]
        for done, rss in self.memory:
            quarters[min(3, 4 * done // max(1, CYCLES))].append(rss)
        return [statistics.median(quarter) / 2**20 for quarter in quarters]


# ---- one cycle --------------------------------------------------------------------------------------------------


async def one_cycle(node: NodeRuntime, server: Server, end: End) -> None:
    """Have an instance started for a call, and end it."""
    now = node.context.clock.monotonic()
    granted = await server.ask(Acquire(new_lease_id(), CALLER, deadline=now + BOUND), BOUND)
    assert isinstance(granted, Lease), granted
    call = Call(granted.lease, "tools/call", b'{"name":"pid","arguments":{}}', deadline=now + BOUND)
    answer = await granted.instance.ask(call, BOUND)
    assert isinstance(answer, Answer), answer
    assert answer.result is not None
    pid = int(msgspec.json.decode(answer.result)["content"][0]["text"])
    server.tell(Release(granted.lease))

    await end(server, granted, pid)

    await until(lambda: not granted.instance.is_alive())


async def kill(_server: Server, _lease: Lease, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


async def terminate(_server: Server, _lease: Lease, pid: int) -> None:
    os.kill(pid, signal.SIGTERM)


async def stop(server: Server, lease: Lease, _pid: int) -> None:
    await server.ask(OperatorStop(), BOUND)
    await until(lambda: not lease.instance.is_alive())
    # Lifts the stop; with nobody waiting it starts nothing.
    await server.ask(Retry(), BOUND)


async def kill_owner(_server: Server, lease: Lease, _pid: int) -> None:
    lease.instance.kill("for a test")


ENDS: tuple[End, ...] = (kill, terminate, stop, kill_owner)


# ---- all of them ------------------------------------------------------------------------------------------------


async def one_lane(node: NodeRuntime, name: str, cycles: int, figures: Figures) -> None:
    server = node.context.world.world.servers[ServerName(name)].handle
    for number in range(cycles):
        await one_cycle(node, server, ENDS[number % len(ENDS)])
        figures.done += 1
        if figures.done % SAMPLE_EVERY == 0:
            figures.memory.append((figures.done, resident_bytes()))


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def entries(folder: Path) -> list[dict[str, object]]:
    (folder / "stub.sh").write_text(STUB)
    settings = {
        "command": "/bin/sh",
        "maxInstances": 1,
        "idleSeconds": 600,
        "stopGraceSeconds": 5,
        # Each end but one is a crash to the node; it must not get slower or give up by that.
        "restart": {"maxRetries": 1_000_000, "baseSeconds": 0.001, "maxSeconds": 0.001},
    }
    # The last argument makes each a server type of its own.
    return [
        {"name": f"lane{number}", "args": [str(folder / "stub.sh"), str(number)], **settings}
        for number in range(LANES)
    ]


@pytest.mark.soak
@pytest.mark.timeout(SOAK_TIMEOUT)
def test_ten_thousand_starts_and_kills_leave_nothing_and_memory_stays_flat(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = Figures()

    async def main() -> None:
        given = options(tmp_path, *entries(tmp_path), bootstrapMode="disabled")
        async with running(given) as (node, _file):
            names = [f"lane{number}" for number in range(LANES)]
            # What is made once and kept is there afterwards: lists, loggers, metrics.
            for name in names:
                await one_lane(node, name, len(ENDS), Figures())
            mark = f"{node.context.node_id}/"
            await until(lambda: not marked(mark))
            actors, descriptors, threads = node.system.live, len(open_fds()), threading.active_count()
            began = time.monotonic()

            async with asyncio.TaskGroup() as lanes:
                for name in names:
                    lanes.create_task(one_lane(node, name, CYCLES // LANES, figures))

            seconds = time.monotonic() - began
            # The last ones are still being swept up; what is not gone by then is what the figures name.
            with suppress(TimeoutError):
                async with asyncio.timeout(BOUND):
                    await until(lambda: not marked(mark))
                    await until(lambda: (node.system.live, len(open_fds())) == (actors, descriptors))
            ledger = (tmp_path / "state" / "ledger.jsonl").read_text().splitlines()
            medians = figures.medians()
            with capsys.disabled():
                print(
                    f"\nsoak: {figures.done} cycles in {seconds:.0f} s ({figures.done / seconds:.0f}/s);"
                    f" RSS by quarters {' '.join(f'{it:.1f}' for it in medians)} MiB;"
                    f" descriptors {descriptors} -> {len(open_fds())}, threads {threads} ->"
                    f" {threading.active_count()}, actors {actors} -> {node.system.live},"
                    f" ledger {len(ledger)} lines, processes left {len(marked(mark))}"
                )

            assert marked(mark) == []
            assert node.system.live == actors
            assert len(open_fds()) == descriptors
            assert threading.active_count() == threads
            assert len(ledger) < LEDGER_LINES
            assert (medians[3] - medians[1]) * 2**20 < MEMORY_SLACK

    # A hundred thousand lines that nobody reads.
    logger.disable("mcpv_node")
    try:
        uvloop.run(main())
    finally:
        logger.enable("mcpv_node")

    assert figures.done == CYCLES // LANES * LANES
