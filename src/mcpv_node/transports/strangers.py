"""Children that are not ours: orphans that the system gives to the first process of a container, and nobody waits for.

A process that has ended stays in the table until its parent has asked how. An orphan's new parent is the first
process of its PID namespace, or the nearest ancestor that has asked for that (PR_SET_CHILD_SUBREAPER). Where that is
us, nobody else will ask.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable
from contextlib import suppress

from .guard import Process, find_process

# prctl(2)
PR_GET_CHILD_SUBREAPER = 37

# One process for ever: its number, and when it was started.
ProcessKey = tuple[int, int]


def receives_orphans() -> bool:
    """Tell whether orphans become children of this process."""
    if os.getpid() == 1:
        return True
    if sys.platform != "linux":
        return False
    # Not at the top: only who starts a node asks.
    import ctypes

    answer = ctypes.c_int(0)
    try:
        failed = ctypes.CDLL(None).prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
    except (OSError, AttributeError):
        return False
    return not failed and bool(answer.value)


def decide_strangers(
    ended: Iterable[ProcessKey], seen: Collection[ProcessKey], own: Collection[int]
) -> tuple[int, ...]:
    """Say for which of the children that have ended nobody is waiting.

    `seen` are those of the look before: whoever waits for a child hears of its end at once, so one that lies there at
    two looks is nobody's. `own` are never touched: how they ended is asked for by others.
    """
    return tuple(pid for pid, start_time in ended if (pid, start_time) in seen and pid not in own)


class Strangers:
    """Waits for strangers among the children of this process; looks a second or so apart, by one owner."""

    def __init__(self) -> None:
        self._seen: frozenset[ProcessKey] = frozenset()

    def reap(self, *, own: Collection[int]) -> tuple[int, ...]:
        """Look once; return the process ids of those that are gone now."""
        ended = frozenset(
            (child.pid, child.start_time) for child in children_of_this_process() if not child.alive
        )
        strangers = decide_strangers(ended, self._seen, own)
        for pid in strangers:
            # Until we ask, its number is nobody else's. WNOHANG: whatever we believe, we do not wait here.
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
        self._seen = ended
        return strangers


def children_of_this_process() -> tuple[Process, ...]:
    """Look up the children of all threads of this process; empty where the system does not say."""
    children: list[Process] = []
    with suppress(OSError):
        for thread in os.listdir("/proc/self/task"):
            # A thread, or a child, may end while we look.
            with suppress(OSError), open(f"/proc/self/task/{thread}/children", "rb") as file:
                found = (find_process(int(pid)) for pid in file.read().split())
                children += [child for child in found if child is not None]
    return tuple(children)
