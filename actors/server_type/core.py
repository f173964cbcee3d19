"""What a server type decides: what is started and stopped, who waits and for how long, what to show.

Pure: `decide(policy, prefix, state, event, now)` gives the next state and what to do about it. Everything is derived
from the current facts after every event (level, not edge), so an event that is lost or seen twice does not
leave the scheduler with a wrong idea of itself. Who sits where is `seating`'s.

Times are monotonic seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import assert_never

from msgspec.structs import replace

from mcpv_node.actors.leases import SLOT_KINDS, InstanceId, LeaseId, StartCause
from mcpv_node.protocol import Reason

from .facts import (
    SHARED_LANE,
    Abandoned,
    AcquireAsked,
    Action,
    BecameReady,
    Changed,
    ClientGone,
    ClientsChanged,
    DrainAsked,
    Event,
    Exited,
    Found,
    Grant,
    Instance,
    Lane,
    Owned,
    Policy,
    Refuse,
    Released,
    Retired,
    RetryAsked,
    Start,
    StartAsked,
    StartFailed,
    State,
    Stop,
    StopAsked,
    Waiter,
    WarmAsked,
    Woken,
)
from .messages import RETRY_ADVICE, ServerState
from .seating import (
    bound_instances,
    expire_bindings,
    find_seat,
    fits,
    forget_instance,
    forget_turns,
    holder,
    instance_of,
    is_bound,
    join_queue,
    make_own,
    next_expiry,
    put,
    seat,
    serve,
    unseat,
)

# An instance that stayed ready this long has shown that starting it works (DESIGN 7.3, `restart`).
HEALTHY_AFTER = 60.0

# What `overloaded` advises: long enough for a slot to come free, short enough to try again.
OVERLOADED_RETRY_AFTER = 1.0

# Far beyond any longest delay, and still a float.
MAX_DOUBLINGS = 60


def decide(policy: Policy, prefix: str, state: State, event: Event, now: float) -> tuple[State, list[Action]]:
    """Take in one event, then do whatever the facts ask for. New instances are named `<prefix>-<n>`."""
    actions: list[Action] = []
    match event:
        case AcquireAsked():
            asked_before = state.lane
            state, is_settled = _acquire(policy, state, event, now, actions)
            if is_settled and state.lane == asked_before:
                return state, actions
        case Released():
            freed = release_at_once(state, event.lease, now)
            if freed is not None:
                return freed, actions
            state = _release(policy, state, event.lease, now, actions)
        case Abandoned():
            state = _abandon(state, event.lease)
        case Found():
            state = _found(state, event, now)
            if not event.ready:
                return state, actions  # others may be found next: nothing is started beside them meanwhile
        case BecameReady():
            state = _became_ready(state, event, now)
        case Owned():
            state = make_own(state, event.id, event.client)
        case ClientGone():
            state = _orphan(state, event.client)
        case StartFailed():
            state = _start_failed(policy, state, event, now, actions)
        case Exited():
            state = _exited(policy, state, event, now, actions)
        case Retired(at_fault=at_fault):
            state = _change(state, event.id, lambda it: replace(it, stopping=True, at_fault=at_fault))
        case ClientsChanged():
            is_first = state.clients == 0 < event.clients
            activating = event.clients > 0 and (state.activating or is_first)
            state = replace(state, clients=event.clients, activating=activating)
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
    """How many instances should be ready for whoever comes, without anybody waiting (I7)."""
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
    moments = [_first_patience(policy, state, starting)] if state.waiters else []
    has_spare = _spare(policy, state) > 0
    for it in state.instances:
        if it.stopping:
            continue
        if it.drain_until is not None:
            moments.append(it.drain_until)
        elif (has_spare or not _is_warm(state, it)) and (
            idle_end := _idle_end(policy, state, it)
        ) is not None:
            moments.append(idle_end)
    if state.next_try_at is not None and state.suspended is None:
        moments.append(state.next_try_at)
    if (expiry := next_expiry(policy, state)) is not None:
        moments.append(expiry)
    if state.waiters and (room_at := _room_at(policy, state)) is not None:
        moments.append(room_at)
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
    has_it = holder(state, event.lease)
    if has_it is not None:
        actions.append(Grant(event.lease, has_it.id, 0.0, 0.0))  # asked again
        return state, True
    if event.lease in [waiter.lease for waiter in state.waiters]:
        return state, True
    # There shall be one singleton for everybody; in lanes it would be ended for every client of another kind.
    lane = SHARED_LANE if policy.strategy == "singleton" else event.lane
    is_probe = event.cause is StartCause.BOOTSTRAP
    if not is_probe and _start_lane(state, lane) != _start_lane(state, state.lane):
        state = replace(state, lane=lane)
    waiter = Waiter(
        event.lease,
        event.cause,
        event.kind,
        now,
        event.deadline,
        event.client or event.key,
        # A probe keeps no state in an instance, so it must not hold one that a caller could have.
        "" if is_probe else event.key,
        lane,
        event.instance,
    )
    refusal = _refusal(policy, state, waiter, now)
    if refusal is not None:
        reason, message, retry_after = refusal
        actions.append(Refuse(event.lease, reason, message, 0.0, retry_after))
        return state, True
    # Those who wait could not be seated after the last event, so a slot that is free is of no use to them.
    free = find_seat(policy, state, waiter)
    if free is not None:
        actions.append(Grant(event.lease, free.id, 0.0, 0.0))
        return seat(policy, state, free, waiter, now), True
    if len(state.waiters) >= policy.queue_limit:
        message = f"{policy.queue_limit} calls are waiting already"
        actions.append(Refuse(event.lease, Reason.OVERLOADED, message, 0.0, OVERLOADED_RETRY_AFTER))
        return state, True
    return join_queue(state, waiter), False


def _refusal(
    policy: Policy, state: State, waiter: Waiter, now: float
) -> tuple[Reason, str, float | None] | None:
    """Why there is nothing to wait for, if so."""
    if waiter.instance is not None:
        pinned = instance_of(state, waiter.instance)
        if pinned is None or not pinned.serves:
            return Reason.INSTANCE_DIED, "the instance that this request goes on with is gone", None
    if state.held:
        return Reason.STOPPING, "an operator stopped this server; `server start` lifts it", None
    if state.draining:
        return Reason.STOPPING, "it is stopping for good", None
    if state.suspended is not None:
        return Reason.SUSPENDED, state.suspended, None
    if state.next_try_at is None or state.next_try_at <= now:
        return None
    is_alone = not any(it.serves or it.starts for it in state.instances)
    if is_alone and state.next_try_at >= _patience(policy, waiter, None):
        wait = state.next_try_at - now
        return Reason.BACKING_OFF, f"next try in {wait:.1f} s ({state.last_failure})", wait
    return None


def _may_refuse(state: State) -> bool:
    """Whether somebody who waits may have nothing to wait for any more."""
    if state.held or state.draining or state.suspended is not None or state.next_try_at is not None:
        return True
    return any(waiter.instance is not None for waiter in state.waiters)


def release_at_once(state: State, lease: LeaseId, now: float) -> State | None:
    """What nearly every release comes to: nothing else can follow from it but time. None where something can."""
    it = holder(state, lease)
    if it is None:
        return None if any(waiter.lease == lease for waiter in state.waiters) else state
    if state.waiters or not it.wanted or it.orphaned or not it.serves:
        return None
    freed = put(state, _without(it, lease, now))
    return unseat(freed, lease, now) if freed.keys else freed


def _release(policy: Policy, state: State, lease: LeaseId, now: float, actions: list[Action]) -> State:
    """Free the slot, or the place in the queue."""
    it = holder(state, lease)
    if it is None:
        return replace(state, waiters=tuple(waiter for waiter in state.waiters if waiter.lease != lease))
    freed = _without(it, lease, now)
    return _stop_unwanted(policy, unseat(put(state, freed), lease, now), freed, actions)


def _abandon(state: State, lease: LeaseId) -> State:
    for it in state.instances:
        if lease in it.busy:
            return put(state, replace(it, busy=_less(it.busy, lease), abandoned=(*it.abandoned, lease)))
    return state


def _without(it: Instance, lease: LeaseId, now: float) -> Instance:
    if lease in it.busy:
        busy = _less(it.busy, lease)
        return replace(it, busy=busy, idle_since=it.idle_since if busy or it.kept or it.abandoned else now)
    kept, abandoned = _less(it.kept, lease), _less(it.abandoned, lease)
    idle_since = it.idle_since if it.busy or kept or abandoned else now
    return replace(it, kept=kept, abandoned=abandoned, idle_since=idle_since)


def _less(leases: tuple[LeaseId, ...], lease: LeaseId) -> tuple[LeaseId, ...]:
    """The others. One holds a lease once."""
    if lease not in leases:
        return leases
    at = leases.index(lease)
    return leases[:at] + leases[at + 1 :]


def _found(state: State, event: Found, now: float) -> State:
    """Take over an instance that an earlier incarnation started."""
    known = instance_of(state, event.id)
    if event.ready:
        state = replace(state, any_lane=event.any_lane)
    if known is not None and (known.ready_at is not None or not event.ready):
        # It has told us itself meanwhile, or is not ready yet: new is only whom it serves.
        lane = known.lane if known.lane.owner else event.lane
        return put(state, replace(known, lane=lane, any_lane=known.any_lane or event.any_lane))
    ready_at = now if event.ready else None
    found = Instance(
        event.id,
        event.cause,
        now if known is None else known.asked_at,
        event.lane,
        ready_at=ready_at,
        idle_since=ready_at,
        busy=event.busy,
        abandoned=event.abandoned,
        wanted=True,
        any_lane=event.any_lane,
    )
    if known is not None:
        return put(state, replace(found, drain_until=known.drain_until, stopping=known.stopping))
    return replace(state, instances=(*state.instances, found))


def _stop_unwanted(policy: Policy, state: State, it: Instance, actions: list[Action]) -> State:
    """An instance that only a probe used has done what it was started for (I13)."""
    if (
        _is_only_probed(it)
        and it.serves
        and it.is_idle
        and not state.waiters
        and _is_spare(policy, state, it)
    ):
        return _stop(state, it, "its lists are learnt", actions)
    return state


def _start_failed(
    policy: Policy, state: State, event: StartFailed, now: float, actions: list[Action]
) -> State:
    gone = instance_of(state, event.id)
    if gone is None:
        return state
    state = forget_instance(state, event.id)
    if gone.stopping:
        return state  # we ended the start ourselves: nothing is wrong with the server
    if event.asked_wrongly:
        # Who wanted it up wants so still.
        return replace(state, asked_up=state.asked_up or gone.cause is StartCause.OPERATOR)
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
    state = forget_instance(state, event.id)
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
        suspended = message + RETRY_ADVICE
    elif suspended is None and failures > policy.max_retries:
        suspended = f"{failures} failures in a row, the last: {message}{RETRY_ADVICE}"
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
    state = expire_bindings(policy, state, now)
    # Before anybody is seated: what is over the cap takes nobody any more.
    state = _trim(policy, state, now)
    if state.suspended is None:  # else who waits is refused like who comes now, whatever is free
        state = serve(policy, state, now, actions)
    # Before anybody is refused: who does not queue at all may still wait for a start.
    state = _grow(policy, prefix, state, now, actions)
    state = forget_turns(_expire(policy, state, now, actions))
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


def _expire(policy: Policy, state: State, now: float, actions: list[Action]) -> State:
    """Refuse who has waited long enough, and everybody when nothing can come any more (I4, I5)."""
    if not state.waiters:
        return state
    starting = _start_deadline(policy, state)
    if now < _first_patience(policy, state, starting) and not _may_refuse(state):
        return state
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
    if not _may_start(state):
        return state
    alive = [it for it in state.instances if it.starts or it.serves]
    if alive and state.asked_up:
        state = replace(state, asked_up=False)
    warm = sum(_is_warm(state, it) for it in alive)
    room = _room(policy, state)
    # At the cap with everything in use nothing can be done, and the queue may be long.
    needed = _starts_for_waiters(policy, state, now) if room or _has_idle(state) else []
    target = max(desired(policy, state), int(state.asked_up))
    cause = StartCause.CLIENT_ACTIVATE if state.activating else StartCause.MIN_READY
    if policy.always_on:
        cause = StartCause.ALWAYS_ON
    if state.asked_up:
        cause = StartCause.OPERATOR
    warm_lane = _start_lane(state, state.lane)
    warm += sum(_start_lane(state, lane) == warm_lane for _, lane in needed)
    wanted = [*needed, *[(cause, state.lane)] * (target - warm)]
    if state.activating and len(wanted) <= room:
        state = replace(state, activating=False)  # what is missing later is missing for another reason
    for why, lane in wanted[:room]:
        state = replace(_start(prefix, state, why, lane, now, actions), asked_up=False)
    return _make_room(policy, state, len(needed) - room, now, actions)


def _may_start(state: State) -> bool:
    return not (state.held or state.draining or state.suspended is not None or state.next_try_at is not None)


def _has_idle(state: State) -> bool:
    return any(it.serves and it.is_idle for it in state.instances)


def _room(policy: Policy, state: State) -> int:
    """How many more may be started; a new configuration may have left more than there may be."""
    return max(0, policy.max_instances - len(state.instances))


def _starts_for_waiters(policy: Policy, state: State, now: float) -> list[tuple[StartCause, Lane]]:
    """One entry for each instance that the waiters need beyond those under way: why, and in which lane."""
    if not state.waiters:
        return []
    under_way: dict[Lane, int] = {}
    for it in state.instances:
        if it.starts:
            lane = _start_lane(state, it.lane)
            under_way[lane] = under_way.get(lane, 0) + _seats_of_new(policy)
    needs: list[tuple[StartCause, Lane]] = []
    new_keys: set[tuple[str, Lane]] = set()
    for waiter in state.waiters:
        if waiter.deadline <= now or is_bound(policy, state, waiter):
            continue
        lane = _start_lane(state, waiter.lane)
        if policy.sticky and waiter.key:
            if (waiter.key, lane) in new_keys:
                continue  # it will share the instance that its key gets
            new_keys.add((waiter.key, lane))
        seats = 1 if waiter.kind in SLOT_KINDS or policy.strategy == "exclusive" else 0
        if under_way.get(lane, -1) >= seats:
            under_way[lane] -= seats
            continue
        needs.append((waiter.cause, waiter.lane))
        under_way[lane] = _seats_of_new(policy) - seats
    return needs


def _start_lane(state: State, lane: Lane) -> Lane:
    """The lane that a start counts in: there is one for all where requests say what their client can do."""
    return SHARED_LANE if state.any_lane else lane


def _seats_of_new(policy: Policy) -> int:
    """How many of the waiters one more instance helps: of an exclusive one, those of one key."""
    return 1 if policy.strategy == "exclusive" else policy.max_concurrent


def _make_room(policy: Policy, state: State, missing: int, now: float, actions: list[Action]) -> State:
    """At the cap, `missing` instances are needed: those that were longest without use give way.

    Of another lane, or another client's, at once; one that is bound to a key only after `idleSeconds` (DESIGN 7.3,
    `exclusive`).
    """
    missing -= _leaving(state)
    if missing <= 0:
        return state
    candidates = [it for it in _could_give_way(policy, state) if _gives_way_at(policy, state, it) <= now]
    for oldest in sorted(candidates, key=lambda it: it.idle_since or 0.0)[:missing]:
        state = _stop(state, oldest, "it gives way to other clients", actions)
    return state


def _leaving(state: State) -> int:
    """How many make room already."""
    return sum(it.stopping or it.drain_until is not None for it in state.instances)


def _room_at(policy: Policy, state: State) -> float | None:
    """When the next instance may be made to give way, where somebody waits for room that nobody makes yet."""
    if not _may_start(state) or _room(policy, state) or not _has_idle(state):
        return None
    if len(_starts_for_waiters(policy, state, -math.inf)) <= _leaving(state):
        return None
    return min((_gives_way_at(policy, state, it) for it in _could_give_way(policy, state)), default=None)


def _could_give_way(policy: Policy, state: State) -> list[Instance]:
    """Idle instances that none of the waiters can use."""
    unbound = [waiter for waiter in state.waiters if not is_bound(policy, state, waiter)]
    if not unbound:
        return []
    taken = bound_instances(state) if policy.strategy == "exclusive" else frozenset[InstanceId]()
    return [
        it
        for it in state.instances
        if it.serves
        and it.is_idle
        and it.idle_since is not None
        and (it.id in taken or not any(fits(it, waiter.client, waiter.lane.profile) for waiter in unbound))
    ]


def _gives_way_at(policy: Policy, state: State, it: Instance) -> float:
    idle_since = it.idle_since or 0.0
    is_bound_to_a_key = it.id in bound_instances(state)
    return idle_since + policy.idle_seconds if is_bound_to_a_key else idle_since


def _trim(policy: Policy, state: State, now: float) -> State:
    """Drain what is over the cap, which a new configuration may have lowered: what keeps no key, the least busy."""
    alive = [it for it in state.instances if it.drain_until is None and not it.stopping]
    surplus = len(alive) - policy.max_instances
    if surplus <= 0:
        return state
    bound = bound_instances(state)
    alive.sort(key=lambda it: (it.id in bound, len(it.busy), -(it.idle_since or it.asked_at)))
    for it in alive[:surplus]:
        state = put(state, replace(it, drain_until=now + policy.drain_timeout))
    return state


def _shrink(policy: Policy, state: State, now: float, actions: list[Action]) -> State:
    """Stop what has drained, and what has been idle for longer than it is worth keeping."""
    for it in state.instances:
        if it.stopping:
            continue
        if it.drain_until is not None:
            if it.has_drained or now >= it.drain_until:
                why = "drained" if it.has_drained else "the drain timeout ran out"
                state = _stop(state, it, why, actions)
            continue
        if it.orphaned:
            if it.is_idle:
                state = _stop(state, it, "its client is gone", actions)
            continue
        idle_end = _idle_end(policy, state, it)
        if idle_end is not None and now >= idle_end and _is_spare(policy, state, it):
            state = _stop(state, it, "idle", actions)
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
        by_whom = "an operator stopped it" if state.held else "it is stopping for good"
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


def _became_ready(state: State, event: BecameReady, now: float) -> State:
    """Ready, once: a second notice would make it younger than it is."""
    it = instance_of(state, event.id)
    if it is None or it.ready_at is not None:
        return state
    ready = replace(it, ready_at=now, idle_since=now, any_lane=event.any_lane)
    return replace(put(state, ready), any_lane=event.any_lane)


def _orphan(state: State, client: str) -> State:
    """What is this client's alone ends once it does nothing; what it shares with others goes on for them."""
    return replace(
        state,
        instances=tuple(
            replace(it, orphaned=True) if client and it.lane.owner == client else it for it in state.instances
        ),
    )


