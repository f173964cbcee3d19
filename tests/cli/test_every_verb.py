"""What holds for every verb: help with an example, `--json` before and after it, and the exit codes of the contract."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from support.fake_programs import FakeProgram

from mcpv_node.cli import app
from mcpv_node.cli.common import OK, UNREACHABLE, USAGE_ERROR

CONFIG = "servers:\n  - name: fs\n    command: fs-server\n"
CLIENT_FILE = '{"mcpServers": {"time": {"command": "uvx", "args": ["mcp-server-time"]}}}'

# Each verb as somebody types it, and how it ends where no node runs. None: it is not run here, for it goes on.
VERBS: dict[str, tuple[list[str], int | None]] = {
    "start": ([], None),
    "stdio": ([], None),
    "status": ([], UNREACHABLE),
    "why": (["fs"], UNREACHABLE),
    "servers": ([], UNREACHABLE),
    "server start": (["fs"], UNREACHABLE),
    "server stop": (["fs"], UNREACHABLE),
    "server retry": (["fs"], UNREACHABLE),
    "server approve": (["fs"], UNREACHABLE),
    "server add": (["two", "--", "two-server"], OK),
    "server edit": (["fs", "--set", "maxConcurrent=2"], OK),
    "server remove": (["fs"], OK),
    "server enable": (["fs"], OK),
    "server disable": (["fs"], OK),
    "tools": ([], UNREACHABLE),
    "call": (["fs_read"], UNREACHABLE),
    "catalog refresh": ([], UNREACHABLE),
    "catalog show": ([], UNREACHABLE),
    "catalog diff": (["1"], UNREACHABLE),
    "reload": ([], UNREACHABLE),
    "logs": ([], UNREACHABLE),
    "top": ([], UNREACHABLE),
    "stop": ([], UNREACHABLE),
    "diagnose": ([], OK),
    "service print": (["--user"], OK),
    "service install": (["--user"], OK),
    "service uninstall": (["--user"], OK),
    "validate": ([], OK),
    "import": (["client.json"], OK),
    "export": (["cursor"], OK),
    "completion": (["bash"], OK),
    "version": ([], OK),
}

ENDING = [(name, words, code) for name, (words, code) in VERBS.items() if code is not None]


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Program:
    """The command line in this process, where no node runs."""

    capture: pytest.CaptureFixture[str]

    def __call__(self, *words: str) -> Ended:
        code = app.main(list(words))
        said = self.capture.readouterr()
        return Ended(code, said.out, said.err)


@pytest.fixture
def program(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Program:
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "UV_TOOL_DIR", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MCPV_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "node.yaml").write_text(CONFIG)
    (tmp_path / "client.json").write_text(CLIENT_FILE)
    monkeypatch.setenv("MCPV_CONFIG", str(tmp_path / "node.yaml"))
    # No verb speaks to this machine's own.
    monkeypatch.setenv("PATH", FakeProgram(tmp_path, "systemctl").path)
    monkeypatch.chdir(tmp_path)
    return Program(capfd)


def names_of(command: click.Command, prefix: str = "") -> list[str]:
    if not isinstance(command, click.Group):
        return [prefix]
    context = click.Context(command)
    found: list[str] = []
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        found += names_of(inner, f"{prefix} {name}".strip())
    return found


def test_no_verb_is_forgotten_here() -> None:
    assert sorted(names_of(app.group)) == sorted(VERBS)


@pytest.mark.parametrize("name", ["", "server", "catalog", "service", *VERBS])
def test_help_has_an_example(program: Program, name: str) -> None:
    ended = program(*name.split(), "--help")

    usage, *lines = ended.out.splitlines()
    assert ended.code == OK
    assert usage.startswith("Usage: ")
    assert [line for line in lines if f"mcpv-node {name}".strip() in line and line.startswith("  ")]


@pytest.mark.parametrize(
    "name", [name for name in VERBS if " " not in name] + ["server", "catalog", "service"]
)
def test_its_line_in_the_list_of_verbs_is_not_cut(program: Program, name: str) -> None:
    (line,) = [line for line in program("--help").out.splitlines() if line.startswith(f"  {name} ")]

    assert not line.endswith("...")


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize("before", [False, True])
def test_bad_usage_ends_2_with_a_sentence_that_leads_to_help(
    program: Program, name: str, *, before: bool
) -> None:
    words = ["--json", *name.split(), "--no-such-option"] if before else [*name.split(), "--no-such-option"]

    ended = program(*words)

    assert ended.code == USAGE_ERROR
    assert ended.out == ""
    said = json.loads(ended.err)["error"] if before else ended.err
    assert "--no-such-option" in said
    assert f"mcpv-node {name} --help" in said


@pytest.mark.parametrize(("name", "words", "code"), ENDING)
def test_it_ends_as_the_contract_says_where_no_node_runs(
    program: Program, name: str, words: list[str], code: int
) -> None:
    ended = program(*name.split(), *words)

    assert ended.code == code, ended.err
    assert ("mcpv-node start" in ended.err) or code == OK


@pytest.mark.parametrize(("name", "words", "code"), ENDING)
@pytest.mark.parametrize("before", [False, True])
def test_with_json_it_answers_and_fails_in_json(
    program: Program, name: str, words: list[str], code: int, *, before: bool
) -> None:
    verb = name.split()
    ended = program(*(["--json", *verb] if before else [*verb, "--json"]), *words)

    assert ended.code == code, ended.err
    if code == OK:
        assert isinstance(json.loads(ended.out), dict)
    else:
        assert ended.out == ""
        assert "no node runs" in json.loads(ended.err)["error"]


def test_a_configuration_with_errors_ends_3(program: Program, tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text("servers: 7\nnonsense: 1\n")

    for words in (["validate"], ["start"], ["server", "disable", "fs"], ["import", "client.json"]):
        ended = program(*words, "--json")

        assert (ended.code, ended.out) == (3, "")
        assert json.loads(ended.err)["problems"]


def test_a_verb_that_does_not_exist_ends_2(program: Program) -> None:
    ended = program("frobnicate")

    assert (ended.code, ended.out) == (USAGE_ERROR, "")
    assert "frobnicate" in ended.err


def test_without_a_verb_the_verbs_are_listed(program: Program) -> None:
    ended = program()

    assert ended.code == USAGE_ERROR
    assert "status" in ended.err
