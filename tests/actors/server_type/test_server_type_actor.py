"""A ServerType among instances that the test plays: what it carries in and out, and what outlives its crashes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from msgspec.structs import replace as replace_struct
from support.actors import Do, crash
from support.fakes import FakeClock
from support.owners import BOUND, Home, RecorderOfAll, home, run, turns, until

from mcpv_node.actors.callers import Caller, ClientProfile
from mcpv_node.actors.instance.messages import (
    CallAbandoned,
    Describe,
    ExitDetail,
    InstanceAsked,
    InstanceExited,
    InstanceFacts,
    InstanceFailed,
    InstanceReady,
    InstanceRetiring,
    InstanceStarting,
    StopInstance,
    TellServer,
)
from mcpv_node.actors.kernel import ActorRestarted, Handle, Shutdown, answers
from mcpv_node.actors.leases import (
    Acquire,
    InstanceId,
    Lease,
    LeaseId,
    Refused,
    Release,
    StartCause,
    new_lease_id,
)
from mcpv_node.actors.server_type import (
    Activation,
    CallEnded,
    ClientGone,
    ClientSaid,
    DrainNow,
    OperatorStart,
    OperatorStop,
    Reconfigure,
    Retry,
    ServerState,
    Settled,
    Warm,
    Why,
)
from mcpv_node.actors.server_type.actor import ServerType
from mcpv_node.actors.server_type.facts import Lane
from mcpv_node.actors.server_type.messages import InstanceState, Tick
from mcpv_node.protocol import Capabilities, LastExit, Reason, ServerHello
from mcpv_node.settings import RestartSettings, ServerGroup, ServerName, ServerSpec, SpecKey

CALLER = Caller(principal="me", client="test", key="k")
HELLO = ServerHello(version="2025-11-25", name="s", server_version="1", capabilities=Capabilities(tools=True))
MODERN_HELLO = replace_struct(HELLO, version="2026-07-28")
SAMPLING = ClientProfile("sampling")
ALONE = SpecKey("a" * 64)


class CrashableServerType(ServerType):
    """One that does what it is told on top."""

    @answers(Do)
    def _on_do(self, request: Do) -> Any:
        return request.what(self)


LIVING = InstanceFacts(pid=77, hello=HELLO, stopping=False, busy=(), abandoned=())


class FakeInstance(RecorderOfAll):
    """Keeps what it is told, and says of itself what a test wants."""

    facts = LIVING

    @answers(Describe)
    def _on_describe(self, _request: Describe) -> InstanceFacts:
        return self.facts


class Shop:
    """One server type, and its instances as recorders."""

    def __init__(self, at_home: Home, spec: ServerSpec, *, restarts: int) -> None:
        self.home = at_home
        self.clock = at_home.context.clock
        self.group = ServerGroup(ALONE, (spec, ServerSpec(name=ServerName("twin"))))
        self.instances: dict[str, FakeInstance] = {}
        self.handles: dict[str, Handle[Any]] = {}
        self.started: list[str] = []
        self.lanes: list[Lane] = []
        self.probes: list[bool] = []
        self.restarts = restarts
        self.server: Handle[Any] = Handle.create(at_home.system, "server-fs")

    def make(self) -> CrashableServerType:
        return CrashableServerType(
            self.home.context, self.group, self.start_instance, lambda: list(self.live())
        )

    def live(self) -> Iterator[tuple[InstanceId, Handle[Any]]]:
        for name, handle in self.handles.items():
            yield InstanceId(name), handle

    async def open(self) -> Shop:
        await self.home.fill("server-fs", self.make, restarts=self.restarts, handle=self.server)
        return self

    def start_instance(self, instance_id: InstanceId, lane: Lane, may_probe: bool) -> Handle[Any]:
        recorder = self.instances[instance_id] = FakeInstance()
        handle: Handle[Any] = Handle.create(self.home.system, f"instance-{instance_id}")
        handle.cell.start(recorder)
        self.handles[instance_id] = handle
        self.started.append(instance_id)
        self.lanes.append(lane)
        self.probes.append(may_probe)
        return handle

    # --- what instances tell --------------------------------------------------------------------

    def ready(self, name: str = "fs-1", pid: int = 77, hello: ServerHello = HELLO) -> None:
        self.server.tell(InstanceStarting(InstanceId(name), pid))
        self.server.tell(InstanceReady(InstanceId(name), hello))

    def exited(self, name: str = "fs-1", *, asked: bool = False, code: int = 3, stderr: int = 1) -> None:
        lines = tuple(f"line {number}" for number in range(stderr))
        self.server.tell(InstanceExited(InstanceId(name), asked, "exited", ExitDetail(code=code), lines))
        self.end(name)

    def failed(self, name: str = "fs-1", *, fatal: bool = False, while_probing: bool = False) -> None:
        self.server.tell(
            InstanceFailed(
                InstanceId(name),
                "no luck",
                fatal,
                ExitDetail(code=5),
                ("oops",),
                while_probing=while_probing,
            )
        )
        self.end(name)

    def end(self, name: str) -> None:
        """The actor of an instance is no more."""
        handle = self.handles.pop(name)
        if handle.cell.actor is not None:
            handle.cell.kill("ended")

    def stops_of(self, name: str) -> list[str]:
        return [message.reason for message in self.instances[name].of(StopInstance)]

    # --- what callers ask -----------------------------------------------------------------------

    async def acquire(
        self,
        lease: LeaseId | None = None,
        *,
        within: float = 1000.0,
        cause: StartCause = StartCause.TOOL_CALL,
        caller: Caller = CALLER,
        instance: str | None = None,
    ) -> asyncio.Task[Lease | Refused]:
        deadline = self.clock.monotonic() + within
        pinned = None if instance is None else InstanceId(instance)
        request = Acquire(lease or new_lease_id(), caller, deadline, cause, instance=pinned)
        task = asyncio.get_running_loop().create_task(self.server.ask(request, BOUND))
        await turns()
        return task

    async def granted(self) -> Lease:
        """A lease on whatever starts for it, ready at once."""
        asked = await self.acquire()
        if not asked.done():
            self.ready(self.started[-1])
        lease = await asked
        await turns()
        assert isinstance(lease, Lease)
        return lease

    async def tick(self, seconds: float) -> None:
        """Let time pass for the server type; its own timer rings on the loop's clock, which the test does not wait for."""
        assert isinstance(self.clock, FakeClock)
        self.clock.advance(seconds)
        self.server.tell(Tick())
        await turns()

    async def ask(self, request: Any) -> Any:
        return await self.server.ask(request, BOUND)

    async def crash(self) -> None:
        crashes = self.server.cell.crashes
        self.server.tell(Do(crash))
        await until(lambda: self.server.cell.crashes > crashes)
        await turns()


