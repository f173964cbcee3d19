"""Requests that take several rounds."""

from __future__ import annotations

import json

import msgspec
import pytest
from mcp_types import methods
from msgspec import Raw

from mcpv_node.protocol import (
    InputRequest,
    InputRequired,
    LocalProtocolError,
    RemoteProtocolError,
    ResultType,
    Retry,
    answer_for_failure,
    answer_to,
    input_request,
    input_required,
    legacy_params,
    parse_input_required,
    parse_retry,
    result_type,
    retry_params,
    round_digest,
    url_elicitations,
)

FORM = b'{"mode":"form","message":"Who?","requestedSchema":{ "type":"object","properties":{} }}'
URL = b'{"mode":"url","message":"Go","url":"https://x.test/"}'
SAMPLE = b'{"messages":[],"maxTokens":1.0}'


def sent(value: object) -> bytes:
    return json.dumps(value).encode()


def read(value: bytes | None) -> dict[str, object]:
    assert value is not None
    return msgspec.json.decode(value, type=dict[str, object])


@pytest.mark.parametrize(
    ("result", "kind"),
    [
        (b"{}", ResultType.COMPLETE),
        (b'{"resultType":"complete"}', ResultType.COMPLETE),
        (b'{"resultType":"input_required"}', ResultType.INPUT_REQUIRED),
        (b'{"resultType":"task"}', ResultType.TASK),
    ],
)
def test_a_result_says_its_kind_and_is_complete_when_it_does_not(result: bytes, kind: ResultType) -> None:
    assert result_type(result) is kind


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (b'{"resultType":"later"}', 'the resultType "later"; we know complete, input_required, task'),
        (b'{"resultType":""}', 'resultType ""'),
        (b'{"resultType":null}', "resultType of the server's result is not a string"),
        (b"[]", "the server's result is not an object"),
    ],
)
def test_a_kind_nobody_knows_is_the_servers_fault(result: bytes, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        result_type(result)


ASKED = (
    InputRequest("a", "elicitation/create", FORM),
    InputRequest("b", "elicitation/create", URL),
    InputRequest("c", "sampling/createMessage", SAMPLE),
    InputRequest("d", "roots/list"),
)


@pytest.mark.parametrize("state", [None, "opaque", ""])
def test_what_is_asked_is_read_as_it_was_written(state: str | None) -> None:
    result = input_required(ASKED, state)

    assert result_type(result) is ResultType.INPUT_REQUIRED
    assert parse_input_required(result) == InputRequired(ASKED, state)


@pytest.mark.parametrize("method", ["tools/call", "prompts/get", "resources/read"])
def test_a_result_that_asks_is_one_by_the_schema(method: str) -> None:
    result = input_required(ASKED, "s", server_info=b'{"name":"n","version":"1"}')

    methods.validate_server_result(method, "2026-07-28", json.loads(result))


def test_a_state_alone_is_enough() -> None:
    assert parse_input_required(input_required((), "s")) == InputRequired((), "s")


def test_a_result_that_asks_nothing_is_our_own_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        input_required((), None)


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ({}, "names neither inputRequests nor requestState"),
        ({"inputRequests": {}}, "names neither"),
        ({"inputRequests": None, "requestState": None}, "names neither"),
        ({"inputRequests": []}, "inputRequests is not an object"),
        ({"inputRequests": {"a": 1}}, 'the inputRequest "a" is not an object'),
        ({"inputRequests": {"a": {}}}, 'the method of the inputRequest "a" is missing'),
        ({"inputRequests": {"a": {"method": "tools/call"}}}, 'the inputRequest "a" asks for "tools/call"'),
        ({"inputRequests": {"a": {"method": "roots/list", "params": 1}}}, 'params of the inputRequest "a"'),
        ({"requestState": 1}, "requestState is not a string"),
    ],
)
def test_a_server_that_asks_wrongly_is_told_what_is_wrong(result: dict[str, object], why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        parse_input_required(sent({"resultType": "input_required"} | result))


@pytest.mark.parametrize(
    ("method", "params", "asked"),
    [
        ("elicitation/create", FORM, FORM),
        ("sampling/createMessage", SAMPLE, SAMPLE),
        ("roots/list", None, None),
        (
            "elicitation/create",
            b'{"mode":"url","url":"u","message":"m","elicitationId":"e"}',
            b'{"mode":"url","url":"u","message":"m"}',
        ),
        (
            "sampling/createMessage",
            b'{"messages":[ ],"task":{"ttl":1},"_meta":{"progressToken":1,"x":1.0}}',
            b'{"messages":[ ],"_meta":{"x":1.0}}',
        ),
    ],
)
def test_a_legacy_servers_request_is_asked_without_its_own_leg(
    method: str, params: bytes | None, asked: bytes | None
) -> None:
    assert input_request("k", method, params) == InputRequest("k", method, asked)


@pytest.mark.parametrize("method", ["ping", "tasks/get", "vendor/ask"])
def test_what_no_result_can_ask_is_refused_by_name(method: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f'"{method}"'):
        input_request("k", method, None)


@pytest.mark.parametrize(
    "asked", [ASKED[0], ASKED[2], ASKED[3], InputRequest("k", "elicitation/create", b"{}")]
)
def test_a_legacy_client_is_asked_in_the_same_words(asked: InputRequest) -> None:
    assert legacy_params(asked, elicitation_id="e") == asked.params


def test_a_legacy_client_visits_a_url_under_an_id() -> None:
    params = legacy_params(ASKED[1], elicitation_id="e")

    assert read(params) == json.loads(URL) | {"elicitationId": "e"}
    methods.parse_server_request("elicitation/create", "2025-11-25", read(params))


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (ASKED[0], b'{"action":"accept","content":{ "n":1.0 }}'),
        (ASKED[0], b'{"action":"decline"}'),
        (ASKED[1], b'{"action":"cancel"}'),
        (ASKED[2], b'{"role":"assistant","content":[],"model":"m"}'),
        (ASKED[3], b'{"roots":[]}'),
    ],
)
def test_an_answer_reaches_a_legacy_server_as_it_was_given(asked: InputRequest, answer: bytes) -> None:
    retry = parse_retry(b'{"inputResponses":{"' + asked.key.encode() + b'":' + answer + b',"extra":1}}')

    assert retry is not None
    assert answer_to(asked, retry) == answer


