"""A legacy client is asked by servers of both eras, over pipes and over HTTP, in its own words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.asking import ABLE, Asked, ask_server, ask_server_over_http, call, fixture_servers
from support.nodes import Node, Session, running_node
from support.processes import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FORM = {"message": "Who?", "requestedSchema": {"type": "object", "properties": {"name": {"type": "string"}}}}
VISIT = {"mode": "url", "message": "Go", "url": "https://example.test/a", "elicitationId": "e-1"}
SAMPLE = {"messages": [{"role": "user", "content": {"type": "text", "text": "hi"}}], "maxTokens": 5}
SAID = {"role": "assistant", "content": {"type": "text", "text": "hello"}, "model": "m"}
ROOTS = {"roots": [{"uri": "file:///r"}]}

LEGACY = pytest.mark.parametrize("back", ["ask", "askhttp"])
MODERN = pytest.mark.parametrize("back", ["fixture", "fixturehttp"])


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("asking")
    many = {"maxConcurrent": 8, "idleSeconds": 600}
    with (
        ask_server_over_http(folder, **many) as over_http,
        fixture_servers(folder, **many) as fixtures,
        running_node(folder, [ask_server(folder, **many).entry, over_http.entry, *fixtures]) as node,
    ):
        node.until_learnt(["ask", "askhttp", "fixture", "fixturehttp"])
        yield node


@pytest.fixture(scope="module")
def _session(node: Node) -> Iterator[Session]:
    with node.session(capabilities=ABLE) as session:
        for tool in (
            "ask_echo",
            "askhttp_echo",
            "fixture_test_simple_text",
            "fixturehttp_test_simple_text",
        ):
            session.text(tool, text="warm")
        yield session


@pytest.fixture
def session(_session: Session) -> Iterator[Session]:
    """One client, whose instances are the servers of all these tests; it hangs up after each."""
    yield _session
    _session.close()


# ---- a legacy server ---------------------------------------------------------------------------------------------


@LEGACY
@pytest.mark.parametrize(
    ("method", "params", "result"),
    [
        ("elicitation/create", FORM, {"action": "accept", "content": {"name": "n", "big": 2**70}}),
        ("elicitation/create", FORM, {"action": "decline"}),
        ("elicitation/create", FORM, {"action": "cancel"}),
        ("elicitation/create", VISIT, {"action": "accept"}),
        ("sampling/createMessage", SAMPLE, SAID),
        ("roots/list", None, ROOTS),
    ],
)
def test_what_a_legacy_server_asks_and_is_answered_passes_as_it_is(
    session: Session, back: str, method: str, params: Any, result: Any
) -> None:
    asked = call(session, f"{back}_ask", method=method, params=params)

    question = asked.question()
    asked.answer(question, result)

    assert (question["method"], question.get("params")) == (method, params)
    assert json.loads(asked.text()) == [{"result": result}]


@LEGACY
def test_a_client_that_refuses_says_so_in_its_own_words(session: Session, back: str) -> None:
    error = {"code": -1, "message": "User rejected", "data": {"why": "no"}}
    asked = call(session, f"{back}_ask", method="sampling/createMessage", params=SAMPLE)

    asked.answer(asked.question(), error=error)

    assert json.loads(asked.text()) == [{"error": error}]


@LEGACY
def test_a_legacy_server_asks_as_often_as_it_wants(session: Session, back: str) -> None:
    asked = call(session, f"{back}_ask", method="roots/list", times=3)

    for number in range(3):
        asked.answer(asked.question(), {"roots": [], "n": number})

    assert [one["result"]["n"] for one in json.loads(asked.text())] == [0, 1, 2]


@LEGACY
def test_questions_that_stand_at_once_are_answered_in_any_order(session: Session, back: str) -> None:
    questions = [["elicitation/create", FORM], ["sampling/createMessage", SAMPLE], ["roots/list", None]]
    results = {
        "elicitation/create": {"action": "decline"},
        "sampling/createMessage": SAID,
        "roots/list": ROOTS,
    }
    asked = call(session, f"{back}_ask_all", questions=questions)

    came = [asked.question() for _ in questions]
    for question in reversed(came):
        asked.answer(question, results[question["method"]])

    assert [one["result"] for one in json.loads(asked.text())] == [results[method] for method, _ in questions]


@LEGACY
def test_a_question_that_is_withdrawn_is_withdrawn_at_the_client(session: Session, back: str) -> None:
    asked = call(session, f"{back}_ask_then_withdraw", method="elicitation/create", params=FORM)

    assert asked.text() == "withdrawn"

    questions = [one["id"] for one in asked.heard if one.get("method") == "elicitation/create"]
    withdrawn = [
        one["params"]["requestId"] for one in asked.heard if one.get("method") == "notifications/cancelled"
    ]
    assert questions == withdrawn


@LEGACY
def test_a_question_that_nobody_waits_for_any_more_is_withdrawn(session: Session, back: str) -> None:
    asked = call(session, f"{back}_ask_then_go", method="elicitation/create", params=FORM)

    assert asked.text() == "gone"

    questions = [one["id"] for one in asked.heard if one.get("method") == "elicitation/create"]
    withdrawn = [
        one["params"]["requestId"] for one in asked.heard if one.get("method") == "notifications/cancelled"
    ]
    assert questions == withdrawn


# ---- a modern server ---------------------------------------------------------------------------------------------


@MODERN
def test_what_a_modern_server_asks_in_a_result_a_legacy_client_is_asked_in_a_request(
    session: Session, back: str
) -> None:
    asked = call(session, f"{back}_test_input_required_result_elicitation")

    question = asked.question()
    asked.answer(question, {"action": "accept", "content": {"name": "Ada"}})

    assert question["method"] == "elicitation/create"
    assert question["params"]["message"] == "What is your name?"
    assert asked.text() == "Hello, Ada!"


@MODERN
@pytest.mark.parametrize("action", ["decline", "cancel"])
def test_a_modern_server_hears_that_the_user_does_not_want_to(
    session: Session, back: str, action: str
) -> None:
    asked = call(session, f"{back}_test_elicitation", message="Who?")

    asked.answer(asked.question(), {"action": action})

    assert f"action={action}" in asked.text()


@MODERN
def test_a_client_that_cannot_show_a_form_after_all_has_cancelled(session: Session, back: str) -> None:
    asked = call(session, f"{back}_test_elicitation", message="Who?")

    asked.answer(asked.question(), error={"code": -32603, "message": "no window"})

    assert "action=cancel" in asked.text()


@MODERN
def test_a_modern_server_samples_and_lists_roots(session: Session, back: str) -> None:
    sampling = call(session, f"{back}_test_sampling", prompt="hi")
    sampling.answer(sampling.question(), SAID)
    roots = call(session, f"{back}_test_input_required_result_list_roots")
    roots.answer(roots.question(), ROOTS)

    assert sampling.text() == "LLM response: hello"
    assert roots.text() == "The client's roots: file:///r"


@MODERN
def test_a_refusal_that_nothing_can_stand_in_for_ends_the_call(session: Session, back: str) -> None:
    error = {"code": -1, "message": "User rejected sampling request"}
    asked = call(session, f"{back}_test_sampling", prompt="hi")

    asked.answer(asked.question(), error=error)

    assert asked.reply()["error"] == error


@MODERN
def test_several_rounds_and_several_questions_at_once_come_to_their_end(session: Session, back: str) -> None:
    rounds = call(session, f"{back}_test_input_required_result_multi_round")
    rounds.answer(rounds.question(), {"action": "accept", "content": {"name": "Ada"}})
    rounds.answer(rounds.question(), {"action": "accept", "content": {"color": "blue"}})
    many = call(session, f"{back}_test_input_required_result_multiple_inputs")
    results = {
        "elicitation/create": {"action": "accept", "content": {"name": "Ada"}},
        "sampling/createMessage": SAID,
        "roots/list": ROOTS,
    }
    for _ in range(3):
        question = many.question()
        many.answer(question, results[question["method"]])

    assert rounds.text() == "Ada likes blue."
    assert many.text() == "hello Ada, at file:///r"


@MODERN
def test_a_prompt_asks_too(session: Session, back: str) -> None:
    exchange = session.request("prompts/get", name=f"{back}_test_input_required_result_prompt", arguments={})
    asked = Asked(session, exchange)
    asked.answer(asked.question(), {"action": "accept", "content": {"context": "tests"}})

    content = asked.reply()["result"]["messages"][0]["content"]
    assert content["text"] == "The context: tests"


@MODERN
def test_a_call_that_is_cancelled_while_its_client_is_asked_is_over(
    node: Node, session: Session, back: str
) -> None:
    exchange = session.call(f"{back}_test_input_required_result_elicitation", id="mine")
    messages = exchange.messages()
    while b"elicitation/create" not in next(messages):
        pass

    session.cancel("mine")

    assert all(b'"id":"mine"' not in message for message in messages)
    assert wait_until(lambda: all(one["busy"] == 0 for one in node.why(back)["instances"]))
