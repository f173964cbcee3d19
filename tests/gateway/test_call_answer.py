"""How one call is answered, without a socket: as JSON, or as a stream once something comes before the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

from support.fake_servers import run, until
from support.fakes import FakeClock

from mcpv_node.actors.kernel import ActorSystem
from mcpv_node.gateway.asgi import AsgiExchange
from mcpv_node.gateway.call_answer import CallAnswer
from mcpv_node.gateway.heads import CONNECTION, Connection
from mcpv_node.gateway.sessions import Session, SessionId

QUESTION = b'{"jsonrpc":"2.0","id":1,"method":"elicitation/create"}'
REPLY = b'{"jsonrpc":"2.0","id":5,"result":{}}'


class FakeFront:
    """As much of a conversation as an answer asks for."""

    version = "2025-11-25"


class FakeClient:
    """The other side of one exchange: keeps what was written, goes away when it is told to."""

    def __init__(self) -> None:
        self.head: dict[str, Any] = {}
        self.pieces: list[bytes] = []
        self.is_ended = False
        self._gone = asyncio.Event()
        self._connection = Connection()
        scope = {"method": "POST", "path": "/mcp", "headers": [], "state": {CONNECTION: self._connection}}
        self.exchange = AsgiExchange(scope, self._receive, self._send)
        self.session = Session(SessionId("s"), now=0.0)
        self.session.front = FakeFront()  # type: ignore[assignment]

    def hang_up(self) -> None:
        self._gone.set()
        self._connection.lost()

    async def _receive(self) -> dict[str, Any]:
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if self._gone.is_set():
            return
        if message["type"] == "http.response.start":
            self.head = {name.decode(): value.decode() for name, value in message["headers"]}
            return
        self.pieces.append(message["body"])
        self.is_ended = not message.get("more_body", False)


def check(scenario: Callable[[FakeClient, CallAnswer], Coroutine[Any, Any, None]]) -> None:
    """Run it, and see that it left no task behind."""

    async def main() -> None:
        client = FakeClient()
        clock = FakeClock()
        system = ActorSystem(asyncio.get_running_loop(), clock=clock)
        node: Any = SimpleNamespace(clock=clock, system=system)
        answer = CallAnswer(client.exchange, client.session, node)
        await scenario(client, answer)
        answer.abandon()
        await until(lambda: len(asyncio.all_tasks()) == 1)
        system.close()

    run(main)


def test_a_reply_that_is_all_there_is_to_say_is_json_and_needs_no_task() -> None:
    async def scenario(client: FakeClient, answer: CallAnswer) -> None:
        await answer.finish(REPLY)

        assert client.head["content-type"] == "application/json"
        assert client.pieces == [REPLY]
        assert client.session.streams.kept_bytes == 0
        assert len(asyncio.all_tasks()) == 1

    check(scenario)


def test_what_comes_before_the_reply_makes_it_a_stream() -> None:
    async def scenario(client: FakeClient, answer: CallAnswer) -> None:
        assert answer.emit(QUESTION, may_be_dropped=False)
        await answer.finish(REPLY)

        assert client.head["content-type"] == "text/event-stream"
        assert [b"data: " + data + b"\n\n" for data in (b"", QUESTION, REPLY)] == [
            b"data: " + piece.partition(b"data: ")[2] for piece in client.pieces[:-1]
        ]
        assert client.is_ended

    check(scenario)


def test_nothing_is_taken_once_the_call_is_over() -> None:
    async def scenario(client: FakeClient, answer: CallAnswer) -> None:
        await answer.finish(REPLY)

        assert not answer.emit(QUESTION, may_be_dropped=False)
        assert client.pieces == [REPLY]

    check(scenario)


def test_a_cancelled_call_that_said_nothing_is_an_empty_stream() -> None:
    async def scenario(client: FakeClient, answer: CallAnswer) -> None:
        await answer.finish(None)

        assert client.head["content-type"] == "text/event-stream"
        assert client.pieces == [b""]

    check(scenario)


def test_what_is_said_to_a_client_that_is_gone_waits_in_the_stream() -> None:
    async def scenario(client: FakeClient, answer: CallAnswer) -> None:
        answer.notify(b'"first"')
        await until(lambda: client.pieces)
        client.hang_up()
        answer.emit(QUESTION, may_be_dropped=False)
        await answer.finish(REPLY)
        priming = client.pieces[0].decode().partition("id: ")[2].partition("\n")[0]
        reader = client.session.streams.connect(priming)

        assert reader is not None
        assert [getattr(await reader.next(5), "message", None) for _ in range(4)] == [
            b'"first"',
            QUESTION,
            REPLY,
            None,
        ]

    check(scenario)


def test_an_abandoned_call_ends_its_stream_without_an_answer() -> None:
    async def scenario(client: FakeClient, answer: CallAnswer) -> None:
        answer.notify(b'"first"')
        answer.abandon()

        assert not answer.emit(QUESTION, may_be_dropped=False)
        assert REPLY not in client.pieces

    check(scenario)
