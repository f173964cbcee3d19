"""Requests that are read past uvicorn's parser, because their head is that of the one before, over real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from msgspec.structs import replace
from support.doors import Stage, local, open_door
from support.fake_servers import run, until
from support.fuzzing import TEST_TIMEOUT, Theatre, fuzz
from support.modern_client import modern
from support.raw_http import RawClient, RawConnection, RawResponse, call, request

from mcpv_node.gateway import TokenTable, http_door, wire
from mcpv_node.gateway.auth import DEFAULT_AUTHORITY
from mcpv_node.gateway.http import HttpApp
from mcpv_node.gateway.wire import MAX_BODY, KnownExchange
from mcpv_node.protocol import MODERN
from mcpv_node.settings import NodeLimits, ProfileSettings, ServerName

TOKENS = TokenTable([("good", DEFAULT_AUTHORITY)])


class Known:
    """Counts what was read past the parser."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.bodies: list[bytes] = []
        serve = wire.WholeAnswers.serve

        def counted(protocol: wire.WholeAnswers, exchange: KnownExchange) -> None:
            self.bodies.append(b"".join(exchange._pieces))
            serve(protocol, exchange)

        patch.setattr(wire.WholeAnswers, "serve", counted)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Known:
    return Known(monkeypatch)


@asynccontextmanager
async def known_client(stage: Stage) -> AsyncIterator[RawClient]:
    """A client whose next request is read past the parser."""
    client = await RawClient.open(stage.url, token="good")
    try:
        yield client
    finally:
        await client.close()


def written(client: RawClient, message: Any, **headers: str) -> bytes:
    """A request as it is on the wire."""
    body = message if isinstance(message, bytes) else json.dumps(message).encode()
    given = {"Host": client.connection.host, **client.headers(), **headers, "Content-Length": str(len(body))}
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"POST {client.path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body


def divide(*_: object) -> float:
    return 1 / 0


def test_the_second_of_two_requests_with_one_head_is_known(tmp_path: Path, known: Known) -> None:
    async def main() -> list[RawResponse]:
        async with open_door(tmp_path, tokens=TOKENS) as stage, known_client(stage) as client:
            return [await client.post(request(id, "ping")) for id in ("a", "much longer")]

    answers = run(main)

    assert [answer.json()["id"] for answer in answers] == ["a", "much longer"]
    assert [json.loads(body)["id"] for body in known.bodies] == ["a", "much longer"]
    assert answers[0].headers.keys() == {"date", "content-length", "content-type"}


def test_a_modern_request_for_something_else_is_known_and_judged_by_its_own_headers(
    tmp_path: Path, known: Known
) -> None:
    async def main() -> list[RawResponse]:
        async with open_door(tmp_path, tokens=TOKENS) as stage:
            connection = await RawConnection.open(stage.url)
            answers: list[RawResponse] = []
            for number, (header, name) in enumerate(
                (
                    ("alpha_echo", "alpha_echo"),
                    ("beta_echo", "beta_echo"),
                    ("alpha_echo", "beta_echo"),
                    ("beta_echo", "beta_echo"),
                )
            ):
                headers = {
                    "Authorization": "Bearer good",
                    "Content-Type": "application/json",
                    "Accept": "application/json, text/event-stream",
                    "MCP-Protocol-Version": MODERN[0],
                    "Mcp-Method": "tools/call",
                    "Mcp-Name": header,
                    "Traceparent": f"00-{number:032x}-{number:016x}-01",
                }
                body = json.dumps(modern("tools/call", name=name)).encode()
                answers.append(await connection.ask("POST", "/mcp", headers, body))
            await connection.close()
        return answers

    answers = run(main)

    assert [answer.status for answer in answers] == [200, 200, 400, 200]
    assert len(known.bodies) == 3


def test_what_a_known_request_leads_to_is_looked_up_anew_when_the_node_changes(
    tmp_path: Path, known: Known
) -> None:
    headers = {
        "Authorization": "Bearer good",
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": MODERN[0],
        "Mcp-Method": "tools/list",
    }

    def showing(server: str) -> ProfileSettings:
        return ProfileSettings(name="p", servers=(ServerName(server),))

    async def main() -> list[set[str]]:
        settings = local(profiles=(showing("alpha"),))
        seen: list[set[str]] = []
        async with open_door(tmp_path, settings=settings, tokens=TOKENS) as stage:
            connection = await RawConnection.open(stage.url)
            cell = stage.node.services.node.world
            for server in ("alpha", "alpha", "beta", "alpha"):
                changed = replace(cell.world.settings, profiles=(showing(server),))
                cell.publish_servers(cell.world.servers, changed)
                body = json.dumps(modern("tools/list")).encode()
                answer = await connection.ask("POST", "/mcp/profile/p", headers, body)
                seen.append({tool["name"].partition("_")[0] for tool in answer.json()["result"]["tools"]})
            await connection.close()
        return seen

    assert run(main) == [{"alpha"}, {"alpha"}, {"beta"}, {"alpha"}]
    assert len(known.bodies) == 3


