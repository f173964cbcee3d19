"""Resources, templates and prompts beside tools; what other client profiles see; what has changed since when."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.catalogs import key_of, learnt, merged, tool, view

from mcpv_node.actors.callers import EMPTY_PROFILE, ClientProfile
from mcpv_node.actors.snapshot import (
    KEPT_CHANGES,
    KINDS,
    Entry,
    Kind,
    Learnt,
    Snapshot,
    Source,
    difference_since,
    empty_snapshot,
)
from mcpv_node.protocol import Listed

ALPHA, BETA = view("alpha"), view("beta")
SAMPLER = ClientProfile('{"sampling":{}}')


def resource(uri: str, note: str = "") -> Listed:
    return Listed(uri, json.dumps({"uri": uri, "name": note}).encode())


def template(uri: str) -> Listed:
    return Listed(uri, json.dumps({"uriTemplate": uri, "name": "t"}).encode(), is_template=True)


def seen_by(profile: ClientProfile, server: str, *listed: Listed) -> Learnt:
    return Learnt(key_of(server), profile, listed, Source.LIVE)


# --- resources ----------------------------------------------------------------------------------


def test_resources_keep_their_uris_and_their_bytes() -> None:
    snapshot = merged([ALPHA], learnt("alpha", resource("file:///a b")), kind="resources")

    [entry] = snapshot.entries
    assert (entry.name, entry.definition) == ("file:///a b", resource("file:///a b").definition)


def test_a_uri_that_two_servers_list_is_the_first_ones_by_name_and_the_other_is_reported() -> None:
    lists = learnt("alpha", resource("x:1", "of alpha")), learnt("beta", resource("x:1", "of beta"))

    snapshot = merged([BETA, ALPHA], *reversed(lists), kind="resources")

    assert snapshot.by_name["x:1"].server == "alpha"
    [conflict] = snapshot.conflicts
    assert (conflict.wanted, conflict.holder, conflict.server) == ("x:1", "alpha", "beta")
    assert snapshot.by_server[BETA.name]["x:1"].definition == resource("x:1", "of beta").definition


def test_a_template_and_a_resource_may_be_spelt_alike() -> None:
    snapshot = merged([ALPHA], learnt("alpha", resource("x:1"), template("x:1")), kind="resources")

    assert [entry.is_template for entry in snapshot.entries] == [False, True]
    assert snapshot.conflicts == ()
    assert not snapshot.by_name["x:1"].is_template


def test_prompts_are_named_like_tools() -> None:
    prompt = Listed("p.q", b'{"name":"p.q","x":1.0}')

    [entry] = merged([ALPHA], learnt("alpha", prompt), kind="prompts").entries

    assert (entry.name, entry.raw_name) == ("alpha_p_q", "p.q")
    assert entry.definition == b'{"name":"alpha_p_q","x":1.0}'


def test_exposed_tools_say_nothing_of_prompts() -> None:
    picky = view("alpha", exposes=["other"])

    assert merged([picky], learnt("alpha", tool("x"))).entries == ()
    assert len(merged([picky], learnt("alpha", tool("x")), kind="prompts").entries) == 1


# --- client profiles ----------------------------------------------------------------------------


def test_a_profile_sees_what_was_learnt_for_it_and_else_what_those_without_capabilities_see() -> None:
    snapshot = merged(
        [ALPHA, BETA],
        learnt("alpha", tool("x")),
        seen_by(SAMPLER, "alpha", tool("x"), tool("more")),
        learnt("beta", tool("y")),
    )

    def names(profile: ClientProfile) -> list[str]:
        return [entry.name for entry in snapshot.for_profile(profile).entries]

    assert names(EMPTY_PROFILE) == ["alpha_x", "beta_y"]
    assert names(SAMPLER) == ["alpha_more", "alpha_x", "beta_y"]
    assert names(ClientProfile("never seen")) == names(EMPTY_PROFILE)


def test_what_another_profile_sees_changes_no_version_of_the_rest() -> None:
    first = merged([ALPHA], learnt("alpha", tool("x")))

    second = merged([ALPHA], learnt("alpha", tool("x")), seen_by(SAMPLER, "alpha", tool("y")), previous=first)

    assert (second.version, second.etag) == (first.version, first.etag)
    assert second.for_profile(SAMPLER).etag != first.etag


def test_a_server_known_only_by_another_profile_is_not_shown_to_those_without() -> None:
    snapshot = merged([ALPHA], seen_by(SAMPLER, "alpha", tool("x")))

    assert snapshot.entries == ()
    assert not snapshot.complete
    assert snapshot.for_profile(SAMPLER).complete


# --- what has changed since ---------------------------------------------------------------------


def since(snapshot: Snapshot, version: int) -> tuple[list[str], list[str], list[str]] | None:
    found = difference_since(snapshot, version)
    if found is None:
        return None
    return (
        [entry.name for entry in found.added],
        [entry.name for entry in found.changed],
        [name for _, name in found.removed],
    )


def test_steps_add_up_to_what_a_reader_of_the_older_version_has_missed() -> None:
    first = merged([ALPHA], learnt("alpha", tool("stays"), tool("goes"), tool("turns")))
    second = merged(
        [ALPHA], learnt("alpha", tool("stays"), tool("turns", "new"), tool("brief")), previous=first
    )
    third = merged(
        [ALPHA], learnt("alpha", tool("stays"), tool("turns", "newer"), tool("late")), previous=second
    )

    assert since(third, first.version) == (["alpha_late"], ["alpha_turns"], ["alpha_goes"])
    assert since(third, second.version) == (["alpha_late"], ["alpha_turns"], ["alpha_brief"])
    assert since(third, third.version) == ([], [], [])


def test_what_has_gone_and_come_back_is_a_change() -> None:
    first = merged([ALPHA], learnt("alpha", tool("x")))
    second = merged([ALPHA], learnt("alpha"), previous=first)
    third = merged([ALPHA], learnt("alpha", tool("x", "other")), previous=second)

    assert since(third, first.version) == ([], ["alpha_x"], [])


@pytest.mark.parametrize("version", [-1, 0, 99])
def test_a_version_that_never_was_has_no_difference(version: int) -> None:
    first = merged([ALPHA], learnt("alpha", tool("x")), previous=None)
    snapshot = merged([ALPHA], learnt("alpha", tool("y")), previous=first)

    assert since(snapshot, version) is None or version == 0


def test_only_so_many_steps_are_kept() -> None:
    snapshot = empty_snapshot("tools")
    for number in range(KEPT_CHANGES + 2):
        snapshot = merged([ALPHA], learnt("alpha", tool("x", str(number))), previous=snapshot)

    assert len(snapshot.changes) == KEPT_CHANGES
    assert since(snapshot, snapshot.version - KEPT_CHANGES) == ([], ["alpha_x"], [])
    assert since(snapshot, snapshot.version - KEPT_CHANGES - 1) is None


@given(
    st.lists(st.dictionaries(st.sampled_from("abcd"), st.sampled_from("123")), min_size=2, max_size=8),
    st.randoms(),
)
def test_a_reader_that_takes_only_differences_has_what_is_there(
    steps: list[dict[str, str]], chance: random.Random
) -> None:
    snapshot = empty_snapshot("tools")
    mine: dict[str, Entry] = {}
    read = 0
    for step in steps:
        tools = [tool(name, note) for name, note in step.items()]
        snapshot = merged([ALPHA], learnt("alpha", *tools), previous=snapshot)
        if chance.random() < 0.5:
            continue
        found = difference_since(snapshot, read)
        assert found is not None
        for _, name in found.removed:
            del mine[name]
        assert not mine.keys() & {entry.name for entry in found.added}
        mine.update({entry.name: entry for entry in (*found.added, *found.changed)})
        read = snapshot.version
        assert {name: entry.digest for name, entry in mine.items()} == {
            entry.name: entry.digest for entry in snapshot.entries
        }


# --- one change at a time -----------------------------------------------------------------------


def steps_of(kind: Kind) -> list[dict[str, list[Listed]]]:
    """Three servers that come to want each other's names and give way again; each step changes one of them."""

    def entries(*names: str) -> list[Listed]:
        return [resource(name) if kind == "resources" else tool(name) for name in names]

    a, a_b = ("b_x", "x") if kind != "resources" else ("x:1", "x:1")
    return [
        {"a": entries(a, "m"), "a_b": entries("n"), "c": entries("o")},
        {"a": entries(a, "m"), "a_b": entries("n", a_b), "c": entries("o")},
        {"a": entries(a, "m"), "a_b": entries("n", a_b), "c": entries("o", "p")},
        {"a": entries("m"), "a_b": entries("n", a_b), "c": entries("o", "p")},
        {"a": entries("m"), "a_b": entries("n"), "c": entries()},
        {"a": entries("m"), "a_b": entries("n"), "c": entries("k", "z")},
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_come_to_collide_one_by_one_are_as_if_all_had_come_at_once(kind: Kind) -> None:
    views = [view(name) for name in ("a", "a_b", "c")]
    known: dict[str, Learnt] = {}
    snapshot = empty_snapshot(kind)
    conflicts: list[int] = []
    for step in steps_of(kind):
        # What has not changed is the very same, as it is in an index.
        known = {
            name: known[name]
            if name in known and known[name].listed == tuple(listed)
            else learnt(name, *listed)
            for name, listed in step.items()
        }
        snapshot = merged(views, *known.values(), previous=snapshot, kind=kind)
        fresh = merged(views, *known.values(), kind=kind)

        assert (snapshot.entries, snapshot.etag, snapshot.conflicts) == (
            fresh.entries,
            fresh.etag,
            fresh.conflicts,
        )
        assert (dict(snapshot.by_name), snapshot.by_server) == (dict(fresh.by_name), fresh.by_server)
        conflicts.append(len(snapshot.conflicts))

    assert conflicts == [0, 1, 1, 0, 0, 0]


def test_a_reading_that_finds_nothing_new_leaves_everything_as_it_was() -> None:
    before = merged([ALPHA, BETA], learnt("alpha", tool("x")), learnt("beta", tool("y")))

    after = merged([ALPHA, BETA], learnt("alpha", tool("x")), learnt("beta", tool("y")), previous=before)
    other = merged(
        [ALPHA, BETA], learnt("alpha", tool("x", "new")), learnt("beta", tool("y")), previous=after
    )

    assert after.shows_what(before)
    assert not other.shows_what(after)


def test_what_got_another_name_is_gone_under_the_old_one() -> None:
    views = [view("a"), view("a_b")]
    alone = merged(views, learnt("a"), learnt("a_b", tool("x")))
    both = merged(views, learnt("a", tool("b_x")), learnt("a_b", tool("x")), previous=alone)
    again = merged(views, learnt("a"), learnt("a_b", tool("x")), previous=both)
    given = both.conflicts[0].given

    assert since(both, alone.version) == (["a_b_x", given], [], ["a_b_x"])
    assert since(again, both.version) == (["a_b_x"], [], ["a_b_x", given])
    assert since(again, alone.version) == ([], ["a_b_x"], [])
