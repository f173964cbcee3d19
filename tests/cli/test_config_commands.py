"""Commands that change the configuration, take over a client's servers, or point a client at the node."""

from __future__ import annotations

import json
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from support.fake_node import FakeNode, ok, problem, running_fake_node

from mcpv_node.cli import app, config_file
from mcpv_node.node_file import write_node_file
from mcpv_node.settings import PACKAGED_CONFIG

CONFIG = "# ours\nservers:\n  - name: fs  # files\n    command: fs-server\n"

DESKTOP = """\
{
  "mcpServers": {
    "time": {"command": "uvx", "args": ["mcp-server-time"]},
    "GitHub": {"command": "gh-mcp", "args": ["--token", "s3cret"], "env": {"TOKEN": "s3cret"}},
    "files": {"command": "fs-server"}, // as ours
    "fs": {"command": "other"},
    "mcpv": {"command": "/x/bin/mcpv-node", "args": ["stdio"]},
    "bad": {"url": "https://x.example/mcp", "headers": {"Content-Type": "s3cret"}}
  }
}
"""


@dataclass(frozen=True, slots=True)
class Ended:
    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Program:
    """The command line in this process, with a home and a configuration of its own."""

    capture: pytest.CaptureFixture[str]
    home: Path

    @property
    def config(self) -> Path:
        return self.home / ".config" / "mcpv-node" / "runtime.yaml"

    def __call__(self, *arguments: str) -> Ended:
        code = app.main(list(arguments))
        said = self.capture.readouterr()
        return Ended(code, said.out, said.err)


@pytest.fixture
def program(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Program:
    home = tmp_path / "home"
    home.mkdir()
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "MCPV_CONFIG", "UV_TOOL_DIR", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MCPV_STATE_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    made = Program(capsys, home)
    made.config.parent.mkdir(parents=True)
    made.config.write_text(CONFIG)
    return made


@pytest.fixture
def node(tmp_path: Path, program: Program) -> Iterator[FakeNode]:
    """A node that runs on the program's configuration."""
    with running_fake_node(tmp_path) as running:
        write_node_file(tmp_path, replace(running.file, config_path=str(program.config)))
        yield running


def test_a_server_is_added_with_its_program_and_the_rest_stays(program: Program) -> None:
    ended = program("server", "add", "time", "--env", "A=${X:-1}", "--", "uvx", "mcp-server-time", "-v")

    assert (ended.code, ended.out) == (0, f"time is added in {program.config}\n")
    assert program.config.read_text() == (
        CONFIG + "  - name: time\n    command: uvx\n    args: [mcp-server-time, -v]\n"
        '    env:\n      A: "${X:-1}"\n'
    )
    assert stat.S_IMODE(program.config.stat().st_mode) == 0o600


def test_a_remote_server_is_added_by_its_url(program: Program) -> None:
    ended = program("server", "add", "r", "--url", "https://x.example", "--header", "X-A: ${B:-b}", "--json")

    assert json.loads(ended.out)["reload"] == {"outcome": "none"}
    assert "transport: streamable-http" in program.config.read_text()


def test_an_entry_is_changed_switched_and_removed(program: Program) -> None:
    assert program("server", "edit", "fs", "--set", "restart.maxRetries=3", "--tag", "t").code == 0
    assert program("server", "disable", "fs").code == 0
    changed = program.config.read_text()
    assert program("server", "enable", "fs").code == 0
    assert program("server", "edit", "fs", "--unset", "restart.maxRetries", "--unset", "tags").code == 0

    assert (
        changed
        == CONFIG
        + "    restart:\n      maxRetries: 3\n    tags: [t]\n    disabled: true\n".replace(
            "    restart:\n      maxRetries: 3\n    tags: [t]\n",
            "    tags: [t]\n    restart:\n      maxRetries: 3\n",
        )
    )
    assert program.config.read_text() == CONFIG
    assert program("server", "remove", "fs").code == 0
    assert program.config.read_text() == "# ours\nservers: []\n"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (
            ["edit", "fs", "--set", "maxConcurent=4"],
            3,
            "runtime.yaml:5: servers.fs.maxConcurent: is not a key here",
        ),
        (["edit", "fs", "--set", "minReady=9"], 3, "minReady"),
        (["edit", "nobody", "--tag", "x"], 1, 'no server named "nobody"'),
        (["add", "fs", "--", "x"], 1, 'already a server named "fs"'),
        (["add", "No", "--", "x"], 3, '"No" is not a name'),
        (["add", "x"], 2, "say which program"),
        (["edit", "fs"], 2, "say what to change"),
        (["edit", "fs", "--set", "x"], 2, "not KEY=VALUE"),
        (["edit", "fs", "--set", "tags=[a"], 2, "is not one YAML value"),
        (["edit", "fs", "--set", "name=x"], 1, "keeps its name"),
    ],
)
def test_what_is_refused_is_not_written(program: Program, arguments: list[str], code: int, said: str) -> None:
    ended = program("server", *arguments)

    assert ended.code == code
    assert said in ended.err
    assert program.config.read_text() == CONFIG


