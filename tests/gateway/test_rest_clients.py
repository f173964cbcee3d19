"""Clients that register themselves over REST: whose they are, what they see, when they are refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.fake_servers import FakeNode, fake_node, make_settings, run, until
from support.raw_http import RawClient, RawConnection, RawResponse

from mcpv_node.actors.clients import ListClients
from mcpv_node.actors.world import Selector
from mcpv_node.gateway import HttpDoor, Sessions, TokenTable
from mcpv_node.gateway.auth import DEFAULT_AUTHORITY, Authority
from mcpv_node.settings import ListenSettings, NodeLimits, ProfileSettings, ServerName

CLIENTS = "/api/v1/clients"

TOKENS = TokenTable(
    [
        ("good", DEFAULT_AUTHORITY),
        ("other", Authority("other")),
        ("beta", Authority("b", Selector(server=ServerName("beta")))),
    ]
)


class Api:
    """A program that talks to the REST interface."""

    def __init__(self, node: FakeNode, url: str, connection: RawConnection) -> None:
        self.node = node
        self.url = url
        self._connection = connection

    async def ask(self, method: str, path: str, body: Any = None, *, token: str = "good") -> RawResponse:
        headers = {"Authorization": f"Bearer {token}"}
        if body is None:
            return await self._connection.ask(method, path, headers)
        headers["Content-Type"] = "application/json"
        sent = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers["Content-Length"] = str(len(sent))
        return await self._connection.ask(method, path, headers, sent)

    async def register(self, *, token: str = "good", **body: Any) -> str:
        """Register, and return the path of the client."""
        answer = await self.ask("POST", CLIENTS, {"name": "program", **body}, token=token)
        assert answer.status == 201, answer
        return f"{CLIENTS}/{answer.json()['id']}"

    async def clients(self) -> list[dict[str, Any]]:
        answer = await self.ask("GET", CLIENTS)
        assert answer.status == 200, answer
        found: list[dict[str, Any]] = answer.json()["clients"]
        return found

    async def selectors(self) -> list[Selector]:
        """What each registered client sees."""
        found = await self.node.services.node.clients.ask(ListClients(), 5)
        return [one.client.selector for one in found]


@asynccontextmanager
async def open_api(folder: Path, **changes: Any) -> AsyncIterator[Api]:
    settings = make_settings(listen=ListenSettings(http="127.0.0.1:0"), **changes)
    async with fake_node(folder, settings=settings, tokens=TOKENS) as node:
        urls: list[str] = []
        sessions = await node.start(Sessions(node.services), "sessions")
        await node.start(HttpDoor(node.services, sessions, on_bound=lambda url, _: urls.append(url)), "http")
        connection = await RawConnection.open(urls[0])
        api = Api(node, urls[0], connection)
        while (await api.ask("GET", "/api/v1/node")).status == 503:
            pass
        try:
            yield api
        finally:
            await connection.close()


def test_a_client_registers_keeps_itself_alive_and_leaves(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_api(tmp_path, client_inactive_seconds=30.0) as api:
            answer = await api.ask("POST", CLIENTS, {"name": "program", "pid": 4711, "server": "alpha"})
            registered = answer.json()
            path = f"{CLIENTS}/{registered['id']}"
            kept = await api.ask("PUT", path)
            kept_with_a_body = await api.ask("PUT", path, {})
            (shown,) = await api.clients()
            gone = await api.ask("DELETE", path)
            afterwards = [await api.ask("PUT", path), await api.ask("DELETE", path)]
            left = await api.clients()

        assert (answer.status, answer.headers["location"]) == (201, path)
        assert registered == {"id": registered["id"], "heartbeatSeconds": 10.0}
        assert [(one.status, one.json()) for one in (kept, kept_with_a_body)] == [(200, registered)] * 2
        assert list(shown) == [
            "id", "name", "kind", "principal", "pid", "server", "tags", "profile", "since", "lastSeen"
        ]  # fmt: skip
        assert (shown["name"], shown["kind"], shown["principal"]) == ("program", "api", "default")
        assert (shown["pid"], shown["server"], shown["tags"]) == (4711, "alpha", None)
        assert shown["since"] <= shown["lastSeen"]
        assert (gone.status, gone.body) == (204, b"")
        assert [one.status for one in afterwards] == [404, 404]
        assert left == []

    run(main)


def test_ids_cannot_be_guessed_and_no_two_are_equal(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_api(tmp_path) as api:
            paths = {await api.register() for _ in range(20)}

        assert len(paths) == 20
        # 96 bits in base64.
        assert {len(path.rpartition("/")[2]) for path in paths} == {len("c-") + 16}

    run(main)


def test_a_client_of_another_principal_is_not_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_api(tmp_path) as api:
            path = await api.register(token="other")
            foreign = [await api.ask(method, path) for method in ("PUT", "DELETE")]
            own = await api.ask("DELETE", path, token="other")

        assert [one.status for one in foreign] == [404, 404]
        assert own.status == 204

    run(main)


def test_a_client_sees_what_it_asks_for(tmp_path: Path) -> None:
    profile = ProfileSettings(name="some", servers=(ServerName("alpha"),))

    async def main() -> None:
        async with open_api(tmp_path, profiles=(profile,)) as api:
            for body in (
                {},
                {"server": "alpha"},
                {"tags": [" ONE", "one", "two"]},
                {"tags": ["nobody-has-it"]},
                {"profile": "some"},
            ):
                await api.register(**body)
            selectors = await api.selectors()
            world = api.node.services.node.world.world
            shown = [(one["server"], one["tags"], one["profile"]) for one in await api.clients()]

        seen = [
            [name for name, server in world.servers.items() if selector.selects(server.view)]
            for selector in selectors
        ]
        assert seen == [["alpha", "beta"], ["alpha"], ["alpha", "beta"], [], ["alpha"]]
        assert shown[1:] == [
            ("alpha", None, None),
            (None, ["one", "two"], None),
            (None, ["nobody-has-it"], None),
            (None, None, "some"),
        ]

    run(main)


def test_a_client_may_see_something_else_later(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_api(tmp_path) as api:
            path = await api.register(server="alpha")
            answer = await api.ask("PUT", path, {"server": "beta"})
            selectors = await api.selectors()
            unknown = await api.ask("PUT", path, {"server": "gamma"})

            assert await api.selectors() == selectors

        assert answer.status == 200
        assert selectors == [Selector(server=ServerName("beta"))]
        assert unknown.status == 404

    run(main)


def test_a_token_for_a_part_registers_for_that_part_and_lists_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_api(tmp_path) as api:
            path = await api.register(token="beta")
            hidden = await api.ask("POST", CLIENTS, {"name": "x", "server": "alpha"}, token="beta")
            listed = await api.ask("GET", CLIENTS, token="beta")
            selectors = await api.selectors()
            kept = await api.ask("PUT", path, token="beta")
            left = await api.ask("DELETE", path, token="beta")

        assert selectors == [Selector(server=ServerName("beta"))]
        assert (hidden.status, listed.status, kept.status, left.status) == (404, 403, 200, 204)

    run(main)


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({"name": "x", "server": "alpha", "tags": ["one"]}, 400, "exclude"),
        ({"name": "x", "server": "alpha", "profile": "some"}, 400, "exclude"),
        ({"name": "x", "tags": [], "profile": "some"}, 400, "exclude"),
        ({"name": "x", "server": "gamma"}, 404, "gamma"),
        ({"name": "x", "profile": "none"}, 404, "profile none"),
        ({"pid": 1}, 400, "name"),
        ({"name": ""}, 400, "name"),
        ({"name": "x" * 129}, 400, "name"),
        ({"name": "x", "pid": 0}, 400, "pid"),
        ({"name": "x", "pid": -1}, 400, "pid"),
        ({"name": "x", "pid": 1 << 31}, 400, "pid"),
        ({"name": "x", "tag": "one"}, 400, "tag"),
        ([], 400, ""),
        (b"{", 400, ""),
    ],
)
def test_what_is_not_a_registration_is_a_problem(tmp_path: Path, body: Any, status: int, named: str) -> None:
    async def main() -> None:
        async with open_api(tmp_path) as api:
            answer = await api.ask("POST", CLIENTS, body)
            registered = await api.clients()

        assert answer.status == status
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert named in answer.json()["detail"]
        assert registered == []

    run(main)


def test_there_is_a_bound_and_who_meets_it_may_come_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_api(tmp_path, limits=NodeLimits(sessions=1)) as api:
            await api.register()
            answer = await api.ask("POST", CLIENTS, {"name": "one too many"})

        assert (answer.status, answer.headers["retry-after"]) == (429, "1")
        assert answer.json()["reason"] == "overloaded"

    run(main)


def test_a_session_is_listed_under_a_name_that_opens_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_api(tmp_path) as api:
            session = await RawClient.open(api.url, "/mcp/server/alpha", token="good")
            (shown,) = await api.clients()
            refused = await api.ask("DELETE", f"{CLIENTS}/{shown['id']}")
            session_id = session.session
            await session.connection.ask("DELETE", session.path, session.headers())
            await session.close()
            left = await api.clients()
            await until(lambda: [one for one in api.node.events.events if one.kind == "client_left"])

        assert (shown["kind"], shown["name"], shown["server"]) == ("session", "raw", "alpha")
        assert (shown["principal"], shown["lastSeen"]) == ("default", None)
        assert session_id is not None
        assert session_id not in json.dumps(shown)
        assert refused.status == 404
        assert left == []

    run(main)