def make_spec(**changes: Any) -> ServerSpec:
    return ServerSpec(name=ServerName("fs"), **{"max_instances": 1, **changes})


@asynccontextmanager
async def shop(tmp_path: Path, *, restarts: int = 0, **changes: Any) -> AsyncIterator[Shop]:
    async with home(tmp_path) as at_home:
        place = await Shop(at_home, make_spec(**changes), restarts=restarts).open()
        try:
            yield place
        finally:
            place.server.cell.on_ended = None
            place.server.kill("the test is over")
            for name in list(place.handles):
                place.end(name)


# --- leases -------------------------------------------------------------------------------------


def test_a_caller_gets_the_instance_once_it_is_ready(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path) as fs:
            asked = await fs.acquire()
            await turns()
            assert (fs.started, asked.done()) == (["fs-1"], False)

            fs.ready()
            lease = await asked

            assert isinstance(lease, Lease)
            assert (lease.instance_id, lease.instance) == ("fs-1", fs.handles["fs-1"])

    run(main())


def test_a_released_slot_goes_to_the_next_in_line(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path) as fs:
            first = await fs.acquire()
            fs.ready()
            held = await first
            second, third = await fs.acquire(), await fs.acquire()
            await turns()

            assert isinstance(held, Lease)
            fs.server.tell(Release(held.lease))

            assert isinstance(await second, Lease)
            assert not third.done()
            third.cancel()

    run(main())


