"""Whatever happens in whatever order: the decisions keep their promises."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.rehearsal import Rehearsal, a_spec

from mcpv_node.actors.kernel import Crashed, ExitReason, Killed, Normal, Shutdown
from mcpv_node.supervisors import Backoff, Restart, RestartWindow, Strategy
from mcpv_node.supervisors.decisions import (
    Add,
    Arm,
    Begin,
    Delete,
    Disarm,
    Due,
    Exited,
    Finish,
    Forget,
    GraceExpired,
    Input,
    Kill,
    Mode,
    Reply,
    ReplyUp,
    RetryDue,
    Start,
    StartAgain,
    Started,
    StartTimedOut,
    Stop,
    StopAll,
    Terminate,
)

IDS = ["a", "b", "c", "d"]
REASONS: list[ExitReason] = [Normal(), Shutdown(), Crashed("boom"), Killed()]

# A child takes at most a stop, a grace and a kill to end.
ROUNDS_TO_END = 4 * len(IDS)


class World:
    """What the actions have done: which incarnations live, which timers run, who waits."""

    def __init__(self, rehearsal: Rehearsal) -> None:
        self.rehearsal = rehearsal
        self.live: dict[str, int] = {}
        self.timers: dict[str, Due] = {}
        self.waiting: set[int] = set()
        self.finished = False
        self.asks = 0

    def hear(self, heard: Input) -> None:
        done = len(self.rehearsal.actions)
        self.rehearsal.hear(heard)
        for action in self.rehearsal.actions[done:]:
            self._perform(action)

    def ask(self) -> int:
        self.asks += 1
        self.waiting.add(self.asks)
        return self.asks

    def end(self, child_id: str, reason: ExitReason) -> None:
        self.hear(Exited(child_id, self.live.pop(child_id), reason))

    def ring(self, child_id: str) -> None:
        self.hear(self.timers.pop(child_id))

    def _perform(self, action: object) -> None:
        assert not self.finished or isinstance(action, Reply | Forget)
        match action:
            case Start(id, incarnation):
                assert id not in self.live
                self.live[id] = incarnation
            case Stop(id) | Kill(id):
                assert id in self.live
            case Arm(due):
                assert due.id not in self.timers
                self.timers[due.id] = due
            case Disarm(id):
                self.timers.pop(id, None)
            case Reply(ask) | ReplyUp(ask):
                self.waiting.remove(ask)
            case Finish():
                assert not self.live
                assert not self.timers
                self.finished = True
            case _:
                pass


def child_specs() -> st.SearchStrategy[list[Any]]:
    one = st.tuples(st.sampled_from(Restart), st.sampled_from([0.0, 2.0]), st.sampled_from([None, Backoff()]))
    return st.lists(one, max_size=3)


@settings(max_examples=300)
@given(
    strategy=st.sampled_from(Strategy),
    max_restarts=st.integers(0, 4),
    specs=child_specs(),
    data=st.data(),
)
def test_any_sequence_of_inputs_keeps_the_promises(
    strategy: Strategy, max_restarts: int, specs: list[Any], data: st.DataObject
) -> None:
    rehearsal = Rehearsal(
        *(
            a_spec(child_id, restart=restart, grace=grace, backoff=backoff)
            for child_id, (restart, grace, backoff) in zip(IDS, specs, strict=False)
        ),
        strategy=strategy,
        window=RestartWindow(max_restarts=max_restarts),
    )
    world = World(rehearsal)
    world.hear(Begin())

    for _ in range(data.draw(st.integers(0, 25))):
        step(world, data)
        rehearsal.now += data.draw(st.sampled_from([0.0, 0.1, 3.0]))
        assert_in_order(world)

    world.hear(StopAll())
    for _ in range(ROUNDS_TO_END):
        for child in rehearsal.group.children:
            if child.phase == "stopping":
                world.end(child.id, data.draw(st.sampled_from(REASONS)))
    assert world.finished
    assert world.waiting == set()


def step(world: World, data: st.DataObject) -> None:
    """One thing that can happen in this world, or a notice that comes late."""
    child_id = data.draw(st.sampled_from(IDS))
    choices: list[str] = ["late", "terminate", "start again", "delete", "add"]
    if child_id in world.live:
        choices += ["end", "end", "started", "started"]
    if child_id in world.timers:
        choices += ["ring", "ring"]
    match data.draw(st.sampled_from(choices)):
        case "end":
            world.end(child_id, data.draw(st.sampled_from(REASONS)))
        case "started":
            world.hear(Started(child_id, world.live[child_id]))
        case "ring":
            world.ring(child_id)
        case "terminate":
            world.hear(Terminate(child_id, world.ask()))
        case "start again":
            world.hear(StartAgain(child_id, world.ask()))
        case "delete":
            world.hear(Delete(child_id, world.ask()))
        case "add":
            restart = data.draw(st.sampled_from(Restart))
            incarnation = max([0, *(child.incarnation for child in world.rehearsal.group.children)])
            world.hear(Add(a_spec(child_id, restart=restart), restart, incarnation, world.ask()))
        case _:
            before = world.rehearsal.group
            for late in (Started, GraceExpired, StartTimedOut, RetryDue):
                world.hear(late(child_id, 0))
            world.hear(Exited(child_id, 0, Crashed("long ago")))
            assert world.rehearsal.group == before


def assert_in_order(world: World) -> None:
    """What lives is what is known to live; one starts at a time where order matters."""
    group = world.rehearsal.group
    assert {child.id: child.incarnation for child in group.children if child.is_live} == world.live
    if group.mode is Mode.STARTING or group.strategy is not Strategy.ONE_FOR_ONE:
        starting = [child for child in group.children if child.phase == "starting"]
        stopping = [child for child in group.children if child.phase == "stopping"]
        assert len(starting) <= 1
        assert len(stopping) <= 1
    if group.mode is Mode.STOPPING:
        assert not any(child.wanted for child in group.children)
