"""Event streams over real sockets: connections that break, clients that come back, readers that do not read."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from support.doors import Stage, local, open_door
from support.fake_servers import run, until
from support.raw_http import RawClient, RawEvent, call, notification, request

from mcpv_node.actors.instance.messages import Asked, AskNumber, Progressed
from mcpv_node.actors.world import EVERYTHING, Selector
from mcpv_node.gateway import TokenTable
from mcpv_node.gateway.auth import DEFAULT_AUTHORITY, Authority
from mcpv_node.gateway.outbox import STREAM_BYTES, STREAM_MESSAGES
from mcpv_node.gateway.presence import Presence
from mcpv_node.gateway.sessions import Expire, Session, SessionId, attach
from mcpv_node.settings import ServerName

OLDER = ["2025-06-18", "2025-03-26", "2024-11-05"]


async def start_slow_call(stage: Stage, client: RawClient, id: object = 1) -> None:
    """Begin a call that takes until the test says otherwise, and may say something on the way."""
    waiting = len(stage.node.instances["alpha"].waiting)
    await client.send(call(id, "alpha_slow", token=id))
    await until(lambda: len(stage.node.instances["alpha"].waiting) > waiting)


def say(stage: Stage, progress: int, *, nth: int = -1, padding: bytes = b"") -> None:
    """Have the server of the last call (or the nth) report how far it is."""
    on_event = stage.node.instances["alpha"].calls[nth].on_event
    assert on_event is not None
    on_event(Progressed(Raw(b'{"progressToken":0,"progress":%d,"message":"%b"}' % (progress, padding))))


async def read_events(client: RawClient, count: int) -> list[RawEvent]:
    events = [await client.connection.read_raw_event() for _ in range(count)]
    assert None not in events
    return [event for event in events if event is not None]


async def read_rest(client: RawClient) -> list[RawEvent]:
    """Everything up to the end of the stream."""
    found: list[RawEvent] = []
    while (event := await client.connection.read_raw_event()) is not None:
        found.append(event)
    return found


def what(events: list[RawEvent]) -> list[Any]:
    """What the events say: a progress, or the answer's id; what has no data says nothing."""
    said = [json.loads(event.data) for event in events if event.data]
    return [
        message["params"]["progress"] if "method" in message else ("answer", message["id"])
        for message in said
    ]


