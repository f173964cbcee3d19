"""A running supervisor and its children, on the loop and on threads."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from support.actors import LOOPS, Do, LastRites, Stage, crash
from support.actors import perform as perform_on
from support.company import SHORT, Company

from mcpv_node.actors.kernel import (
    ActorDead,
    Crashed,
    Handle,
    KernelActor,
    Killed,
    LoopActor,
    Shutdown,
    ThreadActor,
)
from mcpv_node.supervisors import (
    AlreadyThere,
    AutoShutdown,
    Backoff,
    ChildCounts,
    ChildDidNotStop,
    ChildExited,
    ChildKilled,
    ChildRestarting,
    ChildSpec,
    ChildStarted,
    ChildUp,
    CountChildren,
    DeleteChild,
    Deleted,
    NotFound,
    Phase,
    Refused,
    Restart,
    RestartChild,
    RestartWindow,
    StartChild,
    StartFailed,
    Strategy,
    Supervisor,
    SupervisorGaveUp,
    SupervisorSpec,
    TerminateChild,
    Terminated,
    TreeNode,
    WhichChildren,
    supervisor_child,
    tree,
)

# Each ask is answered within milliseconds; one that waits this long has failed.
TIMEOUT = 10.0

Scenario = Callable[[Company], Awaitable[None]]
Perform = Callable[[Scenario], None]


@pytest.fixture(params=LOOPS)
def perform(request: pytest.FixtureRequest) -> Perform:
    """Run a scenario on a fresh loop, which must end with no actor alive."""

    def run(scenario: Scenario) -> None:
        async def play(stage: Stage) -> None:
            company = Company(stage)
            await scenario(company)
            if company.root.is_alive():
                await company.close()
            assert stage.system.live == 0

        perform_on(play, new_loop=LOOPS[request.param])

    return run


@pytest.fixture(params=[LoopActor, ThreadActor])
def runtime(request: pytest.FixtureRequest) -> type[KernelActor[Any]]:
    kind: type[KernelActor[Any]] = request.param
    return kind


def fail(_: object) -> None:
    raise ValueError("no start")


def crash_child(company: Company, child_id: str) -> None:
    company.handle(child_id).tell(Do(crash))


# --- start and stop ---------------------------------------------------------------------------------


def test_children_start_in_order_and_stop_in_reverse(
    perform: Perform, runtime: type[KernelActor[Any]]
) -> None:
    async def scenario(company: Company) -> None:
        children = [company.child(name, runtime=runtime) for name in "abc"]
        await company.open(*children).is_up()
        assert await company.close() == Shutdown()

        assert company.begun() == ["root.a", "root.b", "root.c"]
        assert company.over() == ["root.c", "root.b", "root.a"]

    perform(scenario)


def test_the_next_child_waits_for_a_start_that_is_held(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        held = company.child("a", beginning=lambda actor: actor.hold_start())
        company.open(held, company.child("b"))
        await company.until(lambda: "root.a" in company.begun())
        assert [status.phase for status in company.keeper.children()] == [Phase.STARTING, Phase.STOPPED]
        assert company.root.statistics().state == "held"

        await company.handle("a").ask(Do(lambda actor: actor.started()), TIMEOUT)
        await company.is_up()
        assert company.begun() == ["root.a", "root.b"]

    perform(scenario)


def test_a_failing_start_stops_those_already_started_and_fails_the_supervisor(
    perform: Perform, runtime: type[KernelActor[Any]]
) -> None:
    async def scenario(company: Company) -> None:
        company.open(
            company.child("a", runtime=runtime),
            company.child("b", runtime=runtime),
            company.child("c", runtime=runtime, beginning=fail),
        )

        reason = await company.ended()

        assert isinstance(reason, Crashed)
        assert "child c failed to start: crashed: ValueError('no start')" in reason.error
        # The end of who crashed is seen before its thread has run its last hook, which may be at any time.
        assert [name for name in company.over() if name != "root.c"] == ["root.b", "root.a"]

    perform(scenario)


def test_a_start_function_that_raises_is_a_failed_start(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        company.open(company.child("a"), ChildSpec(id="b", start=lambda: _raise(OSError("no disk"))))

        reason = await company.ended()

        assert reason == Crashed("child b failed to start: crashed: OSError('no disk')")
        assert company.over() == ["root.a"]

    perform(scenario)


def test_a_start_that_takes_too_long_is_killed(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        company.open(
            company.child("a", beginning=lambda actor: actor.hold_start(), start_timeout=SHORT),
        )

        reason = await company.ended()

        assert reason == Crashed("child a failed to start: did not start within 0.02 s")

    perform(scenario)


def test_a_child_that_finds_nothing_to_do_does_not_fail_the_start(perform: Perform) -> None:
    def leave(actor: Any) -> None:
        actor.hold_start()
        actor.exit()

    async def scenario(company: Company) -> None:
        await company.open(
            company.child("a", beginning=leave),
            company.child("b", beginning=leave, restart=Restart.TEMPORARY),
            company.child("c"),
        ).is_up()

        assert [(status.id, status.phase) for status in company.keeper.children()] == [
            ("a", Phase.STOPPED),
            ("c", Phase.RUNNING),
        ]

    perform(scenario)


def test_an_expired_grace_kills(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        await company.open(company.child("a", on_stop_asked=lambda actor: None, grace=SHORT)).is_up()

        assert await company.close() == Shutdown()

        assert company.stage.journal.of(ChildKilled) == [
            ChildKilled("root", "a", 1, "did not stop within 0.02 s")
        ]
        assert company.stage.journal.of(LastRites)[0].reason == Killed("did not stop within 0.02 s")

    perform(scenario)


def test_a_child_without_grace_is_killed_without_being_asked(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        asked: list[str] = []
        await company.open(company.child("a", on_stop_asked=lambda actor: asked.append("a"), grace=0)).is_up()

        await company.close()

        assert asked == []
        assert company.over() == ["root.a"]

    perform(scenario)


def test_a_child_that_ignores_stop_and_kill_is_named(perform: Perform) -> None:
    release = threading.Event()

    async def scenario(company: Company) -> None:
        busy = threading.Event()

        def block(actor: Any) -> None:
            busy.set()
            actor.journal.write("busy")
            release.wait(TIMEOUT)

        await company.open(
            company.child("stuck", runtime=ThreadActor, grace=SHORT), company.child("b")
        ).is_up()
        company.handle("stuck").tell(Do(block))
        await company.until(busy.is_set)

        assert await company.close() == Shutdown()

        assert company.stage.journal.of(ChildDidNotStop) == [
            ChildDidNotStop("root", "stuck", 1, "ThreadPlayer")
        ]
        release.set()

    try:
        perform(scenario)
    finally:
        release.set()


def test_a_thread_that_stops_when_asked_is_not_named(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        await company.open(company.child("a", runtime=ThreadActor), company.child("b", grace=0)).is_up()

        await company.close()

        assert company.stage.journal.of(ChildDidNotStop) == []

    perform(scenario)


def test_stop_is_idempotent(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        await company.open(company.child("a"), company.child("b")).is_up()
        company.root.cell.stop()
        company.root.cell.stop()

        assert await company.close() == Shutdown()
        assert company.ends == [Shutdown()]
        assert company.over() == ["root.b", "root.a"]

    perform(scenario)


@pytest.mark.parametrize("reason", [Shutdown(), Crashed("late"), Killed()])
def test_a_child_that_ends_by_itself_while_it_is_being_stopped_ends_nothing_else(
    perform: Perform, reason: Any
) -> None:
    async def scenario(company: Company) -> None:
        await company.open(
            company.child("a"), company.child("b", on_stop_asked=lambda actor: actor.exit(reason))
        ).is_up()

        assert await company.close() == Shutdown()

        assert ChildExited("root", "b", 1, reason, asked=True) in company.stage.journal.entries
        assert company.stage.journal.of(ChildRestarting) == []

    perform(scenario)


# --- restarts ---------------------------------------------------------------------------------------


def test_a_crashed_child_is_restarted_and_its_handle_goes_on(
    perform: Perform, runtime: type[KernelActor[Any]]
) -> None:
    async def scenario(company: Company) -> None:
        await company.open(company.child("a", runtime=runtime)).is_up()
        handle = company.handle("a")
        crash_child(company, "a")

        assert await handle.ask(Do(lambda actor: actor.incarnation), TIMEOUT) == 2

    perform(scenario)


def test_what_a_child_had_committed_outlives_it(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        await company.open(company.child("a")).is_up()
        handle = company.handle("a")
        await handle.ask(Do(lambda actor: setattr(actor, "estate", 42)), TIMEOUT)
        handle.kill()

        assert await handle.ask(Do(lambda actor: actor.estate), TIMEOUT) == 42

    perform(scenario)


def test_messages_wait_while_a_child_backs_off(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        await company.open(company.child("a", backoff=Backoff(base=SHORT))).is_up()
        handle = company.handle("a")
        handle.kill()
        await company.until(lambda: company.keeper.children()[0].phase is Phase.BACKING_OFF)
        assert company.keeper.children()[0].retry_at is not None

        assert await handle.ask(Do(lambda actor: actor.incarnation), TIMEOUT) == 2

    perform(scenario)


@pytest.mark.parametrize(
    ("strategy", "restarted"),
    [
        (Strategy.ONE_FOR_ONE, [1, 2, 1]),
        (Strategy.ONE_FOR_ALL, [2, 2, 2]),
        (Strategy.REST_FOR_ONE, [1, 2, 2]),
    ],
)
def test_a_crash_restarts_exactly_the_right_siblings(
    perform: Perform, runtime: type[KernelActor[Any]], strategy: Strategy, restarted: list[int]
) -> None:
    async def scenario(company: Company) -> None:
        children = [company.child(name, runtime=runtime) for name in "abc"]
        await company.open(*children, strategy=strategy).is_up()
        crash_child(company, "b")
        await company.until(
            lambda: (
                company.incarnation("b") == 2
                and all(status.phase is Phase.RUNNING for status in company.keeper.children())
            )
        )

        assert [status.incarnation for status in company.keeper.children()] == restarted

    perform(scenario)


def test_at_the_limit_the_supervisor_stops_with_its_reason_and_reports(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        window = RestartWindow(max_restarts=1, period=5)
        await company.open(company.child("a"), company.child("b"), window=window).is_up()
        crash_child(company, "b")
        await company.until(lambda: company.incarnation("b") == 2)
        crash_child(company, "b")

        reason = await company.ended()

        assert isinstance(reason, Crashed)
        assert reason.error.startswith("gave up: more than 1 restarts within 5 s; child b: crashed: ")
        assert [event.child for event in company.stage.journal.of(SupervisorGaveUp)] == ["b"]
        assert company.over()[-1] == "root.a"

    perform(scenario)


def test_the_limit_is_reached_while_a_restart_keeps_failing(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        starts: list[int] = []

        def only_once(_: object) -> None:
            starts.append(1)
            if len(starts) > 1:
                raise ValueError("no start")

        window = RestartWindow(max_restarts=4)
        await company.open(company.child("a", beginning=only_once), window=window).is_up()
        crash_child(company, "a")

        assert isinstance(await company.ended(), Crashed)
        assert len(starts) == 5

    perform(scenario)


def test_a_restart_that_keeps_failing_does_not_keep_requests_or_a_stop_waiting(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        starts: list[int] = []

        def make() -> Any:
            starts.append(1)
            if len(starts) > 1:
                raise OSError("no start")
            return company.child("b").start()

        window = RestartWindow(max_restarts=1_000_000)
        await company.open(company.child("a"), ChildSpec(id="b", start=make), window=window).is_up()
        company.handle("b").kill()
        await company.until(lambda: len(starts) > 3)

        counts = await company.root.ask(CountChildren(), TIMEOUT)
        assert counts.specs == 2
        assert await company.root.ask(TerminateChild("b"), TIMEOUT) == Terminated("b")
        assert await company.root.ask(RestartChild("b"), TIMEOUT) == StartFailed(
            "b", Crashed("OSError('no start')")
        )
        assert await company.close() == Shutdown()

    perform(scenario)


def test_a_stop_while_backing_off_ends_at_once_and_leaves_no_timer(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        # So long that the test would run into its bound if the stop waited for it.
        await company.open(company.child("a", backoff=Backoff(base=3600, maximum=3600))).is_up()
        keeper = company.keeper
        company.handle("a").kill()
        await company.until(lambda: keeper.children()[0].phase is Phase.BACKING_OFF)

        assert await company.close() == Shutdown()
        assert keeper.timer_count() == 0

    perform(scenario)


def test_a_running_supervisor_keeps_no_timer(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        await company.open(*(company.child(name) for name in "abc")).is_up()

        assert company.keeper.timer_count() == 0

    perform(scenario)


# --- requests ---------------------------------------------------------------------------------------


def test_a_child_is_added_terminated_restarted_and_deleted(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        root = (await company.open(company.child("a")).is_up()).root

        up = await root.ask(StartChild(company.child("b")), TIMEOUT)
        assert isinstance(up, ChildUp)
        assert await up.handle.ask(Do(lambda actor: actor.cell.name), TIMEOUT) == "root.b"
        assert await root.ask(StartChild(company.child("b")), TIMEOUT) == AlreadyThere("b", Phase.RUNNING)
        assert await root.ask(RestartChild("b"), TIMEOUT) == AlreadyThere("b", Phase.RUNNING)
        assert await root.ask(DeleteChild("b"), TIMEOUT) == AlreadyThere("b", Phase.RUNNING)
        assert await root.ask(TerminateChild("b"), TIMEOUT) == Terminated("b")
        assert await root.ask(TerminateChild("b"), TIMEOUT) == Terminated("b")
        assert await root.ask(StartChild(company.child("b")), TIMEOUT) == AlreadyThere("b", Phase.STOPPED)
        assert await root.ask(RestartChild("b"), TIMEOUT) == ChildUp("b", 2, up.handle)
        await root.ask(TerminateChild("b"), TIMEOUT)
        assert await root.ask(DeleteChild("b"), TIMEOUT) == Deleted("b")
        assert [status.id for status in await root.ask(WhichChildren(), TIMEOUT)] == ["a"]

    perform(scenario)


@pytest.mark.parametrize("request_type", [TerminateChild, RestartChild, DeleteChild])
def test_an_unknown_child_is_not_found(perform: Perform, request_type: Any) -> None:
    async def scenario(company: Company) -> None:
        await company.open().is_up()

        assert await company.root.ask(request_type("x"), TIMEOUT) == NotFound("x")

    perform(scenario)


def test_an_added_child_that_fails_to_start_is_answered_and_forgotten(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        await company.open().is_up()

        outcome = await company.root.ask(StartChild(company.child("b", beginning=fail)), TIMEOUT)

        assert isinstance(outcome, StartFailed)
        assert company.keeper.children() == ()

    perform(scenario)


def test_a_significant_child_is_refused_where_it_means_nothing(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        await company.open().is_up()

        outcome = await company.root.ask(StartChild(company.child("b", significant=True)), TIMEOUT)

        assert isinstance(outcome, Refused)
        assert "auto_shutdown is never" in outcome.why

    perform(scenario)


def test_a_handle_that_somebody_else_fills_is_not_taken_over(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        await company.open(company.child("a")).is_up()
        taken = company.handle("a")

        outcome = await company.root.ask(StartChild(company.child("b", handle=taken)), TIMEOUT)

        assert outcome == StartFailed("b", Crashed("root.a is filled by somebody else"))
        assert await taken.ask(Do(lambda actor: actor.incarnation), TIMEOUT) == 1

    perform(scenario)


def test_children_are_counted_by_kind_and_by_life(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        nested = supervisor_child("tree", SupervisorSpec(), sink=company.sink)
        await company.open(company.child("a"), company.child("b"), nested).is_up()
        await company.root.ask(TerminateChild("a"), TIMEOUT)

        counts = await company.root.ask(CountChildren(), TIMEOUT)

        assert counts == ChildCounts(specs=3, active=2, workers=2, supervisors=1)

    perform(scenario)


def test_the_handle_of_a_terminated_child_refuses(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        await company.open(company.child("a")).is_up()
        handle = company.handle("a")
        await company.root.ask(TerminateChild("a"), TIMEOUT)

        with pytest.raises(ActorDead, match="asked to stop"):
            await handle.ask(Do(lambda actor: None), TIMEOUT)

    perform(scenario)


# --- trees ------------------------------------------------------------------------------------------


def test_when_a_nested_supervisor_gives_up_its_parent_restarts_it(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        leaf: Handle[Any] = Handle.create(company.stage.system, "leaf")
        spec = SupervisorSpec(
            children=(company.child("leaf", handle=leaf),), window=RestartWindow(max_restarts=0)
        )
        await company.open(company.child("a"), supervisor_child("tree", spec, sink=company.sink)).is_up()
        leaf.kill()
        await company.until(lambda: company.incarnation("tree") == 2 and leaf.is_alive())

        assert company.incarnation("a") == 1
        assert await leaf.ask(Do(lambda actor: actor.incarnation), TIMEOUT) == 2

    perform(scenario)


def test_when_the_parent_cannot_cure_it_either_the_fault_goes_on_up(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        window = RestartWindow(max_restarts=0)
        leaf: Handle[Any] = Handle.create(company.stage.system, "leaf")
        spec = SupervisorSpec(children=(company.child("leaf", handle=leaf),), window=window)
        await company.open(supervisor_child("tree", spec, sink=company.sink), window=window).is_up()
        leaf.kill()

        assert isinstance(await company.ended(), Crashed)
        assert [event.supervisor for event in company.stage.journal.of(SupervisorGaveUp)] == [
            "root.tree",
            "root",
        ]

    perform(scenario)


@pytest.mark.parametrize("how", ["killed", "crashed"])
def test_a_supervisor_that_dies_itself_leaves_no_orphan(
    perform: Perform, runtime: type[KernelActor[Any]], how: str
) -> None:
    async def scenario(company: Company) -> None:
        spec = SupervisorSpec(children=(company.child("leaf", runtime=runtime),))
        await company.open(
            company.child("a", runtime=runtime), supervisor_child("tree", spec, sink=company.sink)
        ).is_up()
        if how == "killed":
            company.root.kill()
        else:
            company.keeper.children = _raise_value_error  # type: ignore[method-assign]
            company.root.tell(WhichChildren())

        await company.ended()

        assert company.stage.system.live == 0

    perform(scenario)


def test_children_added_at_run_time_do_not_come_back_with_their_supervisor(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        spec = SupervisorSpec(children=(company.child("leaf"),))
        await company.open(supervisor_child("tree", spec, sink=company.sink)).is_up()
        nested = company.handle("tree")
        await nested.ask(StartChild(company.child("extra")), TIMEOUT)
        nested.kill()

        children = await nested.ask(WhichChildren(), TIMEOUT)

        assert [child.id for child in children] == ["leaf"]

    perform(scenario)


def test_notices_meant_for_an_earlier_incarnation_of_the_supervisor_are_ignored(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        window = RestartWindow(max_restarts=0)
        spec = SupervisorSpec(children=(company.child("leaf"),), window=window)
        await company.open(supervisor_child("tree", spec, sink=company.sink)).is_up()
        nested = company.handle("tree")
        (leaf,) = await nested.ask(WhichChildren(), TIMEOUT)
        # The notice of this end is in the supervisor's mailbox when the supervisor dies, and reaches the next one.
        leaf.handle.kill()
        nested.kill()
        await company.until(lambda: company.incarnation("tree") == 2)

        (leaf,) = await nested.ask(WhichChildren(), TIMEOUT)

        assert leaf.restarts == 0
        assert company.incarnation("tree") == 2

    perform(scenario)


def test_a_significant_end_goes_up_through_supervisors_that_have_nothing_left(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        rule = {"auto_shutdown": AutoShutdown.ANY_SIGNIFICANT}
        leaf = company.child("leaf", restart=Restart.TRANSIENT, significant=True)
        inner = supervisor_child(
            "inner", SupervisorSpec(children=(leaf,), **rule), restart=Restart.TRANSIENT, sink=company.sink
        )
        await company.open(replace(inner, significant=True), company.child("b"), **rule).is_up()
        (status,) = await company.handle("inner").ask(WhichChildren(), TIMEOUT)
        status.handle.tell(Do(lambda actor: actor.exit()))

        assert await company.ended() == Shutdown()

    perform(scenario)


def test_the_tree_shows_every_actor_with_its_state_and_restarts(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        spec = SupervisorSpec(children=(company.child("leaf"),))
        await company.open(company.child("a"), supervisor_child("tree", spec, sink=company.sink)).is_up()
        company.handle("a").kill()
        await company.until(
            lambda: company.keeper.children()[0].phase is Phase.RUNNING and company.incarnation("a") == 2
        )

        at = company.stage.clock.monotonic()
        assert tree(company.root.cell) == TreeNode(
            "root",
            "Supervisor",
            "running",
            0,
            at,
            (
                TreeNode("a", "LoopPlayer", "running", 1, at),
                TreeNode(
                    "tree",
                    "Supervisor",
                    "running",
                    0,
                    at,
                    (TreeNode("leaf", "LoopPlayer", "running", 0, at),),
                ),
            ),
        )

    perform(scenario)


# --- events and foreign callbacks -------------------------------------------------------------------


def test_every_transition_is_told_once(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        await company.open(company.child("a")).is_up()
        company.handle("a").kill("because")
        await company.until(lambda: company.incarnation("a") == 2 and company.handle("a").is_alive())
        await company.handle("a").ask(Do(lambda actor: None), TIMEOUT)
        await company.close()

        kinds = (ChildStarted, ChildExited, ChildRestarting)
        assert [entry for entry in company.stage.journal.entries if isinstance(entry, kinds)] == [
            ChildStarted("root", "a", 1),
            ChildExited("root", "a", 1, Killed("because"), asked=False),
            ChildRestarting("root", "a", 1, Killed("because"), 0.0),
            ChildStarted("root", "a", 2),
            ChildExited("root", "a", 2, Shutdown(), asked=True),
        ]

    perform(scenario)


def test_a_sink_that_raises_does_not_end_the_tree(perform: Perform) -> None:
    async def scenario(company: Company) -> None:
        company.open_with(Supervisor(SupervisorSpec(children=(company.child("a"),)), sink=fail))
        await company.is_up()

        assert await company.close() == Shutdown()

    perform(scenario)


def _raise(error: Exception) -> Any:
    raise error


def _raise_value_error() -> Any:
    raise ValueError("a fault of the supervisor's own")
