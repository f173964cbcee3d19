"""Who sits where: slots, lanes, bindings, and whose turn it is.

Pure, and a part of the core. An instance serves one lane: the clients of one capability profile, and one
client alone once the server has asked something of it. A client's own instance comes before one that is anybody's.
Within a lane the strategy decides:

    stateless, singleton, persistent   the least loaded instance; among equals the longest without a new call
    stateful                           the instance a key is bound to, else as stateless, and bound from then on
    exclusive                          as stateful, and an instance serves one key alone

A key is bound in the lane of its instance. With an instance that becomes one client's, its keys become that client's
too: others who use the same words find them bound to nothing and are bound anew.

Who is pinned to an instance, because that holds what the request goes on with, gets that one or none, and is bound to
nothing by it.

Waiters of one client are seated in order of arrival, and clients take turns: who was served longest ago is next, and
who comes new stands before the one served last and behind all others, so that neither a long queue nor a stream of
new clients starves anybody. A waiter whose bound instance is busy waits for that one and holds up nobody else.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec.structs import replace

from mcpv_node.actors.callers import ClientProfile
from mcpv_node.actors.leases import SLOT_KINDS, InstanceId, LeaseId, LeaseKind, StartCause

from .facts import (
    SHARED_LANE,
    AcquireAsked,
    Action,
    Binding,
    Grant,
    Instance,
    Lane,
    Policy,
    State,
    Waiter,
)


def find_seat(policy: Policy, state: State, waiter: Waiter) -> Instance | None:
    """The instance that can take this waiter now, if there is one."""
    awaited = awaited_instance(policy, state, waiter)
    if awaited is not None or waiter.instance is not None:
        return awaited if awaited is not None and _has_room_for(policy, awaited, waiter) else None
    taken = frozenset[InstanceId]()
    if policy.strategy == "exclusive":
        taken = bound_instances(state, but=_names_of(waiter))
    best: Instance | None = None
    for it in state.instances:
        if not it.serves or it.id in taken or not fits(it, waiter.client, waiter.lane.profile):
            continue
        if _has_room_for(policy, it, waiter) and (best is None or _load(it) < _load(best)):
            best = it
    return best


def grant_at_once(
    policy: Policy, state: State, event: AcquireAsked, now: float
) -> tuple[State, Grant] | None:
    """What `decide` does about nearly every request, without its detours; None where it is not one of these.

    A call, new, of no key that says where it goes, while nobody waits and nothing stands in the server's way.
    """
    if policy.sticky or event.kind is not LeaseKind.CALL or event.cause is StartCause.BOOTSTRAP:
        return None
    if state.waiters or state.held or state.draining or event.instance is not None:
        return None
    if state.suspended is not None or state.next_try_at is not None:
        return None
    lane = SHARED_LANE if policy.strategy == "singleton" else event.lane
    if not state.any_lane and lane != state.lane:
        return None  # what is kept warm is kept in another lane from now on
    client = event.client or event.key
    best: Instance | None = None
    for it in state.instances:
        if event.lease in it.busy or event.lease in it.kept or event.lease in it.abandoned:
            return None  # it is not new
        if not it.serves or not fits(it, client, lane.profile) or not has_slot(policy, it):
            continue
        if best is None or _load(it) < _load(best):
            best = it
    if best is None:
        return None
    seated = replace(best, busy=(*best.busy, event.lease), wanted=True, used_at=now)
    return put(state, seated), Grant(event.lease, best.id, 0.0, 0.0)


def fits(it: Instance, client: str, profile: ClientProfile) -> bool:
    """Whether the instance may serve this client, of this profile."""
    if it.lane.owner and it.lane.owner != client:
        return False
    return it.any_lane or it.lane.profile == profile


def _has_room_for(policy: Policy, it: Instance, waiter: Waiter) -> bool:
    return waiter.kind not in SLOT_KINDS or has_slot(policy, it)


def _load(it: Instance) -> tuple[bool, int, float, float]:
    """Whether it is anybody's: a client's own has the client's state. Then how much it does, a call that nobody waits
    for as well; when that began; since when it was idle before."""
    taken = len(it.busy) + len(it.abandoned)
    return not it.lane.owner, taken, it.used_at if taken else 0.0, it.idle_since or 0.0


def key_in_lane(key: str, lane: Lane) -> str:
    """What is bound for a key: another lane's clients may use the same word, and their state is another's."""
    if lane == SHARED_LANE:
        return key
    return f"{key}\0{lane.profile}\0{lane.owner}"


def _lane_of(it: Instance) -> Lane:
    """The lane its keys are bound in; where profiles do not matter they set no keys apart."""
    return Lane(owner=it.lane.owner) if it.any_lane else it.lane


def _names_of(waiter: Waiter) -> tuple[str, ...]:
    """What its key may be bound as, the first that holds being meant: its own instance's, its lane's, all lanes'."""
    if not waiter.key:
        return ()
    profile = waiter.lane.profile
    return (
        key_in_lane(waiter.key, Lane(profile, waiter.client)),
        key_in_lane(waiter.key, Lane(owner=waiter.client)),
        key_in_lane(waiter.key, Lane(profile)),
        waiter.key,
    )


