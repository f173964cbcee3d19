"""Where a request for one thing goes."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest
from msgspec import Raw
from support.catalogs import learnt, merged, tool, view, world_of

from mcpv_node.actors.callers import EMPTY_PROFILE
from mcpv_node.actors.kernel import ActorSystem, Handle
from mcpv_node.actors.world import EVERYTHING, Selector, World
from mcpv_node.gateway.routing import NoRoute, Route, find_route
from mcpv_node.protocol import Listed, parse_call
from mcpv_node.settings import ServerName

ALPHA, BETA = view("alpha"), view("beta")
ALONE = Selector(server=ServerName("alpha"))


@pytest.fixture
def world() -> World:
    loop = asyncio.new_event_loop()
    try:
        nobody: Handle[Any] = Handle.create(ActorSystem(loop), "nobody")
    finally:
        loop.close()
    note = Listed("note://1", b'{"uri":"note://1","name":"n"}')
    page = Listed("page://{id}/x", b'{"uriTemplate":"page://{id}/x","name":"p"}', is_template=True)
    greeting = Listed("greeting", b'{"name":"greeting"}')
    return replace(
        world_of([ALPHA, BETA], nobody, merged([ALPHA, BETA], learnt("alpha", tool("t")))),
        resources=merged([ALPHA, BETA], learnt("alpha", note), learnt("beta", page), kind="resources"),
        prompts=merged([ALPHA, BETA], learnt("beta", greeting), kind="prompts"),
    )


def route(
    world: World, method: str, params: dict[str, Any], selector: Selector = EVERYTHING
) -> Route | NoRoute:
    call = parse_call(Raw(json.dumps(params).encode()), method)
    return find_route(world, selector, EMPTY_PROFILE, call)


def completion(kind: str, **ref: str) -> dict[str, Any]:
    return {"ref": {"type": f"ref/{kind}", **ref}, "argument": {"name": "a", "value": ""}}


@pytest.mark.parametrize(
    ("method", "params", "server", "own_name"),
    [
        ("tools/call", {"name": "alpha_t"}, "alpha", "t"),
        ("tools/call", {"name": "alpha.t"}, "alpha", "t"),
        ("prompts/get", {"name": "beta_greeting"}, "beta", "greeting"),
        ("resources/read", {"uri": "note://1"}, "alpha", None),
        ("resources/read", {"uri": "page://7/x"}, "beta", None),
        ("completion/complete", completion("prompt", name="beta_greeting"), "beta", "greeting"),
        ("completion/complete", completion("resource", uri="page://{id}/x"), "beta", None),
        ("completion/complete", completion("resource", uri="page://7/x"), "beta", None),
    ],
)
def test_what_is_named_is_found_and_is_asked_for_by_its_own_name(
    world: World, method: str, params: dict[str, Any], server: str, own_name: str | None
) -> None:
    found = route(world, method, params)

    assert isinstance(found, Route)
    assert found.server.view.name == server
    assert found.own_name == own_name


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("tools/call", {"name": "t"}, -32602),
        ("tools/call", {"name": "beta_t"}, -32602),
        ("prompts/get", {"name": "greeting"}, -32602),
        ("resources/read", {"uri": "note://2"}, -32002),
        ("resources/read", {"uri": "page://7/y"}, -32002),
        ("completion/complete", completion("prompt", name="nobody"), -32602),
        ("completion/complete", completion("resource", uri="none://{x}"), -32002),
    ],
)
def test_what_nobody_lists_is_refused_in_the_words_of_its_kind(
    world: World, method: str, params: dict[str, Any], code: int
) -> None:
    found = route(world, method, params)

    assert isinstance(found, NoRoute)
    assert found.code == code


def test_one_server_alone_knows_best_which_resources_it_has(world: World) -> None:
    found = route(world, "resources/read", {"uri": "unlisted://x"}, ALONE)

    assert isinstance(found, Route)
    assert (found.server.view.name, found.entry, found.own_name) == ("alpha", None, None)


def test_one_server_alone_is_asked_by_its_raw_names(world: World) -> None:
    found = route(world, "tools/call", {"name": "t"}, ALONE)

    assert isinstance(found, Route)
    assert found.own_name == "t"


def test_what_is_not_in_the_selection_is_not_found(world: World) -> None:
    assert isinstance(route(world, "prompts/get", {"name": "greeting"}, ALONE), NoRoute)


@pytest.mark.parametrize(
    ("method", "params", "is_safe"),
    [
        ("resources/read", {"uri": "note://1"}, True),
        ("prompts/get", {"name": "beta_greeting"}, True),
        ("completion/complete", completion("prompt", name="beta_greeting"), True),
        ("tools/call", {"name": "alpha_t"}, False),
    ],
)
def test_reading_may_be_repeated_and_a_tool_only_if_it_says_so(
    world: World, method: str, params: dict[str, Any], is_safe: bool
) -> None:
    found = route(world, method, params)

    assert isinstance(found, Route)
    assert found.is_safe_to_repeat is is_safe
