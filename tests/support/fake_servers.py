"""A node's inside for doors: real kernel, real world, and server types that do what a test says.

    async with fake_node(tmp_path) as node:
        door = await node.start(Sessions(node.services))

Each fake server has the tools `echo`, `slow`, `error`, `progress` and `dies`; see `FakeInstance`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import uvloop
from msgspec import Raw
from support.fakes import BEGINNING

from mcpv_node.actors.callers import EMPTY_PROFILE
from mcpv_node.actors.clients import Clients, ClientsMessage
from mcpv_node.actors.context import NodeContext
from mcpv_node.actors.index_messages import (
    Approve,
    AwaitLists,
    DescribeLists,
    Join,
    Leave,
    ListsLearnt,
    ListsReport,
    SnapshotChanged,
)
from mcpv_node.actors.instance.messages import (
    Answer,
    AnswerAsk,
    Asked,
    AskNumber,
    Call,
    CallFailed,
    CancelCall,
    Progressed,
    ReadLists,
    WatchResources,
)
from mcpv_node.actors.kernel import (
    ActorSystem,
    Deferred,
    Handle,
    HealthCheck,
    KernelActor,
    LoopActor,
    answers,
    handles,
)
from mcpv_node.actors.leases import Acquire, InstanceId, Lease, LeaseId, Refused, Release
from mcpv_node.actors.server_type.messages import (
    CallCounts,
    CallEnded,
    ClientGone,
    OperatorStart,
    OperatorStop,
    Retry,
    ServerState,
    Settled,
    Why,
    WhyReport,
)
from mcpv_node.actors.snapshot import KINDS, Kind, Learnt, Naming, ServerView, Source, empty_snapshot, merge
from mcpv_node.actors.status import (
    AwaitLearning,
    InitStatus,
    Learn,
    LearningState,
    LearningStatus,
    ShowInit,
    ShowLearning,
)
from mcpv_node.actors.watch_messages import WatchesMessage
from mcpv_node.actors.watches import Watches
from mcpv_node.actors.world import Server, World, WorldCell
from mcpv_node.gateway import (
    DoorServices,
    HeldCalls,
    NodeInfo,
    OpenTasks,
    Rates,
    TokenTable,
    TreeData,
)
from mcpv_node.gateway.held import HOLD_SECONDS, MAX_HELD
from mcpv_node.protocol import (
    CallFailure,
    Capabilities,
    Listed,
    Reason,
    Sealer,
    ServerHello,
    params_for_back,
)
from mcpv_node.settings import NodeSettings, ServerName, ServerSpec, SpecKey
from mcpv_node.telemetry import PLAIN_REDACTOR, Event, SystemClock
from mcpv_node.telemetry.clock import Clock
from mcpv_node.telemetry.log_ring import LogRing
from mcpv_node.telemetry.metrics import Metrics

# Far more than any step of a test needs; a test that waits this long has failed.
BOUND = 20.0

# An actor that a test has hang is waited for this long.
HEALTH_BOUND = 1.0

# libuv opens a pipe for signals with a process's first loop and keeps it: here, before anybody counts.
uvloop.new_event_loop().close()

TOOLS = ("echo", "slow", "error", "progress", "dies")


def run(scenario: Callable[[], Any], *, loop: str = "uvloop") -> Any:
    """Run a coroutine function on a fresh loop, bounded."""

    async def bounded() -> Any:
        async with asyncio.timeout(BOUND):
            return await scenario()

    factory = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(bounded())


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until `condition` holds."""
    async with asyncio.timeout(BOUND):
        while not condition():  # noqa: ASYNC110  (what is waited for has no event of its own)
            await asyncio.sleep(0.001)


HELLO = ServerHello(
    version="2025-11-25",
    name="fake",
    server_version="1",
    capabilities=Capabilities(tools=True, raw=b'{"tools":{}}'),
)


@dataclass(frozen=True, slots=True)
class Finish:
    """Have the oldest `slow` call answered."""


