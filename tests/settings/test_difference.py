"""What a new configuration changes: each class of change, and that all of them together lead to the new one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpv_node.settings import (
    ChangeClass,
    NodeLimits,
    NodeSettings,
    ServerName,
    ServerSpec,
    compare,
    enabled_groups,
    pool_settings,
)


def spec(name: str, command: str = "run", **settings: Any) -> ServerSpec:
    return ServerSpec(name=ServerName(name), command=command, **settings)


def node(*servers: ServerSpec, **settings: Any) -> NodeSettings:
    return NodeSettings(servers=servers, **settings)


def changes(old: NodeSettings, new: NodeSettings) -> dict[str, str]:
    return {change.name: str(change.what) for change in compare(old, new).changes}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (node(spec("a")), node(spec("a")), {}),
        (node(), node(spec("a")), {"a": "added"}),
        (node(spec("a")), node(), {"a": "removed"}),
        (node(spec("a")), node(spec("a", disabled=True)), {"a": "removed"}),
        (node(spec("a", disabled=True)), node(spec("a")), {"a": "added"}),
        (node(spec("a", disabled=True)), node(spec("a", "other", disabled=True)), {}),
        (node(spec("a")), node(spec("a", "other")), {"a": "replaced"}),
        (node(spec("a")), node(spec("a", env={"X": "1"})), {"a": "replaced"}),
        (node(spec("a")), node(spec("a", max_instances=9)), {"a": "pool"}),
        (node(spec("a")), node(spec("a", activation_mode="always-on")), {"a": "pool"}),
        (node(spec("a")), node(spec("a", tags=("t",))), {"a": "view"}),
        (node(spec("a")), node(spec("a", expose_tools=("t",))), {"a": "view"}),
        (node(spec("a")), node(spec("b")), {"a": "removed", "b": "added"}),
        (node(), node(refresh_seconds=3), {"refreshSeconds": "node"}),
        (node(), node(limits=NodeLimits(depth=9)), {"limits.depth": "node"}),
        (node(), node(limits=NodeLimits(line_bytes=9000)), {"limits.lineBytes": "restart"}),
        (node(), node(bootstrap_concurrency=7), {"bootstrapConcurrency": "restart"}),
    ],
)
def test_a_change_has_the_class_of_what_it_costs(
    old: NodeSettings, new: NodeSettings, expected: dict[str, str]
) -> None:
    assert changes(old, new) == expected


def test_an_entry_with_another_name_goes_on_with_the_same_processes() -> None:
    found = compare(node(spec("a")), node(spec("b")))

    assert [(kept.before.name, kept.after.name) for kept in found.kept] == [("a", "b")]
    assert found.added == found.removed == ()


def test_an_entry_that_leaves_a_shared_server_type_leaves_it_running_for_the_other() -> None:
    found = compare(node(spec("a"), spec("b")), node(spec("a"), spec("b", max_instances=9)))

    assert [kept.after.name for kept in found.kept] == ["a"]
    assert [group.name for group in found.added] == ["b"]
    assert found.removed == ()
    assert {change.name: change.what for change in found.changes} == {"b": ChangeClass.REPLACED}
    assert not found.kept[0].is_edit


def test_entries_that_become_alike_share_what_one_of_them_has() -> None:
    old = node(spec("a"), spec("b", max_instances=9))

    found = compare(old, node(spec("a"), spec("b")))

    assert [kept.after.specs for kept in found.kept] == [(spec("a"), spec("b"))]
    assert [group.name for group in found.removed] == ["b"]


def test_what_needs_a_restart_stays_what_it_was_until_then() -> None:
    old = node(limits=NodeLimits(line_bytes=1000))

    found = compare(old, node(limits=NodeLimits(line_bytes=2000, depth=9)))

    assert found.settings.limits == NodeLimits(line_bytes=1000, depth=9)
    assert changes(found.settings, node(limits=NodeLimits(line_bytes=1000, depth=9))) == {}


NAMES = st.sampled_from(["a", "b", "c", "d"])
ENTRIES = st.builds(
    lambda name, command, size, tag, disabled: spec(
        name, command, max_instances=size, tags=tag, disabled=disabled
    ),
    NAMES,
    st.sampled_from(["run", "other"]),
    st.sampled_from([1, 2]),
    st.sampled_from([(), ("t",)]),
    st.booleans(),
)
CONFIGURATIONS = st.lists(ENTRIES, unique_by=lambda one: one.name, max_size=4).map(lambda them: node(*them))


@given(CONFIGURATIONS, CONFIGURATIONS)
def test_what_is_kept_and_what_is_added_is_exactly_what_is_configured(
    old: NodeSettings, new: NodeSettings
) -> None:
    found = compare(old, new)

    wanted = enabled_groups(new)
    assert sorted([*(kept.after for kept in found.kept), *found.added], key=repr) == sorted(wanted, key=repr)
    left = sorted([*(kept.before for kept in found.kept), *found.removed], key=repr)
    assert left == sorted(enabled_groups(old), key=repr)
    assert all(kept.before.spec_key == kept.after.spec_key for kept in found.kept)
    for group in found.removed:
        assert not any(
            one.spec_key == group.spec_key and pool_settings(one.specs[0]) == pool_settings(group.specs[0])
            for one in wanted
        )


@given(CONFIGURATIONS, CONFIGURATIONS)
def test_nothing_is_different_exactly_when_the_same_entries_are_wanted(
    old: NodeSettings, new: NodeSettings
) -> None:
    def wanted(settings: NodeSettings) -> dict[str, ServerSpec]:
        return {one.name: one for one in settings.servers if not one.disabled}

    assert compare(old, new).is_empty() == (wanted(old) == wanted(new))
