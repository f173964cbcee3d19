"""A request over HTTP is answered once, whatever the server answers with, or fails with a reason."""

from __future__ import annotations

import asyncio
import gzip

import pytest
from support.children import run
from support.http_servers import HttpServer, Request, json_reply, script, status
from support.http_sinks import LIMITS, RecordingHttpSink, streamable

from mcpv_node.transports.http import HttpLimits

CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}'
REPLY = b'{"jsonrpc":"2.0","id":1,"result":{"big":123456789012345678901234567890,"text":"\xc3\xa4"}}'
NOTE = b'{"jsonrpc":"2.0","method":"notifications/progress"}'

on_both_loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


@on_both_loops
def test_json_answer_is_told_as_it_came(loop: str) -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        async with HttpServer(script(json_reply(REPLY))) as server, streamable(server.url, sink) as session:
            session.send_request(1, CALL)

            assert await sink.until_over(1) is None
            assert sink.messages == [(REPLY, 1)]
            assert session.in_flight == 0

    run(main(), loop)


@on_both_loops
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_told_however_they_are_cut(loop: str, size: int) -> None:
    async def answer(request: Request) -> None:
        stream = b": hello\r\n\r\nid: 1\r\ndata: \r\n\r\n" + b"event: message\ndata: " + NOTE + b"\n\n"
        stream += b"event: other\ndata: x\n\n" + b"data: " + REPLY + b"\n\n"
        await request.stream()
        for start in range(0, len(stream), size):
            await request.chunk(stream[start : start + size])
        await request.end()

    async def main() -> None:
        sink = RecordingHttpSink()
        async with HttpServer(answer) as server, streamable(server.url, sink) as session:
            session.send_request(1, CALL)

            assert await sink.until_over(1) is None
            assert sink.messages == [(NOTE, 1), (REPLY, 1)]

    run(main(), loop)


def test_request_says_what_it_is_and_what_was_configured() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        configured = {"X-Team": "tools", "Authorization": "Bearer t", "Accept": "nothing"}
        async with (
            HttpServer(script(json_reply(REPLY))) as server,
            streamable(server.url, sink, headers=configured) as session,
        ):
            session.adopt(protocol_version="2026-07-28")
            session.send_request(1, CALL, headers={"Mcp-Method": "tools/call", "Content-Type": "x"})

            headers = (await server.asked(1)).headers
            assert headers["accept"] == "application/json, text/event-stream"
            assert headers["content-type"] == "application/json"
            assert headers["authorization"] == "Bearer t"
            assert headers["x-team"] == "tools"
            assert headers["mcp-method"] == "tools/call"
            assert headers["mcp-protocol-version"] == "2026-07-28"
            assert server.requests[0].body == CALL
            await sink.until_over(1)

    run(main())


def test_user_and_password_of_an_address_become_a_header() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        async with HttpServer(script(json_reply(REPLY))) as server:
            url = server.url.replace("http://", "http://me:pass%20word@")
            async with streamable(url, sink) as session:
                session.send_request(1, CALL)

                assert await sink.until_over(1) is None
                assert server.requests[0].headers["authorization"] == "Basic bWU6cGFzcyB3b3Jk"

    run(main())


def test_compressed_answer_is_unpacked() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        packed = json_reply(gzip.compress(REPLY), Content_Encoding="gzip")
        async with HttpServer(script(packed)) as server, streamable(server.url, sink) as session:
            session.send_request(1, CALL)

            assert await sink.until_over(1) is None
            assert sink.data == [REPLY]
            assert "gzip" in server.requests[0].headers["accept-encoding"]

    run(main())


def test_answers_one_after_another_share_a_connection() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        steps = [json_reply(REPLY)] * 3
        async with HttpServer(script(*steps)) as server, streamable(server.url, sink) as session:
            for number in range(3):
                session.send_request(number, CALL)
                await sink.until_over(number)

            assert server.connections == 1

    run(main())


