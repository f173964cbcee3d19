"""What the catalog costs: rebuilding it, reading lists while it changes, telling who listens, and a server that sleeps.

    .venv/bin/python benchmarks/catalog.py [--seconds N] [--rounds N] [--samples N] [--json]

Measured, with DESIGN section 9's bounds: for tools, resources and prompts of 1,000 servers with 10 each, a snapshot
made from nothing and after one change (<= 30 ms), and the longest turn of the loop while a real index takes in one
change after the other (<= 5 ms); a change told to 1,000 subscribers (<= 20 ms); `tools/list` of 10, 100 and 1,000
tools against the floor serving the same bytes (>= 0.7x at 1,000), of one server alone and of 100 together, and its
p99 while 100 servers are read again every five seconds (<= 1.2x of what it is when they are left alone) and twice a
second, beside what happens to a floor that only shares the machine with as many servers that another program reads twice
a second; the memory of a dormant server (<= 50 KB), from nodes in processes of their own.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from types import MappingProxyType
from typing import Any

from floor import start_floor
from ground import BOUND, make_context
from loguru import logger
from support import (
    HttpLane,
    Node,
    Options,
    Report,
    Serving,
    Slice,
    Tally,
    echo_entry,
    http_request,
    ms,
    open_http,
    rpc,
    rss_kb,
    run_benchmark,
    us,
)

from mcpv_node.actors import NodeContext, Roster, Server, Subscribers, World
from mcpv_node.actors.callers import EMPTY_PROFILE
from mcpv_node.actors.index import Index
from mcpv_node.actors.index_messages import ConsumerId, Join, SnapshotChanged, Unlearnt
from mcpv_node.actors.instance.messages import Lists
from mcpv_node.actors.kernel import ActorSystem, Handle, LoopActor, answers, handles
from mcpv_node.actors.leases import InstanceId
from mcpv_node.actors.server_type import ServerTypeMessage
from mcpv_node.actors.snapshot import (
    KINDS,
    AllLearnt,
    Kind,
    Learnt,
    Naming,
    ServerView,
    Snapshot,
    Source,
    empty_snapshot,
    merge,
)
from mcpv_node.actors.store import LoadCatalog, SaveLists, SaveVersion, StoredCatalog
from mcpv_node.actors.world import EVERYTHING
from mcpv_node.protocol import Listed, ServerHello, parse_initialize_result, parse_page
from mcpv_node.settings import NodeSettings, ServerName, ServerSpec, group_servers

from echo_server import make_tools  # isort: skip

SUBSCRIBERS = 1000
SERVERS = 1000
ENTRIES = 10
DORMANT = 300

LISTS = (10, 100, 1000)
REFRESHING = 100
# Twelve times as often as is usual; and so often that the machine has little else to do.
REFRESH_SECONDS = 5.0
OFTEN_SECONDS = 0.5
READING = Path(__file__).with_name("reading.py")

LIST = rpc("tools/list")

# As wide as the load: what is measured is the path, not the queue.
POOL = {"maxConcurrent": 4, "maxInstances": 1, "idleSeconds": 600}

HELLO = parse_initialize_result(
    b'{"protocolVersion":"2025-11-25","capabilities":{"tools":{},"resources":{},"prompts":{}},'
    b'"serverInfo":{"name":"x","version":"1"}}'
)


async def measure(options: Options) -> Report:
    logger.remove()
    report = Report(
        "catalog",
        f"{options.rounds} slices of {options.seconds:g} s each, interleaved; single events {options.samples} times; medians",
    )
    for kind in KINDS:
        measure_merges(options, report, kind)
    await measure_changes(options, report)
    await measure_broadcast(options, report)
    await measure_lists(options, report)
    await measure_refreshing(options, report)
    await measure_memory(options, report)
    return report


# --- rebuilding ---------------------------------------------------------------------------------


def entries_of(kind: Kind, server: int) -> tuple[Listed, ...]:
    """What one server lists."""
    match kind:
        case "tools":
            return parse_page("tools", make_tools(ENTRIES)).entries
        case "resources":
            members = [
                {"uri": f"s{server}:/{n}", "name": f"file {n}", "mimeType": "text/plain"}
                for n in range(ENTRIES)
            ]
        case "prompts":
            members = [
                {"name": f"prompt{n}", "description": "Say what is to be done, and how"}
                for n in range(ENTRIES)
            ]
    return parse_page(kind, json.dumps({kind: members}).encode()).entries


def big_world(system: ActorSystem) -> World:
    """1,000 servers."""
    specs = tuple(
        ServerSpec(name=ServerName(f"server{number}"), command="none", args=(str(number),))
        for number in range(SERVERS)
    )
    servers: dict[ServerName, Server] = {}
    for group in group_servers(NodeSettings(servers=specs)):
        spec = group.specs[0]
        view = ServerView(ServerName(spec.name), group.spec_key)
        servers[view.name] = Server(spec, view, Handle[ServerTypeMessage].create(system, spec.name))
    return World(servers=MappingProxyType(servers))


def learn_all(world: World, kind: Kind) -> dict[Any, Learnt]:
    """What all of them list."""
    found: dict[Any, Learnt] = {}
    for number, server in enumerate(world.servers.values()):
        key = server.view.spec_key
        found[key, EMPTY_PROFILE] = Learnt(key, EMPTY_PROFILE, entries_of(kind, number), Source.LIVE)
    return found


def merged(world: World, learnt: AllLearnt, previous: Snapshot) -> Snapshot:
    views = [server.view for server in world.servers.values()]
    return merge(views, learnt, naming=Naming(), previous=previous)


def measure_merges(options: Options, report: Report, kind: Kind) -> None:
    loop = asyncio.get_running_loop()
    system = ActorSystem(loop)
    world = big_world(system)
    system.close()
    learnt = learn_all(world, kind)
    at = next(iter(learnt))
    whole: list[float] = []
    one: list[float] = []
    snapshot = empty_snapshot(kind)
    for number in range(options.samples):
        began = perf_counter()
        snapshot = merged(world, learnt, empty_snapshot(kind))
        whole.append(perf_counter() - began)
        listed = entries_of(kind, 0)[: 1 + number % 2]
        learnt[at] = replace(learnt[at], listed=listed)
        began = perf_counter()
        snapshot = merged(world, learnt, snapshot)
        one.append(perf_counter() - began)
    what = f"{SERVERS:,} servers x {ENTRIES} {kind}"
    took = median(one)
    report.add(f"{what}: from nothing", ms(median(whole)))
    report.add(f"{what}: one changed", ms(took), "<= 30 ms", within=took <= 30e-3)


async def measure_changes(options: Options, report: Report) -> None:
    """One change after the other through real indexes, with all that follows from each, and the loop's turns meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        system = ActorSystem(asyncio.get_running_loop())
        node = make_context(system, big_world(system), folder=Path(folder))
        store = Handle[Any].create(system, "store")
        store.cell.start(_Forgetful())
        for kind in KINDS:
            node.indexes[kind].cell.start(Index(node, store, kind))
        stalls: dict[Kind, list[float]] = {kind: [] for kind in KINDS}
        for kind in KINDS:
            for number, server in enumerate(node.world.world.servers.values()):
                node.indexes[kind].tell(_lists(kind, server, entries_of(kind, number)))
            await node.indexes[kind].ask(Unlearnt(), BOUND)
            while len(node.world.world.snapshot(kind).entries) < SERVERS * ENTRIES:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        changed = next(iter(node.world.world.servers.values()))
        for number in range(options.samples):
            for kind in KINDS:
                listed = entries_of(kind, 0)[: 2 + number % 2]
                stalls[kind].append(await _longest_turn(node, _lists(kind, changed, listed)))
        system.close()
    for kind in KINDS:
        stall = median(stalls[kind])
        report.add(
            f"{SERVERS:,} servers x {ENTRIES} {kind}, a change through the index and a list: longest turn of the loop",
            ms(stall),
            "<= 5 ms",
            within=stall <= 5e-3,
        )