async def session_of(stage: Stage, client: RawClient) -> Session:
    assert client.session is not None
    session = attach(
        stage.node.services.sessions, SessionId(client.session), DEFAULT_AUTHORITY.principal, EVERYTHING
    )
    assert isinstance(session, Session)
    session.detach(session.idle_since)
    return session


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_call_whose_connection_broke_delivers_on_the_resumed_stream(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            await start_slow_call(stage, client)
            say(stage, 1)
            await client.connection.read_head()
            before = await read_events(client, 2)
            again = await client.beside(stage.url)
            await client.close()
            say(stage, 2)
            assert await again.listen(before[-1].id) == 200
            missed = await read_events(again, 2)
            say(stage, 3)
            await stage.finish_slow()
            rest = await read_rest(again)
            await again.close()

        assert what(before) == [1]
        assert what(missed) == [2]
        assert what(rest) == [3, ("answer", 1)]
        assert stage.node.instances["alpha"].cancelled == []
        assert stage.node.types["alpha"].ended == [True]

    run(main, loop=loop)


def test_an_answer_that_came_while_nobody_was_there_waits_for_the_client(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            await start_slow_call(stage, client)
            say(stage, 1)
            await client.connection.read_head()
            [priming] = await read_events(client, 1)
            again = await client.beside(stage.url)
            await client.close()
            await stage.finish_slow()
            await until(lambda: stage.node.types["alpha"].ended)
            await again.listen(priming.id)
            events = await read_rest(again)
            await again.close()

        assert what(events) == [1, ("answer", 1)]

    run(main)


def test_each_event_leads_to_exactly_those_after_it_in_its_stream(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            other = await client.beside(stage.url)
            streams: list[list[RawEvent]] = []
            for id, one in ((1, client), (2, other)):
                await start_slow_call(stage, one, id)
            for progress in (10, 11):
                say(stage, progress, nth=0)
                say(stage, progress + 10, nth=1)
            for one in (client, other):
                await stage.finish_slow()
                await one.connection.read_head()
                streams.append(await read_rest(one))
            replays = []
            for events in streams:
                for event in events:
                    await client.listen(event.id)
                    replays.append((await read_rest(client))[1:])
            await client.close()
            await other.close()

        ids = [event.id for events in streams for event in events]
        assert None not in ids
        assert len(set(ids)) == len(ids) == 8
        assert what(streams[0]) == [10, 11, ("answer", 1)]
        assert what(streams[1]) == [20, 21, ("answer", 2)]
        assert replays == [events[number:] for events in streams for number in (1, 2, 3, 4)]

    run(main)


def test_an_event_id_is_worth_nothing_in_another_session(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            thief = await RawClient.open(stage.url)
            await start_slow_call(stage, client)
            say(stage, 1)
            await client.connection.read_head()
            [priming] = await read_events(client, 1)
            assert await thief.listen(priming.id) == 200
            stage.node.subscribers.tell_all()
            heard = await thief.connection.read_event()
            await stage.finish_slow()
            events = await read_rest(client)
            await thief.close()
            await client.close()

        # The thief has a stream of its own session, and the owner still has its own.
        assert heard["method"] == "notifications/tools/list_changed"
        assert what(events) == [1, ("answer", 1)]

    run(main)


def test_an_event_id_and_its_session_are_worth_nothing_to_another_principal(tmp_path: Path) -> None:
    tokens = TokenTable(
        [("good", DEFAULT_AUTHORITY), ("beta", Authority("b", Selector(server=ServerName("beta"))))]
    )

    async def main() -> None:
        async with open_door(tmp_path, tokens=tokens) as stage:
            client = await RawClient.open(stage.url, "/mcp/server/beta", token="good")
            await client.send(call(1, "progress", token=1))
            await client.connection.read_head()
            [priming, *_] = await read_rest(client)
            thief = await client.beside(stage.url)
            thief.token = "beta"
            stolen = await thief.listen(priming.id)
            await thief.close()
            mine = await client.listen(priming.id)
            await client.close()

        assert (stolen, mine) == (404, 200)

    run(main)


def test_a_stream_begins_with_where_to_go_on_and_when(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            await client.send(call(1, "alpha_progress", token=1))
            await client.connection.read_head()
            [posted, *_] = await read_rest(client)
            await client.listen()
            [listening] = await read_events(client, 1)
            await client.close()

        for event in (posted, listening):
            assert event.data == b""
            assert event.id
            assert event.retry
        assert posted.id != listening.id

    run(main)


@pytest.mark.parametrize("version", OLDER)
def test_an_older_client_gets_no_event_without_data_and_may_still_come_back(
    tmp_path: Path, version: str
) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url, version=version)
            await client.send(call(1, "alpha_progress", token=1))
            await client.connection.read_head()
            events = await read_rest(client)
            await client.listen(events[0].id)
            replayed = await read_rest(client)
            await client.listen()
            stage.node.subscribers.tell_all()
            [listening] = await read_events(client, 1)
            await client.close()

        assert what(events) == [1, 2, ("answer", 1)]
        assert replayed == events[1:]
        assert b"list_changed" in listening.data
        for event in (*events, listening):
            assert event.data
            assert event.id
            assert event.retry is None

    run(main)


def test_a_call_that_says_nothing_can_be_resumed_once_it_has_taken_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcpv_node.gateway.call_answer.RESUMABLE_AFTER", 0.01)

    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            await client.send(call(1, "alpha_slow"))
            await client.connection.read_head()
            [priming] = await read_events(client, 1)
            again = await client.beside(stage.url)
            await client.close()
            await again.listen(priming.id)
            await stage.finish_slow()
            events = await read_rest(again)
            await again.close()

        assert what(events) == [("answer", 1)]

    run(main)


def test_the_newest_connection_of_a_stream_gets_what_follows_and_the_other_ends(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            await start_slow_call(stage, client)
            say(stage, 1)
            await client.connection.read_head()
            before = await read_events(client, 2)
            again = await client.beside(stage.url)
            await again.listen(before[-1].id)
            former = await read_rest(client)
            await stage.finish_slow()
            newest = await read_rest(again)
            # The connection of the one before is as good as any.
            pinged = await client.post(request(2, "ping"))
            await client.close()
            await again.close()

        assert former == []
        assert what(newest) == [("answer", 1)]
        assert pinged.status == 200

    run(main)


def test_the_sessions_own_stream_is_resumed_where_it_broke(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            await client.listen()
            [priming] = await read_events(client, 1)
            stage.node.subscribers.tell_all()
            [heard] = await read_events(client, 1)
            session = await session_of(stage, client)
            again = await client.beside(stage.url)
            await client.close()
            await until(lambda: not session.streams.standing.has_reader)
            stage.node.subscribers.tell_all()
            session.send(b'{"jsonrpc":"2.0","id":1,"method":"roots/list"}', may_be_dropped=False)
            await again.listen(heard.id)
            missed = await read_events(again, 3)
            third = await client.beside(stage.url)
            await third.listen(priming.id)
            everything = await read_events(third, 4)
            await again.close()
            await third.close()

        assert b"list_changed" in missed[1].data
        assert b"roots/list" in missed[2].data
        assert everything[1:] == [heard, *missed[1:]]

    run(main)


def test_what_is_not_kept_any_more_is_refused_and_the_sessions_own_stream_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcpv_node.gateway.streams.KEPT_SECONDS", 0.0)

    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            await client.send(call(1, "alpha_progress", token=1))
            await client.connection.read_head()
            [priming, *_] = await read_rest(client)
            listening = await client.beside(stage.url)
            await listening.listen()
            await read_events(listening, 1)
            session = await session_of(stage, client)
            await until(lambda: not session.front.in_flight)
            stage.sessions.tell(Expire())
            await until(lambda: not session.streams.kept_bytes)
            await client.connection.send("GET", "/mcp", client.headers(Last_Event_ID=str(priming.id)))
            refused = await client.connection.read()
            stage.node.subscribers.tell_all()
            [heard] = await read_events(listening, 1)
            await client.close()
            await listening.close()

        assert refused.status == 400
        assert "not kept" in refused.json()["error"]["message"]
        assert b"list_changed" in heard.data

    run(main)


def test_a_resumed_call_that_is_cancelled_ends_without_an_answer(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            await start_slow_call(stage, client)
            say(stage, 1)
            await client.connection.read_head()
            [priming] = await read_events(client, 1)
            again = await client.beside(stage.url)
            await client.close()
            await again.listen(priming.id)
            teller = await again.beside(stage.url)
            told = await teller.post(notification("notifications/cancelled", requestId=1))
            events = await read_rest(again)
            late = await again.listen(priming.id)
            await again.close()
            await teller.close()

        assert told.status == 202
        assert what(events) == [1]
        assert late == 400

    run(main)


def test_a_deleted_session_ends_its_resumed_streams(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            await start_slow_call(stage, client)
            say(stage, 1)
            await client.connection.read_head()
            [priming] = await read_events(client, 1)
            again = await client.beside(stage.url)
            await again.listen(priming.id)
            deleting = await client.beside(stage.url)
            deleted = await deleting.connection.ask("DELETE", "/mcp", deleting.headers())
            events = await read_rest(again)
            gone = await again.listen(priming.id)
            for one in (client, again, deleting):
                await one.close()

        assert deleted.status == 204
        assert what(events) == [1]
        assert gone == 404

    run(main)


def test_a_reader_that_does_not_read_costs_a_bound_and_nobody_else(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path, settings=local()) as stage:
            client = await RawClient.open(stage.url)
            other = await RawClient.open(stage.url)
            await start_slow_call(stage, client)
            session = await session_of(stage, client)
            client.connection.pause()
            padding = b"x" * 20_000
            held = 0
            sent = 0
            # More than the sockets between us take, so that the writer has to wait.
            while sent < 3000:
                for _ in range(20):
                    sent += 1
                    say(stage, sent, padding=padding)
                held = max(held, session.streams.kept_bytes)
                assert (await other.post(call(sent, "beta_echo"))).status == 200
            await stage.finish_slow()
            await until(lambda: not session.front.in_flight)
            client.connection.resume()
            await client.connection.read_head()
            said = what(await read_rest(client))
            await client.close()
            await other.close()

        assert held <= STREAM_BYTES
        # The oldest gave way, what was heard came in order, and the answer is there.
        assert len(said) < sent
        assert said[:-1] == sorted(set(said[:-1]))
        assert said[-2] == sent
        assert said[-1] == ("answer", 1)

    run(main)


def test_answers_and_notifications_of_the_client_are_accepted_without_a_body(tmp_path: Path) -> None:
    messages = [
        {"jsonrpc": "2.0", "id": 7, "result": {"roots": []}},
        {"jsonrpc": "2.0", "id": "x", "error": {"code": -1, "message": "no"}},
        notification("notifications/roots/list_changed"),
        notification("notifications/unheard_of"),
    ]

    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            answers = [await client.post(message) for message in messages]
            await client.close()

        assert [(answer.status, answer.body) for answer in answers] == [(202, b"")] * len(messages)

    run(main)


def test_an_open_resumed_stream_lets_its_call_end_when_the_door_closes(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            await start_slow_call(stage, client)
            say(stage, 1)
            await client.connection.read_head()
            [priming] = await read_events(client, 1)
            again = await client.beside(stage.url)
            await client.close()
            await again.listen(priming.id)
            stage.door.cell.stop()
            await stage.finish_slow()
            events = await read_rest(again)
            await until(lambda: not stage.door.is_alive())
            await again.close()

        assert what(events) == [1, ("answer", 1)]

    run(main)


def test_many_streams_leave_nothing_running(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await RawClient.open(stage.url)
            before = len(asyncio.all_tasks())
            for number in range(STREAM_MESSAGES):
                await client.send(call(number, "alpha_progress", token=1))
                await client.connection.read_head()
                assert what(await read_rest(client)) == [1, 2, ("answer", number)]
            await until(lambda: len(asyncio.all_tasks()) <= before)
            await client.close()

    run(main)


async def ask_in_call(stage: Stage) -> RawClient:
    """A client in the middle of a call is asked something, and has read it."""
    client = await RawClient.open(stage.url, capabilities={"elicitation": {}})
    await start_slow_call(stage, client)
    on_event = stage.node.instances["alpha"].calls[-1].on_event
    assert on_event is not None
    on_event(Asked(AskNumber(1), "elicitation/create", Raw(b'{"mode":"form"}')))
    await client.connection.read_head()
    [_, question] = await read_events(client, 2)
    assert b"elicitation/create" in question.data
    return client


def test_a_client_that_leaves_while_it_is_asked_holds_its_slot_for_a_grace_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcpv_node.gateway.presence.RESUME_GRACE", 0.01)

    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await ask_in_call(stage)
            answered = stage.node.instances["alpha"].answered

            await client.close()
            await until(lambda: answered)
            await stage.finish_slow()
            await until(lambda: stage.node.types["alpha"].ended)

        assert [bytes(one.error or b"") for one in answered] == [
            b'{"code":-32603,"message":"the client is not there any more"}'
        ]

    run(main)


def test_a_client_that_comes_back_in_time_is_still_asked(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await ask_in_call(stage)
            again = await client.beside(stage.url)

            await client.close()
            answer = {"jsonrpc": "2.0", "id": 1, "result": {"action": "accept"}}
            assert (await again.post(answer)).status == 202
            await until(lambda: stage.node.instances["alpha"].answered)
            await stage.finish_slow()
            await again.close()

        [answered] = stage.node.instances["alpha"].answered
        assert bytes(answered.result or b"") == b'{"action": "accept"}'

    run(main)


def test_who_came_back_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcpv_node.gateway.presence.RESUME_GRACE", 0.0)

    async def main() -> None:
        presence = Presence()
        waiting = asyncio.get_running_loop().create_task(presence.wait_gone())

        presence.left()
        presence.came()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()

        presence.left()
        await waiting

    run(main)
