"""The modern era over HTTP: each request stands for itself, and its answer is the end of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from support.doors import Stage, local, open_door
from support.fake_servers import run, until
from support.fakes import FakeClock
from support.modern_client import ModernClient, log_level, modern
from support.raw_http import RawConnection

from mcpv_node.actors.clients import ClientKind, ListClients
from mcpv_node.actors.instance.messages import Call, Noted, Progressed
from mcpv_node.gateway import modern_answer
from mcpv_node.protocol import Listed
from mcpv_node.settings import NodeLimits

SERVER_INFO = "io.modelcontextprotocol/serverInfo"


@asynccontextmanager
async def stage_and_client(folder: Path, **more: Any) -> AsyncIterator[tuple[Stage, ModernClient]]:
    async with open_door(folder, **more) as stage:
        client = ModernClient(stage.url)
        try:
            yield stage, client
        finally:
            await client.close()


def with_header(name: str, header: object, type_: str = "string") -> Listed:
    schema = {"type": "object", "properties": {"region": {"type": type_, "x-mcp-header": header}}}
    return Listed(name, json.dumps({"name": name, "inputSchema": schema}).encode())


def test_a_client_discovers_lists_and_calls_without_a_session(tmp_path: Path) -> None:
    async def main() -> None:
        async with stage_and_client(tmp_path) as (stage, client):
            discovered = await client.result(modern("server/discover"))
            listed = await client.result(modern("tools/list"))
            empty = await client.result(modern("resources/templates/list"))
            answer = await client.post(modern("tools/call", name="alpha_echo", arguments={"x": 1}))
            caller = stage.node.types["alpha"].acquired[0].caller
            known = await stage.node.services.node.clients.ask(ListClients(), 1)

        assert discovered["supportedVersions"] == ["2026-07-28"]
        assert discovered["capabilities"]["tools"] == {"listChanged": True}
        assert len(listed["tools"]) == 10
        assert listed["tools"][0]["x"] == 1.0
        assert empty["resourceTemplates"] == []
        for result in (discovered, listed, empty):
            assert (result["resultType"], result["ttlMs"], result["cacheScope"]) == ("complete", 0, "private")
            assert result["_meta"][SERVER_INFO]["name"] == "mcpv-node"
        assert answer.headers["content-type"] == "application/json"
        assert "mcp-session-id" not in answer.headers
        result = answer.json()["result"]
        assert result["sent"]["arguments"] == {"x": 1}
        assert result["resultType"] == "complete"
        assert (caller.era, caller.client, caller.key) == ("modern", "modern", "client:default:modern")
        assert [one.client.kind for one in known] == [ClientKind.MODERN]

    run(main)


def test_a_list_goes_on_behind_a_sealed_cursor_that_is_good_for_its_owner_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with stage_and_client(tmp_path, settings=local(limits=NodeLimits(list_page=4))) as (_, client):
            names: list[str] = []
            cursor: dict[str, Any] = {}
            while True:
                page = await client.result(modern("tools/list", **cursor))
                names += [tool["name"] for tool in page["tools"]]
                if "nextCursor" not in page:
                    break
                cursor = {"cursor": page["nextCursor"]}
            elsewhere = ModernClient(client.url, "/mcp/server/alpha")
            foreign = await elsewhere.error(modern("tools/list", **cursor))
            forged = await client.error(modern("tools/list", cursor="x" + cursor["cursor"]))
            await elsewhere.close()

        assert len(names) == len(set(names)) == 10
        for refused in (foreign, forged):
            assert (refused["status"], refused["code"]) == (400, -32602)

    run(main)


@pytest.mark.parametrize(
    ("message", "headers", "status", "code"),
    [
        (modern("tools/call", name="nope"), {}, 400, -32602),
        (modern("prompts/get", name="nope"), {}, 400, -32602),
        (modern("resources/read", uri="test://nope"), {}, 400, -32602),
        (modern("tools/call", name="alpha_error"), {}, 200, -32050),
        (modern("ping"), {}, 404, -32601),
        (modern("tasks/get", taskId="t"), {}, 400, -32602),
        (modern("tools/list", version="2099-01-01"), {"Mcp_Protocol_Version": "2099-01-01"}, 400, -32022),
        (modern("tools/list"), {"Mcp_Method": "tools/call"}, 400, -32020),
        (modern("tools/call", name="alpha_echo"), {"Mcp_Name": None}, 400, -32020),
        (modern("tools/call", name="alpha_echo"), {"Mcp_Name": "beta_echo"}, 400, -32020),
        (modern("subscriptions/listen"), {}, 400, -32602),
    ],
)
def test_what_is_refused_has_the_specifications_code_and_status(
    tmp_path: Path, message: Any, headers: dict[str, Any], status: int, code: int
) -> None:
    async def main() -> None:
        async with stage_and_client(tmp_path) as (_, client):
            refused = await client.error(message, **headers)

        assert (refused["status"], refused["code"]) == (status, code)

    run(main)


def test_a_resource_that_is_not_there_is_named_in_the_error(tmp_path: Path) -> None:
    async def main() -> None:
        async with stage_and_client(tmp_path) as (_, client):
            refused = await client.error(modern("resources/read", uri="test://nope"))

        assert refused["data"] == {"uri": "test://nope"}

    run(main)


def test_both_eras_are_served_on_one_path(tmp_path: Path) -> None:
    async def main() -> None:
        from support.raw_http import RawClient, call

        async with stage_and_client(tmp_path) as (stage, client):
            legacy = await RawClient.open(stage.url)
            old = (await legacy.post(call(1, "alpha_echo"))).json()
            new = await client.ask(modern("tools/call", id=1, name="alpha_echo"))
            await legacy.close()

        assert "resultType" not in old["result"]
        assert new["result"]["resultType"] == "complete"

    run(main)


def test_progress_makes_the_answer_a_stream_under_the_clients_own_token(tmp_path: Path) -> None:
    async def main() -> None:
        async with stage_and_client(tmp_path) as (_, client):
            message = modern("tools/call", name="alpha_progress", meta={"progressToken": "mine"})
            connection = await client.send(message)
            _, headers = await connection.read_head()
            events = [await connection.read_event() for _ in range(3)]
            end = await connection.read_event()
            quiet = await client.post(modern("tools/call", name="alpha_progress"))

        assert headers["content-type"] == "text/event-stream"
        assert headers["x-accel-buffering"] == "no"
        assert [event["params"]["progressToken"] for event in events[:2]] == ["mine", "mine"]
        assert events[2]["id"] == message["id"]
        assert end is None
        assert quiet.headers["content-type"] == "application/json"

    run(main)


@pytest.mark.parametrize(
    ("wanted", "heard"), [(None, []), ("warning", ["error"]), ("debug", ["info", "error"])]
)
def test_log_messages_come_to_who_asks_for_them_and_as_severe_as_asked(
    tmp_path: Path, wanted: str | None, heard: list[str]
) -> None:
    async def main() -> None:
        async with stage_and_client(tmp_path) as (stage, client):
            meta = {} if wanted is None else log_level(wanted)
            connection = await client.send(modern("tools/call", name="alpha_slow", meta=meta))
            instance = stage.node.instances["alpha"]
            await until(lambda: instance.waiting)
            tell_logs(instance.calls[0])
            await stage.finish_slow()
            answer = await connection.read()
            messages = [
                json.loads(line[6:]) for line in answer.body.split(b"\n") if line.startswith(b"data: ")
            ]
            level = instance.calls[0].log_level

        assert [one["params"]["level"] for one in messages[:-1]] == heard
        assert level == wanted

    run(main)


def tell_logs(call: Call) -> None:
    assert call.on_event is not None
    for level in ("info", "error"):
        params = Raw(json.dumps({"level": level, "data": "x"}).encode())
        call.on_event(Noted("notifications/message", params))
    call.on_event(Noted("notifications/elicitation/complete", Raw(b'{"elicitationId":"e"}')))


def test_who_hangs_up_has_cancelled(tmp_path: Path) -> None:
    async def main() -> None:
        async with stage_and_client(tmp_path) as (stage, client):
            connection = await client.send(modern("tools/call", name="alpha_slow"))
            instance = stage.node.instances["alpha"]
            await until(lambda: instance.waiting)
            await connection.close()
            await until(lambda: instance.cancelled)
            await until(lambda: not stage.node.services.load)

    run(main)


def test_who_hangs_up_while_waiting_for_a_slot_leaves_the_queue(tmp_path: Path) -> None:
    async def main() -> None:
        async with stage_and_client(tmp_path) as (stage, client):
            server = stage.node.types["alpha"]
            server.keeps_waiting = True
            connection = await client.send(modern("tools/call", name="alpha_echo"))
            await until(lambda: server.parked)
            await connection.close()
            await until(lambda: server.released)
            await until(lambda: not stage.node.services.load)

        assert server.released == [server.acquired[0].lease]

    run(main)


def test_who_hangs_up_while_its_answer_is_a_stream_has_cancelled(tmp_path: Path) -> None:
    async def main() -> None:
        async with stage_and_client(tmp_path) as (stage, client):
            connection = await client.send(modern("tools/call", name="alpha_slow", meta={"progressToken": 1}))
            instance = stage.node.instances["alpha"]
            await until(lambda: instance.waiting)
            on_event = instance.calls[0].on_event
            assert on_event is not None
            on_event(Progressed(Raw(b'{"progressToken":9,"progress":1}')))
            status, _ = await connection.read_head()
            await connection.close()
            await until(lambda: instance.cancelled)
            await until(lambda: not stage.node.services.load)

        assert status == 200

    run(main)


def test_a_client_that_asks_all_the_time_is_said_to_be_there_once_a_second(tmp_path: Path) -> None:
    async def main() -> None:
        clock = FakeClock()
        message = modern("tools/list")
        body = json.dumps(message).encode()
        async with stage_and_client(tmp_path, clock=clock) as (stage, client):
            connection = await RawConnection.open(stage.url)
            said: list[int] = []
            for seconds in (0.0, 0.0, 0.9, 0.2):
                clock.advance(seconds)
                answer = await connection.ask("POST", "/mcp", client.headers(message), body)
                assert answer.status == 200
                said.append(_signs(stage))
            await connection.close()

        assert [signs - said[0] for signs in said] == [0, 0, 0, 1]

    run(main)


def _signs(stage: Stage) -> int:
    """How often a client was said to be there."""
    return stage.node.services.node.clients.statistics().handled


def test_two_requests_with_one_id_each_get_their_own_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with stage_and_client(tmp_path) as (stage, client):
            first = await client.send(modern("tools/call", id="same", name="alpha_slow"))
            await until(lambda: stage.node.instances["alpha"].waiting)
            second = await client.ask(modern("tools/call", id="same", name="beta_echo"))
            await stage.finish_slow()
            late = (await first.read()).json()

        assert second["result"]["server"] == "beta"
        assert late["result"]["slow"] is True

    run(main)


def test_a_principal_has_so_many_requests_in_flight_and_no_more(tmp_path: Path) -> None:
    async def main() -> None:
        settings = local(limits=NodeLimits(in_flight_per_principal=1))
        async with stage_and_client(tmp_path, settings=settings) as (stage, client):
            slow = await client.send(modern("tools/call", name="alpha_slow"))
            await until(lambda: stage.node.instances["alpha"].waiting)
            refused = await client.error(modern("tools/call", name="beta_echo"))
            listed = await client.result(modern("tools/list"))
            await stage.finish_slow()
            await slow.read()
            served = await client.result(modern("tools/call", name="beta_echo"))

        assert (refused["status"], refused["code"], refused["data"]["reason"]) == (200, -31001, "overloaded")
        assert listed["tools"]
        assert served["server"] == "beta"

    run(main)


def test_a_client_that_waits_long_is_shown_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modern_answer, "KEEPALIVE", 0.01)

    async def main() -> None:
        async with stage_and_client(tmp_path) as (stage, client):
            connection = await client.send(modern("tools/call", name="alpha_slow"))
            status, headers = await connection.read_head()
            sign = await connection.read_chunk()
            await stage.finish_slow()
            answer = await connection.read_event()

        assert (status, headers["content-type"], sign[:1]) == (200, "text/event-stream", b":")
        assert answer["result"]["slow"] is True

    run(main)


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_there_is_nothing_to_open_or_to_end_without_sessions(tmp_path: Path, method: str) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            connection = await RawConnection.open(stage.url)
            headers = {"Mcp-Protocol-Version": "2026-07-28", "Accept": "text/event-stream"}
            answer = await connection.ask(method, "/mcp", headers)
            await connection.close()

        assert (answer.status, answer.headers["allow"]) == (405, "POST")

    run(main)


def test_a_notification_is_accepted_and_a_response_is_not(tmp_path: Path) -> None:
    async def main() -> None:
        async with stage_and_client(tmp_path) as (_, client):
            told = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}
            accepted = await client.post(told)
            refused = await client.post({"jsonrpc": "2.0", "id": 1, "result": {}, "method": "x"})

        assert (accepted.status, accepted.body) == (202, b"")
        assert refused.status == 400

    run(main)


def test_mirrored_arguments_are_compared_with_their_headers(tmp_path: Path) -> None:
    async def main() -> None:
        tool = with_header("regional", "Region")
        async with stage_and_client(tmp_path, definitions=(tool,)) as (_, client):
            message = modern("tools/call", name="alpha_regional", arguments={"region": "eu"})
            served = await client.result(message, Mcp_Param_Region="eu")
            missing = await client.error(message)
            other = await client.error(message, Mcp_Param_Region="us")

        assert served["sent"]["arguments"] == {"region": "eu"}
        for refused in (missing, other):
            assert (refused["status"], refused["code"]) == (400, -32020)

    run(main)


def test_a_tool_whose_annotation_is_wrong_is_not_shown_over_http_and_reported_once(tmp_path: Path) -> None:
    async def main() -> None:
        tool = with_header("broken", "no name")
        async with stage_and_client(tmp_path, definitions=(tool,)) as (stage, client):
            for _ in range(2):
                listed = await client.result(modern("tools/list"))
            refused = await client.error(modern("tools/call", name="alpha_broken", arguments={}))
            await until(lambda: len(stage.node.events.events) >= 3)
            told = [e.server for e in stage.node.events.events if e.kind == "entry_rejected"]

        assert len(listed["tools"]) == 10
        assert refused["code"] == -32602
        assert told == ["alpha", "beta"]

    run(main)


def test_what_is_in_hand_when_the_door_closes_is_answered(tmp_path: Path) -> None:
    async def main() -> None:
        async with stage_and_client(tmp_path) as (stage, client):
            connection = await client.send(modern("tools/call", name="alpha_slow"))
            await until(lambda: stage.node.instances["alpha"].waiting)
            ending = asyncio.ensure_future(stage.node.stop(stage.door))
            await stage.finish_slow()
            answer = await connection.read()
            await ending

        assert answer.json()["result"]["slow"] is True

    run(main)