class FakeInstance(LoopActor[None]):
    """Answers calls by the name of the tool.

    `echo` gives its params back; `slow` waits for `Finish`; `error` is the server's own JSON-RPC error; `progress`
    makes two notifications, then answers; `dies` fails as when the process ends. `asks` asks its client what
    `rounds` says, round after round, and then answers with all it was told.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.calls: list[Call] = []
        self.sent: list[bytes] = []
        self.dying = {"dies"}
        self.refusing = 0  # so many of the next calls come when it has begun to end
        self.cancelled: list[CancelCall] = []
        self.waiting: dict[LeaseId, Deferred[Answer | CallFailed]] = {}
        self.rounds: list[list[tuple[str, bytes | None]]] = []
        self.answered: list[Answer] = []  # what its clients have said
        self.stays_silent = False  # it has its answers, and says nothing for now
        self.next_answers: list[Answer] = []  # given to the next calls, whatever they ask
        self._asking: tuple[Call, Deferred[Answer | CallFailed], set[AskNumber]] | None = None
        self.watched: list[frozenset[str]] = []
        self.watch_answer = Answer(result=b"{}")
        self.readings = 0  # how often its lists were to be read

    @answers(Call)
    def _on_call(self, call: Call) -> Answer | CallFailed | Deferred[Answer | CallFailed]:
        if self.refusing:
            self.refusing -= 1
            return CallFailed(
                CallFailure(reason=Reason.STOPPING, message="it ends", server=self.name, executed="no")
            )
        self.calls.append(call)
        params = params_for_back(call.method, call.params, meta=None, name=call.name) or b"{}"
        self.sent.append(params)
        tool = msgspec.json.decode(params)["name"]
        if tool in self.dying:
            return CallFailed(
                CallFailure(
                    reason=Reason.INSTANCE_DIED, message="it died", server=self.name, executed="unknown"
                )
            )
        if self.next_answers:
            return self.next_answers.pop(0)
        match tool:
            case "asks":
                asked: Deferred[Answer | CallFailed] = self.defer()
                self.waiting[call.lease] = asked
                self._ask_next(call, asked)
                return asked
            case "slow":
                deferred: Deferred[Answer | CallFailed] = self.defer()
                self.waiting[call.lease] = deferred
                return deferred
            case "error":
                return Answer(
                    error=Raw(b'{"code":-32050,"message":"mine","data":{"big":12345678901234567890}}')
                )
            case "progress":
                for step in (1, 2):
                    if call.on_event is not None:
                        call.on_event(Progressed(Raw(b'{"progressToken":77,"progress":%d}' % step)))
        return Answer(
            result=Raw(b'{"content":[],"sent":' + params + b',"server":"' + self.name.encode() + b'"}')
        )

    def _ask_next(self, call: Call, deferred: Deferred[Answer | CallFailed]) -> None:
        """Ask the next round's questions, one after the other, as a server writes its lines."""
        if not self.rounds:
            self.waiting.pop(call.lease, None)
            said = [bytes(one.result or one.error or b"null") for one in self.answered]
            deferred.answer(Answer(result=Raw(b'{"content":[],"said":[%s]}' % b",".join(said))))
            return
        questions = self.rounds.pop(0)
        numbers = [AskNumber(len(self.answered) + place) for place in range(1, len(questions) + 1)]
        self._asking = call, deferred, set(numbers)
        for number, (method, params) in zip(numbers, questions, strict=True):
            assert call.on_event is not None
            call.on_event(Asked(number, method, None if params is None else Raw(params)))

    @handles(AnswerAsk)
    def _on_answer(self, message: AnswerAsk) -> None:
        self.answered.append(message.answer)
        if self._asking is None:
            return  # the test has asked
        call, deferred, numbers = self._asking
        numbers.discard(message.number)
        if not numbers and not self.stays_silent:
            self._ask_next(call, deferred)

    @answers(WatchResources)
    def _on_watch(self, request: WatchResources) -> Answer:
        self.watched.append(request.uris)
        return self.watch_answer

    @handles(ReadLists)
    def _on_read_lists(self, _: ReadLists) -> None:
        self.readings += 1

    @handles(CancelCall)
    def _on_cancel(self, message: CancelCall) -> None:
        self.cancelled.append(message)
        deferred = self.waiting.pop(message.lease, None)
        if deferred is not None:
            failure = CallFailure(
                reason=Reason.CALL_TIMEOUT, message="cancelled", server=self.name, executed="unknown"
            )
            deferred.answer(CallFailed(failure, slot_held=True))

    @handles(Finish)
    def _on_finish(self, _: Finish) -> None:
        lease = next(iter(self.waiting))
        self.waiting.pop(lease).answer(Answer(result=Raw(b'{"content":[],"slow":true}')))


