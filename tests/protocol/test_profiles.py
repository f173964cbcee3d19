"""What clients offer, and what many servers offer together."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpv_node.protocol import (
    Era,
    RemoteProtocolError,
    capabilities_of,
    merge_capabilities,
    needed_capabilities,
    offers,
    offers_extension,
    profile_of,
)

TASKS = "io.modelcontextprotocol/tasks"


def raw(value: object) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    "nothing",
    [
        {},
        {"experimental": {}},
        {"extensions": {}},
        {"roots": None},
        {"sampling": False},
        {"experimental": None, "extensions": {}, "elicitation": None},
    ],
)
def test_a_client_that_offers_nothing_has_the_empty_profile(nothing: object) -> None:
    assert profile_of(raw(nothing)) == ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"roots": {}, "sampling": {}}, {"sampling": {}, "roots": {}}),
        ({"roots": {"listChanged": False}}, {"roots": {}}),
        ({"roots": {"listChanged": None}}, {"roots": {}}),
        ({"elicitation": {}}, {"elicitation": {"form": {}}}),
        ({"elicitation": {"url": {}, "form": {}}}, {"elicitation": {"form": {}, "url": {}}}),
        ({"elicitation": {"url": None}}, {"elicitation": {"form": {}}}),
        ({"sampling": {}, "experimental": {}}, {"sampling": {}}),
    ],
)
def test_spellings_of_one_profile_are_one_text(one: object, other: object) -> None:
    assert profile_of(raw(one)) == profile_of(raw(other)) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"roots": {}}, {"roots": {"listChanged": True}}),
        ({"elicitation": {"form": {}}}, {"elicitation": {"url": {}}}),
        ({"sampling": {}}, {"sampling": {"tools": {}}}),
        ({"vendor": {}}, {}),
        ({"experimental": {"x": {}}}, {}),
        ({"experimental": {"x": {"on": False}}}, {"experimental": {"x": {}}}),
        ({"extensions": {"a/b": {"v": 1}}}, {"extensions": {"a/b": {"v": 1.0}}}),
    ],
)
def test_what_is_not_the_same_is_not_one_profile(one: object, other: object) -> None:
    assert profile_of(raw(one)) != profile_of(raw(other))


@given(st.dictionaries(st.text(), st.dictionaries(st.text(), st.booleans() | st.integers() | st.none())))
def test_a_profile_is_its_own_profile(capabilities: dict[str, object]) -> None:
    profile = profile_of(msgspec.json.encode(capabilities))

    assert profile_of(capabilities_of(profile)) == profile


def test_a_server_is_told_an_object_for_every_profile() -> None:
    assert capabilities_of("") == b"{}"
    assert capabilities_of(profile_of(b'{"elicitation":{}}')) == b'{"elicitation":{"form":{}}}'


@pytest.mark.parametrize("wrong", [b"[]", b"null", b"{", b'"x"'])
def test_capabilities_that_are_no_object_are_refused(wrong: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="capabilities are not an object"):
        profile_of(wrong)


URL = {"mode": "url"}
FORM = {"mode": "form"}
USES_TOOLS = {"tools": []}


@pytest.mark.parametrize(
    ("capabilities", "method", "params", "offered"),
    [
        ({}, "sampling/createMessage", {}, False),
        ({"sampling": None}, "sampling/createMessage", {}, False),
        ({"sampling": {}}, "sampling/createMessage", None, True),
        ({"sampling": {}}, "sampling/createMessage", {"tools": None}, True),
        ({"sampling": {}}, "sampling/createMessage", USES_TOOLS, False),
        ({"sampling": {}}, "sampling/createMessage", {"toolChoice": {}}, False),
        ({"sampling": {"tools": {}}}, "sampling/createMessage", USES_TOOLS, True),
        ({"sampling": True}, "sampling/createMessage", USES_TOOLS, False),
        ({}, "elicitation/create", FORM, False),
        ({"elicitation": {}}, "elicitation/create", None, True),
        ({"elicitation": {}}, "elicitation/create", {}, True),
        ({"elicitation": {}}, "elicitation/create", FORM, True),
        ({"elicitation": {}}, "elicitation/create", URL, False),
        ({"elicitation": {"form": {}}}, "elicitation/create", {}, True),
        ({"elicitation": {"form": {}}}, "elicitation/create", URL, False),
        ({"elicitation": {"url": {}}}, "elicitation/create", URL, True),
        ({"elicitation": {"url": {}}}, "elicitation/create", FORM, False),
        ({"elicitation": {"url": {}}}, "elicitation/create", {}, False),
        ({"elicitation": {"url": {}, "form": {}}}, "elicitation/create", FORM, True),
        ({"elicitation": True}, "elicitation/create", FORM, True),
        ({"elicitation": {}}, "elicitation/create", {"mode": "dance"}, False),
        ({}, "roots/list", None, False),
        ({"roots": {}}, "roots/list", None, True),
        ({"roots": False}, "roots/list", None, False),
        ({}, "tasks/get", {}, False),
        ({"tasks": {}}, "tasks/get", {}, True),
        ({}, "ping", None, True),
        ({}, "vendor/ask", {}, True),
    ],
)
def test_a_client_is_asked_only_what_it_offers(
    capabilities: object, method: str, params: object, *, offered: bool
) -> None:
    assert offers(raw(capabilities), method, None if params is None else raw(params)) == offered


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("sampling/createMessage", {}),
        ("sampling/createMessage", USES_TOOLS),
        ("elicitation/create", FORM),
        ("elicitation/create", {}),
        ("elicitation/create", URL),
        ("roots/list", None),
        ("tasks/list", None),
        ("ping", None),
    ],
)
def test_who_offers_what_is_needed_can_be_asked(method: str, params: object) -> None:
    sent = None if params is None else raw(params)

    assert offers(needed_capabilities(method, sent), method, sent)


@pytest.mark.parametrize(
    ("capabilities", "offered"),
    [
        ({}, False),
        ({"extensions": {}}, False),
        ({"extensions": {TASKS: None}}, False),
        ({"extensions": {TASKS: {}}}, True),
        ({"extensions": []}, False),
    ],
)
def test_an_extension_is_offered_by_its_name(capabilities: object, *, offered: bool) -> None:
    assert offers_extension(raw(capabilities), TASKS) == offered


def merged(*servers: object, era: Era = "legacy") -> object:
    return json.loads(merge_capabilities([raw(server) for server in servers], era=era))


@pytest.mark.parametrize("era", ["legacy", "modern"])
@pytest.mark.parametrize(
    ("servers", "together"),
    [
        ([], {}),
        ([{}, {}], {}),
        ([{"tools": {}}, {}], {"tools": {"listChanged": True}}),
        (
            [{"tools": {"listChanged": False}}, {"prompts": {}}],
            {"tools": {"listChanged": True}, "prompts": {"listChanged": True}},
        ),
        ([{"resources": {}}, {"resources": {"subscribe": False}}], {"resources": {"listChanged": True}}),
        (
            [{"resources": {}}, {"resources": {"subscribe": True}}],
            {"resources": {"listChanged": True, "subscribe": True}},
        ),
        ([{"logging": {}}, {"completions": {}}], {"logging": {}, "completions": {}}),
        ([{"tools": None, "logging": None}], {}),
        ([{"vendor": {"x": 1}}], {"vendor": {"x": 1}}),
        ([{"vendor": None}], {}),
        ([{"vendor": {"x": 1}}, {}], {}),
        ([{"tools": {"vendor": 1}}], {"tools": {"vendor": 1, "listChanged": True}}),
        ([{"tools": {"vendor": 1}}, {"tools": {}}], {"tools": {"listChanged": True}}),
        (
            [{"experimental": {"a": {"v": 1}}}, {"experimental": {"a": {"v": 2}, "b": {}}}],
            {"experimental": {"a": {"v": 1}, "b": {}}},
        ),
        ([{"extensions": {"x/y": {}}}, {}], {"extensions": {"x/y": {}}}),
        ([{"extensions": True, "experimental": {}}, {}], {}),
    ],
)
def test_servers_together_offer_what_one_of_them_offers(
    servers: list[object], together: object, era: Era
) -> None:
    assert merged(*servers, era=era) == together


@pytest.mark.parametrize(
    ("era", "together"),
    [("legacy", {"tasks": {"requests": {"tools": {"call": {}}}, "cancel": {}}}), ("modern", {})],
)
def test_the_tasks_of_the_legacy_era_are_offered_there(era: Era, together: object) -> None:
    one = {"tasks": {"list": {}, "requests": {"tools": {}}}}
    other = {"tasks": {"cancel": {}, "requests": {"tools": {"call": {}}}}}

    assert merged(one, other, era=era) == together


@pytest.mark.parametrize(("era", "together"), [("legacy", {}), ("modern", {"extensions": {TASKS: {}}})])
def test_the_tasks_extension_is_offered_in_the_modern_era(era: Era, together: object) -> None:
    assert merged({"extensions": {TASKS: {}}}, {}, era=era) == together


def test_settings_of_extensions_stay_their_servers_bytes() -> None:
    servers = [b'{"extensions":{"a/b":{ "n": 123456789012345678901234567890, "f":1.0}}}', b"{}"]

    assert b'{ "n": 123456789012345678901234567890, "f":1.0}' in merge_capabilities(servers, era="modern")
