"""Whatever happens to a server type in whatever order, its promises hold; checked against a model of its own.

The model knows leases and instances as simple tables and believes nothing but the actions it was given.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.server_cores import FAR, Desk, make_policy

from mcpv_node.actors.leases import StartCause
from mcpv_node.actors.server_type import core, facts
from mcpv_node.actors.server_type.facts import Action, Policy

T = TypeVar("T")

CAUSES = st.sampled_from([StartCause.TOOL_CALL, StartCause.TOOL_CALL, StartCause.BOOTSTRAP])

CHANCES = st.floats(0, 1, exclude_max=True)

# Round numbers, so that deadlines often fall together: that is where order matters.
SECONDS = st.sampled_from([0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0])


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    max_instances = draw(st.integers(1, 4))
    return make_policy(
        always_on=draw(st.booleans()),
        min_ready=draw(st.integers(0, 3)),
        max_instances=max_instances,
        max_concurrent=draw(st.integers(1, 3)),
        idle_seconds=draw(st.sampled_from([0.5, 5.0, 60.0])),
        strategy=draw(st.sampled_from(["stateless", "persistent"])),
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

    is_ready: bool = False
    is_leaving: bool = False
    calls: set[int] = field(default_factory=set[int])


class ServerTypeMachine(RuleBasedStateMachine):
    """The world around one core."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk()
        self.waiting: list[int] = []
        self.deadlines: dict[int, float] = {}
        self.granted: dict[int, str] = {}
        self.over: set[int] = set()
        self.peers: dict[str, Peer] = {}
        self.names: set[str] = set()
        self.next_lease = 1
        self.client_count = 0

    @initialize(policy=policies())
    def choose(self, policy: Policy) -> None:
        self.desk = Desk(policy)

    # --- what happens ---------------------------------------------------------------------------

    @rule(cause=CAUSES, within=st.sampled_from([0.0, 1.0, 5.0, 20.0, FAR]))
    def acquire(self, cause: StartCause, within: float) -> None:
        lease, self.next_lease = self.next_lease, self.next_lease + 1
        self.waiting.append(lease)
        self.deadlines[lease] = self.desk.now + within
        self.take(self.desk.acquire(lease, cause=cause, within=within))

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
            self.peers[self.granted.pop(lease)].calls.remove(lease)
        self.over.add(lease)
        self.take(self.desk.release(lease))

    @rule(
        choice=st.integers(0),
        outcome=st.sampled_from(["ready"] * 6 + ["failed", "failed", "fatal"]),
        chance=CHANCES,
    )
    @precondition(lambda self: self.starting())
    def end_a_start(self, choice: int, outcome: str, chance: float) -> None:
        name = self.pick(self.starting(), choice)
        if outcome == "ready":
            self.peers[name].is_ready = True
            self.take(self.desk.ready(number(name)))
        else:
            del self.peers[name]
            self.take(self.desk.fail(number(name), fatal=outcome == "fatal", chance=chance))

    @rule(calls=st.integers(1, 6))
    def be_busy(self, calls: int) -> None:
        """Many callers at once, and whatever starts for them is ready at once."""
        for _ in range(calls):
            self.acquire(StartCause.TOOL_CALL, FAR)
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
        for lease in peer.calls:
            del self.granted[lease]
            self.over.add(lease)
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
        for action in actions:
            match action:
                case facts.Start():
                    assert action.id not in self.names, "a name is used once"
                    self.names.add(action.id)
                    self.peers[action.id] = Peer()
                    needed = -(-len(self.waiting) // self.desk.policy.max_concurrent)
                    wanted = max(needed, 1, self.warm_count())
                    assert len(self.starting()) <= wanted, "no more starts than somebody needs"
                    assert self.is_open()
                case facts.Stop():
                    assert not self.peers[action.id].is_leaving
                    self.peers[action.id].is_leaving = True
                case facts.Grant():
                    assert int(action.lease) == self.waiting.pop(0), "first come, first served"
                    peer = self.peers[action.id]
                    assert peer.is_ready
                    assert not peer.is_leaving
                    assert self.is_open()
                    peer.calls.add(int(action.lease))
                    self.granted[int(action.lease)] = action.id
                case facts.Refuse():
                    self.waiting.remove(int(action.lease))
                    self.over.add(int(action.lease))
                case facts.Changed():
                    assert action.reason

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
        assert len(self.peers) <= self.desk.policy.max_instances
        assert all(len(peer.calls) <= self.desk.policy.max_concurrent for peer in self.peers.values())

    @invariant()
    def it_knows_what_is(self) -> None:
        state = self.desk.state
        assert [int(waiter.lease) for waiter in state.waiters] == self.waiting
        assert {it.id: set(map(int, it.busy)) for it in state.instances} == {
            name: peer.calls for name, peer in self.peers.items()
        }
        assert {it.id for it in state.instances if it.stopping} == {
            name for name, peer in self.peers.items() if peer.is_leaving
        }

    @invariant()
    def nobody_waits_for_a_slot_that_is_free(self) -> None:
        if self.waiting and self.is_open():
            full = self.desk.policy.max_concurrent
            assert all(len(self.peers[name].calls) >= full for name in self.serving())

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
    max_examples=400, stateful_step_count=50, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