def test_a_refusal_says_whose_fault_and_what_is_known(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path) as fs:
            asked = await fs.acquire()
            await turns()
            fs.failed()

            refused = await asked

            assert isinstance(refused, Refused)
            failure = refused.failure
            assert (failure.reason, failure.server, failure.executed) == (Reason.START_FAILED, "fs", "no")
            assert failure.message == "fs: no luck"
            assert failure.stderr == ("oops",)
            assert failure.last_exit == LastExit(5, None, "2026-01-31T09:08:07.006Z")

    run(main())


def test_who_releases_while_it_waits_leaves_no_promise_behind(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path) as fs:
            for _ in range(10):
                lease = new_lease_id()
                asked = await fs.acquire(lease)
                await turns()
                asked.cancel()
                fs.server.tell(Release(lease))
            await turns()

            assert fs.server.statistics().deferred == 0
            assert (await fs.ask(Why())).waiting == 0

    run(main())


def test_a_lease_asked_for_again_is_the_same_lease(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path, max_concurrent=2) as fs:
            asked = await fs.acquire(LeaseId(1_000_001))
            fs.ready()
            await asked

            again = await (await fs.acquire(LeaseId(1_000_001)))

            assert isinstance(again, Lease)
            assert (await fs.ask(Why())).instances[0].busy == 1

    run(main())


# --- lanes --------------------------------------------------------------------------------------


def caller_of(client: str, profile: ClientProfile = SAMPLING) -> Caller:
    return replace(CALLER, turn=client, key=client, profile=profile)


def test_an_instance_starts_in_the_lane_of_who_caused_it_and_may_be_asked_for_its_era(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path) as fs:
            asked = await fs.acquire(caller=caller_of("a"))
            fs.ready()
            lease = await asked

            assert isinstance(lease, Lease)
            assert lease.hello == HELLO
            assert (fs.lanes, fs.probes) == ([Lane(SAMPLING)], [True])

    run(main())


def test_an_instance_that_asks_a_client_is_that_clients_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path, max_instances=2, max_concurrent=2) as fs:
            first = await fs.acquire(caller=caller_of("a"))
            fs.ready()
            await first
            fs.server.tell(InstanceAsked(InstanceId("fs-1"), "a"))

            other = await fs.acquire(caller=caller_of("b"))
            own = await (await fs.acquire(caller=caller_of("a")))
            assert fs.started == ["fs-1", "fs-2"]
            fs.ready("fs-2")
            others = await other

            assert isinstance(own, Lease)
            assert isinstance(others, Lease)
            assert (own.instance_id, others.instance_id) == ("fs-1", "fs-2")

    run(main())


def test_what_a_client_says_goes_to_its_own_instances_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path, max_instances=2) as fs:
            for number, client in enumerate("ab", 1):
                asked = await fs.acquire(caller=caller_of(client))
                fs.ready(f"fs-{number}")
                await asked
                fs.server.tell(InstanceAsked(InstanceId(f"fs-{number}"), client))

            fs.server.tell(ClientSaid("b", "notifications/roots/list_changed", None))
            await turns()

            heard = {name: it.of(TellServer) for name, it in fs.instances.items()}
            assert heard == {"fs-1": [], "fs-2": [TellServer("notifications/roots/list_changed")]}

    run(main())


def test_the_end_of_a_client_stops_what_is_its_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path) as fs:
            lease = await fs.granted()
            fs.server.tell(InstanceAsked(InstanceId("fs-1"), "a"))

            fs.server.tell(ClientGone("a"))
            await turns()
            while_busy = fs.stops_of("fs-1")
            fs.server.tell(Release(lease.lease))
            await turns()

            assert while_busy == []
            assert fs.stops_of("fs-1") == ["its client is gone"]

    run(main())