def test_a_question_without_an_answer_has_to_be_asked_again() -> None:
    assert answer_to(ASKED[0], Retry({}, "s")) is None


@pytest.mark.parametrize(
    ("asked", "answer", "why"),
    [
        (ASKED[0], b"7", 'inputResponse "a" is not an object'),
        (ASKED[0], b"{}", 'inputResponse "a" has no action'),
        (ASKED[0], b'{"action":"maybe"}', "is none of accept, decline, cancel"),
        (ASKED[2], b'{"role":"assistant","content":[]}', "has no model"),
        (ASKED[3], b'{"action":"accept"}', "has no roots"),
    ],
)
def test_an_answer_that_is_none_is_the_clients_fault(asked: InputRequest, answer: bytes, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        answer_to(asked, Retry({asked.key: Raw(answer)}, None))


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("elicitation/create", b'{"action":"cancel"}'),
        ("sampling/createMessage", None),
        ("roots/list", None),
    ],
)
def test_a_client_that_fails_has_cancelled_what_can_be_cancelled(method: str, answer: bytes | None) -> None:
    assert answer_for_failure(method) == answer


@pytest.mark.parametrize("params", [None, b"{}", b'{"name":"t","arguments":{"requestState":"x"}}'])
def test_a_first_round_is_no_retry(params: bytes | None) -> None:
    assert parse_retry(params) is None


def test_a_retry_brings_answers_and_state() -> None:
    retry = parse_retry(b'{"name":"t","inputResponses":{"a":{ "action":"accept" }},"requestState":"s"}')

    assert retry == Retry({"a": Raw(b'{ "action":"accept" }')}, "s")


@pytest.mark.parametrize(
    ("params", "retry"),
    [(b'{"requestState":""}', Retry({}, "")), (b'{"inputResponses":{}}', Retry({}, None))],
)
def test_a_retry_may_bring_one_of_both(params: bytes, retry: Retry) -> None:
    assert parse_retry(params) == retry


