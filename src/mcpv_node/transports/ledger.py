"""The ledger: which processes this node has started and not yet seen to end, on disk.

One JSON line per event, each in one write at the file's end, so that a crash can tear the last line only. It is
read when the node no longer can: by the guard, and by the next start (`reap_leftovers`).
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from .guard import (
    LedgerEntry,
    ReapReport,
    current_boot,
    ended_line,
    free_guard_lock,
    read_ledger,
    reap,
    started_line,
    try_guard_lock,
)

# About 64 KiB of lines about processes that are gone; rewriting the living ones then takes a millisecond.
COMPACT_AFTER = 512

# A guard of the last node that is still at work needs its grace and the time of a KILL; this is on top.
GUARD_MARGIN = 2.0

GUARD_INTERVAL = 0.05


class Ledger:
    """The ledger's writing end; one per node. Raises OSError when the disk does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._boot = current_boot()
        self._live = {entry.pgid: entry for entry in read_ledger(path)}
        self._dead_lines = 0
        self._fd = _open_for_append(path)
        self._is_torn = _ends_torn(self._fd)

    @property
    def live(self) -> tuple[LedgerEntry, ...]:
        """What was started and has not ended, in the order of the starts."""
        return tuple(self._live.values())

    def append_started(self, entry: LedgerEntry) -> None:
        """Write that a process runs: before anything is sent to it, so that no crash forgets it."""
        self._append(started_line(entry, self._boot))
        self._live[entry.pgid] = entry

    def append_ended(self, pgid: int) -> None:
        """Write that no process of the group is left; now and then this makes the file small again."""
        if self._live.pop(pgid, None) is None:
            return
        self._append(ended_line(pgid))
        self._dead_lines += 2
        if self._dead_lines >= COMPACT_AFTER and self._dead_lines > len(self._live):
            self.compact()

    def compact(self) -> None:
        """Rewrite the file with the living entries alone; a reader sees the old file or the new one."""
        fresh = _write_beside(self._path, self.live, self._boot)
        os.close(self._fd)
        self._fd = fresh
        self._is_torn = False
        self._dead_lines = 0

    def close(self) -> None:
        """Close the file; idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, line: bytes) -> None:
        # After a torn line, a new one begins a line of its own.
        data = b"\n" + line if self._is_torn else line
        written = os.write(self._fd, data)
        self._is_torn = written < len(data)
        if self._is_torn:
            raise OSError(f"the ledger {self._path} took {written} of {len(data)} bytes: is the disk full?")


def reap_leftovers(path: Path, mark_prefix: str, grace: float) -> ReapReport:
    """End what an earlier node left, as its guard would have, and empty the ledger but for what survives.

    For the start of a node, before it has a guard or a server. Blocks, only if there is something to end: up to `grace`
    seconds and the time of a KILL, and as long again for a guard that is already at it.
    """
    lock = _wait_for_guard(path, grace + GUARD_MARGIN)
    try:
        entries = read_ledger(path)
        report = reap(entries, mark_prefix, grace)
        surviving = {orphan.pgid for orphan in report.survivors}
        os.close(_write_beside(path, tuple(e for e in entries if e.pgid in surviving), current_boot()))
    finally:
        if lock is not None:
            free_guard_lock(lock)
    return report


def _wait_for_guard(path: Path, seconds: float) -> int | None:
    for _ in range(int(seconds / GUARD_INTERVAL)):
        if (lock := try_guard_lock(path)) is not None:
            return lock
        time.sleep(GUARD_INTERVAL)
    return try_guard_lock(path)


def _open_for_append(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _ends_torn(fd: int) -> bool:
    size = os.fstat(fd).st_size
    return size > 0 and os.pread(fd, 1, size - 1) != b"\n"


def _write_beside(path: Path, entries: tuple[LedgerEntry, ...], boot: str) -> int:
    """Replace the file in one step; return the new one, open for appending."""
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    fd = _open_for_append(beside)
    try:
        os.write(fd, b"".join(started_line(entry, boot) for entry in entries))
        os.replace(beside, path)
    except OSError:
        os.close(fd)
        raise
    return fd
