"""The client of a legacy session while a call of its is under way: it is asked in requests of our own."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec
from msgspec import Raw

from mcpv_node.actors.instance.messages import Answer
from mcpv_node.protocol import (
    CANCELLED,
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    PROGRESS,
    Failure,
    RawId,
    RemoteProtocolError,
    Success,
    admits,
    cancelled,
    encode_notification,
    encode_request,
    keep,
    members,
    offers,
    retoken_progress,
    untag_notification,
)

from .ports import Emit, Gone
from .tasks import TaskRef, as_client_knows, is_for_client

LOG_MESSAGE: Final = "notifications/message"


UNHEARD: Final = Answer(error=b'{"code":-32603,"message":"the client does not read what it is asked"}')
LEFT: Final = Answer(error=b'{"code":-32603,"message":"the client is not there any more"}')


class Questions:
    """What one session's client has been asked and has not answered yet. Used on the loop's thread."""

    def __init__(self) -> None:
        self._open: dict[RawId, asyncio.Future[Answer]] = {}
        self._last = 0

    async def ask(
        self, method: str, params: bytes | Raw | None, emit: Emit, gone: Gone | None = None
    ) -> Answer:
        """Ask, and wait until the client answers, for as long as the call it belongs to; with `gone`, until that."""
        self._last += 1
        id = RawId(b"%d" % self._last)
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._open[id] = answered
        try:
            if not emit(encode_request(id, method, params), may_be_dropped=False):
                return UNHEARD
            if gone is None or await _before(answered, gone):
                return await answered
            _withdraw(id, "nobody was there to answer", emit)
            return LEFT
        except asyncio.CancelledError:
            _withdraw(id, "it is not needed any more", emit)
            raise
        finally:
            del self._open[id]

    def on_answer(self, message: Success | Failure) -> None:
        """The client has answered something; what nobody has asked is nobody's."""
        answered = None if message.id is None else self._open.get(message.id)
        if answered is None or answered.done():
            return
        if isinstance(message, Success):
            answered.set_result(Answer(result=keep(message.result)))
        else:
            answered.set_result(Answer(error=keep(message.error)))


async def _before(answered: asyncio.Future[Answer], gone: Gone) -> bool:
    """Wait for either; tell whether the answer has come."""
    leaving = asyncio.get_running_loop().create_task(gone())
    either: set[asyncio.Future[Any]] = {answered, leaving}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    finally:
        leaving.cancel()
    return answered.done()


def _withdraw(id: RawId, why: str, emit: Emit) -> None:
    emit(encode_notification(CANCELLED, cancelled(id, why)), may_be_dropped=False)


class SessionPort:
    """See the module. `gone`: how it is known that the client has left, where a call does not end with that."""

    __slots__ = ("_capabilities", "_emit", "_gone", "_questions", "_task", "_token", "log_level")

    def __init__(
        self,
        *,
        token: Raw | None,
        log_level: str | None,
        capabilities: bytes,
        questions: Questions,
        emit: Emit,
        gone: Gone | None = None,
        task: TaskRef | None = None,
    ) -> None:
        self.log_level = log_level
        self._token = token
        self._capabilities = capabilities
        self._questions = questions
        self._emit = emit
        self._gone = gone
        self._task = task  # what the call is about, where that is a task

    @property
    def wants_progress(self) -> bool:
        return self._token is not None

    def on_progress(self, params: Raw) -> None:
        if self._token is not None:
            self._emit(
                encode_notification(PROGRESS, retoken_progress(params, self._token)), may_be_dropped=True
            )

    def on_note(self, method: str, params: Raw | None) -> None:
        if not is_for_client(self._task, method, params):
            return
        if method != LOG_MESSAGE or self.log_level is None or admits(level_of(params), self.log_level):
            said = untag_notification(as_client_knows(self._task, params))
            self._emit(encode_notification(method, said), may_be_dropped=True)

    async def ask(self, method: str, params: bytes | Raw | None) -> Answer:
        try:
            is_offered = offers(self._capabilities, method, params)
        except RemoteProtocolError as error:
            return _refusal(INVALID_PARAMS, str(error))
        if not is_offered:
            return _refusal(METHOD_NOT_FOUND, f"{method} is not offered by this client")
        return await self._questions.ask(method, as_client_knows(self._task, params), self._emit, self._gone)


def _refusal(code: int, message: str) -> Answer:
    return Answer(error=msgspec.json.encode({"code": code, "message": message}))


def level_of(params: Raw | None) -> str:
    """How severe a log message says it is; one that does not say is taken for the least that is usually shown."""
    try:
        return msgspec.json.decode(members(params or b"{}").get("level", Raw(b'"info"')), type=str)
    except msgspec.DecodeError:
        return "info"