def test_the_first_change_makes_a_copy_of_the_packaged_configuration(program: Program) -> None:
    program.config.unlink()
    before = PACKAGED_CONFIG.read_text()

    program("server", "add", "x", "--", "x")

    made = program.config.read_text()
    assert PACKAGED_CONFIG.read_text() == before
    assert set(before.splitlines()[1:]) <= set(made.splitlines())
    schema = made.splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    assert json.loads(Path(schema).read_text())["title"] == "mcpv-node configuration"


def test_an_entry_of_a_profile_is_changed_where_it_stands(program: Program, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "profiles").mkdir(parents=True)
    (folder / "runtime.yaml").write_text(CONFIG)
    profile = folder / "profiles" / "p.yaml"
    profile.write_text("servers:\n  - fs\n  - name: own\n    command: x\n".replace("  - fs\n", ""))

    ended = program("server", "disable", "own", "--config", str(folder))

    assert ended.out == f"own is disabled in {profile}\n"
    assert (folder / "runtime.yaml").read_text() == CONFIG


def test_a_link_to_the_configuration_stays_one(program: Program, tmp_path: Path) -> None:
    real = tmp_path / "dotfiles.yaml"
    program.config.rename(real)
    program.config.symlink_to(real)

    program("server", "disable", "fs")

    assert program.config.is_symlink()
    assert "disabled: true" in real.read_text()


def test_a_running_node_reloads(program: Program, node: FakeNode) -> None:
    answer = {"outcome": "applied", "changes": [{"name": "fs", "class": "view"}], "warnings": []}
    node.reply("POST /api/v1/reload", ok(answer))

    ended = program("server", "edit", "fs", "--tag", "x")

    assert ended.out == f"fs is changed in {program.config}\napplied (fs: view)\n"
    assert json.loads(program("server", "disable", "fs", "--json").out)["reload"] == {
        "outcome": "reloaded",
        "applied": "applied",
        "changes": [{"name": "fs", "class": "view"}],
    }


def test_a_refused_reload_says_why_and_ends_1(program: Program, node: FakeNode) -> None:
    node.reply("POST /api/v1/reload", problem(422, "Configuration rejected", "fs does not start"))

    ended = program("server", "edit", "fs", "--tag", "x")

    assert ended.code == 1
    assert "the node goes on as it was: fs does not start" in ended.out


