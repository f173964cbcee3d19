"""The guard: what ends the servers' processes when the node no longer can.

Run by path (`python -I -S guard.py LEDGER MARK_PREFIX GRACE PARENT_PID`), standard library only and few modules of it, so
that it costs about 10 MB. It sits in a session of its own, ignores the signals of a terminal and of a polite
stop, prints nothing, and waits for its standard input to end, for a word on it, or for its parent to be gone,
whichever comes first. Then it does what the next start of the node would do: `reap`.

What it promises: a process is signalled only if it is provably ours. Proof is the start time of a group's leader
as the ledger has it, or our mark (`MCPV_INSTANCE=<node>/<instance>`) in the environment of a process of the same
user. A number that the system gave to somebody else meanwhile is never enough.

The records are named tuples: a dataclass would cost the guard one more megabyte, and `typing` half of one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Iterable, Iterator

# A name that type checkers know; the real one stands in `typing`.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import NamedTuple
else:

    class _Fields(type):
        """Makes a class's annotations the fields of a named tuple."""

        def __new__(cls, name, bases, members):
            if not bases:
                return super().__new__(cls, name, bases, members)
            made = namedtuple(name, members["__annotations__"], module=__name__)
            made.__doc__ = members["__doc__"]
            return made

    class NamedTuple(metaclass=_Fields):
        """As much of `typing.NamedTuple` as the records below need."""


MARK_VARIABLE = "MCPV_INSTANCE"

# A leftover that reacts to TERM is usually gone within milliseconds; looking oftener only costs scans.
REAP_INTERVAL = 0.05

# What KILL does not end within this sits in the kernel; waiting longer does not help it, so it is reported.
KILL_WAIT = 1.0

# From its fork to the end of its exec a process shows nothing of its environment, so that nobody can say whose it is:
# that takes milliseconds, and on a busy machine some more (seconds).
EXEC_BOUND = 1.0

# Where no pidfd tells of the parent's end, this is how late the guard may hear of it.
PARENT_CHECK_INTERVAL_MS = 1000

# Of the same size as a pipe's buffer; what the node says is never more than a word.
WORD_SIZE = 4096

HAS_PROC = sys.platform == "linux"


class LedgerEntry(NamedTuple):
    """A server process that was started and, as far as the ledger knows, not seen to end."""

    instance: str  # the mark: <node>/<instance>
    pid: int
    pgid: int
    start_time: int | None  # with the pid it names one process for ever; None where the system does not say
    argv0: str
    at: str  # for people; RFC 3339


class Process(NamedTuple):
    """One process as the process table shows it."""

    pid: int
    pgid: int
    start_time: int
    alive: bool  # False for a zombie: it has ended, only nobody waited for it


class Orphan(NamedTuple):
    """A process that was found left behind, and proved to be ours."""

    pid: int
    pgid: int
    instance: str | None  # None: it has rewritten its environment; its group proved it


class ReapReport(NamedTuple):
    """What a reaping found and did."""

    ended: tuple[Orphan, ...]
    strangers: tuple[LedgerEntry, ...]  # their numbers now belong to somebody else: not touched
    survivors: tuple[Orphan, ...]  # not ended by KILL


# ---- the ledger's lines -------------------------------------------------------------------------------------


def current_boot() -> str:
    """Name this boot of the machine, or "" where it has no name.

    Process ids and start times count from zero after each boot, so an entry proves nothing in another one.
    """
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            return file.read().strip()
    except OSError:
        return ""


def started_line(entry: LedgerEntry, boot: str) -> bytes:
    """Write the line that a process was started."""
    return _line({"event": "started", "boot": boot, **entry._asdict()})


def ended_line(pgid: int) -> bytes:
    """Write the line that a group is gone."""
    return _line({"event": "ended", "pgid": pgid})


def parse_ledger(lines: Iterable[bytes], boot: str) -> dict[int, LedgerEntry]:
    """Return the entries of this boot that have not ended, by group.

    A line that cannot be read is passed over: the last one may have been torn by the very crash we clean up.
    """
    live: dict[int, LedgerEntry] = {}
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):
            record = json.loads(line)
            if record["event"] == "ended":
                live.pop(record["pgid"], None)
            elif record["event"] == "started" and record["boot"] == boot:
                entry = _parse_entry(record)
                live[entry.pgid] = entry
    return live