class _Forgetful(LoopActor[None]):
    """A store that keeps nothing: the disk, on a thread of its own, is not what is measured."""

    @answers(LoadCatalog)
    def _on_load(self, _: LoadCatalog) -> StoredCatalog:
        return StoredCatalog((), {})

    @handles(SaveLists)
    def _on_lists(self, _: SaveLists) -> None: ...

    @handles(SaveVersion)
    def _on_version(self, _: SaveVersion) -> None: ...


def _lists(kind: Kind, server: Server, listed: tuple[Listed, ...], hello: ServerHello = HELLO) -> Lists:
    instance = InstanceId(f"{server.view.name}-1")
    return Lists(kind, server.view.spec_key, EMPTY_PROFILE, instance, hello, listed, again=True)


async def _longest_turn(node: NodeContext, change: Lists) -> float:
    """How long the loop did nothing else until the change was published and the whole view was made."""
    before = node.world.world.snapshot(change.kind).version
    node.indexes[change.kind].tell(change)
    longest = 0.0
    async with asyncio.timeout(BOUND):
        while node.world.world.snapshot(change.kind).version == before:
            began = perf_counter()
            await asyncio.sleep(0)
            longest = max(longest, perf_counter() - began)
    began = perf_counter()
    view = node.world.world.view(change.kind, EVERYTHING)
    view.page(change.kind)
    return max(longest, perf_counter() - began)


