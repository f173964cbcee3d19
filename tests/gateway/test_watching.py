"""A legacy client subscribes to resources: what it is answered, what it hears, and what is left when it goes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

from support.fake_servers import FakeNode, fake_node, run, until

from mcpv_node.actors.instance.messages import Answer, ResourceUpdated
from mcpv_node.actors.leases import InstanceId
from mcpv_node.actors.world import EVERYTHING, Selector
from mcpv_node.gateway import Front
from mcpv_node.gateway.front import AnswerStep
from mcpv_node.gateway.watching import WatchStep
from mcpv_node.protocol import parse_message
from mcpv_node.settings import ServerName, SpecKey

HELLO = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "n", "version": "1"}}


class Client:
    """One session of the older era, with the door played by the test."""

    def __init__(self, node: FakeNode, selector: Selector | None = None) -> None:
        self.heard: list[dict[str, Any]] = []
        self.load: Counter[str] = Counter()
        self._last = 0
        self.front = Front(
            node.services,
            principal="p",
            selector=Selector(server=ServerName("alpha")) if selector is None else selector,
            conversation="c",
            load=self.load,
            notify=lambda message: self.heard.append(json.loads(message)),
        )

    def open(self) -> Client:
        self.give("initialize", HELLO)
        self.front.receive(parse_message(b'{"jsonrpc":"2.0","method":"notifications/initialized"}'))
        return self

    def give(self, method: str, params: Any = None) -> Any:
        self._last += 1
        message = {"jsonrpc": "2.0", "id": self._last, "method": method, "params": params or {}}
        return self.front.receive(parse_message(json.dumps(message).encode()))

    async def ask(self, method: str, params: Any = None) -> Any:
        step = self.give(method, params)
        if isinstance(step, AnswerStep):
            return json.loads(step.data)
        answer = await self.front.run_call(step, lambda _: None)
        return None if answer is None else json.loads(answer)

    def cancel(self) -> None:
        """Cancel the last request."""
        message = {
            "jsonrpc": "2.0",
            "method": "notifications/cancelled",
            "params": {"requestId": self._last},
        }
        self.front.receive(parse_message(json.dumps(message).encode()))


def update(node: FakeNode, uri: str) -> None:
    params = json.dumps({"uri": uri}).encode()
    node.services.node.watches.tell(ResourceUpdated(SpecKey("key-alpha"), InstanceId("alpha-1"), uri, params))


def test_a_subscription_is_answered_when_the_server_has_agreed_and_updates_follow(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            client = Client(node).open()
            answer = await client.ask("resources/subscribe", {"uri": "a:1"})
            update(node, "a:1")
            await until(lambda: client.heard)
            gone = await client.ask("resources/unsubscribe", {"uri": "a:1"})
            await until(lambda: node.instances["alpha"].watched[-1] == frozenset())
            update(node, "a:1")
            await asyncio.sleep(0)
            again = await client.ask("resources/unsubscribe", {"uri": "a:1"})

            assert answer["result"] == gone["result"] == again["result"] == {}
            assert client.heard == [
                {"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": "a:1"}}
            ]
            assert not client.load

    run(main)


def test_the_servers_refusal_is_passed_on_as_it_is(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            node.instances["alpha"].watch_answer = Answer(
                error=b'{"code":-32601,"message":"mine","data":12345678901234567890}'
            )
            answer = await Client(node).open().ask("resources/subscribe", {"uri": "a:1"})

            assert answer["error"] == {"code": -32601, "message": "mine", "data": 12345678901234567890}

    run(main)


def test_what_names_no_resource_is_refused_without_asking_anybody(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            early = await Client(node).ask("resources/subscribe", {"uri": "a:1"})
            client = Client(node, EVERYTHING).open()
            unknown = await client.ask("resources/subscribe", {"uri": "a:1"})
            unnamed = await client.ask("resources/subscribe", {})
            unleft = await client.ask("resources/unsubscribe", {"uri": 7})

            codes = [one["error"]["code"] for one in (early, unknown, unnamed, unleft)]
            assert codes == [-32600, -32002, -32602, -32602]
            assert unknown["error"]["data"] == {"uri": "a:1"}
            assert not node.types["alpha"].acquired

    run(main)


def test_a_client_that_goes_watches_nothing_any_more(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            client = Client(node).open()
            await client.ask("resources/subscribe", {"uri": "a:1"})
            client.front.cancel_all("it is gone")
            await until(lambda: node.types["alpha"].released)

            assert [one.lease for one in node.types["alpha"].acquired] == node.types["alpha"].released

    run(main)


def test_a_subscription_that_is_cancelled_while_it_waits_has_no_answer_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            client = Client(node).open()
            node.types["alpha"].keeps_waiting = True
            step = client.give("resources/subscribe", {"uri": "a:1"})
            assert isinstance(step, WatchStep)
            running = asyncio.ensure_future(client.front.run_call(step, lambda _: None))
            await until(lambda: node.types["alpha"].parked)
            client.cancel()

            assert await running is None
            await until(lambda: node.types["alpha"].released)
            assert not client.load

    run(main)
