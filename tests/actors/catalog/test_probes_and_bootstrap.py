"""Probes learn one server each; Bootstrap runs a few at a time, gives up on none too early, and survives its own death."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.catalogs import hello, key_of
from support.owners import Home, home, run, turns, until

from mcpv_node.actors import probe as probe_module
from mcpv_node.actors.index_messages import AwaitLists, LearningFailed, ListsLearnt, Unlearnt
from mcpv_node.actors.instance.messages import ReadLists
from mcpv_node.actors.kernel import Crashed, Deferred, Handle, LoopActor, Normal, answers, handles
from mcpv_node.actors.leases import Acquire, InstanceId, Lease, Refused, Release, StartCause
from mcpv_node.actors.probe import Probe
from mcpv_node.actors.snapshot import KINDS
from mcpv_node.actors.status import (
    AwaitLearning,
    Learn,
    LearningMessage,
    LearningState,
    LearningStep,
    ShowLearning,
)
from mcpv_node.protocol import CallFailure, Reason
from mcpv_node.settings import BootstrapMode, ServerName, SpecKey
from mcpv_node.supervisors import Backoff, Bootstrap, ProbeSpec, bootstrap
from mcpv_node.telemetry import Event, EventKind

NAMES = ("a", "b", "c", "d", "e")


class FakeIndex(LoopActor[None]):
    """Answers when the test says so."""

    def __init__(self, unlearnt: tuple[SpecKey, ...] = ()) -> None:
        super().__init__()
        self.unlearnt = unlearnt
        # One stands for the indexes of all kinds: each is asked once.
        self.waiting: dict[SpecKey, list[Deferred[ListsLearnt]]] = {}
        # What is left to answer of a probe whose questions to the three had not all come yet.
        self.late: dict[SpecKey, list[ListsLearnt]] = {}
        self.failed: list[str] = []
        self.asked: list[SpecKey] = []
        self.fresh: list[SpecKey] = []
        self.answers_looks = True

    @answers(Unlearnt)
    def _on_unlearnt(self, _: Unlearnt) -> tuple[SpecKey, ...] | Deferred[tuple[SpecKey, ...]]:
        return self.unlearnt if self.answers_looks else self.defer()

    @answers(AwaitLists)
    def _on_await(self, request: AwaitLists) -> ListsLearnt | Deferred[ListsLearnt]:
        if late := self.late.get(request.spec_key):
            return late.pop()
        waiting = self.waiting.setdefault(request.spec_key, [])
        if len(waiting) % len(KINDS) == 0:
            self.asked.append(request.spec_key)
            if request.fresh:
                self.fresh.append(request.spec_key)
        deferred: Deferred[ListsLearnt] = self.defer()
        waiting.append(deferred)
        return deferred

    @handles(LearningFailed)
    def _on_failed(self, message: LearningFailed) -> None:
        if message.message not in self.failed[-2:]:
            self.failed.append(message.message)

    def learn(self, name: str, failure: str | None = None) -> None:
        key = key_of(name)
        if failure is None:
            self.unlearnt = tuple(one for one in self.unlearnt if one != key)
        waiting = self.waiting.pop(key)
        for deferred in waiting:
            deferred.answer(ListsLearnt(key, failure))
        self.late[key] = [ListsLearnt(key, failure)] * (-len(waiting) % len(KINDS))


class FakeServer(LoopActor[None]):
    """Grants or refuses, and remembers what was given back."""

    def __init__(self, name: str, refusal: CallFailure | None = None) -> None:
        super().__init__()
        self.name = name
        self.refusal = refusal
        self.acquired: list[Acquire] = []
        self.released: list[Release] = []
        self.instance: Handle[Any]

    def on_start(self, estate: None = None) -> None:
        self.instance = Handle.create(self.cell.system, f"{self.name}-1")

    @answers(Acquire)
    def _on_acquire(self, request: Acquire) -> Lease | Refused:
        self.acquired.append(request)
        if self.refusal is not None:
            return Refused(self.refusal)
        return Lease(request.lease, InstanceId(f"{self.name}-1"), self.instance, 0.0, 0.0, hello())

    @handles(Release)
    def _on_release(self, message: Release) -> None:
        self.released.append(message)

    def told(self) -> list[object]:
        """What its instance was told, which nobody has read."""
        return [letter.message for letter in self.instance.cell.stash]


class School:
    """An index, servers and probes."""

    def __init__(self, at_home: Home, index: FakeIndex) -> None:
        self.home = at_home
        self.index = index
        self.servers: dict[str, FakeServer] = {}
        self.handles: dict[str, Handle[Any]] = {}
        self.present: list[str] = []

    def probe(self, name: str, timeout: float = 30.0, *, fresh: bool = False) -> Probe:
        return Probe(self.home.context, key_of(name), self.handles[name], timeout, fresh=fresh)

    async def start_bootstrap(
        self, concurrency: int, *, mode: BootstrapMode = "metadata", restarts: int = 0
    ) -> Handle[LearningMessage]:
        """Start it where its supervisor would start it again so often."""
        return await self.home.fill("bootstrap", lambda: self.bootstrap(concurrency, mode), restarts=restarts)

    def moves(self, name: str) -> list[tuple[str | None, str | None, str | None]]:
        """What was told of learning one server: from, to, reason."""
        return [
            (event.from_, event.to, event.reason)
            for event in self.home.events.of(Event)
            if event.kind == EventKind.LEARNING_STATE and event.server == name
        ]

    def bootstrap(self, concurrency: int, mode: BootstrapMode = "metadata") -> Bootstrap:
        return Bootstrap(self.home.context, self.specs, concurrency=concurrency, mode=mode)

    def specs(self) -> list[ProbeSpec]:
        return [
            ProbeSpec(key_of(name), ServerName(name), lambda fresh, name=name: self.probe(name, fresh=fresh))
            for name in self.present
        ]


@asynccontextmanager
async def school(
    tmp_path: Path, *names: str, unlearnt: tuple[str, ...] = (), refusal: CallFailure | None = None
) -> AsyncIterator[School]:
    async with home(tmp_path, played=("events", "subscribers")) as at_home:
        index = FakeIndex(tuple(map(key_of, unlearnt)))
        await at_home.fill("index", lambda: index, handle=at_home.context.indexes["tools"])
        place = School(at_home, index)
        place.present.extend(names)
        for name in names:
            place.servers[name] = FakeServer(name, refusal)
            place.handles[name] = await at_home.fill(name, lambda name=name: place.servers[name])
        yield place


def test_a_probe_acquires_waits_for_the_lists_releases_and_is_done(tmp_path: Path) -> None:
    async def main() -> None:
        async with school(tmp_path, "a") as place:
            probe = await place.home.fill("probe", lambda: place.probe("a"))
            await turns()
            server = place.servers["a"]
            [acquired] = server.acquired
            assert (acquired.cause, server.released) == (StartCause.BOOTSTRAP, [])

            place.index.learn("a")
            await until(lambda: not probe.is_alive())
            await turns()

            assert place.home.ends["probe"] == [Normal()]
            assert server.released == [Release(acquired.lease)]
            assert place.index.failed == []

    run(main())


def test_a_probe_that_is_refused_fails_with_the_reason(tmp_path: Path) -> None:
    async def main() -> None:
        refusal = CallFailure(reason=Reason.SUSPENDED, message="a: suspended", server="a", executed="no")
        async with school(tmp_path, "a", refusal=refusal) as place:
            probe = await place.home.fill("probe", lambda: place.probe("a"))
            await until(lambda: not probe.is_alive())
            await turns()

            assert place.home.ends["probe"] == [Crashed("a: suspended")]
            assert len(place.servers["a"].released) == 1
            assert place.index.failed == ["crashed: a: suspended"]

    run(main())


def test_a_probe_whose_lists_cannot_be_read_fails_and_lets_the_instance_go(tmp_path: Path) -> None:
    async def main() -> None:
        async with school(tmp_path, "a") as place:
            probe = await place.home.fill("probe", lambda: place.probe("a"))
            await turns()
            place.index.learn("a", "no tools today")
            await until(lambda: not probe.is_alive())
            await turns()

            assert place.home.ends["probe"] == [Crashed("no tools today")]
            assert len(place.servers["a"].released) == 1

    run(main())


def test_a_fresh_probe_has_a_ready_instance_read_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with school(tmp_path, "a") as place:
            probe = await place.home.fill("probe", lambda: place.probe("a", fresh=True))
            await until(lambda: place.servers["a"].told() == [ReadLists()])
            assert place.index.fresh == [key_of("a")]
            place.index.learn("a")
            await until(lambda: not probe.is_alive())

            assert place.home.ends["probe"] == [Normal()]

    run(main())


def test_a_probe_says_what_did_not_come_in_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "ASK_MARGIN", 0.0)

    async def main() -> None:
        async with school(tmp_path, "a") as place:
            probe = await place.home.fill("probe", lambda: place.probe("a", timeout=0.01))
            await until(lambda: not probe.is_alive())
            await turns()

            assert place.home.ends["probe"] == [Crashed("its lists were not read within 0.01 s")]
            assert len(place.servers["a"].released) == 1

    run(main())


def test_a_killed_probe_lets_the_instance_go(tmp_path: Path) -> None:
    async def main() -> None:
        async with school(tmp_path, "a") as place:
            probe = await place.home.fill("probe", lambda: place.probe("a"))
            await turns()
            probe.kill()
            await turns()

            assert len(place.servers["a"].released) == 1

    run(main())


# --- bootstrap ----------------------------------------------------------------------------------


def under_way(place: School) -> list[str]:
    """Whose probe has an instance, and waits at every index: both are asked at the same time."""
    return [
        name
        for name, server in place.servers.items()
        if len(server.acquired) > len(server.released)
        and len(place.index.waiting.get(key_of(name), ())) >= len(KINDS)
    ]


def test_only_so_many_probes_run_at_once_and_all_have_their_turn(tmp_path: Path) -> None:
    async def main() -> None:
        async with school(tmp_path, *NAMES, unlearnt=NAMES) as place:
            await place.start_bootstrap(2)
            await until(lambda: under_way(place) == ["a", "b"])
            await turns(50)
            assert under_way(place) == ["a", "b"]

            for name, following in (("b", ["a", "c"]), ("a", ["c", "d"]), ("c", ["d", "e"])):
                place.index.learn(name)
                await until(lambda following=following: under_way(place) == following)
            place.index.learn("d")
            place.index.learn("e")
            await until(lambda: under_way(place) == [])

    run(main())


def test_what_is_known_is_not_probed(tmp_path: Path) -> None:
    async def main() -> None:
        async with school(tmp_path, *NAMES, unlearnt=("c",)) as place:
            await place.start_bootstrap(5)
            await until(lambda: under_way(place) == ["c"])
            await turns(50)

            assert place.index.asked == [key_of("c")]
            place.index.learn("c")
            await until(lambda: under_way(place) == [])

    run(main())


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Next attempts follow at once."""
    monkeypatch.setattr(bootstrap, "RETRY_DELAY", Backoff(base=0.001, maximum=0.001))
    monkeypatch.setattr(bootstrap, "LOOK_AGAIN_DELAY", 0.001)


