"""Host actors hear what happens in a node, as `GET /api/v1/events` tells it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pykka
import pytest
from support.embedded import (
    TIMEOUT,
    embedded,
    heard_soon,
    listening,
    tool_names,
    until_caught_up,
    write_config,
)
from support.nodes import BadServer
from support.processes import wait_until

from mcpv_node import CallTool, Node, NodeDown, ServerEvent, Stop, Subscribe, ToolResult, Unsubscribe
from mcpv_node.embedding import news
from mcpv_node.telemetry import EventKind


def states(heard: list[Any], server: str = "bad") -> list[str | None]:
    """Return the states that the server came into, in order."""
    return [
        one.to
        for one in list(heard)
        if isinstance(one, ServerEvent) and (one.kind, one.server) == (EventKind.SERVER_STATE, server)
    ]


def numbers(heard: list[Any]) -> list[int]:
    """Return the numbers of the events that were heard."""
    return [int(one.id.rpartition("-")[2]) for one in list(heard) if isinstance(one, ServerEvent)]


def echo() -> CallTool:
    """Return a call that succeeds."""
    return CallTool("bad_echo", {"text": "x"})


def ring_of(node: pykka.ActorRef[Any]) -> Any:
    """Return the handle of the node's events."""
    return node._actor_weakref()._runtime.context.events


