"""The legacy sessions of the HTTP door: who has one, whose it is, and when it ends.

A session ends when its client ends it, or when nothing was in flight for `limits.sessionIdleSeconds`; an open stream
counts as in flight. Its id is 192 random bits and is worth nothing to another principal, nor on another path. What its
path and its token show is looked up again with every change of the configuration: a session lives on when its
profile was edited, and ends when there is nothing of that name any more.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NewType, TypeAlias

from mcpv_node.actors.clients import (
    Client,
    ClientId,
    ClientKind,
    DoorEmpty,
    Register,
    RegisterAgain,
    Unregister,
)
from mcpv_node.actors.index_messages import ConsumerId, Join, Leave, ServersChanged
from mcpv_node.actors.kernel import Crashed, ExitReason, Killed, LoopActor, Request, answers, handles
from mcpv_node.actors.world import EVERYTHING, Selector
from mcpv_node.protocol import INVALID_REQUEST, encode_failure
from mcpv_node.protocol import Request as RpcRequest
from mcpv_node.telemetry import EventKind

from .front import AnswerStep, Front
from .services import DoorServices, new_consumer_id
from .streams import PRIMED_SINCE, Streams
from .visibility import resolve_selector

SessionId = NewType("SessionId", str)

# The specification asks for what cannot be guessed; 128 bits are enough for that.
SESSION_ID_BYTES = 24

# How late an idle session may be found (seconds); short limits are looked at more often.
SWEEP_SECONDS = 30.0
SWEEPS_PER_LIMIT = 4

DOOR = "http"
ERA = "legacy"


class Session:
    """One client's session: its conversation and its streams."""

    __slots__ = ("consumer", "ended", "front", "id", "idle_since", "streams", "users", "wanted", "within")

    def __init__(
        self,
        session_id: SessionId,
        *,
        now: float,
        wanted: Selector = EVERYTHING,
        within: Selector = EVERYTHING,
    ) -> None:
        self.id = session_id
        # What its path names, and what its token may see; what they mean now is the front's selector.
        self.wanted = wanted
        self.within = within
        self.consumer: ConsumerId = new_consumer_id()
        self.streams = Streams()
        self.front: Front
        self.ended = False
        self.users = 0  # requests and streams that are open now
        self.idle_since = now

    @property
    def client(self) -> Client:
        """How it is registered: under a name that gives nobody the session."""
        return Client(
            id=ClientId(f"session-{self.consumer}"),
            name=self.front.client,
            selector=self.front.selector,
            kind=ClientKind.SESSION,
            principal=self.front.principal,
        )

    def is_for(self, principal: str, wanted: Selector) -> bool:
        """Whether it is of any use to this principal on this path."""
        # Nearly always the very same selector: comparing two costs more than looking.
        is_same = self.wanted is wanted or self.wanted == wanted
        return is_same and not self.ended and self.front.principal == principal

    def attach(self) -> None:
        """One more request or stream uses it, so it is not idle; everyone who attaches detaches when done."""
        self.users += 1

    def detach(self, now: float) -> None:
        """The request or stream has ended."""
        self.users -= 1
        self.idle_since = now

    @property
    def primes(self) -> bool:
        """Whether its client can read an event that only says from where to go on."""
        return self.front.version is not None and self.front.version >= PRIMED_SINCE

    def notify(self, message: bytes) -> None:
        """Leave a notification for the stream; the same one once is enough."""
        if not self.streams.standing.is_waiting(message):
            self.send(message, may_be_dropped=True)

    def send(self, message: bytes, *, may_be_dropped: bool) -> bool:
        """Leave a message that belongs to no request for the stream; False when it was not taken."""
        return self.streams.put(self.streams.standing, message, may_be_dropped=may_be_dropped)

    def end(self, reason: str, *, node_stops: bool = False) -> None:
        """Nobody is there any more: end the stream and the calls."""
        self.ended = True
        self.streams.close()
        self.front.cancel_all(reason, node_stops=node_stops)


@dataclass(frozen=True, slots=True)
class Opened:
    """The session exists; this is the answer to its initialize."""

    session: Session
    answer: AnswerStep


@dataclass(frozen=True, slots=True)
class NotOpened:
    """The initialize was not good; nothing was registered. `answer` None: there are too many sessions."""

    answer: AnswerStep | None


@dataclass(frozen=True, slots=True)
class Open(Request[Opened | NotOpened]):
    """Open a session with this initialize request. `wanted` is what its path names, `within` what its token may see."""

    principal: str
    wanted: Selector
    initialize: RpcRequest
    within: Selector = EVERYTHING


@dataclass(frozen=True, slots=True)
class Close(Request[bool]):
    """End a session because its client says so; False when it is not there, or not the client's."""

    id: SessionId
    principal: str
    wanted: Selector


@dataclass(frozen=True, slots=True)
class Expire:
    """End what has been idle for too long."""


@dataclass(frozen=True, slots=True)
class CountSessions(Request[int]):
    """How many there are."""


SessionsMessage: TypeAlias = Open | Close | Expire | CountSessions | RegisterAgain | ServersChanged


