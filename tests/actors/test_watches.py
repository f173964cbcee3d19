"""Who watches a resource hears of it, through whatever instance; servers are asked for what is watched and no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from support.owners import Home, home, run, turns, until

from mcpv_node.actors import Watches, watch_table
from mcpv_node.actors import watches as watches_module
from mcpv_node.actors.callers import Caller, ClientProfile
from mcpv_node.actors.index_messages import ConsumerId, ServersChanged
from mcpv_node.actors.instance.messages import Answer, CallFailed, ResourceUpdated, WatchResources
from mcpv_node.actors.kernel import Deferred, Handle, LoopActor, answers, handles
from mcpv_node.actors.leases import Acquire, InstanceId, Lease, LeaseId, LeaseKind, Refused, Release
from mcpv_node.actors.snapshot import ServerView
from mcpv_node.actors.watch_messages import NotWatching, Unwatch, UnwatchAll, Watch, Watching
from mcpv_node.actors.watch_table import Wishes, concerned, retry_delay
from mcpv_node.actors.world import Server
from mcpv_node.protocol import CallFailure, Capabilities, Reason, ServerHello
from mcpv_node.settings import ServerName, ServerSpec, SpecKey

HELLO = ServerHello(
    version="2025-11-25",
    name="s",
    server_version="1",
    capabilities=Capabilities(resources=True, resources_subscribe=True),
)
REFUSED = b'{"code":-32002,"message":"no such resource"}'
KEY = SpecKey("key")


class FakeInstance(LoopActor[None]):
    """Agrees to what it is asked, but for what it is told to refuse, or to think about."""

    def __init__(self, refused: set[str], thinking: bool) -> None:
        super().__init__()
        self.refused = refused
        self.thinking = thinking
        self.asked: list[set[str]] = []
        self.told: set[str] = set()  # what it has agreed to
        self.parked: list[Deferred[Any]] = []

    @answers(WatchResources)
    def _on_watch(self, request: WatchResources) -> Answer | CallFailed | Deferred[Any]:
        self.asked.append(set(request.uris))
        if self.thinking:
            deferred: Deferred[Any] = self.defer()
            self.parked.append(deferred)
            return deferred
        if request.uris & self.refused:
            return Answer(error=REFUSED)
        self.told = set(request.uris)
        return Answer(result=b"{}")


class FakeServerType(LoopActor[None]):
    """Seats each lease on the newest instance of the test's."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[LeaseId, Acquire] = {}
        self.acquired: list[Acquire] = []
        self.refusal: CallFailure | None = None
        self.instances: list[tuple[InstanceId, Handle[Any], FakeInstance]] = []

    @answers(Acquire)
    def _on_acquire(self, request: Acquire) -> Lease | Refused:
        self.acquired.append(request)
        if self.refusal is not None:
            return Refused(self.refusal)
        self.held[request.lease] = request
        name, handle, _ = self.instances[-1]
        return Lease(request.lease, name, handle, 0.0, 0.0, HELLO)

    @handles(Release)
    def _on_release(self, message: Release) -> None:
        self.held.pop(message.lease, None)


class Stage:
    """Watches, with one server type behind two entries."""

    def __init__(self, at_home: Home) -> None:
        self.home = at_home
        self.type = FakeServerType()
        self.watches: Handle[Any] = at_home.context.watches
        self.heard: list[tuple[int, str, Any]] = []

    @property
    def newest(self) -> FakeInstance:
        return self.type.instances[-1][2]

    async def start_instance(self, *refused: str, thinking: bool = False) -> FakeInstance:
        name = InstanceId(f"s-{len(self.type.instances) + 1}")
        instance = FakeInstance(set(refused), thinking)
        handle = await self.home.fill(name, lambda: instance)
        self.type.instances.append((name, handle, instance))
        return instance

    async def watch(
        self, consumer: int, uri: str, *, server: str = "s", profile: str = "", key: str = "k"
    ) -> Watching | NotWatching:
        request = Watch(
            consumer=ConsumerId(consumer),
            server=ServerName(server),
            uri=uri,
            caller=Caller(principal="p", client="c", key=key, profile=ClientProfile(profile)),
            notify=lambda named, params: self.heard.append((consumer, named, msgspec.json.decode(params))),
        )
        outcome: Watching | NotWatching = await self.watches.ask(request, 20.0)
        return outcome

    def unwatch(self, consumer: int, uri: str) -> None:
        self.watches.tell(Unwatch(ConsumerId(consumer), uri))

    def update(self, uri: str, instance: str = "s-1") -> None:
        params = msgspec.json.encode({"uri": uri, "x": 1})
        self.watches.tell(ResourceUpdated(KEY, InstanceId(instance), uri, params))


