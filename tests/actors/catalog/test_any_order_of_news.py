"""Whatever happens to the indexes, in whatever order: what they publish is what anybody would make of what they know."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.actors import Do, crash
from support.catalogs import hello, key_of, servers_of, tool, view
from support.fakes import FakeClock
from support.owners import BOUND, Home, home, run, turns, until

from mcpv_node.actors.callers import EMPTY_PROFILE, ClientProfile
from mcpv_node.actors.index import Catalog, Index
from mcpv_node.actors.index_messages import Approve, LearningFailed, ServersChanged, Unlearnt
from mcpv_node.actors.instance.messages import Lists, ListsFailed
from mcpv_node.actors.kernel import Handle, answers
from mcpv_node.actors.leases import InstanceId
from mcpv_node.actors.snapshot import KINDS, Kind, Naming, Snapshot, empty_snapshot, merge
from mcpv_node.actors.store import Store
from mcpv_node.protocol import Listed
from mcpv_node.settings import NodeSettings

NAMES = ("a", "a_b", "c")
PROFILES = (EMPTY_PROFILE, ClientProfile('{"sampling":{}}'))
# The estate of one that crashes again this soon is dropped.
CALM = 10.0


class CrashableIndex(Index):
    """One that does what it is told on top."""

    @answers(Do)
    def _on_do(self, request: Do) -> Any:
        return request.what(self)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens; what it does not need it ignores."""

    what: str
    name: str = "a"
    kind: Kind = "tools"
    profile: ClientProfile = EMPTY_PROFILE
    entries: tuple[str, ...] = ()
    note: str = ""


STEPS = st.lists(
    st.builds(
        Step,
        what=st.sampled_from(
            [
                *["learnt"] * 3,
                *["failed", "tried", "gone", "exposed", "approved", "turn", "crash"],
                "two crashes",
            ]
        ),
        name=st.sampled_from(NAMES),
        kind=st.sampled_from(KINDS),
        profile=st.sampled_from(PROFILES),
        entries=st.lists(st.sampled_from(["x", "b_x", "y"]), unique=True, max_size=2).map(tuple),
        note=st.sampled_from(["", "changed"]),
    ),
    max_size=14,
)


class Shelves:
    """The indexes of all kinds over one store, and what was told to them."""

    def __init__(self, at_home: Home) -> None:
        self.home = at_home
        self.hidden: set[str] = set()
        self.ever_hidden: set[str] = set()
        self.exposed: dict[str, bool] = {}
        self.told: dict[tuple[str, Kind, ClientProfile], tuple[Listed, ...]] = {}
        self.versions: dict[Kind, list[int]] = {kind: [] for kind in KINDS}
        self.asking: list[asyncio.Task[Any]] = []
        self.nobody: Handle[Any] = Handle.create(at_home.system, "nobody")

    def snapshot(self, kind: Kind) -> Snapshot:
        return self.home.context.world.world.snapshot(kind)

    def index(self, kind: Kind) -> Handle[Any]:
        return self.home.context.indexes[kind]

    def views(self) -> list[Any]:
        shown = [name for name in NAMES if name not in self.hidden]
        return [view(name, exposes=["x"] if self.exposed.get(name) else None) for name in shown]

    async def take(self, step: Step) -> None:
        index = self.index(step.kind)
        match step.what:
            case "learnt":
                self.learnt(step)
            case "failed":
                instance = InstanceId(f"{step.name}-1")
                index.tell(ListsFailed(step.kind, key_of(step.name), step.profile, instance, "no luck"))
            case "tried":
                index.tell(LearningFailed(key_of(step.name), "no luck"))
            case "gone":
                self.hidden ^= {step.name}
                self.ever_hidden |= self.hidden
                self.reload()
            case "exposed":
                self.exposed[step.name] = not self.exposed.get(step.name, False)
                self.reload()
            case "approved":
                approve = Approve(key_of(step.name))
                self.asking.append(asyncio.ensure_future(self.index("tools").ask(approve, BOUND)))
            case "crash":
                await self.crash(step.kind, 1)
            case "two crashes":
                await self.crash(step.kind, 2)
            case _:
                await turns(3)

    def learnt(self, step: Step) -> None:
        entries = tuple(listed(step.kind, name, step.note) for name in sorted(step.entries))
        key, instance = key_of(step.name), InstanceId(f"{step.name}-1")
        self.index(step.kind).tell(Lists(step.kind, key, step.profile, instance, hello(), entries))
        if entries:  # nothing at all, right after a start, is not believed
            self.told[step.name, step.kind, step.profile] = entries

    def reload(self) -> None:
        self.home.context.world.publish_servers(servers_of(self.views(), self.nobody))
        for kind in KINDS:
            self.index(kind).tell(ServersChanged())

    async def crash(self, kind: Kind, times: int) -> None:
        clock = self.home.context.clock
        assert isinstance(clock, FakeClock)
        clock.advance(CALM)
        place = self.index(kind)
        for _ in range(times):
            crashes = place.cell.crashes
            place.tell(Do(crash))
            await until(
                lambda: place.cell.crashes > crashes and place.statistics().state == "running"  # noqa: B023
            )

    def note_versions(self) -> None:
        for kind in KINDS:
            self.versions[kind].append(self.snapshot(kind).version)

    async def settle(self) -> None:
        await asyncio.gather(*self.asking)
        for kind in KINDS:
            await self.index(kind).ask(Unlearnt(), BOUND)
        await turns()
        self.note_versions()


