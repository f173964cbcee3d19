"""Probes learn one server each; Bootstrap runs a few at a time and gives up on none too early."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from support.catalogs import key_of
from support.owners import Home, home, run, turns, until

from mcpv_node.actors.index_messages import AwaitLists, LearningFailed, ListsLearnt, Unlearnt
from mcpv_node.actors.kernel import Crashed, Deferred, Handle, LoopActor, Normal, answers, handles
from mcpv_node.actors.leases import Acquire, InstanceId, Lease, Refused, Release, StartCause
from mcpv_node.actors.probe import Probe
from mcpv_node.protocol import CallFailure, Reason
from mcpv_node.settings import SpecKey
from mcpv_node.supervisors import Backoff, Bootstrap, ProbeSpec, bootstrap

NAMES = ("a", "b", "c", "d", "e")


class FakeIndex(LoopActor[None]):
    """Answers when the test says so."""

    def __init__(self, unlearnt: tuple[SpecKey, ...] = ()) -> None:
        super().__init__()
        self.unlearnt = unlearnt
        # One stands for the indexes of all kinds: each is asked once.
        self.waiting: dict[SpecKey, list[Deferred[ListsLearnt]]] = {}
        self.failed: list[str] = []
        self.asked: list[SpecKey] = []

    @answers(Unlearnt)
    def _on_unlearnt(self, _: Unlearnt) -> tuple[SpecKey, ...]:
        return self.unlearnt

    @answers(AwaitLists)
    def _on_await(self, request: AwaitLists) -> Deferred[ListsLearnt]:
        waiting = self.waiting.setdefault(request.spec_key, [])
        if not waiting:
            self.asked.append(request.spec_key)
        deferred: Deferred[ListsLearnt] = self.defer()
        waiting.append(deferred)
        return deferred

    @handles(LearningFailed)
    def _on_failed(self, message: LearningFailed) -> None:
        if message.message not in self.failed[-2:]:
            self.failed.append(message.message)

    def learn(self, name: str, failure: str | None = None) -> None:
        key = key_of(name)
        for deferred in self.waiting.pop(key):
            deferred.answer(ListsLearnt(key, failure))


class FakeServer(LoopActor[None]):
    """Grants or refuses, and remembers what was given back."""

    def __init__(self, name: str, refusal: CallFailure | None = None) -> None:
        super().__init__()
        self.name = name
        self.refusal = refusal
        self.acquired: list[Acquire] = []
        self.released: list[Release] = []

    @answers(Acquire)
    def _on_acquire(self, request: Acquire) -> Lease | Refused:
        self.acquired.append(request)
        if self.refusal is not None:
            return Refused(self.refusal)
        nobody: Handle[Any] = Handle.create(self.cell.system, "nobody")
        return Lease(request.lease, InstanceId(f"{self.name}-1"), nobody, 0.0, 0.0)

    @handles(Release)
    def _on_release(self, message: Release) -> None:
        self.released.append(message)


class School:
    """An index, servers and probes."""

    def __init__(self, at_home: Home, index: FakeIndex) -> None:
        self.home = at_home
        self.index = index
        self.servers: dict[str, FakeServer] = {}
        self.handles: dict[str, Handle[Any]] = {}

    def probe(self, name: str, timeout: float = 30.0) -> Probe:
        return Probe(self.home.context, key_of(name), self.handles[name], timeout)

    def bootstrap(self, concurrency: int) -> Bootstrap:
        probes = [ProbeSpec(key_of(name), name, lambda name=name: self.probe(name)) for name in self.servers]
        return Bootstrap(probes, self.home.context.indexes, concurrency=concurrency)


@asynccontextmanager
async def school(
    tmp_path: Path, *names: str, unlearnt: tuple[str, ...] = (), refusal: CallFailure | None = None
) -> AsyncIterator[School]:
    async with home(tmp_path, played=("events", "subscribers")) as at_home:
        index = FakeIndex(tuple(map(key_of, unlearnt)))
        await at_home.fill("index", lambda: index, handle=at_home.context.indexes["tools"])
        place = School(at_home, index)
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
    return [name for name, server in place.servers.items() if len(server.acquired) > len(server.released)]


def test_only_so_many_probes_run_at_once_and_all_have_their_turn(tmp_path: Path) -> None:
    async def main() -> None:
        async with school(tmp_path, *NAMES, unlearnt=NAMES) as place:
            await place.home.fill("bootstrap", lambda: place.bootstrap(2))
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
            await place.home.fill("bootstrap", lambda: place.bootstrap(5))
            await until(lambda: under_way(place) == ["c"])
            await turns(50)

            assert place.index.asked == [key_of("c")]
            place.index.learn("c")
            await until(lambda: under_way(place) == [])

    run(main())


def test_a_failing_probe_is_tried_three_times_in_all_and_then_the_next_has_its_turn(
    tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(bootstrap, "RETRY_DELAY", Backoff(base=0.001, maximum=0.001))

    async def main() -> None:
        async with school(tmp_path, "a", "b", unlearnt=("a", "b")) as place:
            keeper = await place.home.fill("bootstrap", lambda: place.bootstrap(1))
            for attempt in (1, 2, 3):
                await until(
                    lambda attempt=attempt: len(place.index.asked) == attempt and bool(place.index.waiting)
                )
                assert under_way(place) == ["a"]
                place.index.learn("a", "no luck")
            await until(lambda: under_way(place) == ["b"])
            place.index.learn("b")
            await until(lambda: under_way(place) == [])

            assert place.index.asked == [key_of("a")] * 3 + [key_of("b")]
            assert keeper.is_alive()

    run(main())


def test_bootstrap_asked_to_stop_starts_nothing_more_and_lets_all_go(tmp_path: Path) -> None:
    async def main() -> None:
        async with school(tmp_path, *NAMES, unlearnt=NAMES) as place:
            keeper = await place.home.fill("bootstrap", lambda: place.bootstrap(2))
            await until(lambda: under_way(place) == ["a", "b"])

            await place.home.stop(keeper)
            await turns()

            assert under_way(place) == []
            assert [name for name, server in place.servers.items() if server.acquired] == ["a", "b"]

    run(main())
