"""Merging what servers listed: names, conflicts, the ETag, the version."""

from __future__ import annotations

import json
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.catalogs import key_of, learnt, merged, tool, view

from mcpv_node.actors.snapshot import Learnt, Source, empty_snapshot
from mcpv_node.protocol import Listed
from mcpv_node.settings import ServerName

ALPHA, BETA = view("alpha"), view("beta")


def test_tools_are_listed_by_server_and_name_in_a_fixed_order() -> None:
    snapshot = merged([BETA, ALPHA], learnt("alpha", tool("z"), tool("a")), learnt("beta", tool("m")))

    assert [entry.name for entry in snapshot.entries] == ["alpha_a", "alpha_z", "beta_m"]
    assert snapshot.by_name["alpha_z"].raw_name == "z"
    assert set(snapshot.by_server[ALPHA.name]) == {"a", "z"}


def test_a_definition_is_the_servers_own_but_for_its_name() -> None:
    [entry] = merged([ALPHA], learnt("alpha", tool("echo", "x  y"))).entries

    assert entry.raw_definition == tool("echo", "x  y").definition
    renamed = json.loads(entry.definition)
    assert (renamed.pop("name"), entry.name) == ("alpha_echo", "alpha_echo")
    assert renamed == {key: value for key, value in json.loads(entry.raw_definition).items() if key != "name"}


@pytest.mark.parametrize(
    ("raw", "listed"),
    [("a.b", "alpha_a_b"), ("a b/c", "alpha_a_b_c"), ("ß", "alpha__"), ("ok-1", "alpha_ok-1")],
)
def test_characters_that_clients_refuse_are_replaced(raw: str, listed: str) -> None:
    [entry] = merged([ALPHA], learnt("alpha", Listed(raw, tool("x").definition))).entries

    assert (entry.name, entry.raw_name) == (listed, raw)


def test_a_long_name_is_cut_and_stays_its_own() -> None:
    long = ["x" * 100, "x" * 101]

    names = [entry.name for entry in merged([ALPHA], learnt("alpha", *map(tool, long))).entries]

    assert len(set(names)) == 2
    assert all(re.fullmatch(r"alpha_x{51}_[0-9a-f]{6}", name) for name in names)


def test_of_two_tools_that_want_one_name_the_later_server_gives_way_and_it_is_reported() -> None:
    snapshot = merged([view("a"), view("a_b")], learnt("a", tool("b_c")), learnt("a_b", tool("c")))

    [conflict] = snapshot.conflicts
    assert (conflict.wanted, conflict.server, conflict.raw_name) == ("a_b_c", "a_b", "c")
    assert snapshot.by_name["a_b_c"].server == "a"
    assert snapshot.by_name[conflict.given].server == "a_b"


def test_flat_names_have_no_prefix_and_a_separator_is_as_configured() -> None:
    flat = merged([ALPHA, BETA], learnt("alpha", tool("x")), learnt("beta", tool("x")), namespace="flat")
    dashed = merged([ALPHA], learnt("alpha", tool("x")), separator="-")

    assert flat.by_name["x"].server == "alpha"
    assert len(flat.conflicts) == 1
    assert [entry.name for entry in dashed.entries] == ["alpha-x"]


@pytest.mark.parametrize(
    "order", [("alpha", "beta", "gamma"), ("gamma", "beta", "alpha"), ("beta", "gamma", "alpha")]
)
def test_flat_names_do_not_depend_on_who_started_first(order: tuple[str, ...]) -> None:
    snapshot = empty_snapshot("tools")
    known: list[Learnt] = []
    for name in order:
        known.append(learnt(name, tool("x")))
        snapshot = merged([view(one) for one in order], *known, previous=snapshot, namespace="flat")

    assert snapshot.by_name["x"].server == "alpha"
    names = {entry.server: entry.name for entry in snapshot.entries}
    assert all(re.fullmatch(r"x_[0-9a-f]{6}", names[ServerName(name)]) for name in ("beta", "gamma"))
    assert len(set(names.values())) == 3


def test_only_exposed_tools_are_listed() -> None:
    snapshot = merged([view("alpha", exposes=["x"])], learnt("alpha", tool("x"), tool("y")))

    assert [entry.raw_name for entry in snapshot.entries] == ["x"]


def test_two_entries_of_one_spec_key_are_two_views_of_one_list() -> None:
    twin = view("twin", key=key_of("alpha"))

    snapshot = merged([ALPHA, twin], learnt("alpha", tool("x")))

    assert [entry.name for entry in snapshot.entries] == ["alpha_x", "twin_x"]
    assert {entry.spec_key for entry in snapshot.entries} == {key_of("alpha")}


def test_a_catalog_is_complete_once_every_server_was_learnt() -> None:
    assert not merged([ALPHA, BETA], learnt("alpha", tool("x"))).complete
    assert merged([ALPHA, BETA], learnt("alpha", tool("x")), learnt("beta")).complete


