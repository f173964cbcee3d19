"""A connection that has been let in is let in again for the same head and a good token, and for nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.doors import open_door
from support.fake_servers import run
from support.raw_http import RawClient, request

from mcpv_node.actors.world import Selector
from mcpv_node.gateway import TokenTable
from mcpv_node.gateway.auth import DEFAULT_AUTHORITY, Authority
from mcpv_node.settings import ServerName

TOKENS = TokenTable(
    [("good", DEFAULT_AUTHORITY), ("beta", Authority("b", Selector(server=ServerName("beta"))))]
)

PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'

# What is different in the request after one that was answered, and how it is answered.
CHANGES = [
    ({"Host": "evil.example"}, 421),
    ({"Origin": "http://evil.example"}, 403),
    ({"Authorization": "Bearer bad"}, 401),
    ({"Authorization": ""}, 401),
    ({"Authorization": "Bearer beta"}, 404),  # another's session
    ({"Authorization": "Basic good"}, 401),
    ({"Content-Type": "text/plain"}, 415),
    ({"Accept": "application/json"}, 406),
    ({"Mcp-Session-Id": "another"}, 404),
    ({"MCP-Protocol-Version": "1999-01-01"}, 400),
    ({"Mcpv-Key": "k" * 257}, 400),
]


@pytest.mark.parametrize(("change", "status"), CHANGES)
def test_a_head_that_differs_is_judged_anew(tmp_path: Path, change: dict[str, str], status: int) -> None:
    async def main() -> None:
        async with open_door(tmp_path, tokens=TOKENS) as stage:
            client = await RawClient.open(stage.url, token="good")
            headers = client.headers()
            answers = [
                await client.connection.ask("POST", "/mcp", sent, PING)
                for sent in (headers, headers, {**headers, **change}, headers)
            ]
            await client.connection.close()

        assert [answer.status for answer in answers] == [200, 200, status, 200]

    run(main)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("OPTIONS", "/mcp", 405), ("POST", "/mcp/server/nobody", 404), ("POST", "/healthz", 405)],
)
def test_another_method_or_path_is_another_head(tmp_path: Path, method: str, path: str, status: int) -> None:
    async def main() -> None:
        async with open_door(tmp_path, tokens=TOKENS) as stage:
            client = await RawClient.open(stage.url, token="good")
            headers = client.headers()
            first = await client.connection.ask("POST", "/mcp", headers, PING)
            other = await client.connection.ask(method, path, headers, PING)
            last = await client.connection.ask("POST", "/mcp", headers, PING)
            await client.connection.close()

        assert (first.status, other.status, last.status) == (200, status, 200)

    run(main)


def test_a_second_host_beside_the_first_is_refused_on_a_connection_that_was_let_in(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path, tokens=TOKENS) as stage:
            client = await RawClient.open(stage.url, token="good")
            first = await client.connection.ask("POST", "/mcp", client.headers(), PING)
            twice = {**client.headers(), "host": client.connection.host}
            second = await client.connection.ask("POST", "/mcp", twice, PING)
            await client.connection.close()

        assert (first.status, second.status) == (200, 421)

    run(main)


def test_a_body_of_another_length_belongs_to_the_same_head(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path, tokens=TOKENS) as stage:
            client = await RawClient.open(stage.url, token="good")
            answers = [await client.post(request("x" * length, "ping")) for length in (1, 500, 20)]
            await client.close()

        assert [answer.json()["id"] for answer in answers] == ["x", "x" * 500, "x" * 20]

    run(main)