def test_calls_at_once_do_not_wait_for_each_other() -> None:
    async def answer(request: Request) -> None:
        if request.json() == 1:
            await request.go_on.wait()
        await request.reply(body=b'{"result":%s}' % request.body)

    async def main() -> None:
        sink = RecordingHttpSink()
        async with HttpServer(answer) as server, streamable(server.url, sink) as session:
            session.send_request(1, b"1")
            slow = await server.asked(1)
            session.send_request(2, b"2")

            assert await sink.until_over(2) is None
            assert sink.messages == [(b'{"result":2}', 2)]
            assert session.in_flight == 1
            slow.go_on.set()
            assert await sink.until_over(1) is None

    run(main())


def test_more_requests_than_the_bound_are_refused_and_not_sent() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        limits = HttpLimits(message_bytes=1000, requests=1)
        async with (
            HttpServer(wait_for_ever) as server,
            streamable(server.url, sink, limits=limits) as session,
        ):
            session.send_request(1, CALL)
            session.send_request(2, CALL)

            failure = await sink.until_failed(2)
            assert failure.kind == "busy"
            assert not failure.was_sent
            await server.asked(1)
            assert len(server.requests) == 1

    run(main())


def test_error_of_the_protocol_comes_whole_with_its_status() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        body = b'{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"%s"}}' % (b"x" * 10_000)
        async with (
            HttpServer(script(json_reply(body, status=400))) as server,
            streamable(server.url, sink) as session,
        ):
            session.send_request(1, CALL)

            failure = await sink.until_failed(1)
            assert (failure.kind, failure.status, failure.is_json) == ("status", 400, True)
            assert failure.body == body
            assert sink.messages == []

    run(main())


def test_refusal_says_what_is_wanted() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        refusal = status(401, WWW_Authenticate='Bearer scope="a"', Retry_After="7")
        async with HttpServer(script(refusal)) as server, streamable(server.url, sink) as session:
            session.send_request(1, CALL)

            failure = await sink.until_failed(1)
            assert failure.message == "answered 401 Unauthorized"
            assert (failure.www_authenticate, failure.retry_after) == ('Bearer scope="a"', "7")

    run(main())


@pytest.mark.parametrize(
    ("content_type", "body", "message"),
    [
        ("text/html", b"<html>login</html>", "answered 200 OK with text/html, which is no message"),
        ("text/plain", b"", "answered 200 OK with no content, which is no message"),
        ("application/json", b" \n", "answered with JSON that is empty"),
    ],
)
def test_answer_that_is_no_message_is_a_failure(content_type: str, body: bytes, message: str) -> None:
    async def answer(request: Request) -> None:
        await request.reply(200, body, content_type)

    async def main() -> None:
        sink = RecordingHttpSink()
        async with HttpServer(answer) as server, streamable(server.url, sink) as session:
            session.send_request(1, CALL)

            failure = await sink.until_failed(1)
            assert (failure.kind, failure.message) == ("content", message)

    run(main())


async def wait_for_ever(request: Request) -> None:
    await request.go_on.wait()


async def say_its_length(request: Request) -> None:
    await request.reply(body=b"1" * 2000)


async def hide_its_length(request: Request) -> None:
    await request.stream(Content_Type="application/json")
    for _ in range(20):
        await request.chunk(b"1" * 100)
    await request.end()


async def pack_it(request: Request) -> None:
    await request.reply(body=gzip.compress(b"1" * 200_000), Content_Encoding="gzip")


async def stream_it(request: Request) -> None:
    await request.stream()
    await request.chunk(b"id: 1\ndata: " + b"1" * 2000)
    await request.closed()


@pytest.mark.parametrize("answer", [say_its_length, hide_its_length, pack_it, stream_it])
def test_answer_above_the_bound_is_refused(answer: object) -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        limits = HttpLimits(message_bytes=1000, requests=8)
        async with HttpServer(answer) as server, streamable(server.url, sink, limits=limits) as session:  # type: ignore[arg-type]
            session.send_request(1, CALL)

            failure = await sink.until_failed(1)
            assert failure.kind == "too_large"
            assert "1000 bytes" in failure.message
            assert len(server.requests) == 1

    run(main())


