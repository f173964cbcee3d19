"""The owner of what keeps instances alive for tasks: one lease for each task that works, until it is over.

A task is over when its server says so, or when it was not heard of for as long as it may live. Nothing is looked up
here: where a task is, the id says that its client has.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from loguru import logger

from mcpv_node.actors.callers import Caller
from mcpv_node.actors.context import NodeContext
from mcpv_node.actors.kernel import ExitReason, LoopActor, Timer, handles
from mcpv_node.actors.leases import (
    Acquire,
    InstanceId,
    Lease,
    LeaseId,
    LeaseKind,
    Refused,
    Release,
    new_lease_id,
)
from mcpv_node.actors.world import Server

# A task without an end of its own keeps its instance for so long after it was last heard of (seconds).
LONGEST_TASK = 24 * 3600.0

# More than a node's servers work on at once; past it a task works on, but nothing keeps its instance.
MAX_OPEN = 4096

# A lease that takes no slot is granted in a turn of the loop (seconds).
KEEP_BOUND = 5.0


@dataclass(frozen=True, slots=True)
class TaskOpen:
    """A task works, on this instance; it may live for `seconds` from now. Told again, it replaces what was known."""

    task: str  # the id that its client has
    server: Server
    instance: InstanceId
    caller: Caller
    seconds: float | None = None  # None: its server sets no end


@dataclass(frozen=True, slots=True)
class TaskOver:
    """Nothing more will become of the task."""

    task: str


@dataclass(frozen=True, slots=True)
class _Kept:
    task: str
    server: Server
    lease: LeaseId
    outcome: Lease | Refused | Exception


@dataclass(frozen=True, slots=True)
class _MayEnd:
    task: str


OpenTasksMessage: TypeAlias = TaskOpen | TaskOver


@dataclass(frozen=True, slots=True)
class OpenTask:
    """What is known of one task that works."""

    told: TaskOpen
    ends_at: float


class OpenTasks(LoopActor[dict[str, OpenTask]]):
    """See the module. The table is its own estate; leases are released at an end and acquired anew."""

    def __init__(self, node: NodeContext) -> None:
        super().__init__()
        self._node = node
        self._open: dict[str, OpenTask] = {}
        self._leases: dict[str, LeaseId] = {}
        self._looks: dict[str, Timer] = {}

    def on_start(self, estate: dict[str, OpenTask] | None = None) -> None:
        self.estate = self._open = {} if estate is None else estate
        for task, known in self._open.items():
            self._keep(known.told)
            self._look_again(task, known.ends_at - self._now)

    def on_exit(self, reason: ExitReason) -> None:
        for task in list(self._leases):
            self._release(task)

    @property
    def _now(self) -> float:
        return self._node.clock.monotonic()

    @handles(TaskOpen)
    def _on_open(self, message: TaskOpen) -> None:
        known = self._open.get(message.task)
        if known is None and len(self._open) >= MAX_OPEN:
            logger.bind(server=message.server.spec.name).warning(
                "{} tasks are open; nothing keeps the instance of one more", MAX_OPEN
            )
            return
        seconds = LONGEST_TASK if message.seconds is None else min(message.seconds, LONGEST_TASK)
        self._open[message.task] = OpenTask(message, self._now + seconds)
        if known is None:
            self._look_again(message.task, seconds)
        elif known.told.instance == message.instance:
            return
        else:
            self._release(message.task)
        self._keep(message)

    @handles(TaskOver)
    def _on_over(self, message: TaskOver) -> None:
        self._forget(message.task)

    @handles(_MayEnd)
    def _on_may_end(self, message: _MayEnd) -> None:
        known = self._open.get(message.task)
        if known is None:
            return
        left = known.ends_at - self._now
        if left > 0:
            self._look_again(message.task, left)
        else:
            self._forget(message.task)

    @handles(_Kept)
    def _on_kept(self, message: _Kept) -> None:
        if self._leases.get(message.task) != message.lease:
            # It is over already. Its release may have come before the request.
            message.server.handle.tell(Release(message.lease))
        elif not isinstance(message.outcome, Lease):
            # The instance is gone, and what it worked on with it.
            self._forget(message.task)

    def _keep(self, told: TaskOpen) -> None:
        lease = self._leases[told.task] = new_lease_id()
        acquire = Acquire(
            lease, told.caller, self._now + KEEP_BOUND, kind=LeaseKind.TASK, instance=told.instance
        )
        self.run(
            told.server.handle.ask(acquire, KEEP_BOUND),
            lambda outcome: _Kept(told.task, told.server, lease, outcome),
        )

    def _forget(self, task: str) -> None:
        self._release(task)
        self._open.pop(task, None)
        timer = self._looks.pop(task, None)
        if timer is not None:
            timer.cancel()

    def _release(self, task: str) -> None:
        lease = self._leases.pop(task, None)
        known = self._open.get(task)
        if lease is not None and known is not None:
            known.told.server.handle.tell(Release(lease))

    def _look_again(self, task: str, seconds: float) -> None:
        self._looks[task] = self.after(max(0.0, seconds), _MayEnd(task))