def _is_warm(state: State, it: Instance) -> bool:
    """Whether it is of use to whoever comes next: nobody's own, and of the lane that was asked for last."""
    if it.lane.owner:
        return False
    return it.any_lane or (it.starts and state.any_lane) or it.lane.profile == state.lane.profile


def _is_spare(policy: Policy, state: State, it: Instance) -> bool:
    """Whether it may go without leaving fewer than desired."""
    return not _is_warm(state, it) or _spare(policy, state) > 0


def _spare(policy: Policy, state: State) -> int:
    """How many more serve whoever comes than would without anybody waiting."""
    return sum(it.serves and _is_warm(state, it) for it in state.instances) - desired(policy, state)


def _is_only_probed(it: Instance) -> bool:
    return it.cause is StartCause.BOOTSTRAP and not it.wanted


def _idle_end(policy: Policy, state: State, it: Instance) -> float | None:
    """When it has been idle for longer than it is worth keeping, or None while it is not.

    What keys are bound to is kept for them until they expire.
    """
    is_kept_anyway = policy.never_reaped and not _is_only_probed(it)
    if state.bindings and it.id in bound_instances(state):
        is_kept_anyway = True
    if it.idle_since is None or not it.serves or not it.is_idle or is_kept_anyway:
        return None
    return it.idle_since + policy.idle_seconds