@asynccontextmanager
async def stage(folder: Path, *, strategy: Any = "stateless") -> AsyncIterator[Stage]:
    async with home(folder) as at_home:
        on = Stage(at_home)
        handle = await at_home.fill("s", lambda: on.type)
        servers = {
            ServerName(name): Server(
                ServerSpec(name=ServerName(name), command="none", strategy=strategy),
                ServerView(ServerName(name), KEY),
                handle,
            )
            for name in ("s", "twin")
        }
        at_home.context.world.publish_servers(MappingProxyType(servers))
        await on.start_instance()
        wishes: Wishes = {}
        await at_home.fill("watches", lambda: Watches(at_home.context, wishes), handle=on.watches, restarts=2)
        yield on


def at_stage(folder: Path, scenario: Any, **options: Any) -> None:
    async def main() -> None:
        async with stage(folder, **options) as on:
            await scenario(on)

    run(main())


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_table, "FIRST_RETRY", 0.001)


def test_the_first_watcher_takes_a_lease_that_keeps_the_instance_and_the_last_one_gives_it_back(
    tmp_path: Path,
) -> None:
    async def scenario(on: Stage) -> None:
        first = await on.watch(1, "a:1")
        second = await on.watch(2, "a:1")
        third = await on.watch(2, "a:2")
        asked = list(on.newest.asked)
        kinds = [one.kind for one in on.type.acquired]
        on.unwatch(1, "a:1")
        await turns()
        kept = list(on.newest.asked)
        on.watches.tell(UnwatchAll(ConsumerId(2)))
        await until(lambda: not on.type.held)
        await until(lambda: not on.newest.told)

        assert [first, second, third] == [Watching()] * 3
        assert asked == kept == [{"a:1"}, {"a:1", "a:2"}]
        assert kinds == [LeaseKind.SUBSCRIPTION]

    at_stage(tmp_path, scenario)


def test_only_who_watches_a_resource_hears_of_it_and_with_the_servers_own_params(tmp_path: Path) -> None:
    async def scenario(on: Stage) -> None:
        await on.watch(1, "a:1")
        await on.watch(2, "a:2")
        await on.watch(3, "a:1", server="twin")
        on.update("a:1")
        on.update("a:3")
        on.update("a:2", instance="another")
        on.unwatch(3, "a:1")
        on.update("a:1")
        await turns()

        told = ("a:1", {"uri": "a:1", "x": 1})
        assert on.heard == [(1, *told), (3, *told), (1, *told)]

    at_stage(tmp_path, scenario)


def test_an_update_of_what_lies_below_is_told_once_under_the_name_the_server_gave(tmp_path: Path) -> None:
    async def scenario(on: Stage) -> None:
        await on.watch(1, "file:///logs")
        await on.watch(1, "file:///logs/today")
        await on.watch(2, "file:///lo")
        on.update("file:///logs/today")
        await turns()

        assert [(who, uri) for who, uri, _ in on.heard] == [(1, "file:///logs/today")]

    at_stage(tmp_path, scenario)


def test_entries_that_run_the_same_thing_share_one_subscription(tmp_path: Path) -> None:
    async def scenario(on: Stage) -> None:
        await on.watch(1, "a:1")
        await on.watch(2, "a:1", server="twin")
        on.watches.tell(Unwatch(ConsumerId(1), "a:1", ServerName("twin")))
        on.watches.tell(Unwatch(ConsumerId(2), "a:1", ServerName("twin")))
        on.update("a:1")
        await turns()

        assert on.newest.asked == [{"a:1"}]
        assert len(on.type.acquired) == 1
        assert [who for who, _, _ in on.heard] == [1]

    at_stage(tmp_path, scenario)