def test_who_subscribes_at_the_start_hears_all_of_a_nodes_life(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    with listening() as (ear, heard), embedded(write_config(tmp_path, bad.entry())) as node:
        node.tell(Subscribe("events", subscriber=ear))
        assert isinstance(node.ask(echo(), timeout=TIMEOUT), ToolResult)
        assert heard_soon(heard, lambda told: "ready" in states(told))
        node.ask(Stop(), timeout=TIMEOUT)

    assert numbers(heard) == list(range(1, len(heard)))
    assert states(heard)[:2] == ["starting", "ready"]
    assert [one.missed for one in heard[:-1]] == [0] * (len(heard) - 1)
    assert heard[-1] == NodeDown("asked to stop")


def test_who_subscribes_later_hears_what_happens_from_then_on(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    with listening() as (ear, heard), embedded(write_config(tmp_path, bad.entry())) as node:
        node.ask(echo(), timeout=TIMEOUT)
        node.tell(Subscribe("events", ear))
        node.tell(Subscribe("events", ear))

        node.ask(CallTool("bad_crash", {"code": 3}), timeout=TIMEOUT)

        assert heard_soon(heard, lambda told: EventKind.INSTANCE_EXIT in {one.kind for one in told})
    found = numbers(heard)
    assert found == list(range(found[0], found[0] + len(found)))
    assert found[0] > 1


def test_an_event_says_what_the_rest_interface_says(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    with listening() as (ear, heard), embedded(write_config(tmp_path, bad.entry())) as node:
        node.tell(Subscribe("events", ear))
        node.ask(echo(), timeout=TIMEOUT)
        assert heard_soon(heard, lambda told: "ready" in states(told))
        ring = ring_of(node)

        from mcpv_node.actors.events import RecentEvents

        recent = {one.id: one.event.to_data() for one in ring.ask_blocking(RecentEvents(4096), TIMEOUT)}
        told = [one for one in list(heard) if isinstance(one, ServerEvent)]

    assert len(told) > 5
    for one in told:
        data = recent[one.id]
        assert (one.kind, one.server, one.instance) == (
            data["kind"],
            data.get("server"),
            data.get("instance"),
        )
        assert (one.from_, one.to, one.reason, one.cause, one.client) == tuple(
            data.get(name) for name in ("from", "to", "reason", "cause", "client")
        )


def test_who_has_unsubscribed_hears_no_more_and_may_come_again(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    with listening() as (ear, heard), embedded(write_config(tmp_path, bad.entry())) as node:
        node.tell(Subscribe("events", ear))
        assert "bad_echo" in tool_names(node)
        node.tell(Unsubscribe("events", ear))
        tool_names(node)
        until_caught_up(ear)
        before = len(heard)

        node.ask(CallTool("bad_crash"), timeout=TIMEOUT)
        tool_names(node)
        until_caught_up(ear)
        assert len(heard) == before
        node.tell(Subscribe("events", ear))
        node.ask(echo(), timeout=TIMEOUT)

        assert heard_soon(heard, lambda told: "ready" in states(told[before:]))
    found = numbers(heard)
    assert found == sorted(set(found))


def test_a_subscriber_that_is_busy_misses_some_and_is_told_how_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "BACKLOG", 2)
    bad = BadServer(tmp_path, "bad")
    release = threading.Event()

    class Busy(pykka.ThreadingActor):
        def __init__(self, heard: list[Any]) -> None:
            super().__init__()
            self.heard = heard

        def on_receive(self, message: Any) -> None:
            release.wait(TIMEOUT)
            self.heard.append(message)

    heard: list[Any] = []
    busy = Busy.start(heard)
    try:
        with embedded(write_config(tmp_path, bad.entry())) as node:
            node.tell(Subscribe("events", busy))
            node.ask(echo(), timeout=TIMEOUT)
            node.ask(CallTool("bad_crash"), timeout=TIMEOUT)
            node.ask(echo(), timeout=TIMEOUT)
            assert busy.actor_inbox.qsize() <= 2

            release.set()

            # It is told the newest by itself, without another event.
            assert wait_until(lambda: any(one.missed for one in list(heard)))
    finally:
        release.set()
        busy.stop()

    events = [one for one in heard if isinstance(one, ServerEvent)]
    assert numbers(heard)[0] == 1
    # Each number was either told or counted as missed.
    assert sum(1 + one.missed for one in events) == numbers(heard)[-1]


def test_events_go_on_when_their_ring_crashes_once_and_twice(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    with listening() as (ear, heard), embedded(write_config(tmp_path, bad.entry())) as node:
        node.tell(Subscribe("events", ear))
        node.ask(echo(), timeout=TIMEOUT)
        assert heard_soon(heard, lambda told: "ready" in states(told))
        first_life = heard[-1].id.rpartition("-")[0]

        ring_of(node).kill("a test")
        node.ask(CallTool("bad_crash"), timeout=TIMEOUT)
        assert heard_soon(heard, lambda told: EventKind.INSTANCE_EXIT in {one.kind for one in told})
        # Its estate was kept: nothing is missing, nothing came twice.
        kept = numbers(heard)
        ring_of(node).kill("a test")
        node.ask(echo(), timeout=TIMEOUT)

        assert heard_soon(heard, lambda told: told[-1].id.rpartition("-")[0] != first_life)
        assert heard_soon(heard, lambda told: "ready" in states(told[len(kept) :]))

    assert kept == list(range(1, len(kept) + 1))
    lives = [one.id.rpartition("-")[0] for one in heard if isinstance(one, ServerEvent)]
    assert lives == sorted(lives, key=lambda life: life != first_life)
    new = [one for one in heard if isinstance(one, ServerEvent) and not one.id.startswith(f"{first_life}-")]
    assert new[0].missed >= 1
    assert [one.missed for one in new[1:]] == [0] * (len(new) - 1)


def test_a_subscription_that_names_nothing_or_nobody_disturbs_nobody(tmp_path: Path) -> None:
    wrong: Any = "tool"
    with listening() as (ear, heard), embedded(write_config(tmp_path)) as node:
        node.tell(Subscribe(wrong, ear))
        node.tell(Subscribe("tools"))
        node.tell(Unsubscribe("tools"))

        assert tool_names(node) == []
        assert heard == []


def test_a_loop_reads_events_until_the_node_ends(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")

    async def main() -> list[ServerEvent]:
        heard: list[ServerEvent] = []
        async with Node.from_config(write_config(tmp_path, bad.entry())) as node:

            async def read() -> None:
                heard.extend([event async for event in node.events()])

            reading = asyncio.ensure_future(read())
            await asyncio.sleep(0)
            await node.call_tool("bad_echo", {"text": "x"})
        await asyncio.wait_for(reading, TIMEOUT)
        return heard

    heard = asyncio.run(main())
    assert states(heard)[:2] == ["starting", "ready"]
    assert numbers(heard) == list(range(1, len(heard) + 1))


def test_a_loop_that_reads_slowly_goes_on_with_the_newest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "BACKLOG", 2)
    bad = BadServer(tmp_path, "bad")

    async def main() -> list[ServerEvent]:
        async with Node.from_config(write_config(tmp_path, bad.entry())) as node:
            events = node.events()
            heard = [await anext(events)]
            await node.call_tool("bad_echo", {"text": "x"})
            await node.call_tool("bad_echo", {"text": "x"})
            while not heard[-1].missed:
                heard.append(await anext(events))
            await events.aclose()
        return heard

    heard = asyncio.run(main())
    assert heard[0].id.endswith("-1")
    assert sum(1 + one.missed for one in heard) == numbers(heard)[-1]
