"""A dynamic supervisor: children that come and go, each standing alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest
from support.actors import LOOPS, Do, Stage, crash
from support.actors import perform as perform_on
from support.company import SHORT, Company

from mcpv_node.actors.kernel import (
    ActorDead,
    Crashed,
    ExitReason,
    KernelActor,
    Killed,
    LoopActor,
    Normal,
    Shutdown,
    ThreadActor,
)
from mcpv_node.supervisors import (
    AlreadyThere,
    Backoff,
    ChildGaveUp,
    ChildKilled,
    ChildUp,
    CountChildren,
    DeleteChild,
    Deleted,
    DynamicSpec,
    DynamicSupervisor,
    GivingUp,
    NotFound,
    Phase,
    Refused,
    Restart,
    RestartChild,
    RestartWindow,
    StartChild,
    StartFailed,
    SupervisorGaveUp,
    SupervisorSpec,
    TerminateChild,
    Terminated,
    WhichChildren,
    dynamic,
    dynamic_child,
    supervisor_child,
    tree,
)

TIMEOUT = 10.0
MANY = 10_000

RECORD = DynamicSpec(giving_up=GivingUp.RECORD, window=RestartWindow(max_restarts=1))

Scenario = Callable[["Crowd"], Awaitable[None]]
Perform = Callable[[Scenario], None]


class Crowd(Company):
    """A company under a dynamic supervisor, with what the owner of the children heard."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.gone: list[tuple[str, ExitReason]] = []
        self.gave_up: list[tuple[str, ExitReason]] = []

    def open_crowd(self, spec: DynamicSpec | None = None) -> Crowd:
        self.open_with(
            DynamicSupervisor(
                spec,
                on_child_gone=self._gone,
                on_child_gave_up=self._gave_up,
                sink=self.sink,
                rng=Random(4),
            )
        )
        return self

    async def add(self, child_id: str, **fields: Any) -> Any:
        return await self.root.ask(StartChild(self.child(child_id, **fields)), TIMEOUT)

    def _gone(self, child_id: str, reason: ExitReason) -> None:
        self.gone.append((child_id, reason))
        self.stage.journal.write("gone")

    def _gave_up(self, child_id: str, reason: ExitReason) -> None:
        self.gave_up.append((child_id, reason))
        self.stage.journal.write("gave up")


@pytest.fixture(params=LOOPS)
def perform(request: pytest.FixtureRequest) -> Perform:
    def run(scenario: Scenario) -> None:
        async def play(stage: Stage) -> None:
            crowd = Crowd(stage)
            await scenario(crowd)
            if crowd.root.is_alive():
                await crowd.close()
            assert stage.system.live == 0

        perform_on(play, new_loop=LOOPS[request.param])

    return run


@pytest.fixture(params=[LoopActor, ThreadActor])
def runtime(request: pytest.FixtureRequest) -> type[KernelActor[Any]]:
    kind: type[KernelActor[Any]] = request.param
    return kind


def fail(_: object) -> None:
    raise ValueError("no start")


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (lambda actor: actor.exit(), Normal()),
        (lambda actor: actor.exit(Shutdown()), Shutdown()),
        (crash, Crashed("ValueError('boom')")),
    ],
)
def test_a_child_is_temporary_and_its_owner_hears_of_its_end(
    perform: Perform, runtime: type[KernelActor[Any]], end: Any, reason: ExitReason
) -> None:
    async def scenario(crowd: Crowd) -> None:
        crowd.open_crowd()
        up = await crowd.add("a", runtime=runtime)
        up.handle.tell(Do(end))
        await crowd.until(lambda: crowd.gone)

        assert crowd.gone[0][0] == "a"
        assert type(crowd.gone[0][1]) is type(reason)
        assert crowd.keeper.children() == ()
        with pytest.raises(ActorDead):
            await up.handle.ask(Do(lambda actor: None), TIMEOUT)

    perform(scenario)


def test_ids_are_unique_while_the_child_is_there(perform: Perform) -> None:
    async def scenario(crowd: Crowd) -> None:
        crowd.open_crowd()
        assert isinstance(await crowd.add("a"), ChildUp)
        assert await crowd.add("a") == AlreadyThere("a", Phase.RUNNING)
        await crowd.root.ask(TerminateChild("a"), TIMEOUT)

        assert isinstance(await crowd.add("a"), ChildUp)

    perform(scenario)


def test_no_more_than_max_children_are_taken(perform: Perform) -> None:
    async def scenario(crowd: Crowd) -> None:
        crowd.open_crowd(DynamicSpec(max_children=1))
        await crowd.add("a")

        assert await crowd.add("b") == Refused("b", "root has 1 children already")
        await crowd.root.ask(TerminateChild("a"), TIMEOUT)
        assert isinstance(await crowd.add("b"), ChildUp)

    perform(scenario)