def awaited_instance(policy: Policy, state: State, waiter: Waiter) -> Instance | None:
    """The instance that it is pinned or bound to, where that serves."""
    if waiter.instance is not None:
        pinned = instance_of(state, waiter.instance)
        return pinned if pinned is not None and pinned.serves else None
    if not policy.sticky or not state.bindings:
        return None
    for name in _names_of(waiter):
        binding = state.bindings.get(name)
        bound = None if binding is None else instance_of(state, binding.instance)
        if bound is not None and bound.serves and fits(bound, waiter.client, waiter.lane.profile):
            return bound
    return None


def is_bound(policy: Policy, state: State, waiter: Waiter) -> bool:
    """Whether it waits for one particular instance, so that no other and no new one helps it."""
    return waiter.instance is not None or awaited_instance(policy, state, waiter) is not None


def seat(policy: Policy, state: State, it: Instance, waiter: Waiter, now: float) -> State:
    """Give it the slot; a key is bound by its first use, whatever instance that was."""
    wanted = it.wanted or waiter.cause is not StartCause.BOOTSTRAP
    if waiter.kind in SLOT_KINDS:
        state = put(state, replace(it, busy=(*it.busy, waiter.lease), wanted=wanted, used_at=now))
    else:
        state = put(state, replace(it, kept=(*it.kept, waiter.lease), wanted=wanted))
    if not policy.sticky or not waiter.key or waiter.instance is not None:
        return state
    name = key_in_lane(waiter.key, _lane_of(it))
    bindings = state.bindings
    binding = bindings.get(name)
    # When a key was used last is written at its release; there may be thousands to copy.
    if binding is None or binding.instance != it.id:
        bindings = {**bindings, name: Binding(it.id, now)}
    return replace(state, bindings=bindings, keys={**state.keys, waiter.lease: name})


def make_own(state: State, instance_id: InstanceId, client: str) -> State:
    """The instance is this client's alone from now on, and so are the keys that are bound to it.

    Whose it is does not change: calls of others that were under way may still be asked something.
    """
    it = instance_of(state, instance_id)
    if it is None or it.lane.owner or not client:
        return state
    owned = replace(it, lane=replace(it.lane, owner=client))
    state = put(state, owned)
    before, after = key_in_lane("", _lane_of(it)), key_in_lane("", _lane_of(owned))
    leases = {*it.busy, *it.kept, *it.abandoned}
    bindings = {name: binding for name, binding in state.bindings.items() if binding.instance != it.id}
    for name, binding in state.bindings.items():
        if binding.instance == it.id:
            bindings[name.removesuffix(before) + after] = binding
    keys = {
        lease: name.removesuffix(before) + after if lease in leases else name
        for lease, name in state.keys.items()
    }
    return replace(state, bindings=bindings, keys=keys)


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
        left = tuple([other for other in state.waiters if other is not waiter])
        turn = state.turn + 1
        state = replace(
            seat(policy, state, it, waiter, now),
            waiters=left,
            turn=turn,
            turns={**state.turns, waiter.client: turn},
        )
    return state


