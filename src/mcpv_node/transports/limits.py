"""What a server may use: looked at (memory), or set (the rest).

Memory is the resident set of the whole group, looked at from time to time: a limit on address space would end a
Node server at 600 MB of mere reservations.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from .guard import HAS_PROC, Process, find_process


@dataclass(frozen=True, slots=True)
class GroupUsage:
    """What the living processes of a group hold, and have used."""

    rss_bytes: int = 0
    cpu_seconds: float = 0.0


def usage_by_group(pgids: Collection[int]) -> dict[int, GroupUsage]:
    """Return what each of these process groups uses, in one look at the process table.

    A group that is gone uses nothing. Pages that several processes share are counted for each. Empty where there is no
    /proc.
    """
    if not HAS_PROC:
        return {}
    page, ticks = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_CLK_TCK")
    totals = dict.fromkeys(pgids, GroupUsage())
    for name in os.listdir("/proc"):
        if name.isdigit() and (stat := _read_stat(name)):
            # Counted from the last bracket, since a command's name may hold any; proc(5) numbers them from 3 there.
            fields = stat.rpartition(b")")[2].split()
            pgid = int(fields[2])
            if (known := totals.get(pgid)) is not None:
                spent = (int(fields[11]) + int(fields[12])) / ticks
                totals[pgid] = GroupUsage(known.rss_bytes + int(fields[21]) * page, known.cpu_seconds + spent)
    return totals


def rss_by_group(pgids: Collection[int]) -> dict[int, int]:
    """Return the resident bytes of each of these process groups, in one look at the process table."""
    return {pgid: usage.rss_bytes for pgid, usage in usage_by_group(pgids).items()}


def group_rss_bytes(pgid: int) -> int | None:
    """Return the resident bytes of one group; None where the system does not say. For many: `rss_by_group`."""
    return rss_by_group((pgid,)).get(pgid)


def apply_limits(
    pid: int, *, open_files: int | None = None, cpu_seconds: int | None = None, nice: int | None = None
) -> tuple[str, ...]:
    """Limit a group's leader, and with it what it starts from now on; return a sentence per limit that was refused.

    Not before its exec, as that would need code in the forked child; the few milliseconds between are a server's own.
    """
    problems = _step_back(os.PRIO_PGRP, pid, nice)
    for name, number, value in (
        ("openFiles", resource.RLIMIT_NOFILE, open_files),
        ("cpuSeconds", resource.RLIMIT_CPU, cpu_seconds),
    ):
        if value is not None and (problem := _limit(pid, name, number, value)):
            problems.append(problem)
    return tuple(problems)


def apply_limits_to_each(
    processes: Iterable[Process],
    *,
    open_files: int | None = None,
    cpu_seconds: int | None = None,
    nice: int | None = None,
) -> tuple[str, ...]:
    """Limit running processes, and what they start from now on; return a sentence per limit that was refused.

    What a limit was before is not remembered: None leaves it as it is.
    """
    problems: list[str] = []
    for process in processes:
        found = find_process(process.pid)
        # Its number may be somebody else's by now.
        if found is not None and found.start_time == process.start_time:
            problems += apply_limits(process.pid, open_files=open_files, cpu_seconds=cpu_seconds)
            problems += _step_back(os.PRIO_PROCESS, process.pid, nice)
    return tuple(dict.fromkeys(problems))


def _step_back(which: int, who: int, nice: int | None) -> list[str]:
    if nice is None:
        return []
    try:
        os.setpriority(which, who, nice)
    except ProcessLookupError:
        return []  # it has ended
    except OSError as error:
        return [f"nice {nice} was refused: {error.strerror}"]
    return []


def _limit(pid: int, name: str, number: int, value: int) -> str | None:
    if sys.platform != "linux":
        return f"{name} is not supported on this system: it cannot limit another process"
    try:
        resource.prlimit(pid, number, (value, value))
    except ProcessLookupError:
        return None  # it has ended
    except (OSError, ValueError) as error:
        return f"{name} {value} was refused: {error}"
    return None


def _read_stat(pid: str) -> bytes | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read()
    except OSError:
        # It has just ended.
        return None
