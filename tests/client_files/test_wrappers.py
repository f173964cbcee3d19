"""A wrapper is left out where it is certain what it runs, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mcpv_node.client_files import Installed, unwrap


@pytest.fixture
def machine(tmp_path: Path) -> Installed:
    """A machine with one npm package and one tool of uv."""
    package = tmp_path / "npm/lib/node_modules/@x/files"
    program(tmp_path / "npm/bin/files-server")
    package.mkdir(parents=True)
    (package / "package.json").write_text(json.dumps({"version": "1.2.3", "bin": {"files-server": "x.js"}}))
    tool = tmp_path / "tools/mcp-time"
    info = tool / "lib/python3.12/site-packages/mcp_time-2.0.1.dist-info"
    info.mkdir(parents=True)
    (info / "entry_points.txt").write_text("[console_scripts]\nmcp-time = a:b\nOther = a:c\n")
    (tool / "uv-receipt.toml").write_text("")
    program(tool / "bin/mcp-time")
    program(tool / "bin/Other")
    return Installed({"NPM_CONFIG_PREFIX": f"{tmp_path}/npm", "UV_TOOL_DIR": f"{tmp_path}/tools"})


def program(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("npx -y @x/files@1.2.3 /data", "npm/bin/files-server /data"),
        ("/usr/bin/npx --yes @x/files@1.2.3", "npm/bin/files-server"),
        ("uvx mcp-time --tz UTC", "tools/mcp-time/bin/mcp-time --tz UTC"),
        ("uvx mcp_time==2.0.1", None),
        ("uvx mcp-time@2.0.1", "tools/mcp-time/bin/mcp-time"),
        ("uvx --from mcp-time Other -v", "tools/mcp-time/bin/Other -v"),
        ("uv tool run mcp-time", "tools/mcp-time/bin/mcp-time"),
    ],
)
def test_what_is_installed_is_run_itself(
    machine: Installed, tmp_path: Path, line: str, found: str | None
) -> None:
    command, *args = line.split()

    unwrapped = unwrap(command, args, machine)

    assert unwrapped is not None
    if found is None:
        # The tool has no program of that name: what uvx would run is not certain.
        assert "stays" in unwrapped.note
        return
    assert " ".join([unwrapped.command, *unwrapped.args]) == f"{tmp_path}/{found}"
    assert "one process less" in unwrapped.note


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("npx -y @x/files", "@x/files has no exact version, so what runs may change"),
        ("npx -y @x/files@latest", "@x/files has no exact version, so what runs may change"),
        ("npx -y @x/files@1.2.4", "`npm install -g @x/files@1.2.4` would save its process"),
        ("npx -p @x/files@1.2.3 files-server", "its options say more than a package"),
        ("npx", "its options say more than a package"),
        ("uvx mcp-time@2.0.2", "`uv tool install mcp-time==2.0.2` would save its process"),
        ("uvx mcp-time@latest", "mcp-time has no exact version, so what runs may change"),
        ("uvx --with y mcp-time", "its options say more than a package"),
        ("uvx other", "`uv tool install other` would save its process"),
    ],
)
def test_what_is_not_certain_stays_and_says_why(machine: Installed, line: str, why: str) -> None:
    command, *args = line.split()

    unwrapped = unwrap(command, args, machine)

    assert unwrapped is not None
    assert (unwrapped.command, list(unwrapped.args)) == (command, args)
    assert unwrapped.note == f"{command} stays: {why}"


def test_another_program_is_no_wrapper(machine: Installed) -> None:
    assert unwrap("node", ["x.js"], machine) is None
    assert unwrap("uv", ["run", "x"], machine) is None
