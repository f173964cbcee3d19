"""Whatever happens to a server type in whatever order, its promises hold; checked against a model of its own.

The model knows leases, instances and bindings as simple tables and believes nothing but the actions it was given;
what it cannot see from outside, a binding that was forgotten and an instance that drains, it reads and judges.
A failure prints the blob with which it is replayed.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace
from support.server_cores import FAR, Desk, make_policy

from mcpv_node.actors.callers import ClientProfile
from mcpv_node.actors.leases import SLOT_KINDS, LeaseKind, StartCause
from mcpv_node.actors.server_type import core, facts, seating
from mcpv_node.actors.server_type.facts import SHARED_LANE, Action, Lane, Policy, State

T = TypeVar("T")

CAUSES = st.sampled_from([StartCause.TOOL_CALL, StartCause.TOOL_CALL, StartCause.BOOTSTRAP])

CHANCES = st.floats(0, 1, exclude_max=True)

# Round numbers, so that deadlines often fall together: that is where order matters.
SECONDS = st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0])

STRATEGIES = st.sampled_from(["stateless", "stateful", "exclusive", "singleton", "persistent"])

# Few, so that they meet each other.
CLIENTS = st.sampled_from(["a", "a", "b", "c"])
KEYS = st.sampled_from(["", "k", "k", "l", "m"])
LANES = st.sampled_from([SHARED_LANE] * 3 + [Lane(ClientProfile("sampling")), Lane(ClientProfile("roots"))])
KINDS = st.sampled_from([LeaseKind.CALL] * 5 + [LeaseKind.SUBSCRIPTION, LeaseKind.TASK])

# One client may be served twice while another could be: once for its old turn, once because it came first.
MOST_PASSES = 2


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    strategy = draw(STRATEGIES)
    max_instances = 1 if strategy == "singleton" else draw(st.integers(1, 4))
    return make_policy(
        always_on=draw(st.booleans()),
        min_ready=draw(st.integers(0, 3)),
        max_instances=max_instances,
        max_concurrent=draw(st.integers(1, 3)),
        idle_seconds=draw(st.sampled_from([0.5, 5.0, 60.0])),
        strategy=strategy,
        binding_ttl=draw(st.sampled_from([0.0, 1.0, 10.0, 300.0])),
        queue_limit=draw(st.integers(1, 6)),
        queue_timeout=draw(st.sampled_from([0.0, 5.0, 30.0])),
        start_timeout=draw(st.sampled_from([5.0, 30.0])),
        drain_timeout=draw(st.sampled_from([1.0, 30.0])),
        max_retries=draw(st.integers(0, 4)),
        backoff_base=draw(st.sampled_from([1.0, 4.0])),
        backoff_max=draw(st.sampled_from([4.0, 30.0])),
    )


@dataclass
class Peer:
    """An instance, as one outside of the server type sees it."""

    lane: Lane = SHARED_LANE
    any_lane: bool = False
    is_orphaned: bool = False
    is_ready: bool = False
    is_leaving: bool = False
    idle_since: float = 0.0
    calls: set[int] = field(default_factory=set[int])
    kept: set[int] = field(default_factory=set[int])
    abandoned: set[int] = field(default_factory=set[int])

    @property
    def leases(self) -> set[int]:
        return self.calls | self.kept | self.abandoned

    @property
    def slots(self) -> int:
        """How many are taken."""
        return len(self.calls) + len(self.abandoned)

    @property
    def binds_in(self) -> Lane:
        """The lane its keys are bound in."""
        return Lane(owner=self.lane.owner) if self.any_lane else self.lane

    def fits(self, asked: Asked) -> bool:
        """Whether it may serve who asks for whatever serves."""
        if self.lane.owner not in ("", asked.client):
            return False
        return self.any_lane or self.lane.profile == asked.lane.profile

    def end(self, lease: int, now: float) -> None:
        for leases in (self.calls, self.kept, self.abandoned):
            leases.discard(lease)
        if not self.leases:
            self.idle_since = now


@dataclass(frozen=True)
class Asked:
    """What a lease was asked for with."""

    client: str
    key: str
    lane: Lane
    kind: LeaseKind
    instance: str | None = None  # this one or none

    @property
    def needs_slot(self) -> bool:
        return self.kind in SLOT_KINDS

    @property
    def names(self) -> list[tuple[str, Lane]]:
        """What its key may be bound by, the first that holds being meant."""
        lanes = [
            Lane(self.lane.profile, self.client),
            Lane(owner=self.client),
            Lane(self.lane.profile),
            SHARED_LANE,
        ]
        return [(self.key, lane) for lane in lanes] if self.key else []


class ServerTypeMachine(RuleBasedStateMachine):
    """The world around one core."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk()
        self.waiting: list[int] = []
        self.deadlines: dict[int, float] = {}
        self.asked: dict[int, Asked] = {}
        self.bound: dict[tuple[str, Lane], str] = {}
        self.used_at: dict[tuple[str, Lane], float] = {}
        self.keyed: dict[int, tuple[str, Lane]] = {}
        self.passes: dict[str, Counter[str]] = defaultdict(Counter[str])
        self.granted: dict[int, str] = {}
        self.over: set[int] = set()
        self.peers: dict[str, Peer] = {}
        self.names: set[str] = set()
        self.next_lease = 1
        self.may_share_keys = False  # it was not always exclusive
        self.client_count = 0
        self.last_lane = SHARED_LANE
        self.is_modern = False  # as far as its last start has shown

    @initialize(policy=policies())
    def choose(self, policy: Policy) -> None:
        self.desk = Desk(policy)

    # --- what happens ---------------------------------------------------------------------------

    @rule(
        cause=CAUSES,
        within=st.sampled_from([0.0, 1.0, 5.0, 20.0, FAR, FAR]),
        client=CLIENTS,
        key=KEYS,
        lane=LANES,
        kind=KINDS,
        pinned=st.one_of(st.none(), st.none(), st.none(), st.integers(0)),
    )
    def acquire(
        self,
        cause: StartCause,
        within: float,
        client: str = "a",
        key: str = "",
        lane: Lane = SHARED_LANE,
        kind: LeaseKind = LeaseKind.CALL,
        pinned: int | None = None,
    ) -> None:
        lease, self.next_lease = self.next_lease, self.next_lease + 1
        is_probe = cause is StartCause.BOOTSTRAP
        own_lane = SHARED_LANE if self.desk.policy.strategy == "singleton" else lane
        if not is_probe and not self.is_modern:
            self.last_lane = own_lane
        instance = None
        if pinned is not None and self.names:
            # One that is there, as often as not one that was.
            instance = self.pick([*sorted(self.names), *self.peers], pinned)
        self.asked[lease] = Asked(client, "" if is_probe else key, own_lane, kind, instance)
        self.waiting.append(lease)
        self.deadlines[lease] = self.desk.now + within
        self.take(
            self.desk.acquire(
                lease,
                cause=cause,
                within=within,
                client=client,
                key=key,
                lane=lane,
                kind=kind,
                instance=None if instance is None else number(instance),
            )
        )

    @rule(choice=st.integers(0))
    @precondition(lambda self: self.waiting or self.granted)
    def ask_again(self, choice: int) -> None:
        lease = self.pick([*self.waiting, *self.granted], choice)
        actions = self.desk.acquire(lease, within=self.deadlines[lease] - self.desk.now)
        if lease in self.granted:
            assert [action for action in actions if isinstance(action, facts.Grant)] == actions
            assert [(a.lease, a.id) for a in actions if isinstance(a, facts.Grant)] == [
                (lease, self.granted[lease])
            ]
        else:
            self.take(actions)

    @rule(choice=st.integers(0))
    @precondition(lambda self: self.waiting or self.granted or self.over)
    def release(self, choice: int) -> None:
        lease = self.pick([*self.granted, *self.waiting, *sorted(self.over)], choice)
        if lease in self.waiting:
            self.waiting.remove(lease)
        elif lease in self.granted:
            self.peers[self.granted.pop(lease)].end(lease, self.desk.now)
            if lease in self.keyed:
                self.used_at[self.keyed.pop(lease)] = self.desk.now
        self.over.add(lease)
        self.take(self.desk.release(lease))

    @rule(choice=st.integers(0))
    @precondition(lambda self: any(peer.calls for peer in self.peers.values()))
    def abandon(self, choice: int) -> None:
        lease = self.pick(sorted(lease for peer in self.peers.values() for lease in peer.calls), choice)
        peer = self.peers[self.granted[lease]]
        peer.calls.remove(lease)
        peer.abandoned.add(lease)
        self.take(self.desk.abandon(lease))

    @rule(choice=st.integers(0), client=CLIENTS)
    @precondition(lambda self: self.serving())
    def ask_a_client(self, choice: int, client: str) -> None:
        """The server asks something of one who calls, or has just called."""
        name = self.pick(self.serving(), choice)
        peer = self.peers[name]
        callers = [self.asked[lease].client for lease in sorted(peer.leases)]
        client = self.pick(callers, choice) if callers else client
        if not peer.lane.owner:
            peer.lane, old = Lane(peer.lane.profile, client), peer.binds_in
            for key, lane in [bound_by for bound_by, held in self.bound.items() if held == name]:
                assert lane == old
                del self.bound[key, lane]
                self.bound[key, peer.binds_in] = name
                self.used_at[key, peer.binds_in] = self.used_at[key, lane]
            for lease in peer.leases & self.keyed.keys():
                self.keyed[lease] = (self.keyed[lease][0], peer.binds_in)
        self.take(self.desk.owned(number(name), client))

    @rule(client=CLIENTS)
    def lose_a_client(self, client: str) -> None:
        for peer in self.peers.values():
            peer.is_orphaned = peer.is_orphaned or peer.lane.owner == client
        self.take(self.desk.client_gone(client))

    @rule(policy=policies())
    def reconfigure(self, policy: Policy) -> None:
        """All settings at once; what was bound by a strategy without bindings is bound no more."""
        if not policy.sticky:
            self.bound.clear()
            self.keyed.clear()
        # What keys share when the strategy becomes exclusive, they share until it is unbound: a second change alike
        # changes nothing about that.
        self.may_share_keys = self.may_share_keys or self.desk.policy.strategy != "exclusive"
        self.take(self.desk.reconfigure(policy))

    @rule(
        change=st.sampled_from(
            [("max_instances", 1), ("max_instances", 4), ("max_concurrent", 1), ("max_concurrent", 3)]
        )
    )
    def reconfigure_one(self, change: tuple[str, int]) -> None:
        if self.desk.policy.strategy != "singleton":
            self.take(self.desk.reconfigure(replace(self.desk.policy, **dict([change]))))

    @rule()
    @precondition(lambda self: self.peers)
    def lose_the_state(self) -> None:
        """A second crash: everything is made anew from the instances that live; whoever waited asks anew."""
        self.over.update(self.waiting)
        self.waiting.clear()
        self.bound.clear()
        self.keyed.clear()
        self.passes.clear()
        old = self.desk.state
        self.desk.state = State(since=self.desk.now, warm=True, serial=old.serial)
        self.desk.policy = replace(self.desk.policy, strategy="stateless")
        leaving = self.leaving()
        self.last_lane, self.is_modern = SHARED_LANE, False
        for name, peer in list(self.peers.items()):
            peer.is_leaving = peer.is_orphaned = False
            for lease in peer.leases if name in leaving else peer.kept:
                del self.granted[lease]
                self.over.add(lease)
            peer.kept.clear()
            if name in leaving:
                peer.calls.clear()
                peer.abandoned.clear()
                peer.lane, peer.any_lane = SHARED_LANE, False  # nobody asks it any more
            peer.idle_since = self.desk.now
            self.take(self.desk.found(number(name), ready=False))
        for name, peer in list(self.peers.items()):
            if name in leaving:
                peer.is_leaving = True
                self.take(self.desk.retire(number(name), at_fault=False))
            elif peer.is_ready:
                busy, abandoned = tuple(sorted(peer.calls)), tuple(sorted(peer.abandoned))
                self.is_modern = peer.any_lane
                self.take(
                    self.desk.found(
                        number(name), busy=busy, abandoned=abandoned, lane=peer.lane, any_lane=peer.any_lane
                    )
                )
            else:
                self.take(self.desk.found(number(name), ready=False, lane=peer.lane))
        self.take(self.desk.clients(self.client_count))

    @rule(
        choice=st.integers(0),
        outcome=st.sampled_from(["ready"] * 5 + ["modern", "failed", "failed", "fatal", "asked wrongly"]),
        chance=CHANCES,
    )
    @precondition(lambda self: self.starting())
    def end_a_start(self, choice: int, outcome: str, chance: float) -> None:
        name = self.pick(self.starting(), choice)
        if outcome in ("ready", "modern"):
            self.is_modern = self.peers[name].any_lane = outcome == "modern"
            self.peers[name].is_ready = True
            self.peers[name].idle_since = self.desk.now
            self.take(self.desk.ready(number(name), any_lane=self.is_modern))
        else:
            del self.peers[name]
            actions = self.desk.fail(
                number(name),
                fatal=outcome == "fatal",
                chance=chance,
                asked_wrongly=outcome == "asked wrongly",
            )
            self.take(actions)

    @rule(
        calls=st.integers(1, 6),
        keys=st.lists(KEYS, min_size=1, max_size=3),
        clients=st.lists(CLIENTS, min_size=1, max_size=3),
    )
    def be_busy(self, calls: int, keys: list[str], clients: list[str]) -> None:
        """Many callers at once, and whatever starts for them is ready at once."""
        for call in range(calls):
            key, client = keys[call % len(keys)], clients[call % len(clients)]
            self.acquire(StartCause.TOOL_CALL, FAR, client, key)
        for _ in range(len(self.starting())):
            self.end_a_start(0, "ready", 0.0)

    @rule(choice=st.integers(0), chance=CHANCES)
    @precondition(lambda self: self.leaving())
    def end_as_asked(self, choice: int, chance: float) -> None:
        self.exit(self.pick(self.leaving(), choice), chance)

    @rule(choice=st.integers(0), chance=CHANCES)
    @precondition(lambda self: self.peers)
    def crash(self, choice: int, chance: float) -> None:
        self.exit(self.pick(list(self.peers), choice), chance)

    def exit(self, name: str, chance: float) -> None:
        peer = self.peers.pop(name)
        for lease in peer.leases:
            del self.granted[lease]
            self.over.add(lease)
            self.keyed.pop(lease, None)
        self.bound = {key: held for key, held in self.bound.items() if held != name}
        self.take(self.desk.exit(number(name), asked=peer.is_leaving, chance=chance))

    @rule(choice=st.integers(0), at_fault=st.booleans())
    @precondition(lambda self: self.serving())
    def retire(self, choice: int, at_fault: bool) -> None:
        name = self.pick(self.serving(), choice)
        self.peers[name].is_leaving = True
        self.take(self.desk.retire(number(name), at_fault=at_fault))

    @rule(count=st.integers(0, 2))
    def clients(self, count: int) -> None:
        self.client_count = count
        self.take(self.desk.clients(count))

    @rule(
        event=st.sampled_from(["warm", "operator_start", "operator_start", "retry", "retry", "operator_stop"])
    )
    def tell(self, event: str) -> None:
        self.take(getattr(self.desk, event)())

    @rule()
    def drain_and_go_on(self) -> None:
        """The server type is asked to end, and its place is filled again."""
        self.take(self.desk.drain())
        self.desk.state = core.resume(self.desk.state)
        self.take(self.desk.tick())

    @rule(seconds=SECONDS)
    def let_time_pass_unseen(self, seconds: float) -> None:
        self.desk.pass_time(seconds)

    @rule(seconds=SECONDS)
    def look_after(self, seconds: float) -> None:
        self.take(self.desk.tick(seconds))

    @rule()
    @precondition(lambda self: self.desk.next_wake is not None)
    def wake_when_asked(self) -> None:
        moment = self.desk.next_wake
        assert moment is not None
        self.take(self.desk.tick(max(0.0, moment - self.desk.now)))
        # A float's last digit may keep the clock just before the moment; then the moment must still be ahead.
        following = self.desk.next_wake
        assert following is None or following > self.desk.now, "woken for nothing, again and again"

    # --- what follows from it -------------------------------------------------------------------

    def take(self, actions: list[Action]) -> None:
        """Do what was decided, and check that it may be done."""
        self.forget_what_expired()
        for action in actions:
            match action:
                case facts.Start():
                    self.begin(action)
                case facts.Stop():
                    self.leave(action)
                case facts.Grant():
                    self.grant(int(action.lease), action.id)
                case facts.Refuse():
                    self.waiting.remove(int(action.lease))
                    self.over.add(int(action.lease))
                case facts.Changed():
                    assert action.reason

    def begin(self, start: facts.Start) -> None:
        assert start.id not in self.names, "a name is used once"
        assert self.is_open()
        self.names.add(start.id)
        self.peers[start.id] = Peer(start.lane)
        assert len(self.peers) <= self.desk.policy.max_instances
        lane = self.starts_in(start.lane)
        starting = sum(self.starts_in(self.peers[name].lane) == lane for name in self.starting())
        without_callers = max(1, self.warm_count()) if lane == self.starts_in(self.last_lane) else 0
        assert not start.lane.owner
        assert starting <= max(self.needed(lane), without_callers), "no more starts than somebody needs"

    def leave(self, stop: facts.Stop) -> None:
        peer = self.peers[stop.id]
        assert not peer.is_leaving
        peer.is_leaving = True
        is_bound = stop.id in self.bound.values()
        if stop.reason in ("idle", "it gives way to other clients", "its lists are learnt"):
            assert not peer.leases
        if stop.reason == "idle":
            assert not is_bound, "an instance is kept for its keys"
            desired = core.desired(self.desk.policy, self.desk.state)
            assert not self.is_warm(peer) or len(self.warm(self.undrained())) >= desired
        if stop.reason == "its client is gone":
            assert peer.is_orphaned
            assert not peer.leases
        if stop.reason == "it gives way to other clients":
            waiting = [self.asked[lease] for lease in self.waiting]
            assert any(asked.instance is None for asked in waiting), "for somebody whom another can help"
            if self.desk.policy.strategy != "exclusive":
                assert not all(peer.fits(asked) for asked in waiting)
            patience = self.desk.policy.idle_seconds if is_bound else 0.0
            assert self.desk.now >= peer.idle_since + patience, "a key has its time"

    def grant(self, lease: int, name: str) -> None:
        asked, peer, policy = self.asked[lease], self.peers[name], self.desk.policy
        assert self.is_open()
        assert name in self.serving()
        if asked.instance is None:
            assert peer.fits(asked), "lanes never cross, and an owner's instance is its own"
        else:
            assert name == asked.instance
        if asked.needs_slot:
            assert peer.slots < policy.max_concurrent
        earlier = self.waiting[: self.waiting.index(lease)]
        mine = [other for other in earlier if self.asked[other].client == asked.client]
        assert not any(self.seats_of(other) for other in mine), "first come, first served"
        self.count_passes(asked.client)
        if policy.sticky and asked.key and asked.instance is None:
            assert name in self.seats_of(lease), "a key goes where it is bound, and to no other's instance"
            bound_by = asked.key, peer.binds_in
            if self.bound.get(bound_by) != name:
                self.used_at[bound_by] = self.desk.now
            self.bound[bound_by] = name
            self.keyed[lease] = bound_by
        self.waiting.remove(lease)
        self.granted[lease] = name
        (peer.calls if asked.needs_slot else peer.kept).add(lease)

    def count_passes(self, client: str) -> None:
        """One more of this client is served: whoever could have been instead has been passed over."""
        could = {self.asked[lease].client for lease in self.waiting if self.seats_of(lease)} - {client}
        for other in list(self.passes):
            if other not in could:
                del self.passes[other]
        for other in could:
            self.passes[other][client] += 1
            assert self.passes[other][client] <= MOST_PASSES, "clients take turns"

    def forget_what_expired(self) -> None:
        """A binding may be forgotten when its time is over and no call with its key runs or waits."""
        in_use = {
            *self.keyed.values(),
            *(name for lease in self.waiting for name in self.asked[lease].names),
        }
        ttl = self.desk.policy.binding_ttl
        for bound_by in list(self.bound):
            if seating.key_in_lane(*bound_by) in self.desk.state.bindings:
                continue
            assert bound_by not in in_use
            is_over = ttl > 0 and self.desk.now >= self.used_at[bound_by] + ttl
            assert is_over or self.may_share_keys
            del self.bound[bound_by]

    def seats_of(self, lease: int) -> list[str]:
        """Where it could sit now."""
        asked, policy = self.asked[lease], self.desk.policy
        undrained = self.undrained()
        if asked.instance is not None:
            serving = [name for name in undrained if name == asked.instance]
        else:
            serving = [name for name in undrained if self.peers[name].fits(asked)]
            bound = self.bound_to(asked)
            if bound is not None:
                serving = [bound]
            elif policy.strategy == "exclusive":
                taken = {held for bound_by, held in self.bound.items() if bound_by not in asked.names}
                serving = [name for name in serving if name not in taken]
        return [
            name for name in serving if not asked.needs_slot or self.peers[name].slots < policy.max_concurrent
        ]

    def bound_to(self, asked: Asked) -> str | None:
        """The instance that its key is bound to, where that may serve it."""
        if not self.desk.policy.sticky:
            return None
        held = [self.bound.get(bound_by) for bound_by in asked.names]
        undrained = self.undrained()
        return next((name for name in held if name in undrained and self.peers[name].fits(asked)), None)

    def undrained(self) -> list[str]:
        draining = {it.id for it in self.desk.state.instances if it.drain_until is not None}
        return [name for name in self.serving() if name not in draining]

    def starts_in(self, lane: Lane) -> Lane:
        """The lane that a start counts in."""
        return SHARED_LANE if self.is_modern else lane

    def is_warm(self, peer: Peer) -> bool:
        """Whether it is of use to whoever comes next."""
        if peer.lane.owner:
            return False
        if peer.any_lane or (self.is_modern and not peer.is_ready):
            return True
        return peer.lane.profile == self.last_lane.profile

    def warm(self, names: list[str]) -> list[str]:
        return [name for name in names if self.is_warm(self.peers[name])]

    def needed(self, lane: Lane) -> int:
        """How many new instances the waiters of a lane can use."""
        policy = self.desk.policy
        keys: set[str] = set()
        seats = at_least = 0
        for lease in self.waiting:
            asked = self.asked[lease]
            if asked.instance is not None or self.starts_in(asked.lane) != lane:
                continue
            if self.bound_to(asked) is not None:
                continue
            if policy.sticky and asked.key:
                keys.add(asked.key)
            elif asked.needs_slot or policy.strategy == "exclusive":
                seats += 1
            else:
                at_least = 1
        total = len(keys) + seats
        return max(at_least, total if policy.strategy == "exclusive" else -(-total // policy.max_concurrent))

    def is_open(self) -> bool:
        state = self.desk.state
        return not state.held and not state.draining and state.suspended is None

    def warm_count(self) -> int:
        """What the settings ask for without a caller."""
        policy = self.desk.policy
        return policy.min_ready if policy.always_on or self.client_count > 0 else 0

    def leaving(self) -> list[str]:
        return [name for name, peer in self.peers.items() if peer.is_leaving]

    def starting(self) -> list[str]:
        return [name for name, peer in self.peers.items() if not peer.is_ready and not peer.is_leaving]

    def serving(self) -> list[str]:
        return [name for name, peer in self.peers.items() if peer.is_ready and not peer.is_leaving]

    @staticmethod
    def pick(things: list[T], choice: int) -> T:
        return things[choice % len(things)]

    # --- what always holds ----------------------------------------------------------------------

    @invariant()
    def the_caps_hold(self) -> None:
        """Also a cap that has become lower: what is too much serves no more."""
        serving = [it for it in self.desk.state.instances if it.serves or it.starts]
        assert len([it for it in serving if it.drain_until is None]) <= self.desk.policy.max_instances

    @invariant()
    def it_knows_what_is(self) -> None:
        state = self.desk.state
        assert [int(waiter.lease) for waiter in state.waiters] == self.waiting
        assert {it.id: (set(it.busy), set(it.kept), set(it.abandoned)) for it in state.instances} == {
            name: (peer.calls, peer.kept, peer.abandoned) for name, peer in self.peers.items()
        }
        assert {it.id: (it.lane, it.any_lane, it.orphaned) for it in state.instances} == {
            name: (peer.lane, peer.any_lane, peer.is_orphaned) for name, peer in self.peers.items()
        }
        assert {it.id for it in state.instances if it.stopping} == {
            name for name, peer in self.peers.items() if peer.is_leaving
        }

    @invariant()
    def nobody_waits_for_a_slot_that_is_free(self) -> None:
        if self.is_open():
            assert not any(self.seats_of(lease) for lease in self.waiting)

    @invariant()
    def bindings_are_those_that_were_made(self) -> None:
        made = {seating.key_in_lane(*bound_by): name for bound_by, name in self.bound.items()}
        assert {key: binding.instance for key, binding in self.desk.state.bindings.items()} == made
        assert set(made.values()) <= set(self.peers)

    @invariant()
    def an_exclusive_instance_has_one_key(self) -> None:
        if self.desk.policy.strategy == "exclusive" and not self.may_share_keys:
            assert len(set(self.bound.values())) == len(self.bound)

    @invariant()
    def who_goes_on_with_an_instance_waits_only_while_that_serves(self) -> None:
        for lease in self.waiting:
            assert self.asked[lease].instance is None or self.asked[lease].instance in self.undrained()

    @invariant()
    def what_is_desired_is_there_for_whoever_comes(self) -> None:
        """Or on its way, as far as there is room and it may be tried."""
        state, policy = self.desk.state, self.desk.policy
        if self.is_open() and state.next_try_at is None and len(self.peers) < policy.max_instances:
            alive = [*self.starting(), *self.undrained()]
            assert len(self.warm(alive)) >= core.desired(policy, state)

    @invariant()
    def nothing_idles_for_a_client_that_is_gone(self) -> None:
        assert not any(
            self.peers[name].is_orphaned and not self.peers[name].leases for name in self.serving()
        )

    @invariant()
    def turns_are_of_those_who_wait(self) -> None:
        assert set(self.desk.state.turns) == {self.asked[lease].client for lease in self.waiting}

    @invariant()
    def nobody_waits_where_nothing_can_come(self) -> None:
        if self.waiting:
            assert self.is_open()
            assert self.peers or self.desk.state.next_try_at is not None

    @invariant()
    def who_waits_is_looked_at_in_time(self) -> None:
        """With its wake, no waiter outlives its deadline, nor its queue timeout and a start."""
        policy = self.desk.policy
        for waiter in self.desk.state.waiters:
            bound = max(
                [waiter.since + policy.queue_timeout]
                + [it.asked_at + policy.start_timeout for it in self.desk.state.instances if it.starts]
            )
            assert self.desk.next_wake is not None
            assert self.desk.next_wake <= min(bound, self.deadlines[int(waiter.lease)])

    @invariant()
    def what_it_shows_is_what_is(self) -> None:
        shown, reason = core.explain(self.desk.policy, self.desk.state)
        assert shown is self.desk.shown
        assert reason

    @invariant()
    def looking_twice_changes_nothing(self) -> None:
        once, _ = core.decide(self.desk.policy, "fs", self.desk.state, facts.Woken(), self.desk.now)
        twice, actions = core.decide(self.desk.policy, "fs", once, facts.Woken(), self.desk.now)
        assert (twice, actions) == (once, [])

    def teardown(self) -> None:
        """Left to itself, it comes to rest: everybody who waits is answered, and it asks for no more wakes."""
        for _ in range(1000):
            if self.starting():
                self.end_a_start(0, "fatal", 0.5)
            elif self.granted:
                self.release(0)
            elif self.leaving():
                self.end_as_asked(0, 0.5)
            elif self.desk.next_wake is not None:
                self.wake_when_asked()
            else:
                break
        assert self.desk.next_wake is None
        assert not self.waiting
        assert not self.granted


def number(name: str) -> int:
    return int(name.rpartition("-")[2])


TestServerType = ServerTypeMachine.TestCase
TestServerType.settings = settings(
    max_examples=300,
    stateful_step_count=50,
    print_blob=True,
)