# --- who listens --------------------------------------------------------------------------------


async def measure_broadcast(options: Options, report: Report) -> None:
    with tempfile.TemporaryDirectory() as folder:
        system = ActorSystem(asyncio.get_running_loop())
        world = big_world(system)
        learnt = learn_all(world, "tools")
        node = make_context(system, world, folder=Path(folder))
        subscribers = Handle[Any].create(system, "subscribers")
        subscribers.cell.start(Subscribers(node, Roster()))
        told = 0
        all_told = asyncio.Event()

        def notify(_: SnapshotChanged) -> None:
            nonlocal told
            told += 1
            if told == SUBSCRIBERS:
                all_told.set()

        for number in range(SUBSCRIBERS):
            subscribers.tell(Join(ConsumerId(number), EVERYTHING, notify))
        few: Mapping[Any, Learnt] = dict(list(learnt.items())[:10])
        snapshots = [merged(world, some, empty_snapshot("tools")) for some in ({}, few)]
        times: list[float] = []
        for number in range(options.samples):
            node.world.publish(snapshots[number % 2])
            node.world.world.view("tools", EVERYTHING)
            if number == 0:
                subscribers.tell(SnapshotChanged("tools", 1, ""))
                # Who joins later than the next change would be told nothing of it.
                async with asyncio.timeout(BOUND):
                    while subscribers.statistics().handled <= SUBSCRIBERS:  # noqa: ASYNC110  (what is waited for has no event of its own)
                        await asyncio.sleep(0)
                continue
            told = 0
            all_told.clear()
            began = perf_counter()
            subscribers.tell(SnapshotChanged("tools", number, ""))
            async with asyncio.timeout(BOUND):
                await all_told.wait()
            times.append(perf_counter() - began)
        system.close()
    took = median(times)
    report.add(f"a change told to {SUBSCRIBERS:,} subscribers", ms(took), "<= 20 ms", within=took <= 20e-3)


# --- lists --------------------------------------------------------------------------------------


async def measure_lists(options: Options, report: Report) -> None:
    entries = [echo_entry(f"t{count}", "--tools", str(count), **POOL) for count in LISTS]
    async with Node(entries) as node:
        await node.until_learnt(sum(LISTS))
        for count in LISTS:
            lane = await _session(node, path=f"/mcp/server/t{count}")
            await _beside_the_floor(
                options, report, node, lane, f"a list of {count} tools of one server", count
            )


async def _session(node: Node, *, path: str = "/mcp") -> HttpLane:
    lane, make = await node.open_session(path=path)
    lane.request = make(LIST)
    return lane


async def _beside_the_floor(
    options: Options, report: Report, node: Node, lane: HttpLane, what: str, count: int
) -> None:
    answer = await lane.ask(lane.request)
    with tempfile.NamedTemporaryFile() as listing:
        listing.write(answer[answer.index(b"\r\n\r\n") + 4 :])
        listing.flush()
        floor = await start_floor(Path(listing.name))
        constant, listed = Tally(), Tally()
        try:
            floor_lane = await open_http(floor.port)
            floor_lane.request = http_request(LIST, path="/list")
            await floor_lane.ask(floor_lane.request)
            for _ in range(options.rounds):
                await Slice(options.seconds).run([floor_lane], constant, floor.pid)
                await Slice(options.seconds).run([lane], listed, node.pid)
            floor_lane.close()
        finally:
            floor.close()
            lane.close()
    share = listed.rate / constant.rate
    is_bound = count == max(LISTS)
    report.add(
        what,
        f"{listed.rate:,.0f}/s = {share:.2f}x floor's {constant.rate:,.0f}/s",
        ">= 0.7x" if is_bound else "",
        within=share >= 0.7 if is_bound else None,
    )
    report.add(f"{what}: p50, p99", f"{ms(listed.p50)}, {ms(listed.p99)}")
    report.add(f"{what}: processor time", f"{us(listed.cpu_per_call)}, floor {us(constant.cpu_per_call)}")


