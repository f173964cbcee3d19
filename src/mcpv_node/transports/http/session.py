"""What every session over HTTP is made of: requests in flight, the order of what is sent, and an end.

Subclasses say how one request is exchanged. All of it happens on the running loop; a task is only ever waiting
for the network.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Final

from loguru import logger

from .exchange import Answer, ExchangeError, HttpClient
from .headers import PROTOCOL_VERSION, default_headers, message_headers
from .types import HttpFailure, HttpLimits, HttpRoute, HttpSink

NO_HEADERS: Final[Mapping[str, str]] = {}

# A server ends the stream of a request with its reply; one that does not holds a connection for nothing.
SETTLED_GRACE = 1.0


class Exchange:
    """One request of ours that is in flight."""

    __slots__ = ("failure", "number", "patience", "settled", "task")

    def __init__(self, number: int) -> None:
        self.number = number
        self.settled = asyncio.Event()
        # Why it was ended from outside, if it was.
        self.failure: HttpFailure | None = None
        self.patience: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[HttpFailure | None] | None = None

    @property
    def is_settled(self) -> bool:
        return self.settled.is_set()

    def end(self, failure: HttpFailure | None) -> None:
        """Stop waiting; `failure` is what is told."""
        self.failure = failure
        if self.task is not None:
            self.task.cancel()


class HttpSession(ABC):
    """One session with a server behind a URL, for one owner on the running loop.

    Its methods return at once, and what comes of them is told to the sink. What was sent before a request arrives
    before it. After `close` no task and no connection is left.
    """

    def __init__(self, route: HttpRoute, *, sink: HttpSink, limits: HttpLimits) -> None:
        self._sink = sink
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._client = HttpClient(route, limits)
        # What goes with every message of this session.
        self._base = default_headers(route.headers)
        self._exchanges: dict[int, Exchange] = {}
        self._others: set[asyncio.Task[None]] = set()
        self._last_send: asyncio.Task[None] | None = None
        self._unsent = 0
        self._is_closed = False
        self._is_lost = False

    # ---- what the owner does ----

    @property
    def in_flight(self) -> int:
        """How many requests have not come to their end."""
        return len(self._exchanges)

    @property
    def unsent(self) -> int:
        """How many bytes of notifications and responses wait to be taken; the owner refuses more above its limit."""
        return self._unsent

    def send_request(self, number: int, body: bytes, *, headers: Mapping[str, str] = NO_HEADERS) -> None:
        """Send a request, under a number of the owner's that is not in flight."""
        if self._is_closed:
            return
        assert number not in self._exchanges, f"request {number} is in flight"
        if len(self._exchanges) >= self._limits.requests:
            failure = HttpFailure("busy", f"already has {self._limits.requests} requests of ours in flight")
            self._loop.call_soon(self._tell_over, number, failure)
            return
        exchange = self._exchanges[number] = Exchange(number)
        exchange.task = self._loop.create_task(self._run(exchange, body, headers, self._last_send))
        exchange.task.add_done_callback(lambda task: self._on_exchange_done(exchange, task))

    def settle(self, number: int) -> None:
        """Say that a request has its reply: its stream is read to its end, which should come now, and not resumed."""
        exchange = self._exchanges.get(number)
        if exchange is not None and not exchange.is_settled:
            exchange.settled.set()
            exchange.patience = self._loop.call_later(SETTLED_GRACE, exchange.end, None)

    def abort_request(self, number: int) -> None:
        """Close a request's stream; nothing more is told of it. For a modern server this cancels it."""
        exchange = self._exchanges.pop(number, None)
        if exchange is not None:
            exchange.end(None)

    def send(self, body: bytes, *, headers: Mapping[str, str] = NO_HEADERS) -> None:
        """Send a notification or a response, after those sent before."""
        if self._is_closed:
            return
        self._unsent += len(body)
        task = self._start(self._send(body, headers, self._last_send))
        task.add_done_callback(lambda _: self._on_sent(task, len(body)))
        self._last_send = task

    @abstractmethod
    def open_stream(self) -> None:
        """Hear what the server says on its own account, if it has a stream for that; once per session."""

    def adopt(self, *, protocol_version: str) -> None:
        """Say which version was agreed: it goes with everything from now on."""
        self._base[PROTOCOL_VERSION] = protocol_version

    async def close(self, *, grace: float) -> None:
        """End the session within `grace` seconds, as its kind has it, and let go of all. Idempotent.

        What was sent arrives first, if the server takes it in half of that time; requests in flight are left.
        """
        if self._is_closed:
            return
        self._is_closed = True
        deadline = self._loop.time() + grace
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(grace / 2):
                    await _until_done(self._last_send)
        finally:
            tasks = self._cancel_all()
        try:
            if tasks:
                # They were cancelled, and no task of ours holds on to that.
                await asyncio.wait(tasks)
            with suppress(ExchangeError, TimeoutError):
                async with asyncio.timeout_at(deadline):
                    await self._say_goodbye()
        finally:
            await self._client.close()

    def _cancel_all(self) -> list[asyncio.Task[HttpFailure | None] | asyncio.Task[None]]:
        tasks: list[asyncio.Task[HttpFailure | None] | asyncio.Task[None]] = [*self._others]
        tasks += [exchange.task for exchange in self._exchanges.values() if exchange.task is not None]
        for task in tasks:
            task.cancel()
        return tasks

    # ---- what the kinds differ in ----

    @abstractmethod
    async def _exchange(
        self, exchange: Exchange, body: bytes, headers: Mapping[str, str]
    ) -> HttpFailure | None:
        """Have one request answered; raises ExchangeError."""

    @abstractmethod
    async def _address(self) -> str:
        """Where messages are posted, once that is known."""

    @abstractmethod
    async def _say_goodbye(self) -> None:
        """Tell the server that the session is over."""

    @abstractmethod
    def _check_forgotten(self, answer: Answer, sent: Mapping[str, str]) -> None:
        """Notice from an answer that the server has forgotten the session."""

    # ---- what they share ----

    async def _post(
        self, body: bytes, headers: Mapping[str, str], *, timeout: float | None
    ) -> tuple[Answer, Mapping[str, str]]:
        """Send one message; return the answer, whatever its status, and the headers that went out."""
        sent = message_headers(self._base, headers)
        answer = await self._client.open("POST", await self._address(), sent, body, timeout=timeout)
        self._check_forgotten(answer, sent)
        return answer, sent

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._others.add(task)
        task.add_done_callback(self._on_other_done)
        return task

    def _tell_message(self, data: bytes, request: int | None) -> None:
        # An empty event only gives an id to resume from.
        if (
            data
            and not data.isspace()
            and not self._is_closed
            and (request is None or request in self._exchanges)
        ):
            self._sink.on_message(data, request)

    def _lose(self, why: str) -> None:
        if not self._is_lost and not self._is_closed:
            self._is_lost = True
            self._sink.on_session_lost(why)

    async def _run(
        self, exchange: Exchange, body: bytes, headers: Mapping[str, str], after: asyncio.Task[None] | None
    ) -> HttpFailure | None:
        await _until_done(after)
        try:
            return await self._exchange(exchange, body, headers)
        except ExchangeError as error:
            return error.failure

    async def _send(self, body: bytes, headers: Mapping[str, str], after: asyncio.Task[None] | None) -> None:
        await _until_done(after)
        try:
            answer, _ = await self._post(body, headers, timeout=self._limits.answer_timeout)
            try:
                if answer.is_success:
                    return
                failure = await answer.read_failure(self._limits.answer_timeout)
            finally:
                answer.close()
        except ExchangeError as error:
            failure = error.failure
        if not self._is_closed:
            self._sink.on_send_failed(failure)

    def _on_sent(self, task: asyncio.Task[None], size: int) -> None:
        self._unsent -= size
        if self._last_send is task:
            self._last_send = None

    def _on_exchange_done(self, exchange: Exchange, task: asyncio.Task[HttpFailure | None]) -> None:
        if exchange.patience is not None:
            exchange.patience.cancel()
        failure = exchange.failure
        if not task.cancelled():
            error = task.exception()
            failure = task.result() if error is None else _fault(error)
        if self._exchanges.pop(exchange.number, None) is not None:
            self._tell_over(exchange.number, None if exchange.is_settled else failure)

    def _tell_over(self, number: int, failure: HttpFailure | None) -> None:
        if not self._is_closed:
            self._sink.on_request_over(number, failure)

    def _on_other_done(self, task: asyncio.Task[None]) -> None:
        self._others.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._lose(_fault(error).message)


async def _until_done(task: asyncio.Task[None] | None) -> None:
    if task is not None and not task.done():
        await asyncio.wait((task,))


def _fault(error: BaseException) -> HttpFailure:
    logger.opt(exception=error).error("a fault in an HTTP session")
    return HttpFailure("fault", f"could not be asked: {type(error).__name__}: {error}")
