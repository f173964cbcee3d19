"""What the node says of its beginnings: which servers are learnt, and which of those that should be up are.

The owners are supervisors (Bootstrap and Init), which the doors do not know: they ask for this through handles, in
messages that live here. A status is frozen data; `project_init` makes it from a server's own report and counts nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import TypeAlias

from mcpv_node.settings import BootstrapMode, ServerName, SpecKey

from .kernel import Request
from .server_type.messages import InstanceState, ServerState, WhyReport

# --- learning -----------------------------------------------------------------------------------


class LearningState(StrEnum):
    """Where learning as a whole stands."""

    PENDING = "pending"  # what there is to learn is not known yet
    RUNNING = "running"
    COMPLETED = "completed"  # also where learning is disabled: there is nothing to wait for
    FAILED = "failed"  # all is over, and at least one server could not be learnt


class LearningStep(StrEnum):
    """Where learning one spec key stands."""

    PENDING = "pending"
    RUNNING = "running"
    LEARNT = "learnt"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class LearningOutcome:
    """What became of one spec key; `server` is the first that has it."""

    spec_key: SpecKey
    server: ServerName
    state: LearningStep
    attempts: int  # 0: it was known, or was learnt because somebody called it
    reason: str  # why the last attempt failed, or ""
    since: datetime


@dataclass(frozen=True, slots=True)
class LearningStatus:
    """Learning as a whole: `total` spec keys, of which so many are learnt and so many could not be."""

    mode: BootstrapMode
    state: LearningState
    total: int = 0
    completed: int = 0
    failed: int = 0
    current: tuple[ServerName, ...] = ()
    outcomes: Mapping[SpecKey, LearningOutcome] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class ShowLearning(Request[LearningStatus]):
    """How far is it?"""


@dataclass(frozen=True, slots=True)
class Learn(Request[LearningStatus]):
    """Look again which servers there are, and learn what is missing; answered at once.

    `fresh`: these spec keys are read again, whatever is known of them. Nothing that is under way is done twice.
    """

    fresh: frozenset[SpecKey] = frozenset()


@dataclass(frozen=True, slots=True)
class AwaitLearning(Request[LearningStatus]):
    """Answered once none of these spec keys waits for its turn or is being learnt."""

    spec_keys: frozenset[SpecKey]


LearningMessage: TypeAlias = ShowLearning | Learn | AwaitLearning


# --- starting -----------------------------------------------------------------------------------


class InitState(StrEnum):
    """Where a server stands between the node's start and what it should have running."""

    PENDING = "pending"  # waits for its turn, or until its last instance has gone
    STARTING = "starting"
    READY = "ready"  # has all it should have, which for a server on demand is nothing
    DEGRADED = "degraded"
    FAILED = "failed"  # its last start failed; the next try has a time, or is the next call's
    SUSPENDED = "suspended"  # not before somebody asks for it


@dataclass(frozen=True, slots=True)
class InitStatus:
    """One server type: so many of its `target` instances are ready."""

    name: ServerName
    state: InitState
    reason: str
    ready: int
    target: int
    retries: int  # failures in a row
    next_try_at: datetime | None


@dataclass(frozen=True, slots=True)
class ShowInit(Request[tuple[InitStatus, ...]]):
    """How far has each server come? In the order of the configuration."""


def project_init(report: WhyReport, *, baseline: int) -> InitStatus:
    """Say of a server's report what it means for its start; `baseline` is its target without any client."""
    return InitStatus(
        name=report.name,
        state=_init_state(report, baseline),
        reason=report.reason,
        ready=sum(one.state in _SERVING for one in report.instances),
        target=max(report.desired, baseline),
        retries=report.failures,
        next_try_at=report.next_try_at,
    )


_SERVING = frozenset({InstanceState.READY, InstanceState.BUSY})

_INIT_STATES = {
    ServerState.STARTING: InitState.STARTING,
    ServerState.READY: InitState.READY,
    ServerState.DEGRADED: InitState.DEGRADED,
    ServerState.BACKING_OFF: InitState.FAILED,
    ServerState.SUSPENDED: InitState.SUSPENDED,
    # An operator holds it: like a suspension, it ends when somebody says so.
    ServerState.DISABLED: InitState.SUSPENDED,
    ServerState.DRAINING: InitState.PENDING,
}


def _init_state(report: WhyReport, baseline: int) -> InitState:
    if report.state is not ServerState.COLD:
        return _INIT_STATES[report.state]
    if report.failures:
        return InitState.FAILED
    return InitState.PENDING if baseline or report.desired else InitState.READY