async def measure_refreshing(options: Options, report: Report) -> None:
    """1,000 tools of 100 servers that run: left alone, and read again and again."""
    servers = REFRESHING if options.samples > 2 else 5
    tools = servers * ENTRIES
    alone = await _lists_of_many(options, servers, refresh=0.0, report=report)
    what = f"a list of {tools:,} tools of {servers} servers"
    report.add(f"{what} that run: p50, p99", f"{ms(alone.p50)}, {ms(alone.p99)}")
    for seconds in (REFRESH_SECONDS, OFTEN_SECONDS):
        refreshing = await _lists_of_many(options, servers, refresh=seconds)
        ratio = refreshing.p99 / alone.p99
        is_bound = seconds == REFRESH_SECONDS
        report.add(
            f"{what} that are read again every {seconds:g} s: p50, p99",
            f"{ms(refreshing.p50)}, {ms(refreshing.p99)} = {ratio:.2f}x",
            "<= 1.2x" if is_bound else "",
            within=ratio <= 1.2 if is_bound else None,
        )
    quiet, beside = await _floor_beside_readings(options, servers)
    report.add(
        f"the floor's constant, while another program reads {servers} servers every {OFTEN_SECONDS:g} s: p50, p99",
        f"{ms(beside.p50)}, {ms(beside.p99)} = {beside.p99 / quiet.p99:.2f}x",
    )


async def _floor_beside_readings(options: Options, servers: int) -> tuple[Tally, Tally]:
    """The floor by itself, and on a machine where so many servers answer so often: what no node can help."""
    quiet, beside = Tally(), Tally()
    with tempfile.TemporaryDirectory() as folder:
        listing = Path(folder) / "listing"
        listing.write_bytes(b'{"jsonrpc":"2.0","id":1,"result":%b}' % make_tools(servers * ENTRIES))
        floor = await start_floor(listing)
        try:
            await _ask_floor(options, floor, quiet)
            reading = Serving([str(READING), str(servers), str(ENTRIES), str(OFTEN_SECONDS)])
            try:
                await reading.first_line()
                await _ask_floor(options, floor, beside)
            finally:
                reading.close()
        finally:
            floor.close()
    return quiet, beside


async def _ask_floor(options: Options, floor: Serving, tally: Tally) -> None:
    lane = await open_http(floor.port)
    lane.request = http_request(LIST, path="/list")
    for _ in range(options.rounds):
        await Slice(max(options.seconds, 2 * OFTEN_SECONDS)).run([lane], tally, floor.pid)
    lane.close()


async def _lists_of_many(
    options: Options, servers: int, *, refresh: float, report: Report | None = None
) -> Tally:
    entries = [
        echo_entry(
            f"r{number}", "--tools", str(ENTRIES), activationMode="always-on", env={"N": str(number)}, **POOL
        )
        for number in range(servers)
    ]
    tally = Tally()
    async with Node(entries, refreshSeconds=refresh) as node:
        await node.until_running()
        while len((await node.rest("/api/v1/catalog/tools"))["entries"]) < servers * ENTRIES:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        if report is not None:
            lane = await _session(node)
            what = f"a list of {servers * ENTRIES:,} tools of {servers} servers"
            await _beside_the_floor(options, report, node, lane, what, servers * ENTRIES)
        lane = await _session(node)
        for _ in range(options.rounds):
            # As long as the pause between two readings, so that every slice has the same number of them.
            await Slice(max(options.seconds, refresh, 2 * OFTEN_SECONDS)).run([lane], tally, node.pid)
        lane.close()
    return tally


# --- memory -------------------------------------------------------------------------------------


async def measure_memory(options: Options, report: Report) -> None:
    dormant = DORMANT if options.samples > 2 else 20
    few = await _node_memory(10)
    many = await _node_memory(10 + dormant)
    each = (many - few) / dormant
    report.add(f"a dormant server, of {dormant}", f"{each:.1f} KB", "<= 50 KB", within=each <= 50)


async def _node_memory(servers: int) -> int:
    entries = [echo_entry(f"d{number}", env={"N": str(number)}) for number in range(servers)]
    async with Node(entries, bootstrapMode="disabled") as node:
        await node.rest("/api/v1/node")
        return rss_kb(node.pid)


if __name__ == "__main__":
    sys.exit(run_benchmark(__doc__, measure))
