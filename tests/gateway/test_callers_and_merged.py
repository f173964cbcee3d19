"""Who is calling, and what all servers are together."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from support.catalogs import key_of, view, world_of

from mcpv_node.actors.callers import Era
from mcpv_node.actors.kernel import ActorSystem, Handle
from mcpv_node.actors.world import EVERYTHING, Selector, World
from mcpv_node.gateway.callers import UNNAMED, make_caller, make_modern_caller
from mcpv_node.gateway.merged import INTRODUCTION, capabilities_for, instructions_for
from mcpv_node.protocol import ClientHello, RequestMeta, ServerHello, parse_capabilities
from mcpv_node.settings import ServerName

HELLO = ClientHello(
    version="2025-11-25",
    name="editor",
    client_version="2",
    capabilities=b'{"sampling":{},"roots":{"listChanged":true}}',
)
META = RequestMeta(
    version="2026-07-28",
    capabilities=b'{ "sampling" : {} }',
    profile='{"sampling":{}}',
    client_info=b'{"name":"editor"}',
)


# --- callers --------------------------------------------------------------------------------------


def test_a_legacy_client_is_routed_by_its_session_and_profiled_by_what_it_said() -> None:
    caller = make_caller("ada", HELLO, conversation="session:1")

    assert (caller.principal, caller.client, caller.key, caller.turn) == (
        "ada",
        "editor",
        "session:1",
        "session:1",
    )
    assert caller.era is Era.LEGACY
    assert caller.profile == '{"roots":{"listChanged":true},"sampling":{}}'
    assert json.loads(caller.info or b"") == {"name": "editor", "version": "2"}


def test_a_client_that_has_not_said_hello_offers_nothing() -> None:
    caller = make_caller("ada", None, conversation="session:1")

    assert (caller.client, caller.profile, caller.info) == (UNNAMED, "", None)


def test_a_key_of_ones_own_routes_and_is_nobody_elses() -> None:
    ada = make_caller("ada", HELLO, conversation="session:1", key="k")
    bob = make_caller("bob", HELLO, conversation="session:2", key="k")

    assert ada.key != bob.key
    assert ada.turn == "session:1"
    assert ada.key == make_caller("ada", HELLO, conversation="session:3", key="k").key


def test_a_modern_client_is_routed_by_who_it_is() -> None:
    one, same = make_modern_caller("ada", META), make_modern_caller("ada", META)
    other = make_modern_caller("bob", META)

    assert one == same
    assert one.key != other.key
    assert one.era is Era.MODERN
    assert one.profile == '{"sampling":{}}'
    assert one.info == b'{"name":"editor"}'


def test_a_key_in_the_message_wins_over_one_beside_it() -> None:
    inside = RequestMeta(version="2026-07-28", capabilities=b"{}", key="inside")

    assert (
        make_modern_caller("ada", inside, key="beside").key
        == make_modern_caller("ada", inside, key="inside").key
    )
    assert make_modern_caller("ada", META, key="beside").key.endswith("beside")


# --- merged ---------------------------------------------------------------------------------------


def world(**said: tuple[bytes, str | None] | None) -> World:
    """Servers by name; what each has said of itself, or None for one that is not learnt."""
    loop = asyncio.new_event_loop()
    try:
        nobody: Handle[Any] = Handle.create(ActorSystem(loop), "nobody")
    finally:
        loop.close()
    hellos = {
        key_of(name): ServerHello(
            version="2025-11-25",
            name=name,
            server_version="1",
            capabilities=parse_capabilities(of[0]),
            instructions=of[1],
        )
        for name, of in said.items()
        if of is not None
    }
    return replace(world_of([view(name) for name in said], nobody), hellos=MappingProxyType(hellos))


def test_all_are_offered_that_some_server_offers() -> None:
    both = world(a=(b'{"tools":{},"logging":{}}', None), b=(b'{"prompts":{}}', None))

    offered = json.loads(capabilities_for(both, EVERYTHING, "legacy"))

    assert offered == {"tools": {"listChanged": True}, "prompts": {"listChanged": True}, "logging": {}}


@pytest.mark.parametrize("known", [{}, {"a": (b'{"tools":{}}', None)}])
def test_what_is_not_learnt_yet_may_turn_out_to_offer_anything(known: dict[str, Any]) -> None:
    offered = json.loads(capabilities_for(world(**known, late=None), EVERYTHING, "legacy"))

    assert offered.keys() == {"tools", "resources", "prompts", "logging", "completions"}
    assert offered["resources"]["subscribe"] is True


def test_a_selection_offers_its_own_servers_alone() -> None:
    both = world(a=(b'{"tools":{},"x":{"y":1}}', None), b=(b'{"prompts":{}}', None))

    offered = json.loads(capabilities_for(both, Selector(server=ServerName("a")), "legacy"))

    assert offered == {"tools": {"listChanged": True}, "x": {"y": 1}}


def test_the_tasks_of_one_era_are_not_offered_in_the_other() -> None:
    one = world(a=(b'{"tasks":{"list":{}},"extensions":{"io.modelcontextprotocol/tasks":{}}}', None))

    assert "tasks" in json.loads(capabilities_for(one, EVERYTHING, "legacy"))
    assert "extensions" not in json.loads(capabilities_for(one, EVERYTHING, "legacy"))
    assert "tasks" not in json.loads(capabilities_for(one, EVERYTHING, "modern"))


def test_instructions_stand_under_the_servers_names_in_order() -> None:
    some = world(b=(b"{}", "use b"), a=(b"{}", "use a"), silent=(b"{}", None))

    assert instructions_for(some, EVERYTHING) == f"{INTRODUCTION}\n\n# a\n\nuse a\n\n# b\n\nuse b"
    assert instructions_for(some, Selector(server=ServerName("b"))) == "use b"
    assert instructions_for(some, Selector(server=ServerName("silent"))) is None