@pytest.mark.parametrize(("strategy", "leases"), [("stateless", 1), ("stateful", 2), ("exclusive", 2)])
def test_a_server_that_keeps_its_clients_state_is_asked_in_each_clients_own_name(
    tmp_path: Path, strategy: str, leases: int
) -> None:
    async def scenario(on: Stage) -> None:
        await on.watch(1, "a:1", key="one")
        await on.watch(2, "a:2", key="two")
        await on.watch(3, "a:3", key="one", profile="other")

        assert len(on.type.acquired) == leases + 1
        # However many leases stand on it, an instance has one set.
        assert on.newest.told == {"a:1", "a:2", "a:3"}

    at_stage(tmp_path, scenario, strategy=strategy)


def test_the_servers_refusal_is_the_answer_and_leaves_the_others_where_they_are(tmp_path: Path) -> None:
    async def scenario(on: Stage) -> None:
        on.newest.refused = {"a:no", "a:never"}
        good = await on.watch(1, "a:1")
        bad = await on.watch(2, "a:no")
        both = await asyncio.gather(on.watch(3, "a:never"), on.watch(3, "a:2"), on.watch(3, "a:no"))
        on.update("a:no")
        on.update("a:2")
        await turns()

        refused = NotWatching(Answer(error=REFUSED))
        assert [good, bad] == [Watching(), refused]
        assert both == [refused, Watching(), refused]
        assert [who for who, _, _ in on.heard] == [3]
        assert on.newest.told == {"a:1", "a:2"}

    at_stage(tmp_path, scenario)


def test_a_server_that_refuses_its_only_watcher_keeps_no_lease(tmp_path: Path) -> None:
    async def scenario(on: Stage) -> None:
        on.newest.refused = {"a:no"}
        await on.watch(1, "a:no")

        await until(lambda: not on.type.held)

    at_stage(tmp_path, scenario)


def test_a_lease_that_is_refused_is_the_answer(tmp_path: Path) -> None:
    async def scenario(on: Stage) -> None:
        on.type.refusal = CallFailure(reason=Reason.SUSPENDED, message="why", server="s", executed="no")
        outcome = await on.watch(1, "a:1")
        unknown = await on.watch(1, "a:1", server="none")
        await turns()

        assert outcome == NotWatching(on.type.refusal)
        assert isinstance(unknown, NotWatching)
        assert len(on.type.acquired) == 1

    at_stage(tmp_path, scenario)


def test_after_the_end_of_an_instance_it_stands_on_the_next_one_and_each_hears_once(tmp_path: Path) -> None:
    async def scenario(on: Stage) -> None:
        await on.watch(1, "a:1")
        await on.watch(2, "a:1")
        await on.watch(2, "a:2")
        _, first, _ = on.type.instances[0]
        on.type.refusal = CallFailure(reason=Reason.BACKING_OFF, message="soon", server="s", executed="no")
        first.kill()
        await until(lambda: len(on.type.acquired) >= 4)
        second = await on.start_instance()
        on.type.refusal = None
        await until(lambda: len(on.heard) == 3)
        on.update("a:2", instance="s-2")
        on.update("a:1", instance="s-1")
        await turns()

        assert second.asked == [{"a:1", "a:2"}]
        assert sorted((who, uri) for who, uri, _ in on.heard[:3]) == [(1, "a:1"), (2, "a:1"), (2, "a:2")]
        assert on.heard[3:] == [(2, "a:2", {"uri": "a:2", "x": 1})]
        assert len(on.type.held) == 1

    at_stage(tmp_path, scenario)


