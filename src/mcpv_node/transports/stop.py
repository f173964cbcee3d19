"""Stopping a server's process in the order of the specification, and whatever it leaves behind.

Close its stdin, wait; TERM the group, wait; KILL the group, wait; say what still lives. It is about the group: a
leader that ends and leaves members behind has not stopped. Returns within `grace + term_grace + KILL_WAIT`, plus
`EXEC_BOUND` if anybody is being started just then, plus `ESCAPEE_GRACE + KILL_WAIT` if there are escapees.
"""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass
from typing import Literal

from mcpv_node.telemetry.clock import Clock

from .guard import (
    EXEC_BOUND,
    Process,
    is_starting,
    mark_in,
    own_processes,
    read_environ,
    signal_exactly,
)
from .stdio import StdioProcess

How = Literal["already", "asked", "terminated", "killed"]

# A killed process is gone when the kernel has torn it down. One that takes longer hangs in the kernel: it is named.
KILL_WAIT = 0.5

# Whoever left the group has lost the server it belongs to; it gets the time to put its files in order.
ESCAPEE_GRACE = 0.3

# The leader's end is an event; only what it left behind is looked for. Each look costs a scan of /proc.
MEMBER_INTERVAL = 0.02

# So many processes are looked at in about a millisecond; then the loop's other work has its turn.
SCAN_SLICE = 64


@dataclass(frozen=True, slots=True)
class StopReport:
    """How a process was stopped and what it left."""

    how: How
    survivors: tuple[int, ...]  # pids that even KILL did not end
    seconds: float


async def stop_process(
    process: StdioProcess, *, grace: float, term_grace: float, clock: Clock, sweep: bool = True
) -> StopReport:
    """Stop a process and its group; `sweep` also ends what left the group but carries the process's mark.

    Swept is whenever the process did not simply end on being asked: a crash or a signal is what detached
    helpers (browsers, above all) do not survive in order. One that ended as asked has done its own
    cleaning, and a look at every process of the machine for each orderly stop would cost more than it finds; what
    it left on purpose is found when the node ends. A node that stops all at once sweeps once itself.
    """
    began = clock.monotonic()
    how = await _end_group(process, grace=grace, term_grace=term_grace)
    survivors = [member.pid for member in process.remaining_members()]
    if sweep and how != "asked":
        survivors += await _end_escapees(process)
    return StopReport(how, tuple(dict.fromkeys(survivors)), clock.monotonic() - began)


async def _end_group(process: StdioProcess, *, grace: float, term_grace: float) -> How:
    if not process.group_alive():
        return "already"
    process.close_stdin(flush_timeout=grace / 2)
    if await _group_ends_within(grace, process):
        return "asked"
    process.signal_group(signal.SIGTERM)
    if await _group_ends_within(term_grace, process):
        return "terminated"
    process.signal_group(signal.SIGKILL)
    await _group_ends_within(KILL_WAIT, process)
    return "killed"


async def _group_ends_within(seconds: float, process: StdioProcess) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await process.wait_exit()
            # Nothing tells of the end of a process that is not our child.
            while process.group_alive():  # noqa: ASYNC110
                await asyncio.sleep(MEMBER_INTERVAL)
    except TimeoutError:
        return not process.group_alive()
    return True


async def _end_escapees(process: StdioProcess) -> list[int]:
    await _wait_for_execs(process)
    for number, seconds in ((signal.SIGTERM, ESCAPEE_GRACE), (signal.SIGKILL, KILL_WAIT)):
        escapees, _ = await _find_escapees(process)
        if not escapees:
            return []
        for escapee in escapees:
            signal_exactly(escapee, number)
        try:
            async with asyncio.timeout(seconds):
                while (await _find_escapees(process))[0]:  # noqa: ASYNC110
                    await asyncio.sleep(MEMBER_INTERVAL)
        except TimeoutError:
            continue
    return [escapee.pid for escapee in (await _find_escapees(process))[0]]


async def _wait_for_execs(process: StdioProcess) -> None:
    """What was started right before the end shows whose it is a moment later."""
    for _ in range(int(EXEC_BOUND / MEMBER_INTERVAL)):
        found, may_follow = await _find_escapees(process)
        if found or not may_follow:
            return
        await asyncio.sleep(MEMBER_INTERVAL)


async def _find_escapees(process: StdioProcess) -> tuple[list[Process], bool]:
    """Those that carry the mark, and whether more may show it soon."""
    mark, since = process.mark, process.start_time
    found: list[Process] = []
    may_follow = False
    if mark is None or since is None:
        return found, may_follow
    for number, candidate in enumerate(own_processes()):
        if number % SCAN_SLICE == 0:
            await asyncio.sleep(0)
        # A mark is one start's alone, so what is older than its leader cannot carry it.
        if not candidate.alive or candidate.start_time < since:
            continue
        environ = read_environ(candidate.pid)
        if mark_in(environ) == mark:
            found.append(candidate)
        elif environ == b"" and is_starting(candidate):
            may_follow = True
    return found, may_follow
