"""What a test may leave behind: nothing.

`take_census` counts what this process holds (threads, child processes, file descriptors, pykka actors);
`find_leaks` compares two censuses. Both are cheap: they run around every test.

Processes are found through /proc; where there is none (macOS), they are not counted.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# What a test asked to end may still be ending: a joined pool's thread, a child between exit and wait.
SETTLE_TIMEOUT = 3.0

POLL_INTERVAL = 0.01

# pytest-timeout's own watchdog, one per test.
FOREIGN_THREADS = ("pytest_timeout",)

# How much of a command line a message shows: enough to know the program.
COMMAND_LENGTH = 120


@dataclass(frozen=True, slots=True)
class Census:
    """What this process holds at one moment."""

    threads: frozenset[threading.Thread]
    children: frozenset[int]
    descriptors: frozenset[tuple[int, str]]
    actors: frozenset[str]


def take_census() -> Census:
    """Count what this process holds now."""
    threads = (t for t in threading.enumerate() if not t.name.startswith(FOREIGN_THREADS))
    return Census(
        threads=frozenset(threads),
        children=frozenset(_descendants(os.getpid())),
        descriptors=frozenset(_open_descriptors()),
        actors=frozenset(_registered_actors()),
    )


def find_leaks(before: Census, after: Census) -> list[str]:
    """Name everything `after` has and `before` had not, one sentence each."""
    threads = [
        f"thread {thread.name!r} runs on" for thread in after.threads - before.threads if thread.is_alive()
    ]
    children = [f"process {pid} is left: {_command(pid)}" for pid in after.children - before.children]
    descriptors = [
        f"file descriptor {fd} is open: {target}" for fd, target in after.descriptors - before.descriptors
    ]
    actors = [f"actor {name} is still registered with pykka" for name in after.actors - before.actors]
    return [*sorted(threads), *sorted(children), *sorted(descriptors), *sorted(actors)]


def wait_until_settled(before: Census, timeout: float = SETTLE_TIMEOUT) -> list[str]:
    """Give what is ending until `timeout` to end; return what is left then."""
    leaks = find_leaks(before, take_census())
    if not leaks:
        return []
    # Only now: a collection costs more than the census, and most tests leave nothing.
    gc.collect()
    deadline = time.monotonic() + timeout
    while (leaks := find_leaks(before, take_census())) and time.monotonic() < deadline:
        time.sleep(POLL_INTERVAL)
    return leaks


def kill_leaked_processes(before: Census) -> None:
    """End the processes a test left, so that they disturb no later test."""
    for pid in take_census().children - before.children:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        # A grandchild is not ours to reap; its own parent or init does.
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    pending = [pid]
    while pending:
        children = _children(pending.pop())
        found += children
        pending += children
    return found


def _children(pid: int) -> list[int]:
    children: list[int] = []
    # A process or thread may end between the listing and the reading: then it has no children.
    with suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with suppress(OSError):
                text = Path(f"/proc/{pid}/task/{task}/children").read_text()
                children += [int(word) for word in text.split()]
    return children


def _open_descriptors() -> list[tuple[int, str]]:
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    found: list[tuple[int, str]] = []
    for name in os.listdir(folder):
        # The listing's own descriptor is closed by now.
        with suppress(OSError):
            os.fstat(int(name))
            found.append((int(name), _target(f"{folder}/{name}")))
    return found


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:
        return "unknown"


def _registered_actors() -> list[str]:
    # Not imported here: most tests never need pykka.
    pykka = sys.modules.get("pykka")
    if pykka is None:
        return []
    return [str(ref) for ref in pykka.ActorRegistry.get_all()]


def _command(pid: int) -> str:
    with suppress(OSError):
        command = (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        )
        return command[:COMMAND_LENGTH] or "ended, but nobody waited for it"
    return "ended just now"
