"""An instance whose server is behind a URL: one session over HTTP, of whichever kind the server speaks.

Each request has an exchange of its own, so what a server asks or tells in between is known to belong to it. A session
that the server has forgotten is over, like a process that has ended; what was refused for that goes to the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from msgspec import structs

from mcpv_node.actors.kernel import ExitReason, handles
from mcpv_node.actors.snapshot import Kind
from mcpv_node.protocol import (
    CANCELLED,
    DISCOVER,
    LATEST_MODERN,
    LEGACY,
    EnvelopeError,
    Failure,
    Listed,
    MirroredParam,
    Reason,
    RemoteProtocolError,
    cancelled,
    encode_notification,
    members,
    parse_message,
    parse_mirrored,
    read_trace,
    request_headers,
)
from mcpv_node.transports.http import (
    HttpFailure,
    HttpLimits,
    HttpRoute,
    HttpSession,
    HttpSseSession,
    StreamableHttpSession,
)

from .actor import Instance, Phase
from .messages import InstanceStarting
from .moments import StartTimedOut
from .pending import PendingCall

# Beside the calls: lists, pings, a subscription that stands while another one comes.
OWN_REQUESTS = 16

# What a server has not taken of what we sent before we stop sending (bytes).
MAX_UNSENT = 64 * 1024 * 1024

_NO_REPLY = HttpFailure("content", "answered with something that is no reply", status=200)

# Tools of one server whose mirrored params are remembered; they are read out of their definitions.
REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class Received:
    """A message has come; on the exchange of a request of ours, or on the session's own stream."""

    data: bytes
    request: int | None


@dataclass(frozen=True, slots=True)
class ExchangeOver:
    """The exchange of a request has ended."""

    request: int
    failure: HttpFailure | None


@dataclass(frozen=True, slots=True)
class Lost:
    """The server does not know the session any more."""

    why: str


@dataclass(frozen=True, slots=True)
class Unsent:
    """Something that wants no answer did not arrive, or the session's own stream is gone."""

    failure: HttpFailure


@dataclass(frozen=True, slots=True)
class Closed:
    """The session has been taken leave of."""

    outcome: Exception | None


