"""A server type's decisions, driven by hand: one state, one clock, everything that was decided."""

from __future__ import annotations

from typing import TypeVar

from msgspec.structs import replace

from mcpv_node.actors.leases import InstanceId, LeaseId, LeaseKind, StartCause
from mcpv_node.actors.server_type import core, facts
from mcpv_node.actors.server_type.facts import SHARED_LANE, Action, Event, Instance, Lane, Policy, State
from mcpv_node.actors.server_type.messages import ServerState
from mcpv_node.actors.server_type.seating import grant_at_once
from mcpv_node.settings import ServerStrategy

A = TypeVar("A", bound=Action)

# Any moment will do.
BEGINNING = 1000.0

# As long as a test wants to wait when its own deadline is not what it is about.
FAR = 10_000_000.0


def make_policy(
    *,
    always_on: bool = False,
    min_ready: int = 0,
    max_instances: int = 1,
    max_concurrent: int = 1,
    idle_seconds: float = 60.0,
    strategy: ServerStrategy = "stateless",
    binding_ttl: float = 300.0,
    queue_limit: int = 256,
    queue_timeout: float = 30.0,
    start_timeout: float = 20.0,
    drain_timeout: float = 15.0,
    max_retries: int = 5,
    backoff_base: float = 1.0,
    backoff_max: float = 30.0,
) -> Policy:
    """The defaults of the configuration, but for one instance and a start that is shorter than the queue."""
    return Policy(
        always_on=always_on,
        min_ready=min_ready,
        max_instances=max_instances,
        max_concurrent=max_concurrent,
        idle_seconds=idle_seconds,
        strategy=strategy,
        binding_ttl=binding_ttl,
        queue_limit=queue_limit,
        queue_timeout=queue_timeout,
        start_timeout=start_timeout,
        drain_timeout=drain_timeout,
        max_retries=max_retries,
        backoff_base=backoff_base,
        backoff_max=backoff_max,
    )