def test_who_goes_on_with_an_instance_is_refused_once_that_is_gone(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path) as fs:
            await fs.granted()
            waiting = await fs.acquire(instance="fs-1")
            assert not waiting.done()

            fs.exited()
            refused, late = await waiting, await (await fs.acquire(instance="fs-1"))

            for outcome in (refused, late):
                assert isinstance(outcome, Refused)
                assert outcome.failure.reason is Reason.INSTANCE_DIED
                assert outcome.failure.executed == "no"
            assert fs.started == ["fs-1"]

    run(main())


def test_a_modern_server_serves_all_lanes_and_says_so_in_the_lease(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path, max_concurrent=2) as fs:
            asked = await fs.acquire(caller=caller_of("a"))
            fs.ready(hello=MODERN_HELLO)
            await asked

            lease = await (await fs.acquire(caller=caller_of("b", ClientProfile("roots"))))

            assert isinstance(lease, Lease)
            assert lease.hello.era == "modern"
            assert [it.era for it in (await fs.ask(Why())).instances] == ["modern"]

    run(main())


def test_a_start_that_ended_over_the_question_for_its_era_is_made_again_without_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path) as fs:
            asked = await fs.acquire()
            fs.failed(while_probing=True)
            await turns()
            assert (fs.started, fs.probes) == (["fs-1", "fs-2"], [True, False])

            fs.ready("fs-2")

            assert isinstance(await asked, Lease)
            assert (await fs.ask(Why())).failures == 0

    run(main())


def test_a_start_that_ends_over_the_question_although_it_is_left_out_has_failed(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path) as fs:
            asked = await fs.acquire()
            fs.failed(while_probing=True)
            await turns()

            fs.failed("fs-2", while_probing=True)
            refused = await asked

            assert isinstance(refused, Refused)
            assert refused.failure.reason is Reason.START_FAILED
            assert (await fs.ask(Why())).failures == 1

    run(main())


def test_after_a_start_that_failed_for_another_reason_the_question_is_asked_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path) as fs:
            first = await fs.acquire()
            fs.failed(while_probing=True)
            await turns()
            fs.failed("fs-2")
            await first

            again = await fs.acquire()

            assert fs.probes == [True, False, True]
            again.cancel()

    run(main())


def test_an_instance_is_found_again_with_its_lane_and_its_owner(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path, restarts=9, max_instances=2) as fs:
            lease = await fs.granted()
            fs.server.tell(Release(lease.lease))
            fs.instances["fs-1"].facts = replace(LIVING, profile=SAMPLING, owner="a")

            await fs.crash()
            await fs.crash()
            await turns()
            other = await fs.acquire(caller=caller_of("b"))
            own = await (await fs.acquire(caller=caller_of("a")))

            assert isinstance(own, Lease)
            assert own.instance_id == "fs-1"
            assert not other.done()
            other.cancel()

    run(main())


# --- time ---------------------------------------------------------------------------------------


def test_its_own_timer_refuses_who_has_waited_long_enough(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path) as fs:
            assert isinstance(fs.clock, FakeClock)
            await fs.granted()
            asked = await fs.acquire(within=0.01)
            await turns()
            fs.clock.advance(0.01)

            refused = await asked

            assert isinstance(refused, Refused)
            assert refused.failure.reason is Reason.QUEUE_TIMEOUT

    run(main())


def test_an_idle_instance_is_told_to_stop_and_is_reported_as_such(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path, idle_seconds=60.0) as fs:
            lease = await fs.granted()
            assert isinstance(lease, Lease)
            fs.server.tell(Release(lease.lease))
            await turns()

            await fs.tick(60.0)

            assert fs.stops_of("fs-1") == ["idle"]
            [instance] = (await fs.ask(Why())).instances
            assert instance.state is InstanceState.STOPPING

    run(main())


def test_an_idle_always_on_server_leaves_the_loop_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path, activation_mode="always-on", idle_seconds=60.0) as fs:
            fs.server.tell(Warm())
            await turns()
            fs.ready()
            await fs.tick(1000.0)
            handled = fs.server.statistics().handled

            await turns(200)

            assert fs.server.statistics().handled == handled
            assert fs.stops_of("fs-1") == []

    run(main())