def test_large_request_arrives_whole() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        body = b'"' + b"x" * 3_000_000 + b'"'
        async with HttpServer(script(json_reply(REPLY))) as server, streamable(server.url, sink) as session:
            session.send_request(1, body)

            assert await sink.until_over(1) is None
            assert server.requests[0].body == body

    run(main())


async def hang_up(request: Request) -> None:
    request.cut()


async def break_off(request: Request) -> None:
    await request.stream(Content_Type="application/json")
    await request.chunk(b"{")
    request.cut()


async def talk_nonsense(request: Request) -> None:
    await request.raw(b"220 smtp.example.org ESMTP\r\n\r\n")


@pytest.mark.parametrize(
    ("answer", "kind"), [(hang_up, "broken"), (break_off, "broken"), (talk_nonsense, "content")]
)
@on_both_loops
def test_broken_exchange_fails_as_one_that_may_have_been_seen(loop: str, answer: object, kind: str) -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        async with HttpServer(answer) as server, streamable(server.url, sink) as session:  # type: ignore[arg-type]
            session.send_request(1, CALL)

            failure = await sink.until_failed(1)
            assert failure.kind == kind
            assert failure.was_sent
            assert len(server.requests) == 1

    run(main(), loop)


def test_port_where_nobody_listens_fails_as_not_sent() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        async with HttpServer(hang_up) as server:
            pass
        async with streamable(server.url, sink) as session:
            session.send_request(1, CALL)

            failure = await sink.until_failed(1)
            assert failure.kind == "connect"
            assert not failure.was_sent
            assert failure.message == "took no connection: Connection refused"

    run(main())


@on_both_loops
def test_aborted_request_closes_its_connection_and_is_not_told(loop: str) -> None:
    async def stall(request: Request) -> None:
        await request.stream()
        await request.event(NOTE)
        await request.closed()

    async def main() -> None:
        sink = RecordingHttpSink()
        async with HttpServer(stall) as server, streamable(server.url, sink) as session:
            session.send_request(1, CALL)
            await sink.until(lambda: sink.messages)

            session.abort_request(1)

            await server.requests[0].until_gone()
            assert sink.over == {}
            assert session.in_flight == 0

    run(main(), loop)


@on_both_loops
def test_closing_ends_requests_without_a_word(loop: str) -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        async with HttpServer(wait_for_ever) as server, streamable(server.url, sink) as session:
            session.send_request(1, CALL)
            session.send(NOTE)
            await server.asked(1)

            await session.close(grace=0.1)
            await session.close(grace=0.1)
            session.send_request(2, CALL)
            session.send(NOTE)

            assert sink.over == {}
            assert sink.send_failures == []
            assert session.in_flight == 0

    run(main(), loop)


def test_stream_that_stays_open_after_the_reply_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcpv_node.transports.http.session.SETTLED_GRACE", 0.01)

    async def linger(request: Request) -> None:
        await request.stream()
        await request.event(REPLY)
        await request.closed()

    async def main() -> None:
        sink = RecordingHttpSink()
        async with HttpServer(linger) as server, streamable(server.url, sink) as session:
            session.send_request(1, CALL)

            assert await sink.until_over(1) is None
            assert sink.data == [REPLY]

    run(main())


def test_redirect_to_the_same_origin_is_followed_and_remembered() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        steps = [status(307, Location="/mcp/"), json_reply(REPLY), json_reply(REPLY)]
        async with (
            HttpServer(script(*steps)) as server,
            streamable(server.url, sink, headers={"Authorization": "Bearer t"}) as session,
        ):
            for number in (1, 2):
                session.send_request(number, CALL)
                assert await sink.until_over(number) is None

            assert [request.path for request in server.requests] == ["/mcp", "/mcp/", "/mcp/"]
            assert server.requests[1].body == CALL
            assert server.requests[1].headers["authorization"] == "Bearer t"

    run(main())


def test_redirect_to_another_origin_is_refused_and_gets_no_credentials() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        async with HttpServer(script()) as thief:
            away = status(307, Location=thief.url + "?q=1")
            async with HttpServer(script(away)) as server, streamable(server.url, sink) as session:
                session.send_request(1, CALL)

                failure = await sink.until_failed(1)
                assert failure.kind == "redirect"
                assert thief.url in failure.message
                assert thief.requests == []

    run(main())