def attach(
    sessions: Mapping[SessionId, Session], id: SessionId, principal: str, wanted: Selector
) -> Session | None:
    """Use a session for one request or stream; None when there is none for this principal on this path.

    Everyone who was given the session calls its `detach` when done.
    """
    session = sessions.get(id)
    if session is None or not session.is_for(principal, wanted):
        return None
    session.attach()
    return session


class Sessions(LoopActor[dict[SessionId, Session]]):
    """Owner of the table `services.sessions`. Each handler changes it by one assignment or one deletion, as its last
    act.

    So the table itself can be the estate: it is whole after a crash, and a copy per opened session would cost more
    than everything else a session does. And a request can read it: it need not ask.
    """

    def __init__(self, services: DoorServices) -> None:
        super().__init__()
        self._services = services
        self._node = services.node
        self._sessions = services.sessions

    def on_start(self, estate: dict[SessionId, Session] | None = None) -> None:
        if estate is None and self.incarnation > 1:
            self._node.clients.tell(DoorEmpty(ClientKind.SESSION))
        if estate is None:
            self._sessions.clear()
        self.estate = self._sessions
        self._count()
        self._sweep_later()

    def on_exit(self, reason: ExitReason) -> None:
        if isinstance(reason, Crashed | Killed):
            return
        for session in list(self._sessions.values()):
            self._end(session, "the node stops", node_stops=True)

    @answers(Open)
    def _on_open(self, request: Open) -> Opened | NotOpened:
        limit = self._node.settings.limits.sessions
        if len(self._sessions) >= limit:
            self._expire()
        if len(self._sessions) >= limit:
            return NotOpened(None)
        selector = resolve_selector(self._node.world.world, request.wanted, within=request.within)
        if selector is None:
            return NotOpened(_gone(request.initialize))
        session = Session(
            SessionId(secrets.token_urlsafe(SESSION_ID_BYTES)),
            now=self._node.clock.monotonic(),
            wanted=request.wanted,
            within=request.within,
        )
        session.front = Front(
            self._services,
            principal=request.principal,
            selector=selector,
            conversation=f"session:{session.id}",
            load=self._services.load,
            notify=session.notify,
        )
        step = session.front.receive(request.initialize)
        if not isinstance(step, AnswerStep) or step.is_error:
            return NotOpened(step if isinstance(step, AnswerStep) else None)
        session.users = 1
        self._node.subscribers.tell(Join(session.consumer, selector, session.front.on_snapshot_changed))
        self._node.clients.tell(Register(session.client))
        self._node.tell_event(EventKind.SESSION_OPENED, client=session.front.client, cause=DOOR)
        self._sessions[session.id] = session
        self._count()
        return Opened(session, step)

    @answers(Close)
    def _on_close(self, request: Close) -> bool:
        session = self._find(request.id, request.principal, request.wanted)
        if session is not None:
            self._end(session, "the client closed it")
        return session is not None

    @handles(Expire)
    def _on_expire(self, _: Expire) -> None:
        self._expire()
        self._sweep_later()

    @answers(CountSessions)
    def _on_count(self, _: CountSessions) -> int:
        return len(self._sessions)

    @handles(RegisterAgain)
    def _on_register_again(self, _: RegisterAgain) -> None:
        for session in self._sessions.values():
            self._node.clients.tell(Register(session.client))

    @handles(ServersChanged)
    def _on_servers_changed(self, _: ServersChanged) -> None:
        world = self._node.world.world
        for session in list(self._sessions.values()):
            selector = resolve_selector(world, session.wanted, within=session.within)
            if selector is None:
                self._end(session, "what it was opened for is not there any more")
            elif selector != session.front.selector:
                session.front.select(selector)
                self._node.subscribers.tell(
                    Join(session.consumer, selector, session.front.on_snapshot_changed)
                )
                self._node.clients.tell(Register(session.client))

    def _find(self, session_id: SessionId, principal: str, wanted: Selector) -> Session | None:
        session = self._sessions.get(session_id)
        return session if session is not None and session.is_for(principal, wanted) else None

    def _expire(self) -> None:
        now = self._node.clock.monotonic()
        oldest = now - self._node.settings.limits.session_idle_seconds
        for session in list(self._sessions.values()):
            session.streams.expire(now)
            if not session.users and session.idle_since <= oldest:
                self._end(session, "nothing was in flight for too long")

    def _end(self, session: Session, reason: str, *, node_stops: bool = False) -> None:
        session.end(reason, node_stops=node_stops)
        self._node.subscribers.tell(Leave(session.consumer))
        self._node.clients.tell(Unregister(session.client.id, reason))
        self._node.tell_event(
            EventKind.SESSION_CLOSED, client=session.front.client, reason=reason, cause=DOOR
        )
        del self._sessions[session.id]
        self._count()

    def _sweep_later(self) -> None:
        limit = self._node.settings.limits.session_idle_seconds
        self.after(min(SWEEP_SECONDS, limit / SWEEPS_PER_LIMIT), Expire())

    def _count(self) -> None:
        self._node.metrics.sessions(DOOR, ERA).set(len(self._sessions))
        self._services.on_sessions(DOOR, len(self._sessions))


def _gone(request: RpcRequest) -> AnswerStep:
    why = "what this path names is not there any more"
    return AnswerStep(encode_failure(request.id, code=INVALID_REQUEST, message=why), is_error=True)
