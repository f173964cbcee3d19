"""What a ServerType hears, and the report it gives of itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import TypeAlias

from msgspec import Raw, Struct

from mcpv_node.actors.instance.messages import (
    CallAbandoned,
    ExitDetail,
    InstanceAsked,
    InstanceExited,
    InstanceFailed,
    InstanceReady,
    InstanceRetiring,
    InstanceStarting,
)
from mcpv_node.actors.kernel import Request
from mcpv_node.actors.leases import Acquire, InstanceId, Release, StartCause
from mcpv_node.settings import ServerGroup, ServerName, SpecKey

# Ends the reason of a suspended server.
RETRY_ADVICE = "; `server retry` tries again"


class ServerState(StrEnum):
    """The states of a server type (DESIGN 4)."""

    COLD = "cold"
    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    BACKING_OFF = "backing_off"
    SUSPENDED = "suspended"
    DRAINING = "draining"
    DISABLED = "disabled"


class InstanceState(StrEnum):
    """The states of an instance (DESIGN 4)."""

    STARTING = "starting"
    HANDSHAKING = "handshaking"
    READY = "ready"
    BUSY = "busy"
    DRAINING = "draining"
    STOPPING = "stopping"
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class InstanceReport:
    """One instance, as its server type knows it."""

    id: InstanceId
    pid: int | None
    state: InstanceState
    busy: int
    started_at: datetime
    idle_since: datetime | None
    era: str | None
    bindings: int = 0


@dataclass(frozen=True, slots=True)
class LastExit:
    """How the last instance that ended did so."""

    code: int | None
    signal: int | None
    at: datetime


class CallCounts(Struct, frozen=True, gc=False):
    """Calls since the node started."""

    ok: int = 0
    failed: int = 0
    refused: int = 0

    def and_one(self, *, ok: bool) -> CallCounts:
        """Another has ended, with a result or without."""
        return CallCounts(self.ok + ok, self.failed + (not ok), self.refused)


@dataclass(frozen=True, slots=True)
class WhyReport:
    """Why a server is as it is: the data of `GET /api/v1/servers/{name}` (DESIGN 7.2)."""

    name: ServerName
    spec_key: SpecKey
    state: ServerState
    reason: str  # a sentence: because of what, and what happens next
    since: datetime
    next_try_at: datetime | None
    desired: int
    waiting: int
    start_cause: StartCause | None
    last_exit: LastExit | None
    stderr: tuple[str, ...]
    starts: int
    restarts: int
    calls: CallCounts
    shared_with: tuple[ServerName, ...] = ()
    instances: tuple[InstanceReport, ...] = field(default=())
    failures: int = 0  # in a row, since the last health


@dataclass(frozen=True, slots=True)
class Why(Request[WhyReport]):
    """Ask for the report."""


@dataclass(frozen=True, slots=True)
class OperatorStart(Request[ServerState]):
    """Lift an operator's stop and have one instance up; answered at once with the state."""


@dataclass(frozen=True, slots=True)
class OperatorStop(Request[ServerState]):
    """Drain, stop, and stay stopped until OperatorStart or Retry; answered at once with the state."""


@dataclass(frozen=True, slots=True)
class Retry(Request[ServerState]):
    """Forget failures and suspension and try again now; answered at once with the state."""


@dataclass(frozen=True, slots=True)
class Settled(Request[ServerState]):
    """Answered once nothing is under way: not starting, draining or stopping. For Init, `?wait=` and tests.

    `with_retries`: while a next try has its time, something is under way.
    """

    with_retries: bool = True


@dataclass(frozen=True, slots=True)
class Activation:
    """How many clients may see this server now: absolute, never a delta."""

    clients: int


@dataclass(frozen=True, slots=True)
class Warm:
    """Start what is desired without waiting for a call."""


@dataclass(frozen=True, slots=True)
class Reconfigure:
    """Other entries or pool settings from now on, for the instances that run as well: the same processes go on.

    `is_edit`: somebody changed an entry, which lifts an operator's stop, as it does a suspension.
    """

    group: ServerGroup
    is_edit: bool = True


@dataclass(frozen=True, slots=True)
class DrainNow:
    """The node stops without waiting: calls in hand are ended."""


class CallEnded(Struct, frozen=True, gc=False):
    """A call has ended whose lease goes on: the server may still be at work on it. For the counts of the report."""

    ok: bool


@dataclass(frozen=True, slots=True)
class ClientSaid:
    """A client tells its servers something: it is for the instances that are that client's alone."""

    client: str
    method: str
    params: Raw | None


@dataclass(frozen=True, slots=True)
class ClientGone:
    """A session or connection has ended, `Caller.turn` of its calls: what is its alone is of no use to anybody."""

    client: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A time the core asked to be woken at has come."""


ServerTypeMessage: TypeAlias = (
    Acquire
    | Release
    | Activation
    | Warm
    | DrainNow
    | OperatorStart
    | OperatorStop
    | Retry
    | Settled
    | CallEnded
    | CallAbandoned
    | ClientGone
    | ClientSaid
    | Reconfigure
    | Why
    | InstanceAsked
    | InstanceStarting
    | InstanceReady
    | InstanceFailed
    | InstanceRetiring
    | InstanceExited
    | Tick
)

__all__ = [
    "Acquire",
    "Activation",
    "CallCounts",
    "CallEnded",
    "ClientGone",
    "ClientSaid",
    "DrainNow",
    "ExitDetail",
    "InstanceReport",
    "InstanceState",
    "LastExit",
    "OperatorStart",
    "OperatorStop",
    "Reconfigure",
    "Release",
    "Retry",
    "ServerState",
    "ServerTypeMessage",
    "Settled",
    "Tick",
    "Warm",
    "Why",
    "WhyReport",
]
