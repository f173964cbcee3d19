"""MCP's Streamable HTTP in the legacy era: POST, GET and DELETE on one path, with sessions.

A POST is answered with JSON when the reply is all there is to say, and with a stream of events when something else
comes first; nothing is committed until then, or until the client must see a sign of life. That a client hangs up
does not cancel its call: in this era it says so.
"""

from __future__ import annotations

import asyncio
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from mcpv_node.actors.kernel import Handle
from mcpv_node.actors.world import Selector
from mcpv_node.protocol import (
    INITIALIZE,
    INVALID_REQUEST,
    LEGACY,
    CallFailure,
    EnvelopeError,
    Message,
    RawId,
    Reason,
    Request,
    comment,
    encode_event,
    encode_failure,
    parse_message,
)

from .asgi import SSE, Disconnected, Exchange, Headers, TooLarge, accepts, is_json
from .calls import RETRY_AFTER, failure_reply
from .front import AnswerStep, CallStep, RunStep, SilentStep
from .outbox import Mark, Outbox
from .services import DoorServices
from .sessions import (
    Attach,
    Close,
    NotOpened,
    Open,
    Session,
    SessionId,
    SessionsMessage,
)

# Proxies and NATs forget a connection that is silent for a minute; twice in that time is safe (seconds).
KEEPALIVE = 25.0

# A look into the session table takes microseconds; longer means that its owner is being restarted (seconds).
SESSION_BOUND = 5.0

ALLOWED: Final = b"GET, POST, DELETE"
SESSION_HEADER: Final = b"mcp-session-id"
VERSION_HEADER: Final = b"mcp-protocol-version"
KEY_HEADER: Final = b"mcpv-key"

# A longer one would only be a way to fill memory.
MAX_KEY = 256

_KEEPALIVE_COMMENT: Final = comment("keepalive")


class Place(Struct, frozen=True):
    """Who asks, and for which part of the node."""

    principal: str
    selector: Selector


