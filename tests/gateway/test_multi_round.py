"""A modern server asks in results, and a legacy client in requests, until there is an end."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from support.fake_servers import FakeNode, fake_node, make_settings, run, until

from mcpv_node.actors.instance.messages import Answer
from mcpv_node.actors.leases import LeaseKind
from mcpv_node.actors.world import EVERYTHING
from mcpv_node.gateway import CallReply, make_caller
from mcpv_node.gateway.calls import CallControl, perform_call
from mcpv_node.gateway.multi_round import FIRST_PAUSE, LONGEST_PAUSE, MAX_ROUNDS, pause_after
from mcpv_node.gateway.routing import Route, find_route
from mcpv_node.protocol import Capabilities, ServerHello, parse_call
from mcpv_node.settings import ServerName, ServerSpec

CALLER = make_caller("somebody", None, conversation="session:1")
MODERN = ServerHello(version="2026-07-28", name="m", server_version="1", capabilities=Capabilities())

FORM = {"method": "elicitation/create", "params": {"message": "Who?", "requestedSchema": {}}}
VISIT = {"method": "elicitation/create", "params": {"mode": "url", "message": "Go", "url": "https://a.test"}}
SAMPLE = {"method": "sampling/createMessage", "params": {"messages": [], "maxTokens": 1}}
ROOTS = {"method": "roots/list"}

ERROR = Answer(error=b'{"code":-1,"message":"User rejected"}')


def requires(state: str | None = None, **requests: Any) -> Answer:
    result: dict[str, Any] = {"resultType": "input_required"}
    if requests:
        result["inputRequests"] = requests
    if state is not None:
        result["requestState"] = state
    return Answer(result=json.dumps(result).encode())


class Client:
    """Answers by method; without an answer it thinks for ever."""

    wants_progress = False
    log_level = None

    def __init__(self, **answers: Answer) -> None:
        self.answers = {name.replace("_", "/"): answer for name, answer in answers.items()}
        self.asked: list[tuple[str, Any]] = []
        self.withdrawn = 0

    def on_progress(self, params: Raw) -> None: ...

    def on_note(self, method: str, params: Raw | None) -> None: ...

    async def ask(self, method: str, params: bytes | Raw | None) -> Answer:
        self.asked.append((method, None if params is None else json.loads(bytes(params))))
        if method not in self.answers:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.withdrawn += 1
                raise
        return self.answers[method]


class Calling:
    """One call of alpha's echo, whose server gives these answers first."""

    def __init__(self, node: FakeNode, client: Client, *answers: Answer) -> None:
        self.node, self.client = node, client
        self.type, self.instance = node.types["alpha"], node.instances["alpha"]
        self.type.hello = MODERN
        self.instance.next_answers = list(answers)
        self.control = CallControl()

    def start(self) -> asyncio.Task[CallReply]:
        context = self.node.services.node
        call = parse_call(Raw(b'{"name":"alpha_echo","arguments":{"a": 1.0},"_meta":{"x":1}}'))
        route = find_route(context.world.world, EVERYTHING, CALLER.profile, call)
        assert isinstance(route, Route)
        work = perform_call(context, CALLER, route, control=self.control, port=self.client)
        return asyncio.get_running_loop().create_task(work)

    def sent(self) -> list[Any]:
        return [json.loads(params) for params in self.instance.sent]

    async def all_is_released(self) -> None:
        """No slot and no keeping lease is left."""
        await until(lambda: {one.lease for one in self.type.acquired} == set(self.type.released))


def error_of(reply: CallReply) -> dict[str, Any]:
    assert reply.error is not None, reply
    return dict(json.loads(bytes(reply.error)))