class Desk:
    """Where decisions are made. Each method is one event at the clock's time and returns what was decided."""

    def __init__(self, policy: Policy | None = None, *, now: float = BEGINNING) -> None:
        self.policy = policy or make_policy()
        self.state = State(since=now)
        self.now = now
        self.log: list[Action] = []

    def decide(self, event: Event) -> list[Action]:
        self.state, actions = core.decide(self.policy, "fs", self.state, event, self.now)
        self.log += actions
        return actions

    # --- events ---------------------------------------------------------------------------------

    def acquire(
        self,
        lease: int,
        *,
        cause: StartCause = StartCause.TOOL_CALL,
        kind: LeaseKind = LeaseKind.CALL,
        within: float = FAR,
        client: str = "",
        key: str = "",
        lane: Lane = SHARED_LANE,
        instance: int | None = None,
    ) -> list[Action]:
        pinned = None if instance is None else InstanceId(f"fs-{instance}")
        asked = facts.AcquireAsked(LeaseId(lease), cause, kind, self.now + within, client, key, lane, pinned)
        at_once = grant_at_once(self.policy, self.state, asked, self.now)
        actions = self.decide(asked)
        # Every machine and every test of the core shows that the short way comes out where the long one does.
        assert at_once is None or at_once == (self.state, actions[0])
        return actions

    def release(self, lease: int) -> list[Action]:
        return self.decide(facts.Released(LeaseId(lease)))

    def abandon(self, lease: int) -> list[Action]:
        return self.decide(facts.Abandoned(LeaseId(lease)))

    def found(
        self,
        number: int = 1,
        *,
        ready: bool = True,
        busy: tuple[int, ...] = (),
        abandoned: tuple[int, ...] = (),
        lane: Lane = SHARED_LANE,
        any_lane: bool = False,
    ) -> list[Action]:
        return self.decide(
            facts.Found(
                InstanceId(f"fs-{number}"),
                StartCause.TOOL_CALL,
                ready,
                tuple(map(LeaseId, busy)),
                tuple(map(LeaseId, abandoned)),
                lane,
                any_lane,
            )
        )

    def reconfigure(self, policy: Policy) -> list[Action]:
        """Other pool settings from now on."""
        self.policy = policy
        return self.decide(facts.Woken())

    def ready(self, number: int = 1, *, any_lane: bool = False) -> list[Action]:
        return self.decide(facts.BecameReady(InstanceId(f"fs-{number}"), any_lane))

    def owned(self, number: int, client: str) -> list[Action]:
        """The server asks something of this client."""
        return self.decide(facts.Owned(InstanceId(f"fs-{number}"), client))

    def client_gone(self, client: str) -> list[Action]:
        return self.decide(facts.ClientGone(client))

    def fail(
        self, number: int = 1, *, fatal: bool = False, chance: float = 1.0, asked_wrongly: bool = False
    ) -> list[Action]:
        instance_id = InstanceId(f"fs-{number}")
        return self.decide(facts.StartFailed(instance_id, "no luck", fatal, chance, asked_wrongly))

    def exit(self, number: int = 1, *, asked: bool = False, chance: float = 1.0) -> list[Action]:
        return self.decide(facts.Exited(InstanceId(f"fs-{number}"), asked, "it broke", chance))

    def retire(self, number: int = 1, *, at_fault: bool = True) -> list[Action]:
        return self.decide(facts.Retired(InstanceId(f"fs-{number}"), at_fault))

    def clients(self, count: int) -> list[Action]:
        return self.decide(facts.ClientsChanged(count))

    def warm(self) -> list[Action]:
        return self.decide(facts.WarmAsked())

    def operator_start(self) -> list[Action]:
        return self.decide(facts.StartAsked())

    def operator_stop(self) -> list[Action]:
        return self.decide(facts.StopAsked())

    def retry(self) -> list[Action]:
        return self.decide(facts.RetryAsked())

    def drain(self, patience: float | None = None) -> list[Action]:
        return self.decide(facts.DrainAsked(patience))

    def tick(self, seconds: float = 0.0) -> list[Action]:
        """Let `seconds` pass, then look."""
        self.now += seconds
        return self.decide(facts.Woken())

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    # --- what is the case -----------------------------------------------------------------------

    @property
    def shown(self) -> ServerState:
        return self.state.shown

    @property
    def next_wake(self) -> float | None:
        return core.next_wake(self.policy, self.state)

    def instance(self, number: int = 1) -> Instance:
        return next(it for it in self.state.instances if it.id == f"fs-{number}")

    def granted(self) -> list[int]:
        return [int(action.lease) for action in self.log if isinstance(action, facts.Grant)]

    def pool(self, count: int) -> Desk:
        """Have so many instances ready, and no client that wants them warm any more: started one second ago."""
        policy = self.policy
        self.policy = replace(policy, min_ready=count, always_on=False)
        self.clients(1)
        for number in range(1, count + 1):
            self.ready(number)
        self.policy = policy
        self.pass_time(1.0)
        self.log.clear()
        return self

    def holder(self, lease: int) -> str | None:
        """The instance that a lease is on."""
        for it in self.state.instances:
            if lease in (*it.busy, *it.kept, *it.abandoned):
                return it.id
        return None

    def waiting(self) -> list[int]:
        return [int(waiter.lease) for waiter in self.state.waiters]

    def up(self, *, calls: int = 0) -> Desk:
        """Have one instance ready, with the leases 1 to `calls` on it."""
        self.operator_start()
        self.ready(1)
        for lease in range(1, calls + 1):
            self.acquire(lease)
        self.log.clear()
        return self


def of(kind: type[A], actions: list[Action]) -> list[A]:
    """Those of one kind."""
    return [action for action in actions if isinstance(action, kind)]


def starts(actions: list[Action]) -> list[tuple[str, str]]:
    """What is started, and why."""
    return [(action.id, action.cause.value) for action in of(facts.Start, actions)]


def stops(actions: list[Action]) -> list[tuple[str, str]]:
    return [(action.id, action.reason) for action in of(facts.Stop, actions)]


def grants(actions: list[Action]) -> list[tuple[int, str]]:
    return [(int(action.lease), action.id) for action in of(facts.Grant, actions)]


def refusals(actions: list[Action]) -> list[tuple[int, str]]:
    return [(int(action.lease), action.reason.value) for action in of(facts.Refuse, actions)]


def changes(actions: list[Action]) -> list[tuple[str, str]]:
    return [(action.before.value, action.after.value) for action in of(facts.Changed, actions)]