class FakeServerType(LoopActor[None]):
    """Grants every lease at once, unless it is told to refuse or to keep the callers waiting."""

    def __init__(self, name: str, instance: Handle[Any]) -> None:
        super().__init__()
        self.name = name
        self.instance = instance
        self.server_state = ServerState.COLD
        self.refusal: CallFailure | None = None
        self.keeps_waiting = False
        self.hello = HELLO
        self.acquired: list[Acquire] = []
        self.released: list[LeaseId] = []
        self.ended: list[bool] = []
        self.gone: list[str] = []  # the clients that will not come back
        self.parked: list[Deferred[Lease | Refused]] = []
        self.unsettled: list[Deferred[ServerState]] | None = None

    @answers(Acquire)
    def _on_acquire(self, request: Acquire) -> Lease | Refused | Deferred[Lease | Refused]:
        self.acquired.append(request)
        if self.refusal is not None:
            return Refused(self.refusal)
        if self.keeps_waiting:
            deferred: Deferred[Lease | Refused] = self.defer()
            self.parked.append(deferred)
            return deferred
        return Lease(request.lease, InstanceId(f"{self.name}-1"), self.instance, 0.25, 0.125, self.hello)

    @handles(Release)
    def _on_release(self, message: Release) -> None:
        self.released.append(message.lease)
        if message.ok is not None:
            self.ended.append(message.ok)

    @handles(CallEnded)
    def _on_call_ended(self, message: CallEnded) -> None:
        self.ended.append(message.ok)

    @handles(ClientGone)
    def _on_client_gone(self, message: ClientGone) -> None:
        self.gone.append(message.client)

    @answers(OperatorStart)
    def _on_start_order(self, _: OperatorStart) -> ServerState:
        self.server_state = ServerState.STARTING
        return self.server_state

    @answers(OperatorStop)
    def _on_stop_order(self, _: OperatorStop) -> ServerState:
        self.server_state = ServerState.DRAINING
        return self.server_state

    @answers(Retry)
    def _on_retry(self, _: Retry) -> ServerState:
        return self.server_state

    @answers(Settled)
    def _on_settled(self, _: Settled) -> ServerState | Deferred[ServerState]:
        if self.unsettled is not None:
            deferred: Deferred[ServerState] = self.defer()
            self.unsettled.append(deferred)
            return deferred
        self.server_state = ServerState.READY
        return self.server_state

    @answers(Why)
    def _on_why(self, _: Why) -> WhyReport:
        return WhyReport(
            name=ServerName(self.name),
            spec_key=SpecKey(f"key-{self.name}"),
            state=self.server_state,
            reason="because the test says so",
            since=BEGINNING,
            next_try_at=None,
            desired=0,
            waiting=len(self.parked),
            start_cause=None,
            last_exit=None,
            stderr=("a line",),
            starts=0,
            restarts=0,
            calls=CallCounts(),
        )


class FakeSubscribers(LoopActor[None]):
    """Remembers who joined."""

    def __init__(self) -> None:
        super().__init__()
        self.joined: dict[int, Join] = {}

    @handles(Join)
    def _on_join(self, join: Join) -> None:
        self.joined[join.consumer] = join

    @handles(Leave)
    def _on_leave(self, leave: Leave) -> None:
        self.joined.pop(leave.consumer, None)

    def tell_all(self) -> None:
        """Say that what everybody sees has changed."""
        for join in list(self.joined.values()):
            join.notify(SnapshotChanged("tools", 2, "other"))