def test_who_watches_goes_on_with_what_a_reload_puts_in_the_place_of_its_server(tmp_path: Path) -> None:
    async def scenario(on: Stage) -> None:
        assert isinstance(await on.watch(1, "r"), Watching)
        before, on.type = on.type, FakeServerType()
        on.type.instances = list(before.instances)
        after = await on.home.fill("after", lambda: on.type)
        instance = await on.start_instance()
        world = on.home.context.world
        world.publish_servers(
            {name: replace(server, handle=after) for name, server in world.world.servers.items()}
        )

        on.watches.tell(ServersChanged())
        await until(lambda: on.heard and not before.held)

        assert [(consumer, uri) for consumer, uri, _ in on.heard] == [(1, "r")]
        assert isinstance(await on.watch(1, "r"), Watching)
        assert instance.asked == [{"r"}]

    at_stage(tmp_path, scenario)


def test_what_the_next_instance_refuses_is_told_once_more_and_is_watched_no_longer(tmp_path: Path) -> None:
    async def scenario(on: Stage) -> None:
        for uri in ("a:1", "a:2", "a:3"):
            await on.watch(1, uri)
        await on.start_instance("a:2")
        on.type.instances[0][1].kill()
        await until(lambda: on.newest.told == {"a:1", "a:3"})
        await until(lambda: len(on.heard) == 3)
        on.update("a:2", instance="s-2")
        await turns()

        assert sorted(uri for _, uri, _ in on.heard) == ["a:1", "a:2", "a:3"]

    at_stage(tmp_path, scenario)


def test_who_waits_when_the_instance_ends_hears_of_it(tmp_path: Path) -> None:
    async def scenario(on: Stage) -> None:
        thinking = await on.start_instance(thinking=True)
        asked = asyncio.ensure_future(on.watch(1, "a:1"))
        await until(lambda: thinking.parked)
        on.type.instances[-1][1].kill()
        outcome = await asked
        await until(lambda: not on.type.held)

        assert isinstance(outcome, NotWatching)
        assert isinstance(outcome.why, CallFailure)
        assert outcome.why.reason is Reason.INSTANCE_DIED

    at_stage(tmp_path, scenario)


def test_a_server_that_does_not_agree_in_time_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watches_module, "AGREE_BOUND", 0.01)

    async def scenario(on: Stage) -> None:
        await on.start_instance(thinking=True)
        outcome = await on.watch(1, "a:1")

        assert isinstance(outcome, NotWatching)
        assert isinstance(outcome.why, CallFailure)
        assert outcome.why.reason is Reason.CALL_TIMEOUT

    at_stage(tmp_path, scenario)


def test_who_leaves_while_the_server_thinks_leaves_no_lease_behind(tmp_path: Path) -> None:
    async def scenario(on: Stage) -> None:
        thinking = await on.start_instance(thinking=True)
        asked = asyncio.ensure_future(on.watch(1, "a:1"))
        await until(lambda: thinking.parked)
        on.unwatch(1, "a:1")
        outcome = await asked
        thinking.parked[0].answer(Answer(result=b"{}"))
        await until(lambda: thinking.asked[-1] == set())
        # Nothing stands between two messages, and the lease was never granted.
        early = asyncio.ensure_future(on.watch(1, "a:2"))
        await asyncio.sleep(0)
        on.unwatch(1, "a:2")
        await early
        await until(lambda: not on.type.held)
        await turns()

        assert isinstance(outcome, NotWatching)
        assert not on.type.held

    at_stage(tmp_path, scenario)


def test_a_crash_of_the_owner_loses_nobody_and_no_lease(tmp_path: Path) -> None:
    async def scenario(on: Stage) -> None:
        await on.watch(1, "a:1")
        on.watches.kill()
        on.update("a:1")
        await until(lambda: len(on.heard) >= 1)
        await until(lambda: len(on.type.acquired) == 2)
        on.heard.clear()
        await turns()
        on.update("a:1")
        await turns()

        assert [who for who, _, _ in on.heard] == [1]
        assert len(on.type.held) == 1

        on.watches.tell(UnwatchAll(ConsumerId(1)))
        await until(lambda: not on.type.held)

    at_stage(tmp_path, scenario)


