"""HTTP+SSE: one stream that is the session, and messages posted where the server says."""

from __future__ import annotations

import asyncio

import pytest
from support.children import run
from support.http_servers import HttpServer, Request
from support.http_sinks import TIMEOUT, RecordingHttpSink, sse

from mcpv_node.transports.http import HttpLimits

CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}'
REPLY = b'{"jsonrpc":"2.0","id":1,"result":{}}'
NOTE = b'{"jsonrpc":"2.0","method":"notifications/progress"}'

on_both_loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


class OldServer:
    """A server of 2024-11-05, as far as bytes go: every message posted is echoed on the stream by `says`."""

    def __init__(self, *, endpoint: str = "/messages?session=1", post_status: int | None = 202) -> None:
        self.endpoint = endpoint
        self.post_status = post_status
        self.stream: Request | None = None
        self.is_open = asyncio.Event()
        self.is_over = asyncio.Event()

    async def __call__(self, request: Request) -> None:
        if request.method == "GET":
            await request.stream()
            self.stream = request
            if self.endpoint:
                await request.chunk(b"event: endpoint\ndata: " + self.endpoint.encode() + b"\n\n")
            self.is_open.set()
            await self.is_over.wait()
            await request.end()
        elif self.post_status is not None:
            await request.reply(self.post_status)
        else:
            await request.closed()

    async def opened(self) -> None:
        async with asyncio.timeout(TIMEOUT):
            await self.is_open.wait()

    async def says(self, data: bytes) -> None:
        await self.opened()
        assert self.stream is not None
        await self.stream.event(data)


@on_both_loops
def test_reply_comes_on_the_stream_and_the_owner_settles_it(loop: str) -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        old = OldServer()
        async with HttpServer(old) as server, sse(server.url, sink, headers={"X-A": "1"}) as session:
            session.send_request(1, CALL)
            post = await server.asked(2)
            await old.says(NOTE)
            await old.says(REPLY)
            await sink.until(lambda: len(sink.messages) == 2)

            assert sink.messages == [(NOTE, None), (REPLY, None)]
            assert session.in_flight == 1
            session.settle(1)
            assert await sink.until_over(1) is None
            assert (post.method, post.path, post.body) == ("POST", "/messages?session=1", CALL)
            assert post.headers["x-a"] == "1"

    run(main(), loop)


def test_messages_wait_for_the_place_and_keep_their_order() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        old = OldServer()
        async with HttpServer(old) as server, sse(server.url, sink) as session:
            session.open_stream()
            session.send(b"1")
            session.send(b"2")
            session.send_request(3, b"3")

            await server.asked(4)
            assert [request.body for request in server.requests[1:]] == [b"1", b"2", b"3"]

    run(main())


def test_what_was_sent_arrives_before_the_stream_is_closed() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        old = OldServer(post_status=202)
        async with HttpServer(old) as server:
            async with sse(server.url, sink) as session:
                await old.opened()
                session.send(b"1")
                session.send(b"2")

            assert [request.body for request in server.requests[1:]] == [b"1", b"2"]

    run(main())


def test_place_on_another_origin_gets_nothing() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()

        async def unexpected(request: Request) -> None:
            raise AssertionError(request.path)

        async with HttpServer(unexpected) as thief:
            old = OldServer(endpoint=f"{thief.url}?q=1")
            async with HttpServer(old) as server, sse(server.url, sink) as session:
                session.send_request(1, CALL)

                failure = await sink.until_failed(1)
                assert failure.kind == "redirect"
                assert "not where its credentials may go" in sink.lost[0]
                old.is_over.set()

    run(main())


@on_both_loops
def test_end_of_the_stream_is_the_end_of_the_session(loop: str) -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        old = OldServer()
        async with HttpServer(old) as server, sse(server.url, sink) as session:
            session.send_request(1, CALL)
            await server.asked(2)
            old.is_over.set()

            assert (await sink.until_failed(1)).kind == "ended"
            assert sink.lost == ["its stream is gone: ended the session's stream"]
            session.send(NOTE)
            session.send_request(2, CALL)
            assert (await sink.until_failed(2)).kind == "ended"
            await sink.until(lambda: sink.send_failures)
            assert len(server.requests) == 2

    run(main(), loop)


def test_server_that_never_says_where_to_post_is_given_up() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        limits = HttpLimits(message_bytes=1000, requests=8, answer_timeout=0.5)
        old = OldServer(endpoint="")
        async with HttpServer(old) as server, sse(server.url, sink, limits=limits) as session:
            session.send(NOTE)
            session.send_request(1, CALL)

            failure = await sink.until_failed(1)
            assert failure.message == "did not say within 0.5 s where messages are posted"
            assert [told.kind for told in sink.send_failures] == ["timeout"]
            old.is_over.set()

    run(main())


def test_stream_may_be_silent_once_the_place_is_known() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        limits = HttpLimits(message_bytes=1000, requests=8, answer_timeout=1.0)
        old = OldServer(post_status=None)
        async with HttpServer(old) as server, sse(server.url, sink, limits=limits) as session:
            await old.opened()
            session.send(NOTE)
            # Begun after the wait for the first word, and as long: by now that one would be over.
            await sink.until(lambda: sink.send_failures)
            await old.says(NOTE)
            await sink.until(lambda: sink.messages)

            assert sink.lost == []
            assert session.in_flight == 0

    run(main())


def test_no_stream_at_all_fails_everything_with_the_status() -> None:
    async def refuse(request: Request) -> None:
        await request.reply(404)

    async def main() -> None:
        sink = RecordingHttpSink()
        async with HttpServer(refuse) as server, sse(server.url, sink) as session:
            session.send_request(1, CALL)

            assert (await sink.until_failed(1)).status == 404
            assert sink.lost == ["its stream is gone: answered 404 Not Found"]

    run(main())


def test_request_that_is_not_taken_fails_and_the_session_goes_on() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        old = OldServer(post_status=400)
        async with HttpServer(old) as server, sse(server.url, sink) as session:
            session.send_request(1, CALL)

            assert (await sink.until_failed(1)).status == 400
            assert sink.lost == []

    run(main())
