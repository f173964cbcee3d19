"""How a legacy conversation opens."""

from __future__ import annotations

import json

import pytest

from mcpv_node.protocol import (
    LATEST_LEGACY,
    LEGACY,
    MODERN,
    Capabilities,
    ClientHello,
    RemoteProtocolError,
    ServerHello,
    build_initialize,
    initialize_result,
    negotiate,
    parse_initialize,
    parse_initialize_result,
)


@pytest.mark.parametrize("version", LEGACY)
def test_a_version_we_speak_is_agreed_to(version: str) -> None:
    assert negotiate(version) == version


@pytest.mark.parametrize("version", ["", "2024-01-01", "2099-01-01", *MODERN])
def test_any_other_version_is_answered_with_our_newest(version: str) -> None:
    assert negotiate(version) == LATEST_LEGACY == "2025-11-25"


def test_what_a_client_sends_a_server_reads() -> None:
    params = build_initialize("2025-06-18", "node", "1.2", b'{"roots":{"listChanged":true}, "x":1.0}')

    assert parse_initialize(params) == ClientHello(
        version="2025-06-18",
        name="node",
        client_version="1.2",
        capabilities=b'{"roots":{"listChanged":true}, "x":1.0}',
    )


def test_what_a_server_answers_a_client_reads() -> None:
    capabilities = (
        b'{"tools":{"listChanged":true},"resources":{"subscribe":true},"prompts":null,"logging":{}}'
    )

    result = initialize_result(
        "2025-03-26", name="fs", server_version="2", capabilities=capabilities, instructions="Read me."
    )

    assert parse_initialize_result(result) == ServerHello(
        version="2025-03-26",
        name="fs",
        server_version="2",
        capabilities=Capabilities(
            tools=True,
            tools_list_changed=True,
            resources=True,
            resources_subscribe=True,
            logging=True,
            raw=capabilities,
        ),
        instructions="Read me.",
    )


def test_every_capability_is_told_apart() -> None:
    capabilities = {
        "tools": {},
        "resources": {"listChanged": True},
        "prompts": {"listChanged": True},
        "completions": {},
        "tasks": {},
    }
    raw = json.dumps(capabilities).encode()

    hello = parse_initialize_result(
        initialize_result("2025-11-25", name="s", server_version="", capabilities=raw)
    )

    assert hello.instructions is None
    assert hello.capabilities == Capabilities(
        tools=True,
        resources=True,
        resources_list_changed=True,
        prompts=True,
        prompts_list_changed=True,
        completions=True,
        tasks=True,
        raw=raw,
    )


GOOD: dict[str, object] = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "serverInfo": {"name": "s", "version": "1"},
}


def without(key: str) -> dict[str, object]:
    return {name: value for name, value in GOOD.items() if name != key}


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ([], "the server's answer to initialize is not an object"),
        (without("protocolVersion"), "protocolVersion is missing"),
        (GOOD | {"protocolVersion": 7}, "protocolVersion is not a string"),
        (GOOD | {"protocolVersion": "2020-01-01"}, 'wants protocolVersion "2020-01-01"; we speak 2025-11-25'),
        (without("capabilities"), "has no capabilities"),
        (GOOD | {"capabilities": []}, "capabilities is not an object"),
        (GOOD | {"capabilities": {"tools": True}}, "capabilities.tools is not an object"),
        (without("serverInfo"), "has no serverInfo"),
        (GOOD | {"serverInfo": "s"}, "serverInfo is not an object"),
        (GOOD | {"serverInfo": {"version": "1"}}, "serverInfo.name is missing"),
        (GOOD | {"serverInfo": {"name": None}}, "serverInfo.name is not a string"),
        (GOOD | {"serverInfo": {"name": "s", "version": 1}}, "serverInfo.version is not a string"),
        (GOOD | {"instructions": []}, "instructions is not a string"),
    ],
)
def test_a_server_that_opens_wrongly_is_told_what_is_wrong(result: object, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why.replace(".", r"\.")):
        parse_initialize_result(json.dumps(result).encode())


def test_a_server_need_not_say_its_version_or_instructions() -> None:
    hello = parse_initialize_result(
        json.dumps(GOOD | {"serverInfo": {"name": "s"}, "instructions": None}).encode()
    )

    assert hello.server_version == ""
    assert hello.instructions is None


@pytest.mark.parametrize(
    ("params", "why"),
    [
        (None, "no params"),
        (b"[]", "params of initialize is not an object|are not|is not an object"),
        (b"{}", "protocolVersion is missing"),
        (b'{"protocolVersion":1}', "protocolVersion is not a string"),
        (b'{"protocolVersion":"x","clientInfo":[]}', "clientInfo is not an object"),
        (b'{"protocolVersion":"x","clientInfo":{"name":1}}', r"clientInfo\.name is not a string"),
        (b'{"protocolVersion":"x","capabilities":null}', "capabilities is not an object"),
    ],
)
def test_a_client_that_opens_wrongly_is_told_what_is_wrong(params: bytes | None, why: str) -> None:
    with pytest.raises(RemoteProtocolError, match=why):
        parse_initialize(params)


def test_a_client_need_not_say_who_it_is() -> None:
    assert parse_initialize(b'{"protocolVersion":"x"}') == ClientHello(
        version="x", name="", client_version=""
    )
