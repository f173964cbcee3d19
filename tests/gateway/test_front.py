"""One conversation without I/O: whatever comes in, a step comes out."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fake_servers import fake_node, run

from mcpv_node.actors.world import EVERYTHING
from mcpv_node.gateway import DoorServices, Front, make_caller
from mcpv_node.gateway.front import SILENT, AnswerStep, CallStep
from mcpv_node.protocol import ClientHello, EnvelopeError, parse_message


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> DoorServices:
    async def main() -> DoorServices:
        async with fake_node(tmp_path_factory.mktemp("state")) as node:
            return node.services

    found: DoorServices = run(main)
    return found


def open_front(services: DoorServices, load: Counter[str] | None = None) -> Front:
    front = Front(
        services,
        principal="p",
        selector=EVERYTHING,
        conversation="c",
        load=Counter() if load is None else load,
        notify=lambda _: None,
    )
    hello = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "n", "version": "1"}}
    assert isinstance(give(front, id=0, method="initialize", params=hello), AnswerStep)
    return front


def give(front: Front, **message: Any) -> Any:
    return front.receive(parse_message(json.dumps({"jsonrpc": "2.0", **message}).encode()))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
PARAMS = st.dictionaries(
    st.sampled_from(
        ["name", "arguments", "_meta", "cursor", "level", "requestId", "reason", "protocolVersion"]
    ),
    st.sampled_from(["alpha_echo", "beta.slow", "debug", {"progressToken": 1}, {"mcpv/key": 5}]) | JSON,
    max_size=5,
)
METHODS = st.sampled_from(
    [
        "initialize",
        "ping",
        "tools/list",
        "tools/call",
        "logging/setLevel",
        "notifications/initialized",
        "notifications/cancelled",
    ]
) | st.text(max_size=20)


@given(
    st.lists(
        st.fixed_dictionaries(
            {"method": METHODS},
            optional={"id": st.integers(0, 3) | st.text(max_size=2), "params": PARAMS | JSON},
        ),
        max_size=12,
    )
)
def test_any_message_has_a_step_and_only_requests_have_answers(
    services: DoorServices, messages: list[dict[str, Any]]
) -> None:
    load: Counter[str] = Counter()
    front = open_front(services, load)
    calls: list[CallStep] = []

    for message in messages:
        try:
            step = give(front, **message)
        except EnvelopeError:
            continue
        if isinstance(step, AnswerStep):
            assert json.loads(step.data)["id"] == message["id"]
        elif isinstance(step, CallStep):
            calls.append(step)
        else:
            assert "id" not in message

    assert front.in_flight == load["p"] == len(calls) == len({step.id for step in calls})
    for step in calls:
        front.forget(step)
        front.forget(step)
    assert (front.in_flight, dict(load)) == (0, {})


def test_answers_and_unknown_notifications_are_taken_in_silence(services: DoorServices) -> None:
    front = open_front(services)

    assert give(front, id=1, result={}) is SILENT
    assert give(front, id=1, error={"code": 1, "message": ""}) is SILENT
    assert give(front, method="notifications/no/such") is SILENT
    assert give(front, method="notifications/cancelled") is SILENT
    assert give(front, method="notifications/cancelled", params={"requestId": [1]}) is SILENT


def test_who_calls_is_named_by_its_key_its_conversation_or_itself() -> None:
    hello = ClientHello(version="2025-11-25", name="Claude", client_version="1")

    assert make_caller("p", hello, conversation="session:1").key == "session:1"
    assert make_caller("p", hello, conversation=None).key == "client:p:Claude"
    assert make_caller("p", None, conversation=None).client == "unnamed"
    mine, yours = (make_caller(who, hello, conversation="s", key="k").key for who in ("p", "q"))
    assert mine != yours
