"""What can go wrong while a server waits for its client: clients that leave, servers that end, others beside."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import (
    CreateMessageResult,
    ElicitResult,
    ListRootsResult,
    Root,
    TextContent,
)
from support.asking import ABLE, AskServer, ask_server, ask_server_over_http, call, fixture_servers
from support.nodes import Node, Session, running_node
from support.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

FORM = {"message": "Who?", "requestedSchema": {"type": "object", "properties": {}}}

BACKS = pytest.mark.parametrize("back", ["pipes", "http"])

# The official client waits for ever by itself; this takes a second.
CONVERSATION_TIMEOUT = 30.0


@contextmanager
def asking_node(folder: Path, back: str, *knobs: str, **settings: object) -> Iterator[tuple[Node, AskServer]]:
    """A node in front of one legacy server that asks, named `ask`."""
    given = {"maxConcurrent": 4, **settings}
    if back == "pipes":
        server = ask_server(folder, "ask", *knobs, **given)
        with running_node(folder, [server.entry]) as node:
            node.until_learnt(["ask"])
            server.forget()
            yield node, server
        return
    with (
        ask_server_over_http(folder, "ask", *knobs, **given) as server,
        running_node(folder, [server.entry]) as node,
    ):
        node.until_learnt(["ask"])
        server.forget()
        yield node, server


def able(node: Node) -> Session:
    return node.session(capabilities=ABLE)


def nothing_is_busy(node: Node) -> bool:
    return all(one["busy"] == 0 for one in node.why("ask")["instances"])


# ---- whose instance it is ----------------------------------------------------------------------------------------


@BACKS
def test_an_instance_that_asks_is_its_sessions_and_no_other_session_reaches_it(
    tmp_path: Path, back: str
) -> None:
    with asking_node(tmp_path, back, maxInstances=4) as (node, _server), able(node) as one, able(node) as two:
        assert one.text("ask_echo", text="shared") == two.text("ask_echo", text="shared") == "shared"
        assert len(node.why("ask")["instances"]) == 1
        asked = call(one, "ask_ask", method="roots/list")
        asked.answer(asked.question(), {"roots": []})
        asked.text()

        other = call(two, "ask_ask", method="roots/list")
        other.answer(other.question(), {"roots": [], "of": "two"})

        assert json.loads(other.text())[0]["result"]["of"] == "two"
        assert len(node.why("ask")["instances"]) == 2


@BACKS
def test_answers_to_equal_ids_of_two_sessions_do_not_cross(tmp_path: Path, back: str) -> None:
    with asking_node(tmp_path, back, maxInstances=4) as (node, _server), able(node) as one, able(node) as two:
        first = call(one, "ask_ask", method="roots/list")
        mine = first.question()
        second = call(two, "ask_ask", method="roots/list")
        theirs = second.question()
        assert mine["id"] == theirs["id"]

        second.answer(theirs, {"roots": [], "of": "two"})
        first.answer(mine, {"roots": [], "of": "one"})

        assert json.loads(first.text())[0]["result"]["of"] == "one"
        assert json.loads(second.text())[0]["result"]["of"] == "two"


@BACKS
def test_what_a_server_asks_at_once_is_asked_of_who_calls_first(tmp_path: Path, back: str) -> None:
    hasty = asking_node(tmp_path, back, "ROOTS_AT_ONCE=1", drainTimeoutSeconds=1)
    with hasty as (node, server), able(node) as session:
        # An instance of its own: what was learnt was without roots.
        asked = call(session, "ask_wait")
        question = asked.question()
        asked.answer(question, {"roots": [{"uri": "file:///mine"}]})

        assert question["method"] == "roots/list"
        assert wait_until(lambda: any("file:///mine" in words for words in server.story()))


# ---- what is withdrawn -------------------------------------------------------------------------------------------


@BACKS
def test_a_call_that_is_cancelled_while_its_client_is_asked_is_cancelled_at_the_server(
    tmp_path: Path, back: str
) -> None:
    with asking_node(tmp_path, back) as (node, server), able(node) as session:
        exchange = session.call("ask_ask", {"method": "elicitation/create", "params": FORM}, id="mine")
        messages = exchange.messages()
        question = json.loads(next(messages))
        while question.get("method") != "elicitation/create":
            question = json.loads(next(messages))

        session.cancel("mine")

        left = [json.loads(message) for message in messages]
        assert [one.get("method") for one in left] == ["notifications/cancelled"]
        assert left[0]["params"]["requestId"] == question["id"]
        assert wait_until(lambda: any(words.startswith("cancelled") for words in server.story()))


@BACKS
def test_a_session_that_ends_while_it_is_asked_leaves_nothing_busy(tmp_path: Path, back: str) -> None:
    with asking_node(tmp_path, back, drainTimeoutSeconds=1) as (node, server), able(node) as session:
        call(session, "ask_ask", method="elicitation/create", params=FORM).question()

        ended = node.send("DELETE", "/mcp", b"", {"Mcp-Session-Id": str(session.id)})
        assert ended.response.status == 204
        ended.hang_up()

        assert wait_until(lambda: any(words.startswith("cancelled") for words in server.story()))
        assert wait_until(lambda: nothing_is_busy(node))


@BACKS
def test_an_instance_that_was_one_sessions_alone_ends_with_it(tmp_path: Path, back: str) -> None:
    with asking_node(tmp_path, back, idleSeconds=600) as (node, _server), able(node) as session:
        asked = call(session, "ask_ask", method="roots/list")
        asked.answer(asked.question(), {"roots": []})
        asked.text()
        assert len(node.why("ask")["instances"]) == 1

        ended = node.send("DELETE", "/mcp", b"", {"Mcp-Session-Id": str(session.id)})
        assert ended.response.status == 204
        ended.hang_up()

        assert wait_until(lambda: node.why("ask")["instances"] == [])


@BACKS
def test_a_client_that_hangs_up_may_come_back_and_answer(tmp_path: Path, back: str) -> None:
    with asking_node(tmp_path, back) as (node, server), able(node) as session:
        exchange = session.call("ask_ask", {"method": "elicitation/create", "params": FORM})
        asked = next(
            message for message in map(json.loads, exchange.messages()) if message.get("id") is not None
        )
        exchange.hang_up()

        answer = {"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "accept", "late": True}}
        assert session.send(answer).response.status == 202

        assert wait_until(lambda: any('"late": true' in words for words in server.story()))
        assert wait_until(lambda: nothing_is_busy(node))


@BACKS
def test_a_client_that_never_answers_is_waited_for_as_long_as_a_call_may_take(
    tmp_path: Path, back: str
) -> None:
    limits = {"callTimeoutSeconds": 0.5, "maxCallSeconds": 2, "drainTimeoutSeconds": 1}
    with asking_node(tmp_path, back, **limits) as (node, server), able(node) as session:
        asked = call(session, "ask_ask", method="elicitation/create", params=FORM)
        question = asked.question()

        reply = asked.reply()

        withdrawn = [one for one in asked.heard if one.get("method") == "notifications/cancelled"]
        assert reply["error"]["data"]["reason"] == "call_timeout"
        assert reply["error"]["data"]["calledSeconds"] > limits["callTimeoutSeconds"] * 2
        assert [one["params"]["requestId"] for one in withdrawn] == [question["id"]]
        # The server hears at once that nobody answers.
        assert wait_until(lambda: any("does not wait any more" in words for words in server.story()))


# ---- servers that end, and noise ---------------------------------------------------------------------------------


def test_a_server_that_ends_while_it_waits_is_an_error_and_the_next_call_is_served(tmp_path: Path) -> None:
    with asking_node(tmp_path, "pipes") as (node, _server), able(node) as session:
        asked = call(session, "ask_ask_then_crash", method="elicitation/create", params=FORM)

        reply = asked.reply()

        methods = [one.get("method") for one in asked.heard]
        assert reply["error"]["data"]["reason"] == "instance_died"
        assert reply["error"]["data"]["lastExit"]["code"] == 3
        if "elicitation/create" in methods:
            assert "notifications/cancelled" in methods
        assert session.text("ask_echo", text="again") == "again"


def test_noise_around_a_question_disturbs_nobody(tmp_path: Path) -> None:
    with asking_node(tmp_path, "pipes") as (node, _server), able(node) as session:
        asked = call(session, "ask_ask_in_noise", method="elicitation/create", params=FORM)

        asked.answer(asked.question(), {"action": "accept"})

        assert json.loads(asked.text()) == [{"result": {"action": "accept"}}]


def test_a_session_that_a_server_has_forgotten_is_opened_anew_and_its_client_does_not_notice(
    tmp_path: Path,
) -> None:
    with asking_node(tmp_path, "http") as (node, _server), able(node) as session:
        assert session.text("ask_forget") == "forgotten"

        assert session.text("ask_echo", text="still here") == "still here"


@BACKS
def test_a_node_that_stops_while_a_client_is_asked_ends_its_streams(tmp_path: Path, back: str) -> None:
    with asking_node(tmp_path, back, drainTimeoutSeconds=1) as (node, _server), able(node) as session:
        standing = session.listen()
        asked = call(session, "ask_ask", method="elicitation/create", params=FORM)
        asked.question()

        code = node.stop()

        assert code == 0
        list(standing.messages())


# ---- what belongs to no call -------------------------------------------------------------------------------------


@BACKS
def test_a_changed_list_is_read_again_and_told(tmp_path: Path, back: str) -> None:
    with asking_node(tmp_path, back) as (node, _server), able(node) as session:
        before = node.get("catalog/tools")["etag"]

        assert session.text("ask_announce", method="notifications/tools/list_changed") == "announced"

        # Nothing has changed, so nobody is told.
        assert node.get("catalog/tools")["etag"] == before


@BACKS
def test_a_client_hears_of_the_log_what_it_wants_to(tmp_path: Path, back: str) -> None:
    with asking_node(tmp_path, back) as (node, _server), able(node) as session:
        assert "result" in session.request("logging/setLevel", level="error").reply()
        logging = call(session, "ask_log")

        assert logging.text() == "logged"

        levels = [
            one["params"]["level"] for one in logging.heard if one.get("method") == "notifications/message"
        ]
        assert levels == ["error", "critical", "alert", "emergency"]


# ---- bytes -------------------------------------------------------------------------------------------------------


@BACKS
def test_a_result_passes_byte_for_byte_within_an_era(tmp_path: Path, back: str) -> None:
    result = (
        '{"content": [{"type":"hologram","x":1.0}], "big":18446744073709551617 ,"_meta":{"a/b":[1e400]},'
        '"resultType2":null,"e":"\\u00e4 ä"}'
    )
    with asking_node(tmp_path, back) as (node, _server), able(node) as session:
        raw = session.call("ask_verbatim", {"json": result}, id="x").raw_reply()

    assert raw == b'{"jsonrpc":"2.0","id":"x","result":%s}' % result.encode()


@BACKS
def test_an_answer_passes_to_the_server_with_what_nobody_knows(tmp_path: Path, back: str) -> None:
    with asking_node(tmp_path, back) as (node, _server), able(node) as session:
        asked = call(session, "ask_ask", method="elicitation/create", params=FORM)
        question = asked.question()
        answer = b'{"jsonrpc":"2.0","id":%d,"result":{"action":"accept","n":18446744073709551617,"u":{}}}'
        assert session.send(answer % question["id"]).response.status == 202

        (said,) = json.loads(asked.text())

    assert said["result"] == {"action": "accept", "n": 2**64 + 1, "u": {}}


# ---- the official client -----------------------------------------------------------------------------------------


def test_the_official_client_in_legacy_mode_is_asked_by_servers_of_both_eras(tmp_path: Path) -> None:
    async def elicit(_context: object, params: Any) -> ElicitResult:
        if params.mode == "url":
            return ElicitResult(action="accept")
        return ElicitResult(action="accept", content={"name": "Ada", "username": "ada", "email": "a@b.c"})

    async def sample(_context: object, _params: Any) -> CreateMessageResult:
        return CreateMessageResult(
            role="assistant", content=TextContent(type="text", text="Paris"), model="m"
        )

    async def roots(_context: object) -> ListRootsResult:
        return ListRootsResult(roots=[Root(uri="file:///root")])

    async def converse(node: Node) -> dict[str, Any]:
        import httpx2

        said: dict[str, Any] = {}
        headers = {"Authorization": f"Bearer {node.token}"}
        async with (
            asyncio.timeout(CONVERSATION_TIMEOUT),
            httpx2.AsyncClient(headers=headers) as http,
            Client(
                streamable_http_client(f"{node.url}/mcp", http_client=http),
                mode="legacy",
                elicitation_callback=elicit,
                sampling_callback=sample,
                list_roots_callback=roots,
            ) as client,
        ):
            for back in ("fixture", "fixturehttp"):
                for tool in ("elicitation", "sampling", "list_roots", "multiple_inputs", "request_state"):
                    result = await client.call_tool(f"{back}_test_input_required_result_{tool}", {})
                    said[f"{back} {tool}"] = result.content[0].text
            for method in ("elicitation/create", "roots/list"):
                params = FORM if method.startswith("elicitation") else None
                result = await client.call_tool("ask_ask", {"method": method, "params": params})
                said[method] = json.loads(result.content[0].text)[0]["result"]
        return said

    with (
        fixture_servers(tmp_path) as fixtures,
        running_node(tmp_path, [ask_server(tmp_path).entry, *fixtures]) as node,
    ):
        node.until_learnt(["ask", "fixture", "fixturehttp"])
        said = asyncio.run(converse(node))

    for back in ("fixture", "fixturehttp"):
        assert said[f"{back} elicitation"] == "Hello, Ada!"
        assert said[f"{back} sampling"] == "Paris"
        assert said[f"{back} list_roots"] == "The client's roots: file:///root"
        assert said[f"{back} multiple_inputs"] == "Paris Ada, at file:///root"
        assert said[f"{back} request_state"] == "state-ok"
    assert said["elicitation/create"]["action"] == "accept"
    assert said["roots/list"]["roots"] == [{"uri": "file:///root"}]
