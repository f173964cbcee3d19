"""Looking at processes that are not ours to wait for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

# Foreign processes end when they do; a test that needs longer than this has found something.
TIMEOUT = 15.0

INTERVAL = 0.01


def wait_until(predicate: Callable[[], bool], timeout: float = TIMEOUT) -> bool:
    """Look again and again until `predicate` holds; False if it does not within `timeout`."""
    deadline = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() > deadline:
            return predicate()
        time.sleep(INTERVAL)
    return True


def alive(pid: int) -> bool:
    """Tell whether a process lives; a zombie does not."""
    fields = _stat(pid)
    return fields is not None and fields[0] not in ("Z", "X")


def group_members(pgid: int) -> list[int]:
    """Return the living members of a process group."""
    return [pid for pid in process_census() if (fields := _stat(pid)) is not None and fields[2] == str(pgid)]


def marked(prefix: str) -> list[int]:
    """Return the living processes whose environment has our mark beginning with `prefix`."""
    wanted = f"MCPV_INSTANCE={prefix}".encode()
    return [pid for pid in process_census() if any(i.startswith(wanted) for i in _environ(pid).split(b"\0"))]


def process_census() -> set[int]:
    """Return every living process."""
    return {int(name) for name in os.listdir("/proc") if name.isdigit() and alive(int(name))}


def open_fds() -> set[int]:
    """Return the descriptors this process holds."""
    found: set[int] = set()
    for name in os.listdir("/proc/self/fd"):
        # The listing's own descriptor is closed by now.
        if os.path.exists(f"/proc/self/fd/{name}") or os.path.islink(f"/proc/self/fd/{name}"):
            found.add(int(name))
    return found


def start_time(pid: int) -> int:
    """Return the start time of a process as the kernel counts it."""
    fields = _stat(pid)
    assert fields is not None, f"there is no process {pid}"
    return int(fields[19])


def _stat(pid: int) -> list[str] | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def _environ(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""