# --- ends of instances --------------------------------------------------------------------------


def test_an_instance_that_ends_without_a_word_is_noticed(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path, activation_mode="always-on") as fs:
            fs.server.tell(Warm())
            await turns()
            fs.ready()
            await turns()

            fs.end("fs-1")
            await until(lambda: fs.started == ["fs-1", "fs-2"])

            report = await fs.ask(Why())
            assert [instance.id for instance in report.instances] == ["fs-2"]
            assert (report.starts, report.restarts, report.state) == (2, 1, ServerState.STARTING)

    run(main())


def test_a_start_that_ends_without_a_word_has_failed_and_is_counted_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path) as fs:
            asked = await fs.acquire()
            await turns()

            fs.end("fs-1")
            refused = await asked

            assert isinstance(refused, Refused)
            assert refused.failure.reason is Reason.START_FAILED
            labels = {"server": "fs", "cause": "tool_call", "result": "failed"}
            assert fs.home.sample("mcpv_instance_starts_total", **labels) == 1.0

    run(main())


def test_an_exit_that_is_told_and_seen_counts_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path) as fs:
            await fs.granted()
            fs.exited()
            await turns()

            assert fs.home.sample("mcpv_instance_stops_total", server="fs", reason="exited") == 1.0
            assert len(fs.home.event_texts("instance_exit")) == 1

    run(main())


def test_an_instance_that_retires_is_used_no_more_and_replaced_after_its_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path) as fs:
            lease = await fs.granted()
            assert isinstance(lease, Lease)
            fs.server.tell(Release(lease.lease))

            fs.server.tell(InstanceRetiring(InstanceId("fs-1"), "three bad replies"))
            asked = await fs.acquire()
            await turns()
            assert (asked.done(), fs.started) == (False, ["fs-1"])
            fs.exited()
            await until(lambda: fs.started == ["fs-1", "fs-2"])
            fs.ready("fs-2")

            assert isinstance(await asked, Lease)

    run(main())


def test_a_crash_loop_backs_off_and_is_suspended_and_retry_lifts_it(tmp_path: Path) -> None:
    async def main() -> None:
        limits = RestartSettings(max_retries=2, base_seconds=4.0, max_seconds=4.0)
        async with shop(tmp_path, activation_mode="always-on", restart=limits) as fs:
            fs.server.tell(Warm())
            await turns()
            for number in (1, 2):
                fs.ready(f"fs-{number}")
                fs.exited(f"fs-{number}")
                await turns()
            report = await fs.ask(Why())
            assert report.state is ServerState.BACKING_OFF
            ahead = (report.next_try_at - fs.clock.wall()).total_seconds()
            assert 2.0 <= ahead <= 4.0

            await fs.tick(4.0)
            fs.ready("fs-3")
            fs.exited("fs-3")
            await turns()
            report = await fs.ask(Why())
            assert (report.state, report.next_try_at) == (ServerState.SUSPENDED, None)
            assert report.reason == "3 failures in a row, the last: exited; `server retry` tries again"

            assert await fs.ask(Retry()) is ServerState.STARTING

    run(main())


# --- crashes of its own -------------------------------------------------------------------------


def test_a_crash_keeps_leases_instances_and_pids(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path, restarts=9, max_concurrent=2) as fs:
            held = await fs.granted()
            await turns()
            before = await fs.ask(Why())

            await fs.crash()
            after = await fs.ask(Why())

            assert fs.server.cell.incarnation == 2
            assert after == before
            assert (after.instances[0].pid, after.instances[0].busy) == (77, 1)
            assert fs.started == ["fs-1"]
            assert fs.stops_of("fs-1") == []
            assert isinstance(held, Lease)
            fs.server.tell(Release(held.lease))
            assert (await fs.ask(Why())).instances[0].busy == 0

    run(main())


def test_after_a_crash_an_end_of_an_instance_is_still_seen(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path, restarts=9) as fs:
            await fs.granted()

            await fs.crash()
            fs.end("fs-1")
            await turns()

            assert (await fs.ask(Why())).instances == ()

    run(main())