def join_queue(state: State, waiter: Waiter) -> State:
    """Stand last among the waiters; a client that did not wait yet is behind all but the one served last."""
    turns = state.turns
    if waiter.client not in turns:
        turns = {**turns, waiter.client: state.turn - 1}
    return replace(state, waiters=(*state.waiters, waiter), turns=turns)


def forget_turns(state: State) -> State:
    """Whoever does not wait has no turn: a queue that never empties must not remember all its clients."""
    if not state.turns:
        return state
    waiting = {waiter.client for waiter in state.waiters}
    if len(waiting) == len(state.turns):
        return state
    return replace(state, turns={client: turn for client, turn in state.turns.items() if client in waiting})


def _next_waiter(policy: Policy, state: State) -> tuple[Waiter, Instance] | None:
    """Of those who can be seated, the first of the client whose last turn is longest ago."""
    best: tuple[Waiter, Instance] | None = None
    best_turn = 0
    tried: set[tuple[str, Lane, str, InstanceId | None, bool]] = set()
    has_free_slot = any(it.serves and has_slot(policy, it) for it in state.instances)
    for waiter in state.waiters:
        if not has_free_slot and waiter.kind in SLOT_KINDS:
            continue
        turn = state.turns.get(waiter.client, 0)
        if best is not None and turn >= best_turn:
            continue
        # Another of the same client, lane and key finds what the first one found: nothing.
        likeness = (
            waiter.client,
            waiter.lane,
            waiter.key if policy.sticky else "",
            waiter.instance,
            waiter.kind in SLOT_KINDS,
        )
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
    if not state.bindings:
        return state
    if not policy.sticky:
        return replace(state, bindings={}, keys={})  # another strategy than when they were made
    if policy.strategy == "exclusive":
        state = _one_key_each(state)
    expiry = next_expiry(policy, state)
    if expiry is None or now < expiry:
        return state
    in_use = _keys_in_use(state)
    kept = {
        key: binding
        for key, binding in state.bindings.items()
        if key in in_use or now < binding.used_at + policy.binding_ttl
    }
    return replace(state, bindings=kept)


def _one_key_each(state: State) -> State:
    """Where keys shared an instance, because the strategy was another, those in use keep it, else the last."""
    if len(bound_instances(state)) == len(state.bindings):
        return state
    in_use = _keys_in_use(state)
    owners: dict[InstanceId, str] = {}
    for key, binding in sorted(state.bindings.items(), key=lambda item: (item[0] in in_use, item[1].used_at)):
        owners[binding.instance] = key
    kept = {
        key: binding
        for key, binding in state.bindings.items()
        if key in in_use or owners[binding.instance] == key
    }
    return state if len(kept) == len(state.bindings) else replace(state, bindings=kept)


def _keys_in_use(state: State) -> set[str]:
    """The keys of calls that run or wait: who waits for the instance that has its state must not lose it."""
    return {*state.keys.values(), *(name for waiter in state.waiters for name in _names_of(waiter))}


def next_expiry(policy: Policy, state: State) -> float | None:
    """When the next binding expires by itself."""
    if not state.bindings or not policy.binding_ttl:
        return None
    in_use = _keys_in_use(state)
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


def bound_instances(state: State, *, but: Collection[str] = ()) -> frozenset[InstanceId]:
    """The instances that some key other than those in `but` is bound to."""
    return frozenset(binding.instance for key, binding in state.bindings.items() if key not in but)


def instance_of(state: State, instance_id: InstanceId) -> Instance | None:
    return next((it for it in state.instances if it.id == instance_id), None)


def holder(state: State, lease: LeaseId) -> Instance | None:
    """The instance in which this lease has its slot or its place."""
    for it in state.instances:
        if lease in it.busy or lease in it.kept or lease in it.abandoned:
            return it
    return None


def has_slot(policy: Policy, it: Instance) -> bool:
    return len(it.busy) + len(it.abandoned) < policy.max_concurrent


def put(state: State, changed: Instance) -> State:
    instances = state.instances
    if len(instances) == 1 and instances[0].id == changed.id:
        return replace(state, instances=(changed,))
    return replace(state, instances=tuple([changed if it.id == changed.id else it for it in instances]))
