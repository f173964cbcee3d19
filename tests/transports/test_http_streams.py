"""A legacy stream that breaks is taken up where it was; a session's name and its own stream are kept while they last."""

from __future__ import annotations

import pytest
from support.children import run
from support.http_servers import Handler, HttpServer, Request, json_reply, script, status
from support.http_sinks import LIMITS, RecordingHttpSink, streamable

CALL = b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}'
REPLY = b'{"jsonrpc":"2.0","id":1,"result":{}}'
NOTE = b'{"jsonrpc":"2.0","method":"notifications/progress"}'
PRIMING = b"id: e0\nretry: 1\ndata: \n\n"

on_both_loops = pytest.mark.parametrize("loop", ["asyncio", "uvloop"])


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once."""
    monkeypatch.setattr("mcpv_node.transports.http.events.MIN_RETRY", 0.001)
    monkeypatch.setattr("mcpv_node.transports.http.events.MAX_BACKOFF", 0.002)
    monkeypatch.setattr("mcpv_node.transports.http.events.DEFAULT_RETRY", 0.001)


def stream(*chunks: bytes, ends: bool = True, **headers: str) -> Handler:
    """A step: a stream of these chunks, ended as it should be or cut."""

    async def handle(request: Request) -> None:
        await request.stream(**headers)
        for chunk in chunks:
            await request.chunk(chunk)
        if ends:
            await request.end()
        else:
            request.cut()

    return handle


async def hold(request: Request) -> None:
    await request.stream()
    await request.closed()


def event(data: bytes, id: str | None = None) -> bytes:
    return (f"id: {id}\n".encode() if id else b"") + b"data: " + data + b"\n\n"


@on_both_loops
@pytest.mark.parametrize("ends", [True, False])
def test_stream_that_ends_before_its_reply_is_taken_up_again(loop: str, ends: bool) -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        steps = [stream(PRIMING, event(NOTE, "e1"), ends=ends), stream(event(REPLY, "e2"))]
        async with HttpServer(script(*steps)) as server, streamable(server.url, sink) as session:
            session.adopt(protocol_version="2025-11-25")
            session.send_request(1, CALL)

            assert await sink.until_over(1) is None
            assert sink.messages == [(NOTE, 1), (REPLY, 1)]
            again = server.requests[1]
            assert (again.method, again.headers["last-event-id"]) == ("GET", "e1")
            assert again.headers["accept"] == "text/event-stream"
            assert again.headers["mcp-protocol-version"] == "2025-11-25"

    run(main(), loop)


def test_event_that_was_cut_in_two_is_asked_for_again() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        steps = [stream(PRIMING, b"id: e1\ndata: {", ends=False), stream(event(REPLY, "e1"))]
        async with HttpServer(script(*steps)) as server, streamable(server.url, sink) as session:
            session.send_request(1, CALL)

            assert await sink.until_over(1) is None
            assert server.requests[1].headers["last-event-id"] == "e0"
            assert sink.data == [REPLY]

    run(main())


def test_message_that_is_repeated_is_told_once() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        other = NOTE.replace(b"progress", b"message")
        steps = [
            stream(PRIMING, event(NOTE, "e1"), ends=False),
            stream(event(NOTE, "e1"), event(other, "e2"), event(NOTE), event(REPLY, "e3")),
        ]
        async with HttpServer(script(*steps)) as server, streamable(server.url, sink) as session:
            session.send_request(1, CALL)

            assert await sink.until_over(1) is None
            assert sink.data == [NOTE, other, NOTE, REPLY]

    run(main())


def test_stream_is_taken_up_as_often_as_it_ends() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        polls = [stream(f"id: e{number}\ndata:\n\n".encode()) for number in range(1, 10)]
        empty = [stream()] * 10
        steps = [stream(PRIMING), *polls, *empty, stream(event(REPLY))]
        async with HttpServer(script(*steps)) as server, streamable(server.url, sink) as session:
            session.send_request(1, CALL)

            assert await sink.until_over(1) is None
            assert sink.data == [REPLY]
            assert server.requests[-1].headers["last-event-id"] == "e9"

    run(main())


def test_outage_between_two_connections_passes() -> None:
    async def cut(request: Request) -> None:
        request.cut()

    async def main() -> None:
        sink = RecordingHttpSink()
        steps = [stream(PRIMING), status(503), cut, status(429), stream(event(REPLY))]
        async with HttpServer(script(*steps)) as server, streamable(server.url, sink) as session:
            session.send_request(1, CALL)

            assert await sink.until_over(1) is None
            assert sink.data == [REPLY]

    run(main())


def test_outage_without_end_is_given_up() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        steps = [stream(PRIMING), *[status(503)] * 5]
        async with HttpServer(script(*steps)) as server, streamable(server.url, sink) as session:
            session.send_request(1, CALL)

            failure = await sink.until_failed(1)
            assert failure.status == 503
            assert len(server.requests) == 6

    run(main())


def test_server_that_has_no_stream_to_go_on_with_fails_the_request() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        steps = [stream(PRIMING), status(405)]
        async with HttpServer(script(*steps)) as server, streamable(server.url, sink) as session:
            session.send_request(1, CALL)

            failure = await sink.until_failed(1)
            assert failure.message == "ended the stream, and has none to go on with"

    run(main())


def test_stream_without_ids_that_ends_is_a_failure() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        async with (
            HttpServer(script(stream(event(NOTE)))) as server,
            streamable(server.url, sink) as session,
        ):
            session.send_request(1, CALL)

            failure = await sink.until_failed(1)
            assert (failure.kind, failure.was_sent) == ("ended", True)
            assert sink.data == [NOTE]

    run(main())


@pytest.mark.parametrize("says_it_by_header", [True, False])
def test_modern_stream_is_never_taken_up_again(says_it_by_header: bool) -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        async with HttpServer(script(stream(PRIMING))) as server, streamable(server.url, sink) as session:
            headers = {"MCP-Protocol-Version": "2026-07-28"} if says_it_by_header else {}
            if not says_it_by_header:
                session.adopt(protocol_version="2026-07-28")
            session.send_request(1, CALL, headers=headers)

            assert (await sink.until_failed(1)).kind == "ended"
            assert len(server.requests) == 1

    run(main())


@on_both_loops
def test_session_is_named_by_its_first_answer_and_ended_at_the_close(loop: str) -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        named = json_reply(REPLY, Mcp_Session_Id="s-1")
        steps = [named, json_reply(REPLY, Mcp_Session_Id="s-2"), status(202), status(200)]
        async with HttpServer(script(*steps)) as server:
            async with streamable(server.url, sink) as session:
                for number in (1, 2):
                    session.send_request(number, CALL)
                    await sink.until_over(number)
                session.send(NOTE)
                await server.asked(3)
                assert session.session_id == "s-1"

            names = [request.headers.get("mcp-session-id") for request in server.requests]
            assert names == [None, "s-1", "s-1", "s-1"]
            assert [request.method for request in server.requests] == ["POST", "POST", "POST", "DELETE"]

    run(main(), loop)


@pytest.mark.parametrize("answer", [status(405), status(500), hold])
def test_closing_does_not_depend_on_how_the_server_takes_it(answer: Handler) -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        steps = [json_reply(REPLY, Mcp_Session_Id="s-1"), answer]
        async with HttpServer(script(*steps)) as server, streamable(server.url, sink) as session:
            session.send_request(1, CALL)
            await sink.until_over(1)

            await session.close(grace=0.5)

            assert server.requests[-1].method == "DELETE"

    run(main())


@on_both_loops
def test_what_was_sent_arrives_before_the_goodbye(loop: str) -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        steps = [json_reply(REPLY, Mcp_Session_Id="s-1"), status(202), status(202), status(200)]
        async with HttpServer(script(*steps)) as server:
            async with streamable(server.url, sink) as session:
                session.send_request(1, CALL)
                await sink.until_over(1)
                session.send(b"2")
                session.send(b"3")

            assert [request.body for request in server.requests[1:]] == [b"2", b"3", b""]
            assert server.requests[-1].method == "DELETE"

    run(main(), loop)


def test_goodbye_is_said_to_a_server_that_takes_nothing_more() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        steps = [json_reply(REPLY, Mcp_Session_Id="s-1"), Request.closed, status(200)]
        async with HttpServer(script(*steps)) as server, streamable(server.url, sink) as session:
            session.send_request(1, CALL)
            await sink.until_over(1)
            session.send(NOTE)
            session.send(NOTE)

            await session.close(grace=0.5)

            assert [request.method for request in server.requests] == ["POST", "POST", "DELETE"]

    run(main())


def test_modern_session_has_no_name_and_says_no_goodbye() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        async with HttpServer(script(json_reply(REPLY, Mcp_Session_Id="s-1"))) as server:
            async with streamable(server.url, sink) as session:
                session.adopt(protocol_version="2026-07-28")
                session.send_request(1, CALL)
                await sink.until_over(1)

                assert session.session_id is None
            assert len(server.requests) == 1

    run(main())


def test_name_that_no_header_may_hold_fails_the_request() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        async with (
            HttpServer(script(json_reply(REPLY, Mcp_Session_Id="a b"))) as server,
            streamable(server.url, sink) as session,
        ):
            session.send_request(1, CALL)

            assert (await sink.until_failed(1)).kind == "content"
            assert session.session_id is None

    run(main())


@pytest.mark.parametrize("how", ["request", "send", "resume"])
def test_session_the_server_has_forgotten_is_lost_once_and_not_ended(how: str) -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        first = json_reply(REPLY, Mcp_Session_Id="s-1")
        steps = [first, *([stream(PRIMING)] if how == "resume" else []), status(404)]
        async with HttpServer(script(*steps)) as server:
            async with streamable(server.url, sink) as session:
                session.send_request(1, CALL)
                await sink.until_over(1)
                if how == "send":
                    session.send(NOTE)
                else:
                    session.send_request(2, CALL)

                await sink.until(lambda: sink.lost)
                if how == "send":
                    await sink.until(lambda: sink.send_failures)
                else:
                    assert (await sink.until_failed(2)).status == 404
            assert sink.lost == ["the server does not know the session any more"]
            assert server.requests[-1].method != "DELETE"

    run(main())


def test_address_that_is_not_there_is_no_lost_session() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        async with HttpServer(script(status(404))) as server, streamable(server.url, sink) as session:
            session.send_request(1, CALL)

            assert (await sink.until_failed(1)).status == 404
            assert sink.lost == []

    run(main())


@on_both_loops
def test_own_stream_is_told_apart_and_opened_again_where_it_was(loop: str) -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        other = NOTE.replace(b"progress", b"message")
        steps = [stream(PRIMING, event(NOTE, "e1")), stream(event(other, "e2"), ends=False), hold]
        async with HttpServer(script(*steps)) as server, streamable(server.url, sink) as session:
            session.open_stream()
            session.open_stream()

            await server.asked(3)
            assert sink.messages == [(NOTE, None), (other, None)]
            assert [request.headers.get("last-event-id") for request in server.requests] == [None, "e1", "e2"]
            assert sink.streams_lost == []

    run(main(), loop)


def test_own_stream_waits_for_what_was_sent_before() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()

        async def answer(request: Request) -> None:
            if request.method == "POST":
                await request.go_on.wait()
                await request.reply(202)
            else:
                await hold(request)

        async with HttpServer(answer) as server, streamable(server.url, sink) as session:
            session.send(NOTE)
            session.open_stream()
            first = await server.asked(1)
            first.go_on.set()

            assert (await server.asked(2)).method == "GET"

    run(main())


def test_server_without_a_stream_of_its_own_is_no_fault() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        steps = [status(405), json_reply(REPLY)]
        async with HttpServer(script(*steps)) as server, streamable(server.url, sink) as session:
            session.open_stream()
            await server.asked(1)
            session.send_request(1, CALL)

            assert await sink.until_over(1) is None
            assert sink.streams_lost == []

    run(main())


@pytest.mark.parametrize(
    ("steps", "status_told"), [([status(401)], 401), ([status(500)] * 5, 500), ([json_reply()], 200)]
)
def test_own_stream_that_cannot_be_had_is_told(steps: list[Handler], status_told: int) -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        async with HttpServer(script(*steps)) as server, streamable(server.url, sink) as session:
            session.open_stream()

            await sink.until(lambda: sink.streams_lost)
            assert sink.streams_lost[0].status == status_told
            assert sink.lost == []

    run(main())


def test_aborting_while_waiting_to_take_a_stream_up_again_ends_it() -> None:
    async def main() -> None:
        sink = RecordingHttpSink()
        first = stream(b"id: e0\nretry: 100000\ndata: " + NOTE + b"\n\n")
        async with (
            HttpServer(script(first)) as server,
            streamable(server.url, sink, limits=LIMITS) as session,
        ):
            session.send_request(1, CALL)
            await sink.until(lambda: sink.messages)

            session.abort_request(1)

            assert session.in_flight == 0
            assert sink.over == {}

    run(main())
