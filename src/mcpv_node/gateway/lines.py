"""The line door: MCP as JSON-RPC lines on a unix socket, for programs of this user on this machine.

A connection opens with one line, `{"mcpv": 1}`, which may name a `server`, `tags` or a `profile`; after it, both sides
speak MCP, one message a line. The kernel says who is calling, so there is no token. The connection is the client:
when it is gone, its calls are cancelled.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias, cast

import msgspec
from loguru import logger

from mcpv_node.actors.clients import Client, ClientId, ClientKind, Register, RegisterAgain, Unregister
from mcpv_node.actors.index_messages import Join, Leave, ServersChanged
from mcpv_node.actors.kernel import Crashed, ExitReason, Handle, Killed, LoopActor, Shutdown, handles
from mcpv_node.actors.world import EVERYTHING, Selector
from mcpv_node.protocol import (
    CANCELLED,
    INVALID_REQUEST,
    PARSE_ERROR,
    EnvelopeError,
    Legacy,
    Line,
    LineFramer,
    Message,
    Modern,
    Notification,
    Overlong,
    Refused,
    Request,
    encode_failure,
    guess_id,
    judge_line,
    parse_message,
)
from mcpv_node.settings import ServerName
from mcpv_node.telemetry import EventKind

from .door_audit import FORBIDDEN, TOO_MANY, DoorAudit
from .front import AnswerStep, Front, RunStep, SilentStep
from .http_door import DRAIN_BOUND, DoorError
from .modern_lines import ModernLines
from .modern_reply import overloaded
from .services import DoorServices, new_consumer_id
from .unix_socket import bind_unix, is_hung_up, peer_uid
from .visibility import Cut, resolve_selector

SOCKET_NAME: Final = "node.sock"
HELLO_VERSION: Final = 1

# A program says hello as its first act; one that does not only holds a place (seconds).
HELLO_BOUND = 10.0

# A script that pipes its requests in and closes its side still reads the answers. A client that is gone closes its
# side, too, and where a byte pipe stands between us, that is all we see: so not for long (seconds).
LINGER = 2.0

# A reader that has left so much unread gets no notifications; answers still go out.
QUIET_ABOVE = 1024 * 1024

# Past this it does not read at all, and its connection is closed: what it is owed would fill our memory.
MAX_UNREAD = 64 * 1024 * 1024

DOOR: Final = "lines"
ERA: Final = "legacy"

_connection_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class _Listening:
    outcome: asyncio.Server | Exception


@dataclass(frozen=True, slots=True)
class _Idle:
    """A connection has no calls in flight any more."""


@dataclass(frozen=True, slots=True)
class _DrainEnded:
    """The bound for calls in hand is over."""


LinesDoorMessage: TypeAlias = _Listening | _Idle | _DrainEnded | RegisterAgain | ServersChanged


class LinesDoor(LoopActor[None]):
    """See the module. `path` is the socket's; a stale one is replaced, a living one refuses the start."""

    def __init__(
        self, services: DoorServices, path: Path, *, drain_bound: Callable[[], float] = lambda: DRAIN_BOUND
    ) -> None:
        super().__init__()
        self._services = services
        self._path = path
        self._drain_bound = drain_bound
        self._listener: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._inode: int | None = None
        self._connections: set[LineConnection] = set()
        self._stopping = False
        self._audit = None if services.node.audit is None else DoorAudit(services.node)

    def on_start(self, estate: None = None) -> None:
        self._listener = bind_unix(self._path)
        self._inode = self._path.stat().st_ino
        loop = self.cell.system.loop
        self.hold_start()
        self.run(
            loop.create_unix_server(self._connect, sock=self._listener),
            _Listening,
        )

    def on_shutdown(self) -> None:
        self._stopping = True
        self._stop_listening()
        for connection in list(self._connections):
            connection.drain()
        self.after(self._drain_bound(), _DrainEnded())
        self._end_when_idle()

    def on_exit(self, reason: ExitReason) -> None:
        self._stop_listening()
        for connection in list(self._connections):
            connection.end("the node stops", node_stops=not isinstance(reason, Crashed | Killed))

    @handles(_Listening)
    def _on_listening(self, message: _Listening) -> None:
        if isinstance(message.outcome, Exception):
            raise DoorError(f"{self._path}: {message.outcome}")
        self._server = message.outcome
        if self._stopping:
            self._stop_listening()
            return
        logger.bind(socket=str(self._path)).info("the line door is open")
        self.started()

    @handles(_Idle)
    def _on_idle(self, _: _Idle) -> None:
        self._end_when_idle()

    @handles(_DrainEnded)
    def _on_drain_ended(self, _: _DrainEnded) -> None:
        self.exit(Shutdown())

    @handles(RegisterAgain)
    def _on_register_again(self, _: RegisterAgain) -> None:
        for connection in self._connections:
            connection.register()

    @handles(ServersChanged)
    def _on_servers_changed(self, _: ServersChanged) -> None:
        for connection in self._connections:
            connection.look_again()

    def _connect(self) -> LineConnection:
        me: Handle[LinesDoorMessage] = Handle(self.cell)
        return LineConnection(
            self._services,
            peers=self._connections,
            audit=self._audit,
            on_idle=lambda: me.tell(_Idle()) if self._stopping else None,
        )

    def _end_when_idle(self) -> None:
        if self._stopping and not any(connection.in_flight for connection in self._connections):
            self.exit(Shutdown())

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._listener is not None:
            self._listener.close()
        # Another node may have put its own there.
        with suppress(OSError):
            if self._inode is not None and self._path.stat().st_ino == self._inode:
                self._path.unlink()
        self._inode = None