def test_who_waits_does_not_see_a_crash(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path, restarts=9) as fs:
            first, second = await fs.acquire(), await fs.acquire()
            await turns()

            await fs.crash()
            fs.ready()
            lease = await first
            assert isinstance(lease, Lease)
            assert not second.done()
            fs.server.tell(Release(lease.lease))

            assert isinstance(await second, Lease)
            assert fs.started == ["fs-1"]

    run(main())


def test_an_operators_stop_outlives_a_crash(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path, restarts=9) as fs:
            await fs.ask(OperatorStop())

            await fs.crash()

            assert (await fs.ask(Why())).state is ServerState.DISABLED

    run(main())


def test_a_second_crash_at_once_goes_on_with_the_instances_that_live(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path, restarts=9) as fs:
            lease = await fs.granted()
            fs.instances["fs-1"].facts = replace(LIVING, busy=(lease.lease,))
            asked = await fs.acquire()
            await turns()

            await fs.crash()
            await fs.crash()
            await turns()

            [outcome] = await asyncio.gather(asked, return_exceptions=True)
            assert isinstance(outcome, ActorRestarted)
            [known] = (await fs.ask(Why())).instances
            assert (known.id, known.pid, known.busy) == ("fs-1", 77, 1)
            assert fs.started == ["fs-1"]
            waiting = await fs.acquire()
            fs.server.tell(Release(lease.lease))
            granted = await waiting
            assert isinstance(granted, Lease)
            assert granted.instance_id == "fs-1"

    run(main())


def test_an_instance_that_stops_or_says_nothing_is_not_gone_on_with(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path, restarts=9) as fs:
            await fs.granted()
            fs.instances["fs-1"].facts = replace(LIVING, stopping=True)

            await fs.crash()
            await fs.crash()
            await turns()

            assert fs.stops_of("fs-1") == ["its server type has restarted without it"]
            asked = await fs.acquire()
            fs.exited(asked=True)
            await turns()
            assert fs.started == ["fs-1", "fs-r3-1"], "no name is used twice"
            fs.ready("fs-r3-1")
            assert isinstance(await asked, Lease)

    run(main())


def test_an_always_on_server_that_lost_its_estate_starts_nothing_beside_what_lives(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path, restarts=9, activation_mode="always-on") as fs:
            fs.server.tell(Warm())
            await turns()
            fs.ready()

            await fs.crash()
            await fs.crash()
            await turns()

            assert fs.started == ["fs-1"]
            assert (await fs.ask(Why())).state is ServerState.READY

    run(main())


def test_an_instance_that_was_started_by_a_handler_that_crashed_is_gone_on_with(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path, restarts=9) as fs:

            def start_and_crash(actor: Any) -> None:
                actor._on_operator_start(OperatorStart())
                raise ValueError("boom")

            fs.server.tell(Do(start_and_crash))
            await until(lambda: fs.server.cell.incarnation == 2)
            await turns()

            await fs.ask(OperatorStart())
            assert fs.started == ["fs-1"]
            assert [known.id for known in (await fs.ask(Why())).instances] == ["fs-1"]

    run(main())


def test_a_place_that_is_filled_again_after_an_orderly_end_serves_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path, restarts=9) as fs:
            fs.server.cell.stop()
            await until(lambda: fs.server.cell.incarnation == 2)
            await turns()

            asked = await fs.acquire()
            await turns()
            fs.ready(fs.started[-1])

            assert isinstance(await asked, Lease)

    run(main())


def test_other_pool_settings_are_applied_to_what_runs(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path, restarts=0, max_concurrent=1, max_instances=1) as fs:
            await fs.granted()
            asked = await fs.acquire()
            assert not asked.done()

            spec = replace_struct(fs.group.specs[0], max_concurrent=2)
            fs.server.tell(Reconfigure(ServerGroup(fs.group.spec_key, (spec,))))

            granted = await asked
            assert isinstance(granted, Lease)
            assert granted.instance_id == "fs-1"
            assert fs.started == ["fs-1"]

    run(main())