def test_a_failed_start_is_answered_and_the_owner_hears_of_it(perform: Perform) -> None:
    async def scenario(crowd: Crowd) -> None:
        crowd.open_crowd()

        outcome = await crowd.add("a", beginning=fail, restart=Restart.PERMANENT)

        assert isinstance(outcome, StartFailed)
        assert crowd.gone == [("a", outcome.reason)]
        assert crowd.keeper.children() == ()

    perform(scenario)


def test_a_significant_child_is_refused(perform: Perform) -> None:
    async def scenario(crowd: Crowd) -> None:
        crowd.open_crowd()

        assert isinstance(await crowd.add("a", significant=True), Refused)

    perform(scenario)


@pytest.mark.parametrize("request_type", [TerminateChild, RestartChild, DeleteChild])
def test_an_unknown_child_is_not_found(perform: Perform, request_type: Any) -> None:
    async def scenario(crowd: Crowd) -> None:
        crowd.open_crowd()

        assert await crowd.root.ask(request_type("x"), TIMEOUT) == NotFound("x")

    perform(scenario)


def test_a_transient_child_is_restarted_when_it_crashes_and_forgotten_when_it_is_done(
    perform: Perform,
) -> None:
    async def scenario(crowd: Crowd) -> None:
        crowd.open_crowd()
        up = await crowd.add("a", restart=Restart.TRANSIENT)
        up.handle.kill()
        assert await up.handle.ask(Do(lambda actor: actor.incarnation), TIMEOUT) == 2
        up.handle.tell(Do(lambda actor: actor.exit()))
        await crowd.until(lambda: crowd.gone)

        assert crowd.gone == [("a", Normal())]
        assert crowd.keeper.children() == ()

    perform(scenario)


def test_all_children_are_stopped_at_once(perform: Perform) -> None:
    async def scenario(crowd: Crowd) -> None:
        asked: set[str] = set()
        names = {f"c{number}" for number in range(20)}

        def on_stop_asked(actor: Any) -> None:
            asked.add(actor.cell.name.removeprefix("root."))
            if asked == names:
                for status in keeper.children():
                    status.handle.tell(Do(lambda child: child.exit(Shutdown())))

        crowd.open_crowd()
        keeper = crowd.keeper
        for name in names:
            await crowd.add(name, on_stop_asked=on_stop_asked)

        assert await crowd.close() == Shutdown()
        assert sorted(crowd.gone) == sorted((name, Shutdown()) for name in names)

    perform(scenario)


def test_each_child_has_its_own_grace(perform: Perform) -> None:
    async def scenario(crowd: Crowd) -> None:
        crowd.open_crowd()
        await crowd.add("deaf", on_stop_asked=lambda actor: None, grace=SHORT)
        await crowd.add("kind")

        assert await crowd.close() == Shutdown()
        assert [event.child for event in crowd.stage.journal.of(ChildKilled)] == ["deaf"]

    perform(scenario)


def test_nothing_is_added_while_it_stops(perform: Perform) -> None:
    async def scenario(crowd: Crowd) -> None:
        crowd.open_crowd()
        up = await crowd.add("a", on_stop_asked=lambda actor: actor.journal.write("asked"))
        crowd.root.cell.stop()
        await crowd.until(lambda: "asked" in crowd.stage.journal.entries)

        assert await crowd.add("b") == Refused("b", "root is stopping")
        up.handle.kill()
        assert await crowd.ended() == Shutdown()

    perform(scenario)


def test_restarts_are_counted_together_until_it_gives_up(perform: Perform) -> None:
    async def scenario(crowd: Crowd) -> None:
        crowd.open_crowd(DynamicSpec(window=RestartWindow(max_restarts=1)))
        one = await crowd.add("a", restart=Restart.PERMANENT)
        other = await crowd.add("b", restart=Restart.PERMANENT)
        await crowd.add("c")
        one.handle.kill()
        other.handle.kill()

        reason = await crowd.ended()

        assert isinstance(reason, Crashed)
        assert [event.child for event in crowd.stage.journal.of(SupervisorGaveUp)] == ["b"]
        assert crowd.stage.system.live == 0

    perform(scenario)


def test_temporary_children_never_count_as_restarts(perform: Perform) -> None:
    async def scenario(crowd: Crowd) -> None:
        crowd.open_crowd(DynamicSpec(window=RestartWindow(max_restarts=0)))
        for number in range(5):
            up = await crowd.add(f"c{number}")
            up.handle.kill()
        await crowd.until(lambda: len(crowd.gone) == 5)

        assert crowd.root.is_alive()

    perform(scenario)


# --- records ----------------------------------------------------------------------------------------


