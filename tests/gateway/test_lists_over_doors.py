"""Lists as clients of the doors have them: long ones in pages, changed ones while somebody does not listen, and why."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.catalogs import merged
from support.fake_servers import FakeNode, fake_node, make_settings, run, until
from support.raw_http import RawClient, RawConnection, request

from mcpv_node.actors.callers import EMPTY_PROFILE
from mcpv_node.actors.snapshot import Learnt, Source
from mcpv_node.actors.world import EVERYTHING
from mcpv_node.gateway import HttpDoor, Sessions, TokenTable, front
from mcpv_node.gateway.auth import DEFAULT_AUTHORITY, Authority
from mcpv_node.protocol import Listed
from mcpv_node.settings import ListenSettings, NodeLimits

PAGE = 200

TOKENS = TokenTable([("good", DEFAULT_AUTHORITY), ("other", Authority("somebody else", EVERYTHING))])


@asynccontextmanager
async def open_door(folder: Path) -> AsyncIterator[tuple[FakeNode, str]]:
    settings = make_settings(listen=ListenSettings(http="127.0.0.1:0"), limits=NodeLimits(list_page=PAGE))
    async with fake_node(folder, settings=settings, tokens=TOKENS) as node:
        urls: list[str] = []
        sessions = await node.start(Sessions(node.services), "sessions")
        await node.start(HttpDoor(node.services, sessions, on_bound=lambda url, _: urls.append(url)), "http")
        yield node, urls[0]


def resource(uri: str, note: str = "", *, is_template: bool = False) -> Listed:
    member = "uriTemplate" if is_template else "uri"
    return Listed(uri, json.dumps({member: uri, "name": note}).encode(), is_template=is_template)


def publish_resources(node: FakeNode, **listed: list[Listed]) -> None:
    """What the servers of this name list."""
    cell = node.services.node.world
    servers = {name: server.view for name, server in cell.world.servers.items()}
    lists = [
        Learnt(view.spec_key, EMPTY_PROFILE, tuple(listed[name]), Source.CACHE)
        for name, view in servers.items()
        if name in listed
    ]
    cell.publish(merged(servers.values(), *lists, kind="resources", previous=cell.world.resources))


async def pages(
    client: RawClient, method: str, listed: str, member: str
) -> tuple[list[list[str]], list[str]]:
    """The URIs of all pages, and the cursors between them."""
    found: list[list[str]] = []
    cursors: list[str] = []
    while True:
        params = {"cursor": cursors[-1]} if cursors else {}
        result = (await client.post(request(1, method, **params))).json()["result"]
        found.append([one[member] for one in result[listed]])
        if "nextCursor" not in result:
            return found, cursors
        cursors.append(result["nextCursor"])


def test_a_long_list_comes_in_pages_that_miss_nothing_and_show_nothing_twice(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as (node, url):
            uris = [f"x:{number:03}" for number in range(450)]
            templates = [resource(f"y:{number}/{{z}}", is_template=True) for number in range(3)]
            publish_resources(
                node,
                alpha=[*map(resource, uris[::2]), *templates],
                beta=[*map(resource, uris[1::2])],
            )
            client = await RawClient.open(url, token="good")
            found, cursors = await pages(client, "resources/list", "resources", "uri")
            few, _ = await pages(client, "resources/templates/list", "resourceTemplates", "uriTemplate")
            await client.close()

        assert [len(page) for page in found] == [200, 200, 50]
        assert [uri for page in found for uri in page] == uris
        assert len(set(cursors)) == 2
        assert not any(uri in cursor for cursor in cursors for uri in uris), "a cursor says nothing"
        assert few == [[one.name for one in templates]]

    run(main)


def test_a_list_that_changes_between_two_pages_loses_nothing_that_stays(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as (node, url):
            uris = [f"x:{number:03}" for number in range(450)]
            publish_resources(node, alpha=[*map(resource, uris)])
            client = await RawClient.open(url, token="good")
            first = (await client.post(request(1, "resources/list"))).json()["result"]
            # The place where the second page begins is gone, and so is what was before it.
            publish_resources(node, alpha=[*map(resource, uris[150:199]), *map(resource, uris[201:])])
            rest: list[str] = []
            cursor: str | None = first["nextCursor"]
            while cursor is not None:
                page = (await client.post(request(2, "resources/list", cursor=cursor))).json()["result"]
                rest += [one["uri"] for one in page["resources"]]
                cursor = page.get("nextCursor")
            await client.close()

        assert [one["uri"] for one in first["resources"]] == uris[:200]
        assert rest == uris[201:]

    run(main)


@pytest.mark.parametrize(
    ("path", "token", "method", "change"),
    [
        ("/mcp", "good", "resources/list", lambda cursor: cursor[:-1] + ("A" if cursor[-1] != "A" else "B")),
        ("/mcp", "good", "resources/list", lambda _: "200"),
        ("/mcp", "good", "resources/list", lambda _: ""),
        ("/mcp", "good", "resources/list", lambda _: 200),
        ("/mcp", "good", "tools/list", lambda cursor: cursor),
        ("/mcp/server/alpha", "good", "resources/list", lambda cursor: cursor),
        ("/mcp", "other", "resources/list", lambda cursor: cursor),
    ],
    ids=[
        "garbled",
        "made up",
        "empty",
        "a number",
        "of another list",
        "of another path",
        "of another principal",
    ],
)
def test_a_cursor_that_this_list_did_not_give_to_this_caller_is_refused(
    tmp_path: Path, path: str, token: str, method: str, change: Any
) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as (node, url):
            publish_resources(node, alpha=[resource(f"x:{number:03}") for number in range(450)])
            client = await RawClient.open(url, token="good")
            cursor = (await client.post(request(1, "resources/list"))).json()["result"]["nextCursor"]
            again = (await client.post(request(2, "resources/list", cursor=cursor))).json()
            other = await RawClient.open(url, path, token=token)
            refused = (await other.post(request(3, method, cursor=change(cursor)))).json()
            for one in (client, other):
                await one.close()

        assert len(again["result"]["resources"]) == PAGE
        assert refused["error"]["code"] == -32602

    run(main)


def test_a_uri_that_two_servers_list_is_reported_by_both(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as (node, url):
            publish_resources(
                node, alpha=[resource("x:1", "of alpha")], beta=[resource("x:1", "of beta"), resource("x:2")]
            )
            client = await RawClient.open(url, token="good")
            shown = (await client.post(request(1, "resources/list"))).json()["result"]["resources"]
            alone = await RawClient.open(url, "/mcp/server/beta", token="good")
            of_beta = (await alone.post(request(1, "resources/list"))).json()["result"]["resources"]
            bodies: dict[str, Any] = {}
            for name in ("alpha", "beta"):
                answer = await client.connection.ask("GET", f"/api/v1/servers/{name}", client.headers())
                while answer.status == 503:  # REST is loaded after the doors are open
                    await asyncio.sleep(0)
                    answer = await client.connection.ask("GET", f"/api/v1/servers/{name}", client.headers())
                bodies[name] = answer.json()
            for one in (client, alone):
                await one.close()

        assert [(one["uri"], one["name"]) for one in shown] == [("x:1", "of alpha"), ("x:2", "")]
        assert [(one["uri"], one["name"]) for one in of_beta] == [("x:1", "of beta"), ("x:2", "")]
        said = ["x:1 is alpha's; beta's x:1 is behind it"]
        assert [bodies[name]["lists"]["resources"]["conflicts"] for name in bodies] == [said, said]
        assert bodies["alpha"]["lists"]["tools"]["conflicts"] == []

    run(main)


# --- one that does not read ---------------------------------------------------------------------

# More bytes than the buffers between a server and a reader hold that was opened with so little of its own.
CHANGES = 600
CHANGED = b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed","params":{"pad":"%b"}}' % (
    b"x" * 16384
)
SMALL_BUFFER = 2048


async def deaf(url: str, session: str) -> RawConnection:
    """Ask for the stream of a session on a connection that takes next to nothing."""
    parts = urlsplit(url)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (parts.hostname, parts.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=SMALL_BUFFER)
    connection = RawConnection(reader, writer, parts.netloc)
    client = RawClient(connection, token="good")
    client.session = session
    await connection.send("GET", "/mcp", client.headers())
    return connection


def test_a_reader_that_does_not_read_costs_the_others_nothing_and_hears_the_latest_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "LIST_CHANGED", {"tools": CHANGED})

    async def main() -> None:
        async with open_door(tmp_path) as (node, url):
            quiet = await RawClient.open(url, token="good")
            assert quiet.session is not None
            stuck = await deaf(url, quiet.session)
            readers = [await RawClient.open(url, token="good") for _ in range(2)]
            for one in readers:
                await one.connection.send("GET", "/mcp", one.headers())
                assert (await one.connection.read_head())[0] == 200
            await until(lambda: len(node.subscribers.joined) == 3)

            for _ in range(CHANGES):
                node.subscribers.tell_all()
                for one in readers:
                    event = await one.connection.read_event()
                    assert event["method"] == "notifications/tools/list_changed"
            tools = await RawClient.open(url, token="good")
            assert (await tools.post(request(1, "tools/list"))).status == 200

            # It wakes up: what had not been sent comes once, however often it was said.
            assert (await stuck.read_head())[0] == 200
            heard = 0
            other = RawClient(await RawConnection.open(url), token="good")
            other.session = quiet.session
            ending = asyncio.get_running_loop().create_task(
                other.connection.ask("DELETE", "/mcp", other.headers())
            )
            while await stuck.read_event() is not None:
                heard += 1
            assert (await ending).status == 204
            assert 0 < heard < CHANGES
            for one in (quiet, other, tools, *readers):
                await one.close()
            await stuck.close()

    run(main)
