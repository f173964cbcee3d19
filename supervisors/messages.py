"""What one can ask a supervisor, and what it answers. Expected refusals are reply values, not exceptions."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

from mcpv_node.actors.kernel import ExitReason, Handle, Request

from .specs import ChildKind, ChildSpec


class Phase(StrEnum):
    """Where a child stands."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    BACKING_OFF = "backing_off"
    SUSPENDED = "suspended"  # given up; only a dynamic supervisor that keeps records has such children


@dataclass(frozen=True, slots=True)
class ChildUp:
    """The child has started."""

    id: str
    incarnation: int
    handle: Handle[Any]


@dataclass(frozen=True, slots=True)
class StartFailed:
    """The child ended before it had started, or was told to; it is not retried."""

    id: str
    reason: ExitReason


@dataclass(frozen=True, slots=True)
class AlreadyThere:
    """The id is taken, by a child in this phase."""

    id: str
    phase: Phase


@dataclass(frozen=True, slots=True)
class NotFound:
    """There is no child with this id."""

    id: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Nothing was done, and why."""

    id: str
    why: str


@dataclass(frozen=True, slots=True)
class Terminated:
    """The child has ended and will not be restarted."""

    id: str


@dataclass(frozen=True, slots=True)
class Deleted:
    """The child's spec is forgotten."""

    id: str


StartOutcome: TypeAlias = ChildUp | StartFailed | AlreadyThere | Refused
RestartOutcome: TypeAlias = ChildUp | StartFailed | AlreadyThere | NotFound | Refused
TerminateOutcome: TypeAlias = Terminated | NotFound
DeleteOutcome: TypeAlias = Deleted | AlreadyThere | NotFound


@dataclass(frozen=True, slots=True)
class ChildStatus:
    """What a supervisor knows of one child."""

    id: str
    kind: ChildKind
    phase: Phase
    incarnation: int
    restarts: int
    # Since when it has been in this phase, on the monotonic clock.
    since: float
    handle: Handle[Any]
    last_exit: ExitReason | None
    # When it is started again, on the monotonic clock; None unless it is backing off.
    retry_at: float | None


@dataclass(frozen=True, slots=True)
class ChildCounts:
    """How many children there are."""

    specs: int
    active: int
    workers: int
    supervisors: int


@dataclass(frozen=True, slots=True)
class WhichChildren(Request[tuple[ChildStatus, ...]]):
    """Which children are there? Answered in start order."""


@dataclass(frozen=True, slots=True)
class CountChildren(Request[ChildCounts]):
    """How many children are there?"""


@dataclass(frozen=True, slots=True)
class StartChild(Request[StartOutcome]):
    """Add a child and start it; answered once it has started."""

    spec: ChildSpec


@dataclass(frozen=True, slots=True)
class TerminateChild(Request[TerminateOutcome]):
    """Stop a child and leave it stopped; answered once it has ended.

    A temporary child, and every child of a dynamic supervisor, is forgotten as well.
    """

    id: str


@dataclass(frozen=True, slots=True)
class RestartChild(Request[RestartOutcome]):
    """Start a child that was terminated, has ended for good, or is suspended."""

    id: str


@dataclass(frozen=True, slots=True)
class DeleteChild(Request[DeleteOutcome]):
    """Forget a child that does not run."""

    id: str
