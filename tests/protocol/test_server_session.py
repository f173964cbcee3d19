"""A whole server without its pipe."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from mcpv_node.protocol import ServerSession, Tool, typed


class Words(msgspec.Struct, forbid_unknown_fields=True):
    text: str


def say(words: Words) -> str:
    if words.text == "forbidden":
        raise ValueError("that is not said here")
    if words.text == "disk":
        raise OSError(28, "No space left on device")
    if words.text == "defect":
        raise RuntimeError("a defect")
    return words.text


def session() -> ServerSession:
    tools = {
        "say": Tool(
            description="Says it.",
            properties={"text": {"type": "string"}},
            required=("text",),
            handler=typed(Words, say),
        ),
        "count": Tool(description="Counts.", properties={}, handler=lambda _: {"count": 3}, read_only=True),
    }
    return ServerSession(name="parrot", version="1", tools=tools, instructions="Be kind.")


def ask(
    server: ServerSession, method: str, params: dict[str, object] | None = None, *, id: object = 1
) -> Any:
    message = {"jsonrpc": "2.0", "id": id, "method": method}
    [line] = server.receive(json.dumps(message | ({} if params is None else {"params": params})).encode())
    answer = json.loads(line)
    assert answer["id"] == id
    return answer


def opened() -> ServerSession:
    server = session()
    ask(
        server,
        "initialize",
        {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "c"}},
    )
    assert server.receive(b'{"jsonrpc":"2.0","method":"notifications/initialized"}') == []
    return server


@pytest.mark.parametrize(
    ("requested", "agreed"),
    [("2025-06-18", "2025-06-18"), ("2024-11-05", "2024-11-05"), ("2099-01-01", "2025-11-25")],
)
def test_a_session_opens_in_a_version_both_speak(requested: str, agreed: str) -> None:
    answer = ask(session(), "initialize", {"protocolVersion": requested})

    assert answer["result"] == {
        "protocolVersion": agreed,
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "parrot", "version": "1"},
        "instructions": "Be kind.",
    }


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize(
    ("method", "outcome_new", "outcome_open"),
    [
        ("initialize", "result", -32600),
        ("ping", "result", "result"),
        ("tools/list", -32600, "result"),
        ("tools/call", -32600, "result"),
        ("resources/list", -32601, -32601),
        ("server/discover", -32601, -32601),
    ],
)
def test_every_request_in_every_state(
    is_open: bool, method: str, outcome_new: str | int, outcome_open: str | int
) -> None:
    server = opened() if is_open else session()

    answer = ask(server, method, {"protocolVersion": "2025-11-25", "name": "count"}, id="x")

    expected = outcome_open if is_open else outcome_new
    assert ("result" if "result" in answer else answer["error"]["code"]) == expected


def test_a_refusal_names_request_and_state() -> None:
    assert "tools/list" in ask(session(), "tools/list")["error"]["message"]
    assert "new" in ask(session(), "tools/list")["error"]["message"]
    assert "open" in ask(opened(), "initialize", {"protocolVersion": "2025-11-25"})["error"]["message"]


def test_a_client_that_opens_wrongly_may_try_again() -> None:
    server = session()

    assert ask(server, "initialize", {})["error"]["code"] == -32602
    assert "result" in ask(server, "initialize", {"protocolVersion": "2025-11-25"})


def test_tools_are_listed_with_schema_and_hints() -> None:
    [say_tool, count_tool] = ask(opened(), "tools/list")["result"]["tools"]

    assert say_tool["name"] == "say"
    assert say_tool["inputSchema"] == {
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
        "additionalProperties": False,
    }
    assert say_tool["annotations"]["readOnlyHint"] is False
    assert count_tool["annotations"]["readOnlyHint"] is True
    assert "required" not in count_tool["inputSchema"]


def test_a_text_is_answered_as_text() -> None:
    result = ask(opened(), "tools/call", {"name": "say", "arguments": {"text": "hé\n"}})["result"]

    assert result == {"content": [{"type": "text", "text": "hé\n"}]}


def test_an_object_is_answered_structured_and_as_text() -> None:
    result = ask(opened(), "tools/call", {"name": "count"})["result"]

    assert result["structuredContent"] == {"count": 3}
    assert json.loads(result["content"][0]["text"]) == {"count": 3}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"text": "forbidden"}, "that is not said here"),
        ({"text": "disk"}, "No space left on device"),
        ({"text": 7}, "Expected `str`, got `int`"),
        ({}, "missing required field `text`"),
        ({"text": "a", "more": 1}, "unknown field `more`"),
        ([], "Expected `object`"),
    ],
)
def test_what_a_tool_refuses_is_a_result_the_model_can_read(arguments: object, text: str) -> None:
    result = ask(opened(), "tools/call", {"name": "say", "arguments": arguments})["result"]

    assert result["isError"] is True
    assert text in result["content"][0]["text"]


def test_an_unknown_tool_is_named() -> None:
    error = ask(opened(), "tools/call", {"name": "sing"})["error"]

    assert error["code"] == -32602
    assert '"sing"' in error["message"]


def test_a_call_without_a_name_is_refused() -> None:
    assert ask(opened(), "tools/call", {})["error"]["code"] == -32602
    assert ask(opened(), "tools/call")["error"]["code"] == -32602


def test_a_defect_is_not_dressed_up_as_an_answer() -> None:
    server = opened()

    with pytest.raises(RuntimeError, match="a defect"):
        ask(server, "tools/call", {"name": "say", "arguments": {"text": "defect"}})


def test_noise_is_answered_with_what_is_wrong_with_it() -> None:
    [line] = opened().receive(b"hello")

    answer = json.loads(line)
    assert answer["id"] is None
    assert answer["error"]["code"] == -32700


@pytest.mark.parametrize(
    "line",
    [
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}',
        b'{"jsonrpc":"2.0","id":1,"result":{}}',
        b'{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}',
    ],
)
def test_what_wants_no_answer_gets_none(line: bytes) -> None:
    assert opened().receive(line) == []
