"""Where the configuration and the state are looked for, and that what we ship is good."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from mcpv_node.settings import (
    PACKAGED_CONFIG,
    NodeSettings,
    SettingsError,
    find_config,
    load_settings,
    state_dir,
)
from mcpv_node.settings.types import (
    AuthSettings,
    LimitSettings,
    ListenSettings,
    LogSettings,
    NodeLimits,
    RestartSettings,
    ServerSpec,
    TlsSettings,
    TokenSettings,
)

EXAMPLES = sorted((PACKAGED_CONFIG.parent / "examples").glob("*.yaml"))


def test_asked_for_config_comes_first(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").touch()
    (tmp_path / "b.yaml").touch()

    found = find_config(tmp_path / "a.yaml", {"MCPV_CONFIG": str(tmp_path / "b.yaml")})

    assert found == tmp_path / "a.yaml"


def test_variable_comes_before_the_users_own(tmp_path: Path) -> None:
    own = tmp_path / "mcpv-node" / "runtime.yaml"
    own.parent.mkdir()
    own.touch()
    (tmp_path / "b.yaml").touch()
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}

    assert find_config(None, {**environ, "MCPV_CONFIG": str(tmp_path / "b.yaml")}) == tmp_path / "b.yaml"
    assert find_config(None, environ) == own


def test_without_any_the_packaged_one_runs(tmp_path: Path) -> None:
    assert find_config(None, {"HOME": str(tmp_path)}) == PACKAGED_CONFIG


@pytest.mark.parametrize("named_by", ["--config", "$MCPV_CONFIG"])
def test_named_config_that_is_not_there_is_refused(tmp_path: Path, named_by: str) -> None:
    gone = tmp_path / "gone.yaml"

    with pytest.raises(SettingsError, match=re.escape(f"({named_by} names it)")):
        find_config(gone if named_by == "--config" else None, {"MCPV_CONFIG": str(gone)})


def test_state_dir_is_the_first_of_option_variable_key_and_user_folder(tmp_path: Path) -> None:
    settings = NodeSettings(servers=(), state_dir="/key")
    environ = {"MCPV_STATE_DIR": "/variable", "XDG_STATE_HOME": "/xdg", "HOME": "/home/u"}
    without_variable = {"XDG_STATE_HOME": "/xdg", "HOME": "/home/u"}

    assert state_dir(Path("/option"), environ, settings) == Path("/option")
    assert state_dir(None, environ, settings) == Path("/variable")
    assert state_dir(None, without_variable, settings) == Path("/key")
    assert state_dir(None, without_variable, None) == Path("/xdg/mcpv-node")
    assert state_dir(None, {"HOME": "/home/u"}, None) == Path("/home/u/.local/state/mcpv-node")


def test_relative_xdg_folder_is_ignored() -> None:
    environ = {"XDG_STATE_HOME": "here", "HOME": "/home/u"}

    assert state_dir(None, environ, None) == Path("/home/u/.local/state/mcpv-node")


def test_packaged_config_runs_our_two_servers_and_changes_no_default() -> None:
    loaded = load_settings(PACKAGED_CONFIG, environ={})

    assert [spec.name for spec in loaded.settings.servers] == ["clock", "notes"]
    assert msgspec.structs.replace(loaded.settings, servers=()) == NodeSettings(servers=())
    assert loaded.warnings == ()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_example_loads_without_a_warning(example: Path) -> None:
    loaded = load_settings(example, environ={"HOME": "/home/u"})

    assert loaded.settings.servers
    assert loaded.warnings == ()


def test_there_are_examples() -> None:
    assert EXAMPLES


@pytest.mark.parametrize(
    "cls",
    [
        AuthSettings,
        LimitSettings,
        ListenSettings,
        LogSettings,
        NodeLimits,
        NodeSettings,
        RestartSettings,
        ServerSpec,
        TlsSettings,
        TokenSettings,
    ],
)
def test_packaged_config_names_every_key(cls: type[msgspec.Struct]) -> None:
    text = PACKAGED_CONFIG.read_text()
    keys = {field.encode_name for field in msgspec.structs.fields(cls)} - {"profiles"}
    # A token's other two selectors are told in words.
    keys -= {"server", "profile"}

    assert {key for key in keys if not re.search(rf"\b{key}:", text)} == set()


# In the packaged config these show an example, because there is no default or because it is the other one.
EXAMPLES_OF_VALUES = {"name", "command", "cwd", "url", "strategy", "stateDir", "file"}


def test_defaults_shown_in_the_packaged_config_are_the_defaults() -> None:
    shown = dict(re.findall(r"\b([a-zA-Z]+): ([\w.:-]+)", PACKAGED_CONFIG.read_text()))
    defaults = {
        field.encode_name: field.default
        for cls in (LogSettings, ListenSettings, NodeLimits, RestartSettings, ServerSpec, NodeSettings)
        for field in msgspec.structs.fields(cls)
        if isinstance(field.default, int | float | str) and field.encode_name not in EXAMPLES_OF_VALUES
    }

    written = {key: shown[key] for key in defaults}

    assert {key for key, value in written.items() if not same(value, defaults[key])} == set()


def same(written: str, default: object) -> bool:
    if isinstance(default, bool):
        return written == str(default).lower()
    if isinstance(default, int | float):
        return float(written) == default
    return written == default