def test_a_call_that_nobody_waits_for_keeps_its_slot_but_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path, restarts=0, max_concurrent=1, max_instances=1) as fs:
            lease = await fs.granted()
            fs.server.tell(CallAbandoned(lease.lease))
            asked = await fs.acquire()
            assert not asked.done(), "the server is still at work on it"

            await fs.ask(OperatorStop())
            await turns()

            assert fs.stops_of("fs-1") == ["drained"]

    run(main())


# --- the end ------------------------------------------------------------------------------------


def test_asked_to_stop_it_refuses_drains_stops_and_ends(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path) as fs:
            held = await fs.granted()
            waiting = await fs.acquire()
            await turns()

            fs.server.cell.stop()
            refused = await waiting
            assert isinstance(refused, Refused)
            assert refused.failure.reason is Reason.STOPPING
            assert fs.stops_of("fs-1") == []

            assert isinstance(held, Lease)
            fs.server.tell(Release(held.lease))
            await until(lambda: fs.stops_of("fs-1") == ["drained"])
            fs.exited(asked=True)
            await until(lambda: not fs.server.is_alive())
            assert fs.home.ends["server-fs"] == [Shutdown()]

    run(main())


def test_in_a_hurry_calls_in_hand_are_ended(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path) as fs:
            await fs.granted()
            fs.server.cell.stop()
            await turns()

            fs.server.tell(DrainNow())
            await turns()

            assert fs.stops_of("fs-1") == ["the drain timeout ran out"]

    run(main())


def test_it_does_not_wait_for_an_instance_that_was_never_begun(tmp_path: Path) -> None:
    async def main() -> None:
        async with home(tmp_path) as at_home:
            nowhere: Handle[Any] = Handle.create(at_home.system, "instance-fs-1")
            group = ServerGroup(ALONE, (make_spec(),))
            server = await at_home.fill("fs", lambda: ServerType(at_home.context, group, lambda *_: nowhere))
            await server.ask(OperatorStart(), BOUND)

            await at_home.stop(server)

            assert at_home.ends["fs"] == [Shutdown()]

    run(main())


# --- what it says -------------------------------------------------------------------------------


def test_settled_is_answered_once_nothing_is_under_way(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path) as fs:
            assert await fs.ask(Settled()) is ServerState.COLD
            assert await fs.ask(OperatorStart()) is ServerState.STARTING
            settled = asyncio.get_running_loop().create_task(fs.ask(Settled()))
            await turns()
            assert not settled.done()

            fs.ready()

            assert await settled is ServerState.READY

    run(main())


def test_settled_waits_for_a_drain_to_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path) as fs:
            await fs.granted()
            assert await fs.ask(OperatorStop()) is ServerState.DRAINING
            settled = asyncio.get_running_loop().create_task(fs.ask(Settled()))
            await turns()
            assert not settled.done()

            fs.exited(asked=True)

            assert await settled is ServerState.DISABLED

    run(main())


def test_settled_waits_for_retries_only_where_they_matter(tmp_path: Path) -> None:
    async def main() -> None:
        limits = RestartSettings(max_retries=5, base_seconds=4.0, max_seconds=4.0)
        async with shop(tmp_path, activation_mode="always-on", restart=limits) as fs:
            fs.server.tell(Warm())
            await turns()
            in_the_end = asyncio.get_running_loop().create_task(fs.ask(Settled()))
            had_its_turn = asyncio.get_running_loop().create_task(fs.ask(Settled(with_retries=False)))
            await turns()
            assert not had_its_turn.done()
            for number in (1, 2):
                fs.failed(f"fs-{number}")
                await turns()

            assert await had_its_turn in (ServerState.COLD, ServerState.BACKING_OFF)
            assert not in_the_end.done()
            assert (await fs.ask(Why())).failures == 2
            await fs.tick(4.0)
            fs.ready("fs-3")
            assert await in_the_end is ServerState.READY

    run(main())


