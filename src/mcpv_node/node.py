"""The composition root: every child spec of the tree on one screen, and the life of a node from start to stop.

    node             one_for_one
    ├── guard        ends what outlives the node
    ├── events       ring, logs
    ├── store        catalog files
    ├── catalog      one index for each kind of list, and who hears of their changes
    ├── init         one group for each server type: its instances, then the server type
    ├── bootstrap    one probe for each spec key that is being learnt
    ├── clients      who is registered, and so which servers are active
    ├── watches      who hears of which resource, and so what servers are asked to tell
    ├── config       the settings in effect, and the files they come from
    └── gateway      open tasks, held calls, sessions, http, lines

Started from top to bottom, stopped from bottom to top. Where it is configured, `audit` stands after events, and
`issuer-keys` first in the gateway, and `herald` at the very end where a service manager listens.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from loguru import logger
from msgspec.structs import replace

from mcpv_node.actors import (
    Audit,
    Clients,
    Events,
    Guard,
    Herald,
    Index,
    NodeContext,
    Probe,
    Roster,
    Server,
    Store,
    Subscribers,
    Watches,
    World,
    WorldCell,
)
from mcpv_node.actors.audit import AuditMessage
from mcpv_node.actors.clients import ClientsMessage
from mcpv_node.actors.config import RELOAD_BOUND, Applied, Config, ConfigMessage, Rejected, Reload
from mcpv_node.actors.config_edits import write_edit
from mcpv_node.actors.events import EventsMessage
from mcpv_node.actors.guard import GuardMessage, GuardPost
from mcpv_node.actors.herald import HeraldMessage, NodeReady
from mcpv_node.actors.index_messages import IndexMessage, ServersChanged, SubscribersMessage
from mcpv_node.actors.kernel import (
    ActorSystem,
    Crashed,
    DeadLetter,
    ExitReason,
    Handle,
    Health,
    HealthCheck,
    Killed,
)
from mcpv_node.actors.server_type import DrainNow
from mcpv_node.actors.snapshot import KINDS, Kind
from mcpv_node.actors.status import LearningMessage
from mcpv_node.actors.store import StoreMessage
from mcpv_node.actors.watch_messages import WatchesMessage
from mcpv_node.actors.watch_table import Wishes
from mcpv_node.gateway import (
    AuthError,
    CertificateError,
    Connected,
    DoorServices,
    HeldCalls,
    HeldMessage,
    HttpDoor,
    HttpDoorMessage,
    Issuer,
    IssuerKeys,
    IssuerKeysMessage,
    LinesDoor,
    LinesDoorMessage,
    Linger,
    LingerMessage,
    NodeInfo,
    OpenTasks,
    OpenTasksMessage,
    Rates,
    Sessions,
    SessionsMessage,
    TokenTable,
    TreeData,
    check_installed,
    load_tokens,
    read_certificate,
    read_or_create_token,
)
from mcpv_node.node_file import SOCKET_NAME, NodeFile, process_start_time, remove_node_file, write_node_file
from mcpv_node.protocol import Sealer
from mcpv_node.settings import (
    Difference,
    Marks,
    NodeSettings,
    ServerName,
    SpecKey,
    enabled_groups,
    load_settings,
    secret_values,
)
from mcpv_node.state_dir import (
    StateDirBusy,
    StateDirUnsafe,
    check_state_dir,
    lock_state_dir,
    read_or_create_node_id,
    read_or_create_seal_key,
    unlock_state_dir,
)
from mcpv_node.supervisors import (
    Bootstrap,
    ChildExited,
    ChildGaveUp,
    ChildKind,
    ChildSpec,
    ChildStarted,
    Init,
    InitMessage,
    ProbeSpec,
    StartChild,
    SupervisionEvent,
    Supervisor,
    SupervisorGaveUp,
    SupervisorSpec,
    TreeNode,
    log_event,
    supervisor_child,
    tree,
)
from mcpv_node.telemetry import Clock, EventKind, Redactor, SystemClock
from mcpv_node.telemetry.log_ring import LogRing
from mcpv_node.telemetry.metrics import Metrics
from mcpv_node.telemetry.notify import Listener
from mcpv_node.transports import ReapReport, Strangers
from mcpv_node.version import VERSION

from .bounds import longest_stop
from .groups import ServerGroups, servers_of
from .reload import Reloading

if TYPE_CHECKING:
    from mcpv_node.telemetry.tracing import Tracing

# Reading the ledger and reaping what a dead node left may take both of its graces.
GUARD_START_TIMEOUT = 15.0


class StartRefused(Exception):
    """The node cannot start here; the message says what is in the way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """What a node is started with.

    `token` is the bearer token's file; None is `<stateDir>/token`, made when it is not there, and "none" no token at
    all, on loopback only. `linger`: the node ends when nobody was connected for so many seconds.
    """

    settings: NodeSettings
    state_dir: Path
    config_path: Path | None = None
    http: str | None = None
    token: str | None = None
    linger: float | None = None
    service_manager: Listener | None = None  # who wants to hear how the node stands
    # Wait for orphans that became children of this process: never in a host's, whose children they are.
    reaps_strangers: bool = False
    # What masks secrets in the log of whoever runs the node: it learns those that a reload brings.
    redact: Redactor = field(default_factory=Redactor)
    marks: Marks = ()  # of the files that the settings came from, when they were read
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    clock: Clock = field(default_factory=SystemClock)