def listed(kind: Kind, name: str, note: str) -> Listed:
    if kind == "tools":
        return tool(name, note)
    if kind == "prompts":
        return Listed(name, json.dumps({"name": name, "description": note}).encode())
    is_template = name == "y"
    member = "uriTemplate" if is_template else "uri"
    return Listed(
        f"x:{name}", json.dumps({member: f"x:{name}", "name": note}).encode(), is_template=is_template
    )


def facts(snapshot: Snapshot) -> tuple[Any, ...]:
    """All that anybody can see of a snapshot, but for its version."""
    by_server = {server: dict(entries) for server, entries in snapshot.by_server.items()}
    return (
        snapshot.entries,
        snapshot.etag,
        dict(snapshot.by_name),
        by_server,
        snapshot.conflicts,
        snapshot.complete,
    )


def is_as_made_afresh(shelves: Shelves, kind: Kind) -> None:
    estate = shelves.index(kind).cell.estate
    assert isinstance(estate, Catalog)
    published = shelves.snapshot(kind)
    fresh = merge(shelves.views(), estate.learnt, naming=Naming(), previous=empty_snapshot(kind))
    assert facts(published) == facts(fresh)
    assert {who: facts(one) for who, one in published.variants.items()} == {
        who: facts(one) for who, one in fresh.variants.items()
    }
    for (name, of, profile), entries in shelves.told.items():
        if of == kind and name not in shelves.ever_hidden:
            assert estate.learnt[key_of(name), profile].listed == entries


CHANGED = [Step("learnt", entries=("x",)), Step("learnt", entries=("x",), note="changed")]


@example([Step("learnt", entries=("x", "y")), Step("turn"), Step("exposed")])
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(STEPS)
@example([*CHANGED, Step("two crashes"), Step("approved"), Step("exposed"), Step("two crashes")])
@example(
    [Step("learnt", entries=("b_x",)), Step("learnt", name="a_b", entries=("x",)), Step("gone"), Step("gone")]
)
@example(
    [
        Step("learnt", kind="resources", entries=("x", "y")),
        Step("learnt", "c", "resources", PROFILES[1], ("x",)),
    ]
)
def test_any_interleaving_ends_where_a_fresh_rebuild_ends_and_versions_only_grow(
    tmp_path_factory: Any, steps: list[Step]
) -> None:
    async def main() -> None:
        folder: Path = tmp_path_factory.mktemp("state")
        pinning = NodeSettings(servers=(), pin_tools="block")
        async with home(folder, played=("events", "subscribers"), settings=pinning) as at_home:
            indexes = {kind: Handle[Any].create(at_home.system, f"index-{kind}") for kind in KINDS}
            at_home.context = replace(at_home.context, indexes=indexes)
            shelves = Shelves(at_home)
            shelves.reload()
            store = await at_home.fill("store", lambda: Store(folder))
            for kind in KINDS:
                await at_home.fill(
                    f"index-{kind}",
                    lambda kind=kind: CrashableIndex(at_home.context, store, kind),
                    handle=indexes[kind],
                    restarts=2 * len(steps),
                )
            for step in steps:
                await shelves.take(step)
                shelves.note_versions()
            await shelves.settle()

            for kind in KINDS:
                is_as_made_afresh(shelves, kind)
                assert shelves.versions[kind] == sorted(shelves.versions[kind])

    run(main())