def test_clients_make_the_pool_warm(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path, min_ready=2, max_instances=3) as fs:
            fs.server.tell(Activation(1))
            await until(lambda: fs.started == ["fs-1", "fs-2"])

            report = await fs.ask(Why())

            assert (report.desired, report.start_cause) == (2, StartCause.CLIENT_ACTIVATE)

    run(main())


def test_the_report_has_everything_that_is_known(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path, max_concurrent=1) as fs:
            assert isinstance(fs.clock, FakeClock)
            began = fs.clock.wall()
            await fs.granted()
            fs.exited(code=3, stderr=30)
            await turns()
            fs.clock.advance(5.0)
            second = await fs.acquire()
            await turns()
            fs.ready("fs-2", pid=88)
            await second
            waiting = await fs.acquire()
            await turns()
            for ok in (True, True):
                fs.server.tell(Release(new_lease_id(), ok))
            fs.server.tell(CallEnded(ok=False))

            report = await fs.ask(Why())

            assert (report.name, report.spec_key, report.shared_with) == ("fs", ALONE, ("twin",))
            assert (report.state, report.reason) == (ServerState.READY, "serving calls")
            assert (report.waiting, report.desired, report.next_try_at) == (1, 0, None)
            assert (report.starts, report.restarts, report.start_cause) == (2, 1, StartCause.TOOL_CALL)
            assert report.last_exit is not None
            assert (report.last_exit.code, report.last_exit.at) == (3, began)
            assert (len(report.stderr), report.stderr[-1]) == (20, "line 29")
            assert (report.calls.ok, report.calls.failed, report.calls.refused) == (2, 1, 0)
            [instance] = report.instances
            assert (instance.id, instance.pid, instance.state) == ("fs-2", 88, InstanceState.BUSY)
            assert (instance.busy, instance.era, instance.idle_since) == (1, "legacy", None)
            assert instance.started_at == fs.clock.wall()
            waiting.cancel()

    run(main())


def test_an_instance_is_reported_from_its_start_to_its_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path) as fs:

            async def state() -> InstanceState:
                [instance] = (await fs.ask(Why())).instances
                assert isinstance(instance.state, InstanceState)
                return instance.state

            await fs.ask(OperatorStart())
            seen = [await state()]
            fs.server.tell(InstanceStarting(InstanceId("fs-1"), 77))
            seen.append(await state())
            fs.ready()
            seen.append(await state())
            lease = await fs.granted()
            seen.append(await state())
            await fs.ask(OperatorStop())
            seen.append(await state())
            fs.server.tell(Release(lease.lease))
            seen.append(await state())

            assert seen == [
                InstanceState.STARTING,
                InstanceState.HANDSHAKING,
                InstanceState.READY,
                InstanceState.BUSY,
                InstanceState.DRAINING,
                InstanceState.STOPPING,
            ]

    run(main())


def test_every_transition_is_an_event_with_its_reason(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path) as fs:
            await fs.granted()
            fs.exited()
            await turns()

            assert fs.home.event_texts("server_state") == [
                ("cold", "starting", "starting because of tool_call"),
                ("starting", "ready", "serving calls"),
                ("ready", "cold", "not running since: exited; the next call starts it"),
            ]
            assert fs.home.event_texts("instance_exit") == [(None, None, "exited")]

    run(main())


def test_metrics_count_starts_stops_and_refusals(tmp_path: Path) -> None:
    async def main() -> None:
        async with shop(tmp_path, queue_limit=1) as fs:
            assert isinstance(fs.clock, FakeClock)
            asked = await fs.acquire()
            await turns()
            fs.clock.advance(1.5)
            fs.ready()
            await asked
            waiting = await fs.acquire()
            await turns()
            await (await fs.acquire())
            sample = fs.home.sample

            assert sample("mcpv_instance_starts_total", server="fs", cause="tool_call", result="ok") == 1.0
            assert sample("mcpv_instance_start_seconds_sum", server="fs") == 1.5
            assert sample("mcpv_acquire_refusals_total", server="fs", reason="overloaded") == 1.0
            waiting.cancel()
            fs.exited()
            await turns()
            assert sample("mcpv_instance_stops_total", server="fs", reason="exited") == 1.0

    run(main())
