"""The names under which tools are listed."""

from __future__ import annotations

import hashlib
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpv_node.protocol import Collision, assign_names, listed_name

LISTED = re.compile(r"[A-Za-z0-9_-]{1,64}")


def ending(server: str, raw: str) -> str:
    return "_" + hashlib.sha256(f"{server}\0{raw}".encode()).hexdigest()[:6]


@pytest.mark.parametrize(
    ("server", "raw", "separator", "prefix", "expected"),
    [
        ("clock", "now", "_", True, "clock_now"),
        ("clock", "now", "-", True, "clock-now"),
        ("clock", "now", ".", True, "clock_now"),
        ("clock", "now", "_", False, "now"),
        ("fs", "read.file/all", "_", True, "fs_read_file_all"),
        ("fs", "größe", "_", True, "fs_gr__e"),
        ("fs", "x" * 61, "_", True, "fs_" + "x" * 61),
        ("fs", "x" * 62, "_", True, "fs_" + "x" * 54 + ending("fs", "x" * 62)),
        ("fs", "é" * 70, "_", False, "_" * 57 + ending("fs", "é" * 70)),
    ],
)
def test_a_name_is_prefix_and_raw_name_made_harmless(
    server: str, raw: str, separator: str, prefix: bool, expected: str
) -> None:
    assert listed_name(server, raw, separator=separator, prefix=prefix) == expected


def test_names_that_do_not_meet_are_left_alone() -> None:
    naming = assign_names([("b", "x"), ("a", "x")])

    assert naming.names == {("a", "x"): "a_x", ("b", "x"): "b_x"}
    assert naming.collisions == ()


def test_the_later_server_by_name_gives_way_and_is_reported() -> None:
    naming = assign_names([("b", "x"), ("a", "x")], strategy="flat")

    given_way = "x" + ending("b", "x")
    assert naming.names == {("a", "x"): "x", ("b", "x"): given_way}
    assert naming.collisions == (
        Collision(wanted="x", holder=("a", "x"), server="b", raw="x", listed=given_way),
    )


def test_within_a_server_the_first_one_given_keeps_the_name() -> None:
    naming = assign_names([("a", "x.y"), ("a", "x_y")])

    assert naming.names == {("a", "x.y"): "a_x_y", ("a", "x_y"): "a_x_y" + ending("a", "x_y")}


def test_a_tool_that_already_has_the_ending_is_not_shadowed() -> None:
    squatter = "x" + ending("b", "x")

    naming = assign_names([("a", "x"), ("a", squatter), ("b", "x")], strategy="flat")

    assert naming.names["a", squatter] == squatter
    assert len(set(naming.names.values())) == 3
    assert [(each.server, each.wanted) for each in naming.collisions] == [("b", "x")]


def test_the_same_tool_twice_is_one_tool() -> None:
    assert assign_names([("a", "x"), ("a", "x")]).names == {("a", "x"): "a_x"}


# Few letters, so that names do meet.
SERVER = st.text("ab_", min_size=1, max_size=3)
RAW = st.text("a_.é", max_size=4) | st.text("a_.", min_size=60, max_size=70) | st.text(max_size=5)


@given(
    st.lists(st.tuples(SERVER, RAW), max_size=20),
    st.sampled_from(["_", "-", "."]),
    st.sampled_from(["prefix", "flat"]),
)
def test_every_name_is_harmless_and_its_own(
    tools: list[tuple[str, str]], separator: str, strategy: str
) -> None:
    naming = assign_names(tools, separator=separator, strategy="flat" if strategy == "flat" else "prefix")

    assert set(naming.names) == set(tools)
    assert all(LISTED.fullmatch(name) for name in naming.names.values())
    assert len(set(naming.names.values())) == len(naming.names)
    given_way = {(each.server, each.raw) for each in naming.collisions}
    assert all(
        name == listed_name(*tool, separator=separator, prefix=strategy == "prefix")
        for tool, name in naming.names.items()
        if tool not in given_way
    )


@given(st.lists(st.tuples(SERVER, RAW), unique=True, max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_the_servers_does_not_matter(
    tools: list[tuple[str, str]], shuffle: random.Random
) -> None:
    servers = sorted({server for server, _ in tools})
    shuffle.shuffle(servers)
    reordered = [tool for server in servers for tool in tools if tool[0] == server]

    assert assign_names(reordered) == assign_names(tools)