async def give_up_one(crowd: Crowd, child_id: str = "a") -> Any:
    up = await crowd.add(child_id, restart=Restart.PERMANENT)
    for incarnation in (1, 2):
        assert await up.handle.ask(Do(lambda actor: actor.incarnation), TIMEOUT) == incarnation
        up.handle.kill(f"fault {incarnation}")
    await crowd.until(lambda: crowd.gave_up)
    return up


def test_a_child_that_gives_up_stays_as_a_record_and_its_siblings_do_not_notice(perform: Perform) -> None:
    async def scenario(crowd: Crowd) -> None:
        crowd.open_crowd(RECORD)
        other = await crowd.add("b", restart=Restart.PERMANENT)
        up = await give_up_one(crowd)

        (sibling, record) = await crowd.root.ask(WhichChildren(), TIMEOUT)
        assert (sibling.id, sibling.phase, sibling.restarts) == ("b", Phase.RUNNING, 0)
        assert (record.id, record.phase, record.restarts) == ("a", Phase.SUSPENDED, 1)
        assert record.last_exit == Killed("fault 2")
        assert crowd.gave_up == [("a", Killed("fault 2"))]
        assert crowd.gone == []
        assert crowd.stage.journal.of(ChildGaveUp) == [ChildGaveUp("root", "a", 2, Killed("fault 2"))]
        with pytest.raises(ActorDead, match="gave up: more than 1 restarts"):
            await up.handle.ask(Do(lambda actor: None), TIMEOUT)
        other.handle.kill()
        assert await other.handle.ask(Do(lambda actor: actor.incarnation), TIMEOUT) == 2

    perform(scenario)


def test_a_record_is_started_again_on_request_with_its_restarts_forgiven(perform: Perform) -> None:
    async def scenario(crowd: Crowd) -> None:
        crowd.open_crowd(RECORD)
        up = await give_up_one(crowd)
        assert await crowd.add("a") == AlreadyThere("a", Phase.SUSPENDED)

        outcome = await crowd.root.ask(RestartChild("a"), TIMEOUT)

        assert outcome == ChildUp("a", 3, up.handle)
        up.handle.kill()
        assert await up.handle.ask(Do(lambda actor: actor.incarnation), TIMEOUT) == 4

    perform(scenario)


@pytest.mark.parametrize(
    ("request_type", "outcome"), [(DeleteChild, Deleted("a")), (TerminateChild, Terminated("a"))]
)
def test_a_record_can_be_dropped(perform: Perform, request_type: Any, outcome: Any) -> None:
    async def scenario(crowd: Crowd) -> None:
        crowd.open_crowd(RECORD)
        await give_up_one(crowd)

        assert await crowd.root.ask(request_type("a"), TIMEOUT) == outcome
        assert crowd.keeper.children() == ()
        assert crowd.gone == [("a", Killed("fault 2"))]

    perform(scenario)


def test_a_first_start_that_fails_leaves_a_record_too(perform: Perform) -> None:
    async def scenario(crowd: Crowd) -> None:
        starts: list[int] = []

        def fail_twice(_: object) -> None:
            starts.append(1)
            if len(starts) < 3:
                raise ValueError("not yet")

        crowd.open_crowd(RECORD)
        assert isinstance(await crowd.add("a", beginning=fail_twice, restart=Restart.PERMANENT), StartFailed)
        assert [status.phase for status in crowd.keeper.children()] == [Phase.SUSPENDED]
        assert isinstance(await crowd.root.ask(RestartChild("a"), TIMEOUT), StartFailed)
        assert [status.phase for status in crowd.keeper.children()] == [Phase.SUSPENDED]
        assert isinstance(await crowd.root.ask(RestartChild("a"), TIMEOUT), ChildUp)
        assert [status.phase for status in crowd.keeper.children()] == [Phase.RUNNING]
        assert crowd.gone == []

    perform(scenario)


def test_the_owner_of_a_revived_child_hears_of_its_end(perform: Perform) -> None:
    async def scenario(crowd: Crowd) -> None:
        crowd.open_crowd(RECORD)
        await give_up_one(crowd)
        await crowd.root.ask(RestartChild("a"), TIMEOUT)

        await crowd.root.ask(TerminateChild("a"), TIMEOUT)

        assert crowd.gone == [("a", Shutdown())]

    perform(scenario)


def test_a_record_stays_when_there_is_no_room_to_revive_it(perform: Perform) -> None:
    async def scenario(crowd: Crowd) -> None:
        window = RestartWindow(max_restarts=1)
        crowd.open_crowd(DynamicSpec(giving_up=GivingUp.RECORD, window=window, max_children=1))
        await give_up_one(crowd)
        await crowd.add("b")

        assert isinstance(await crowd.root.ask(RestartChild("a"), TIMEOUT), Refused)
        assert [status.phase for status in crowd.keeper.children()] == [Phase.RUNNING, Phase.SUSPENDED]

    perform(scenario)


