"""What a server type's decisions are made of: its policy, its state, what happens to it, what it does about that.

All of it is frozen data. The mappings in it are never changed, only replaced. Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TypeAlias

from msgspec import Struct

from mcpv_node.actors.callers import EMPTY_PROFILE, ClientProfile
from mcpv_node.actors.leases import InstanceId, LeaseId, LeaseKind, StartCause
from mcpv_node.protocol import Reason
from mcpv_node.settings import ServerSpec, ServerStrategy

from .messages import ServerState


class Policy(Struct, frozen=True, dict=True):
    """The pool settings of a server type, as its core needs them."""

    always_on: bool
    min_ready: int
    max_instances: int
    max_concurrent: int
    idle_seconds: float
    strategy: ServerStrategy
    binding_ttl: float  # 0: for ever
    queue_limit: int
    queue_timeout: float
    start_timeout: float
    drain_timeout: float
    max_retries: int
    backoff_base: float
    backoff_max: float

    @classmethod
    def of(cls, spec: ServerSpec) -> Policy:
        return cls(
            always_on=spec.activation_mode == "always-on",
            min_ready=spec.min_ready,
            max_instances=spec.max_instances,
            max_concurrent=spec.max_concurrent,
            idle_seconds=spec.idle_seconds,
            strategy=spec.strategy,
            binding_ttl=spec.session_ttl_seconds,
            queue_limit=spec.queue_limit,
            queue_timeout=spec.queue_timeout_seconds,
            start_timeout=spec.start_timeout_seconds,
            drain_timeout=spec.drain_timeout_seconds,
            max_retries=spec.restart.max_retries,
            backoff_base=spec.restart.base_seconds,
            backoff_max=spec.restart.max_seconds,
        )

    @cached_property
    def sticky(self) -> bool:
        """Whether a key is bound to an instance."""
        return self.strategy in ("stateful", "exclusive")

    @cached_property
    def soonest_after_release(self) -> float:
        """Seconds from a release to the first thing that can follow from it by time alone."""
        if self.sticky and self.binding_ttl:
            return min(self.idle_seconds, self.binding_ttl)
        return self.idle_seconds

    @property
    def never_reaped(self) -> bool:
        return self.strategy == "persistent"


# --- the state ----------------------------------------------------------------------------------


class Lane(Struct, frozen=True):
    """Which clients an instance serves: those of one capability profile; `owner`: one session alone.

    Who asks for an instance has no owner in its lane: whose it will be shows when the server asks something back.
    """

    profile: ClientProfile = EMPTY_PROFILE
    owner: str = ""


SHARED_LANE = Lane()


class Binding(Struct, frozen=True):
    """A key's instance, and when it was used last."""

    instance: InstanceId
    used_at: float


class Instance(Struct, frozen=True, gc=False):
    """One instance that exists: it leaves the list when its end has been seen, not before."""

    id: InstanceId
    cause: StartCause
    asked_at: float
    lane: Lane = SHARED_LANE
    ready_at: float | None = None
    idle_since: float | None = None
    used_at: float = 0.0  # when it was given its last call: equally busy ones take turns
    busy: tuple[LeaseId, ...] = ()
    kept: tuple[LeaseId, ...] = ()  # leases that hold no slot
    abandoned: tuple[LeaseId, ...] = ()  # their slots are not free yet, but nobody waits for the calls
    wanted: bool = False  # somebody other than a probe has used it
    drain_until: float | None = None
    stopping: bool = False
    at_fault: bool = False  # it stops because it misbehaved, not because it was told to
    any_lane: bool = False  # it hears with each request what the client can do
    orphaned: bool = False  # its client is gone: it ends once it does nothing

    @property
    def serves(self) -> bool:
        """Whether it may be given calls."""
        return self.ready_at is not None and self.drain_until is None and not self.stopping

    @property
    def starts(self) -> bool:
        return self.ready_at is None and not self.stopping

    @property
    def is_idle(self) -> bool:
        return not self.busy and not self.kept and not self.abandoned

    @property
    def has_drained(self) -> bool:
        """Whether nobody waits for anything it does."""
        return not self.busy and not self.kept


class Waiter(Struct, frozen=True):
    """An Acquire that has no slot yet."""

    lease: LeaseId
    cause: StartCause
    kind: LeaseKind
    since: float
    deadline: float
    client: str = ""  # who takes turns with other clients
    key: str = ""  # what a sticky strategy binds, in the lane of the instance
    lane: Lane = SHARED_LANE
    instance: InstanceId | None = None  # this one and no other: it holds what the request goes on with


