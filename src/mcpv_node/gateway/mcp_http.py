"""MCP's Streamable HTTP: POST, GET and DELETE on one path, with sessions in the legacy era; `modern_http` has the other.

How one call is answered is `call_answer`'s; the streams of a session are in `streams`. GET reads the session's own
stream, or goes on after the event it names in `Last-Event-ID`.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from mcpv_node.actors.kernel import Handle
from mcpv_node.protocol import (
    INITIALIZE,
    INVALID_REQUEST,
    LEGACY,
    CallFailure,
    EnvelopeError,
    Legacy,
    McpHeaders,
    Message,
    RawId,
    Reason,
    Request,
    encode_failure,
    judge_post,
    parse_message,
    read_headers,
)

from .asgi import SSE, Disconnected, Exchange, TooLarge, accepts, is_json
from .call_answer import CallAnswer, write_events
from .calls import RETRY_AFTER, failure_reply
from .front import AnswerStep, RunStep, SilentStep
from .heads import METHOD, NAME, Headers
from .modern_http import KEY_HEADER, MAX_KEY, ModernHttp, is_modern
from .outbox import Reader
from .places import Place
from .services import DoorServices
from .sessions import (
    Close,
    NotOpened,
    Open,
    Session,
    SessionId,
    SessionsMessage,
    attach,
)

# A look into the session table takes microseconds; longer means that its owner is being restarted (seconds).
SESSION_BOUND = 5.0

ALLOWED: Final = b"GET, POST, DELETE"
SESSION_HEADER: Final = b"mcp-session-id"
VERSION_HEADER: Final = b"mcp-protocol-version"
LAST_EVENT_HEADER: Final = b"last-event-id"


class _NoSession(Struct, frozen=True):
    """Why a request has no session, as it is answered."""

    status: int
    message: str

    async def refuse(self, exchange: Exchange, id: RawId | None) -> None:
        await _refuse(exchange, self.status, self.message, id=id)


_NO_SUCH_SESSION: Final = _NoSession(404, "there is no such session; initialize a new one")


class McpEndpoint:
    """Every `/mcp` path of one door. `streams` are the readers that must end when the door closes."""

    def __init__(self, services: DoorServices, sessions: Handle[SessionsMessage]) -> None:
        self._services = services
        self._sessions = sessions
        self._limits = services.node.settings.limits
        self._streams: set[Reader] = set()
        self._modern = ModernHttp(services)

    @property
    def _now(self) -> float:
        return self._services.node.clock.monotonic()

    def close_streams(self) -> None:
        """End every stream that would stay open by itself; calls go on."""
        for stream in list(self._streams):
            stream.close()
        self._modern.close_streams()

    def look_again(self) -> None:
        """The servers or profiles have changed; the sessions are seen to by their owner."""
        self._modern.look_again()

    def handle(self, exchange: Exchange, place: Place) -> Coroutine[None, None, None]:
        """Answer one request that may be here."""
        match exchange.method:
            case "POST":
                return self._post(exchange, place)
            case "GET" | "DELETE" if is_modern(exchange):
                return _not_allowed(exchange, "this version has requests only", b"POST")
            case "GET":
                return self._get(exchange, place)
            case "DELETE":
                return self._delete(exchange, place)
            case _:
                return _not_allowed(exchange, f"{exchange.method} is not used here", ALLOWED)

    # --- POST -----------------------------------------------------------------------------------

    async def _post(self, exchange: Exchange, place: Place) -> None:
        headers = _headers_again(exchange) or await _read_head(exchange)
        if headers is None:
            return
        try:
            body = await exchange.body(self._limits.body_bytes)
        except TooLarge:
            await exchange.problem(413, f"the body is larger than {self._limits.body_bytes} bytes")
            return
        except Disconnected:
            return
        try:
            message = parse_message(body, depth=self._limits.depth)
        except EnvelopeError as error:
            await _refuse(exchange, 400, error.message, code=error.code, id=error.id)
            return
        verdict = judge_post(message, headers)
        if not isinstance(verdict, Legacy):
            await self._modern.answer(exchange, place, message, verdict, headers)
            return
        if (
            isinstance(message, Request)
            and message.method == INITIALIZE
            and exchange.header(SESSION_HEADER) is None
        ):
            await self._initialize(exchange, place, message)
            return
        session = self._attach(exchange, place)
        if isinstance(session, _NoSession):
            await session.refuse(exchange, message.id if isinstance(message, Request) else None)
            return
        try:
            await self._in_session(exchange, session, message)
        finally:
            session.detach(self._now)

    async def _initialize(self, exchange: Exchange, place: Place, request: Request) -> None:
        opened = await self._sessions.ask(
            Open(place.principal, place.wanted, request, place.within), SESSION_BOUND
        )
        if isinstance(opened, NotOpened):
            answer = _too_many_sessions(request) if opened.answer is None else opened.answer.data
            await exchange.answer(200, answer)
            return
        session_id = opened.session.id
        try:
            await exchange.answer(
                200, opened.answer.data, headers=[(SESSION_HEADER, session_id.encode("ascii"))]
            )
        finally:
            opened.session.detach(self._now)

    def _attach(self, exchange: Exchange, place: Place) -> Session | _NoSession:
        """Find the session a request names, or why it may not be used."""
        version = exchange.header(VERSION_HEADER)
        if version is not None and version not in LEGACY:
            return _NoSession(400, f"MCP-Protocol-Version is not one of {', '.join(LEGACY)}")
        name = exchange.header(SESSION_HEADER)
        if not name:
            return _NoSession(400, "Mcp-Session-Id is missing; initialize comes first")
        session = attach(self._services.sessions, SessionId(name), place.principal, place.wanted)
        return _NO_SUCH_SESSION if session is None else session

    def _in_session(
        self, exchange: Exchange, session: Session, message: Message
    ) -> Coroutine[None, None, None]:
        key = exchange.header(KEY_HEADER)
        if key is not None and not 0 < len(key) <= MAX_KEY:
            return _refuse(exchange, 400, f"Mcpv-Key is not 1 to {MAX_KEY} characters long")
        step = session.front.receive(message, key=key)
        if isinstance(step, AnswerStep):
            return exchange.answer(200, step.head, rest=step.rest)
        if isinstance(step, SilentStep):
            return exchange.answer(202)
        return self._call(exchange, session, step)

    async def _call(self, exchange: Exchange, session: Session, step: RunStep) -> None:
        answer = CallAnswer(exchange, session, self._services.node)
        try:
            await answer.finish(await session.front.run_call(step, answer.emit, answer.wait_gone))
        finally:
            # Only the door's own end gets here with the call under way: its bound for calls in hand is over.
            answer.abandon()

    # --- GET and DELETE -------------------------------------------------------------------------

    async def _get(self, exchange: Exchange, place: Place) -> None:
        if not accepts(exchange.header(b"accept"), SSE.decode()):
            await exchange.problem(406, "Accept must admit text/event-stream")
            return
        session = self._attach(exchange, place)
        if isinstance(session, _NoSession):
            await session.refuse(exchange, None)
            return
        try:
            reader = session.streams.connect(exchange.header(LAST_EVENT_HEADER))
            if reader is None:
                await _refuse(exchange, 400, "what followed this Last-Event-ID is not kept any more")
                return
            # A stream with an answer to come ends by itself, like the request it was opened for.
            if reader.outbox is session.streams.standing:
                self._streams.add(reader)
            try:
                await write_events(exchange, reader, primes=session.primes)
            finally:
                self._streams.discard(reader)
        finally:
            session.detach(self._now)

    async def _delete(self, exchange: Exchange, place: Place) -> None:
        name = exchange.header(SESSION_HEADER)
        if not name:
            await _refuse(exchange, 400, "Mcp-Session-Id is missing")
            return
        closed = await self._sessions.ask(
            Close(SessionId(name), place.principal, place.wanted), SESSION_BOUND
        )
        if closed:
            await exchange.answer(204)
        else:
            await _refuse(exchange, 404, "there is no such session")


def _headers_again(exchange: Exchange) -> McpHeaders | None:
    """What the head of a POST says to MCP, where it is one that is known to be fit for that."""
    known = exchange.head.mcp
    if known is None:
        return None
    method, name = exchange.own.get(METHOD), exchange.own.get(NAME)
    if (known.method, known.name) != (method, name):
        known = exchange.head.mcp = replace(known, method=method, name=name)
    return known


async def _read_head(exchange: Exchange) -> McpHeaders | None:
    """What the head of a POST says to MCP, and a note of it there; None when it is not fit for that and refused."""
    if not is_json(exchange.header(b"content-type")):
        await exchange.problem(415, "the Content-Type must be application/json")
        return None
    accept = exchange.header(b"accept")
    if not (accepts(accept, "application/json") and accepts(accept, "text/event-stream")):
        await exchange.problem(406, "Accept must admit both application/json and text/event-stream")
        return None
    headers = exchange.head.mcp = read_headers(exchange.lines)
    return headers


async def _not_allowed(exchange: Exchange, detail: str, allowed: bytes) -> None:
    await exchange.problem(405, detail, headers=[(b"allow", allowed)])


async def _refuse(
    exchange: Exchange,
    status: int,
    message: str,
    *,
    code: int = INVALID_REQUEST,
    id: RawId | None = None,
    headers: Headers | None = None,
) -> None:
    await exchange.answer(status, encode_failure(id, code=code, message=message), headers=headers)


def _too_many_sessions(request: Request) -> bytes:
    failure = CallFailure(
        reason=Reason.OVERLOADED,
        message="there are too many sessions",
        server="",
        executed="no",
        retry_after=RETRY_AFTER,
    )
    return failure_reply(failure).encode(request.id)
