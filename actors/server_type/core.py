"""What a server type decides: who gets a slot, what is started and what is stopped.

Pure: `decide(policy, state, event, now)` gives the next state and what to do about it. Everything is derived
from the current facts after every event (level, not edge), so an event that is lost or seen twice does not
leave the scheduler with a wrong idea of itself.

Times are monotonic seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, assert_never

from msgspec import Struct
from msgspec.structs import replace

from mcpv_node.actors.leases import SLOT_KINDS, InstanceId, LeaseId, LeaseKind, StartCause
from mcpv_node.protocol import Reason
from mcpv_node.settings import ServerSpec

from .messages import ServerState

# An instance that stayed ready this long has shown that starting it works (DESIGN 7.3, `restart`).
HEALTHY_AFTER = 60.0

# What `overloaded` advises: long enough for a slot to come free, short enough to try again.
OVERLOADED_RETRY_AFTER = 1.0

# Far beyond any longest delay, and still a float.
MAX_DOUBLINGS = 60


class Policy(Struct, frozen=True):
    """The pool settings of a server type, as its core needs them."""

    always_on: bool
    min_ready: int
    max_instances: int
    max_concurrent: int
    idle_seconds: float
    never_reaped: bool
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
            never_reaped=spec.strategy == "persistent",
            queue_limit=spec.queue_limit,
            queue_timeout=spec.queue_timeout_seconds,
            start_timeout=spec.start_timeout_seconds,
            drain_timeout=spec.drain_timeout_seconds,
            max_retries=spec.restart.max_retries,
            backoff_base=spec.restart.base_seconds,
            backoff_max=spec.restart.max_seconds,
        )


# --- the state ----------------------------------------------------------------------------------


class Instance(Struct, frozen=True):
    """One instance that exists: it leaves the list when its end has been seen, not before."""

    id: InstanceId
    cause: StartCause
    asked_at: float
    ready_at: float | None = None
    idle_since: float | None = None
    busy: tuple[LeaseId, ...] = ()
    kept: tuple[LeaseId, ...] = ()  # leases that hold no slot
    wanted: bool = False  # somebody other than a probe has used it
    drain_until: float | None = None
    stopping: bool = False
    at_fault: bool = False  # it stops because it misbehaved, not because it was told to

    @property
    def serves(self) -> bool:
        """Whether it may be given calls."""
        return self.ready_at is not None and self.drain_until is None and not self.stopping

    @property
    def starts(self) -> bool:
        return self.ready_at is None and not self.stopping

    @property
    def is_idle(self) -> bool:
        return not self.busy and not self.kept


class Waiter(Struct, frozen=True):
    """An Acquire that has no slot yet."""

    lease: LeaseId
    cause: StartCause
    kind: LeaseKind
    since: float
    deadline: float


class State(Struct, frozen=True):
    """Everything one server type knows. `instances` and `waiters` are in order of arrival."""

    instances: tuple[Instance, ...] = ()
    waiters: tuple[Waiter, ...] = ()
    clients: int = 0
    warm: bool = False  # told to start what is desired; until then an always-on server waits its turn
    held: bool = False  # by an operator's stop
    draining: bool = False  # the node stops
    asked_up: bool = False  # an operator's start that no instance has answered yet
    failures: int = 0  # in a row, since the last health
    failed_at: float | None = None
    next_try_at: float | None = None
    suspended: str | None = None
    last_failure: str = ""
    serial: int = 0
    shown: ServerState = ServerState.COLD
    since: float = 0.0


# --- events -------------------------------------------------------------------------------------


class AcquireAsked(Struct, frozen=True):
    lease: LeaseId
    cause: StartCause
    kind: LeaseKind
    deadline: float


class Released(Struct, frozen=True):
    lease: LeaseId


class BecameReady(Struct, frozen=True):
    id: InstanceId


class StartFailed(Struct, frozen=True):
    """`chance` in [0, 1) spreads the next try, so that many servers do not try in step."""

    id: InstanceId
    message: str
    fatal: bool
    chance: float


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
    | BecameReady
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


class Stop(Struct, frozen=True):
    id: InstanceId
    reason: str


class Grant(Struct, frozen=True):
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


# --- the decision -------------------------------------------------------------------------------


def decide(policy: Policy, prefix: str, state: State, event: Event, now: float) -> tuple[State, list[Action]]:
    """Take in one event, then do whatever the facts ask for. New instances are named `<prefix>-<n>`."""
    actions: list[Action] = []
    match event:
        case AcquireAsked():
            state, is_settled = _acquire(policy, state, event, now, actions)
            if is_settled:
                return state, actions
        case Released():
            state, is_settled = _release(policy, state, event.lease, now, actions)
            if is_settled:
                return state, actions
        case BecameReady():
            state = _change(state, event.id, lambda it: _made_ready(it, now))
        case StartFailed():
            state = _start_failed(policy, state, event, now, actions)
        case Exited():
            state = _exited(policy, state, event, now, actions)
        case Retired(at_fault=at_fault):
            state = _change(state, event.id, lambda it: replace(it, stopping=True, at_fault=at_fault))
        case ClientsChanged():
            state = replace(state, clients=event.clients)
        case WarmAsked():
            state = replace(state, warm=True)
        case StartAsked():
            asked_up = state.suspended is None
            next_try_at = None if asked_up else state.next_try_at
            state = replace(_lift_stop(state), asked_up=asked_up, next_try_at=next_try_at)
        case StopAsked():
            state = _drain(policy, replace(state, held=True, asked_up=False), now)
        case DrainAsked(patience=patience):
            state = _drain(policy, replace(state, draining=True), now, patience)
        case RetryAsked():
            state = _lift_stop(state)
            state = replace(state, failures=0, next_try_at=None, suspended=None, last_failure="")
        case Woken():
            pass
        case _:
            assert_never(event)
    return _settle(policy, prefix, state, now, actions), actions


def desired(policy: Policy, state: State) -> int:
    """How many instances should be ready without anybody waiting (I7)."""
    if state.held or state.draining:
        return 0
    if policy.always_on:
        return max(1, policy.min_ready) if state.warm else 0
    return policy.min_ready if state.clients > 0 else 0


def restart_delay(policy: Policy, failures: int, chance: float) -> float:
    """Seconds before the next try after `failures` in a row; the first try is at once (DESIGN 7.3)."""
    if failures <= 1:
        return 0.0
    doubled = policy.backoff_base * 2.0 ** min(failures - 2, MAX_DOUBLINGS)
    return min(policy.backoff_max, doubled) * (0.5 + chance / 2)


def next_wake(policy: Policy, state: State) -> float | None:
    """The next moment at which time alone changes something, or None."""
    starting = _start_deadline(policy, state)
    moments = [_patience(policy, waiter, starting) for waiter in state.waiters]
    has_spare = _spare(policy, state) > 0
    for it in state.instances:
        if it.stopping:
            continue
        if it.drain_until is not None:
            moments.append(it.drain_until)
        elif has_spare and (idle_end := _idle_end(policy, it)) is not None:
            moments.append(idle_end)
    if state.next_try_at is not None and state.suspended is None:
        moments.append(state.next_try_at)
    return min(moments, default=None)


def resume(state: State) -> State:
    """The state for a server type that starts again after it was asked to end: nothing drains for that."""
    if not state.draining:
        return state
    kept = state.instances if state.held else tuple(replace(it, drain_until=None) for it in state.instances)
    return replace(state, draining=False, instances=kept)


# --- steps --------------------------------------------------------------------------------------


def _acquire(
    policy: Policy, state: State, event: AcquireAsked, now: float, actions: list[Action]
) -> tuple[State, bool]:
    """Grant at once, refuse at once, or queue. True when nothing further has to be settled."""
    for it in state.instances:
        if event.lease in it.busy or event.lease in it.kept:
            actions.append(Grant(event.lease, it.id, 0.0, 0.0))  # asked again: it has it
            return state, True
    if any(waiter.lease == event.lease for waiter in state.waiters):
        return state, True
    waiter = Waiter(event.lease, event.cause, event.kind, now, event.deadline)
    refusal = _refusal(policy, state, waiter, now)
    if refusal is not None:
        reason, message, retry_after = refusal
        actions.append(Refuse(event.lease, reason, message, 0.0, retry_after))
        return state, True
    if not state.waiters:
        free = _free_instance(policy, state)
        if free is not None:
            actions.append(Grant(event.lease, free.id, 0.0, 0.0))
            return _seat(state, free, waiter), True
    if len(state.waiters) >= policy.queue_limit:
        message = f"{policy.queue_limit} calls are waiting already"
        actions.append(Refuse(event.lease, Reason.OVERLOADED, message, 0.0, OVERLOADED_RETRY_AFTER))
        return state, True
    return replace(state, waiters=(*state.waiters, waiter)), False


def _refusal(
    policy: Policy, state: State, waiter: Waiter, now: float
) -> tuple[Reason, str, float | None] | None:
    """Why there is nothing to wait for, if so."""
    if state.held:
        return Reason.STOPPING, "an operator stopped this server; `server start` lifts it", None
    if state.draining:
        return Reason.STOPPING, "the node is stopping", None
    if state.suspended is not None:
        return Reason.SUSPENDED, state.suspended, None
    if state.next_try_at is None or state.next_try_at <= now:
        return None
    is_alone = not any(it.serves or it.starts for it in state.instances)
    if is_alone and state.next_try_at >= _patience(policy, waiter, None):
        wait = state.next_try_at - now
        return Reason.BACKING_OFF, f"next try in {wait:.1f} s ({state.last_failure})", wait
    return None


def _release(
    policy: Policy, state: State, lease: LeaseId, now: float, actions: list[Action]
) -> tuple[State, bool]:
    """Free the slot, or the place in the queue. True when nothing else can follow from it but time."""
    for it in state.instances:
        if lease in it.busy or lease in it.kept:
            freed = replace(
                it,
                busy=tuple(other for other in it.busy if other != lease),
                kept=tuple(other for other in it.kept if other != lease),
            )
            if freed.is_idle:
                freed = replace(freed, idle_since=now)
            state = _put(state, freed)
            if freed.wanted and freed.serves and not state.waiters:
                return state, True
            return _stop_unwanted(policy, state, freed, actions), False
    if any(waiter.lease == lease for waiter in state.waiters):
        left = tuple(waiter for waiter in state.waiters if waiter.lease != lease)
        return replace(state, waiters=left), False
    return state, True


def _stop_unwanted(policy: Policy, state: State, it: Instance, actions: list[Action]) -> State:
    """An instance that only a probe used has done what it was started for (I13)."""
    has_spare = _spare(policy, state) > 0
    if _is_only_probed(it) and it.serves and it.is_idle and has_spare and not state.waiters:
        return _stop(state, it, "its lists are learnt", actions)
    return state


def _start_failed(
    policy: Policy, state: State, event: StartFailed, now: float, actions: list[Action]
) -> State:
    if all(it.id != event.id for it in state.instances):
        return state
    was_stopping = any(it.id == event.id and it.stopping for it in state.instances)
    state = _remove(state, event.id)
    if was_stopping:
        return state  # we ended the start ourselves: nothing is wrong with the server
    state = _count_failure(policy, state, event.message, fatal=event.fatal, chance=event.chance, now=now)
    if not any(it.serves or it.starts for it in state.instances):
        actions.extend(
            Refuse(waiter.lease, Reason.START_FAILED, event.message, now - waiter.since)
            for waiter in state.waiters
        )
        state = replace(state, waiters=())
    return state


def _exited(policy: Policy, state: State, event: Exited, now: float, actions: list[Action]) -> State:
    gone = next((it for it in state.instances if it.id == event.id), None)
    if gone is None:
        return state
    if gone.starts and not event.asked:
        failed = StartFailed(event.id, event.message, fatal=False, chance=event.chance)
        return _start_failed(policy, state, failed, now, actions)
    state = _remove(state, event.id)
    if event.asked or (gone.stopping and not gone.at_fault):
        return state
    if _has_proved_healthy(state, gone, now):
        state = replace(state, failures=0)
    return _count_failure(policy, state, event.message, fatal=False, chance=event.chance, now=now)


def _count_failure(
    policy: Policy, state: State, message: str, *, fatal: bool, chance: float, now: float
) -> State:
    failures = state.failures + 1
    suspended = state.suspended  # only `retry` lifts it, not another failure that comes after
    if suspended is None and fatal:
        suspended = f"{message}; `server retry` tries again"
    elif suspended is None and failures > policy.max_retries:
        suspended = f"{failures} failures in a row, the last: {message}; `server retry` tries again"
    return replace(
        state,
        failures=failures,
        failed_at=now,
        last_failure=message,
        suspended=suspended,
        next_try_at=None if suspended else now + restart_delay(policy, failures, chance),
    )


def _drain(policy: Policy, state: State, now: float, patience: float | None = None) -> State:
    """Take nothing new; what is busy may finish within the drain timeout, or sooner if patience is shorter."""
    until = now + (policy.drain_timeout if patience is None else patience)
    return replace(
        state,
        instances=tuple(
            it if it.stopping else replace(it, drain_until=min(until, it.drain_until or until))
            for it in state.instances
        ),
    )


def _lift_stop(state: State) -> State:
    """An operator's stop is over: what was draining for it and has not been told to stop goes on."""
    if not state.held or state.draining:
        return replace(state, held=False)
    going_on = tuple(replace(it, drain_until=None) for it in state.instances)
    return replace(state, held=False, instances=going_on)


