"""The modern era on lines: beside a legacy conversation or without one, several requests at a time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from gateway.test_lines_door import LineClient, Stage
from msgspec.structs import replace
from support.fake_servers import TOOLS, fake_node, make_settings, run, until
from support.modern_client import WILLING, again, modern
from support.raw_http import call, notification, request

from mcpv_node.actors.index_messages import ServersChanged
from mcpv_node.gateway import LinesDoor
from mcpv_node.settings import NodeLimits, ProfileSettings, ServerName

SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"
FORM = b'{"message":"who?","requestedSchema":{"type":"object","properties":{}}}'


@asynccontextmanager
async def open_line(
    folder: Path, *, greet: bool = False, hello: object = None, **more: Any
) -> AsyncIterator[tuple[Stage, LineClient]]:
    path = folder / "node.sock"
    async with fake_node(folder, tools=(*TOOLS, "asks"), **more) as node:
        stage = Stage(node, path, await node.start(LinesDoor(node.services, path)))
        client = await LineClient.open(path, hello, greet=greet)
        try:
            yield stage, client
        finally:
            await client.close()


def cancel(id: object) -> Any:
    return notification("notifications/cancelled", requestId=id)


@pytest.mark.parametrize("greet", [False, True])
def test_a_modern_request_is_served_whether_or_not_the_line_was_opened(tmp_path: Path, greet: bool) -> None:
    async def main() -> None:
        async with open_line(tmp_path, greet=greet) as (_, client):
            discovered = await client.ask(modern("server/discover"))
            listed = await client.ask(modern("tools/list"))
            answered = await client.ask(modern("tools/call", id="x", name="alpha_echo"))

        assert discovered["result"]["supportedVersions"] == ["2026-07-28"]
        assert listed["result"]["resultType"] == "complete"
        assert answered["id"] == "x"
        assert answered["result"]["resultType"] == "complete"

    run(main)


def test_both_eras_are_spoken_on_one_line(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_line(tmp_path, greet=True) as (_, client):
            old = await client.ask(call(1, "alpha_echo"))
            new = await client.ask(modern("tools/call", id=2, name="alpha_echo"))

        assert "resultType" not in old["result"]
        assert new["result"]["resultType"] == "complete"

    run(main)


def test_requests_are_in_flight_side_by_side_and_each_id_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_line(tmp_path, greet=True) as (stage, client):
            client.send(modern("tools/call", id=1, name="alpha_slow"))
            await until(lambda: stage.node.instances["alpha"].waiting)
            quick = await client.ask(modern("tools/call", id=2, name="beta_echo"))
            again_modern = await client.ask(modern("tools/call", id=1, name="beta_echo"))
            again_legacy = await client.ask(call(1, "beta_echo"))
            await stage.finish_slow()
            late = await client.read()
            client.send(call(3, "alpha_slow"))
            await until(lambda: stage.node.instances["alpha"].waiting)
            while_legacy = await client.ask(modern("tools/call", id=3, name="beta_echo"))

        assert quick["id"] == 2
        for refused in (again_modern, again_legacy, while_legacy):
            assert refused["error"]["code"] == -32600
        assert late["result"]["slow"] is True

    run(main)


@pytest.mark.parametrize("greet", [False, True])
def test_a_cancelled_request_is_not_answered(tmp_path: Path, greet: bool) -> None:
    async def main() -> None:
        async with open_line(tmp_path, greet=greet) as (stage, client):
            client.send(modern("tools/call", id=1, name="alpha_slow"))
            await until(lambda: stage.node.instances["alpha"].waiting)
            client.send(cancel(1))
            await until(lambda: stage.node.instances["alpha"].cancelled)
            following = await client.ask(modern("tools/call", id=2, name="beta_echo"))
            load = dict(stage.node.services.load)

        assert following["id"] == 2
        assert load == {}

    run(main)


def test_what_is_wrong_is_refused_under_the_requests_id(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_line(tmp_path) as (_, client):
            version = await client.ask(modern("tools/list", id=1, version="2099-01-01"))
            method = await client.ask(modern("ping", id=2))
            meta = await client.ask(request(3, "server/discover"))

        assert [(one["id"], one["error"]["code"]) for one in (version, method, meta)] == [
            (1, -32022),
            (2, -32601),
            (3, -32602),
        ]

    run(main)


def test_progress_comes_as_lines_before_the_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_line(tmp_path) as (_, client):
            client.send(modern("tools/call", id=1, name="alpha_progress", meta={"progressToken": 5}))
            lines = [await client.read() for _ in range(3)]

        assert [line["params"]["progressToken"] for line in lines[:2]] == [5, 5]
        assert lines[2]["id"] == 1

    run(main)


def test_what_a_server_asks_is_answered_on_another_connection_too(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_line(tmp_path) as (stage, client):
            stage.node.instances["alpha"].rounds = [[("elicitation/create", FORM)]]
            message = modern("tools/call", id=1, name="alpha_asks", can=WILLING)
            required = (await client.ask(message))["result"]
            other = await LineClient.open(stage.path, greet=False)
            (key,) = required["inputRequests"]
            answer = {"action": "decline"}
            result = await other.ask(again(message, required, {key: answer}, id=1))
            await other.close()

        assert result["result"]["said"] == [answer]

    run(main)


def test_a_client_that_is_gone_has_cancelled_what_it_waits_for_and_hears_nothing_more(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_line(tmp_path) as (stage, client):
            client.send(modern("subscriptions/listen", id=1, notifications={"toolsListChanged": True}))
            await client.read()
            client.send(modern("tools/call", id=2, name="alpha_slow"))
            await until(lambda: stage.node.instances["alpha"].waiting)
            client.writer.transport.abort()
            await until(lambda: stage.node.instances["alpha"].cancelled)
            await until(lambda: not stage.node.subscribers.joined)

    run(main)


def test_a_subscription_tells_as_lines_and_ends_with_its_result_when_the_node_stops(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_line(tmp_path) as (stage, client):
            wanted = {"toolsListChanged": True}
            client.send(modern("subscriptions/listen", id="a", notifications=wanted))
            client.send(modern("subscriptions/listen", id="b", notifications=wanted))
            acknowledged = [await client.read() for _ in range(2)]
            taken = await client.ask(modern("subscriptions/listen", id="a", notifications=wanted))
            client.send(cancel("b"))
            # Beside the connection's own.
            await until(lambda: len(stage.node.subscribers.joined) == 2)
            stage.node.subscribers.tell_all()
            changed = await client.read()
            await stage.node.stop(stage.door)
            result = await client.read()
            end = await client.read()

        assert [one["params"]["_meta"][SUBSCRIPTION] for one in acknowledged] == ["a", "b"]
        assert taken["error"]["code"] == -32600
        assert changed["params"]["_meta"][SUBSCRIPTION] == "a"
        assert (result["id"], result["result"]["_meta"][SUBSCRIPTION]) == ("a", "a")
        assert end is None

    run(main)


def test_a_subscription_ends_with_its_result_once_its_profile_means_something_else(tmp_path: Path) -> None:
    def showing(server: str) -> tuple[ProfileSettings, ...]:
        return (ProfileSettings(name="p", servers=(ServerName(server),)),)

    async def main() -> None:
        settings = make_settings(profiles=showing("alpha"))
        hello = {"mcpv": 1, "profile": "p"}
        async with open_line(tmp_path, hello=hello, settings=settings) as (stage, client):
            await client.ask(modern("subscriptions/listen", id="a", notifications={"toolsListChanged": True}))
            cell = stage.node.services.node.world
            changed = replace(cell.world.settings, profiles=showing("beta"))

            cell.publish_servers(cell.world.servers, changed)
            stage.door.tell(ServersChanged())
            result = await client.read()
            listed = await client.ask(modern("tools/list"))

        assert (result["id"], result["result"]["resultType"]) == ("a", "complete")
        assert {tool["name"].partition("_")[0] for tool in listed["result"]["tools"]} == {"beta"}

    run(main)


def test_both_doors_and_eras_share_a_principals_limit(tmp_path: Path) -> None:
    async def main() -> None:
        settings = make_settings(limits=NodeLimits(in_flight_per_principal=1))
        async with open_line(tmp_path, greet=True, settings=settings) as (stage, client):
            client.send(call(1, "alpha_slow"))
            await until(lambda: stage.node.instances["alpha"].waiting)
            refused = await client.ask(modern("tools/call", id=2, name="beta_echo"))

        assert refused["error"]["data"]["reason"] == "overloaded"

    run(main)
