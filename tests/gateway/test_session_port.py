"""What a legacy session hears while a call of its is under way, and what it is asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import pytest
from msgspec import Raw
from support.fake_servers import run

from mcpv_node.actors.instance.messages import Answer
from mcpv_node.gateway.session_port import Questions, SessionPort, level_of
from mcpv_node.protocol import Failure, RawId, Success

ABLE = b'{"elicitation":{},"sampling":{},"roots":{}}'


class Wire:
    """What is written to one client; `is_full`: it takes nothing more."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        self.droppable: list[bool] = []
        self.is_full = False

    def __call__(self, message: bytes, *, may_be_dropped: bool) -> bool:
        if self.is_full:
            return False
        self.raw.append(message)
        self.droppable.append(may_be_dropped)
        return True

    @property
    def said(self) -> list[dict[str, Any]]:
        return [json.loads(message) for message in self.raw]


def port(
    wire: Wire,
    questions: Questions | None = None,
    *,
    token: bytes | None = None,
    level: str | None = None,
    capabilities: bytes = ABLE,
) -> SessionPort:
    return SessionPort(
        token=None if token is None else Raw(token),
        log_level=level,
        capabilities=capabilities,
        questions=questions or Questions(),
        emit=wire,
    )


async def asked(work: Coroutine[Any, Any, Answer]) -> asyncio.Task[Answer]:
    """A question that has been put."""
    task = asyncio.get_running_loop().create_task(work)
    await asyncio.sleep(0)
    return task


@pytest.mark.parametrize("token", [b'"7"', b"7", b'"a b"'])
def test_progress_has_the_clients_token_with_its_type_and_all_else_as_it_was(token: bytes) -> None:
    wire = Wire()

    port(wire, token=token).on_progress(Raw(b'{"progressToken":3,"progress":1.50,"x":18446744073709551617}'))

    params = b'{"progressToken":%s,"progress":1.50,"x":18446744073709551617}' % token
    assert wire.raw == [b'{"jsonrpc":"2.0","method":"notifications/progress","params":%s}' % params]
    assert wire.droppable == [True]


def test_a_client_without_a_token_hears_no_progress() -> None:
    wire = Wire()

    port(wire).on_progress(Raw(b'{"progressToken":3,"progress":1}'))

    assert wire.raw == []


@pytest.mark.parametrize(
    ("wanted", "said", "passes"),
    [
        (None, "debug", True),
        ("warning", "error", True),
        ("warning", "warning", True),
        ("warning", "info", False),
        ("debug", "debug", True),
        ("emergency", "alert", False),
    ],
)
def test_a_log_message_passes_if_it_is_severe_enough(wanted: str | None, said: str, passes: bool) -> None:
    wire = Wire()

    port(wire, level=wanted).on_note("notifications/message", Raw(b'{"level":"%s"}' % said.encode()))

    assert bool(wire.raw) is passes


@pytest.mark.parametrize("params", [None, Raw(b"{}"), Raw(b'{"level":7}'), Raw(b'{"level":null}')])
def test_a_log_message_without_a_level_is_taken_for_information(params: Raw | None) -> None:
    assert level_of(params) == "info"


def test_a_modern_servers_note_loses_its_subscription_alone() -> None:
    wire = Wire()

    note = b'{"_meta":{"io.modelcontextprotocol/subscriptionId":4,"x":1},"data":2}'
    port(wire).on_note("notifications/anything", Raw(note))

    assert wire.said[0]["params"] == {"_meta": {"x": 1}, "data": 2}


def test_a_question_is_a_request_of_ours_and_its_answer_comes_back_as_it_was() -> None:
    async def main() -> None:
        wire, questions = Wire(), Questions()
        asking = await asked(port(wire, questions).ask("sampling/createMessage", b'{"maxTokens": 5}'))
        questions.on_answer(Success(RawId(b"1"), Raw(b'{"big":18446744073709551617, "f":1.0}')))

        assert (await asking).result == Raw(b'{"big":18446744073709551617, "f":1.0}')
        assert wire.raw == [
            b'{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{"maxTokens": 5}}'
        ]
        assert wire.droppable == [False]

    run(main)