@pytest.mark.usefixtures("impatient")
def test_a_failing_server_is_tried_three_times_in_all_and_holds_up_nobody_meanwhile(tmp_path: Path) -> None:
    async def main() -> None:
        async with school(tmp_path, "a", "b", "c", unlearnt=("a", "b", "c")) as place:
            keeper = await place.start_bootstrap(1)
            await until(lambda: key_of("a") in place.index.waiting)
            place.index.learn("a", "no luck")
            for name in ("b", "c"):
                await until(lambda name=name: key_of(name) in place.index.waiting)
                place.index.learn(name)
            for attempt in (2, 3):
                await until(lambda: key_of("a") in place.index.waiting)
                assert place.index.asked.count(key_of("a")) == attempt
                place.index.learn("a", f"no luck at {attempt}")
            status = await keeper.ask(AwaitLearning(frozenset({key_of("a")})), 5.0)

            assert (status.state, status.completed, status.failed) == (LearningState.FAILED, 2, 1)
            outcome = status.outcomes[key_of("a")]
            assert (outcome.server, outcome.state) == ("a", LearningStep.FAILED)
            assert (outcome.attempts, outcome.reason) == (3, "no luck at 3")
            await turns(50)
            assert place.index.asked.count(key_of("a")) == 3
            assert under_way(place) == []
            assert place.moves("a")[-1] == ("running", "failed", "no luck at 3")
            assert [to for _, to, _ in place.moves("b")] == ["pending", "running", "learnt"]

    run(main())


