"""Which entries are the same thing, and what is shown of them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpv_node.settings import (
    LimitSettings,
    NodeSettings,
    OAuthSettings,
    RestartSettings,
    ServerName,
    ServerSpec,
    ServerTlsSettings,
    describe,
    group_servers,
    pool_settings,
    spec_key,
)

BASE: dict[str, Any] = {
    "name": ServerName("a"),
    "command": "x",
    "args": ("1", "2"),
    "env": {"A": "1", "B": "2"},
    "cwd": "/w",
}
REMOTE: dict[str, Any] = {
    "name": ServerName("a"),
    "transport": "streamable-http",
    "url": "http://h/",
    "headers": {"A": "1"},
}


def entry(**changed: object) -> ServerSpec:
    return ServerSpec(**{**BASE, **changed})


@pytest.mark.parametrize(
    "changed",
    [
        {"command": "y"},
        {"args": ("1 2",)},
        {"args": ("12",)},
        {"args": ("2", "1")},
        {"env": {"A": "1"}},
        {"env": {"A": "2", "B": "1"}},
        {"cwd": "/v"},
        {"cwd": None},
    ],
)
def test_runnable_part_changes_the_spec_key(changed: dict[str, object]) -> None:
    assert spec_key(entry(**changed)) != spec_key(entry())


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "b"},
        {"tags": ("t",)},
        {"max_concurrent": 9},
        {"strategy": "stateful"},
        {"env": {"B": "2", "A": "1"}},
        {"disabled": True},
    ],
)
def test_nothing_else_changes_the_spec_key(changed: dict[str, object]) -> None:
    assert spec_key(entry(**changed)) == spec_key(entry())


@pytest.mark.parametrize(
    "changed",
    [
        {"url": "http://i/"},
        {"transport": "sse"},
        {"headers": {"A": "2"}},
        {"tls": ServerTlsSettings()},
        {"tls": ServerTlsSettings(ca="/a")},
        {"tls": ServerTlsSettings(cert="/a")},
        {"oauth": OAuthSettings(grant="authorization-code")},
        {"oauth": OAuthSettings(client_id="a")},
        {"proxy": "none"},
        {"proxy": "http://p/"},
    ],
)
def test_remote_address_changes_the_spec_key(changed: dict[str, object]) -> None:
    assert spec_key(ServerSpec(**{**REMOTE, **changed})) != spec_key(ServerSpec(**REMOTE))


def test_case_of_a_header_name_does_not_change_the_spec_key() -> None:
    assert spec_key(ServerSpec(**{**REMOTE, "headers": {"a": "1"}})) == spec_key(ServerSpec(**REMOTE))


def test_spec_key_is_the_same_in_every_node_and_release() -> None:
    # Catalog files carry it in their names: another value would make every list unlearnt.
    assert (
        spec_key(ServerSpec(**REMOTE)) == "bdb06a67e80b75d13089a1c9090fa50a13dd7231827a72b1806b6a96f8eac351"
    )
    assert spec_key(entry()) == "c441f399dac0966d4120607628e7d35fef09dd09ce93fda2d9283a2a98325110"


@given(st.lists(st.text(max_size=3), max_size=4), st.lists(st.text(max_size=3), max_size=4))
def test_different_arguments_never_read_the_same(left: list[str], right: list[str]) -> None:
    same = spec_key(entry(args=tuple(left))) == spec_key(entry(args=tuple(right)))

    assert same == (left == right)


@pytest.mark.parametrize(
    "changed",
    [
        {"max_concurrent": 2},
        {"idle_seconds": 1.0},
        {"restart": RestartSettings(max_retries=1)},
        {"limits": LimitSettings(nice=1)},
        {"activation_mode": "always-on"},
    ],
)
def test_pool_settings_differ_with_how_it_is_run(changed: dict[str, object]) -> None:
    assert pool_settings(entry(**changed)) != pool_settings(entry())
    assert hash(pool_settings(entry(**changed))) is not None


@pytest.mark.parametrize(
    "changed", [{"name": "b"}, {"tags": ("t",)}, {"disabled": True}, {"expose_tools": ("t",)}]
)
def test_pool_settings_do_not_see_what_is_only_a_view(changed: dict[str, object]) -> None:
    assert pool_settings(entry(**changed)) == pool_settings(entry())


def test_entries_that_run_the_same_with_the_same_settings_share_a_group() -> None:
    settings = NodeSettings(
        servers=(
            entry(name="z"),
            entry(name="other", command="y"),
            entry(name="a", tags=("t",), disabled=True),
            entry(name="pool", max_concurrent=2),
        )
    )

    groups = group_servers(settings)

    assert [[spec.name for spec in group.specs] for group in groups] == [["z", "a"], ["other"], ["pool"]]
    assert [group.name for group in groups] == ["z", "other", "pool"]
    assert groups[0].spec_key == groups[2].spec_key


def test_group_is_disabled_when_all_its_entries_are() -> None:
    one, both = (
        group_servers(NodeSettings(servers=specs))[0]
        for specs in (
            (entry(disabled=True), entry(name="b")),
            (entry(disabled=True), entry(name="b", disabled=True)),
        )
    )

    assert not one.is_disabled
    assert both.is_disabled


def test_description_shows_keys_and_hides_secrets() -> None:
    local = entry(args=("--api-key", "s3cret", "--token=s3cret", "--verbose", "on"), env={"KEY": "s3cret"})
    remote = ServerSpec(**{**REMOTE, "url": "http://u:s3cret@h/p?k=s3cret", "headers": {"A": "s3cret"}})
    oauth = OAuthSettings(client_id="me", client_secret="s3cret")
    remote = msgspec.structs.replace(remote, proxy="http://u:s3cret@p:3128", oauth=oauth)

    described = describe(NodeSettings(servers=(local, remote)))

    assert "s3cret" not in repr(described)
    first, second = described["servers"]
    assert first["args"] == ["--api-key", "***", "--token=***", "--verbose", "on"]
    assert first["env"] == {"KEY": "***"}
    assert first["sessionTTLSeconds"] == 300
    assert first["specKey"] == spec_key(local)
    assert second["url"] == "http://***@h/p?***"
    assert second["oauth"]["clientSecret"] == "***"
    assert second["proxy"] == "http://***@p:3128"