class FakeEvents(LoopActor[None]):
    """Remembers what was told."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []

    @handles(Event)
    def _on_event(self, event: Event) -> None:
        self.events.append(event)


class FakeBeginnings(LoopActor[None]):
    """Plays Bootstrap and Init at once: says what the test has set, and remembers what was to be learnt."""

    def __init__(self) -> None:
        super().__init__()
        self.status = LearningStatus("metadata", LearningState.COMPLETED)
        self.init: tuple[InitStatus, ...] = ()
        self.learning: list[frozenset[SpecKey]] = []
        self.is_over = True

    @answers(ShowLearning)
    def _on_show(self, _: ShowLearning) -> LearningStatus:
        return self.status

    @answers(Learn)
    def _on_learn(self, request: Learn) -> LearningStatus:
        self.learning.append(request.fresh)
        return self.status

    @answers(AwaitLearning)
    def _on_await(self, _: AwaitLearning) -> LearningStatus | Deferred[LearningStatus]:
        return self.status if self.is_over else self.defer()

    @answers(ShowInit)
    def _on_show_init(self, _: ShowInit) -> tuple[InitStatus, ...]:
        return self.init


class FakeIndex(LoopActor[None]):
    """Says of every server that it is learnt, and approves of what it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.approved: list[Approve] = []
        self.waiting: list[Deferred[ListsLearnt]] = []  # for the next reading

    @answers(DescribeLists)
    def _on_describe(self, _: DescribeLists) -> ListsReport:
        return ListsReport(learnt=True, entries=2, learnt_at="2026-01-31T09:08:07.006Z", source="cache")

    @answers(AwaitLists)
    def _on_await_lists(self, _: AwaitLists) -> Deferred[ListsLearnt]:
        deferred: Deferred[ListsLearnt] = self.defer()
        self.waiting.append(deferred)
        return deferred

    @answers(Approve)
    def _on_approve(self, request: Approve) -> tuple[str, ...]:
        self.approved.append(request)
        return tuple(sorted(request.names or {"everything"}))


@dataclass(slots=True)
class FakeNode:
    """Everything a door can reach, from the side of the test."""

    system: ActorSystem
    services: DoorServices
    types: dict[str, FakeServerType]
    instances: dict[str, FakeInstance]
    subscribers: FakeSubscribers
    events: FakeEvents
    beginnings: FakeBeginnings
    indexes: dict[Kind, FakeIndex]
    stops_requested: list[bool]
    health: dict[str, bool]
    cells: list[Handle[Any]] = field(default_factory=list[Handle[Any]])

    async def start(self, actor: KernelActor[Any], name: str = "door") -> Handle[Any]:
        """Run an actor until the node ends; return when it has started."""
        handle: Handle[Any] = Handle.create(self.system, name)
        started = asyncio.get_running_loop().create_future()
        handle.cell.on_started = lambda _: None if started.done() else started.set_result(None)

        def ended(_: int, reason: object) -> None:
            if not started.done():
                started.set_exception(RuntimeError(f"{name} did not start: {reason}"))
            handle.cell.close(reason)  # type: ignore[arg-type]

        handle.cell.on_ended = ended
        handle.cell.start(actor)
        self.cells.append(handle)
        await started
        return handle

    async def stop(self, handle: Handle[Any]) -> None:
        """Ask an actor to end, and wait for it."""
        handle.cell.stop()
        await until(lambda: handle.cell.actor is None)


def make_settings(**changes: Any) -> NodeSettings:
    """Settings of two servers without anything behind them."""
    specs = (
        ServerSpec(name=ServerName("alpha"), command="none", tags=("one",)),
        ServerSpec(name=ServerName("beta"), command="none", tags=("two",)),
    )
    given: dict[str, Any] = {"servers": specs, **changes}
    return NodeSettings(**given)


MODERN_HELLO = ServerHello(
    version="2026-07-28",
    name="fake",
    server_version="1",
    capabilities=Capabilities(tools=True, raw=b'{"tools":{}}'),
)


def listed(name: str) -> Listed:
    """A tool as a server lists it; white space and unknown members must survive."""
    definition = b'{"name":"%s", "inputSchema": {"type":"object"},"x":1.0}' % name.encode()
    return Listed(name, definition, read_only=name == "repeatable")


