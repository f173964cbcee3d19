"""One session of HTTP+SSE, the transport of 2024-11-05: one stream for all that comes, and a place to post to.

The stream is the session: it is not taken up again, and when it ends the session is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from .events import Place, read_events
from .exchange import Answer, ExchangeError
from .headers import EVENT_STREAM, absolute, same_origin, shown, stream_headers
from .session import Exchange, HttpSession
from .types import HttpFailure, HttpLimits, HttpRoute, HttpSink


class HttpSseSession(HttpSession):
    """See the module. Every message comes on the session's stream, so `on_message` never names a request;
    a request is over when it is settled, or fails."""

    def __init__(self, route: HttpRoute, *, sink: HttpSink, limits: HttpLimits) -> None:
        super().__init__(route, sink=sink, limits=limits)
        self._url = route.url
        self._endpoint: asyncio.Future[str] = self._loop.create_future()
        self._end: HttpFailure | None = None
        self._start(self._hold_stream())

    def open_stream(self) -> None:
        """It has been open from the start."""

    async def _address(self) -> str:
        if self._end is not None:
            raise ExchangeError(self._end)
        # Shielded: who waits for it is cancelled alone.
        return await asyncio.shield(self._endpoint)

    async def _say_goodbye(self) -> None:
        """Its stream is closed, and that is all."""

    def _check_forgotten(self, answer: Answer, sent: Mapping[str, str]) -> None:
        """The session is its stream: no answer to a message speaks of it."""

    async def _exchange(
        self, exchange: Exchange, body: bytes, headers: Mapping[str, str]
    ) -> HttpFailure | None:
        answer, _ = await self._post(body, headers, timeout=self._limits.answer_timeout)
        try:
            if not answer.is_success:
                return await answer.read_failure(self._limits.answer_timeout)
        finally:
            answer.close()
        await exchange.settled.wait()
        return None

    async def _hold_stream(self) -> None:
        try:
            answer = await self._open()
            try:
                failure = await self._read(answer)
            finally:
                answer.close()
        except ExchangeError as error:
            failure = error.failure
        self._end = failure
        if not self._endpoint.done():
            self._endpoint.set_exception(ExchangeError(failure))
            # Nobody may be waiting, and that is no mistake.
            self._endpoint.exception()
        for exchange in self._exchanges.values():
            exchange.end(failure)
        self._lose(f"its stream is gone: {failure}")

    async def _open(self) -> Answer:
        sent = stream_headers(self._base, "")
        answer = await self._client.open("GET", self._url, sent, timeout=self._limits.answer_timeout)
        if answer.is_success and answer.media_type == EVENT_STREAM:
            return answer
        try:
            raise ExchangeError(await answer.read_failure(self._limits.answer_timeout))
        finally:
            answer.close()

    async def _read(self, answer: Answer) -> HttpFailure:
        timeout = self._limits.answer_timeout
        try:
            async with asyncio.timeout(timeout) as bound:

                def on_event(kind: str, data: bytes) -> None:
                    if kind == "endpoint":
                        self._take_endpoint(data)
                        # The first event; after it the stream may be silent for ever.
                        bound.reschedule(None)
                    elif kind == "message":
                        self._tell_message(data, None)

                await read_events(answer, Place(), limit=self._limits.message_bytes, on_event=on_event)
        except TimeoutError:
            return HttpFailure("timeout", f"did not say within {timeout:g} s where messages are posted")
        return HttpFailure("ended", "ended the session's stream")

    def _take_endpoint(self, data: bytes) -> None:
        if self._endpoint.done():
            return
        where = absolute(self._url, data.decode(errors="replace").strip())
        if where is None or not same_origin(self._url, where):
            found = shown(where) if where else "no address"
            message = f"wants messages posted to {found}, which is not where its credentials may go"
            raise ExchangeError(HttpFailure("redirect", message))
        self._endpoint.set_result(where)