def _settle(policy: Policy, prefix: str, state: State, now: float, actions: list[Action]) -> State:
    """Bring everything in line with the facts: queue, starts, stops, the state that is shown."""
    if state.next_try_at is not None and state.next_try_at <= now:
        state = replace(state, next_try_at=None)
    state = _forget_failures(state, now)
    state = _serve(policy, state, now, actions)
    # Before anybody is refused: who does not queue at all may still wait for a start.
    state = _grow(policy, prefix, state, now, actions)
    state = _expire(policy, state, now, actions)
    state = _shrink(policy, state, now, actions)
    return _show(policy, state, now, actions)


def _forget_failures(state: State, now: float) -> State:
    if state.failures and any(_has_proved_healthy(state, it, now) for it in state.instances):
        return replace(state, failures=0, next_try_at=None)
    return state


def _has_proved_healthy(state: State, it: Instance, now: float) -> bool:
    """Whether it has been ready for long, with no other failing meanwhile: those would never back off."""
    if it.ready_at is None:
        return False
    since = it.ready_at if state.failed_at is None else max(it.ready_at, state.failed_at)
    return now >= since + HEALTHY_AFTER


def _serve(policy: Policy, state: State, now: float, actions: list[Action]) -> State:
    """Give free slots to waiters, first come, first served."""
    while state.waiters:
        free = _free_instance(policy, state)
        if free is None:
            return state
        waiter = state.waiters[0]
        began = max(free.asked_at, waiter.since)
        started = max(0.0, (free.ready_at or began) - began)
        actions.append(Grant(waiter.lease, free.id, now - waiter.since, started))
        state = replace(_seat(state, free, waiter), waiters=state.waiters[1:])
    return state


