"""What an Instance hears, and what it tells about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from msgspec import Raw, Struct

from mcpv_node.actors.callers import ClientProfile
from mcpv_node.actors.kernel import Request
from mcpv_node.actors.leases import InstanceId, LeaseId
from mcpv_node.actors.snapshot import Kind
from mcpv_node.protocol import CallFailure, Listed, Rejected, ServerHello, params_for_back
from mcpv_node.settings import SpecKey


class Answer(Struct, frozen=True):
    """The server's own reply, payload bytes untouched: either a result or a JSON-RPC error object."""

    result: Raw | None = None
    error: Raw | None = None


class CallFailed(Struct, frozen=True):
    """The server did not answer.

    `slot_held`: the server may still be at work on it, so the instance releases the lease itself, once the
    server has answered or the instance is replaced; the caller must not.
    """

    failure: CallFailure
    slot_held: bool = False


class Call(Request[Answer | CallFailed], Struct, frozen=True):
    """Send one request to the server and wait for its reply.

    `params` are the client's own bytes; `name` is the server's own name for what they name, where that is another, and
    the progress token is the instance's when `on_progress` is given, else there is none. `deadline` (monotonic) is the absolute end of the call;
    the idle limit is the server type's own and is reset by progress. `on_progress` gets the params of each
    `notifications/progress` as sent by the server, on the loop's thread; it must not block or raise.
    """

    lease: LeaseId
    method: str
    params: bytes | Raw | None
    deadline: float
    name: str | None = None
    on_progress: Callable[[Raw], None] | None = None

    def params_to_send(self, progress_token: int | None) -> bytes | Raw | None:
        """The params under the server's names and our token; all else is the client's bytes."""
        if self.params is None:
            return None
        return params_for_back(
            self.method, self.params, meta=None, progress_token=progress_token, name=self.name
        )


@dataclass(frozen=True, slots=True)
class CancelCall:
    """The caller no longer wants the reply to the call made under this lease."""

    lease: LeaseId
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class StopInstance:
    """End the session: close stdin, wait, terminate, wait, kill. `reason` is for events and metrics."""

    reason: str


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """What an instance is and does: enough for a server type that has lost its state to go on with it."""

    pid: int | None
    ready: bool
    stopping: bool
    busy: tuple[LeaseId, ...]  # calls that somebody waits for
    abandoned: tuple[LeaseId, ...]  # calls nobody waits for, which the server has not answered


@dataclass(frozen=True, slots=True)
class Describe(Request[InstanceFacts]):
    """What are you doing?"""


@dataclass(frozen=True, slots=True)
class ReadLists:
    """Read all lists again, now."""


InstanceMessage: TypeAlias = Call | CancelCall | StopInstance | Describe | ReadLists


# --- what an instance tells its server type -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class ExitDetail:
    """How a process ended: a code or a signal; neither for an HTTP session."""

    code: int | None = None
    signal: int | None = None


@dataclass(frozen=True, slots=True)
class InstanceStarting:
    """The process exists; the handshake is under way."""

    instance_id: InstanceId
    pid: int | None


@dataclass(frozen=True, slots=True)
class InstanceReady:
    """The handshake succeeded."""

    instance_id: InstanceId
    hello: ServerHello


@dataclass(frozen=True, slots=True)
class InstanceFailed:
    """The start did not succeed. `fatal`: trying again cannot help until something is changed."""

    instance_id: InstanceId
    message: str
    fatal: bool
    exit: ExitDetail | None = None
    stderr: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InstanceExited:
    """A ready instance is gone. `asked`: because it was stopped."""

    instance_id: InstanceId
    asked: bool
    message: str
    exit: ExitDetail | None = None
    stderr: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class InstanceRetiring:
    """It cannot be trusted with more calls and is stopping itself; a replacement may start.

    `at_fault`: the server misbehaved, so its end counts like a crash.
    """

    instance_id: InstanceId
    message: str
    at_fault: bool = True


@dataclass(frozen=True, slots=True)
class CallAbandoned:
    """Nobody waits for this call any more; its lease is released when the server has answered it."""

    lease: LeaseId


# --- what an instance tells the indexes ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lists:
    """All pages of what a healthy server lists of one kind."""

    kind: Kind
    spec_key: SpecKey
    profile: ClientProfile
    instance_id: InstanceId
    hello: ServerHello
    listed: tuple[Listed, ...]
    rejected: tuple[Rejected, ...] = ()
    offered: bool = True  # the server says that it has lists of this kind
    again: bool = (
        False  # not this instance's first reading: the server had announced a change, or somebody asked
    )
    began: float = 0.0  # when the reading did, on the monotonic clock


@dataclass(frozen=True, slots=True)
class ListsFailed:
    """The lists could not be read; what was known stays and is marked stale."""

    kind: Kind
    spec_key: SpecKey
    profile: ClientProfile
    instance_id: InstanceId
    message: str
    began: float = 0.0
