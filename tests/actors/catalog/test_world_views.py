"""What each selector sees of the world, and which names it may call."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from support.catalogs import learnt, merged, servers_of, tool, view, world_of

from mcpv_node.actors.kernel import ActorSystem, Handle
from mcpv_node.actors.world import EVERYTHING, Selector, World, WorldCell
from mcpv_node.settings import ServerName

VIEWS = [view("plain"), view("red", "red"), view("blue", "blue"), view("both", "red", "blue")]


@pytest.fixture
def nobody() -> Handle[Any]:
    """A handle that nobody is behind: a view only carries it."""
    loop = asyncio.new_event_loop()
    try:
        return Handle.create(ActorSystem(loop), "nobody")
    finally:
        loop.close()


@pytest.fixture
def world(nobody: Handle[Any]) -> World:
    lists = [learnt(one.name, tool("x"), tool("a.b")) for one in VIEWS]
    return world_of(VIEWS, nobody, merged(VIEWS, *lists))


def seen(world: World, selector: Selector) -> set[str]:
    return {entry.server for entry in world.view("tools", selector).entries}


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"red"}, {"plain", "red", "both"}),
        ({"blue"}, {"plain", "blue", "both"}),
        ({"red", "blue"}, {"plain", "red", "blue", "both"}),
        ({"green"}, {"plain"}),
        (set[str](), {"plain", "red", "blue", "both"}),
    ],
)
def test_tags_show_servers_that_share_one_and_those_without(
    world: World, tags: set[str], expected: set[str]
) -> None:
    assert seen(world, Selector(tags=frozenset(tags))) == expected


def test_no_selector_sees_everything_under_prefixed_names(world: World) -> None:
    whole = world.view("tools", EVERYTHING)

    assert len(whole.entries) == 8
    assert not whole.raw_names
    assert whole.targets["red_x"].server == "red"


def test_a_call_may_also_use_server_dot_tool_in_the_servers_own_spelling(world: World) -> None:
    targets = world.view("tools", EVERYTHING).targets

    assert targets["red.x"] is targets["red_x"]
    assert targets["red.a.b"] is targets["red_a_b"]


def test_a_hidden_server_cannot_be_called_by_any_name(world: World) -> None:
    targets = world.view("tools", Selector(tags=frozenset({"red"}))).targets

    assert not {"blue_x", "blue.x", "x"} & set(targets)


def test_one_server_alone_keeps_its_raw_names(world: World) -> None:
    alone = world.view("tools", Selector(server=ServerName("red")))

    assert list(alone.targets) == ["a.b", "x"]
    page = alone.page("tools").opened
    assert [one["name"] for one in json.loads(page + b"}")["tools"]] == ["a.b", "x"]


def test_the_etag_of_a_view_follows_only_what_it_shows(nobody: Handle[Any]) -> None:
    before = world_of(VIEWS, nobody, merged(VIEWS, *(learnt(one.name, tool("x")) for one in VIEWS)))
    changed = [learnt(one.name, tool("x", "new" if one.name == "blue" else "")) for one in VIEWS]
    after = world_of(VIEWS, nobody, merged(VIEWS, *changed))
    red, blue = Selector(tags=frozenset({"red"})), Selector(server=ServerName("blue"))

    assert (
        before.view("tools", Selector(server=ServerName("red"))).etag
        == after.view("tools", Selector(server=ServerName("red"))).etag
    )
    assert before.view("tools", blue).etag != after.view("tools", blue).etag
    assert before.view("tools", EVERYTHING).etag != after.view("tools", EVERYTHING).etag
    assert seen(before, red) == {"plain", "red", "both"}


def test_pages_follow_each_other_by_their_cursors_and_end(nobody: Handle[Any]) -> None:
    alpha = view("alpha")
    tools = merged([alpha], learnt("alpha", *(tool(f"t{number:02}") for number in range(25))))
    whole = world_of([alpha], nobody, tools, page_size=10).view("tools", EVERYTHING)

    pages = [whole.page("tools")]
    while pages[-1].last is not None:
        pages.append(whole.page("tools", pages[-1].last))

    shown = [[one["name"] for one in json.loads(page.opened + b"}")["tools"]] for page in pages]
    assert [len(page) for page in shown] == [10, 10, 5]
    assert [name for page in shown for name in page] == [entry.name for entry in tools.entries]


def test_a_last_page_that_is_exactly_full_promises_no_further_one(nobody: Handle[Any]) -> None:
    alpha = view("alpha")
    tools = merged([alpha], learnt("alpha", *(tool(f"t{number}") for number in range(4))))
    whole = world_of([alpha], nobody, tools, page_size=2).view("tools", EVERYTHING)

    assert whole.page("tools").last == "alpha_t1"
    assert whole.page("tools", "alpha_t1").last is None


def test_a_page_goes_on_behind_a_name_that_is_gone(nobody: Handle[Any]) -> None:
    alpha = view("alpha")
    tools = merged([alpha], learnt("alpha", *(tool(f"t{number}") for number in (0, 2, 3))))
    whole = world_of([alpha], nobody, tools, page_size=2).view("tools", EVERYTHING)

    following = whole.page("tools", "alpha_t1")

    assert [one["name"] for one in json.loads(following.opened + b"}")["tools"]] == ["alpha_t2", "alpha_t3"]


def test_an_empty_view_has_one_empty_page(nobody: Handle[Any]) -> None:
    whole = world_of([], nobody).view("tools", EVERYTHING)

    assert (whole.page("tools").opened, whole.page("tools").last) == (b'{"tools":[]', None)


def test_a_view_is_made_once_in_each_world(world: World) -> None:
    cell = WorldCell(world)
    first = cell.world.view("tools", EVERYTHING)
    assert cell.world.view("tools", Selector()) is first

    cell.publish(merged(VIEWS, learnt("red", tool("y"))))

    assert cell.world.view("tools", EVERYTHING) is not first
    assert world.view("tools", EVERYTHING) is first, "who read the old world goes on with it"


def test_every_assignment_is_a_revision_and_keeps_the_other_half(world: World, nobody: Handle[Any]) -> None:
    cell = WorldCell(world)

    cell.publish_servers(servers_of(VIEWS[:1], nobody))

    assert cell.world.revision == world.revision + 1
    assert cell.world.tools is world.tools
    assert seen(cell.world, EVERYTHING) == {"plain"}


def test_the_names_of_the_whole_node_are_those_of_its_parts_also_with_dots_in_them(
    nobody: Handle[Any],
) -> None:
    views = [view("a"), view("a.b")]
    tools = merged(views, learnt("a", tool("b.c"), tool("x")), learnt("a.b", tool("c"), tool("d.e")))
    targets = world_of(views, nobody, tools).view("tools", EVERYTHING).targets

    assert set(targets) == {
        *(entry.name for entry in tools.entries),
        *(f"{entry.server}.{entry.raw_name}" for entry in tools.entries),
    }
    assert len(targets) == len(set(targets))
    assert all(targets[name].name in tools.by_name for name in targets)
    assert (targets["a.x"].raw_name, targets["a.b.d.e"].server) == ("x", "a.b")
    assert targets.get("a.y") is None
    assert "b.c" not in targets


def test_a_view_lives_on_when_nothing_that_it_shows_was_replaced(world: World) -> None:
    cell = WorldCell(world)
    before = cell.world.view("tools", EVERYTHING)

    cell.publish(
        merged(VIEWS, *(learnt(one.name, tool("x"), tool("a.b")) for one in VIEWS), previous=world.tools)
    )
    assert cell.world.view("tools", EVERYTHING) is before

    cell.publish(merged(VIEWS, previous=world.prompts, kind="prompts"))
    assert cell.world.view("tools", EVERYTHING) is before

    cell.publish(merged(VIEWS, learnt("red", tool("y")), previous=cell.world.tools))
    assert cell.world.view("tools", EVERYTHING) is not before