def test_children_that_are_gone_or_were_refused_leave_nothing_behind(perform: Perform) -> None:
    async def scenario(crowd: Crowd) -> None:
        crowd.open_crowd(DynamicSpec(max_children=1))
        await crowd.add("a", restart=Restart.PERMANENT)
        await crowd.add("b")
        await crowd.root.ask(TerminateChild("a"), TIMEOUT)

        assert crowd.keeper._places == {}
        assert crowd.keeper._asks == {}

    perform(scenario)


def test_records_do_not_keep_it_from_ending(perform: Perform) -> None:
    async def scenario(crowd: Crowd) -> None:
        crowd.open_crowd(RECORD)
        await give_up_one(crowd)

        assert await crowd.close() == Shutdown()

    perform(scenario)


def test_a_group_that_gives_up_is_recorded_with_the_reason_of_its_child(perform: Perform) -> None:
    async def scenario(crowd: Crowd) -> None:
        crowd.open_crowd(DynamicSpec(giving_up=GivingUp.RECORD, window=RestartWindow(max_restarts=0)))
        spec = SupervisorSpec(children=(crowd.child("server"),), window=RestartWindow(max_restarts=0))
        group = supervisor_child("fs", spec, restart=Restart.PERMANENT, sink=crowd.sink)
        up = await crowd.root.ask(StartChild(group), TIMEOUT)
        assert isinstance(up, ChildUp)
        (server,) = await up.handle.ask(WhichChildren(), TIMEOUT)
        server.handle.kill("leaked too much")
        await crowd.until(lambda: crowd.gave_up)

        (record,) = crowd.keeper.children()
        assert "child server: leaked too much" in str(record.last_exit)
        assert tree(crowd.root.cell).children[0].state == "suspended"
        with pytest.raises(ActorDead, match="leaked too much"):
            await server.handle.ask(Do(lambda actor: None), TIMEOUT)

    perform(scenario)


def test_a_backing_off_child_can_be_terminated(perform: Perform) -> None:
    async def scenario(crowd: Crowd) -> None:
        crowd.open_crowd()
        backoff = Backoff(base=3600, maximum=3600)
        up = await crowd.add("a", restart=Restart.PERMANENT, backoff=backoff)
        up.handle.kill()
        await crowd.until(lambda: crowd.keeper.children()[0].phase is Phase.BACKING_OFF)

        assert await crowd.root.ask(TerminateChild("a"), TIMEOUT) == Terminated("a")
        assert crowd.keeper.timer_count() == 0

    perform(scenario)


def test_a_callback_that_raises_ends_nothing(perform: Perform) -> None:
    def bad(child_id: str, reason: ExitReason) -> None:
        raise ValueError("not mine")

    async def scenario(crowd: Crowd) -> None:
        crowd.open_with(DynamicSupervisor(on_child_gone=bad, sink=crowd.sink))
        await crowd.add("a")
        assert await crowd.root.ask(TerminateChild("a"), TIMEOUT) == Terminated("a")

        assert isinstance(await crowd.add("b"), ChildUp)

    perform(scenario)


def test_it_can_be_the_child_of_a_supervisor_and_leaves_no_orphan_when_killed(perform: Perform) -> None:
    async def scenario(crowd: Crowd) -> None:
        await crowd.open(dynamic_child("instances", sink=crowd.sink)).is_up()
        instances = crowd.handle("instances")
        for number in range(3):
            await instances.ask(StartChild(crowd.child(f"i{number}")), TIMEOUT)
        assert crowd.stage.system.live == 5
        instances.kill()

        assert (await instances.ask(CountChildren(), TIMEOUT)).specs == 0
        assert crowd.stage.system.live == 2

    perform(scenario)


# --- thousands --------------------------------------------------------------------------------------


def test_the_work_for_one_child_does_not_grow_with_the_number_of_children(
    perform: Perform, monkeypatch: pytest.MonkeyPatch
) -> None:
    children_seen: Counter[int] = Counter()
    decide = dynamic.decide

    def counting(group: Any, heard: Any, **rest: Any) -> Any:
        children_seen[len(group.children)] += 1
        return decide(group, heard, **rest)

    monkeypatch.setattr(dynamic, "decide", counting)

    async def scenario(crowd: Crowd) -> None:
        crowd.open_crowd()
        for number in range(MANY):
            crowd.root.tell(StartChild(crowd.child(f"c{number}")))
        counts = await crowd.root.ask(CountChildren(), TIMEOUT)
        assert counts.specs == MANY
        assert await crowd.close() == Shutdown()
        assert len(crowd.gone) == MANY

        # Each child is added, started, asked to stop and ended: four decisions, about one child at most.
        assert max(children_seen) == 1
        assert children_seen.total() == 4 * MANY

    perform(scenario)