StopHow = Literal["drain", "now", "kill"]


class NodeRuntime:
    """One node on the running loop. Made and used on the loop's thread."""

    def __init__(self, options: NodeOptions) -> None:
        self._options = options
        self._settings = _with_address(options.settings, options.http)
        options.redact.learn(secret_values(self._settings))
        self._log = LogRing(options.redact)
        self._loop = asyncio.get_running_loop()
        self._lock: int | None = None
        self._root_ended: asyncio.Future[ExitReason] = self._loop.create_future()
        self._is_ready = False
        self._stop_asked: Callable[[], None] = lambda: None
        self._bound: str | None = None
        self._certificate: str | None = None
        self._token_file: Path | None = None
        self.system = ActorSystem(self._loop, clock=options.clock)
        self._health = HealthCheck(self.system)
        self.metrics = Metrics()
        self.system.on_dead_letter = self._on_dead_letter
        self.system.on_restart = lambda kind: self.metrics.actor_restarts_total(kind).inc()
        self._root = Handle[StartChild].create(self.system, "node")
        self._linger = Handle[LingerMessage].create(self.system, "linger")
        self._init = Handle[InitMessage].create(self.system, "init")
        self._config = Handle[ConfigMessage].create(self.system, "config")
        # Where those are who see a part of the node.
        self._shown_at: tuple[Handle[ServersChanged], ...] = ()
        self.fault: str | None = None  # why the node asked itself to stop
        self._bootstrap = Handle[LearningMessage].create(self.system, "bootstrap")
        self._open_tasks = Handle[OpenTasksMessage].create(self.system, "tasks")
        self._held = Handle[HeldMessage].create(self.system, "held")
        oauth = self._settings.auth.oauth
        self._issuer = (
            None
            if oauth is None
            else Issuer(oauth, Handle[IssuerKeysMessage].create(self.system, "issuer-keys"))
        )
        self._audit = (
            None if self._settings.log.audit is None else Handle[AuditMessage].create(self.system, "audit")
        )
        self._herald = (
            None if options.service_manager is None else Handle[HeraldMessage].create(self.system, "herald")
        )
        self._guard = Handle[GuardMessage].create(self.system, "guard")
        self._groups = ServerGroups(self.system, lambda: self.context, self._guard, self._on_supervision)
        self._groups.assign(self._groups.make(group) for group in enabled_groups(self._settings))
        self._tracing: Tracing | None = None
        self.context: NodeContext

    # --- life -----------------------------------------------------------------------------------

    async def start(self, on_stop_asked: Callable[[], None]) -> NodeFile:
        """Bring the whole tree up; raises StartRefused and leaves nothing behind if that fails."""
        self._stop_asked = on_stop_asked
        options = self._options
        try:
            options.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            check_state_dir(options.state_dir)
            self._lock = lock_state_dir(options.state_dir)
        except (StateDirBusy, StateDirUnsafe) as refusal:
            raise StartRefused(str(refusal)) from refusal
        except OSError as error:
            raise StartRefused(f"{options.state_dir}: {error.strerror or error}") from error
        self._log.attach(self._settings.log.level)
        is_up = False
        try:
            tokens, self._token_file = self._credentials()
            self._tracing = self._make_tracing()
            node_file = await self._bring_up(tokens)
            is_up = True
        except OSError as error:
            path = error.filename2 or error.filename or options.state_dir
            raise StartRefused(f"{path}: {error.strerror or error}") from error
        finally:
            if not is_up:
                await self.stop("now")
        self._is_ready = True
        self.context.tell_event(EventKind.NODE_STATE, from_="starting", to="ready")
        self.context.tell_herald(NodeReady(node_file.http))
        return node_file

    async def _bring_up(self, tokens: TokenTable | None) -> NodeFile:
        self._root.cell.on_ended = self._on_root_ended
        started: asyncio.Future[None] = self._loop.create_future()
        self._root.cell.on_started = lambda _incarnation: started.set_result(None)
        self._root.cell.start(self._compose(tokens))
        both: set[asyncio.Future[Any]] = {started, self._root_ended}
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if self._root_ended.done():
            raise StartRefused(first_fault(self._root_ended.result()))
        node_file = self._node_file()
        write_node_file(self._options.state_dir, node_file)
        return node_file

    async def stop(self, how: StopHow = "drain") -> None:
        """Stop the tree from the doors down; "now" does not wait for calls in hand. Idempotent."""
        if self._is_ready:
            self.context.tell_event(EventKind.NODE_STATE, from_="ready", to="stopping")
        self._is_ready = False
        if self._root.is_alive():
            if how == "now":
                self.hurry()
            self._root.cell.stop()
            await asyncio.wait({self._root_ended}, timeout=self.longest_stop())
        if self._root.is_alive():
            self._root.kill("did not stop in time")
        await self._close_tracing()
        self._log.detach()
        # Without the lock the folder is another node's, perhaps of this very process.
        if self._lock is not None:
            remove_node_file(self._options.state_dir, pid=os.getpid())
            unlock_state_dir(self._lock)
            self._lock = None

    async def reload(self) -> Applied | Rejected:
        """Have the configuration read again and brought into effect, and say what became of that."""
        return await self._config.ask(Reload(), RELOAD_BOUND)

    def reload_soon(self) -> None:
        """The same for who does not wait: the log says what became of it."""
        self._config.tell(Reload())

    def hurry(self) -> None:
        """A stop under way waits for no calls any more."""
        for running in self._groups.existing:
            running.server.tell(DrainNow())

    async def check_health(self) -> Health:
        """Whether every actor answers within `ANSWER_BOUND` seconds; a node whose root has ended is not well."""
        if not self._root.is_alive():
            return Health(0, (self._root.name,))
        return await self._health.check()

    async def wait_ended(self) -> ExitReason:
        """Until the root has ended, by itself or because it was stopped."""
        return await asyncio.shield(self._root_ended)

    def longest_stop(self) -> float:
        """The bound of a whole stop, in seconds."""
        return longest_stop(running.group.specs[0] for running in self._groups.existing)

    def _longest_drain(self) -> float:
        """How long a door waits for the calls in hand, in seconds."""
        specs = (running.group.specs[0] for running in self._groups.existing)
        return max((spec.drain_timeout_seconds for spec in specs), default=0.0)

    # --- the tree -------------------------------------------------------------------------------

    def _compose(self, tokens: TokenTable | None) -> Supervisor:
        system, settings, state_dir = self.system, self._settings, self._options.state_dir
        node_id = read_or_create_node_id(state_dir)
        boot = secrets.token_hex(4)
        events = Handle[EventsMessage].create(system, "events")
        post = GuardPost()
        strangers = Strangers() if self._options.reaps_strangers else None
        store = Handle[StoreMessage].create(system, "store")
        indexes: dict[Kind, Handle[IndexMessage]] = {
            kind: Handle[IndexMessage].create(system, f"index-{kind}") for kind in KINDS
        }
        subscribers = Handle[SubscribersMessage].create(system, "subscribers")
        roster = Roster()
        wishes: Wishes = {}
        clients = Handle[ClientsMessage].create(system, "clients")
        watches = Handle[WatchesMessage].create(system, "watches")
        sessions = Handle[SessionsMessage].create(system, "sessions")
        lines = Handle[LinesDoorMessage].create(system, "lines")
        http = Handle[HttpDoorMessage].create(system, "http")
        self._shown_at = sessions, http, lines
        groups = self._groups
        self.context = context = NodeContext(
            node_id=node_id,
            boot=boot,
            system=system,
            clock=self._options.clock,
            state_dir=state_dir,
            environ=MappingProxyType(dict(self._options.environ)),
            world=WorldCell(World(settings=settings, servers=servers_of(groups.running))),
            metrics=self.metrics,
            events=events,
            indexes=MappingProxyType(indexes),
            subscribers=subscribers,
            clients=clients,
            watches=watches,
            config_path=self._options.config_path,
            redact=self._options.redact,
            audit=self._audit,
            herald=self._herald,
            tracing=self._tracing,
        )
        services = self._services(tokens)
        return Supervisor(
            SupervisorSpec(
                children=(
                    ChildSpec(
                        id="guard",
                        start=lambda: Guard(
                            state_dir / "ledger.jsonl",
                            f"{node_id}/",
                            on_reaped=self._on_reaped,
                            post=post,
                            strangers=strangers,
                        ),
                        handle=self._guard,
                        grace=GUARD_START_TIMEOUT,
                        start_timeout=GUARD_START_TIMEOUT,
                    ),
                    ChildSpec(id="events", start=lambda: Events(boot), handle=events),
                    *self._audit_child(),
                    ChildSpec(id="store", start=lambda: Store(state_dir), handle=store),
                    supervisor_child(
                        "catalog",
                        SupervisorSpec(
                            children=(
                                *(
                                    ChildSpec(
                                        id=f"index-{kind}",
                                        start=partial(Index, context, store, kind),
                                        handle=handle,
                                    )
                                    for kind, handle in indexes.items()
                                ),
                                ChildSpec(
                                    id="subscribers",
                                    start=lambda: Subscribers(context, roster),
                                    handle=subscribers,
                                ),
                            ),
                        ),
                        sink=self._on_supervision,
                    ),
                    self._init_child(groups),
                    self._bootstrap_child(),
                    ChildSpec(
                        id="clients", start=lambda: Clients(context, (sessions, lines)), handle=clients
                    ),
                    ChildSpec(id="watches", start=lambda: Watches(context, wishes), handle=watches),
                    self._config_child(),
                    supervisor_child(
                        "gateway",
                        SupervisorSpec(
                            children=(
                                *self._linger_child(),
                                *self._issuer_child(),
                                ChildSpec(
                                    id="tasks", start=lambda: OpenTasks(context), handle=self._open_tasks
                                ),
                                ChildSpec(
                                    id="held", start=lambda: HeldCalls(services.load), handle=self._held
                                ),
                                ChildSpec(id="sessions", start=lambda: Sessions(services), handle=sessions),
                                ChildSpec(
                                    id="http",
                                    start=lambda: HttpDoor(
                                        services,
                                        sessions,
                                        on_bound=self._on_bound,
                                        drain_bound=self._longest_drain,
                                    ),
                                    handle=http,
                                    grace=self.longest_stop,
                                ),
                                ChildSpec(
                                    id="lines",
                                    start=lambda: LinesDoor(
                                        services, state_dir / SOCKET_NAME, drain_bound=self._longest_drain
                                    ),
                                    handle=lines,
                                    grace=self.longest_stop,
                                ),
                            ),
                        ),
                        sink=self._on_supervision,
                    ),
                    *self._herald_child(),
                ),
            ),
            sink=self._on_supervision,
        )

    def _audit_child(self) -> tuple[ChildSpec, ...]:
        path = self._settings.log.audit
        if path is None or self._audit is None:
            return ()
        return (ChildSpec(id="audit", start=lambda: Audit(Path(path)), handle=self._audit),)

    def _herald_child(self) -> tuple[ChildSpec, ...]:
        manager, handle = self._options.service_manager, self._herald
        if manager is None or handle is None:
            return ()
        return (
            ChildSpec(
                id="herald",
                start=lambda: Herald(
                    manager,
                    self._init,
                    lambda: self._bound if self._is_ready else None,
                    self.check_health,
                    self._options.clock.monotonic,
                ),
                handle=handle,
            ),
        )

    def _issuer_child(self) -> tuple[ChildSpec, ...]:
        issuer = self._issuer
        if issuer is None:
            return ()
        start = partial(IssuerKeys, self.context, issuer.settings)
        return (ChildSpec(id="issuer-keys", start=start, handle=issuer.keys),)

    def _init_child(self, groups: ServerGroups) -> ChildSpec:
        return ChildSpec(
            id="init",
            start=lambda: Init(groups.specs, on_group_gone=self._on_group_gone, sink=self._on_supervision),
            handle=self._init,
            grace=None,
            start_timeout=None,
            kind=ChildKind.SUPERVISOR,
        )

    def _bootstrap_child(self) -> ChildSpec:
        settings = self._settings
        return ChildSpec(
            id="bootstrap",
            start=lambda: Bootstrap(
                self.context,
                self._probes,
                concurrency=settings.bootstrap_concurrency,
                mode=settings.bootstrap_mode,
                sink=self._on_supervision,
            ),
            handle=self._bootstrap,
            grace=None,
            start_timeout=None,
            kind=ChildKind.SUPERVISOR,
        )

    def _config_child(self) -> ChildSpec:
        """The settings are read again from where they came; what a program gave us by hand has no such place."""
        options, path = self._options, self._options.config_path
        reloading = Reloading(self.context, self._groups, self._init, self._bootstrap, self._shown_at)

        async def apply(settings: NodeSettings) -> Difference:
            return await reloading.apply(_with_address(settings, options.http))

        read = None if path is None else partial(load_settings, path, environ=options.environ)
        write = None if path is None else partial(write_edit, path, options.environ)
        return ChildSpec(
            id="config",
            start=lambda: Config(self.context, read, apply, self._give_up, write=write, marks=options.marks),
            handle=self._config,
        )

    def _give_up(self, reason: str) -> None:
        """`reloadMode: strict`: a node whose configuration cannot be had ends, and says so."""
        self.fault = reason
        self._stop_asked()

    def _probes(self) -> list[ProbeSpec]:
        """How to learn each spec key of the servers that there are now; the first server stands for the others."""
        probes: dict[SpecKey, ProbeSpec] = {}
        for name, server in self.context.world.world.servers.items():
            probes.setdefault(server.view.spec_key, self._probe(name, server))
        return list(probes.values())

    def _probe(self, name: ServerName, server: Server) -> ProbeSpec:
        key, timeout = server.view.spec_key, self._settings.bootstrap_timeout_seconds
        return ProbeSpec(
            key, name, lambda fresh: Probe(self.context, key, server.handle, timeout, fresh=fresh)
        )

    def _linger_child(self) -> tuple[ChildSpec, ...]:
        seconds = self._options.linger
        if seconds is None:
            return ()
        return (ChildSpec(id="linger", start=lambda: Linger(seconds, self._stop_asked), handle=self._linger),)

    # --- what the doors are handed --------------------------------------------------------------

    def _services(self, tokens: TokenTable | None) -> DoorServices:
        return DoorServices(
            node=self.context,
            sealer=Sealer(read_or_create_seal_key(self._options.state_dir)),
            tokens=tokens,
            version=VERSION,
            learning=self._bootstrap,
            init=self._init,
            config=self._config,
            log=self._log,
            open_tasks=self._open_tasks,
            tree=self.tree,
            info=self._info,
            request_stop=self._stop_asked,
            on_sessions=self._on_sessions,
            is_ready=lambda: self._is_ready,
            check_health=self.check_health,
            held=self._held,
            rates=Rates(self._settings.limits.requests_per_minute),
            issuer=self._issuer,
        )

    def tree(self) -> TreeData:
        """The tree as it stands, with wall-clock times."""
        return self._tree_data(tree(self._root.cell))

    def _tree_data(self, branch: TreeNode) -> TreeData:
        age = self._options.clock.monotonic() - branch.since
        return TreeData(
            id=branch.id,
            kind=branch.kind,
            state=branch.state,
            restarts=branch.restarts,
            since=self._options.clock.wall() - timedelta(seconds=age),
            children=tuple(self._tree_data(child) for child in branch.children),
        )

    def _info(self) -> NodeInfo:
        node_file = self._node_file()
        return NodeInfo(
            pid=node_file.pid,
            start_time=node_file.start_time,
            version=node_file.version,
            http=node_file.http,
            socket=node_file.socket,
            token_file=node_file.token_file,
            config_path=node_file.config_path,
            certificate=node_file.certificate,
        )

    def _node_file(self) -> NodeFile:
        config, token_file = self._options.config_path, self._token_file
        return NodeFile(
            pid=os.getpid(),
            start_time=process_start_time(os.getpid()) or "",
            version=VERSION,
            http=self._bound or "",
            socket=str(self._options.state_dir / SOCKET_NAME),
            token_file=None if token_file is None else str(token_file),
            config_path=None if config is None else str(config),
            certificate=self._certificate,
        )

    def _make_tracing(self) -> Tracing | None:
        otlp = self._settings.telemetry.otlp
        if otlp is None:
            return None
        try:
            # Only here: a node without traces neither needs nor loads what makes them.
            from mcpv_node.telemetry.tracing import Tracing, to_collector
        except ImportError as error:
            raise StartRefused(
                f"telemetry.otlp needs more packages: pip install 'mcpv-node[otel]' ({error.name} is missing)"
            ) from error
        options = self._options
        return Tracing(
            to_collector(otlp.endpoint, otlp.headers),
            clock=options.clock,
            attributes={
                "service.version": VERSION,
                "service.instance.id": read_or_create_node_id(options.state_dir),
            },
            service_name=otlp.service_name,
            sample_ratio=otlp.sample_ratio,
        )

    async def _close_tracing(self) -> None:
        tracing, self._tracing = self._tracing, None
        if tracing is not None and not await tracing.close():
            logger.warning("the collector of traces did not take the last spans in time")

    def _credentials(self) -> tuple[TokenTable | None, Path | None]:
        """The tokens that are valid, and where the node's own is; whatever else is asked of who comes is there, too."""
        tls = self._settings.listen.tls
        try:
            if self._issuer is not None:
                check_installed()
            if tls is not None:
                # The door reads it, too; here it is said before any server has been started.
                read_certificate(tls)
        except (AuthError, CertificateError) as error:
            raise StartRefused(str(error)) from error
        if self._options.token == "none":
            return None, None
        path = Path(self._options.token) if self._options.token else self._options.state_dir / "token"
        try:
            return load_tokens(self._settings.auth, read_or_create_token(path)), path
        except AuthError as error:
            raise StartRefused(str(error)) from error

    # --- what the tree tells --------------------------------------------------------------------

    def _on_group_gone(self, group_id: str, _reason: ExitReason) -> None:
        """What a reload took away has ended: nothing of a server that is not there any more stays."""
        gone = self._groups.forget(group_id)
        if gone is None:
            return
        names = {running.group.name for running in self._groups.existing}
        for spec in gone.group.specs:
            if spec.name not in names and spec.name not in self.context.world.world.servers:
                self.metrics.forget_server(spec.name)

    def _on_bound(self, url: str, certificate: str | None) -> None:
        self._bound, self._certificate = url, certificate
        if self._is_ready:
            # Of a certificate that was renewed the node's own clients know from here.
            write_node_file(self._options.state_dir, self._node_file())

    def _on_sessions(self, door: str, count: int) -> None:
        if self._options.linger is not None:
            self._linger.tell(Connected(door, count))

    def _on_root_ended(self, _incarnation: int, reason: ExitReason) -> None:
        self._root.cell.close(reason)
        if not self._root_ended.done():
            self._root_ended.set_result(reason)

    def _on_reaped(self, report: ReapReport) -> None:
        self.metrics.orphans_reaped_total.inc(len(report.ended))
        for orphan in report.ended:
            self.context.tell_event(
                EventKind.ORPHAN_REAPED,
                instance=orphan.instance,
                reason=f"process {orphan.pid} was left over",
            )

    def _on_dead_letter(self, letter: DeadLetter) -> None:
        self.metrics.dead_letters_total(letter.kind).inc()
        logger.bind(actor=letter.name).debug("dead letter {}: {}", letter.message, letter.why)

    def _on_supervision(self, event: SupervisionEvent) -> None:
        """Every supervisor's events: logged, counted, and the faults told as the node's own events."""
        log_event(event)
        match event:
            case ChildExited(reason=Crashed() | Killed() as reason, asked=False):
                self.context.tell_event(EventKind.ACTOR_CRASHED, actor=event.child, reason=str(reason))
            case ChildStarted(incarnation=incarnation) if incarnation > 1:
                self.context.tell_event(EventKind.ACTOR_RESTARTED, actor=event.child)
            case SupervisorGaveUp() | ChildGaveUp():
                self.context.tell_event(
                    EventKind.SUPERVISOR_GAVE_UP, actor=event.child, reason=str(event.reason)
                )
            case _:
                pass


def _with_address(settings: NodeSettings, http: str | None) -> NodeSettings:
    return settings if http is None else replace(settings, listen=replace(settings.listen, http=http))


def first_fault(reason: ExitReason) -> str:
    """What went wrong at the bottom, in its own words."""
    return reason.root_cause if isinstance(reason, Crashed) else str(reason)