class McpEndpoint:
    """Every `/mcp` path of one door. `streams` are the readers that must end when the door closes."""

    def __init__(self, services: DoorServices, sessions: Handle[SessionsMessage]) -> None:
        self._services = services
        self._sessions = sessions
        self._limits = services.node.settings.limits
        self._streams: set[Outbox] = set()

    @property
    def _now(self) -> float:
        return self._services.node.clock.monotonic()

    def close_streams(self) -> None:
        """End every stream that would stay open by itself; calls go on."""
        for stream in list(self._streams):
            stream.close()

    async def handle(self, exchange: Exchange, place: Place) -> None:
        """Answer one request that may be here."""
        match exchange.method:
            case "POST":
                await self._post(exchange, place)
            case "GET":
                await self._get(exchange, place)
            case "DELETE":
                await self._delete(exchange, place)
            case _:
                await exchange.problem(
                    405, f"{exchange.method} is not used here", headers=[(b"allow", ALLOWED)]
                )

    # --- POST -----------------------------------------------------------------------------------

    async def _post(self, exchange: Exchange, place: Place) -> None:
        if not is_json(exchange.header(b"content-type")):
            await exchange.problem(415, "the Content-Type must be application/json")
            return
        accept = exchange.header(b"accept")
        if not (accepts(accept, "application/json") and accepts(accept, "text/event-stream")):
            await exchange.problem(406, "Accept must admit both application/json and text/event-stream")
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
        if (
            isinstance(message, Request)
            and message.method == INITIALIZE
            and exchange.header(SESSION_HEADER) is None
        ):
            await self._initialize(exchange, place, message)
            return
        session = await self._attach(exchange, place, message.id if isinstance(message, Request) else None)
        if session is None:
            return
        try:
            await self._in_session(exchange, session, message)
        finally:
            session.detach(self._now)

    async def _initialize(self, exchange: Exchange, place: Place, request: Request) -> None:
        opened = await self._sessions.ask(Open(place.principal, place.selector, request), SESSION_BOUND)
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

    async def _attach(self, exchange: Exchange, place: Place, id: RawId | None) -> Session | None:
        """Find the session a request names; when it may not be used, the answer has been given."""
        version = exchange.header(VERSION_HEADER)
        if version is not None and version not in LEGACY:
            spoken = ", ".join(LEGACY)
            await _refuse(exchange, 400, f"MCP-Protocol-Version is not one of {spoken}", id=id)
            return None
        name = exchange.header(SESSION_HEADER)
        if not name:
            await _refuse(exchange, 400, "Mcp-Session-Id is missing; initialize comes first", id=id)
            return None
        attach = Attach(SessionId(name), place.principal, place.selector)
        session = await self._sessions.ask(attach, SESSION_BOUND)
        if session is None:
            await _refuse(exchange, 404, "there is no such session; initialize a new one", id=id)
        return session

    async def _in_session(self, exchange: Exchange, session: Session, message: Message) -> None:
        key = exchange.header(KEY_HEADER)
        if key is not None and not 0 < len(key) <= MAX_KEY:
            await _refuse(exchange, 400, f"Mcpv-Key is not 1 to {MAX_KEY} characters long")
            return
        step = session.front.receive(message, key=key)
        match step:
            case AnswerStep():
                await exchange.answer(200, step.head, rest=step.rest)
            case SilentStep():
                await exchange.answer(202)
            case _:
                await self._call(exchange, session, step)

    async def _call(self, exchange: Exchange, session: Session, step: RunStep) -> None:
        if isinstance(step, CallStep) and step.route.call.progress_token is None:
            await self._call_quietly(exchange, session, step)
        else:
            await self._call_with_progress(exchange, session, step)

    async def _call_quietly(self, exchange: Exchange, session: Session, step: CallStep) -> None:
        """Nothing comes before the reply, so the request waits for it itself; most calls are such."""
        life = _SignsOfLife(exchange)
        try:
            reply = await session.front.run_call(step, _ignore)
        finally:
            await life.end()
        await _finish(exchange, reply, is_streaming=life.is_streaming)

    async def _call_with_progress(self, exchange: Exchange, session: Session, step: RunStep) -> None:
        progress = Outbox()
        task = asyncio.get_running_loop().create_task(session.front.run_call(step, progress.put))

        def ended(_: asyncio.Task[bytes | None]) -> None:
            # A task that is cancelled before its first step never comes to its own end.
            session.front.forget(step)
            progress.close()

        task.add_done_callback(ended)
        is_streaming = False
        try:
            while (item := await progress.next(KEEPALIVE)) is not Mark.CLOSED:
                if not is_streaming:
                    is_streaming = True
                    await exchange.start_events()
                await exchange.send_event(_as_event(item))
            reply = task.result() if not task.cancelled() else _interrupted(step)
            await _finish(exchange, reply, is_streaming=is_streaming)
        finally:
            # Only the door's own end gets here with the call under way: its bound for calls in hand is over.
            task.cancel("the node stops")

    # --- GET and DELETE -------------------------------------------------------------------------

    async def _get(self, exchange: Exchange, place: Place) -> None:
        if not accepts(exchange.header(b"accept"), SSE.decode()):
            await exchange.problem(406, "Accept must admit text/event-stream")
            return
        session = await self._attach(exchange, place, None)
        if session is None:
            return
        stream = session.take_stream()
        self._streams.add(stream)
        gone = asyncio.get_running_loop().create_task(exchange.disconnected())
        gone.add_done_callback(lambda _: stream.close())
        try:
            await exchange.start_events()
            # The client's headers are complete once something follows them.
            await exchange.send_event(_KEEPALIVE_COMMENT)
            while (item := await stream.next(KEEPALIVE)) is not Mark.CLOSED:
                await exchange.send_event(_as_event(item))
            await exchange.end_events()
        finally:
            gone.cancel()
            self._streams.discard(stream)
            session.leave_stream(stream)
            session.detach(self._now)

    async def _delete(self, exchange: Exchange, place: Place) -> None:
        name = exchange.header(SESSION_HEADER)
        if not name:
            await _refuse(exchange, 400, "Mcp-Session-Id is missing")
            return
        closed = await self._sessions.ask(
            Close(SessionId(name), place.principal, place.selector), SESSION_BOUND
        )
        if closed:
            await exchange.answer(204)
        else:
            await _refuse(exchange, 404, "there is no such session")


class _SignsOfLife:
    """Opens the stream of an answer that takes long, and keeps it open with comments until the answer is there."""

    __slots__ = ("_exchange", "_loop", "_task", "_timer", "is_streaming")

    def __init__(self, exchange: Exchange) -> None:
        self.is_streaming = False
        self._exchange = exchange
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(KEEPALIVE, self._begin)

    async def end(self) -> None:
        """Write no more from here on; what was begun has been written whole."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._show())

    async def _show(self) -> None:
        await self._exchange.start_events()
        self.is_streaming = True
        while True:
            await self._exchange.send_event(_KEEPALIVE_COMMENT)
            await asyncio.sleep(KEEPALIVE)


def _ignore(_: bytes) -> None:
    """What a call without a progress token has to say on the way: nothing."""


async def _finish(exchange: Exchange, reply: bytes | None, *, is_streaming: bool) -> None:
    """Answer with JSON, or end the stream with the answer; None: the client has cancelled."""
    if not is_streaming and reply is not None:
        await exchange.answer(200, reply)
        return
    if not is_streaming:
        # A cancelled request has no answer, and a stream is what may end without one.
        await exchange.start_events()
    if reply is not None:
        await exchange.send_event(encode_event(reply))
    await exchange.end_events()


def _as_event(item: bytes | Mark) -> bytes:
    return encode_event(item) if isinstance(item, bytes) else _KEEPALIVE_COMMENT


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


def _interrupted(step: RunStep) -> bytes:
    """The answer to a request that was ended from inside the node."""
    failure = CallFailure(reason=Reason.STOPPING, message="the node stops", server="", executed="no")
    if isinstance(step, CallStep):
        failure = replace(failure, server=step.route.server.view.name, executed="unknown")
    return failure_reply(failure).encode(step.id)