def test_who_waits_when_the_owner_crashes_is_answered_all_the_same(tmp_path: Path) -> None:
    async def scenario(on: Stage) -> None:
        thinking = await on.start_instance(thinking=True)
        asked = asyncio.ensure_future(on.watch(1, "a:1"))
        await until(lambda: thinking.parked)
        thinking.thinking = False
        on.watches.kill()
        outcome = await asked

        assert outcome == Watching()
        assert len(on.type.held) == 1

    at_stage(tmp_path, scenario)


def test_one_consumer_cannot_watch_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_table, "MAX_PER_CONSUMER", 2)
    monkeypatch.setattr(watch_table, "MAX_WATCHERS", 4)

    async def scenario(on: Stage) -> None:
        outcomes = [await on.watch(1, f"a:{number}") for number in (1, 2, 3, 2)]
        outcomes += [await on.watch(who, "a:1") for who in (2, 3, 4)]

        refused = [isinstance(one, NotWatching) for one in outcomes]
        assert refused == [False, False, True, False, False, False, True]
        failed = outcomes[2]
        assert isinstance(failed, NotWatching)
        assert isinstance(failed.why, CallFailure)
        assert failed.why.reason is Reason.OVERLOADED

    at_stage(tmp_path, scenario)


def test_a_watcher_that_raises_keeps_nobody_else_from_hearing(tmp_path: Path) -> None:
    async def scenario(on: Stage) -> None:
        def broken(_uri: str, _params: bytes) -> None:
            raise ValueError("boom")

        caller = Caller(principal="p", client="c", key="k")
        await on.watches.ask(Watch(ConsumerId(1), ServerName("s"), "a:1", caller, broken), 20.0)
        await on.watch(2, "a:1")
        on.update("a:1")
        await turns()

        assert [who for who, _, _ in on.heard] == [2]

    at_stage(tmp_path, scenario)


@pytest.mark.parametrize(
    ("uri", "found"),
    [
        ("a:1", ["a:1"]),
        ("file:///x/y", ["file:///x/y", "file:///x/", "file:///x", "file:///", "file://", "file:/", "file:"]),
        ("q:a?b#c", ["q:a?b#c", "q:a?b#", "q:a?b", "q:a?", "q:a"]),
    ],
)
def test_an_update_concerns_the_resource_and_those_above_it(uri: str, found: list[str]) -> None:
    assert concerned(uri) == found


def test_pauses_double_and_have_a_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_table, "FIRST_RETRY", 0.25)

    assert [retry_delay(failures) for failures in (1, 2, 3, 9, 5000)] == [0.25, 0.5, 1.0, 60.0, 60.0]


@pytest.mark.parametrize("deaths", [1, 2])
def test_whoever_watches_does_so_after_any_number_of_deaths_of_their_owner(
    tmp_path: Path, deaths: int
) -> None:
    async def scenario(on: Stage) -> None:
        await on.watch(1, "a:1")
        for _ in range(deaths):
            before = on.watches.cell.incarnation
            on.watches.kill("for a test")
            await until(lambda before=before: on.watches.cell.incarnation > before and on.watches.is_alive())
        await until(lambda: on.heard)

        assert on.heard == [(1, "a:1", {"uri": "a:1"})]
        assert len(on.type.held) == 1
        on.update("a:1")
        await until(lambda: len(on.heard) == 2)

    at_stage(tmp_path, scenario)


def test_what_was_not_agreed_to_when_its_owner_died_is_watched_by_who_asks_again_alone(
    tmp_path: Path,
) -> None:
    async def scenario(on: Stage) -> None:
        await on.start_instance(thinking=True)
        watching = asyncio.get_running_loop().create_task(on.watch(1, "a:1"))
        given_up = asyncio.get_running_loop().create_task(on.watch(2, "a:2"))
        await until(lambda: on.newest.asked)
        given_up.cancel()
        await on.start_instance()

        on.watches.kill("for a test")

        assert await watching == Watching()
        assert on.newest.told == {"a:1"}

    at_stage(tmp_path, scenario)
