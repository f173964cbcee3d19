"""An instance behind a URL: how its session begins, what each answer means for a call, and how it ends."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest
from opentelemetry.sdk.trace import SpanProcessor
from support.fakes import FakeClock
from support.http_instances import Json, Script, failure, http_instance, success
from support.http_servers import Request
from support.owners import run, until
from support.sessions import failure_of

from mcpv_node.actors.callers import Caller, ClientProfile
from mcpv_node.actors.instance.messages import (
    Answer,
    AnswerAsk,
    Asked,
    CallAbandoned,
    CallEvent,
    CallFailed,
    CancelCall,
    InstanceAsked,
    InstanceExited,
    InstanceFailed,
    InstanceReady,
    InstanceRetiring,
    Lists,
    ListsFailed,
    Noted,
)
from mcpv_node.actors.leases import Release, new_lease_id
from mcpv_node.settings import NodeLimits
from mcpv_node.telemetry.tracing import Tracing

ERAS = pytest.mark.parametrize("era", ["legacy", "modern"])


def result_of(answer: Answer | CallFailed) -> Any:
    assert isinstance(answer, Answer), answer
    assert answer.result is not None, answer
    return msgspec.json.decode(answer.result)


def reply(status: int, body: bytes = b"", kind: str = "application/json") -> Any:
    async def answer(request: Request, _message: Json) -> None:
        await request.reply(status, body, kind)

    return answer


# --- the beginning --------------------------------------------------------------------------------


@ERAS
def test_a_server_is_spoken_to_in_its_era(tmp_path: Path, era: str) -> None:
    async def main() -> None:
        script = Script(era)
        async with http_instance(tmp_path, script) as one:
            await one.is_ready()
            result = result_of(await one.call(text="x"))
            await until(lambda: one.home.index.of(Lists))

        hello = one.owner.of(InstanceReady)[0].hello
        first = one.server.requests[-1]
        assert hello.era == era
        assert result["said"]["name"] == "echo"
        assert ("_meta" in result["said"]) is (era == "modern")
        assert first.headers.get("mcp-protocol-version") == hello.version
        assert script.methods()[0] == "server/discover"
        assert ("initialize" in script.methods()) is (era == "legacy")

    run(main())


def test_a_modern_server_sees_beside_the_body_what_it_is_about(tmp_path: Path) -> None:
    async def main() -> None:
        schema = {"type": "object", "properties": {"r": {"type": "string", "x-mcp-header": "Region"}}}
        definition = msgspec.json.encode({"name": "echo", "inputSchema": schema})
        async with http_instance(tmp_path, Script("modern")) as one:
            await one.is_ready()
            await one.call(definition=definition, r="north")

        (call,) = [sent for sent in one.server.requests if b"tools/call" in sent.body]
        assert call.headers["mcp-method"] == "tools/call"
        assert call.headers["mcp-name"] == "echo"
        assert call.headers["mcp-param-region"] == "north"

    run(main())


@ERAS
def test_a_server_sees_in_the_headers_the_trace_a_traced_call_belongs_to(tmp_path: Path, era: str) -> None:
    trace = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "vendor=1"}
    broken = {"traceparent": "x\r\nevil: 1", "tracestate": "vendor=1"}

    async def main() -> None:
        tracing = Tracing(SpanProcessor(), clock=FakeClock(), attributes={})
        async with http_instance(tmp_path, Script(era), tracing=tracing, max_concurrent=3) as one:
            await one.is_ready()
            for meta in (trace, broken, None):
                await one.call(meta=meta)

        calls = [sent.headers for sent in one.server.requests if b"tools/call" in sent.body]
        seen = [{name: headers[name] for name in trace if name in headers} for headers in calls]
        assert seen == [trace, {}, {}]

    run(main())


def test_where_nothing_is_traced_no_header_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        async with http_instance(tmp_path, Script("legacy")) as one:
            await one.is_ready()
            await one.call(meta={"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"})

        (call,) = [sent for sent in one.server.requests if b"tools/call" in sent.body]
        assert "traceparent" not in call.headers
        assert call.json()["params"]["_meta"]["traceparent"].startswith("00-aaa")

    run(main())


def test_a_tool_whose_headers_are_impossible_is_not_listed(tmp_path: Path) -> None:
    async def main() -> None:
        async def tools(request: Request, message: Json) -> None:
            bad = {"type": "object", "properties": {"r": {"type": "string", "x-mcp-header": "no header"}}}
            listed = [
                {"name": "good", "inputSchema": {"type": "object"}},
                {"name": "bad", "inputSchema": bad},
            ]
            await request.reply(200, success(message, {"tools": listed}))

        async with http_instance(tmp_path, Script("modern", **{"tools/list": tools})) as one:
            await one.is_ready()
            await until(lambda: [lists for lists in one.home.index.of(Lists) if lists.kind == "tools"])

        (lists,) = [lists for lists in one.home.index.of(Lists) if lists.kind == "tools"]
        assert [tool.name for tool in lists.listed] == ["good"]
        assert [tool.name for tool in lists.rejected] == ["bad"]

    run(main())


def test_a_refused_connection_fails_the_start_with_a_sentence(tmp_path: Path) -> None:
    async def main() -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{free.getsockname()[1]}/mcp"
            async with http_instance(tmp_path, Script(), url=url) as one:
                failed = await one.heard(InstanceFailed)
                await until(lambda: not one.instance.is_alive())

        assert failed.message == "handshake failed: took no connection: Connection refused"
        assert not failed.fatal

    run(main())


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_a_status_fails_the_start_with_a_sentence(tmp_path: Path, status: int) -> None:
    async def main() -> None:
        async with http_instance(tmp_path, Script(**{"server/discover": reply(status)})) as one:
            failed = await one.heard(InstanceFailed)

        assert failed.message.endswith(f"with the HTTP status {status}")

    run(main())


def test_a_server_that_takes_no_posts_is_spoken_to_over_sse(tmp_path: Path) -> None:
    async def main() -> None:
        stream: list[Request] = []

        async def get(request: Request, _message: Json) -> None:
            stream.append(request)
            await request.stream()
            await request.chunk(b"event: endpoint\ndata: /messages\n\n")
            await request.closed()

        async def post(request: Request, message: Json) -> None:
            if request.path != "/messages":
                await request.reply(405)
                return
            await request.reply(202)
            if message["method"] == "initialize":
                result = {
                    "protocolVersion": "2024-11-05",
                    "capabilities": {},
                    "serverInfo": {"name": "sse", "version": "1"},
                }
                await stream[0].event(success(message, result))
            elif message["method"] == "tools/call":
                await stream[0].event(success(message, {"content": [], "over": "sse"}))

        on = dict.fromkeys(("server/discover", "initialize", "notifications/initialized", "tools/call"), post)
        async with http_instance(tmp_path, Script(GET=get, **on)) as one:
            await one.is_ready()
            result = result_of(await one.call())

        assert result["over"] == "sse"
        assert one.owner.of(InstanceReady)[0].hello.version == "2024-11-05"

    run(main())


# --- what an answer means for its call ------------------------------------------------------------


@ERAS
@pytest.mark.parametrize("id_of", ["its own", "server-error", None])
@pytest.mark.parametrize("status", [400, 404, 500])
def test_an_error_in_the_body_is_the_answer_whatever_its_status_and_id(
    tmp_path: Path, era: str, id_of: str | None, status: int
) -> None:
    async def main() -> None:
        async def refuse(request: Request, message: Json) -> None:
            id = message["id"] if id_of == "its own" else id_of
            await request.reply(status, failure(id, -32021, "sampling is missing"))

        async with http_instance(tmp_path, Script(era, **{"tools/call": refuse})) as one:
            await one.is_ready()
            answer = await one.call()
            again = await one.call()

        for one_answer in (answer, again):
            assert isinstance(one_answer, Answer), one_answer
            assert msgspec.json.decode(one_answer.error or b"")["code"] == -32021
        assert one.owner.of(InstanceRetiring) == []

    run(main())


@pytest.mark.parametrize(
    "body", [b"", failure("server-error", -32600, "Session not found"), failure(None, -32001, "gone")]
)
def test_what_a_forgotten_session_refuses_goes_to_the_next_instance(tmp_path: Path, body: bytes) -> None:
    async def main() -> None:
        script = Script(session="s-1", **{"tools/call": reply(404, body)})
        async with http_instance(tmp_path, script) as one:
            await one.is_ready()
            answer = await one.call()
            exited = await one.heard(InstanceExited)
            await until(lambda: not one.instance.is_alive())

        assert failure_of(answer)[:2] == ("stopping", "no")
        assert [retiring.at_fault for retiring in one.owner.of(InstanceRetiring)] == [False]
        assert not exited.asked
        assert "DELETE" not in script.verbs

    run(main())


def test_the_others_of_a_forgotten_session_end_first(tmp_path: Path) -> None:
    async def main() -> None:
        async def first_waits(request: Request, message: Json) -> None:
            if message["params"]["arguments"].get("slow"):
                await request.go_on.wait()
                await request.reply(200, success(message, {"content": [], "slow": True}))
            else:
                await request.reply(404)

        script = Script(session="s-1", **{"tools/call": first_waits})
        async with http_instance(tmp_path, script, max_concurrent=2) as one:
            await one.is_ready()
            slow = one.call(slow=True)
            await until(lambda: script.of("tools/call"))
            lost = await one.call()
            assert not slow.done()
            assert one.instance.is_alive()
            next(sent for sent in one.server.requests if b"slow" in sent.body).go_on.set()
            result = result_of(await slow)
            await one.heard(InstanceExited)

        assert failure_of(lost)[:2] == ("stopping", "no")
        assert result["slow"] is True

    run(main())


@ERAS
@pytest.mark.parametrize(
    ("status", "body", "kind", "reason"),
    [
        (200, b"<html>hello</html>", "text/html", "bad_reply"),
        (200, b'{"not":"a message"}', "application/json", "bad_reply"),
        (200, b'{"jsonrpc":"2.0","id":999,"result":{}}', "application/json", "bad_reply"),
        (202, b"", "", "bad_reply"),
        (503, b"busy", "text/plain", "instance_died"),
    ],
)
def test_an_answer_that_is_no_reply_ends_the_call_at_once(
    tmp_path: Path, era: str, status: int, body: bytes, kind: str, reason: str
) -> None:
    async def main() -> None:
        script = Script(era, **{"tools/call": reply(status, body, kind)})
        async with http_instance(tmp_path, script) as one:
            await one.is_ready()
            answer = await one.call()

        assert failure_of(answer)[:2] == (reason, "unknown")

    run(main())


@ERAS
def test_a_stream_that_ends_without_a_reply_ends_the_call(tmp_path: Path, era: str) -> None:
    async def main() -> None:
        async def breaks(request: Request, _message: Json) -> None:
            await request.stream()
            await request.event(b'{"jsonrpc":"2.0","method":"notifications/message","params":{"data":1}}')
            await request.end()

        async with http_instance(tmp_path, Script(era, **{"tools/call": breaks})) as one:
            await one.is_ready()
            answer = await one.call()
            again = await one.call()

        assert failure_of(answer)[:2] == failure_of(again)[:2] == ("instance_died", "unknown")

    run(main())


def test_what_is_more_than_a_message_may_be_is_a_bad_reply(tmp_path: Path) -> None:
    async def main() -> None:
        async def large(request: Request, message: Json) -> None:
            await request.reply(200, success(message, {"content": [], "x": "x" * 200_000}))

        limits = NodeLimits(line_bytes=100_000)
        async with http_instance(tmp_path, Script(**{"tools/call": large}), limits=limits) as one:
            await one.is_ready()
            answer = await one.call()

        assert failure_of(answer)[0] == "bad_reply"

    run(main())


@ERAS
def test_a_large_reply_passes_whole_and_byte_for_byte(tmp_path: Path, era: str) -> None:
    body = b'{"content": [],"big":123456789012345678901234567890, "f":1.0,"x":"' + b"x" * 10_000_000 + b'"}'

    async def main() -> None:
        async def large(request: Request, message: Json) -> None:
            await request.reply(200, success(message, body))

        async with http_instance(tmp_path, Script(era, **{"tools/call": large})) as one:
            await one.is_ready()
            answer = await one.call()

        assert isinstance(answer, Answer)
        assert bytes(answer.result or b"") == body

    run(main())


# --- what comes before a reply --------------------------------------------------------------------


def test_what_is_asked_on_a_calls_stream_is_that_clients_although_others_call(tmp_path: Path) -> None:
    async def main() -> None:
        async def asks(request: Request, message: Json) -> None:
            if message["params"]["arguments"].get("asks"):
                await request.stream()
                await request.event(b'{"jsonrpc":"2.0","id":"q","method":"roots/list"}')
                # Not the last it has heard: the lists are read meanwhile.
                await until(lambda: [heard for heard in script.heard if heard.get("id") == "q"])
                (answer,) = [heard for heard in script.heard if heard.get("id") == "q"]
                await request.event(success(message, {"content": [], "heard": answer["result"]}))
                await request.end()
            else:
                await request.go_on.wait()
                await request.reply(200, success(message, {"content": []}))

        script = Script(**{"tools/call": asks})
        events: list[CallEvent] = []
        other = Caller(principal="p", client="c", key="session:2", turn="session:2")
        async with http_instance(
            tmp_path, script, profile=ClientProfile('{"roots":{}}'), max_concurrent=2
        ) as one:
            await one.is_ready()
            waiting = one.call(caller=other)
            await until(lambda: script.of("tools/call"))
            asking = one.call(on_event=events.append, asks=True)
            await until(lambda: events)
            (asked,) = events
            assert isinstance(asked, Asked)
            one.instance.tell(AnswerAsk(asked.number, Answer(result=b'{"roots":[{"uri":"file:///a"}]}')))
            result = result_of(await asking)
            for sent in one.server.requests:
                sent.go_on.set()
            await waiting

        assert result["heard"] == {"roots": [{"uri": "file:///a"}]}
        assert [(told.client) for told in one.owner.of(InstanceAsked)] == ["session:1"]

    run(main())


def test_a_log_message_is_for_the_call_on_whose_stream_it_came(tmp_path: Path) -> None:
    async def main() -> None:
        async def logs(request: Request, message: Json) -> None:
            name = message["params"]["arguments"]["name"]
            await request.stream()
            note = {"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": name}}
            await request.event(json.dumps(note).encode())
            await request.go_on.wait()
            await request.event(success(message, {"content": []}))
            await request.end()

        heard: dict[str, list[CallEvent]] = {"a": [], "b": []}
        async with http_instance(tmp_path, Script(**{"tools/call": logs}), max_concurrent=2) as one:
            await one.is_ready()
            calls = [one.call(on_event=heard[name].append, name=name) for name in heard]
            await until(lambda: all(heard.values()))
            for sent in one.server.requests:
                sent.go_on.set()
            for call in calls:
                await call

        for name, events in heard.items():
            (note,) = events
            assert isinstance(note, Noted)
            assert msgspec.json.decode(note.params or b"") == {"data": name}

    run(main())


# --- cancellation ---------------------------------------------------------------------------------


def test_a_modern_call_is_cancelled_by_hanging_up_which_frees_its_slot(tmp_path: Path) -> None:
    async def main() -> None:
        async def hangs(request: Request, _message: Json) -> None:
            await request.stream()
            await request.closed()

        script = Script("modern", **{"tools/call": hangs})
        async with http_instance(tmp_path, script) as one:
            await one.is_ready()
            lease = new_lease_id()
            call = one.call(lease=lease)
            await until(lambda: script.of("tools/call"))
            one.instance.tell(CancelCall(lease, "no"))
            answer = await call
            (sent,) = [sent for sent in one.server.requests if b"tools/call" in sent.body]
            await sent.until_gone()
            await until(lambda: one.owner.of(Release))

        assert failure_of(answer)[0] == "call_timeout"
        assert [release.lease for release in one.owner.of(Release)] == [lease]
        assert script.of("notifications/cancelled") == []

    run(main())


def test_a_legacy_call_is_cancelled_with_a_word_and_its_slot_is_held_until_it_is_answered(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async def waits(request: Request, message: Json) -> None:
            await request.go_on.wait()
            await request.reply(200, success(message, {"content": []}))

        script = Script(**{"tools/call": waits})
        async with http_instance(tmp_path, script) as one:
            await one.is_ready()
            lease = new_lease_id()
            call = one.call(lease=lease)
            await until(lambda: script.of("tools/call"))
            one.instance.tell(CancelCall(lease, "no"))
            answer = await call
            await until(lambda: script.of("notifications/cancelled"))
            assert one.owner.of(Release) == []
            (sent,) = [sent for sent in one.server.requests if b"tools/call" in sent.body]
            sent.go_on.set()
            await until(lambda: one.owner.of(Release))

        assert isinstance(answer, CallFailed)
        assert answer.slot_held
        assert [told.lease for told in one.owner.of(CallAbandoned)] == [lease]
        (cancelled,) = script.of("notifications/cancelled")
        assert cancelled["params"]["requestId"] == script.of("tools/call")[0]["id"]

    run(main())


# --- the log level --------------------------------------------------------------------------------


def test_a_modern_server_hears_with_each_call_what_its_client_wants_logged(tmp_path: Path) -> None:
    async def main() -> None:
        async with http_instance(tmp_path, Script("modern")) as one:
            await one.is_ready()
            levels = [
                result_of(await one.call(log_level=level))["said"]["_meta"].get(
                    "io.modelcontextprotocol/logLevel"
                )
                for level in ("error", "debug", None)
            ]

        assert levels == ["error", "debug", None]
        assert one.script.of("logging/setLevel") == []

    run(main())


def test_a_legacy_server_is_told_the_lowest_level_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with http_instance(tmp_path, Script()) as one:
            await one.is_ready()
            for level in (None, "error", "warning", "error", "warning", "debug"):
                await one.call(log_level=level)

        said = [message["params"]["level"] for message in one.script.of("logging/setLevel")]
        assert said == ["error", "warning", "debug"]

    run(main())


# --- the end --------------------------------------------------------------------------------------


def test_the_session_is_taken_leave_of(tmp_path: Path) -> None:
    async def main() -> None:
        script = Script(session="s-1")
        async with http_instance(tmp_path, script) as one:
            await one.is_ready()
            exited = await one.stopped()
            await until(lambda: not one.instance.is_alive())

        assert exited.asked
        last = one.server.requests[-1]
        assert (last.method, last.headers["mcp-session-id"]) == ("DELETE", "s-1")

    run(main())


@ERAS
def test_a_stop_ends_the_calls_in_flight(tmp_path: Path, era: str) -> None:
    async def main() -> None:
        async def hangs(request: Request, _message: Json) -> None:
            await request.stream()
            await request.closed()

        async with http_instance(tmp_path, Script(era, **{"tools/call": hangs})) as one:
            await one.is_ready()
            call = one.call()
            await until(lambda: one.script.of("tools/call"))
            await one.stopped()
            answer = await call

        assert failure_of(answer)[0] == "stopping"

    run(main())


def test_an_instance_that_is_killed_lets_go_of_its_session(tmp_path: Path) -> None:
    async def main() -> None:
        async def hangs(request: Request, _message: Json) -> None:
            await request.stream()
            await request.closed()

        script = Script(session="s-1", **{"tools/call": hangs})
        async with http_instance(tmp_path, script) as one:
            await one.is_ready()
            call = one.call()
            call.add_done_callback(lambda done: done.exception())
            await until(lambda: script.of("tools/call"))
            one.instance.cell.kill("the test wants it")
            (sent,) = [sent for sent in one.server.requests if b"tools/call" in sent.body]
            await sent.until_gone()

    run(main())


def test_a_request_of_ours_that_nobody_waits_for_any_more_is_hung_up_on(tmp_path: Path) -> None:
    async def main() -> None:
        async def hangs(request: Request, _message: Json) -> None:
            await request.stream()
            await request.closed()

        script = Script(**{"tools/list": hangs})
        async with http_instance(tmp_path, script, call_timeout_seconds=0.05) as one:
            await one.is_ready()
            await until(lambda: [told for told in one.home.index.of(ListsFailed) if told.kind == "tools"])
            (sent,) = [sent for sent in one.server.requests if b"tools/list" in sent.body]
            await sent.until_gone()

    run(main())


def test_a_server_that_is_gone_refuses_the_next_call_and_is_replaced(tmp_path: Path) -> None:
    async def main() -> None:
        script = Script()
        async with http_instance(tmp_path, script) as one:
            await one.is_ready()
            await until(lambda: one.home.index.of(Lists))
            await one.server.__aexit__(None, None, None)
            answer = await one.call()
            await one.heard(InstanceExited)

        assert failure_of(answer)[:2] == ("stopping", "no")
        assert [told.at_fault for told in one.owner.of(InstanceRetiring)] == [True]

    run(main())
