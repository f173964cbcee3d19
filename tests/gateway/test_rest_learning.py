"""What REST says of the node's beginnings, and learning again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from support.fake_servers import FakeNode, fake_node, make_settings, run
from support.fakes import BEGINNING
from support.raw_http import RawConnection, RawResponse

from mcpv_node.actors.status import (
    InitState,
    InitStatus,
    LearningOutcome,
    LearningState,
    LearningStatus,
    LearningStep,
)
from mcpv_node.gateway import HttpDoor, Sessions
from mcpv_node.settings import ListenSettings, ServerName, SpecKey

Ask = Callable[..., Awaitable[RawResponse]]

ALPHA, BETA = SpecKey("key-alpha"), SpecKey("key-beta")
FAILED = LearningOutcome(ALPHA, ServerName("alpha"), LearningStep.FAILED, 3, "no luck", BEGINNING)
LEARNT = LearningOutcome(BETA, ServerName("beta"), LearningStep.LEARNT, 0, "", BEGINNING)
STATUS = LearningStatus(
    "metadata", LearningState.FAILED, 2, 1, 1, (), MappingProxyType({ALPHA: FAILED, BETA: LEARNT})
)
FAILED_BODY = {
    "server": "alpha",
    "specKey": "key-alpha",
    "state": "failed",
    "attempts": 3,
    "reason": "no luck",
    "since": "2026-01-31T09:08:07.006Z",
}


@asynccontextmanager
async def open_rest(folder: Path) -> AsyncIterator[tuple[FakeNode, Ask]]:
    settings = make_settings(listen=ListenSettings(http="127.0.0.1:0"))
    async with fake_node(folder, settings=settings) as node:
        node.beginnings.status = STATUS
        urls: list[str] = []
        sessions = await node.start(Sessions(node.services), "sessions")
        await node.start(HttpDoor(node.services, sessions, on_bound=lambda url, _: urls.append(url)), "http")
        connection = await RawConnection.open(urls[0])
        while (await connection.ask("GET", "/api/v1/tree")).status == 503:  # noqa: ASYNC110  (as a client does)
            await asyncio.sleep(0)
        try:
            yield node, connection.ask
        finally:
            await connection.close()


def ask_one(tmp_path: Path, method: str, path: str, body: Any = None) -> tuple[int, Any, FakeNode]:
    """Ask one thing; return the status, the body and the node that was asked."""

    async def main() -> tuple[int, Any, FakeNode]:
        async with open_rest(tmp_path) as (node, ask):
            content = b"" if body is None else json.dumps(body).encode()
            answer = await ask(method, path, {"Content-Type": "application/json"}, content)
            return answer.status, answer.json(), node

    status, answer, node = run(main)
    return status, answer, node


def test_the_node_says_how_far_learning_is(tmp_path: Path) -> None:
    _, body, _ = ask_one(tmp_path, "GET", "/api/v1/node")

    learning = body["learning"]
    outcomes = learning.pop("outcomes")
    assert learning == {
        "mode": "metadata",
        "state": "failed",
        "total": 2,
        "completed": 1,
        "failed": 1,
        "current": [],
    }
    assert outcomes[0] == FAILED_BODY
    assert [one["server"] for one in outcomes] == ["alpha", "beta"]


def test_the_node_says_how_far_each_server_has_come(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_rest(tmp_path) as (node, ask):
            node.beginnings.init = (
                InitStatus(ServerName("alpha"), InitState.FAILED, "try 2", 0, 1, 2, BEGINNING),
                InitStatus(ServerName("beta"), InitState.READY, "always-on", 1, 1, 0, None),
            )
            body = (await ask("GET", "/api/v1/node")).json()

            failed, ready = body["init"]
            assert failed == {
                "name": "alpha",
                "state": "failed",
                "reason": "try 2",
                "ready": 0,
                "target": 1,
                "retries": 2,
                "nextTryAt": "2026-01-31T09:08:07.006Z",
            }
            assert ready["nextTryAt"] is None

    run(main)


def test_a_server_says_that_it_could_not_be_learnt_and_why(tmp_path: Path) -> None:
    _, body, _ = ask_one(tmp_path, "GET", "/api/v1/servers/alpha")

    assert body["learning"] == FAILED_BODY


def test_all_servers_say_what_became_of_their_lists(tmp_path: Path) -> None:
    _, body, _ = ask_one(tmp_path, "GET", "/api/v1/servers")

    assert [one["learning"]["state"] for one in body["servers"]] == ["failed", "learnt"]


def test_while_their_owner_cannot_say_the_rest_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_rest(tmp_path) as (node, ask):
            await node.stop(node.services.learning)
            about_node = (await ask("GET", "/api/v1/node")).json()
            about_server = (await ask("GET", "/api/v1/servers/alpha")).json()

            assert (about_node["learning"], about_node["init"]) == (None, None)
            assert about_node["servers"] == 2
            assert (about_server["learning"], about_server["state"]) == (None, "cold")

    run(main)


@pytest.mark.parametrize(
    ("body", "keys"),
    [
        (None, {ALPHA, BETA}),
        ({}, {ALPHA, BETA}),
        ({"servers": []}, {ALPHA, BETA}),
        ({"servers": ["alpha"]}, {ALPHA}),
        ({"servers": ["beta", "alpha"]}, {ALPHA, BETA}),
    ],
)
@pytest.mark.parametrize(("query", "status"), [("", 202), ("?wait=5", 200)])
def test_a_refresh_names_the_servers_it_is_for(
    tmp_path: Path, body: Any, keys: set[SpecKey], query: str, status: int
) -> None:
    answered, answer, node = ask_one(tmp_path, "POST", f"/api/v1/catalog/refresh{query}", body)

    assert answered == status
    assert node.beginnings.learning == [frozenset(keys)]
    assert {one["specKey"] for one in answer["outcomes"]} == keys


def test_a_refresh_that_is_not_over_in_time_is_202_with_how_far_it_is(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_rest(tmp_path) as (node, ask):
            node.beginnings.is_over = False

            answer = await ask("POST", "/api/v1/catalog/refresh?wait=0.01")

            assert answer.status == 202
            assert answer.json()["total"] == 2

    run(main)


@pytest.mark.parametrize(
    ("body", "query", "status"),
    [
        ({"servers": ["alpha", "gamma"]}, "", 404),
        ({"servers": "alpha"}, "", 400),
        ({"server": ["alpha"]}, "", 400),
        ([], "", 400),
        ({}, "?wait=-1", 400),
        ({}, "?wait=601", 400),
    ],
)
def test_a_refresh_that_cannot_be_understood_learns_nothing(
    tmp_path: Path, body: Any, query: str, status: int
) -> None:
    answered, answer, node = ask_one(tmp_path, "POST", f"/api/v1/catalog/refresh{query}", body)

    assert (answered, answer["status"]) == (status, status)
    assert node.beginnings.learning == []