class HttpInstance(Instance):
    """See the module."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self._session: HttpSession | None = None
        self._is_lost = False

    # --- start ----------------------------------------------------------------------------------

    def on_start(self, estate: None = None) -> None:
        is_sse = self._spec.transport == "sse"
        self._session = self._make_session(HttpSseSession if is_sse else StreamableHttpSession)
        self._owner.tell(InstanceStarting(self._id, None))
        self._start_timer = self.after(self._spec.start_timeout_seconds, StartTimedOut())
        if is_sse:
            self._enter(Phase.HANDSHAKING)
            self._opening.initialize(LEGACY[-1])
        else:
            self._begin_handshake()

    def _make_session(self, kind: type[HttpSession]) -> HttpSession:
        spec, node = self._spec, self._node
        return kind(
            HttpRoute(
                spec.url,
                spec.headers,
                spec.tls,
                spec.proxy,
                node.environ,
                spec.oauth,
                None if spec.oauth is None else node.state_dir / "oauth" / f"{self._spec_key}.json",
            ),
            sink=_Sink(self),
            limits=HttpLimits(node.settings.limits.line_bytes, spec.max_concurrent + OWN_REQUESTS),
        )

    def _try_sse(self) -> None:
        former = self._session
        if former is not None:
            system = self._node.system
            system.keep(system.loop.create_task(former.close(grace=0.0)))
        self._session = self._make_session(HttpSseSession)
        self._opening.initialize(LEGACY[-1])

    def _on_ready(self) -> None:
        if self._session is not None and self._hello is not None and not self._is_modern:
            self._session.adopt(protocol_version=self._hello.version)
            self._session.open_stream()

    # --- the way to the server ------------------------------------------------------------------

    def _transmit(self, message: bytes) -> None:
        if self._session is not None:
            self._session.send(message)

    def _transmit_request(
        self,
        number: int,
        method: str,
        params: bytes | None,
        message: bytes,
        *,
        definition: bytes | None = None,
    ) -> None:
        if self._session is not None:
            headers = self._headers(method, params, definition)
            if self._node.tracing is not None:
                headers = {**headers, **read_trace(params)}
            self._session.send_request(number, message, headers=headers)

    def _headers(self, method: str, params: bytes | None, definition: bytes | None) -> Mapping[str, str]:
        """What a modern server wants to see of a request beside it."""
        version = self._hello.version if self._hello is not None else LATEST_MODERN
        if not self._is_modern and method != DISCOVER:
            return {}
        mirrored = () if definition is None else _mirrored_of(definition)
        return dict(request_headers(method, params, version=version, mirrored=mirrored))

    def _close_stream(self, number: int) -> None:
        if self._session is not None:
            self._session.abort_request(number)

    def _withdraw(self, number: int, reason: str) -> bool:
        if not self._is_modern:
            self._transmit(encode_notification(CANCELLED, cancelled(number, reason)))
            return False
        # In this era a client that hangs up has cancelled.
        self._close_stream(number)
        return True

    @property
    def _unread(self) -> str | None:
        if self._session is None or self._session.unsent <= MAX_UNSENT:
            return None
        return "the server does not take what it is sent"

    def _complaint(self, kind: Kind, one: Listed) -> str | None:
        """A tool whose arguments cannot be mirrored as it says must not be called (2026-07-28, SEP-2243)."""
        if kind != "tools" or not self._is_modern:
            return None
        try:
            parse_mirrored(members(one.definition)["inputSchema"])
        except RemoteProtocolError as error:
            return str(error)
        return None

    def _on_settled(self, number: int) -> None:
        if self._session is not None:
            self._session.settle(number)

    def _on_unwanted(self, number: int) -> None:
        self._close_stream(number)

    # --- what the server sends ------------------------------------------------------------------

    @handles(Received)
    def _on_received(self, message: Received) -> None:
        self._on_message(message.data, stream=message.request)

    @handles(ExchangeOver)
    def _on_exchange_over(self, message: ExchangeOver) -> None:
        # Where nothing has failed and somebody still waits, what came was no reply to it.
        failure, number = message.failure or _NO_REPLY, message.request
        if failure.is_json and not self._is_forgotten(failure) and (error := self._error_in(failure.body)):
            # The status says nothing that the error in the body does not, but to the probe of the era.
            if not self._own.on_reply(number, error, failure.status):
                self._on_reply(error, number)
            return
        if self._phase is Phase.HANDSHAKING and failure.status is None:
            self._begin_stop(f"handshake failed: {failure}")
        elif self._own.on_reply(number, None, failure.status) or self._watching.on_reply(number, None):
            self._log.debug("an exchange of ours has failed: {}", failure)
        elif (call := self._pending.get(number)) is not None:
            self._fail_call(call, failure)

    def _error_in(self, body: bytes) -> Failure | None:
        """The error that an answer without success holds: of this exchange, whatever it names."""
        try:
            reply = parse_message(body, depth=self._node.settings.limits.depth)
        except EnvelopeError:
            return None
        return structs.replace(reply, id=None) if isinstance(reply, Failure) else None

    def _fail_call(self, call: PendingCall, failure: HttpFailure) -> None:
        """There will be no reply; what the server cannot have acted on goes to another instance."""
        executed = "unknown" if failure.was_sent and not self._is_forgotten(failure) else "no"
        match failure.kind:
            case "content" | "too_large":
                reason = Reason.BAD_REPLY
            case "busy":
                reason = Reason.OVERLOADED
            case _:
                reason = Reason.INSTANCE_DIED if executed == "unknown" else Reason.STOPPING
        self._end_call(call, self._failed(reason, str(failure), executed=executed, call=call))
        if not failure.was_sent and failure.kind != "busy":
            self._retire(str(failure))

    def _is_forgotten(self, failure: HttpFailure) -> bool:
        """A session that is not known any more has not served the request (2025-11-25, basic/transports)."""
        return failure.status == 404 and self._is_lost

    @handles(Lost)
    def _on_lost(self, message: Lost) -> None:
        self._is_lost = True
        if self._phase is Phase.READY:
            self._retire_when_done(message.why)
        else:
            self._begin_stop(message.why)

    @handles(Unsent)
    def _on_unsent(self, message: Unsent) -> None:
        self._log.debug("what needs no answer did not arrive: {}", message.failure)

    # --- the end --------------------------------------------------------------------------------

    def on_shutdown(self) -> None:
        self._stop_for("the node is stopping")

    def _close(self) -> bool:
        session = self._session
        if session is None:
            return True
        self.run(session.close(grace=self._spec.stop_grace_seconds), Closed)
        return False

    @handles(Closed)
    def _on_closed_session(self, message: Closed) -> None:
        if isinstance(message.outcome, Exception):
            raise message.outcome
        self._session = None
        self._on_closed()

    def on_exit(self, reason: ExitReason) -> None:
        """Whatever this actor's end was, its session ends too."""
        session = self._session
        if session is not None:
            self._session = None
            system = self._node.system
            system.keep(system.loop.create_task(session.close(grace=0.0)))


class _Sink:
    """Turns the session's callbacks into messages: handlers are the only place where the actor acts."""

    __slots__ = ("_instance",)

    def __init__(self, instance: HttpInstance) -> None:
        self._instance = instance

    def on_message(self, data: bytes, request: int | None) -> None:
        self._instance.note_now(Received(data, request))

    def on_request_over(self, request: int, failure: HttpFailure | None) -> None:
        self._instance.note(ExchangeOver(request, failure))

    def on_send_failed(self, failure: HttpFailure) -> None:
        self._instance.note(Unsent(failure))

    def on_stream_lost(self, failure: HttpFailure) -> None:
        self._instance.note(Unsent(failure))

    def on_session_lost(self, why: str) -> None:
        self._instance.note(Lost(why))


@lru_cache(REMEMBERED)
def _mirrored_of(definition: bytes) -> tuple[MirroredParam, ...]:
    """The arguments that a tool wants to see in headers."""
    try:
        found = members(definition)
        return parse_mirrored(found["inputSchema"])
    except (KeyError, RemoteProtocolError):
        return ()