def read_ledger(path: str | os.PathLike[str]) -> tuple[LedgerEntry, ...]:
    """Read what the ledger says is running; a ledger that is not there says nothing."""
    try:
        with open(path, "rb") as file:
            return tuple(parse_ledger(file, current_boot()).values())
    except FileNotFoundError:
        return ()


def _line(record: dict[str, object]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def _parse_entry(record: dict[str, object]) -> LedgerEntry:
    pid, pgid, start_time = record["pid"], record["pgid"], record["start_time"]
    # Group 0 would be our own and group 1 everybody's: no line may ever name them.
    if not (isinstance(pid, int) and isinstance(pgid, int) and pid > 1 and pgid > 1):
        raise ValueError("a ledger entry needs a pid and a group above 1")
    if not (start_time is None or isinstance(start_time, int)):
        raise TypeError("a start time is a number or null")
    return LedgerEntry(
        instance=str(record["instance"]),
        pid=pid,
        pgid=pgid,
        start_time=start_time,
        argv0=str(record["argv0"]),
        at=str(record["at"]),
    )


# ---- the process table --------------------------------------------------------------------------------------


def parse_stat(stat: bytes) -> Process:
    """Read one line of /proc/<pid>/stat."""
    # The command's name stands in brackets and may itself hold brackets and spaces: count from the last one.
    head, _, tail = stat.rpartition(b")")
    fields = tail.split()
    return Process(
        pid=int(head.split(b" ", 1)[0]),
        pgid=int(fields[2]),
        start_time=int(fields[19]),
        alive=fields[0] not in (b"Z", b"X"),
    )


def find_process(pid: int) -> Process | None:
    """Look one process up; None if there is none (or, where only `ps` knows, none that `ps` can show)."""
    if not HAS_PROC:
        return next((process for process in _processes_of_ps() if process.pid == pid), None)
    return parse_stat(stat) if (stat := _read(f"/proc/{pid}/stat")) else None


def own_processes() -> Iterator[Process]:
    """Yield the processes of our user; one that ends meanwhile is left out."""
    if not HAS_PROC:
        yield from _processes_of_ps()
        return
    user = os.geteuid()
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{name}").st_uid == user and (stat := _read(f"/proc/{name}/stat")):
                yield parse_stat(stat)


def read_mark(pid: int) -> str | None:
    """Return the mark in a process's environment as it was at its start; None without one or without the right."""
    return mark_in(read_environ(pid))


def read_environ(pid: int) -> bytes | None:
    """Return a process's environment as it was at its start; b"" also while it is being started."""
    return _read(f"/proc/{pid}/environ")


def is_starting(process: Process) -> bool:
    """Tell whether an environment that shows nothing may soon show something: of a process that is in its exec."""
    if not HAS_PROC:
        return False
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - process.start_time / os.sysconf("SC_CLK_TCK")
    if age > EXEC_BOUND:
        return False
    try:
        os.readlink(f"/proc/{process.pid}/exe")
    except OSError:
        return False  # a thread of the kernel's, or gone
    return True


def mark_in(environ: bytes | None) -> str | None:
    """Return the mark in an environment."""
    if not environ:
        return None
    # The cheap question first: nearly every process answers it with no.
    name = MARK_VARIABLE.encode() + b"="
    if name not in environ:
        return None
    values = [item[len(name) :] for item in environ.split(b"\0") if item.startswith(name)]
    return os.fsdecode(values[-1]) if values else None


def group_members(pgid: int) -> tuple[Process, ...]:
    """Return the living members of a process group; zombies do not count."""
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        return ()
    except PermissionError:
        # Somebody is there, and nobody of them is ours.
        pass
    return tuple(process for process in own_processes() if process.pgid == pgid and process.alive)


def signal_exactly(process: Process, number: int) -> bool:
    """Signal this very process, not one that got its number since; tell whether it was still there."""
    found = find_process(process.pid)
    if found is None or found.start_time != process.start_time or not found.alive:
        return False
    try:
        os.kill(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _read(path: str) -> bytes | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        chunks: list[bytes] = []
        while chunk := os.read(fd, 1 << 16):
            chunks.append(chunk)
        return b"".join(chunks)
    except OSError:
        # The process ended between the opening and the reading.
        return None
    finally:
        os.close(fd)


def _processes_of_ps() -> tuple[Process, ...]:
    """Do what /proc does, for macOS. No marks there: a group whose leader is gone cannot be proved ours."""
    # Not at the top: the guard on Linux does without it.
    import subprocess

    listing = subprocess.run(
        ["/bin/ps", "-U", str(os.geteuid()), "-o", "pid=,pgid=,stat=,lstart="],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env={"LC_ALL": "C"},
        check=False,
    ).stdout.decode(errors="replace")
    return tuple(parse_ps(listing))


def parse_ps(listing: str) -> Iterator[Process]:
    """Read lines of `ps -o pid=,pgid=,stat=,lstart=`; the start time is in seconds, which is all `ps` says."""
    for line in listing.splitlines():
        fields = line.split(maxsplit=3)
        with contextlib.suppress(ValueError):
            if len(fields) == 4:
                started = int(time.mktime(time.strptime(fields[3].strip(), "%a %b %d %H:%M:%S %Y")))
                yield Process(int(fields[0]), int(fields[1]), started, not fields[2].startswith("Z"))


# ---- whose is it --------------------------------------------------------------------------------------------


class Findings(NamedTuple):
    """What one look at the process table shows of what is ours."""

    orphans: tuple[tuple[Process, str | None], ...]  # each with its mark, where it still shows one
    strangers: tuple[LedgerEntry, ...]


def decide_ours(
    entries: Iterable[LedgerEntry],
    processes: Iterable[Process],
    *,
    mark_of: Callable[[int], str | None],
    mark_prefix: str,
    proven: Iterable[tuple[int, int]] = (),
    spared: Iterable[int] = (),
) -> Findings:
    """Decide which processes are left over from us.

    `proven` are the (pid, start time) pairs of an earlier look: their groups stay ours when the leader that
    proved them has gone meanwhile. `spared` are processes that must not be touched whatever their mark: a
    node started from inside one of its own servers inherits one.
    """
    present = {process.pid: process for process in processes}
    untouchable = set(spared)
    known = set(proven)
    groups: dict[int, list[Process]] = {}
    for process in present.values():
        groups.setdefault(process.pgid, []).append(process)
    marks = {
        process.pid: mark
        for process in present.values()
        if process.alive and (mark := mark_of(process.pid)) is not None and mark.startswith(mark_prefix)
    }

    ours: set[int] = set(marks)
    strangers: list[LedgerEntry] = []
    for entry in entries:
        members = groups.get(entry.pgid, [])
        if not any(process.alive for process in members):
            continue
        leader = present.get(entry.pid)
        if leader is not None and entry.start_time is not None:
            is_ours = leader.start_time == entry.start_time
        else:
            # The number of a group cannot be given anew while a member is left, so one of us proves it.
            is_ours = any(
                marks.get(process.pid) == entry.instance or (process.pid, process.start_time) in known
                for process in members
            )
        if is_ours:
            ours.update(process.pid for process in members)
        else:
            strangers.append(entry)

    orphans = tuple(
        (process, marks.get(pid))
        for pid, process in present.items()
        if pid in ours and process.alive and pid not in untouchable
    )
    return Findings(orphans, tuple(strangers))


# ---- the reaping --------------------------------------------------------------------------------------------


def reap(entries: Iterable[LedgerEntry], mark_prefix: str, grace: float) -> ReapReport:
    """End everything that is left of us: TERM, up to `grace` seconds, KILL, up to `KILL_WAIT` seconds.

    Blocks for as long as something is left. Every round looks anew, so what a leftover starts meanwhile is found.
    """
    if not mark_prefix.endswith("/"):
        raise ValueError(f"mark prefix {mark_prefix!r} does not end with a slash: it would match other nodes")
    entries = tuple(entries)
    spared = _self_and_ancestors()
    found: dict[tuple[int, int], Orphan] = {}
    silent: set[int] = set()

    def mark_of(pid: int) -> str | None:
        environ = read_environ(pid)
        if environ == b"":
            silent.add(pid)
        return mark_in(environ)

    asked: set[tuple[int, int]] = set()
    began = time.monotonic()
    while True:
        silent.clear()
        processes = tuple(own_processes())
        findings = decide_ours(
            entries,
            processes,
            mark_of=mark_of,
            mark_prefix=mark_prefix,
            proven=found,
            spared=spared,
        )
        for process, mark in findings.orphans:
            found.setdefault((process.pid, process.start_time), Orphan(process.pid, process.pgid, mark))
        elapsed = time.monotonic() - began
        may_follow = elapsed < EXEC_BOUND and any(
            is_starting(process) for process in processes if process.pid in silent
        )
        if elapsed >= grace + KILL_WAIT or not (findings.orphans or may_follow):
            break
        for process, _ in findings.orphans:
            if elapsed >= grace:
                signal_exactly(process, signal.SIGKILL)
            elif (process.pid, process.start_time) not in asked:
                asked.add((process.pid, process.start_time))
                signal_exactly(process, signal.SIGTERM)
        time.sleep(REAP_INTERVAL)
    left = {(process.pid, process.start_time) for process, _ in findings.orphans}
    return ReapReport(
        ended=tuple(orphan for key, orphan in found.items() if key not in left),
        strangers=findings.strangers,
        survivors=tuple(orphan for key, orphan in found.items() if key in left),
    )


def _self_and_ancestors() -> set[int]:
    spared = {os.getpid(), os.getppid()}
    pid = os.getppid()
    while HAS_PROC and pid > 1 and (stat := _read(f"/proc/{pid}/stat")):
        pid = int(stat.rpartition(b")")[2].split()[1])
        spared.add(pid)
    return spared


# ---- one guard at a time ------------------------------------------------------------------------------------


def guard_lock_path(ledger: str | os.PathLike[str]) -> str:
    """Name the file that a guard holds locked for as long as it lives."""
    return f"{os.fspath(ledger)}.guard"


def try_guard_lock(ledger: str | os.PathLike[str]) -> int | None:
    """Take the guard's lock if it is free; it is held until every copy of the returned descriptor is closed.

    A guard at work takes everything with its node's mark for a leftover, also what the next node of the same
    name has just started. So the next node first waits until it gets this lock, and gives it to its own guard.
    """
    fd = os.open(guard_lock_path(ledger), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def free_guard_lock(lock: int) -> None:
    """Free the lock that `try_guard_lock` took, also of copies that a fork elsewhere in this process has made."""
    fcntl.flock(lock, fcntl.LOCK_UN)
    os.close(lock)


# ---- the process itself -------------------------------------------------------------------------------------


def wait_for_end_of_node(stdin: int, parent: int) -> None:
    """Return when `stdin` ends or says anything, or when the parent is gone.

    Not by the pipe alone: a process that the node's host has forked holds a copy of its other end.
    """
    poll = select.poll()
    poll.register(stdin, select.POLLIN | select.POLLHUP)
    watch = _open_pidfd(parent)
    if watch is not None:
        poll.register(watch, select.POLLIN)
    while os.getppid() == parent:
        ready = {fd for fd, _ in poll.poll(None if watch is not None else PARENT_CHECK_INTERVAL_MS)}
        if watch in ready:
            break
        if stdin in ready:
            # Whether a word or the end: both mean that the node is done.
            os.read(stdin, WORD_SIZE)
            break
    if watch is not None:
        os.close(watch)


def _open_pidfd(pid: int) -> int | None:
    if sys.platform != "linux":
        return None
    try:
        return os.pidfd_open(pid)
    except OSError:
        return None


def main(arguments: list[str]) -> int:
    """Guard until the node is gone, then reap what it left."""
    # The parent is named, not asked for: it may be gone before we could ask.
    ledger, mark_prefix, grace, parent = arguments
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGTSTP", "SIGUSR1", "SIGUSR2"):
        signal.signal(signal.Signals[name], signal.SIG_IGN)
    # Without it the guard would keep a folder busy for as long as the node lives.
    os.chdir("/")
    wait_for_end_of_node(0, int(parent))
    reap(read_ledger(ledger), mark_prefix, float(grace))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