def test_what_a_server_says_of_repeating_is_kept() -> None:
    snapshot = merged([ALPHA], learnt("alpha", tool("look", read_only=True), tool("write")))

    assert {entry.raw_name: entry.safe_to_repeat for entry in snapshot.entries} == {
        "look": True,
        "write": False,
    }


# --- etag and version ---------------------------------------------------------------------------


def test_equal_lists_have_equal_etags_in_whatever_order_servers_come() -> None:
    first = merged([ALPHA, BETA], learnt("alpha", tool("x")), learnt("beta", tool("y")))
    second = merged([BETA, ALPHA], learnt("beta", tool("y")), learnt("alpha", tool("x")), previous=first)

    assert (second.etag, second.version) == (first.etag, first.version)


def test_where_a_list_was_learnt_and_whether_it_is_stale_do_not_change_the_etag() -> None:
    first = merged([ALPHA], learnt("alpha", tool("x"), source=Source.CACHE))
    second = merged([ALPHA], learnt("alpha", tool("x"), stale=True), previous=first)

    assert (second.etag, second.version) == (first.etag, first.version)
    assert (second.entries[0].stale, second.entries[0].source) == (True, Source.LIVE)


@pytest.mark.parametrize(
    "changed",
    [
        [tool("x", "new words")],
        [tool("x"), tool("y")],
        [],
        [tool("z")],
    ],
)
def test_every_change_of_the_entries_is_one_version_more(changed: list[Listed]) -> None:
    first = merged([ALPHA], learnt("alpha", tool("x")))

    second = merged([ALPHA], learnt("alpha", *changed), previous=first)

    assert second.etag != first.etag
    assert second.version == first.version + 1


def test_a_target_changes_without_the_etag_when_another_server_offers_the_same() -> None:
    other = view("alpha", key=key_of("other"))
    first = merged([ALPHA], learnt("alpha", tool("x")))

    second = merged([other], learnt("other", tool("x")), previous=first)

    assert (second.etag, second.version) == (first.etag, first.version)
    assert second.by_name["alpha_x"].spec_key == key_of("other")


def test_the_first_snapshot_is_version_one_even_if_it_is_empty() -> None:
    assert merged([], previous=empty_snapshot("tools")).version == 1


# --- any order ----------------------------------------------------------------------------------

SERVERS = ("a", "a_b", "b", "c")
TOOLS = st.lists(st.sampled_from(["x", "b_x", "x.y", "x" * 70, "y"]), unique=True, max_size=4)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("learnt"), st.sampled_from(SERVERS), TOOLS, st.sampled_from(["", "changed"])),
        st.tuples(st.just("failed"), st.sampled_from(SERVERS), st.just([]), st.just("")),
        st.tuples(
            st.just("servers"), st.just(""), st.lists(st.sampled_from(SERVERS), unique=True), st.just("")
        ),
    ),
    max_size=12,
)


@given(STEPS, st.randoms(use_true_random=False))
def test_whatever_led_to_it_a_snapshot_is_what_a_fresh_rebuild_gives(
    steps: list[tuple[str, str, list[str], str]], chance: random.Random
) -> None:
    known: dict[str, Learnt] = {}
    views = [view(name) for name in SERVERS]
    snapshot = empty_snapshot("tools")
    for kind, server, names, note in steps:
        if kind == "learnt":
            known[server] = learnt(server, *(tool(name, note) for name in names))
        elif kind == "failed" and server in known:
            known[server] = learnt(server, *known[server].listed, stale=True)
        elif kind == "servers":
            views = [view(name) for name in names]
        before, snapshot = snapshot, merged(views, *known.values(), previous=snapshot)
        assert snapshot.version - before.version == (snapshot.etag != before.etag or not before.version)

    shuffled_views, shuffled_lists = list(views), list(known.values())
    chance.shuffle(shuffled_views)
    chance.shuffle(shuffled_lists)
    fresh = merged(shuffled_views, *shuffled_lists, previous=empty_snapshot("tools"))

    if steps:
        assert (snapshot.entries, snapshot.etag, snapshot.conflicts, snapshot.complete) == (
            fresh.entries,
            fresh.etag,
            fresh.conflicts,
            fresh.complete,
        )
    assert len(fresh.by_name) == len(fresh.entries), "no two tools have one name"
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name) for name in fresh.by_name)


def test_what_a_server_adds_is_made_again_only_when_it_changed() -> None:
    alpha, beta = learnt("alpha", tool("a")), learnt("beta", tool("b"))
    first = merged([ALPHA, BETA], alpha, beta)

    second = merged([ALPHA, BETA], alpha, learnt("beta", tool("c")), previous=first)

    assert second.blocks[ALPHA.name] is first.blocks[ALPHA.name]
    assert [entry.name for entry in second.entries] == ["alpha_a", "beta_c"]
    assert merged([ALPHA, BETA], alpha, beta, previous=second, separator="-").etag != first.etag
