"""Who sits where: slots, lanes, bindings, and whose turn it is.

Pure, and a part of the core. An instance serves one lane: the clients of one capability profile, and one
session alone where the server has asked something of it. Within a lane the strategy decides:

    stateless, singleton, persistent   the least loaded instance; the longest idle among equals
    stateful                           the instance a key is bound to, else as stateless, and bound from then on
    exclusive                          as stateful, and an instance serves one key alone

Waiters of one client are seated in order of arrival, and clients take turns. A waiter whose bound instance is busy
waits for that one and holds up nobody else.
"""

from __future__ import annotations

from msgspec.structs import replace

from mcpv_node.actors.leases import SLOT_KINDS, InstanceId, LeaseId, StartCause

from .facts import Action, Binding, Grant, Instance, Lane, Policy, State, Waiter


def find_seat(policy: Policy, state: State, waiter: Waiter) -> Instance | None:
    """The instance that can take this waiter now, if there is one."""
    if policy.sticky and waiter.key:
        binding = state.bindings.get(waiter.key)
        if binding is not None:
            bound = instance_of(state, binding.instance)
            if bound is not None and bound.serves and bound.lane == waiter.lane:
                return bound if has_slot(policy, bound) else None
    best: Instance | None = None
    taken = (
        bound_instances(state, but=waiter.key) if policy.strategy == "exclusive" else frozenset[InstanceId]()
    )
    for it in state.instances:
        if not it.serves or it.lane != waiter.lane or not has_slot(policy, it) or it.id in taken:
            continue
        if best is None or (len(it.busy), it.idle_since or 0.0) < (len(best.busy), best.idle_since or 0.0):
            best = it
    return best


def is_bound(policy: Policy, state: State, waiter: Waiter) -> bool:
    """Whether it waits for one particular instance, so that no other and no new one helps it."""
    if not policy.sticky or not waiter.key:
        return False
    binding = state.bindings.get(waiter.key)
    bound = None if binding is None else instance_of(state, binding.instance)
    return bound is not None and bound.serves and bound.lane == waiter.lane


def seat(policy: Policy, state: State, it: Instance, waiter: Waiter, now: float) -> State:
    """Give it the slot; a key is bound by its first use, whatever instance that was."""
    wanted = it.wanted or waiter.cause is not StartCause.BOOTSTRAP
    if waiter.kind in SLOT_KINDS:
        state = put(state, replace(it, busy=(*it.busy, waiter.lease), wanted=wanted))
    else:
        state = put(state, replace(it, kept=(*it.kept, waiter.lease), wanted=wanted))
    if not policy.sticky or not waiter.key:
        return state
    return replace(
        state,
        bindings={**state.bindings, waiter.key: Binding(it.id, now)},
        keys={**state.keys, waiter.lease: waiter.key},
    )


def unseat(state: State, lease: LeaseId, now: float) -> State:
    """The lease is over: its key was in use until now."""
    key = state.keys.get(lease)
    if key is None:
        return state
    keys = {other: name for other, name in state.keys.items() if other != lease}
    bindings = state.bindings
    binding = bindings.get(key)
    if binding is not None:
        bindings = {**bindings, key: replace(binding, used_at=now)}
    return replace(state, keys=keys, bindings=bindings)


def serve(policy: Policy, state: State, now: float, actions: list[Action]) -> State:
    """Seat every waiter that can be seated, clients in turn."""
    while state.waiters:
        chosen = _next_waiter(policy, state)
        if chosen is None:
            return state
        waiter, it = chosen
        began = max(it.asked_at, waiter.since)
        started = max(0.0, (it.ready_at or began) - began)
        actions.append(Grant(waiter.lease, it.id, now - waiter.since, started))
        left = tuple(other for other in state.waiters if other is not waiter)
        turn = state.turn + 1
        state = replace(
            seat(policy, state, it, waiter, now),
            waiters=left,
            turn=turn,
            # Nobody waits: the next queue begins with everybody equal.
            turns={**state.turns, waiter.client: turn} if left else {},
        )
    return state


def _next_waiter(policy: Policy, state: State) -> tuple[Waiter, Instance] | None:
    """Of those who can be seated, the first of the client whose last turn is longest ago."""
    best: tuple[Waiter, Instance] | None = None
    best_turn = 0
    tried: set[tuple[str, Lane, str]] = set()
    for waiter in state.waiters:
        turn = state.turns.get(waiter.client, 0)
        if best is not None and turn >= best_turn:
            continue
        # Another of the same client, lane and key finds what the first one found: nothing.
        likeness = (waiter.client, waiter.lane, waiter.key if policy.sticky else "")
        if likeness in tried:
            continue
        it = find_seat(policy, state, waiter)
        if it is None:
            tried.add(likeness)
        else:
            best, best_turn = (waiter, it), turn
    return best


def expire_bindings(policy: Policy, state: State, now: float) -> State:
    """Forget keys that were not used for their time to live; 0 is for ever. A key in use does not expire."""
    if not state.bindings or not policy.binding_ttl:
        return state
    in_use = frozenset(state.keys.values())
    kept = {
        key: binding
        for key, binding in state.bindings.items()
        if key in in_use or now < binding.used_at + policy.binding_ttl
    }
    return state if len(kept) == len(state.bindings) else replace(state, bindings=kept)


def next_expiry(policy: Policy, state: State) -> float | None:
    """When the next binding expires by itself."""
    if not state.bindings or not policy.binding_ttl:
        return None
    in_use = frozenset(state.keys.values())
    return min(
        (
            binding.used_at + policy.binding_ttl
            for key, binding in state.bindings.items()
            if key not in in_use
        ),
        default=None,
    )


def forget_instance(state: State, instance_id: InstanceId) -> State:
    """The instance is gone: bindings to it vanish (I8), and so do its leases."""
    gone = instance_of(state, instance_id)
    leases = (
        frozenset((*gone.busy, *gone.kept, *gone.abandoned)) if gone is not None else frozenset[LeaseId]()
    )
    return replace(
        state,
        instances=tuple(it for it in state.instances if it.id != instance_id),
        bindings={key: binding for key, binding in state.bindings.items() if binding.instance != instance_id},
        keys={lease: key for lease, key in state.keys.items() if lease not in leases},
    )


def bound_instances(state: State, *, but: str = "") -> frozenset[InstanceId]:
    """The instances that some key other than `but` is bound to."""
    return frozenset(binding.instance for key, binding in state.bindings.items() if key != but)


def instance_of(state: State, instance_id: InstanceId) -> Instance | None:
    return next((it for it in state.instances if it.id == instance_id), None)


def has_slot(policy: Policy, it: Instance) -> bool:
    return len(it.busy) + len(it.abandoned) < policy.max_concurrent


def put(state: State, changed: Instance) -> State:
    return replace(state, instances=tuple(changed if it.id == changed.id else it for it in state.instances))
