"""The process of one session: how it is started, how it speaks to its actor, how it ends without one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from msgspec import Struct

from mcpv_node.actors.context import NodeContext
from mcpv_node.actors.guard import GuardMessage, StrikeOff
from mcpv_node.actors.kernel import Handle
from mcpv_node.settings import LimitSettings, ServerSpec
from mcpv_node.telemetry import rfc3339
from mcpv_node.transports import (
    ExitStatus,
    LedgerEntry,
    StdioProcess,
    apply_limits,
    apply_limits_to_each,
    child_environment,
    resolve_program,
    stop_process,
)

# Between TERM and KILL of a stop: a server that has ignored the end of its input gets one more chance.
TERM_GRACE = 2.0


class Stdout(Struct, frozen=True, gc=False):
    """It wrote."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Stderr:
    """It complained."""

    data: bytes


@dataclass(frozen=True, slots=True)
class StdoutClosed:
    """It will say no more; it may live on."""


@dataclass(frozen=True, slots=True)
class Exited:
    """It has ended."""

    status: ExitStatus


ProcessMessage: TypeAlias = Stdout | Stderr | StdoutClosed | Exited


class Sink:
    """Turns the process's callbacks into messages: handlers are the only place where the actor acts.

    `tell_now` has what is not told before read at once: somebody waits for the answer that stands in it.
    """

    __slots__ = ("_tell", "_tell_now")

    def __init__(
        self, tell: Callable[[ProcessMessage], None], tell_now: Callable[[ProcessMessage], None]
    ) -> None:
        self._tell = tell
        self._tell_now = tell_now

    def on_stdout(self, data: bytes) -> None:
        self._tell_now(Stdout(data))

    def on_stderr(self, data: bytes) -> None:
        self._tell(Stderr(data))

    def on_stdout_closed(self) -> None:
        self._tell(StdoutClosed())

    def on_exit(self, status: ExitStatus) -> None:
        self._tell(Exited(status))


@dataclass(frozen=True, slots=True)
class Started:
    """A process, what the ledger is to know of it, and a sentence for each limit that the system refused."""

    process: StdioProcess
    entry: LedgerEntry
    refused: tuple[str, ...]


def start_process(
    spec: ServerSpec,
    *,
    mark: str,
    node: NodeContext,
    tell: Callable[[ProcessMessage], None],
    tell_now: Callable[[ProcessMessage], None],
) -> Started:
    """Start what the spec says, limited as it says; raises StartError. `mark` is in its environment and its heirs'."""
    environment = child_environment(node.environ, spec.env, mark)
    program = resolve_program(spec.command, path=environment.get("PATH", ""), cwd=spec.cwd)
    process = StdioProcess.spawn(
        (program, *spec.args), env=environment, cwd=spec.cwd, sink=Sink(tell, tell_now)
    )
    entry = LedgerEntry(
        instance=mark,
        pid=process.pid,
        pgid=process.pgid,
        start_time=process.start_time,
        argv0=program,
        at=rfc3339(node.clock.wall()),
    )
    return Started(process, entry, _limit(process, spec.limits))


async def end_orphaned(process: StdioProcess, guard: Handle[GuardMessage], node: NodeContext) -> None:
    """End a process whose actor is gone; the ledger keeps it until it has ended."""
    report = await stop_process(process, grace=0.0, term_grace=TERM_GRACE, clock=node.clock)
    process.close()
    if not report.survivors:
        guard.tell(StrikeOff(process.pgid))


def describe_exit(status: ExitStatus, *, was_ready: bool) -> str:
    """Say how it ended, and whether that was before anybody could use it."""
    how = f"was ended by signal {status.signal}" if status.signal else f"exited with code {status.code}"
    return how if was_ready else f"{how} before the handshake was complete"


def limit_group(process: StdioProcess, limits: LimitSettings) -> tuple[str, ...]:
    """Limit a running server as its spec says now; blocks. A sentence for each limit that was refused."""
    return apply_limits_to_each(
        process.remaining_members(),
        open_files=limits.open_files,
        cpu_seconds=limits.cpu_seconds,
        nice=limits.nice,
    )


def are_enforced_alike(one: LimitSettings, other: LimitSettings) -> bool:
    """Tell whether two entries ask the system for the same."""
    return (one.open_files, one.cpu_seconds, one.nice) == (other.open_files, other.cpu_seconds, other.nice)


def _limit(process: StdioProcess, limits: LimitSettings) -> tuple[str, ...]:
    return apply_limits(
        process.pid, open_files=limits.open_files, cpu_seconds=limits.cpu_seconds, nice=limits.nice
    )