def test_a_node_on_another_configuration_is_left_alone(
    program: Program, node: FakeNode, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(CONFIG)

    ended = program("server", "disable", "fs", "--config", str(other))

    assert ended.out.splitlines()[1].endswith(f"restart it to use {other}")
    assert node.requests == []


def desktop(folder: Path) -> str:
    file = folder / "claude_desktop_config.json"
    file.write_text(DESKTOP)
    return str(file)


def test_an_import_says_what_it_would_do_and_writes_nothing(program: Program, tmp_path: Path) -> None:
    ended = program("import", desktop(tmp_path))

    said = ended.out.splitlines()
    assert "time: new" in said
    assert "  runs uvx mcp-server-time" in said
    assert "  runs gh-mcp --token '***'" in said
    assert "  TOKEN=***" in said
    assert "files: duplicate, fs is the same" in said
    assert any(line.startswith("fs: conflict, another server is named fs") for line in said)
    assert "mcpv: invalid, this is the node itself" in said
    assert any(line.startswith("bad: invalid, servers.bad.headers.Content-Type") for line in said)
    assert said[-1] == f"nothing is written; --write adds 2 servers to {program.config}"
    assert "s3cret" not in ended.out + ended.err
    assert program.config.read_text() == CONFIG


def test_an_import_with_consent_adds_what_is_new(program: Program, tmp_path: Path) -> None:
    ended = program("import", desktop(tmp_path), "--write", "--json")

    said = json.loads(ended.out)
    assert said["written"] is True
    assert [one["outcome"] for one in said["entries"]] == [
        "new",
        "new",
        "duplicate",
        "conflict",
        "invalid",
        "invalid",
    ]
    assert said["entries"][1]["source"] == {
        "client": "claude-desktop",
        "file": f"{tmp_path}/claude_desktop_config.json",
        "key": "mcpServers.GitHub",
    }
    assert "s3cret" not in ended.out
    written = program.config.read_text()
    assert written.startswith(CONFIG)
    assert "args: [--token, s3cret]\n    env:\n      TOKEN: s3cret\n" in written
    assert stat.S_IMODE(program.config.stat().st_mode) == 0o600
    assert program("import", desktop(tmp_path)).out.splitlines()[-1] == "there is nothing to add"


@pytest.mark.parametrize(("text", "said"), [("{", "is not JSON"), (None, "cannot be read: No such file")])
def test_a_file_that_cannot_be_imported_is_named(
    program: Program, tmp_path: Path, text: str | None, said: str
) -> None:
    file = tmp_path / "x.json"
    if text is not None:
        file.write_text(text)

    ended = program("import", str(file))

    assert (ended.code, ended.err.startswith(f"mcpv-node: {file} {said}")) == (1, True)


def test_an_export_prints_the_entry_and_where_it_goes(program: Program) -> None:
    ended = program("export", "claude-desktop", "--tag", "a", "--tag", "b")

    entry = json.loads(ended.out)["mcpServers"]["mcpv-a-b"]
    assert entry["args"][0] == "stdio"
    assert entry["args"][-2:] == ["--tag=a", "--tag=b"]
    assert "claude_desktop_config.json; --write merges it in" in ended.err


@pytest.mark.parametrize(
    ("client", "entry"),
    [
        ("claude-code", {"type": "http", "headers": {"Authorization": "Bearer ${MCPV_TOKEN}"}}),
        ("cursor", {"headers": {"Authorization": "Bearer ${env:MCPV_TOKEN}"}}),
        ("vscode", {"type": "http", "headers": {"Authorization": "Bearer ${input:mcpv-token}"}}),
        ("windsurf", {"headers": {"Authorization": "Bearer ${env:MCPV_TOKEN}"}}),
        ("codex", {"bearer_token_env_var": "MCPV_TOKEN"}),
        ("gemini", {"headers": {"Authorization": "Bearer ${MCPV_TOKEN}"}}),
    ],
)
def test_over_http_each_client_gets_its_own_words_and_no_token(
    program: Program, node: FakeNode, client: str, entry: dict[str, object]
) -> None:
    ended = program("export", client, "--http", "--server", "fs", "--json")

    said = json.loads(ended.out)
    url_key = {"windsurf": "serverUrl", "gemini": "httpUrl"}.get(client, "url")
    assert said["entry"] == {**entry, url_key: f"{node.file.http}/mcp/server/fs"}
    assert said["path"][-1] == "mcpv-fs"
    assert "a-token-for-tests" not in ended.out


def test_claude_desktop_speaks_stdio_only(program: Program) -> None:
    ended = program("export", "claude-desktop", "--http")

    assert (ended.code, ended.err) == (1, "mcpv-node: Claude Desktop runs commands only; use --stdio\n")


@pytest.mark.parametrize(
    ("client", "file", "text", "kept"),
    [
        (
            "cursor",
            ".cursor/mcp.json",
            '{\n  // mine\n  "mcpServers": {"x": {"command": "x"}}\n}\n',
            "  // mine\n",
        ),
        ("codex", ".codex/config.toml", '# mine\nmodel = "x"\n', '# mine\nmodel = "x"\n'),
        ("gemini", ".gemini/settings.json", '{"theme": "dark"}', '"theme": "dark"'),
    ],
)
def test_an_export_is_merged_and_the_file_as_it_was_stays_beside(
    program: Program, client: str, file: str, text: str, kept: str
) -> None:
    path = program.home / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    path.chmod(0o640)

    first = program("export", client, "--write")
    second = program("export", client, "--write")

    backup = path.with_name(f"{path.name}.before-mcpv-1")
    assert f"the file as it was: {backup}" in first.out
    assert "already" in second.out
    assert backup.read_text() == text
    assert not path.with_name(f"{path.name}.before-mcpv-2").exists()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert kept in path.read_text()


def test_vs_code_is_told_to_ask_for_the_token_once(program: Program, node: FakeNode, tmp_path: Path) -> None:
    program("export", "vscode", "--http", "--write")
    program("export", "vscode", "--http", "--server", "fs", "--write")

    written = json.loads((tmp_path / ".vscode" / "mcp.json").read_text())
    assert list(written["servers"]) == ["mcpv", "mcpv-fs"]
    assert [one["id"] for one in written["inputs"]] == ["mcpv-token"]


def test_a_file_that_cannot_be_merged_is_left_as_it_is(program: Program) -> None:
    path = program.home / ".cursor" / "mcp.json"
    path.parent.mkdir()
    path.write_text('{"mcpServers": []}')

    ended = program("export", "cursor", "--write")

    assert ended.code == 1
    assert "put the entry there by hand" in ended.err
    assert path.read_text() == '{"mcpServers": []}'


def test_explain_shows_every_setting_and_its_origin(program: Program) -> None:
    lines = program("validate", "--explain").out.splitlines()
    values = json.loads(program("validate", "--explain", "--json").out)["values"]

    assert any(line.split() == ["servers.fs.command", '"fs-server"', "runtime.yaml:4"] for line in lines)
    assert any(line.split() == ["servers.fs.idleSeconds", "60.0", "default"] for line in lines)
    assert len(values) == len(lines) - 2
    assert values[0] == {"key": "bootstrapMode", "value": "metadata", "from": "default"} | {
        "file": None, "line": None, "variables": [], "files": [], "because": None
    }  # fmt: skip


def test_problems_carry_what_was_found_what_is_allowed_and_the_nearest(program: Program) -> None:
    program.config.write_text("servers: [{name: a, command: x, strategy: statless, idelSeconds: 3}]\n")

    choice, key = json.loads(program("validate", "--json").err)["problems"]

    assert (choice["found"], choice["nearest"]) == ('"statless"', "stateless")
    assert choice["allowed"] == ["exclusive", "persistent", "singleton", "stateful", "stateless"]
    assert (key["found"], key["nearest"], "maxConcurrent" in key["allowed"]) == (
        "idelSeconds",
        "idleSeconds",
        True,
    )


def test_what_is_allowed_instead_of_a_key_is_told_once_each(program: Program) -> None:
    program.config.write_text("foo: 1\nservers: []\n")

    (key,) = json.loads(program("validate", "--json").err)["problems"]

    assert "servers" in key["allowed"]
    assert len(set(key["allowed"])) == len(key["allowed"])


@pytest.mark.parametrize(
    ("shell", "line"), [("bash", "complete -o"), ("zsh", "compdef"), ("fish", "complete ")]
)
def test_completion_is_a_script_that_asks_the_program(program: Program, shell: str, line: str) -> None:
    script = program("completion", shell).out

    assert "_MCPV_NODE_COMPLETE" in script
    assert line in script


def test_a_verb_and_its_options_are_completed(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    def completed(words: str) -> set[str]:
        monkeypatch.setenv("_MCPV_NODE_COMPLETE", "bash_complete")
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
        with pytest.raises(SystemExit):
            app.main([])
        return {line.partition(",")[2] for line in program.capture.readouterr().out.split()}

    assert {"import", "export", "server"} <= completed("mcpv-node ")
    assert completed("mcpv-node server en") == {"enable"}
    assert "codex" in completed("mcpv-node export ")


def test_the_bash_script_is_one(program: Program, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(program("completion", "bash").out)

    checked = subprocess.run(["bash", "-n", str(script)], check=False, capture_output=True, timeout=30)

    assert checked.returncode == 0, checked.stderr


def test_what_somebody_else_writes_meanwhile_is_not_lost(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = config_file.judge

    def judge_slowly(target: config_file.Target, changed: dict[Path, str]) -> object:
        program.config.write_text(CONFIG + "# theirs\n")
        return judged(target, changed)

    monkeypatch.setattr(config_file, "judge", judge_slowly)

    ended = program("server", "disable", "fs")

    assert (ended.code, "changed by somebody else" in ended.err) == (1, True)
    assert program.config.read_text() == CONFIG + "# theirs\n"