class LineConnection(asyncio.Protocol):
    """One client on one connection. Everything here runs on the loop's thread and belongs to the door."""

    def __init__(
        self,
        services: DoorServices,
        *,
        peers: set[LineConnection],
        audit: DoorAudit | None,
        on_idle: Callable[[], None],
    ) -> None:
        self._services = services
        self._limits = services.node.settings.limits
        self._peers = peers
        self._audit = audit
        self._on_idle = on_idle
        self._framer = LineFramer(self._limits.line_bytes)
        self._consumer = new_consumer_id()
        self._client_id = ClientId(f"line-{self._consumer}")
        self._number = next(_connection_numbers)
        self._principal = ""
        self._front: Front | None = None
        self._wanted = EVERYTHING
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._modern = ModernLines(
            services, write=self._write, tell=self._write_if_read, on_quiet=self._on_answered
        )
        self._tasks: set[asyncio.Task[bytes | None]] = set()
        self._draining = False
        self._ended = False

    @property
    def in_flight(self) -> int:
        """How many calls have not been answered."""
        return len(self._tasks) + self._modern.in_flight

    def drain(self) -> None:
        """Take nothing new; answer what is in hand."""
        self._draining = True
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
        self._modern.drain()

    def register(self) -> None:
        """Have it counted as a client, once it has said what it wants to see."""
        if self._front is not None and not self._ended:
            client = Client(
                id=self._client_id,
                name=self._principal if self._front.hello is None else self._front.client,
                selector=self._front.selector,
                kind=ClientKind.LINE,
                principal=self._principal,
            )
            self._services.node.clients.tell(Register(client))

    def end(self, reason: str, *, node_stops: bool = False) -> None:
        """Nobody is there any more, or nobody shall be: cancel the calls and close."""
        if self._ended:
            return
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        if self._front is not None:
            self._front.cancel_all(reason, node_stops=node_stops)
        self._modern.end(reason)
        if self._transport is not None:
            self._transport.close()
            if self._transport.get_write_buffer_size():
                # What it has not read by now it may have no more: a close would wait for it for ever.
                self._transport.abort()

    # --- what the loop calls --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        uid = peer_uid(self._transport)
        if uid is None or uid not in (os.getuid(), 0):
            self._tell_refused(f"local:{uid}", "connect", FORBIDDEN)
            self._refuse("this node belongs to another user")
        elif len(self._peers) >= self._limits.sessions:
            self._refuse("there are too many connections")
        else:
            self._principal = f"local:{uid}"
            self._peers.add(self)
            self._count()
            loop = self._services.node.system.loop
            self._timer = loop.call_later(HELLO_BOUND, self.end, "it said no hello")

    def data_received(self, data: bytes) -> None:
        for item in self._framer.feed(data):
            if self._ended:
                return
            if isinstance(item, Overlong):
                self._write_error(
                    PARSE_ERROR, f"a line is longer than {self._limits.line_bytes} bytes", head=item.head
                )
            elif self._front is None:
                self._on_hello(item)
            else:
                self._on_line(self._front, item)

    def eof_received(self) -> bool:
        transport = self._transport
        if self._ended or transport is None or not self.in_flight or is_hung_up(transport):
            self.end("the client is gone")
            return False
        self._timer = self._services.node.system.loop.call_later(
            LINGER, self.end, "the client closed its side"
        )
        self._draining = True
        return True

    def pause_writing(self) -> None:
        # Who does not read answers may not ask more.
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None and not self._transport.is_closing() and not self._draining:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self.end("the client is gone")
        if self in self._peers:
            self._peers.discard(self)
            self._count()
        if self._front is not None:
            node = self._services.node
            node.subscribers.tell(Leave(self._consumer))
            node.clients.tell(Unregister(self._client_id, "its connection ended"))
            node.tell_event(EventKind.SESSION_CLOSED, client=self._front.client, cause=DOOR)
        self._on_idle()

    # --- lines ----------------------------------------------------------------------------------

    def _on_hello(self, line: Line) -> None:
        try:
            wanted = parse_hello(line.data)
        except ValueError as error:
            self._refuse(str(error))
            return
        node = self._services.node
        selector = resolve_selector(node.world.world, wanted)
        if selector is None:
            kind = "profile" if wanted.profile is not None else "server"
            self._refuse(f"there is no {kind} named {wanted.profile or wanted.server}")
            return
        if self._timer is not None:
            self._timer.cancel()
        self._wanted = wanted
        self._front = Front(
            self._services,
            principal=self._principal,
            selector=selector,
            conversation=f"line:{node.boot}:{self._number}",
            load=self._services.load,
            notify=self._write_if_read,
        )
        node.subscribers.tell(Join(self._consumer, selector, self._front.on_snapshot_changed))
        self.register()
        node.tell_event(EventKind.SESSION_OPENED, client=self._principal, cause=DOOR)

    def look_again(self) -> None:
        """A reload may have given the profile that it asked for another meaning, or taken it away."""
        node, front = self._services.node, self._front
        if front is None:
            return
        selector = resolve_selector(node.world.world, self._wanted)
        if selector is None:
            selector = Cut(server=self._wanted.server, profile=self._wanted.profile, servers=frozenset())
        if selector != front.selector:
            front.select(selector)
            self._modern.drain()  # subscriptions end with their results; their client subscribes to what it sees now
            node.subscribers.tell(Join(self._consumer, selector, front.on_snapshot_changed))
            self.register()

    def _on_line(self, front: Front, line: Line) -> None:
        try:
            message = parse_message(line.data, depth=self._limits.depth)
        except EnvelopeError as error:
            self._write(encode_failure(error.id, code=error.code, message=error.message))
            return
        verdict = judge_line(message, opened=front.version is not None)
        if isinstance(message, Notification) and message.method == CANCELLED:
            self._modern.cancel(message)
        if isinstance(message, Request) and (
            self._modern.knows(message.id) or front.is_in_flight(message.id)
        ):
            why = "a request with this id is in flight already"
            self._write(encode_failure(message.id, code=INVALID_REQUEST, message=why))
            return
        if isinstance(message, Request):
            wait = self._services.rates.admit(self._principal, self._services.node.clock.monotonic())
            if wait:
                self._tell_refused(self._principal, message.method, TOO_MANY)
                why = "this client makes too many requests"
                self._write(overloaded(message.id, why, retry_after=wait).data)
                return
        match verdict:
            case Legacy():
                self._on_legacy(front, message)
            case Modern() if isinstance(message, Request):
                self._modern.receive(message, verdict, self._principal, front.selector)
            case Refused(code=code, message=why, data=data) if isinstance(message, Request):
                self._write(encode_failure(message.id, code=code, message=why, data=data))
            case _:
                pass  # told something, we say nothing

    def _on_legacy(self, front: Front, message: Message) -> None:
        was_named = front.hello is not None
        step = front.receive(message)
        if not was_named and front.hello is not None:
            self.register()
        if isinstance(step, AnswerStep):
            self._write(step.data)
        elif not isinstance(step, SilentStep):
            self._run(front, step)

    def _run(self, front: Front, step: RunStep) -> None:
        loop = self._services.node.system.loop
        task = loop.create_task(front.run_call(step, self._emit))
        self._tasks.add(task)

        def ended(done: asyncio.Task[bytes | None]) -> None:
            # A task that is cancelled before its first step never comes to its own end.
            front.forget(step)
            self._tasks.discard(done)
            reply = None if done.cancelled() else done.result()
            if reply is not None:
                self._write(reply)
            self._on_answered()

        task.add_done_callback(ended)

    def _on_answered(self) -> None:
        """A call has been answered, perhaps the last one."""
        if self.in_flight:
            return
        if self._draining and self._transport is not None:
            # Closes once everything is written; a reader that does not read meets the timer, or the door's bound.
            self._transport.close()
        self._on_idle()

    def _tell_refused(self, principal: str, method: str, outcome: str) -> None:
        if self._audit is not None:
            client = "" if self._front is None else self._front.client
            self._audit.refused(
                principal=principal, client=client, method=method, name=SOCKET_NAME, outcome=outcome
            )

    def _refuse(self, reason: str) -> None:
        self._write_error(INVALID_REQUEST, reason)
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.close()

    def _write_error(self, code: int, message: str, *, head: bytes = b"") -> None:
        self._write(encode_failure(guess_id(head), code=code, message=message))

    def _write_if_read(self, notification: bytes) -> None:
        """Notifications are for who keeps up."""
        if self._transport is not None and self._transport.get_write_buffer_size() < QUIET_ABOVE:
            self._write(notification)

    def _emit(self, message: bytes, *, may_be_dropped: bool) -> bool:
        if may_be_dropped:
            self._write_if_read(message)
        else:
            self._write(message)
        return not self._ended

    def _write(self, message: bytes) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        transport.write(message + b"\n")
        if transport.get_write_buffer_size() > MAX_UNREAD:
            logger.bind(client=self._principal).warning("a client does not read its answers; it is let go")
            self.end("the client does not read")

    def _count(self) -> None:
        self._services.node.metrics.sessions(DOOR, ERA).set(len(self._peers))
        self._services.on_sessions(DOOR, len(self._peers))


def parse_hello(line: bytes) -> Selector:
    """What a client asks for with its first line; ValueError says what is wrong with it."""
    try:
        hello = msgspec.json.decode(line, type=_Hello)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f'the first line is not {{"mcpv": 1}} with a selector: {error}') from None
    if hello.mcpv != HELLO_VERSION:
        raise ValueError(f"this node speaks version {HELLO_VERSION} of its line protocol, not {hello.mcpv}")
    if sum(part is not None for part in (hello.server, hello.tags, hello.profile)) > 1:
        raise ValueError("server, tags and profile exclude each other")
    tags = None if hello.tags is None else [tag.strip().lower() for tag in hello.tags]
    if tags is not None and not all(tags):
        raise ValueError("an empty tag selects nothing")
    return Selector(
        server=None if hello.server is None else ServerName(hello.server),
        tags=frozenset(tags) if tags else None,
        profile=hello.profile,
    )


class _Hello(msgspec.Struct, frozen=True):
    mcpv: int
    server: str | None = None
    tags: list[str] | None = None
    profile: str | None = None