@pytest.mark.parametrize("code", [301, 302, 303])
def test_redirect_that_would_lose_the_message_is_refused(code: int) -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        async with (
            HttpServer(script(status(code, Location="/login"))) as server,
            streamable(server.url, sink) as session,
        ):
            session.send_request(1, CALL)

            failure = await sink.until_failed(1)
            assert failure.kind == "redirect"
            assert failure.status == code

    run(main())


def test_redirects_in_a_circle_end() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        async with (
            HttpServer(status(307, Location="/mcp")) as server,
            streamable(server.url, sink) as session,
        ):
            session.send_request(1, CALL)

            assert (await sink.until_failed(1)).kind == "redirect"

    run(main())


def test_messages_arrive_in_the_order_they_were_sent() -> None:
    async def answer(request: Request) -> None:
        if request.json() == 1:
            await request.go_on.wait()
        await (request.reply(202) if request.json() != 3 else request.reply(body=REPLY))

    async def main() -> None:
        sink = RecordingHttpSink()
        async with HttpServer(answer) as server, streamable(server.url, sink) as session:
            session.send(b"1")
            session.send(b"2")
            session.send_request(3, b"3")
            first = await server.asked(1)

            assert session.unsent == 2
            assert len(server.requests) == 1
            first.go_on.set()
            assert await sink.until_over(3) is None
            assert [request.body for request in server.requests] == [b"1", b"2", b"3"]
            assert session.unsent == 0

    run(main())


def test_message_that_is_not_taken_is_told_and_the_next_goes_on() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        steps = [json_reply(b'{"error":"no"}', status=400), json_reply(REPLY)]
        async with HttpServer(script(*steps)) as server, streamable(server.url, sink) as session:
            session.send(NOTE)
            session.send_request(1, CALL)

            assert await sink.until_over(1) is None
            assert [failure.status for failure in sink.send_failures] == [400]

    run(main())


def test_message_nobody_answers_is_given_up_after_its_bound() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        limits = HttpLimits(message_bytes=1000, requests=8, answer_timeout=0.05)
        async with (
            HttpServer(wait_for_ever) as server,
            streamable(server.url, sink, limits=limits) as session,
        ):
            session.send(NOTE)

            await sink.until(lambda: sink.send_failures)
            assert sink.send_failures[0].message == "did not answer within 0.05 s"

    run(main())


def test_fault_of_ours_ends_the_request_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("oh")

    monkeypatch.setattr("mcpv_node.transports.http.session.message_headers", fail)

    async def main() -> None:
        sink = RecordingHttpSink()
        async with streamable("http://127.0.0.1:9/", sink, limits=LIMITS) as session:
            session.send_request(1, CALL)

            failure = await sink.until_failed(1)
            assert (failure.kind, failure.message) == ("fault", "could not be asked: RuntimeError: oh")

    run(main())


@pytest.mark.parametrize("value", ["a\r\nb", "a\nb"])
def test_header_that_cannot_be_written_fails_its_request(value: str) -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        async with HttpServer(script()) as server, streamable(server.url, sink) as session:
            session.send_request(1, CALL, headers={"Mcp-Name": value})

            assert (await sink.until_failed(1)).kind == "fault"
            assert server.requests == []

    run(main())


def test_many_small_calls_at_once_are_all_answered() -> None:
    async def answer(request: Request) -> None:
        await request.stream()
        await request.event(b'{"result":%s}' % request.body)
        await request.end()

    async def main() -> None:
        sink = RecordingHttpSink()
        limits = HttpLimits(message_bytes=1000, requests=64)
        async with HttpServer(answer) as server, streamable(server.url, sink, limits=limits) as session:
            for number in range(64):
                session.send_request(number, b"%d" % number)

            await asyncio.gather(*(sink.until_over(number) for number in range(64)))
            assert sorted(sink.messages, key=lambda told: told[1] or 0) == [
                (b'{"result":%d}' % number, number) for number in range(64)
            ]

    run(main())
