"""The Dockerfile names what exists: it is not built here, but each of its words is checked against the tree."""

from __future__ import annotations

import configparser
import json
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import click
import pytest
from support.house import ROOT
from support.nodes import ANSWER_TIMEOUT, running_node

from mcpv_node.cli.start import command as start
from mcpv_node.settings import parse_address


def parse_dockerfile(text: str) -> list[tuple[str, str]]:
    """Return each instruction with its words; comments and continued lines are resolved."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    split = (line.split(None, 1) for line in joined.splitlines() if line.strip())
    return [(name, " ".join(rest.split()) if not rest.startswith("[") else rest) for name, rest in split]


INSTRUCTIONS = parse_dockerfile((ROOT / "Dockerfile").read_text())


def words(name: str) -> str:
    """The words of the only instruction, or the last, of this name."""
    return [rest for found, rest in INSTRUCTIONS if found == name][-1]


def environment() -> dict[str, str]:
    """What ENV sets."""
    return dict(pair.split("=", 1) for pair in words("ENV").split())


def health_command() -> list[str]:
    """What HEALTHCHECK runs."""
    command: list[str] = json.loads(words("HEALTHCHECK").partition("CMD ")[2])
    return command


def test_the_entrypoint_is_the_installed_program() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")

    (program,) = json.loads(words("ENTRYPOINT"))

    assert f"{program} =" in setup["options.entry_points"]["console_scripts"]
    assert environment()["PATH"].startswith("/opt/mcpv-node/bin:")


def test_the_command_is_one_that_the_program_understands() -> None:
    verb, *options = json.loads(words("CMD"))

    assert verb == "start"
    with start.make_context("start", list(options)) as context:
        assert parse_address(context.params["http"]) == ("0.0.0.0", 8090)


def test_a_command_that_is_none_would_be_noticed() -> None:
    with pytest.raises(click.UsageError):
        start.make_context("start", ["--no-such-option"])


def test_the_ports_are_the_same_everywhere() -> None:
    port = words("EXPOSE")

    assert words("CMD").endswith(f':{port}"]')
    assert f"127.0.0.1:{port}/healthz" in health_command()[-1]


def test_everything_that_is_copied_is_there_and_not_left_out() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split()
    copied = [rest.split()[0] for name, rest in INSTRUCTIONS if name == "COPY" and "--from" not in rest]

    assert "." in copied
    for source in copied:
        assert (ROOT / source).exists()
    needed = (
        "setup.cfg",
        "pyproject.toml",
        "constraints.txt",
        "README.md",
        "LICENSE",
        "src",
        "actors",
        "supervisors",
        "config",
    )
    for name in needed:
        assert (ROOT / name).exists()
        assert not any(fnmatch(name, pattern) for pattern in ignored)


def test_it_runs_as_a_user_of_its_own_whose_state_outlives_it() -> None:
    user, state = words("USER"), environment()["MCPV_STATE_DIR"]
    made = next(rest for name, rest in INSTRUCTIONS if name == "RUN" and "useradd" in rest)

    assert user not in ("root", "0")
    assert f" {user} " in f"{made} "
    assert words("VOLUME") == state
    assert f"--home-dir {state}" in made
    assert words("STOPSIGNAL") == "SIGTERM"


def test_the_configuration_it_names_is_the_one_it_brings() -> None:
    copied = next(rest.split() for name, rest in INSTRUCTIONS if name == "COPY" and "config/" in rest)

    assert copied[1] == environment()["MCPV_CONFIG"]


def test_the_health_check_is_good_while_the_node_is_and_only_then(tmp_path: Path) -> None:
    program, *options = health_command()
    assert program == "python"

    def check(url: str) -> int:
        port = url.rpartition(":")[2]
        asked = [option.replace(":8090", f":{port}") for option in options]
        done = subprocess.run(
            [sys.executable, *asked], capture_output=True, timeout=ANSWER_TIMEOUT, check=False
        )
        return done.returncode

    with running_node(tmp_path, []) as node:
        assert check(node.url) == 0
        url = node.url
    assert check(url) != 0
