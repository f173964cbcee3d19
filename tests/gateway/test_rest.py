"""The REST application behind the door, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.fake_servers import FakeNode, fake_node, listed, make_settings, run, until
from support.raw_http import RawConnection, RawResponse

from mcpv_node.actors.callers import EMPTY_PROFILE
from mcpv_node.actors.server_type.messages import ServerState
from mcpv_node.actors.snapshot import Learnt, Naming, Source, merge
from mcpv_node.gateway import HttpDoor, Sessions
from mcpv_node.settings import ListenSettings

Ask = Callable[..., Awaitable[RawResponse]]


@asynccontextmanager
async def open_rest(folder: Path) -> AsyncIterator[tuple[FakeNode, Ask]]:
    settings = make_settings(listen=ListenSettings(http="127.0.0.1:0"))
    async with fake_node(folder, settings=settings, tools=("echo", "slow")) as node:
        urls: list[str] = []
        sessions = await node.start(Sessions(node.services), "sessions")
        await node.start(HttpDoor(node.services, sessions, on_bound=lambda url, _: urls.append(url)), "http")
        connection = await RawConnection.open(urls[0])
        first = await connection.ask("GET", "/api/v1/node")
        assert first.status in (200, 503)
        assert ("retry-after" in first.headers) == (first.status == 503)
        while (await connection.ask("GET", "/api/v1/node")).status == 503:  # noqa: ASYNC110  (as a client does)
            await asyncio.sleep(0)
        try:
            yield node, connection.ask
        finally:
            await connection.close()


def get_json(path: str, tmp_path: Path) -> Any:
    """The body of one GET."""

    async def main() -> Any:
        async with open_rest(tmp_path) as (_, ask):
            response = await ask("GET", path)
            assert response.status == 200
            assert "json" in response.headers["content-type"]
            return response.json()

    return run(main)


def test_the_node_says_how_to_reach_it(tmp_path: Path) -> None:
    body = get_json("/api/v1/node", tmp_path)

    assert body["pid"] == 7
    assert body["startTime"] == "then"
    assert body["http"] == "http://here"
    assert body["tokenFile"] is None
    assert body["servers"] == 2
    assert body["ready"] is True


def test_the_tree_is_nested_and_dated(tmp_path: Path) -> None:
    body = get_json("/api/v1/tree", tmp_path)

    assert body["id"] == "node"
    assert body["since"] == "2026-01-31T09:08:07.006Z"
    assert body["children"] == [
        {
            "id": "store",
            "kind": "Store",
            "state": "running",
            "restarts": 1,
            "since": "2026-01-31T09:08:07.006Z",
            "children": [],
        }
    ]


# DESIGN 7.2: these names are fixed.
REPORT_NAMES = [
    "name",
    "specKey",
    "state",
    "reason",
    "since",
    "nextTryAt",
    "desired",
    "waiting",
    "startCause",
    "lastExit",
    "stderr",
    "starts",
    "restarts",
    "calls",
    "sharedWith",
    "instances",
    # Beyond the contract's.
    "learning",
    "lists",
]


def test_a_server_answers_why_under_the_fixed_names(tmp_path: Path) -> None:
    body = get_json("/api/v1/servers/alpha", tmp_path)

    assert list(body) == REPORT_NAMES
    assert body["reason"] == "because the test says so"
    assert body["since"] == "2026-01-31T09:08:07.006Z"
    assert body["calls"] == {"ok": 0, "failed": 0, "refused": 0}


def test_all_servers_are_listed_by_name(tmp_path: Path) -> None:
    body = get_json("/api/v1/servers", tmp_path)

    assert [server["name"] for server in body["servers"]] == ["alpha", "beta"]


def test_the_openapi_document_names_every_route(tmp_path: Path) -> None:
    body = get_json("/api/openapi.json", tmp_path)

    assert body["openapi"].startswith("3.1")
    assert set(body["paths"]) == {
        "/api/v1/node",
        "/api/v1/node/stop",
        "/api/v1/tree",
        "/api/v1/servers",
        "/api/v1/servers/{name}",
        "/api/v1/servers/{name}/start",
        "/api/v1/servers/{name}/stop",
        "/api/v1/servers/{name}/retry",
        "/api/v1/catalog/{kind}",
        "/api/v1/servers/{name}/approve",
        "/api/v1/servers/{name}/enable",
        "/api/v1/servers/{name}/disable",
        "/api/v1/servers/{name}/entry",
        "/api/v1/clients",
        "/api/v1/clients/{id}",
        "/api/v1/events",
        "/api/v1/catalog/refresh",
        "/api/v1/reload",
        "/api/v1/logs",
        "/api/v1/nodes",
    }


def test_the_catalog_has_an_etag_and_the_servers_own_definitions(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_rest(tmp_path) as (_, ask):
            whole = await ask("GET", "/api/v1/catalog/tools")
            etag = whole.headers["etag"]
            same = await ask(
                "GET",
                "/api/v1/catalog/tools",
                {"If-None-Match": f'"other", W/{etag}'},
            )
            other = await ask(
                "GET",
                "/api/v1/catalog/tools",
                {"If-None-Match": '"other"'},
            )
            since = await ask("GET", "/api/v1/catalog/tools?since=1", {"If-None-Match": etag})

        body = whole.json()
        entry = body["entries"][0]
        assert f'"{body["etag"]}"' == etag
        assert (body["version"], body["complete"]) == (1, True)
        assert [one["name"] for one in body["entries"]] == [
            "alpha_echo",
            "alpha_slow",
            "beta_echo",
            "beta_slow",
        ]
        assert set(entry) == {
            "name", "server", "specKey", "rawName", "source", "stale", "cold", "definition"
        }  # fmt: skip
        assert (entry["source"], entry["cold"], entry["rawName"]) == ("cache", True, "echo")
        assert b'"x":1.0' in whole.body
        assert (same.status, same.body) == (304, b"")
        assert other.status == 200
        assert since.json() == {"from": 1, "to": 1, "added": [], "changed": [], "removed": []}

    run(main)


def test_a_catalog_that_has_moved_on_is_told_by_its_difference(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_rest(tmp_path) as (node, ask):
            cell = node.services.node.world
            world = cell.world
            fewer = {
                (server.view.spec_key, EMPTY_PROFILE): Learnt(
                    server.view.spec_key, EMPTY_PROFILE, (listed("echo"), listed("late")), Source.CACHE
                )
                for server in world.servers.values()
            }
            views = [server.view for server in world.servers.values()]
            cell.publish(merge(views, fewer, naming=Naming(), previous=world.tools))

            changes = (await ask("GET", "/api/v1/catalog/tools?since=1")).json()
            too_old = (await ask("GET", "/api/v1/catalog/tools?since=-1")).json()
            unknown = await ask("GET", "/api/v1/catalog/toys")
            prompts = (await ask("GET", "/api/v1/catalog/prompts")).json()

        assert (changes["from"], changes["to"], changes["changed"]) == (1, 2, [])
        assert [one["name"] for one in changes["added"]] == ["alpha_late", "beta_late"]
        assert changes["removed"] == [
            {"name": "alpha_slow", "server": "alpha"},
            {"name": "beta_slow", "server": "beta"},
        ]
        assert too_old["full"] is True
        assert unknown.status == 404
        assert prompts["entries"] == []

    run(main)


def test_changed_definitions_are_approved_all_or_by_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_rest(tmp_path) as (node, ask):
            everything = await ask("POST", "/api/v1/servers/alpha/approve")
            some = await ask("POST", "/api/v1/servers/alpha/approve", body=b'{"tools":["echo"]}')
            wrong = await ask("POST", "/api/v1/servers/alpha/approve", body=b'{"tool":"echo"}')
            nobody = await ask("POST", "/api/v1/servers/gamma/approve")
            names = [one.names for one in node.indexes["tools"].approved]

        assert everything.json() == {"name": "alpha", "approved": ["everything"]}
        assert some.json()["approved"] == ["echo"]
        assert (wrong.status, nobody.status) == (400, 404)
        assert names == [None, frozenset({"echo"})]

    run(main)


@pytest.mark.parametrize(
    ("order", "at_once", "settled"),
    [("start", "starting", "ready"), ("stop", "draining", "ready"), ("retry", "cold", "ready")],
)
def test_an_order_is_answered_at_once_or_with_its_outcome(
    tmp_path: Path, order: str, at_once: str, settled: str
) -> None:
    async def main() -> None:
        async with open_rest(tmp_path) as (_, ask):
            immediate = await ask("POST", f"/api/v1/servers/alpha/{order}")
            waited = await ask("POST", f"/api/v1/servers/alpha/{order}?wait=5")

        assert (immediate.status, immediate.json()["state"]) == (202, at_once)
        assert (waited.status, waited.json()["state"]) == (200, settled)
        assert waited.json()["name"] == "alpha"

    run(main)


def test_an_outcome_that_does_not_come_in_time_is_202_with_the_state(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_rest(tmp_path) as (node, ask):
            node.types["alpha"].unsettled = []
            waited = await ask("POST", "/api/v1/servers/alpha/start?wait=0.01")

        assert (waited.status, waited.json()["state"]) == (202, str(ServerState.STARTING))

    run(main)


def test_the_node_is_asked_to_stop(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_rest(tmp_path) as (node, ask):
            answer = await ask("POST", "/api/v1/node/stop")
            assert node.stops_requested == [True]

        assert answer.status == 202

    run(main)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/v1/servers/gamma", 404),
        ("POST", "/api/v1/servers/gamma/start", 404),
        ("GET", "/api/v1/nothing", 404),
        ("PUT", "/api/v1/servers/alpha", 405),
        ("POST", "/api/v1/servers/alpha/start?wait=-1", 400),
        ("POST", "/api/v1/servers/alpha/start?wait=soon", 400),
        ("GET", "/api/v1/catalog/tools?since=x", 400),
    ],
)
def test_an_error_is_a_problem(tmp_path: Path, method: str, path: str, status: int) -> None:
    async def main() -> None:
        async with open_rest(tmp_path) as (_, ask):
            answer = await ask(method, path)

        assert answer.status == status
        assert answer.headers["content-type"].startswith("application/problem+json")
        assert answer.json()["status"] == status
        assert answer.json()["detail"]

    run(main)


def test_a_server_that_cannot_answer_is_a_problem_with_its_reason(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_rest(tmp_path) as (node, ask):
            node.types["alpha"].cell.kill()
            await until(lambda: node.types["alpha"].cell.actor is None)
            answer = await ask("GET", "/api/v1/servers/alpha")

        assert answer.status == 503
        assert answer.json()["reason"] == "stopping"

    run(main)


def test_a_server_that_cannot_answer_does_not_cost_the_others_their_places(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_rest(tmp_path) as (node, ask):
            node.types["alpha"].cell.kill()
            await until(lambda: node.types["alpha"].cell.actor is None)
            answer = await ask("GET", "/api/v1/servers")

        assert answer.status == 200
        found = {one["name"]: one for one in answer.json()["servers"]}
        assert found["alpha"]["reason"].startswith("its owner does not answer")
        assert found["beta"]["reason"] == "because the test says so"

    run(main)