class State(Struct, frozen=True):
    """Everything one server type knows. `instances` and `waiters` are in order of arrival."""

    instances: tuple[Instance, ...] = ()
    waiters: tuple[Waiter, ...] = ()
    bindings: Mapping[str, Binding] = {}
    keys: Mapping[LeaseId, str] = {}  # the keys in use, by the lease that uses them
    turns: Mapping[str, int] = {}  # each client that waits: its last turn, or the one before it came
    turn: int = 0
    clients: int = 0
    warm: bool = False  # told to start what is desired; until then an always-on server waits its turn
    held: bool = False  # by an operator's stop
    draining: bool = False  # the node stops
    activating: bool = (
        False  # the first client has come, and not all that is kept warm has been started for it
    )
    asked_up: bool = False  # an operator's start that no instance has answered yet
    any_lane: bool = False  # its instances hear with each request what the client can do
    lane: Lane = SHARED_LANE  # of who asked last: what is kept warm is kept there
    failures: int = 0  # in a row, since the last health
    failed_at: float | None = None
    next_try_at: float | None = None
    suspended: str | None = None
    last_failure: str = ""
    serial: int = 0
    shown: ServerState = ServerState.COLD
    since: float = 0.0


# --- events -------------------------------------------------------------------------------------


class AcquireAsked(Struct, frozen=True, gc=False):
    lease: LeaseId
    cause: StartCause
    kind: LeaseKind
    deadline: float
    client: str = ""
    key: str = ""
    lane: Lane = SHARED_LANE
    instance: InstanceId | None = None


class Released(Struct, frozen=True):
    lease: LeaseId


class Abandoned(Struct, frozen=True):
    """Nobody waits for this call any more; its slot is free when the server has answered."""

    lease: LeaseId


class Found(Struct, frozen=True):
    """An instance that lives, and what it is doing: how a state is made anew from the facts.

    First told as not ready, while it is being asked; then as it is, with its lane.
    """

    id: InstanceId
    cause: StartCause
    ready: bool
    busy: tuple[LeaseId, ...] = ()
    abandoned: tuple[LeaseId, ...] = ()
    lane: Lane = SHARED_LANE
    any_lane: bool = False


class BecameReady(Struct, frozen=True):
    """`any_lane`: the server hears with each request what its client can do, so it serves all of them."""

    id: InstanceId
    any_lane: bool = False


class Owned(Struct, frozen=True):
    """The server has asked something of this client: the instance is its alone from now on."""

    id: InstanceId
    client: str


class ClientGone(Struct, frozen=True):
    """This client will not come back: what is its alone is of no use to anybody."""

    client: str


class StartFailed(Struct, frozen=True):
    """`chance` in [0, 1) spreads the next try, so that many servers do not try in step.

    `asked_wrongly`: it ended over our question for its era, which the next start leaves out: nothing is wrong with it.
    """

    id: InstanceId
    message: str
    fatal: bool
    chance: float
    asked_wrongly: bool = False


class Exited(Struct, frozen=True):
    id: InstanceId
    asked: bool
    message: str
    chance: float


class Retired(Struct, frozen=True):
    """It stops itself: nothing more goes to it. `at_fault`: its end counts as a crash."""

    id: InstanceId
    at_fault: bool = True


class ClientsChanged(Struct, frozen=True):
    clients: int


class WarmAsked(Struct, frozen=True):
    """It is this server's turn to start what is desired."""


class StartAsked(Struct, frozen=True):
    """An operator wants it up."""


class StopAsked(Struct, frozen=True):
    """An operator wants it down, and held down."""


class RetryAsked(Struct, frozen=True):
    """Forget the failures."""


class DrainAsked(Struct, frozen=True):
    """The node stops; calls in hand have `patience` seconds, or the drain timeout."""

    patience: float | None = None


class Woken(Struct, frozen=True):
    """Time has passed."""


Event: TypeAlias = (
    AcquireAsked
    | Released
    | Abandoned
    | Found
    | BecameReady
    | Owned
    | ClientGone
    | StartFailed
    | Exited
    | Retired
    | ClientsChanged
    | WarmAsked
    | StartAsked
    | StopAsked
    | RetryAsked
    | DrainAsked
    | Woken
)


# --- actions ------------------------------------------------------------------------------------


class Start(Struct, frozen=True):
    id: InstanceId
    cause: StartCause
    lane: Lane = SHARED_LANE


class Stop(Struct, frozen=True):
    id: InstanceId
    reason: str


class Grant(Struct, frozen=True, gc=False):
    lease: LeaseId
    id: InstanceId
    queued: float
    started: float


class Refuse(Struct, frozen=True):
    lease: LeaseId
    reason: Reason
    message: str
    queued: float = 0.0
    retry_after: float | None = None


class Changed(Struct, frozen=True):
    before: ServerState
    after: ServerState
    reason: str


Action: TypeAlias = Start | Stop | Grant | Refuse | Changed
