from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from support.fake_servers import fake_node, make_settings, run

from mcpv_node.actors.world import EVERYTHING, Selector, World
from mcpv_node.gateway.asgi import accepts, is_json
from mcpv_node.gateway.places import parse_mcp_path
from mcpv_node.gateway.visibility import resolve_selector
from mcpv_node.settings import NodeSettings, ProfileSettings, ServerName, ToolRules

PROFILES = (
    ProfileSettings(name="alphas", servers=(ServerName("alpha"),)),
    ProfileSettings(name="twos", tags=("two",)),
    ProfileSettings(name="few", tools=ToolRules(allow=("alpha_echo", "beta.slow"), deny=("slow",))),
)
SETTINGS: NodeSettings = make_settings(profiles=PROFILES)

ALPHA, BETA = Selector(server=ServerName("alpha")), Selector(server=ServerName("beta"))
ONE, TWO = Selector(tags=frozenset({"one"})), Selector(tags=frozenset({"two"}))
ALPHAS, TWOS, FEW = Selector(profile="alphas"), Selector(profile="twos"), Selector(profile="few")
SELECTORS = (EVERYTHING, ALPHA, BETA, ONE, TWO, ALPHAS, TWOS, FEW)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    async def main() -> World:
        async with fake_node(Path(tmp_path_factory.mktemp("state")), settings=SETTINGS) as node:
            return node.services.node.world.world

    found: World = run(main)
    return found


def shown(world: World, wanted: Selector, within: Selector = EVERYTHING) -> set[tuple[str, str]]:
    """What can be called, as (server, raw name)."""
    selector = resolve_selector(world, wanted, within=within)
    if selector is None:
        return set()
    view = world.view("tools", selector)
    assert {(entry.server, entry.raw_name) for entry in view.targets.values()} == {
        (entry.server, entry.raw_name) for entry in view.entries
    }
    return {(entry.server, entry.raw_name) for entry in view.entries}


@pytest.mark.parametrize(("wanted", "within"), list(product(SELECTORS, SELECTORS)))
def test_two_selectors_together_show_what_each_of_them_shows_and_no_more(
    world: World, wanted: Selector, within: Selector
) -> None:
    assert shown(world, wanted, within) == shown(world, wanted) & shown(world, within)


def test_each_selector_shows_its_part(world: World) -> None:
    assert {server for server, _ in shown(world, EVERYTHING)} == {"alpha", "beta"}
    assert {server for server, _ in shown(world, ALPHA)} == {"alpha"}
    assert {server for server, _ in shown(world, ALPHAS)} == {"alpha"}
    assert {server for server, _ in shown(world, TWO)} == {"beta"}
    assert {server for server, _ in shown(world, TWOS)} == {"beta"}
    assert shown(world, FEW) == {("alpha", "echo")}


@pytest.mark.parametrize("wanted", [Selector(server=ServerName("gamma")), Selector(profile="gamma")])
def test_what_is_unknown_resolves_to_nothing(world: World, wanted: Selector) -> None:
    assert resolve_selector(world, wanted) is None
    assert resolve_selector(world, EVERYTHING, within=wanted) is None


def test_a_view_that_rules_thin_out_is_made_once_for_each_world(world: World) -> None:
    selector = resolve_selector(world, FEW)
    assert selector is not None

    first, second = world.view("tools", selector), world.view("tools", selector)
    later = replace(world, _views={}).view("tools", selector)

    assert first is second
    assert first is not later
    assert first.etag == later.etag != world.view("tools", EVERYTHING).etag


@pytest.mark.parametrize(
    ("path", "selector"),
    [
        ("/mcp", EVERYTHING),
        ("/mcp/", EVERYTHING),
        ("/mcp/server/alpha", ALPHA),
        ("/mcp/server/alpha/", ALPHA),
        ("/mcp/profile/few", FEW),
        ("/mcp/tags/one", ONE),
        ("/mcp/tags/ONE,,two ", Selector(tags=frozenset({"one", "two"}))),
        ("/mcp/tags/,", None),
        ("/mcp/server", None),
        ("/mcp/server/a/b", None),
        ("/mcp/servers/a", None),
    ],
)
def test_a_path_selects_or_is_none_of_ours(path: str, selector: Selector | None) -> None:
    assert parse_mcp_path(path) == selector


@pytest.mark.parametrize(
    ("header", "wanted", "admitted"),
    [
        (None, "application/json", True),
        ("*/*", "application/json", True),
        ("application/*", "application/json", True),
        ("APPLICATION/JSON; q=0.5", "application/json", True),
        ("application/json;q=0", "application/json", False),
        ("application/json;q=0.0, */*", "application/json", False),
        ("text/event-stream", "application/json", False),
        ("application/jsonp", "application/json", False),
        ("", "application/json", False),
    ],
)
def test_accept_admits_a_type_or_not(header: str | None, wanted: str, admitted: bool) -> None:
    assert accepts(header, wanted) is admitted


@pytest.mark.parametrize(
    ("header", "json"),
    [
        ("application/json", True),
        ("Application/JSON;charset=utf-8", True),
        ("text/json", False),
        ("application/jsonx", False),
        (None, False),
    ],
)
def test_only_json_is_json(header: str | None, json: bool) -> None:
    assert is_json(header) is json