@pytest.mark.parametrize(
    ("params", "why"),
    [
        (b'{"inputResponses":[]}', "inputResponses is not an object"),
        (b'{"inputResponses":null}', "inputResponses is not an object"),
        (b'{"requestState":7}', "requestState is not a string"),
        (b"[]", "params is not an object"),
    ],
)
def test_a_retry_that_cannot_be_read_says_why(params: bytes, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        parse_retry(params)


@pytest.mark.parametrize(
    ("responses", "state", "after"),
    [
        ({}, None, b'{"name":"t","arguments":{ "n":1.0 }}'),
        ({}, "new", b'{"name":"t","arguments":{ "n":1.0 },"requestState":"new"}'),
        (
            {"b": b'{ "roots":[] }'},
            "new",
            b'{"name":"t","arguments":{ "n":1.0 },"inputResponses":{"b":{ "roots":[] }},"requestState":"new"}',
        ),
    ],
)
def test_the_next_round_brings_our_answers_and_state_alone(
    responses: dict[str, bytes], state: str | None, after: bytes
) -> None:
    before = b'{"name":"t","inputResponses":{"a":{}},"arguments":{ "n":1.0 },"requestState":"old"}'

    assert retry_params(before, responses=responses, state=state) == after


@pytest.mark.parametrize(
    "same",
    [
        {"arguments": {"a": 1, "b": 2}, "name": "t"},
        {"name": "t", "arguments": {"b": 2, "a": 1}, "_meta": {"progressToken": 9}},
        {"name": "t", "arguments": {"a": 1, "b": 2}, "requestState": "s", "inputResponses": {"a": {}}},
    ],
)
def test_rounds_of_one_request_have_one_digest(same: object) -> None:
    first = sent({"name": "t", "arguments": {"a": 1, "b": 2}})

    assert round_digest("tools/call", sent(same)) == round_digest("tools/call", first)


@pytest.mark.parametrize(
    ("method", "other"),
    [
        ("prompts/get", {"name": "t", "arguments": {}}),
        ("tools/call", {"name": "u", "arguments": {}}),
        ("tools/call", {"name": "t", "arguments": {"a": 1}}),
        ("tools/call", {"name": "t"}),
    ],
)
def test_another_request_has_another_digest(method: str, other: object) -> None:
    assert round_digest(method, sent(other)) != round_digest(
        "tools/call", sent({"name": "t", "arguments": {}})
    )


def test_half_a_surrogate_pair_has_a_digest_too() -> None:
    half = b'{"arguments":{"x":"\\ud83d"}}'

    assert (
        round_digest("tools/call", half)
        == round_digest("tools/call", half)
        != round_digest("tools/call", None)
    )


def test_a_legacy_server_that_requires_visits_asks_for_them() -> None:
    error = sent(
        {
            "code": -32042,
            "message": "m",
            "data": {
                "elicitations": [
                    {"mode": "url", "elicitationId": "e1", "url": "https://x.test", "message": "Go"},
                    {"url": "https://y.test", "message": "Too"},
                ]
            },
        }
    )

    visits = url_elicitations(error)

    assert [(visit.key, visit.method) for visit in visits] == [
        ("e1", "elicitation/create"),
        ("url-1", "elicitation/create"),
    ]
    assert [read(visit.params) for visit in visits] == [
        {"mode": "url", "url": "https://x.test", "message": "Go"},
        {"mode": "url", "url": "https://y.test", "message": "Too"},
    ]


@pytest.mark.parametrize("code", [-32002, -32602, "-32042", None])
def test_another_error_requires_no_visit(code: object) -> None:
    assert url_elicitations(sent({"code": code, "message": "m"})) == ()


@pytest.mark.parametrize("data", [{}, {"elicitations": 1}])
def test_a_server_that_requires_visits_and_names_none_is_at_fault(data: object) -> None:
    with pytest.raises(RemoteProtocolError, match="names none"):
        url_elicitations(sent({"code": -32042, "message": "m", "data": data}))
