"""What an Instance hears, and what it tells about itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NewType, TypeAlias

from msgspec import Raw, Struct

from mcpv_node.actors.callers import EMPTY_PROFILE, Caller, ClientProfile
from mcpv_node.actors.kernel import Request
from mcpv_node.actors.leases import InstanceId, LeaseId
from mcpv_node.actors.snapshot import Kind
from mcpv_node.protocol import CallFailure, Listed, Rejected, ServerHello
from mcpv_node.settings import ServerSpec, SpecKey

# Something a server asks of a client, as its instance counts them.
AskNumber = NewType("AskNumber", int)


class Answer(Struct, frozen=True):
    """A peer's own reply, payload bytes untouched: either a result or a JSON-RPC error object."""

    result: Raw | bytes | None = None
    error: Raw | bytes | None = None


class CallFailed(Struct, frozen=True):
    """The server did not answer.

    `slot_held`: the server may still be at work on it, so the instance releases the lease itself, once the
    server has answered or the instance is replaced; the caller must not.
    """

    failure: CallFailure
    slot_held: bool = False


# --- what comes before a reply ------------------------------------------------------------------


class Progressed(Struct, frozen=True):
    """`notifications/progress` of this call: its params as the server sent them."""

    params: Raw


class Noted(Struct, frozen=True):
    """Another notification that belongs to this call, such as a log message."""

    method: str
    params: Raw | None


class Asked(Struct, frozen=True):
    """The server wants something of the client before it goes on; `AnswerAsk` brings it."""

    number: AskNumber
    method: str
    params: Raw | None


class AskWithdrawn(Struct, frozen=True):
    """The server does not want it any more."""

    number: AskNumber


CallEvent: TypeAlias = Progressed | Noted | Asked | AskWithdrawn


# --- what an instance hears ---------------------------------------------------------------------


class Call(Request[Answer | CallFailed], Struct, frozen=True):
    """Send one request to the server and wait for its reply.

    `params` are the client's own bytes; `name` is the server's own name for what they name, where that is another.
    `deadline` (monotonic) is the absolute end of the call; the idle limit is the server type's own and is reset by
    progress. `on_event` gets what comes before the reply, on the loop's thread; it must not block or raise. A
    progress token is the instance's own, and is sent when `wants_progress`.
    """

    lease: LeaseId
    caller: Caller
    method: str
    params: bytes | Raw | None
    deadline: float
    name: str | None = None
    on_event: Callable[[CallEvent], None] | None = None
    wants_progress: bool = False
    log_level: str | None = None  # the least severe log message its client wants; None: none at all
    definition: bytes | None = None  # the tool's own: a server behind HTTP may want arguments in headers
    members: dict[str, Raw] | None = None  # of the params, where they have been read


class AnswerAsk(Struct, frozen=True):
    """What the client says to something the server has asked."""

    number: AskNumber
    answer: Answer


@dataclass(frozen=True, slots=True)
class CancelCall:
    """The caller no longer wants the reply to the call made under this lease."""

    lease: LeaseId
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class TellServer:
    """Send the server a notification of its client's, as it is."""

    method: str
    params: Raw | None = None


@dataclass(frozen=True, slots=True)
class Respec:
    """Its entry has other limits and timeouts from now on; what it runs is the same."""

    spec: ServerSpec


@dataclass(frozen=True, slots=True)
class StopInstance:
    """End the session: close stdin, wait, terminate, wait, kill. `reason` is for events and metrics."""

    reason: str


@dataclass(frozen=True, slots=True)
class InstanceFacts:
    """What an instance is and does: enough for a server type that has lost its state to go on with it."""

    pid: int | None
    hello: ServerHello | None  # once it is ready
    stopping: bool
    busy: tuple[LeaseId, ...]  # calls that somebody waits for
    abandoned: tuple[LeaseId, ...]  # calls nobody waits for, which the server has not answered
    profile: ClientProfile = EMPTY_PROFILE
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Describe(Request[InstanceFacts]):
    """What are you doing?"""


@dataclass(frozen=True, slots=True)
class ReadLists:
    """Read all lists again, now."""


@dataclass(frozen=True, slots=True)
class WatchResources(Request[Answer | CallFailed]):
    """Have the server tell of every change of these resources, and of no others; answered by the server."""

    uris: frozenset[str]


InstanceMessage: TypeAlias = (
    Call | AnswerAsk | CancelCall | TellServer | Respec | StopInstance | Describe | ReadLists | WatchResources
)


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
class InstanceAsked:
    """The server has asked something of this client, so what it does from here on may depend on that client."""

    instance_id: InstanceId
    client: str


@dataclass(frozen=True, slots=True)
class InstanceFailed:
    """The start did not succeed. `fatal`: trying again cannot help until something is changed.

    `while_probing`: it ended when it was asked for its era, which it may not be asked again.
    """

    instance_id: InstanceId
    message: str
    fatal: bool
    exit: ExitDetail | None = None
    stderr: tuple[str, ...] = ()
    while_probing: bool = False


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
    """The lists could not be read; what was known stays and is marked stale.

    `asked`: the instance was told to end meanwhile, so nothing is wrong with its server.
    """

    kind: Kind
    spec_key: SpecKey
    profile: ClientProfile
    instance_id: InstanceId
    message: str
    began: float = 0.0
    asked: bool = False


# --- what an instance tells whoever watches resources -------------------------------------------


@dataclass(frozen=True, slots=True)
class ResourceUpdated:
    """The server says that a resource has changed: the params of its notification."""

    spec_key: SpecKey
    instance_id: InstanceId
    uri: str
    params: bytes