def _start(
    prefix: str, state: State, cause: StartCause, lane: Lane, now: float, actions: list[Action]
) -> State:
    serial = state.serial + 1
    born = Instance(InstanceId(f"{prefix}-{serial}"), cause, now, lane)
    actions.append(Start(born.id, cause, lane))
    return replace(state, serial=serial, instances=(*state.instances, born))


def _stop(state: State, it: Instance, reason: str, actions: list[Action]) -> State:
    actions.append(Stop(it.id, reason))
    return put(state, replace(it, stopping=True))


def _start_deadline(policy: Policy, state: State) -> float | None:
    """When the start that is under way must have ended."""
    return max((it.asked_at + policy.start_timeout for it in state.instances if it.starts), default=None)


def _patience(policy: Policy, waiter: Waiter, starting: float | None) -> float:
    """Until when a waiter waits: its queue timeout, plus what is left of a start, capped by its own deadline."""
    limit = waiter.since + policy.queue_timeout
    if starting is not None and starting > limit:
        limit = starting
    return min(limit, waiter.deadline)


def _first_patience(policy: Policy, state: State, starting: float | None) -> float:
    """Until when the first of those who wait does: they stand in order of arrival, only their deadlines do not."""
    return min(
        _patience(policy, state.waiters[0], starting), min([waiter.deadline for waiter in state.waiters])
    )


def _change(state: State, instance_id: InstanceId, change: Callable[[Instance], Instance]) -> State:
    return replace(
        state, instances=tuple(change(it) if it.id == instance_id else it for it in state.instances)
    )