def test_the_next_round_is_the_same_call_with_the_answers_and_the_state_to_the_same_instance(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            said = Answer(result=b'{"action":"accept","content":{"big":18446744073709551617}}')
            calling = Calling(node, Client(elicitation_create=said), requires("s-1", who=FORM))
            reply = await calling.start()
            await calling.all_is_released()

        first, second = calling.sent()
        assert calling.client.asked == [("elicitation/create", FORM["params"])]
        assert b'"big":18446744073709551617' in calling.instance.sent[1]
        assert second["inputResponses"]["who"]["action"] == "accept"
        assert second["requestState"] == "s-1"
        assert (second["arguments"], second["_meta"]) == (first["arguments"], first["_meta"])
        assert reply.result is not None
        assert [one.kind for one in calling.type.acquired] == [
            LeaseKind.CALL,
            LeaseKind.TASK,
            LeaseKind.CALL,
        ]
        assert [one.instance for one in calling.type.acquired] == [None, "alpha-1", "alpha-1"]

    run(main)


def test_each_round_brings_its_own_answers_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            client = Client(elicitation_create=Answer(result=b'{"action":"decline"}'))
            calling = Calling(node, client, requires("1", a=FORM), requires("2", b=FORM), requires(c=FORM))
            await calling.start()

        _, *later = calling.sent()
        assert [(list(one["inputResponses"]), one.get("requestState")) for one in later] == [
            (["a"], "1"),
            (["b"], "2"),
            (["c"], None),
        ]

    run(main)


def test_a_state_alone_comes_back_without_a_question(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            calling = Calling(node, Client(), requires("come back"))
            await calling.start()

        assert calling.client.asked == []
        assert calling.sent()[1]["requestState"] == "come back"

    run(main)


def test_the_pauses_after_states_alone_grow_to_a_bound() -> None:
    pauses = [pause_after(times) for times in range(MAX_ROUNDS)]

    assert pauses[:4] == [0.0, FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert max(pauses) == pauses[-1] == LONGEST_PAUSE


def test_a_server_that_gives_out_a_state_alone_is_not_called_again_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcpv_node.gateway.multi_round.FIRST_PAUSE", 1e6)
    monkeypatch.setattr("mcpv_node.gateway.multi_round.LONGEST_PAUSE", 1e6)

    async def main() -> None:
        async with fake_node(tmp_path) as node:
            calling = Calling(node, Client(), requires("come back"))
            task = calling.start()
            await until(lambda: LeaseKind.TASK in [one.kind for one in calling.type.acquired])
            for _ in range(20):
                await asyncio.sleep(0)
            sent = len(calling.sent())
            calling.control.cancel("the client cancelled")
            with suppress(asyncio.CancelledError):
                await task
            await calling.all_is_released()

        assert sent == 1

    run(main)


def test_a_visit_to_a_url_has_an_id_for_a_legacy_client(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            client = Client(elicitation_create=Answer(result=b'{"action":"accept"}'))
            await Calling(node, client, requires(v=VISIT)).start()

        ((_, params),) = client.asked
        assert params["elicitationId"]
        assert params["url"] == "https://a.test"

    run(main)


def test_a_client_that_fails_to_answer_a_form_has_cancelled_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            calling = Calling(node, Client(elicitation_create=ERROR), requires(a=FORM))
            await calling.start()

        assert calling.sent()[1]["inputResponses"] == {"a": {"action": "cancel"}}

    run(main)


@pytest.mark.parametrize(("name", "request_"), [("sampling_createMessage", SAMPLE), ("roots_list", ROOTS)])
def test_what_nothing_can_stand_in_for_ends_the_call_with_the_clients_error(
    tmp_path: Path, name: str, request_: Any
) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            calling = Calling(node, Client(**{name: ERROR}), requires(a=request_))
            reply = await calling.start()
            await calling.all_is_released()

        assert error_of(reply) == {"code": -1, "message": "User rejected"}
        assert len(calling.sent()) == 1

    run(main)


def test_a_call_that_is_cancelled_between_rounds_is_over_and_its_questions_are_withdrawn(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            calling = Calling(node, Client(), requires(a=FORM, b=SAMPLE))
            call = calling.start()
            await until(lambda: len(calling.client.asked) == 2)
            calling.control.cancel("no")
            await asyncio.wait([call])
            await calling.all_is_released()

        assert call.cancelled()
        assert calling.client.withdrawn == 2

    run(main)


def test_a_client_that_never_answers_is_waited_for_as_long_as_the_call_may_take(tmp_path: Path) -> None:
    spec = ServerSpec(name=ServerName("alpha"), command="none", max_call_seconds=0.05)

    async def main() -> None:
        async with fake_node(tmp_path, settings=make_settings(servers=(spec,))) as node:
            calling = Calling(node, Client(), requires(a=FORM))
            error = error_of(await calling.start())
            await calling.all_is_released()

        assert (error["code"], error["data"]["reason"]) == (-31008, "call_timeout")
        assert calling.client.withdrawn == 1

    run(main)


def test_a_server_that_asks_without_end_is_stopped(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            client = Client(elicitation_create=Answer(result=b'{"action":"accept"}'))
            calling = Calling(node, client, *[requires(a=FORM)] * (MAX_ROUNDS + 1))
            error = error_of(await calling.start())
            await calling.all_is_released()

        assert error["data"]["reason"] == "bad_reply"
        assert len(client.asked) == MAX_ROUNDS

    run(main)


@pytest.mark.parametrize(
    "result",
    [
        b'{"resultType":"input_required"}',
        b'{"resultType":"input_required","inputRequests":{"a":{"method":"tools/list"}}}',
        b'{"resultType":"something"}',
        b'{"resultType":"task"}',
    ],
)
def test_a_result_that_no_legacy_client_can_have_is_a_bad_reply(tmp_path: Path, result: bytes) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            calling = Calling(node, Client(), Answer(result=result))
            error = error_of(await calling.start())
            await calling.all_is_released()

        assert error["data"]["reason"] == "bad_reply"

    run(main)


def test_a_legacy_servers_result_is_never_a_question(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            calling = Calling(node, Client(), requires(a=FORM))
            calling.type.hello = ServerHello(
                version="2025-11-25", name="l", server_version="1", capabilities=Capabilities()
            )
            reply = await calling.start()

        assert json.loads(bytes(reply.result or b""))["resultType"] == "input_required"
        assert calling.client.asked == []

    run(main)