def test_answers_find_their_questions_and_no_others() -> None:
    async def main() -> None:
        mine, others = Questions(), Questions()
        one = await asked(port(Wire(), mine).ask("roots/list", None))
        two = await asked(port(Wire(), mine).ask("roots/list", None))
        other = await asked(port(Wire(), others).ask("roots/list", None))

        mine.on_answer(Success(RawId(b"2"), Raw(b"2")))
        mine.on_answer(Success(RawId(b'"1"'), Raw(b'"a string"')))
        mine.on_answer(Success(RawId(b"99"), Raw(b"99")))
        mine.on_answer(Failure(None, Raw(b"{}")))
        mine.on_answer(Failure(RawId(b"1"), Raw(b'{"code":-1,"message":"no"}')))
        mine.on_answer(Success(RawId(b"1"), Raw(b"again")))

        assert await two == Answer(result=Raw(b"2"))
        assert await one == Answer(error=Raw(b'{"code":-1,"message":"no"}'))
        assert not other.done()
        others.on_answer(Success(RawId(b"1"), Raw(b"{}")))
        assert await other == Answer(result=Raw(b"{}"))

    run(main)


def test_a_question_that_is_not_needed_any_more_is_withdrawn() -> None:
    async def main() -> None:
        wire, questions = Wire(), Questions()
        asking = await asked(port(wire, questions).ask("roots/list", None))
        asking.cancel()
        await asyncio.wait([asking])
        questions.on_answer(Success(RawId(b"1"), Raw(b"{}")))

        assert asking.cancelled()
        assert [one["method"] for one in wire.said] == ["roots/list", "notifications/cancelled"]
        assert wire.said[1]["params"]["requestId"] == 1

    run(main)


def test_a_client_that_does_not_read_is_not_waited_for() -> None:
    async def main() -> None:
        wire = Wire()
        wire.is_full = True
        answer = await port(wire).ask("roots/list", None)

        assert json.loads(bytes(answer.error or b""))["code"] == -32603

    run(main)


@pytest.mark.parametrize(
    ("capabilities", "method", "params", "code"),
    [
        (b"{}", "roots/list", None, -32601),
        (b'{"elicitation":{"url":{}}}', "elicitation/create", b'{"mode":"form"}', -32601),
        (b'{"sampling":{}}', "sampling/createMessage", b'{"tools":[]}', -32601),
        (b'{"elicitation":{}}', "elicitation/create", b'{"mode":7}', -32602),
    ],
)
def test_what_the_client_cannot_answer_it_is_not_asked(
    capabilities: bytes, method: str, params: bytes | None, code: int
) -> None:
    async def main() -> None:
        wire = Wire()
        answer = await port(wire, capabilities=capabilities).ask(method, params)

        assert json.loads(bytes(answer.error or b""))["code"] == code
        assert wire.raw == []

    run(main)


def test_a_question_is_withdrawn_when_nobody_is_left_who_could_answer() -> None:
    async def main() -> None:
        wire, questions, left = Wire(), Questions(), asyncio.Event()

        async def gone() -> None:
            await left.wait()

        asking = await asked(questions.ask("roots/list", None, wire, gone))
        left.set()
        answer = await asking
        questions.on_answer(Success(RawId(b"1"), Raw(b"{}")))

        assert json.loads(bytes(answer.error or b""))["message"] == "the client is not there any more"
        assert [one["method"] for one in wire.said] == ["roots/list", "notifications/cancelled"]

    run(main)


def test_who_answers_before_leaving_has_answered() -> None:
    async def main() -> None:
        wire, questions, left = Wire(), Questions(), asyncio.Event()

        async def gone() -> None:
            await left.wait()

        asking = await asked(questions.ask("roots/list", None, wire, gone))
        questions.on_answer(Success(RawId(b"1"), Raw(b"{}")))
        left.set()

        assert await asking == Answer(result=Raw(b"{}"))
        assert [one["method"] for one in wire.said] == ["roots/list"]
        assert len(asyncio.all_tasks()) == 1

    run(main)
