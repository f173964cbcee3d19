"""An instance whose server is a child process: how it is started, how it speaks, how it ends.

The process is spawned and enlisted with the guard before the handshake begins, and no process of its group is left
whatever ends the session.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from mcpv_node.actors.guard import Enlist, GuardMessage, StrikeOff
from mcpv_node.actors.kernel import ExitReason, Handle, handles
from mcpv_node.protocol import CANCELLED, Line, LineFramer, Overlong, cancelled, encode_notification
from mcpv_node.settings import ServerSpec
from mcpv_node.transports import (
    ExitStatus,
    ProgramNotFound,
    StartError,
    StdioProcess,
    group_rss_bytes,
    stop_process,
)

from .actor import Instance, Phase
from .memory import complaint, look_interval
from .messages import ExitDetail, InstanceStarting
from .moments import Enlisted, GroupLimited, LookAtMemory, MemorySeen, StartTimedOut, StillOpenEnded, Stopped
from .pings import stagger
from .process import (
    TERM_GRACE,
    Exited,
    Stderr,
    Stdout,
    StdoutClosed,
    are_enforced_alike,
    describe_exit,
    end_orphaned,
    limit_group,
    start_process,
)
from .stderr import LogAllowance, StderrRing

# The guard appends one line to a file; longer means that the disk hangs, and then nothing should start.
ENLIST_TIMEOUT = 5.0

# A process that ends closes its stdout on the way; its exit, which says more, follows within milliseconds.
EXIT_PATIENCE = 0.25

# What a server has not read of what we sent before we stop sending: it is not reading at all.
MAX_UNSENT = 64 * 1024 * 1024

STDERR_LINES = 20


class StdioInstance(Instance):
    """See the module."""

    def __init__(self, *args: Any, guard: Handle[GuardMessage], **more: Any) -> None:
        super().__init__(*args, **more)
        self._guard = guard
        self._process: StdioProcess | None = None
        self._framer = LineFramer(self._node.settings.limits.line_bytes)
        self._stderr = StderrRing()
        self._stderr_allowance = LogAllowance()
        self._last_lines: tuple[tuple[str, ...], tuple[str, ...]] = (), ()  # as written, and as shown
        self._exit_status: ExitStatus | None = None
        self._looks_at_memory = False

    # --- start ----------------------------------------------------------------------------------

    def on_start(self, estate: None = None) -> None:
        mark = f"{self._node.node_id}/{self._id}"
        try:
            started = start_process(
                self._spec, mark=mark, node=self._node, tell=self.note, tell_now=self.note_now
            )
        except StartError as error:
            if isinstance(error, ProgramNotFound) and error.path is not None:
                self._log.warning("{}: {}", error, error.path)
            self._fail_start(str(error), fatal=error.is_fatal)
            return
        self._process = started.process
        for problem in started.refused:
            self._log.warning("a limit is not in force: {}", problem)
        self._owner.tell(InstanceStarting(self._id, started.process.pid))
        self._start_timer = self.after(self._spec.start_timeout_seconds, StartTimedOut())
        self.run(self._guard.ask(Enlist(started.entry), ENLIST_TIMEOUT), Enlisted)

    @handles(Enlisted)
    def _on_enlisted(self, message: Enlisted) -> None:
        if isinstance(message.outcome, Exception):
            self._begin_stop(f"could not be entered in the ledger: {message.outcome}")
        elif self._phase is Phase.STARTING:
            self._begin_handshake()

    def _on_ready(self) -> None:
        if self._spec.limits.memory_mb is not None:
            self._looks_at_memory = True
            self.after(stagger(self._id, look_interval(self._spec)), LookAtMemory())

    def _on_respec_done(self, before: ServerSpec) -> None:
        if self._phase is Phase.READY and not self._looks_at_memory:
            self._on_ready()
        process, limits = self._process, self._spec.limits
        if process is not None and not are_enforced_alike(before.limits, limits):
            # On a thread: it reads the table of all processes of the machine.
            self.run(asyncio.to_thread(limit_group, process, limits), GroupLimited)

    @handles(GroupLimited)
    def _on_group_limited(self, message: GroupLimited) -> None:
        if isinstance(message.outcome, Exception):
            self._log.warning("the limits could not be set: {}", message.outcome)
            return
        for problem in message.outcome:
            self._log.warning("a limit is not in force: {}", problem)

    # --- the way to the server ------------------------------------------------------------------

    def _transmit(self, message: bytes) -> None:
        if self._process is not None:
            self._process.write(message + b"\n")

    def _transmit_request(
        self,
        number: int,
        method: str,
        params: bytes | None,
        message: bytes,
        *,
        definition: bytes | None = None,
    ) -> None:
        self._transmit(message)

    def _close_stream(self, number: int) -> None:
        self._withdraw(number, "it is not needed any more")

    def _withdraw(self, number: int, reason: str) -> bool:
        self._transmit(encode_notification(CANCELLED, cancelled(number, reason)))
        return False

    def _try_sse(self) -> None:
        self._begin_stop("handshake failed: it wants a transport that a process cannot have")

    @property
    def _unread(self) -> str | None:
        if self._process is None or self._process.unsent <= MAX_UNSENT:
            return None
        return "the server does not read its input"

    def _stderr_lines(self) -> tuple[str, ...]:
        last = self._stderr.last(STDERR_LINES)
        if last != self._last_lines[0]:
            # Every failed call shows them, and they seldom change.
            self._last_lines = last, tuple(map(self._node.redact, last))
        return self._last_lines[1]

    def _exit_detail(self) -> ExitDetail | None:
        status = self._exit_status
        return None if status is None else ExitDetail(status.code, status.signal)

    def _pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @handles(Stdout)
    def _on_stdout(self, message: Stdout) -> None:
        for item in self._framer.feed(message.data):
            match item:
                case Line(data=data):
                    self._on_message(data)
                case Overlong(size=size, head=head):
                    self._bad_lines.on_bad_line(head, f"a line of more than {size} bytes")

    @handles(Stderr)
    def _on_stderr(self, message: Stderr) -> None:
        for line in self._stderr_allowance.admit(self._stderr.feed(message.data), self._now):
            # Masked only where somebody reads it.
            self._log.opt(lazy=True).debug("stderr: {}", partial(self._node.redact, line))

    # --- its memory -----------------------------------------------------------------------------

    @handles(LookAtMemory)
    def _on_look_at_memory(self, _message: LookAtMemory) -> None:
        if self._process is not None and self._phase is Phase.READY:
            # On a thread: it reads the table of all processes of the machine. No look begins before this one ends.
            self.run(asyncio.to_thread(group_rss_bytes, self._process.pgid), MemorySeen)

    @handles(MemorySeen)
    def _on_memory_seen(self, message: MemorySeen) -> None:
        allowed = self._spec.limits.memory_mb
        if allowed is None or self._phase is not Phase.READY:
            self._looks_at_memory = False
            return
        match message.used:
            case None:
                self._log.warning(
                    "a limit is not in force: memoryMB {} is not supported on this system", allowed
                )
                return
            case Exception() as error:
                # Out of descriptors, most likely: the next look may succeed.
                self._log.warning("what the group uses could not be read: {}", error)
            case int(used):
                problem = complaint(used, allowed_mb=allowed)
                if problem is not None:
                    self._retire(problem)
                    return
        self.after(look_interval(self._spec), LookAtMemory())

    # --- the end --------------------------------------------------------------------------------

    @handles(StdoutClosed)
    def _on_stdout_closed(self, _message: StdoutClosed) -> None:
        if self._phase is not Phase.STOPPING:
            self.after(EXIT_PATIENCE, StillOpenEnded())

    @handles(StillOpenEnded)
    def _on_still_open_ended(self, _message: StillOpenEnded) -> None:
        if self._phase is not Phase.STOPPING:
            self._retire("closed its stdout")

    @handles(Exited)
    def _on_exited(self, message: Exited) -> None:
        self._exit_status = message.status
        if self._phase is not Phase.STOPPING:
            self._begin_stop(describe_exit(message.status, was_ready=self._phase is Phase.READY))
        elif not self._stop_asked:
            self._tell_end(was_ready=self._was_ready)

    def _close(self) -> bool:
        process = self._process
        if process is None:
            return True
        self.run(
            stop_process(
                process, grace=self._spec.stop_grace_seconds, term_grace=TERM_GRACE, clock=self._node.clock
            ),
            Stopped,
        )
        return False

    @handles(Stopped)
    def _on_stopped(self, message: Stopped) -> None:
        if isinstance(message.outcome, Exception):
            raise message.outcome
        process = self._process
        assert process is not None
        if message.outcome.survivors:
            self._log.error("processes {} could not be ended", message.outcome.survivors)
        else:
            self._guard.tell(StrikeOff(process.pgid))
        process.close()
        self._process = None
        self._on_closed()

    def on_exit(self, reason: ExitReason) -> None:
        """Whatever this actor's end was, its processes end too; the ledger keeps them until they have."""
        process = self._process
        if process is not None:
            self._process = None
            system = self._node.system
            system.keep(system.loop.create_task(end_orphaned(process, self._guard, self._node)))