def test_its_status_says_how_far_it_is_and_who_has_the_turn(tmp_path: Path) -> None:
    async def main() -> None:
        async with school(tmp_path, "a", "b", "c", unlearnt=("b", "c")) as place:
            keeper = await place.start_bootstrap(1)
            await until(lambda: under_way(place) == ["b"])
            status = await keeper.ask(ShowLearning(), 5.0)

            assert (status.mode, status.state) == ("metadata", LearningState.RUNNING)
            assert (status.total, status.completed, status.failed) == (3, 1, 0)
            assert status.current == ("b",)
            states = {one.server: (one.state, one.attempts) for one in status.outcomes.values()}
            assert states == {
                "a": (LearningStep.LEARNT, 0),
                "b": (LearningStep.RUNNING, 1),
                "c": (LearningStep.PENDING, 0),
            }

    run(main())


def test_before_the_index_has_said_what_is_missing_nothing_is_promised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "ASK_TIMEOUT", 0.01)

    async def main() -> None:
        async with school(tmp_path, "a", unlearnt=("a",)) as place:
            place.index.answers_looks = False
            keeper = await place.start_bootstrap(1)

            status = await keeper.ask(ShowLearning(), 5.0)

            assert (status.state, status.total) == (LearningState.PENDING, 0)

    run(main())


