"""One session of Streamable HTTP, in both eras.

Legacy (up to 2025-11-25): the server may give the session an id; a stream that ends before its reply is taken up
again with Last-Event-ID, if the server gave its events ids; there may be a stream for what the server says on its
own account. Modern (from 2026-07-28): none of that, and a stream that breaks is a request that failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from mcpv_node.protocol import MODERN

from .events import Place, read_events
from .exchange import Answer, ExchangeError
from .headers import EVENT_STREAM, PROTOCOL_VERSION, SESSION_ID, is_session_id, stream_headers
from .session import Exchange, HttpSession
from .types import HttpFailure, HttpLimits, HttpRoute, HttpSink

# Connections refused or broken in a row until a stream is given up: with the usual delay half a minute.
RESUME_TRIES = 5

_NOT_FOUND: Final = 404
_NO_STREAM: Final = 405
# Statuses that pass: try again.
_PASSING: Final = frozenset({408, 425, 429, *range(500, 600)})

_NOTHING: Final = HttpFailure("content", "answered with JSON that is empty")
_ENDED: Final = HttpFailure("ended", "ended the stream without a reply")


class StreamableHttpSession(HttpSession):
    """See the module."""

    def __init__(self, route: HttpRoute, *, sink: HttpSink, limits: HttpLimits) -> None:
        super().__init__(route, sink=sink, limits=limits)
        self._url = route.url
        self._is_modern = False
        self._has_stream = False

    @property
    def session_id(self) -> str | None:
        """What the server calls the session, if it gave it a name."""
        return self._base.get(SESSION_ID)

    def adopt(self, *, protocol_version: str) -> None:
        super().adopt(protocol_version=protocol_version)
        self._is_modern = protocol_version in MODERN

    def open_stream(self) -> None:
        if not self._has_stream and not self._is_closed and not self._is_modern:
            self._has_stream = True
            self._start(self._hold_stream(self._last_send))

    async def _address(self) -> str:
        return self._url

    async def _say_goodbye(self) -> None:
        if self.session_id is not None and not self._is_lost:
            # 405: it does not let clients end sessions. Whatever it says, we are gone.
            (await self._client.open("DELETE", self._url, self._base)).close()

    # ---- a request ----

    async def _exchange(
        self, exchange: Exchange, body: bytes, headers: Mapping[str, str]
    ) -> HttpFailure | None:
        # How long a call may take its caller knows.
        answer, sent = await self._post(body, headers, timeout=None)
        try:
            if not answer.is_success:
                return await answer.read_failure(self._limits.answer_timeout)
            self._take_session_id(answer, sent)
            if answer.media_type != EVENT_STREAM:
                if not answer.is_json:
                    return await answer.read_failure(self._limits.answer_timeout)
                data = await answer.read()
                self._tell_message(data, exchange.number)
                return None if data and not data.isspace() else _NOTHING
            place = Place()
            failure = await self._read(answer, place, exchange.number)
        finally:
            answer.close()
        is_modern = sent.get(PROTOCOL_VERSION) in MODERN
        while not exchange.is_settled and not is_modern and place.last_id and _can_resume(failure):
            failure = await self._read_again(place, exchange.number)
        return failure

    async def _read_again(self, place: Place, number: int) -> HttpFailure:
        await asyncio.sleep(place.delay())
        answer = await self._open_stream(place)
        if answer is None:
            return HttpFailure("status", "ended the stream, and has none to go on with", status=_NO_STREAM)
        place.fruitless += 1
        try:
            return await self._read(answer, place, number)
        finally:
            answer.close()

    async def _read(self, answer: Answer, place: Place, number: int | None) -> HttpFailure:
        """Tell what comes on a stream; return how it ended."""

        def on_event(kind: str, data: bytes) -> None:
            if kind == "message":
                self._tell_message(data, number)

        try:
            await read_events(answer, place, limit=self._limits.message_bytes, on_event=on_event)
        except ExchangeError as error:
            return error.failure
        return _ENDED

    async def _open_stream(self, place: Place) -> Answer | None:
        """Open a stream from `place` on, trying again what passes; None if the server has none. Raises ExchangeError."""
        tries = 0
        while True:
            tries += 1
            try:
                return await self._try_stream(place)
            except ExchangeError as error:
                failure = error.failure
                passes = failure.status in _PASSING if failure.status else _can_reopen(failure)
                if not passes or tries >= RESUME_TRIES:
                    raise
            place.fruitless += 1
            await asyncio.sleep(place.delay())

    async def _try_stream(self, place: Place) -> Answer | None:
        sent = stream_headers(self._base, place.last_id)
        answer = await self._client.open("GET", self._url, sent, timeout=self._limits.answer_timeout)
        if answer.is_success and answer.media_type == EVENT_STREAM:
            return answer
        try:
            self._check_forgotten(answer, sent)
            if answer.status == _NO_STREAM:
                return None
            raise ExchangeError(await answer.read_failure(self._limits.answer_timeout))
        finally:
            answer.close()

    # ---- the session's own stream ----

    async def _hold_stream(self, after: asyncio.Task[None] | None) -> None:
        if after is not None and not after.done():
            await asyncio.wait((after,))
        place = Place()
        try:
            while (answer := await self._open_stream(place)) is not None:
                place.fruitless += 1
                try:
                    failure = await self._read(answer, place, None)
                finally:
                    answer.close()
                if not _can_resume(failure):
                    raise ExchangeError(failure)
                await asyncio.sleep(place.delay())
        except ExchangeError as error:
            if not self._is_lost and not self._is_closed:
                self._sink.on_stream_lost(error.failure)

    # ---- the session's name ----

    def _take_session_id(self, answer: Answer, sent: Mapping[str, str]) -> None:
        if self._is_modern or self.session_id is not None or sent.get(PROTOCOL_VERSION) in MODERN:
            return
        name = answer.header(SESSION_ID)
        if name is None:
            return
        if not is_session_id(name):
            raise ExchangeError(HttpFailure("content", "gave the session an id that no header may hold"))
        self._base[SESSION_ID] = name

    def _check_forgotten(self, answer: Answer, sent: Mapping[str, str]) -> None:
        if answer.status == _NOT_FOUND and SESSION_ID in sent:
            self._lose("the server does not know the session any more")


def _can_resume(failure: HttpFailure) -> bool:
    return failure.kind in ("ended", "broken")


def _can_reopen(failure: HttpFailure) -> bool:
    return failure.kind in ("connect", "proxy", "timeout", "broken")
