"""`subscriptions/listen`: what was agreed to comes first, everything carries its id, and a result ends it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from support.doors import local, open_door
from support.fake_servers import run, until
from support.modern_client import ModernClient, modern

from mcpv_node.actors.index_messages import ServersChanged, SnapshotChanged
from mcpv_node.gateway import listening, modern_http
from mcpv_node.settings import NodeLimits, ProfileSettings, ServerName

SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"


def listen(id: object = "sub", **wanted: Any) -> Any:
    return modern("subscriptions/listen", id=id, notifications=wanted)


def test_a_subscription_is_acknowledged_tagged_and_ended_with_a_result(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = ModernClient(stage.url)
            stream = await client.send(listen(toolsListChanged=True, promptsListChanged=True, taskIds=["t"]))
            _, headers = await stream.read_head()
            acknowledged = await stream.read_event()
            await until(lambda: stage.node.subscribers.joined)
            stage.node.subscribers.tell_all()
            changed = await stream.read_event()
            await stage.node.stop(stage.door)
            result = await stream.read_event()
            end = await stream.read_event()
            await until(lambda: not stage.node.subscribers.joined)
            await client.close()

        assert headers["content-type"] == "text/event-stream"
        assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
        assert acknowledged["params"]["notifications"] == {
            "toolsListChanged": True,
            "promptsListChanged": True,
        }
        assert changed["method"] == "notifications/tools/list_changed"
        for told in (acknowledged, changed):
            assert told["params"]["_meta"][SUBSCRIPTION] == "sub"
        assert (result["id"], result["result"]["resultType"]) == ("sub", "complete")
        assert result["result"]["_meta"][SUBSCRIPTION] == "sub"
        assert end is None

    run(main)


def test_what_was_not_asked_for_is_not_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = ModernClient(stage.url)
            stream = await client.send(listen(promptsListChanged=True))
            await stream.read_head()
            await stream.read_event()
            await until(lambda: stage.node.subscribers.joined)
            (join,) = stage.node.subscribers.joined.values()
            join.notify(SnapshotChanged("tools", 2, "x"))
            join.notify(SnapshotChanged("prompts", 2, "x"))
            heard = await stream.read_event()
            await client.close()

        assert heard["method"] == "notifications/prompts/list_changed"

    run(main)


@pytest.mark.parametrize(("path", "ends"), [("/mcp/profile/p", True), ("/mcp", False)])
def test_a_subscription_ends_with_its_result_once_its_profile_means_something_else(
    tmp_path: Path, path: str, ends: bool
) -> None:
    def showing(server: str) -> tuple[ProfileSettings, ...]:
        return (ProfileSettings(name="p", servers=(ServerName(server),)),)

    async def main() -> None:
        async with open_door(tmp_path, settings=local(profiles=showing("alpha"))) as stage:
            client = ModernClient(stage.url, path)
            stream = await client.send(listen(toolsListChanged=True))
            await stream.read_head()
            await stream.read_event()
            await until(lambda: stage.node.subscribers.joined)
            cell = stage.node.services.node.world

            stage.door.tell(ServersChanged())
            cell.publish_servers(cell.world.servers, replace(cell.world.settings, profiles=showing("beta")))
            stage.door.tell(ServersChanged())
            if ends:
                result = await stream.read_event()
                assert (result["id"], result["result"]["resultType"]) == ("sub", "complete")
                assert await stream.read_event() is None
                await until(lambda: not stage.node.subscribers.joined)
            else:
                stage.node.subscribers.tell_all()
                assert (await stream.read_event())["method"] == "notifications/tools/list_changed"
            await client.close()

    run(main)


def test_a_listener_that_hangs_up_is_forgotten(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = ModernClient(stage.url)
            stream = await client.send(listen(toolsListChanged=True))
            await stream.read_head()
            await until(lambda: stage.node.subscribers.joined)
            await stream.close()
            await until(lambda: not stage.node.subscribers.joined)

    run(main)


def test_the_same_news_waits_once_for_a_reader_that_is_slow(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = ModernClient(stage.url)
            stream = await client.send(listen(toolsListChanged=True))
            await stream.read_head()
            await stream.read_event()
            await until(lambda: stage.node.subscribers.joined)
            for _ in range(100):
                stage.node.subscribers.tell_all()
            await stage.node.stop(stage.door)
            heard = []
            while (event := await stream.read_event()) is not None:
                heard.append(event.get("method"))
            await client.close()

        assert heard == ["notifications/tools/list_changed", None]

    run(main)


def test_an_open_subscription_shows_signs_of_life_and_keeps_its_client_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modern_http, "KEEPALIVE", 0.01)

    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = ModernClient(stage.url)
            stream = await client.send(listen(toolsListChanged=True))
            await stream.read_head()
            chunks = [await stream.read_chunk() for _ in range(3)]
            await client.close()

        assert [chunk[:1] for chunk in chunks] == [b"d", b":", b":"]

    run(main)


def test_so_many_subscriptions_are_open_and_no_more(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path, settings=local(limits=NodeLimits(sessions=1))) as stage:
            client = ModernClient(stage.url)
            stream = await client.send(listen(id=1))
            await stream.read_head()
            refused = await client.error(listen(id=2))
            await client.close()

        assert refused["data"]["reason"] == "overloaded"

    run(main)


def test_updates_of_watched_resources_come_after_the_agreement_and_under_the_fronts_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forgotten: list[object] = []
    tell: list[Any] = []

    async def watch(*arguments: Any) -> frozenset[str]:
        _, _, _, _, uris, notify = arguments
        tell.append(notify)
        notify(b'{"uri":"test://a","early":true}')
        await asyncio.sleep(0)
        return frozenset(uris) - {"test://refused"}

    monkeypatch.setattr(listening, "watch_resources", watch)
    monkeypatch.setattr(listening, "forget_resources", lambda _services, consumer: forgotten.append(consumer))

    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = ModernClient(stage.url)
            wanted = ["test://a", "test://refused"]
            stream = await client.send(listen(resourceSubscriptions=wanted))
            await stream.read_head()
            acknowledged = await stream.read_event()
            early = await stream.read_event()
            tell[0](b'{"uri":"test://a","_meta":{"io.modelcontextprotocol/subscriptionId":9}}')
            late = await stream.read_event()
            await client.close()
            await until(lambda: forgotten)

        assert acknowledged["params"]["notifications"] == {"resourceSubscriptions": ["test://a"]}
        assert early["params"] == {"uri": "test://a", "early": True, "_meta": {SUBSCRIPTION: "sub"}}
        assert late["params"] == {"uri": "test://a", "_meta": {SUBSCRIPTION: "sub"}}

    run(main)