@pytest.mark.usefixtures("impatient")
def test_an_index_that_restarts_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "ASK_TIMEOUT", 0.01)

    async def main() -> None:
        async with school(tmp_path, "a", unlearnt=("a",)) as place:
            place.index.answers_looks = False
            await place.start_bootstrap(1)
            await turns(50)
            place.index.answers_looks = True

            await until(lambda: under_way(place) == ["a"])

    run(main())


def test_a_server_that_was_learnt_by_being_called_is_not_probed_any_more(tmp_path: Path) -> None:
    async def main() -> None:
        async with school(tmp_path, "a", "b", unlearnt=("a", "b")) as place:
            keeper = await place.start_bootstrap(1)
            await until(lambda: under_way(place) == ["a"])
            place.index.unlearnt = (key_of("a"),)
            place.index.learn("a")

            status = await keeper.ask(AwaitLearning(frozenset(map(key_of, "ab"))), 5.0)

            assert status.state is LearningState.COMPLETED
            assert place.servers["b"].acquired == []

    run(main())


def test_a_server_that_is_added_is_learnt_and_those_that_are_known_are_left_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with school(tmp_path, "a", "b", "c") as place:
            place.present[:] = ["a"]
            keeper = await place.start_bootstrap(3)
            assert (await keeper.ask(ShowLearning(), 5.0)).total == 1
            place.present[:] = ["a", "b", "c"]
            place.index.unlearnt = (key_of("b"),)

            status = await keeper.ask(Learn(), 5.0)
            await until(lambda: under_way(place) == ["b"])
            place.index.learn("b")
            status = await keeper.ask(AwaitLearning(frozenset(map(key_of, "abc"))), 5.0)

            assert (status.total, status.completed) == (3, 3)
            assert [name for name, server in place.servers.items() if server.acquired] == ["b"]

    run(main())


def test_the_probe_of_a_server_that_was_removed_ends_and_its_place_is_anothers(tmp_path: Path) -> None:
    async def main() -> None:
        async with school(tmp_path, "a", "b", unlearnt=("a", "b")) as place:
            place.present[:] = ["a"]
            keeper = await place.start_bootstrap(1)
            await until(lambda: under_way(place) == ["a"])
            place.present[:] = ["b"]
            keeper.tell(Learn())
            await until(lambda: under_way(place) == ["b"])
            place.index.learn("b")

            status = await keeper.ask(AwaitLearning(frozenset({key_of("a"), key_of("b")})), 5.0)

            assert [one.server for one in status.outcomes.values()] == ["b"]
            assert status.state is LearningState.COMPLETED

    run(main())


