"""The session table: who gets in, who stays, what is left."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from msgspec import Raw
from support.fake_servers import FakeNode, fake_node, make_settings, run, until
from support.fakes import FakeClock

from mcpv_node.actors.instance.messages import Asked, AskNumber
from mcpv_node.actors.kernel import Handle
from mcpv_node.actors.world import EVERYTHING
from mcpv_node.gateway import CountSessions, Sessions, SessionsMessage
from mcpv_node.gateway.front import CallStep
from mcpv_node.gateway.sessions import Close, Expire, NotOpened, Open, Opened, Session, attach
from mcpv_node.protocol import RawId, Request
from mcpv_node.settings import NodeLimits
from mcpv_node.telemetry import EventKind

HELLO = Raw(b'{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}')
LIMITS = NodeLimits(sessions=3, session_idle_seconds=100)


async def start(node: FakeNode) -> Handle[SessionsMessage]:
    return await node.start(Sessions(node.services), "sessions")


async def try_to_open(table: Handle[SessionsMessage], params: Raw | None = HELLO) -> Opened | NotOpened:
    return await table.ask(Open("p", EVERYTHING, Request(RawId(b"1"), "initialize", params)), 5)


async def open_one(table: Handle[SessionsMessage], *, stay: bool = False) -> Session:
    opened = await try_to_open(table)
    assert isinstance(opened, Opened)
    if not stay:
        opened.session.detach(opened.session.idle_since)
    return opened.session


def scenario(check: Any, tmp_path: Path) -> None:
    """Run `check(node, table, clock)` with small limits and a clock moved by hand."""

    async def main() -> None:
        clock = FakeClock()
        settings = make_settings(limits=LIMITS)
        async with fake_node(tmp_path, settings=settings, clock=clock) as node:
            await check(node, await start(node), clock)

    run(main)


SESSION_KINDS = {EventKind.SESSION_OPENED, EventKind.SESSION_CLOSED}


def test_the_table_has_a_bound_and_idle_sessions_make_room(tmp_path: Path) -> None:
    async def check(_: FakeNode, table: Handle[SessionsMessage], clock: FakeClock) -> None:
        for _number in range(3):
            await open_one(table)
        assert await try_to_open(table) == NotOpened(None)
        clock.advance(100)
        await open_one(table)
        assert await table.ask(CountSessions(), 5) == 1

    scenario(check, tmp_path)


def test_a_session_expires_after_its_last_use_has_ended(tmp_path: Path) -> None:
    async def check(node: FakeNode, table: Handle[SessionsMessage], clock: FakeClock) -> None:
        session = await open_one(table)
        clock.advance(99)
        assert attach(node.services.sessions, session.id, "p", EVERYTHING) is session
        clock.advance(1000)
        table.tell(Expire())
        assert await table.ask(CountSessions(), 5) == 1
        session.detach(clock.monotonic())
        assert await table.ask(CountSessions(), 5) == 1
        clock.advance(99)
        table.tell(Expire())
        assert await table.ask(CountSessions(), 5) == 1
        clock.advance(1)
        table.tell(Expire())
        assert await table.ask(CountSessions(), 5) == 0
        assert attach(node.services.sessions, session.id, "p", EVERYTHING) is None

    scenario(check, tmp_path)


def test_what_is_no_initialize_registers_nothing(tmp_path: Path) -> None:
    async def check(node: FakeNode, table: Handle[SessionsMessage], _: FakeClock) -> None:
        for params in (None, Raw(b"{}"), Raw(b'{"protocolVersion":5}')):
            refused = await try_to_open(table, params)
            assert isinstance(refused, NotOpened)
            assert refused.answer is not None
            assert b"-32602" in refused.answer.data
        assert await table.ask(CountSessions(), 5) == 0
        assert node.subscribers.joined == {}

    scenario(check, tmp_path)


def test_ids_are_long_and_never_the_same(tmp_path: Path) -> None:
    async def check(_: FakeNode, table: Handle[SessionsMessage], __: FakeClock) -> None:
        ids = {(await open_one(table)).id for _ in range(3)}

        assert len(ids) == 3
        assert all(len(name) == 32 and name.isascii() and name.isprintable() for name in ids)

    scenario(check, tmp_path)


def test_sessions_survive_a_crash_of_their_owner(tmp_path: Path) -> None:
    async def check(node: FakeNode, table: Handle[SessionsMessage], _: FakeClock) -> None:
        session = await open_one(table)
        cell = table.cell
        cell.on_ended = None
        again: Handle[SessionsMessage] = Handle.create(node.system, "again")
        again.cell.estate = cell.estate
        table.kill()
        again.cell.start(Sessions(node.services))
        assert attach(node.services.sessions, session.id, "p", EVERYTHING) is session
        assert not session.ended
        await node.stop(again)
        assert session.ended

    scenario(check, tmp_path)


def test_the_end_of_the_table_ends_every_session_and_says_so(tmp_path: Path) -> None:
    async def check(node: FakeNode, table: Handle[SessionsMessage], _: FakeClock) -> None:
        session = await open_one(table, stay=True)
        await until(lambda: node.subscribers.joined)
        await node.stop(table)
        await until(lambda: not node.subscribers.joined)
        body, _type = node.services.node.metrics.exposition()
        kinds = [event.kind for event in node.events.events if event.kind in SESSION_KINDS]

        assert session.streams.standing.is_finished
        assert kinds == [EventKind.SESSION_OPENED, EventKind.SESSION_CLOSED]
        assert b'mcpv_sessions{door="http",era="legacy"} 0.0' in body

    scenario(check, tmp_path)


async def ask_its_client(node: FakeNode, session: Session) -> asyncio.Task[bytes | None]:
    """Have the server of a call ask this session's client something."""
    params = Raw(b'{"name":"alpha_slow","arguments":{}}')
    step = session.front.receive(Request(RawId(b"7"), "tools/call", params))
    assert isinstance(step, CallStep)
    calling = asyncio.get_running_loop().create_task(
        session.front.run_call(step, lambda _message, *, may_be_dropped: True)
    )
    alpha = node.instances["alpha"]
    await until(lambda: alpha.calls)
    on_event = alpha.calls[-1].on_event
    assert on_event is not None
    on_event(Asked(AskNumber(1), "roots/list", None))
    return calling


def test_the_end_of_a_session_is_told_to_the_servers_that_have_asked_its_client(tmp_path: Path) -> None:
    async def check(node: FakeNode, table: Handle[SessionsMessage], _: FakeClock) -> None:
        asked, other = await open_one(table), await open_one(table)
        calling = await ask_its_client(node, asked)
        alpha, beta = node.types["alpha"], node.types["beta"]

        for session in (other, asked):
            assert await table.ask(Close(session.id, "p", EVERYTHING), 5)

        await until(lambda: alpha.gone)
        await calling
        assert alpha.gone == [alpha.acquired[0].caller.turn]
        assert beta.gone == []

    scenario(check, tmp_path)


def test_a_node_that_stops_does_not_tell_its_servers_of_every_session(tmp_path: Path) -> None:
    async def check(node: FakeNode, table: Handle[SessionsMessage], _: FakeClock) -> None:
        calling = await ask_its_client(node, await open_one(table))

        await node.stop(table)
        await calling

        assert node.types["alpha"].gone == []

    scenario(check, tmp_path)