def test_an_answer_is_the_same_whichever_way_its_request_was_read(tmp_path: Path, known: Known) -> None:
    messages = [
        request(1, "tools/list"),
        call(2, "alpha_echo"),
        call(3, "alpha_error"),
        call(4, "alpha_progress", token="t"),
        call(5, "nobody"),
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        b"{",
        b"\xff",
        b"",
        b"[]",
    ]

    async def main() -> tuple[list[RawResponse], list[RawResponse]]:
        async with open_door(tmp_path, tokens=TOKENS) as stage, known_client(stage) as client:
            past = [await client.post(message) for message in messages]
            assert len(known.bodies) == len(messages)
            parsed: list[RawResponse] = []
            for message in messages:
                other = await client.beside(stage.url)
                parsed.append(await other.post(message))
                await other.close()
            assert len(known.bodies) == len(messages)
        return past, parsed

    past, parsed = run(main)

    for one, other in zip(past, parsed, strict=True):
        assert (one.status, one.headers.keys()) == (other.status, other.headers.keys())
        if one.headers.get("content-type") != "text/event-stream":
            assert one.body == other.body
        else:
            assert one.last_message() == other.last_message()


def test_a_body_may_come_later_than_its_head_and_in_pieces(tmp_path: Path, known: Known) -> None:
    async def main() -> RawResponse:
        async with open_door(tmp_path, tokens=TOKENS) as stage, known_client(stage) as client:
            data = written(client, call("x", "alpha_echo"))
            head = data.index(b"\r\n\r\n") + 4
            for piece in (data[:head], data[head : head + 5], data[head + 5 :]):
                client.connection.writer.write(piece)
                await client.connection.writer.drain()
                await asyncio.sleep(0)
            return await client.connection.read()

    assert run(main).json()["id"] == "x"


def test_requests_that_do_not_wait_are_answered_in_their_order(tmp_path: Path, known: Known) -> None:
    async def main() -> list[RawResponse]:
        async with open_door(tmp_path, tokens=TOKENS) as stage, known_client(stage) as client:
            slow = written(client, call(0, "alpha_slow"))
            pings = b"".join(written(client, request(number, "ping")) for number in range(1, 20))
            other = written(client, request(20, "ping"), **{"X-Other": "1"})
            client.connection.writer.write(slow + pings + other + written(client, request(21, "ping")))
            await stage.finish_slow()
            return [await client.connection.read() for _ in range(22)]

    answers = run(main)

    assert [answer.json()["id"] for answer in answers] == list(range(22))
    assert json.loads(known.bodies[0])["id"] == 0


def test_a_large_body_is_read_by_the_parser_and_one_over_the_limit_refused(
    tmp_path: Path, known: Known
) -> None:
    limits = NodeLimits(body_bytes=4 * MAX_BODY)

    async def main() -> tuple[RawResponse, RawResponse, RawResponse]:
        settings = local(limits=limits)
        async with (
            open_door(tmp_path, settings=settings, tokens=TOKENS) as stage,
            known_client(stage) as client,
        ):
            large = await client.post(request("x" * 2 * MAX_BODY, "ping"))
            small = await client.post(request(1, "ping"))
            head = written(client, b"").replace(b"Content-Length: 0", b"Content-Length: 99999999999999")
            client.connection.writer.write(head)
            return large, small, await client.connection.read()

    large, small, refused = run(main)

    assert (large.status, small.status, refused.status) == (200, 200, 413)
    assert [json.loads(body)["id"] for body in known.bodies] == [1]


def test_a_limit_below_what_is_read_here_holds_too(tmp_path: Path, known: Known) -> None:
    async def main() -> RawResponse:
        settings = local(limits=NodeLimits(body_bytes=1000))
        async with (
            open_door(tmp_path, settings=settings, tokens=TOKENS) as stage,
            known_client(stage) as client,
        ):
            return await client.post(request("x" * 2000, "ping"))

    assert run(main).status == 413
    assert len(known.bodies) == 1