def test_what_is_known_is_read_again_when_somebody_asks(tmp_path: Path) -> None:
    async def main() -> None:
        async with school(tmp_path, "a", "b") as place:
            keeper = await place.start_bootstrap(3)

            status = await keeper.ask(Learn(fresh=frozenset({key_of("a")})), 5.0)
            assert status.outcomes[key_of("a")].state is LearningStep.PENDING
            await until(lambda: under_way(place) == ["a"])
            keeper.tell(Learn(fresh=frozenset({key_of("a")})))
            await turns(50)
            assert place.index.fresh == [key_of("a")]
            place.index.learn("a")
            status = await keeper.ask(AwaitLearning(frozenset({key_of("a")})), 5.0)

            assert status.state is LearningState.COMPLETED
            assert status.outcomes[key_of("a")].attempts == 1
            assert place.servers["b"].acquired == []

    run(main())


def test_where_learning_is_disabled_only_what_somebody_asks_for_is_learnt(tmp_path: Path) -> None:
    async def main() -> None:
        async with school(tmp_path, "a", "b", unlearnt=("a", "b")) as place:
            keeper = await place.start_bootstrap(3, mode="disabled")
            status = await keeper.ask(ShowLearning(), 5.0)
            assert (status.mode, status.state, status.total) == ("disabled", LearningState.COMPLETED, 0)

            keeper.tell(Learn(fresh=frozenset({key_of("b")})))
            await until(lambda: under_way(place) == ["b"])
            place.index.learn("b")
            status = await keeper.ask(AwaitLearning(frozenset({key_of("b")})), 5.0)

            assert (status.total, status.completed) == (1, 1)
            assert place.servers["a"].acquired == []

    run(main())


@pytest.mark.parametrize("kills", [1, 2])
def test_its_own_death_doubles_no_probe_and_loses_none(tmp_path: Path, kills: int) -> None:
    async def main() -> None:
        async with school(tmp_path, "a", "b", "c", unlearnt=("a", "b", "c")) as place:
            keeper = await place.start_bootstrap(2, restarts=kills)
            await until(lambda: under_way(place) == ["a", "b"])
            place.index.learn("a")
            await until(lambda: under_way(place) == ["b", "c"])

            for _ in range(kills):
                keeper.kill("for a test")
                await until(lambda: under_way(place) == ["b", "c"])
                for name in ("b", "c"):
                    server = place.servers[name]
                    assert len(server.acquired) - len(server.released) == 1
            place.index.learn("b")
            place.index.learn("c")
            status = await keeper.ask(AwaitLearning(frozenset(map(key_of, "abc"))), 5.0)

            assert (status.state, status.completed) == (LearningState.COMPLETED, 3)
            assert len(place.servers["a"].acquired) == 1
            # Its own death is no fault of theirs.
            assert {one.attempts for one in status.outcomes.values()} <= {0, 1}

    run(main())


@pytest.mark.usefixtures("impatient")
def test_what_was_asked_for_afresh_survives_its_own_death(tmp_path: Path) -> None:
    async def main() -> None:
        async with school(tmp_path, "a") as place:
            keeper = await place.start_bootstrap(2, restarts=1)
            waiting = asyncio.ensure_future(keeper.ask(Learn(fresh=frozenset({key_of("a")})), 5.0))
            await until(lambda: under_way(place) == ["a"])
            await waiting
            waiting = asyncio.ensure_future(keeper.ask(AwaitLearning(frozenset({key_of("a")})), 5.0))
            await turns()

            keeper.kill("for a test")
            await until(lambda: len(place.servers["a"].acquired) == 2)
            await until(lambda: place.index.fresh == [key_of("a")] * 2)
            place.index.learn("a")

            assert (await waiting).outcomes[key_of("a")].state is LearningStep.LEARNT
            assert under_way(place) == []

    run(main())


def test_bootstrap_asked_to_stop_starts_nothing_more_and_lets_all_go(tmp_path: Path) -> None:
    async def main() -> None:
        async with school(tmp_path, *NAMES, unlearnt=NAMES) as place:
            keeper = await place.start_bootstrap(2)
            await until(lambda: under_way(place) == ["a", "b"])

            await place.home.stop(keeper)
            await turns()

            assert under_way(place) == []
            assert [name for name, server in place.servers.items() if server.acquired] == ["a", "b"]

    run(main())