@asynccontextmanager
async def fake_node(
    state_dir: Path,
    *,
    settings: NodeSettings | None = None,
    tokens: TokenTable | None = None,
    clock: Clock | None = None,
    tools: tuple[str, ...] = TOOLS,
    definitions: tuple[Listed, ...] = (),
    hold_seconds: float = HOLD_SECONDS,
    hold_limit: int = MAX_HELD,
    **more: Any,
) -> AsyncIterator[FakeNode]:
    """Build it, and end every actor of it. `more` is what else the doors are handed."""
    settings = settings or make_settings()
    clock = clock or SystemClock()
    system = ActorSystem(asyncio.get_running_loop(), clock=clock)
    node = FakeNode(
        system=system,
        services=None,  # type: ignore[arg-type]
        types={},
        instances={},
        subscribers=FakeSubscribers.__new__(FakeSubscribers),
        events=FakeEvents.__new__(FakeEvents),
        beginnings=FakeBeginnings.__new__(FakeBeginnings),
        indexes={kind: FakeIndex() for kind in KINDS},
        stops_requested=[],
        health={"ready": True},
    )
    node.subscribers, node.events, node.beginnings = FakeSubscribers(), FakeEvents(), FakeBeginnings()
    subscribers = await node.start(node.subscribers, "subscribers")
    events = await node.start(node.events, "events")
    beginnings = await node.start(node.beginnings, "beginnings")
    indexes = {kind: await node.start(node.indexes[kind], f"index-{kind}") for kind in KINDS}
    servers: dict[ServerName, Server] = {}
    for spec in settings.servers:
        instance = node.instances[spec.name] = FakeInstance(spec.name)
        held = await node.start(instance, f"{spec.name}-1")
        kind = node.types[spec.name] = FakeServerType(spec.name, held)
        handle = await node.start(kind, spec.name)
        view = ServerView(spec.name, SpecKey(f"key-{spec.name}"), frozenset(spec.tags))
        servers[spec.name] = Server(spec, view, handle)
    snapshot = merge(
        [server.view for server in servers.values()],
        {
            (server.view.spec_key, EMPTY_PROFILE): Learnt(
                server.view.spec_key, EMPTY_PROFILE, (*map(listed, tools), *definitions), Source.CACHE
            )
            for server in servers.values()
        },
        naming=Naming(),
        previous=empty_snapshot("tools"),
    )
    world = WorldCell(World())
    world.publish_servers(servers, settings)
    world.publish(snapshot)
    clients = Handle[ClientsMessage].create(system, "clients")
    watches = Handle[WatchesMessage].create(system, "watches")
    context = NodeContext(
        node_id="node",
        boot="boot",
        system=system,
        clock=clock,
        state_dir=state_dir,
        environ={},
        world=world,
        metrics=Metrics(),
        events=events,
        indexes=indexes,
        subscribers=subscribers,
        clients=clients,
        watches=watches,
    )
    clients.cell.start(Clients(context))
    node.cells.append(clients)
    watches.cell.start(Watches(context, {}))
    node.cells.append(watches)
    open_tasks = await node.start(OpenTasks(context), "tasks")
    load: Counter[str] = Counter()
    held_calls = await node.start(HeldCalls(load, hold_seconds=hold_seconds, limit=hold_limit), "held")
    node.services = DoorServices(
        node=context,
        sealer=Sealer(bytes(32)),
        tokens=tokens,
        version="1.2.3",
        learning=beginnings,
        init=beginnings,
        config=beginnings,
        log=LogRing(PLAIN_REDACTOR),
        open_tasks=open_tasks,
        tree=lambda: TreeData(
            "node",
            "Supervisor",
            "running",
            0,
            BEGINNING,
            (TreeData("store", "Store", "running", 1, BEGINNING),),
        ),
        info=lambda: NodeInfo(7, "then", "1.2.3", "http://here", str(state_dir / "node.sock"), None, None),
        request_stop=lambda: node.stops_requested.append(True),
        on_sessions=lambda _door, _count: None,
        is_ready=lambda: node.health["ready"],
        check_health=HealthCheck(system, bound=HEALTH_BOUND).check,
        held=held_calls,
        load=load,
        **{"rates": Rates(settings.limits.requests_per_minute), **more},
    )
    try:
        yield node
    finally:
        for handle in reversed(node.cells):
            if handle.cell.actor is not None:
                await node.stop(handle)
