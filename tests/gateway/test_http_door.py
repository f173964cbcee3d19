"""The HTTP door over real sockets, with fake servers behind it."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from support.doors import local, open_door
from support.fake_servers import make_settings, run, until
from support.raw_http import RawClient, RawConnection, call, initialize, notification, request

from mcpv_node.actors.instance.messages import Progressed
from mcpv_node.actors.kernel import ActorSystem, Handle
from mcpv_node.actors.world import Selector
from mcpv_node.gateway import CountSessions, HttpDoor, TokenTable, http, http_door
from mcpv_node.gateway.auth import DEFAULT_AUTHORITY, Authority
from mcpv_node.settings import (
    ListenSettings,
    NodeLimits,
    ProfileSettings,
    ServerName,
    ToolRules,
)

TOKENS = TokenTable(
    [("good", DEFAULT_AUTHORITY), ("beta", Authority("b", Selector(server=ServerName("beta"))))]
)


async def until_refused(url: str) -> None:
    """Return once nobody can connect any more."""
    while True:
        try:
            connection = await RawConnection.open(url)
        except ConnectionRefusedError:
            return
        except OSError:
            continue  # it stood in the queue of the socket that has just been closed
        await connection.close()


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_client_initializes_lists_and_calls(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            listed = await client.post(request(1, "tools/list"))
            answered = await client.post(call("one", "alpha_echo"))
            pinged = await client.post(request(3, "ping"))
            await client.close()

        names = [tool["name"] for tool in listed.json()["result"]["tools"]]
        assert "alpha_echo" in names
        assert "beta_slow" in names
        assert answered.status == 200
        assert answered.headers["content-type"] == "application/json"
        assert answered.json()["id"] == "one"
        assert answered.json()["result"]["sent"] == {"name": "echo", "arguments": {"a": 1}}
        assert pinged.json() == {"jsonrpc": "2.0", "id": 3, "result": {}}

    run(main, loop=loop)


def test_the_session_opens_with_the_nodes_own_name_and_the_version_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = RawClient(await RawConnection.open(stage.url))
            for version, answered in (
                ("2025-11-25", "2025-11-25"),
                ("2025-06-18", "2025-06-18"),
                ("2024-11-05", "2024-11-05"),
                ("1999-01-01", "2025-11-25"),
            ):
                answer = await client.post(initialize(version=version))
                result = answer.json()["result"]
                assert result["protocolVersion"] == answered
                assert result["serverInfo"] == {"name": "mcpv-node", "version": "1.2.3"}
                lists = {"listChanged": True}
                assert result["capabilities"] == {
                    "tools": lists,
                    "resources": {**lists, "subscribe": True},
                    "prompts": lists,
                    "logging": {},
                    "completions": {},
                }
                assert len(answer.headers["mcp-session-id"]) >= 22
            await client.close()

    run(main)


def test_payloads_reach_the_server_and_come_back_to_the_byte(tmp_path: Path) -> None:
    body = (
        b'{"jsonrpc":"2.0","id":"\\u0031","method":"tools/call","params":'
        b'{"name":"alpha.echo","arguments":{"n":123456789012345678901234567890,"f":1.0,"s":"\\u00e9"},"unknown":[1]}}'
    )

    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            answer = await client.post(body)
            await client.close()

        arguments = b'"arguments":{"n":123456789012345678901234567890,"f":1.0,"s":"\\u00e9"},"unknown":[1]'
        assert b'"id":"\\u0031"' in answer.body
        assert arguments in answer.body
        assert stage.node.instances["alpha"].sent[0] == b'{"name":"echo",' + arguments + b"}"

    run(main)


def test_the_servers_own_error_passes_untouched(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            answer = await client.post(call(1, "beta_error"))
            await client.close()

        assert answer.body == (
            b'{"jsonrpc":"2.0","id":1,"error":'
            b'{"code":-32050,"message":"mine","data":{"big":12345678901234567890}}}'
        )

    run(main)


def test_a_call_with_progress_is_answered_as_a_stream_with_the_callers_token(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            await client.send(call(1, "alpha_progress", token="mine"))
            status, headers = await client.connection.read_head()
            events = [await client.connection.read_event() for _ in range(4)]
            await client.close()

        assert status == 200
        assert headers["content-type"] == "text/event-stream"
        assert headers["x-accel-buffering"] == "no"
        assert [event["params"] for event in events[:2]] == [
            {"progressToken": "mine", "progress": 1},
            {"progressToken": "mine", "progress": 2},
        ]
        assert events[2]["id"] == 1
        assert events[3] is None

    run(main)


def test_a_failed_call_is_answered_with_its_reason(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            answer = await client.post(call(1, "alpha_dies"))
            await client.close()

        error = answer.json()["error"]
        assert answer.status == 200
        assert error["code"] == -31007
        assert error["data"]["reason"] == "instance_died"
        assert error["data"]["server"] == "alpha"
        assert error["data"]["executed"] == "unknown"
        assert error["data"]["queuedSeconds"] == 0.25
        assert error["data"]["startedSeconds"] == 0.125

    run(main)


PATHS = [
    ("/mcp", ["alpha_echo", "beta_echo"]),
    ("/mcp/", ["alpha_echo", "beta_echo"]),
    ("/mcp/server/alpha", ["echo"]),
    ("/mcp/tags/one", ["alpha_echo"]),
    ("/mcp/tags/ONE,two", ["alpha_echo", "beta_echo"]),
    ("/mcp/profile/small", ["beta_echo"]),
]


@pytest.mark.parametrize(("path", "names"), PATHS)
def test_a_path_shows_what_it_selects(tmp_path: Path, path: str, names: list[str]) -> None:
    profile = ProfileSettings(
        name="small", servers=(ServerName("beta"),), tools=ToolRules(deny=("beta_slow",))
    )

    async def main() -> None:
        settings = local(profiles=(profile,))
        async with open_door(tmp_path, settings=settings, tools=("echo", "slow")) as stage:
            client = await RawClient.open(stage.url, path)
            tools = (await client.post(request(1, "tools/list"))).json()["result"]["tools"]
            shown = [tool["name"] for tool in tools if not tool["name"].endswith("slow")]
            denied = await client.post(call(2, "beta_slow")) if "small" in path else None
            answered = await client.post(call(3, names[0]))
            await client.close()

        assert shown == names
        assert "result" in answered.json()
        assert denied is None or denied.json()["error"]["code"] == -32602

    run(main)


@pytest.mark.parametrize(
    "path",
    ["/mcp/server/gamma", "/mcp/profile/none", "/mcp/server/", "/mcp/other", "/mcpx", "/", "/mcp/tags/"],
)
def test_what_is_not_there_is_404(tmp_path: Path, path: str) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = RawClient(await RawConnection.open(stage.url), path)
            answer = await client.post(initialize())
            await client.close()
            assert answer.status == 404
            assert await stage.sessions.ask(CountSessions(), 5) == 0

    run(main)


HEADERS = [
    ({"Host": "evil.example"}, 421),
    ({"Origin": "http://evil.example"}, 403),
    ({"Origin": "null"}, 403),
    ({"Authorization": ""}, 401),
    ({"Authorization": "Bearer bad"}, 401),
    ({"Authorization": "Basic good"}, 401),
    ({"Content-Type": "text/plain"}, 415),
    ({"Accept": "application/json"}, 406),
    ({"Accept": "text/event-stream"}, 406),
    ({"Accept": "application/json, text/event-stream;q=0"}, 406),
    ({"Accept": "*/*"}, 200),
    ({"Content-Type": "application/json; charset=utf-8"}, 200),
    ({}, 200),
]


@pytest.mark.parametrize(("headers", "status"), HEADERS)
def test_a_request_is_refused_before_anything_is_made_of_it(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    async def main() -> None:
        async with open_door(tmp_path, tokens=TOKENS) as stage:
            client = RawClient(await RawConnection.open(stage.url), token="good")
            answer = await client.connection.ask(
                "POST", "/mcp", {**client.headers(), **headers}, json.dumps(initialize()).encode()
            )
            await client.close()
            opened = await stage.sessions.ask(CountSessions(), 5)

        assert answer.status == status
        assert opened == (status == 200)
        assert ("www-authenticate" in answer.headers) == (status == 401)

    run(main)


@pytest.mark.parametrize("method", ["GET", "DELETE", "OPTIONS", "PUT"])
@pytest.mark.parametrize("path", ["/mcp", "/healthz", "/metrics", "/api/v1/node", "/nothing"])
def test_host_and_origin_are_checked_on_every_request(tmp_path: Path, method: str, path: str) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            connection = await RawConnection.open(stage.url)
            wrong_host = await connection.ask(method, path, {"Host": "evil.example"})
            wrong_origin = await connection.ask(method, path, {"Origin": "http://evil.example"})
            await connection.close()

        assert (wrong_host.status, wrong_origin.status) == (421, 403)

    run(main)


def test_health_needs_no_token_and_everything_else_does(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path, tokens=TOKENS) as stage:
            connection = await RawConnection.open(stage.url)
            statuses = {
                path: (await connection.ask("GET", path)).status
                for path in ("/healthz", "/readyz", "/metrics", "/api/v1/node", "/mcp", "/nothing")
            }
            stage.node.health["ready"] = False
            unready = await connection.ask("GET", "/readyz")
            metrics = await connection.ask("GET", "/metrics", {"Authorization": "Bearer good"})
            await connection.close()

        assert statuses == {
            "/healthz": 200,
            "/readyz": 200,
            "/metrics": 401,
            "/api/v1/node": 401,
            "/mcp": 401,
            "/nothing": 401,
        }
        assert unready.status == 503
        assert b"mcpv_sessions" in metrics.body

    run(main)


def test_a_token_for_a_part_sees_that_part_on_every_path_and_nothing_of_the_operators(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path, tokens=TOKENS, tools=("echo",)) as stage:
            client = await RawClient.open(stage.url, token="beta")
            listed = await client.post(request(1, "tools/list"))
            hidden = await client.post(call(2, "alpha_echo"))
            other = RawClient(client.connection, "/mcp/server/alpha", "beta")
            elsewhere = await other.post(initialize())
            metrics = await client.connection.ask("GET", "/metrics", {"Authorization": "Bearer beta"})
            await client.close()

        assert [tool["name"] for tool in listed.json()["result"]["tools"]] == ["echo"]
        assert hidden.json()["error"]["code"] == -32602
        assert elsewhere.status == 404
        assert metrics.status == 403

    run(main)


def test_a_session_is_worth_nothing_to_another_principal_or_on_another_path(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path, tokens=TOKENS) as stage:
            client = await RawClient.open(stage.url, "/mcp/server/beta", token="good")
            thief = RawClient(client.connection, "/mcp/server/beta", "beta")
            thief.session = client.session
            elsewhere = RawClient(client.connection, "/mcp", "good")
            elsewhere.session = client.session
            stolen = await thief.post(request(1, "ping"))
            deleted = await thief.connection.ask("DELETE", "/mcp/server/beta", thief.headers())
            moved = await elsewhere.post(request(1, "ping"))
            mine = await client.post(request(1, "ping"))
            await client.close()

        assert (stolen.status, deleted.status, moved.status, mine.status) == (404, 404, 404, 200)

    run(main)


def test_sessions_are_needed_known_and_deleted(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            name, client.session = client.session, None
            missing = await client.post(request(1, "tools/list"))
            client.session = "unknown"
            unknown = await client.post(request(1, "tools/list"))
            client.session = name
            again = await client.post(initialize())
            bad_version = await client.post(request(1, "ping"), MCP_Protocol_Version="2026-07-28")
            good_version = await client.post(request(1, "ping"), MCP_Protocol_Version="2025-06-18")
            deleted = await client.connection.ask("DELETE", "/mcp", client.headers())
            gone = await client.post(request(1, "ping"))
            wrong_method = await client.connection.ask("PUT", "/mcp", client.headers())
            await client.close()

        assert missing.status == 400
        assert missing.json()["id"] == 1
        assert unknown.status == 404
        assert again.json()["error"]["code"] == -32600
        assert bad_version.status == 400
        assert good_version.status == 200
        assert deleted.status == 204
        assert gone.status == 404
        assert wrong_method.status == 405

    run(main)


BROKEN = [
    (b"", 400, -32700),
    (b"{", 400, -32700),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping"} x', 400, -32700),
    (b'{"jsonrpc":"2.0","id":1,"method":"\xff"}', 400, -32700),
    (b"[" * 100_000, 400, -32700),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":' + b'{"a":' * 600 + b"1" + b"}" * 601, 400, -32700),
    (b'{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}', 400, -32700),
    (b"[]", 400, -32600),
    (b'[{"jsonrpc":"2.0","id":1,"method":"ping"}]', 400, -32600),
    (b"null", 400, -32600),
    (b'{"jsonrpc":"1.0","id":1,"method":"ping"}', 400, -32600),
    (b'{"jsonrpc":"2.0","id":null,"method":"ping"}', 400, -32600),
    (b'{"jsonrpc":"2.0","id":{},"method":"ping"}', 400, -32600),
    (b'{"jsonrpc":"2.0","id":1,"method":5}', 400, -32600),
    (b'{"jsonrpc":"2.0","id":1,"method":"ping","params":[1]}', 400, -32600),
    (b'{"jsonrpc":"2.0","id":1}', 400, -32600),
    (b'{"jsonrpc":"2.0","id":1,"method":"no/such"}', 200, -32601),
    (b'{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"nope"}}', 200, -32602),
    (b'{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"x:1"}}', 200, -32002),
    (b'{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"name":"x:1"}}', 200, -32602),
    (b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}', 200, -32602),
    (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":7}}', 200, -32602),
    (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"nope"}}', 200, -32602),
    (b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"alpha_echo","_meta":1}}', 200, -32602),
    (b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"bad"}}', 200, -32602),
    (b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":7}}', 200, -32602),
    (b'{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":""}}', 200, -32602),
    (b'{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"loud"}}', 200, -32602),
]


def test_every_broken_message_has_its_error_and_the_session_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            for body, status, code in BROKEN:
                answer = await client.post(body)
                assert (answer.status, answer.json()["error"]["code"]) == (status, code), body[:80]
            assert (await client.post(request(1, "ping"))).status == 200
            await client.close()

    run(main)


def test_a_body_over_the_limit_is_refused_declared_or_streamed(tmp_path: Path) -> None:
    async def main() -> None:
        settings = local(limits=NodeLimits(body_bytes=1000))
        async with open_door(tmp_path, settings=settings) as stage:
            client = await RawClient.open(stage.url)
            declared = await client.post(b" " * 1001)
            await client.connection.send(
                "POST", "/mcp", {**client.headers(), "Content-Length": "99999999999999999999999999"}
            )
            absurd = await client.connection.read()
            await client.close()
            streaming = RawClient(await RawConnection.open(stage.url))
            headers = "".join(
                f"{name}: {value}\r\n" for name, value in {**client.headers(), "Host": "localhost"}.items()
            )
            streaming.connection.writer.write(
                f"POST /mcp HTTP/1.1\r\n{headers}Transfer-Encoding: chunked\r\n\r\n".encode()
            )
            # It never says how much there is, nor comes to an end.
            streaming.connection.writer.write((b"%x\r\n" % 700 + b" " * 700 + b"\r\n") * 2)
            streamed, _ = await streaming.connection.read_head()
            await streaming.close()

        assert declared.status == 413
        assert absurd.status in (400, 413)
        assert streamed == 413

    run(main)


def test_pages_are_bound_to_the_list_they_began_with(tmp_path: Path) -> None:
    async def main() -> None:
        settings = local(limits=NodeLimits(list_page=3))
        async with open_door(tmp_path, settings=settings) as stage:
            client = await RawClient.open(stage.url)
            names: list[str] = []
            cursors: list[str] = []
            params: dict[str, str] = {}
            while True:
                result = (await client.post(request(1, "tools/list", **params))).json()["result"]
                names += [tool["name"] for tool in result["tools"]]
                if "nextCursor" not in result:
                    break
                cursors.append(result["nextCursor"])
                params = {"cursor": cursors[-1]}
            etag = cursors[0].rpartition(".")[0]
            refused = [
                (await client.post(request(2, "tools/list", cursor=cursor))).json()["error"]["code"]
                for cursor in (
                    f"{etag}.0",
                    f"{etag}.99",
                    f"{etag}.-1",
                    f"{etag}.x",
                    "other.1",
                    f"{etag}.{'9' * 5000}",
                )
            ]
            await client.close()

        assert len(names) == len(set(names)) == 10
        assert refused == [-32602] * 6

    run(main)


def test_an_id_in_flight_is_refused_and_free_again_afterwards(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            second = RawClient(await RawConnection.open(stage.url))
            second.session = client.session
            await client.send(call(1, "alpha_slow"))
            await until(lambda: stage.node.instances["alpha"].waiting)
            twice = await second.post(call(1, "alpha_echo"))
            as_text = await second.post(call("1", "alpha_echo"))
            await stage.finish_slow()
            first = await client.connection.read()
            again = await second.post(call(1, "alpha_echo"))
            await client.close()
            await second.close()

        assert twice.json()["error"]["code"] == -32600
        assert as_text.json()["id"] == "1"
        assert first.json()["result"] == {"content": [], "slow": True}
        assert "result" in again.json()

    run(main)


def test_two_sessions_with_equal_ids_and_tokens_never_cross(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            clients = [await RawClient.open(stage.url) for _ in range(8)]
            for number, client in enumerate(clients):
                message = call(1, "alpha_slow", token=1)
                message["params"]["arguments"] = {"me": number}
                await client.send(message)
            instance = stage.node.instances["alpha"]
            await until(lambda: len(instance.waiting) == len(clients))
            for made, sent in zip(instance.calls, instance.sent, strict=True):
                me = json.loads(sent)["arguments"]["me"]
                assert made.on_event is not None
                made.on_event(
                    Progressed(msgspec.Raw(b'{"progressToken":5,"progress":1,"message":"%d"}' % me))
                )
            for number, client in enumerate(clients):
                status, _ = await client.connection.read_head()
                event = await client.connection.read_event()
                assert status == 200
                assert event["params"] == {"progressToken": 1, "progress": 1, "message": str(number)}
            for client in clients:
                await stage.finish_slow()
                assert (await client.connection.read_event())["id"] == 1
                await client.close()

    run(main)


def test_more_calls_than_a_session_may_have_are_turned_away(tmp_path: Path) -> None:
    async def main() -> None:
        settings = local(limits=NodeLimits(in_flight_per_session=1, in_flight_per_principal=2))
        async with open_door(tmp_path, settings=settings) as stage:
            clients = [await RawClient.open(stage.url) for _ in range(3)]
            extra = RawClient(await RawConnection.open(stage.url))
            extra.session = clients[0].session
            for client in clients[:2]:
                await client.send(call(1, "alpha_slow"))
            await until(lambda: len(stage.node.instances["alpha"].waiting) == 2)
            same_session = await extra.post(call(2, "alpha_echo"))
            same_principal = await clients[2].post(call(2, "alpha_echo"))
            for client in clients[:2]:
                await stage.finish_slow()
                await client.connection.read()
            afterwards = await clients[2].post(call(2, "alpha_echo"))
            for client in (*clients, extra):
                await client.close()

        for refused in (same_session, same_principal):
            assert refused.status == 200
            assert refused.json()["error"]["code"] == -31001
            assert refused.json()["error"]["data"]["reason"] == "overloaded"
            assert refused.json()["error"]["data"]["retryAfter"] > 0
        assert "result" in afterwards.json()

    run(main)


def test_a_cancelled_call_gets_no_answer_and_its_server_hears_of_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            second = RawClient(await RawConnection.open(stage.url))
            second.session = client.session
            await client.send(call(1, "alpha_slow"))
            await until(lambda: stage.node.instances["alpha"].waiting)
            told = await second.post(notification("notifications/cancelled", requestId=1, reason="enough"))
            answer = await client.connection.read()
            kind, instance = stage.node.types["alpha"], stage.node.instances["alpha"]
            # The instance said that the slot is still held: releasing it is its own affair.
            assert kind.released == []
            assert [message.reason for message in instance.cancelled] == ["enough"]
            await client.close()
            await second.close()

        assert told.status == 202
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.body == b""

    run(main)


def test_a_call_cancelled_in_the_queue_leaves_the_queue(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            kind = stage.node.types["alpha"]
            kind.keeps_waiting = True
            client = await RawClient.open(stage.url)
            second = RawClient(await RawConnection.open(stage.url))
            second.session = client.session
            await client.send(call("x", "alpha_echo"))
            await until(lambda: kind.parked)
            await second.post(notification("notifications/cancelled", requestId="x"))
            answer = await client.connection.read()
            await until(lambda: kind.released)
            await client.close()
            await second.close()

        assert answer.body == b""
        assert kind.released == [kind.acquired[0].lease]
        assert stage.node.instances["alpha"].calls == []

    run(main)


def test_a_client_that_hangs_up_does_not_cancel_its_call(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            await client.send(call(1, "alpha_slow"))
            await until(lambda: stage.node.instances["alpha"].waiting)
            await client.close()
            second = RawClient(await RawConnection.open(stage.url))
            second.session = client.session
            assert (await second.post(request(1, "ping"))).json()["error"]["code"] == -32600
            await stage.finish_slow()
            await until(lambda: stage.node.types["alpha"].ended)
            await second.close()

        assert stage.node.types["alpha"].ended == [True]
        assert stage.node.instances["alpha"].cancelled == []

    run(main)


def test_a_changed_list_is_told_on_the_stream_once_and_only_after_the_handshake(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            shy = RawClient(await RawConnection.open(stage.url))
            shy.session = (await shy.post(initialize())).headers["mcp-session-id"]
            client = await RawClient.open(stage.url)
            await until(lambda: len(stage.node.subscribers.joined) == 2)
            for _ in range(5):
                stage.node.subscribers.tell_all()
            for one in (client, shy):
                await one.connection.send("GET", "/mcp", one.headers())
                assert (await one.connection.read_head())[0] == 200
            assert await client.connection.read_event() == {
                "jsonrpc": "2.0",
                "method": "notifications/tools/list_changed",
            }
            for one in (client, shy):
                other = RawClient(await RawConnection.open(stage.url))
                other.session = one.session
                assert (await other.connection.ask("DELETE", "/mcp", other.headers())).status == 204
                assert await one.connection.read_event() is None
                await other.close()
                await one.close()
            await until(lambda: not stage.node.subscribers.joined)

    run(main)


def test_the_newest_stream_of_a_session_replaces_the_one_before(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            await client.connection.send("GET", "/mcp", client.headers())
            await client.connection.read_head()
            second = RawClient(await RawConnection.open(stage.url))
            second.session = client.session
            await second.connection.send("GET", "/mcp", second.headers())
            await second.connection.read_head()
            assert await client.connection.read_event() is None
            stage.node.subscribers.tell_all()
            assert (await second.connection.read_event())["method"] == "notifications/tools/list_changed"
            await client.close()
            await second.close()

    run(main)


def test_open_streams_end_and_calls_in_hand_are_answered_when_the_door_closes(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            streams = [await RawClient.open(stage.url) for _ in range(5)]
            for stream in streams:
                await stream.connection.send("GET", "/mcp", stream.headers())
                await stream.connection.read_head()
            client = await RawClient.open(stage.url)
            await client.send(call(1, "alpha_slow"))
            await until(lambda: stage.node.instances["alpha"].waiting)
            stage.door.cell.stop()
            for stream in streams:
                assert await stream.connection.read_event() is None
            await until_refused(stage.url)
            assert stage.door.is_alive()
            await stage.finish_slow()
            answer = await client.connection.read()
            await until(lambda: not stage.door.is_alive())
            for one in (*streams, client):
                await one.close()

        assert "result" in answer.json()

    run(main)


def test_a_call_that_outlasts_the_bound_does_not_keep_the_door_open(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path, drain_bound=0.05) as stage:
            client = await RawClient.open(stage.url)
            await client.send(call(1, "alpha_slow"))
            await until(lambda: stage.node.instances["alpha"].waiting)
            await stage.node.stop(stage.door)
            await until(lambda: stage.node.instances["alpha"].cancelled)
            await client.close()

    run(main)


def test_a_killed_door_leaves_nothing_open_and_the_next_one_has_its_port(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            estate = stage.door.cell.estate
            stage.door.kill()
            assert not await client.connection.reader.read(1)
            await client.close()
            urls: list[str] = []
            door = HttpDoor(stage.node.services, stage.sessions, on_bound=lambda url, _: urls.append(url))
            handle: Handle[Any] = Handle.create(stage.node.system, "again")
            handle.cell.estate = estate
            opened = asyncio.get_running_loop().create_future()
            handle.cell.on_started = lambda _: opened.set_result(None)
            handle.cell.start(door)
            await opened
            again = RawClient(await RawConnection.open(urls[0]))
            again.session = client.session
            pinged = await again.post(request(1, "ping"))
            await again.close()
            await stage.node.stop(handle)

        assert urls == [stage.url]
        assert pinged.status == 200

    run(main)


@pytest.mark.parametrize(
    ("fails", "bound", "status"), [(False, 10.0, 200), (True, 10.0, 500), (False, 0.01, 503)]
)
def test_who_asks_before_rest_is_loaded_waits_for_it_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool, bound: float, status: int
) -> None:
    go_on, make = threading.Event(), http_door._make_rest

    def load(*more: Any) -> Any:
        assert go_on.wait(5)
        if fails:
            raise ImportError("no such thing")
        return make(*more)

    monkeypatch.setattr(http_door, "_make_rest", load)
    monkeypatch.setattr(http, "REST_BOUND", bound)

    async def main() -> int:
        async with open_door(tmp_path) as stage:
            connection = await RawConnection.open(stage.url)
            await connection.send("GET", "/api/v1/servers")
            if status != 503:
                go_on.set()
            answer = await connection.read()
            go_on.set()
            await connection.close()
        return answer.status

    assert run(main) == status


def test_what_is_loaded_when_the_loop_has_closed_is_for_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    go_on, threads = threading.Event(), list[threading.Thread]()

    def load(*_: object) -> object:
        threads.append(threading.current_thread())
        assert go_on.wait(5)
        return object()

    monkeypatch.setattr(http_door, "_make_rest", load)

    async def main() -> Coroutine[Any, Any, Any]:
        services: Any = SimpleNamespace(node=SimpleNamespace(system=ActorSystem(asyncio.get_running_loop())))
        loading = http_door.load_rest(services, None, None)  # type: ignore[arg-type]
        loading.send(None)
        await until(lambda: threads)
        return loading

    loading = run(main)
    go_on.set()
    threads[0].join(5)
    loading.close()

    assert not threads[0].is_alive()
    assert caplog.records == []


def test_a_taken_port_refuses_the_start_and_names_it(tmp_path: Path) -> None:
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            address = f"127.0.0.1:{taken.getsockname()[1]}"
            settings = make_settings(listen=ListenSettings(http=address))
            with pytest.raises(RuntimeError, match=address):
                async with open_door(tmp_path, settings=settings):
                    pass

    run(main)


def test_a_door_for_others_without_tokens_does_not_open(tmp_path: Path) -> None:
    async def main() -> None:
        settings = make_settings(listen=ListenSettings(http="0.0.0.0:0"))
        with pytest.raises(RuntimeError, match="needs a token"):
            async with open_door(tmp_path, settings=settings):
                pass

    run(main)


def test_garbage_instead_of_http_hurts_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            for garbage in (
                b"\x16\x03\x01\x00\xa5",
                b"GET\r\n\r\n",
                b"POST /mcp HTTP/1.1\r\nContent-Length: x\r\n\r\n",
            ):
                bad = await RawConnection.open(stage.url)
                bad.writer.write(garbage)
                bad.writer.write_eof()
                await bad.reader.read()
                await bad.close()
            client = await RawClient.open(stage.url)
            assert (await client.post(request(1, "ping"))).status == 200
            await client.close()

    run(main)


def test_a_routing_key_comes_in_the_header_or_in_meta_and_is_the_principals_own(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path, tokens=TOKENS) as stage:
            client = await RawClient.open(stage.url, "/mcp/server/beta", token="good")
            other = await RawClient.open(stage.url, "/mcp/server/beta", token="beta")
            await client.post(call(1, "echo"))
            await client.post(call(2, "echo"), Mcpv_Key="k")
            await client.post(call(3, "echo", key="k"), Mcpv_Key="ignored")
            await other.post(call(1, "echo", key="k"))
            too_long = await client.post(call(5, "echo"), Mcpv_Key="k" * 1000)
            await client.close()
            await other.close()

        keys = [acquired.caller.key for acquired in stage.node.types["beta"].acquired]
        assert keys[0].startswith("session:")
        assert keys[1] == keys[2] != keys[0]
        assert keys[3] not in keys[:3]
        assert stage.node.types["beta"].acquired[0].caller.client == "raw"
        assert too_long.status == 400

    run(main)


@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25"])
def test_a_slow_call_shows_a_sign_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.setattr("mcpv_node.gateway.call_answer.KEEPALIVE", 0.01)
    monkeypatch.setattr("mcpv_node.gateway.call_answer.RESUMABLE_AFTER", 0.01)

    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url, version=version)
            await client.send(call(1, "alpha_slow"))
            _, headers = await client.connection.read_head()
            await client.connection.read_chunk()
            sign = await client.connection.read_chunk()
            await stage.finish_slow()
            answer = await client.connection.read_event()
            await client.close()

        assert headers["content-type"] == "text/event-stream"
        assert sign.startswith(b":")
        assert answer["result"]["slow"]

    run(main)
