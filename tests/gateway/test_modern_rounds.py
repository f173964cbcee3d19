"""Requests of several rounds: what a server asks becomes a result, and the next request brings the answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from support.doors import Stage, local, open_door
from support.fake_servers import MODERN_HELLO, TOOLS, run, until
from support.modern_client import WILLING, ModernClient, again, modern

from mcpv_node.actors.instance.messages import Answer, AskNumber, AskWithdrawn
from mcpv_node.actors.leases import InstanceId, LeaseKind
from mcpv_node.actors.world import EVERYTHING
from mcpv_node.gateway import TokenTable
from mcpv_node.gateway.auth import Authority
from mcpv_node.settings import NodeLimits

FORM = b'{"message":"who?","requestedSchema":{"type":"object","properties":{}}}'
URL = b'{"mode":"url","message":"visit","url":"https://example.test/x","elicitationId":"e-1"}'
SAMPLE = b'{"messages":[],"maxTokens":5}'

ACCEPT = {"action": "accept", "content": {"name": "Ada"}}
SAID = {"role": "assistant", "content": {"type": "text", "text": "hm"}, "model": "m"}
ROOTS = {"roots": [{"uri": "file:///x"}]}


@asynccontextmanager
async def asking(
    folder: Path, *rounds: list[tuple[str, bytes | None]], **more: Any
) -> AsyncIterator[tuple[Stage, ModernClient]]:
    """A door, and a legacy server `alpha` that asks its client this, round after round."""
    async with open_door(folder, tools=(*TOOLS, "asks"), **more) as stage:
        stage.node.instances["alpha"].rounds = [*rounds]
        client = ModernClient(stage.url, token=None)
        try:
            yield stage, client
        finally:
            await client.close()


def ask_call(**more: Any) -> Any:
    return modern("tools/call", name="alpha_asks", arguments={"a": 1}, can=WILLING, **more)


@pytest.mark.parametrize(
    ("method", "params", "answer"),
    [
        ("elicitation/create", FORM, ACCEPT),
        ("elicitation/create", FORM, {"action": "decline"}),
        ("elicitation/create", FORM, {"action": "cancel"}),
        ("elicitation/create", URL, {"action": "accept"}),
        ("sampling/createMessage", SAMPLE, SAID),
        ("roots/list", None, ROOTS),
    ],
)
def test_what_a_legacy_server_asks_is_answered_in_the_next_round(
    tmp_path: Path, method: str, params: bytes | None, answer: Any
) -> None:
    async def main() -> None:
        async with asking(tmp_path, [(method, params)]) as (stage, client):
            message = ask_call()
            required = await client.result(message)
            ((key, question),) = required["inputRequests"].items()
            held = (len(stage.node.types["alpha"].acquired), list(stage.node.types["alpha"].released))
            result = await client.result(again(message, required, {key: answer}))
            released = list(stage.node.types["alpha"].released)

        assert required["resultType"] == "input_required"
        assert question["method"] == method
        assert "elicitationId" not in question.get("params", {})
        assert held == (1, [])
        assert len(released) == 1
        assert result["said"] == [answer]
        assert result["resultType"] == "complete"

    run(main)


def test_several_rounds_and_several_questions_are_one_call(tmp_path: Path) -> None:
    async def main() -> None:
        rounds = [[("elicitation/create", FORM), ("roots/list", None)], [("sampling/createMessage", SAMPLE)]]
        async with asking(tmp_path, *rounds) as (stage, client):
            message = ask_call()
            first = await client.result(message)
            one, two = first["inputRequests"]
            second = await client.result(again(message, first, {one: ACCEPT, two: ROOTS}))
            (three,) = second["inputRequests"]
            result = await client.result(again(message, second, {three: SAID}))
            calls = len(stage.node.instances["alpha"].calls)
            load = dict(stage.node.services.load)

        assert calls == 1
        assert len({first["requestState"], second["requestState"]}) == 2
        assert result["said"] == [ACCEPT, ROOTS, SAID]
        assert load == {}

    run(main)


def test_an_answer_that_is_missing_is_asked_for_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with asking(tmp_path, [("elicitation/create", FORM), ("roots/list", None)]) as (_, client):
            message = ask_call()
            first = await client.result(message)
            one, two = first["inputRequests"]
            second = await client.result(again(message, first, {two: ROOTS, "nobody asked": {}}))
            result = await client.result(again(message, second, {one: ACCEPT}))

        assert list(second["inputRequests"]) == [one]
        assert result["said"] == [ROOTS, ACCEPT]

    run(main)


def test_an_answer_that_is_none_is_refused_and_may_come_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with asking(tmp_path, [("elicitation/create", FORM)]) as (_, client):
            message = ask_call()
            required = await client.result(message)
            (key,) = required["inputRequests"]
            wrong = await client.error(again(message, required, {key: {"action": "maybe"}}))
            result = await client.result(again(message, required, {key: ACCEPT}))

        assert (wrong["status"], wrong["code"]) == (400, -32602)
        assert result["said"] == [ACCEPT]

    run(main)


def test_a_state_opens_for_its_request_and_its_selection_alone_and_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with asking(tmp_path, [("elicitation/create", FORM)]) as (stage, client):
            message = ask_call()
            required = await client.result(message)
            (key,) = required["inputRequests"]
            good = again(message, required, {key: ACCEPT})
            other = {**good, "params": {**good["params"], "arguments": {"a": 2}}}
            forged = {**good, "params": {**good["params"], "requestState": "A" + required["requestState"]}}
            elsewhere = ModernClient(client.url, "/mcp/tags/one")
            refused = [
                await client.error(other),
                await client.error(forged),
                await elsewhere.error(good),
            ]
            result = await client.result(good)
            refused.append(await client.error(good))
            calls = len(stage.node.instances["alpha"].calls)
            await elsewhere.close()

        assert [one["code"] for one in refused] == [-32602] * 4
        assert result["said"] == [ACCEPT]
        assert calls == 1

    run(main)


def test_a_state_of_somebody_elses_does_not_open(tmp_path: Path) -> None:
    async def main() -> None:
        tokens = TokenTable([("a", Authority("ada", EVERYTHING)), ("b", Authority("bob", EVERYTHING))])
        async with asking(tmp_path, [("elicitation/create", FORM)], tokens=tokens) as (_, client):
            client.token = "a"
            message = ask_call()
            required = await client.result(message)
            (key,) = required["inputRequests"]
            client.token = "b"
            refused = await client.error(again(message, required, {key: ACCEPT}))

        assert refused["code"] == -32602

    run(main)


def test_a_client_that_never_answers_loses_its_call(tmp_path: Path) -> None:
    async def main() -> None:
        async with asking(tmp_path, [("elicitation/create", FORM)], hold_seconds=0.05) as (stage, client):
            message = ask_call()
            required = await client.result(message)
            (key,) = required["inputRequests"]
            await until(lambda: stage.node.instances["alpha"].cancelled)
            late = await client.error(again(message, required, {key: ACCEPT}))
            await until(lambda: not stage.node.services.load)

        assert late["code"] == -32602

    run(main)


def test_a_held_call_counts_until_it_is_over_and_ends_with_its_owner(tmp_path: Path) -> None:
    async def main() -> None:
        settings = local(limits=NodeLimits(in_flight_per_principal=1))
        rounds = [[("elicitation/create", FORM)]]
        async with asking(tmp_path, *rounds, settings=settings) as (stage, client):
            await client.result(ask_call())
            refused = await client.error(modern("tools/call", name="beta_echo"))
            await stage.node.stop(stage.node.services.held)
            await until(lambda: stage.node.instances["alpha"].cancelled)
            load = dict(stage.node.services.load)

        assert refused["data"]["reason"] == "overloaded"
        assert load == {}

    run(main)


def test_one_round_too_many_waits_for_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        rounds = [[("elicitation/create", FORM)]]
        async with asking(tmp_path, *rounds, hold_limit=0) as (stage, client):
            refused = await client.error(ask_call())
            await until(lambda: stage.node.instances["alpha"].cancelled)

        assert refused["data"]["reason"] == "overloaded"

    run(main)


def test_who_hangs_up_in_a_later_round_has_cancelled(tmp_path: Path) -> None:
    async def main() -> None:
        async with asking(tmp_path, [("elicitation/create", FORM)]) as (stage, client):
            instance = stage.node.instances["alpha"]
            message = ask_call()
            required = await client.result(message)
            assert not instance.cancelled  # its connection is open no more, and the call goes on
            (key,) = required["inputRequests"]
            instance.stays_silent = True
            connection = await client.send(again(message, required, {key: ACCEPT}))
            await until(lambda: instance.answered)
            await connection.close()
            await until(lambda: instance.cancelled)

    run(main)


def test_a_question_that_is_withdrawn_is_not_waited_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with asking(tmp_path, [("elicitation/create", FORM)]) as (stage, client):
            instance = stage.node.instances["alpha"]
            message = ask_call()
            required = await client.result(message)
            call = instance.calls[0]
            assert call.on_event is not None
            call.on_event(AskWithdrawn(AskNumber(1)))
            instance.waiting.pop(call.lease).answer(Answer(result=Raw(b'{"content":[],"alone":true}')))
            (key,) = required["inputRequests"]
            result = await client.result(again(message, required, {key: ACCEPT}))

        assert result["alone"] is True

    run(main)


@pytest.mark.parametrize(
    ("can", "method"), [({}, "elicitation/create"), ({"roots": {}}, "sampling/createMessage")]
)
def test_what_the_client_does_not_offer_it_is_not_asked(tmp_path: Path, can: Any, method: str) -> None:
    async def main() -> None:
        async with asking(tmp_path, [(method, FORM)]) as (_, client):
            result = await client.result(modern("tools/call", name="alpha_asks", can=can))

        assert [one["code"] for one in result["said"]] == [-32601]

    run(main)


def test_a_visit_that_a_legacy_server_requires_is_asked_for_and_the_call_made_again(tmp_path: Path) -> None:
    visit = {"mode": "url", "message": "visit", "url": "https://example.test/x", "elicitationId": "e-1"}
    error = json.dumps({"code": -32042, "message": "first", "data": {"elicitations": [visit]}}).encode()

    async def main() -> None:
        async with asking(tmp_path) as (stage, client):
            instance = stage.node.instances["alpha"]
            instance.next_answers = [Answer(error=error), Answer(error=error)]
            message = modern("tools/call", name="alpha_echo", arguments={"a": 1}, can=WILLING)
            required = await client.result(message)
            cannot = await client.error(modern("tools/call", name="alpha_echo"))
            result = await client.result(again(message, required, {"e-1": {"action": "accept"}}))

        question = required["inputRequests"]["e-1"]["params"]
        assert (question["mode"], question["url"]) == ("url", "https://example.test/x")
        assert (cannot["status"], cannot["code"]) == (400, -32021)
        assert "requestState" not in result["sent"]
        assert "inputResponses" not in result["sent"]

    run(main)


# ---- a modern server behind it ------------------------------------------------------------------------------------


def required(state: str | None, *, question: bool = True) -> Answer:
    result: dict[str, Any] = {"resultType": "input_required", "vendor": 12345678901234567890}
    if question:
        result["inputRequests"] = {"name": {"method": "elicitation/create", "params": json.loads(FORM)}}
    if state is not None:
        result["requestState"] = state
    return Answer(result=Raw(json.dumps(result).encode()))


@pytest.mark.parametrize("state", ["raw-state", None])
def test_a_modern_servers_state_is_wrapped_and_comes_back_to_the_same_instance(
    tmp_path: Path, state: str | None
) -> None:
    async def main() -> None:
        async with asking(tmp_path) as (stage, client):
            server, instance = stage.node.types["alpha"], stage.node.instances["alpha"]
            server.hello = MODERN_HELLO
            instance.next_answers = [required(state)]
            message = modern("tools/call", name="alpha_echo", arguments={"a": 1}, can=WILLING)
            first = await client.result(message)
            kept = [one for one in server.acquired if one.kind is LeaseKind.TASK]
            still_kept = kept[0].lease not in server.released
            result = await client.result(again(message, first, {"name": ACCEPT}))
            await until(lambda: kept[0].lease in server.released)
            wanted = [one.instance for one in server.acquired]

        assert first["requestState"] != state
        assert first["vendor"] == 12345678901234567890
        assert still_kept
        assert wanted == [None, InstanceId("alpha-1"), InstanceId("alpha-1")]
        assert result["sent"].get("requestState") == state
        assert result["sent"]["inputResponses"] == {"name": ACCEPT}
        assert result["sent"]["name"] == "echo"

    run(main)


def test_a_tampered_state_reaches_no_server(tmp_path: Path) -> None:
    async def main() -> None:
        async with asking(tmp_path) as (stage, client):
            stage.node.types["alpha"].hello = MODERN_HELLO
            instance = stage.node.instances["alpha"]
            instance.next_answers = [required("raw", question=False)]
            message = modern("tools/call", name="alpha_echo", can=WILLING)
            first = await client.result(message)
            tampered = {**first, "requestState": first["requestState"][:-2] + "AA"}
            refused = await client.error(again(message, tampered))
            foreign = await client.error(again(message, {"requestState": "raw"}))
            calls = len(instance.calls)

        assert (refused["code"], foreign["code"], calls) == (-32602, -32602, 1)

    run(main)


def test_an_instance_is_kept_until_its_client_has_had_its_time(tmp_path: Path) -> None:
    async def main() -> None:
        async with asking(tmp_path, hold_seconds=0.05) as (stage, client):
            server = stage.node.types["alpha"]
            server.hello = MODERN_HELLO
            stage.node.instances["alpha"].next_answers = [required("raw")]
            await client.result(modern("tools/call", name="alpha_echo", can=WILLING))
            (kept,) = [one for one in server.acquired if one.kind is LeaseKind.TASK]
            await until(lambda: kept.lease in server.released)

    run(main)


def test_a_question_without_question_or_state_is_a_bad_reply(tmp_path: Path) -> None:
    async def main() -> None:
        async with asking(tmp_path) as (stage, client):
            stage.node.types["alpha"].hello = MODERN_HELLO
            stage.node.instances["alpha"].next_answers = [required(None, question=False)]
            refused = await client.error(modern("tools/call", name="alpha_echo", can=WILLING))

        assert refused["data"]["reason"] == "bad_reply"

    run(main)


def test_progress_is_told_while_a_request_is_open_and_at_no_other_time(tmp_path: Path) -> None:
    from mcpv_node.actors.instance.messages import Progressed

    async def main() -> None:
        async with asking(tmp_path, [("elicitation/create", FORM)]) as (stage, client):
            instance = stage.node.instances["alpha"]
            message = ask_call(meta={"progressToken": "one"})
            first = await client.result(message)
            tell = instance.calls[0].on_event
            assert tell is not None
            tell(Progressed(Raw(b'{"progressToken":1,"progress":1}')))
            (key,) = first["inputRequests"]
            instance.stays_silent = True
            next_round = again(message, first, {key: ACCEPT})
            next_round["params"]["_meta"] = {**next_round["params"]["_meta"], "progressToken": "two"}
            connection = await client.send(next_round)
            await until(lambda: instance.answered)
            tell(Progressed(Raw(b'{"progressToken":1,"progress":2}')))
            await connection.read_head()
            heard = await asyncio.wait_for(connection.read_event(), 5)

        assert heard["params"] == {"progressToken": "two", "progress": 2}

    run(main)
