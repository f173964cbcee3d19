"""A principal may ask so often a minute, at all doors together, and is told when it may again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given
from support.doors import local, open_door
from support.fake_servers import fake_node, make_settings, run
from support.fakes import FakeClock
from support.raw_http import RawClient, RawConnection, call, request

from mcpv_node.actors.world import Selector
from mcpv_node.gateway import LinesDoor, Rates, TokenTable
from mcpv_node.gateway.auth import DEFAULT_AUTHORITY, Authority
from mcpv_node.gateway.rates import Bucket, decide_request, whole_seconds
from mcpv_node.settings import NodeLimits, ServerName

TOKENS = TokenTable(
    [("good", DEFAULT_AUTHORITY), ("beta", Authority("b", Selector(server=ServerName("beta"))))]
)


@pytest.mark.parametrize(
    ("bucket", "now", "left", "wait"),
    [
        (None, 5.0, 59.0, 0.0),
        (Bucket(1.0, 5.0), 5.0, 0.0, 0.0),
        (Bucket(0.0, 5.0), 5.0, 0.0, 1.0),
        (Bucket(0.5, 5.0), 5.0, 0.5, 0.5),
        (Bucket(0.0, 5.0), 6.0, 0.0, 0.0),
        (Bucket(10.0, 5.0), 500.0, 59.0, 0.0),
        (Bucket(3.0, 5.0), 4.0, 2.0, 0.0),
    ],
)
def test_a_bucket_gives_one_token_and_fills_evenly(
    bucket: Bucket | None, now: float, left: float, wait: float
) -> None:
    after, told = decide_request(bucket, now, per_minute=60)

    assert (after.tokens, told) == (left, wait)


@given(gaps=st.lists(st.floats(0, 30), max_size=80), per_minute=st.integers(1, 100))
def test_no_more_is_admitted_than_a_full_bucket_and_what_has_flowed_in(
    gaps: list[float], per_minute: int
) -> None:
    rates, now, admitted = Rates(per_minute), 0.0, 0
    for gap in gaps:
        now += gap
        admitted += not rates.admit("one", now)

    assert admitted <= per_minute + now * per_minute / 60.0 + 1e-6


@given(per_minute=st.integers(1, 100))
def test_who_waits_as_told_is_admitted(per_minute: int) -> None:
    rates, now = Rates(per_minute), 0.0
    while not (wait := rates.admit("one", now)):
        pass

    assert rates.admit("one", now + int(whole_seconds(wait))) == 0.0
    assert rates.admit("another", now) == 0.0


def test_zero_is_no_limit_and_keeps_no_table() -> None:
    rates = Rates(0)

    assert not any(rates.admit(f"p{number}", 0.0) for number in range(1000))
    assert len(rates) == 0


def test_the_table_is_bounded_and_who_was_silent_longest_goes() -> None:
    rates = Rates(1, limit=2)
    for name in ("a", "b", "a", "c"):
        rates.admit(name, 0.0)

    assert len(rates) == 2
    assert rates.admit("a", 0.0) > 0.0
    assert rates.admit("b", 0.0) == 0.0


def test_one_request_too_many_is_429_before_its_body_is_read_and_others_are_not_held_up(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        settings = local(limits=NodeLimits(requests_per_minute=2))
        async with open_door(tmp_path, settings=settings, tokens=TOKENS, clock=FakeClock()) as stage:
            client = await RawClient.open(stage.url, token="good")
            await client.connection.send("POST", "/mcp", {**client.headers(), "Content-Length": "1000000"})
            # Nothing of the body is sent.
            status, headers = await client.connection.read_head()
            other = await RawConnection.open(stage.url)
            listed = await other.ask("GET", "/api/v1/servers", {"Authorization": "Bearer good"})
            healthy = await other.ask("GET", "/healthz")
            another = await RawClient.open(stage.url, "/mcp/server/beta", token="beta")
            stage.node.system.clock.advance(60.0)  # type: ignore[attr-defined]
            again = await other.ask("GET", "/metrics", {"Authorization": "Bearer good"})
            for one in (client, another, other):
                await one.close()

        assert (status, headers["retry-after"]) == (429, "30")
        assert (listed.status, listed.headers["retry-after"], healthy.status) == (429, "30", 200)
        assert another.session is not None
        assert again.status == 200

    run(main)


def test_one_line_too_many_is_a_typed_error_with_its_wait(tmp_path: Path) -> None:
    async def main() -> None:
        settings = make_settings(limits=NodeLimits(requests_per_minute=1))
        async with fake_node(tmp_path, settings=settings, clock=FakeClock()) as node:
            path = tmp_path / "node.sock"
            await node.start(LinesDoor(node.services, path, drain_bound=1.0), "lines")
            reader, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b'{"mcpv":1}\n{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
            writer.write(b'{"jsonrpc":"2.0","id":2,"method":"ping"}\n')
            first, second = await reader.readline(), await reader.readline()
            writer.close()

        assert b'"result"' in first
        assert b'"code":-31001' in second
        assert b'"retryAfter":60.0' in second
        assert b'"id":2' in second

    run(main)


def test_calls_are_requests_like_any_other(tmp_path: Path) -> None:
    async def main() -> None:
        settings = local(limits=NodeLimits(requests_per_minute=4))
        async with open_door(tmp_path, settings=settings, clock=FakeClock()) as stage:
            client = await RawClient.open(stage.url)
            statuses = [(await client.post(call(id, "alpha_echo"))).status for id in (1, 2)]
            statuses.append((await client.post(request(3, "tools/list"))).status)
            await client.close()

        assert statuses == [200, 200, 429]

    run(main)