def test_a_failure_inside_is_500_without_a_word_of_it(
    tmp_path: Path, known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> tuple[RawResponse, RawResponse]:
        async with open_door(tmp_path, tokens=TOKENS) as stage, known_client(stage) as client:
            with monkeypatch.context() as patch:
                patch.setattr(HttpApp, "_route", divide)
                failed = await client.post(request(1, "ping"))
            return failed, await client.post(request(2, "ping"))

    failed, following = run(main)

    assert (failed.status, following.status) == (500, 200)
    assert b"division" not in failed.body
    assert len(known.bodies) == 2


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_door_that_closes_answers_what_is_in_hand_and_says_that_it_closes(
    tmp_path: Path, known: Known, loop: str
) -> None:
    async def main() -> tuple[RawResponse, bytes, bytes]:
        async with open_door(tmp_path, tokens=TOKENS) as stage:
            async with known_client(stage) as client, known_client(stage) as half:
                await client.send(call(1, "alpha_slow"))
                half.connection.writer.write(written(half, request(1, "ping"))[:-1])
                await until(lambda: stage.node.instances["alpha"].waiting)
                ending = asyncio.ensure_future(stage.node.stop(stage.door))
                unread = await half.connection.reader.read()
                await stage.finish_slow()
                answer = await client.connection.read()
                rest = await client.connection.reader.read()
                await ending
            return answer, rest, unread

    answer, rest, unread = run(main, loop=loop)

    assert answer.json()["result"]["slow"] is True
    assert answer.headers["connection"] == "close"
    assert (rest, unread) == (b"", b"")


def test_a_call_that_outlasts_the_bound_of_a_closing_door_is_cancelled(tmp_path: Path, known: Known) -> None:
    async def main() -> None:
        async with (
            open_door(tmp_path, tokens=TOKENS, drain_bound=0.05) as stage,
            known_client(stage) as client,
        ):
            await client.send(call(1, "alpha_slow"))
            await until(lambda: stage.node.instances["alpha"].waiting)
            await stage.node.stop(stage.door)
            await until(lambda: stage.node.instances["alpha"].cancelled)

    run(main)
    assert len(known.bodies) == 1


def test_a_client_that_hangs_up_leaves_nothing_behind(tmp_path: Path, known: Known) -> None:
    async def main() -> None:
        async with open_door(tmp_path, tokens=TOKENS) as stage:
            async with known_client(stage) as client, known_client(stage) as half:
                await client.send(call(1, "alpha_slow"))
                half.connection.writer.write(written(half, request(1, "ping"))[:-1])
                await until(lambda: stage.node.instances["alpha"].waiting)
            # Its call goes on: in this era a client says so when it does not want the answer.
            await stage.finish_slow()
            server = stage.door.cell.actor._server  # type: ignore[union-attr]
            await until(lambda: not server.server_state.connections and not server.server_state.tasks)

    run(main)


def test_a_connection_that_waits_for_its_client_is_closed_and_one_that_is_answered_is_not(
    tmp_path: Path, known: Known, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_door, "IDLE_CONNECTION", 0.1)

    async def main() -> RawResponse:
        async with (
            open_door(tmp_path, tokens=TOKENS) as stage,
            known_client(stage) as busy,
            known_client(stage) as idle,
            known_client(stage) as half,
        ):
            new = await busy.beside(stage.url)
            unread = await busy.beside(stage.url)
            unread.connection.writer.write(written(unread, request(1, "ping"))[:-1])
            half.connection.writer.write(written(half, request(1, "ping"))[:-1])
            await busy.send(call(1, "alpha_slow"))
            for waiting in (idle, half, new, unread):
                assert await waiting.connection.reader.read() == b""
                await waiting.close()
            await stage.finish_slow()
            return await busy.connection.read()

    assert run(main).json()["result"]["slow"] is True


@pytest.mark.timeout(TEST_TIMEOUT)
def test_however_requests_are_cut_and_mixed_each_has_its_own_answer(tmp_path: Path, known: Known) -> None:
    async def ask(stage: Stage, asked: list[tuple[int, int, bool, int]]) -> None:
        answered: list[int] = []
        async with known_client(stage) as client:
            writer = client.connection.writer
            for number, (size, kind, waits, cut) in enumerate(asked):
                more = {} if kind else {"X-Other": "1"}
                data = written(client, {**request(number, "ping"), "pad": "x" * size}, **more)
                for piece in (data[: cut % len(data)], data[cut % len(data) :]):
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                while waits and len(answered) <= number:
                    answered.append((await client.connection.read()).json()["id"])
            while len(answered) < len(asked):
                answered.append((await client.connection.read()).json()["id"])
        assert answered == list(range(len(asked)))

    with Theatre() as theatre, theatre.standing(open_door(tmp_path, tokens=TOKENS)) as stage:

        @fuzz(
            120,
            asked=st.lists(
                st.tuples(
                    st.sampled_from((0, 0, 1, 500, 70_000)),
                    st.integers(0, 4),
                    st.booleans(),
                    st.one_of(st.just(0), st.integers(0, 500)),
                ),
                min_size=1,
                max_size=6,
            ),
        )
        def check(asked: list[tuple[int, int, bool, int]]) -> None:
            theatre.run(ask(stage, asked))

    assert len(known.bodies) > 50