def _expire(policy: Policy, state: State, now: float, actions: list[Action]) -> State:
    """Refuse who has waited long enough, and everybody when nothing can come any more (I4, I5)."""
    if not state.waiters:
        return state
    starting = _start_deadline(policy, state)
    left: list[Waiter] = []
    for waiter in state.waiters:
        refusal = _refusal(policy, state, waiter, now)
        waited = now - waiter.since
        if refusal is not None:
            reason, message, retry_after = refusal
            actions.append(Refuse(waiter.lease, reason, message, waited, retry_after))
        elif starting is not None and now >= max(starting, _patience(policy, waiter, starting)):
            message = f"it was not ready within {policy.start_timeout:g} s"
            actions.append(Refuse(waiter.lease, Reason.START_FAILED, message, waited))
        elif now >= _patience(policy, waiter, starting):
            actions.append(
                Refuse(waiter.lease, Reason.QUEUE_TIMEOUT, f"no slot came free in {waited:.1f} s", waited)
            )
        else:
            left.append(waiter)
    return state if len(left) == len(state.waiters) else replace(state, waiters=tuple(left))


def _grow(policy: Policy, prefix: str, state: State, now: float, actions: list[Action]) -> State:
    """Start what is missing: for waiters as many as they need, else up to the desired count (I2, I3)."""
    if state.held or state.draining or state.suspended is not None:
        return state
    if state.next_try_at is not None:
        return state
    starting = sum(it.starts for it in state.instances)
    alive = starting + sum(it.serves for it in state.instances)
    waiting = sum(waiter.deadline > now for waiter in state.waiters)
    unmet = waiting - starting * policy.max_concurrent
    for_waiters = -(-unmet // policy.max_concurrent) if unmet > 0 else 0
    if alive:
        state = replace(state, asked_up=False) if state.asked_up else state
    target = max(desired(policy, state), int(state.asked_up))
    room = policy.max_instances - len(state.instances)
    for _ in range(min(room, max(for_waiters, target - alive))):
        if for_waiters > 0:
            cause = state.waiters[0].cause
        elif state.asked_up:
            cause = StartCause.OPERATOR
        elif policy.always_on:
            cause = StartCause.ALWAYS_ON
        else:
            cause = StartCause.MIN_READY
        state = replace(_start(prefix, state, cause, now, actions), asked_up=False)
        for_waiters -= 1
    return state


def _shrink(policy: Policy, state: State, now: float, actions: list[Action]) -> State:
    """Stop what has drained, and what has been idle for longer than it is worth keeping."""
    spare = _spare(policy, state)
    for it in state.instances:
        if it.stopping:
            continue
        if it.drain_until is not None:
            if it.is_idle or now >= it.drain_until:
                why = "drained" if it.is_idle else "the drain timeout ran out"
                state = _stop(state, it, why, actions)
        elif spare > 0 and (idle_end := _idle_end(policy, it)) is not None and now >= idle_end:
            state = _stop(state, it, "idle", actions)
            spare -= 1
    return state


def _show(policy: Policy, state: State, now: float, actions: list[Action]) -> State:
    """Say what the facts amount to, and report it when that is news."""
    shown, reason = explain(policy, state)
    if shown is state.shown:
        return state
    actions.append(Changed(state.shown, shown, reason))
    return replace(state, shown=shown, since=now)


def explain(policy: Policy, state: State) -> tuple[ServerState, str]:
    """The state the facts amount to, and why: because of what, and what happens next."""
    ready = sum(it.serves for it in state.instances)
    starting = sum(it.starts for it in state.instances)
    target = desired(policy, state)
    if state.held or state.draining:
        by_whom = "an operator stopped it" if state.held else "the node is stopping"
        if state.instances:
            return ServerState.DRAINING, f"{by_whom}; calls in hand finish first"
        return ServerState.DISABLED, f"{by_whom}; `server start` lifts it" if state.held else by_whom
    if state.suspended is not None:
        return ServerState.SUSPENDED, state.suspended
    if ready and ready >= target:
        return ServerState.READY, _ready_reason(policy, state)
    if ready:
        return ServerState.DEGRADED, f"{ready} of {target} instances are ready; {starting} starting"
    if starting:
        cause = next(it.cause for it in state.instances if it.starts)
        return ServerState.STARTING, f"starting because of {cause.value}"
    if state.next_try_at is not None:
        return ServerState.BACKING_OFF, f"try {state.failures} after: {state.last_failure}"
    if state.instances:
        return ServerState.DRAINING, "its last instance is stopping"
    if state.last_failure and state.failures:
        return ServerState.COLD, f"not running since: {state.last_failure}; the next call starts it"
    return ServerState.COLD, "not running; the next call starts it"


def _ready_reason(policy: Policy, state: State) -> str:
    if policy.always_on:
        return "always-on"
    if any(not it.is_idle for it in state.instances):
        return "serving calls"
    if desired(policy, state):
        return "kept warm: minReady while clients are connected"
    return f"idle; stops after {policy.idle_seconds:g} s without calls"


# --- small parts --------------------------------------------------------------------------------


def _made_ready(it: Instance, now: float) -> Instance:
    """Ready, once: a second notice would make it younger than it is."""
    return it if it.ready_at is not None else replace(it, ready_at=now, idle_since=now)


def _spare(policy: Policy, state: State) -> int:
    """How many more serve than would without anybody waiting."""
    return sum(it.serves for it in state.instances) - desired(policy, state)


def _is_only_probed(it: Instance) -> bool:
    return it.cause is StartCause.BOOTSTRAP and not it.wanted


def _idle_end(policy: Policy, it: Instance) -> float | None:
    """When it has been idle for longer than it is worth keeping, or None while it is not."""
    is_kept_anyway = policy.never_reaped and not _is_only_probed(it)
    if it.idle_since is None or not it.serves or not it.is_idle or is_kept_anyway:
        return None
    return it.idle_since + policy.idle_seconds


def _free_instance(policy: Policy, state: State) -> Instance | None:
    """The least loaded instance with a free slot; the longest idle among equals, so that turns are fair."""
    best: Instance | None = None
    for it in state.instances:
        if not it.serves or len(it.busy) >= policy.max_concurrent:
            continue
        if best is None or (len(it.busy), it.idle_since or 0.0) < (len(best.busy), best.idle_since or 0.0):
            best = it
    return best


def _seat(state: State, it: Instance, waiter: Waiter) -> State:
    wanted = it.wanted or waiter.cause is not StartCause.BOOTSTRAP
    if waiter.kind in SLOT_KINDS:
        return _put(state, replace(it, busy=(*it.busy, waiter.lease), wanted=wanted))
    return _put(state, replace(it, kept=(*it.kept, waiter.lease), wanted=wanted))


def _start(prefix: str, state: State, cause: StartCause, now: float, actions: list[Action]) -> State:
    serial = state.serial + 1
    born = Instance(InstanceId(f"{prefix}-{serial}"), cause, now)
    actions.append(Start(born.id, cause))
    return replace(state, serial=serial, instances=(*state.instances, born))


def _stop(state: State, it: Instance, reason: str, actions: list[Action]) -> State:
    actions.append(Stop(it.id, reason))
    return _put(state, replace(it, stopping=True))


def _start_deadline(policy: Policy, state: State) -> float | None:
    """When the start that is under way must have ended."""
    return max((it.asked_at + policy.start_timeout for it in state.instances if it.starts), default=None)


def _patience(policy: Policy, waiter: Waiter, starting: float | None) -> float:
    """Until when a waiter waits: its queue timeout, plus what is left of a start, capped by its own deadline."""
    limit = waiter.since + policy.queue_timeout
    if starting is not None and starting > limit:
        limit = starting
    return min(limit, waiter.deadline)


def _put(state: State, changed: Instance) -> State:
    return replace(state, instances=tuple(changed if it.id == changed.id else it for it in state.instances))


def _change(state: State, instance_id: InstanceId, change: Callable[[Instance], Instance]) -> State:
    return replace(
        state, instances=tuple(change(it) if it.id == instance_id else it for it in state.instances)
    )


def _remove(state: State, instance_id: InstanceId) -> State:
    return replace(state, instances=tuple(it for it in state.instances if it.id != instance_id))
