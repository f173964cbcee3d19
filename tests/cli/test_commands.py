"""What the commands print, and how they end, against a node whose answers are given."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from support.fake_node import (
    CATALOG,
    REPORT,
    FakeNode,
    answer_line,
    ok,
    problem,
    result_line,
    running_fake_node,
)

from mcpv_node.cli import app, stop
from mcpv_node.cli.output import clean, clean_text
from mcpv_node.node_file import process_start_time, write_node_file

NOBODY = 2**22 + 1


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Program:
    """The command line, in this process."""

    capture: pytest.CaptureFixture[str]
    state_dir: Path

    def __call__(self, *arguments: str) -> Ended:
        code = app.main(["--state-dir", str(self.state_dir), *arguments])
        said = self.capture.readouterr()
        return Ended(code, said.out, said.err)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    with running_fake_node(tmp_path) as running:
        yield running


@pytest.fixture
def program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(capsys, tmp_path)


def call_answers(result: Any) -> Any:
    """Answer `tools/call` with this result."""

    def answers(message: dict[str, Any]) -> list[bytes]:
        if message.get("method") == "tools/call":
            return [result_line(message, result)]
        return answer_line(message)

    return answers


def call_error(error: Any) -> Any:
    """Answer `tools/call` with this error."""

    def answers(message: dict[str, Any]) -> list[bytes]:
        if message.get("method") == "tools/call":
            return [json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}).encode() + b"\n"]
        return answer_line(message)

    return answers


@pytest.mark.parametrize(
    ("verb", "body"),
    [
        (("status",), {"version": "9.9.9"}),
        (("status", "fs"), REPORT),
        (("why", "fs"), REPORT),
        (("servers",), [REPORT]),
        (("tools",), CATALOG),
    ],
)
def test_json_is_the_body_as_the_node_sent_it(
    node: FakeNode, program: Program, verb: tuple[str, ...], body: Any
) -> None:
    node.reply("GET /api/v1/node", ok({"version": "9.9.9"}))

    ended = program(*verb, "--json")

    assert (ended.code, ended.out, ended.err) == (0, json.dumps(body) + "\n", "")


def test_json_may_stand_before_the_verb(node: FakeNode, program: Program) -> None:
    assert program("--json", "servers").out == program("servers", "--json").out


def test_the_state_folder_may_stand_after_the_verb(
    node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["servers", "--state-dir", str(node.state_dir)]) == 0


@pytest.mark.parametrize("verb", [["status"], ["why", "fs"], ["servers"], ["tools"], ["call", "x"], ["stop"]])
def test_without_a_node_every_verb_ends_4_and_says_what_to_do(program: Program, verb: list[str]) -> None:
    ended = program(*verb)

    assert (ended.code, ended.out) == (4, "")
    assert "mcpv-node start" in ended.err


def test_with_json_a_failure_is_an_object_on_stderr(program: Program) -> None:
    ended = program("status", "--json")

    assert (ended.code, ended.out) == (4, "")
    assert "no node runs" in json.loads(ended.err)["error"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["dance"],
        ["status", "--loud"],
        ["why"],
        ["server", "stop"],
        ["server", "dance", "fs"],
        ["server", "stop", "fs", "--wait", "soon"],
        ["call", "x", "--args", "{"],
        ["call", "x", "--args", "[]"],
        ["call", "x", "--args", "@/no/such/file"],
        ["start", "--http", "nowhere"],
        ["start", "--linger", "0"],
        ["stdio", "--loud"],
    ],
)
def test_what_cannot_be_understood_ends_2(program: Program, arguments: list[str]) -> None:
    ended = program(*arguments)

    assert (ended.code, ended.out) == (2, "")


def test_no_verb_at_all_shows_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    code = app.main([])

    shown = capsys.readouterr().err
    assert code == 2
    assert [verb for verb in app.VERBS if f"\n  {verb} " not in shown] == []


@pytest.mark.parametrize("verb", app.VERBS)
def test_every_verb_explains_itself(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    code = app.main([verb, "--help"])

    assert code == 0
    assert f"mcpv-node {verb}" in capfd.readouterr().out


def test_status_shows_the_node_and_its_servers(node: FakeNode, program: Program) -> None:
    out = program("status").out

    assert f"process {os.getpid()}" in out
    assert f"{node.file.http}/mcp" in out
    assert "fs" in out


def test_a_table_is_aligned_text_where_nobody_looks(node: FakeNode, program: Program) -> None:
    header, fs, clock = program("tools").out.splitlines()

    assert header.index("SERVER") == fs.index("fs", 5) == clock.index("clock", 6)
    assert fs.split() == ["fs_read", "fs", "cache,", "stale"]


def test_a_terminal_gets_the_same_cells_and_no_markup_of_a_servers_making(
    node: FakeNode, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.reply("GET /api/v1/servers", ok([{**REPORT, "reason": "[red]boo[/red]"}]))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")

    out = program("servers").out

    assert "suspended" in out
    assert "[red]boo[/red]" in out


def test_rich_is_not_loaded_where_nobody_looks(node: FakeNode) -> None:
    script = (
        "import sys; from mcpv_node.cli.app import main; main(sys.argv[1:]); print('rich' in sys.modules)"
    )
    arguments = ["servers", "--state-dir", str(node.state_dir)]

    out = subprocess.run(
        [sys.executable, "-P", "-c", script, *arguments], capture_output=True, check=True
    ).stdout

    assert out.splitlines()[-1] == b"False"


def test_a_catalog_that_is_not_complete_says_so(node: FakeNode, program: Program) -> None:
    node.reply("GET /api/v1/catalog/tools", ok({**CATALOG, "complete": False}))

    assert "not been learnt" in program("tools").err


def test_why_tells_the_reason_and_the_facts(node: FakeNode, program: Program) -> None:
    out = program("why", "fs").out

    assert out.startswith("fs is suspended: it failed to start 6 times in a row; retry tries again\n")
    assert "SIGKILL at 2026-01-31T09:08:07.006Z" in out
    assert "6 times, 5 restarts (last cause: tool_call)" in out
    assert "3 ok, 1 failed, 0 refused, 2 waiting" in out
    assert "fs-7" in out
    assert "mcpv-node server retry fs" in out


def test_what_a_server_wrote_cannot_move_the_cursor(node: FakeNode, program: Program) -> None:
    out = program("why", "fs").out

    assert "\x1b" not in out
    assert "no such \N{REPLACEMENT CHARACTER}[31mfolder" in out


def test_a_server_that_is_not_there_ends_1(node: FakeNode, program: Program) -> None:
    node.reply("GET /api/v1/servers/nfs", problem(404, "Not Found", "there is no server named nfs"))

    ended = program("why", "nfs", "--json")

    assert ended.code == 1
    error = json.loads(ended.err)
    assert error == {"error": "there is no server named nfs", "status": 404, "title": "Not Found"}


def test_no_servers_is_a_sentence(node: FakeNode, program: Program) -> None:
    node.reply("GET /api/v1/servers", ok([]))

    assert program("servers").out == "no servers are configured\n"


@pytest.mark.parametrize("verb", ["start", "stop", "retry"])
def test_an_act_on_a_server_tells_its_state_at_once(node: FakeNode, program: Program, verb: str) -> None:
    node.reply(f"POST /api/v1/servers/fs/{verb}", ok({"state": "backing_off"}, 202))

    ended = program("server", verb, "fs")

    assert (ended.code, ended.out) == (0, "fs is backing off\n")


@pytest.mark.parametrize(
    ("verb", "state", "code"),
    [
        ("start", "ready", 0),
        ("start", "degraded", 0),
        ("start", "starting", 1),
        ("start", "suspended", 1),
        ("stop", "disabled", 0),
        ("stop", "cold", 0),
        ("stop", "draining", 1),
        ("stop", "ready", 1),
        ("retry", "ready", 0),
        ("retry", "cold", 0),
        ("retry", "backing_off", 1),
    ],
)
def test_with_wait_it_ends_0_only_when_the_outcome_is_what_was_asked_for(
    node: FakeNode, program: Program, verb: str, state: str, code: int
) -> None:
    node.reply(f"POST /api/v1/servers/fs/{verb}?wait=5", ok({"state": state}, 202))

    ended = program("server", verb, "fs", "--wait", "5")

    assert ended.code == code
    assert ("mcpv-node why fs" in ended.err) == bool(code)


def test_call_prints_the_text(node: FakeNode, program: Program) -> None:
    node.line_answers = call_answers(
        {"content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}
    )

    ended = program("call", "fs_read", "--args", '{"path": "x"}')

    assert (ended.code, ended.out) == (0, "one\ntwo\n")
    assert json.loads(node.lines[-1])["params"]["arguments"] == {"path": "x"}


def test_call_says_what_it_does_not_show(node: FakeNode, program: Program) -> None:
    node.line_answers = call_answers({"content": [{"type": "image", "data": "", "mimeType": "image/png"}]})

    ended = program("call", "fs_read")

    assert (ended.code, ended.out) == (0, "")
    assert "image" in ended.err


def test_call_prints_the_raw_result_with_json(node: FakeNode, program: Program) -> None:
    node.line_answers = call_answers({"content": [], "structuredContent": {"a": 1}})

    assert program("call", "fs_read", "--json").out == '{"content": [], "structuredContent": {"a": 1}}\n'


def test_call_ends_1_when_the_tool_reports_an_error(node: FakeNode, program: Program) -> None:
    node.line_answers = call_answers({"content": [{"type": "text", "text": "no such file"}], "isError": True})

    ended = program("call", "fs_read")

    assert (ended.code, ended.out) == (1, "no such file\n")


def test_call_reads_its_arguments_from_a_file(node: FakeNode, program: Program, tmp_path: Path) -> None:
    node.line_answers = call_answers({"content": []})
    (tmp_path / "args.json").write_text('{"from": "file"}')

    program("call", "fs_read", "--args", f"@{tmp_path / 'args.json'}")

    assert json.loads(node.lines[-1])["params"]["arguments"] == {"from": "file"}


def test_call_reads_its_arguments_from_stdin(
    node: FakeNode, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.line_answers = call_answers({"content": []})
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"from": "stdin"}'))

    program("call", "fs_read", "--args", "-")

    assert json.loads(node.lines[-1])["params"]["arguments"] == {"from": "stdin"}


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        ({"code": -32602, "message": "unknown tool"}, "mcpv-node tools"),
        (
            {"code": -31005, "message": "suspended", "data": {"reason": "suspended", "server": "fs"}},
            "mcpv-node why fs",
        ),
        (
            {"code": -31007, "message": "it died", "data": {"reason": "instance_died", "server": "fs"}},
            "mcpv-node why fs",
        ),
    ],
)
def test_a_refused_call_says_what_to_do_next(
    node: FakeNode, program: Program, error: Any, advice: str
) -> None:
    node.line_answers = call_error(error)

    ended = program("call", "fs_read")

    assert (ended.code, ended.out) == (1, "")
    assert error["message"] in ended.err
    assert advice in ended.err


def test_a_refused_call_has_code_and_data_with_json(node: FakeNode, program: Program) -> None:
    node.line_answers = call_error({"code": -31001, "message": "full", "data": {"reason": "overloaded"}})

    error = json.loads(program("call", "fs_read", "--json").err)

    assert (error["code"], error["data"]) == (-31001, {"reason": "overloaded"})


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that stands for the node's."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def test_stop_returns_when_the_process_is_gone(
    tmp_path: Path, program: Program, sleeper: subprocess.Popen[bytes]
) -> None:
    with running_fake_node(tmp_path, pid=sleeper.pid) as node:
        node.reply("POST /api/v1/node/stop", ok({"state": "stopping"}, 202))
        node.on_request = lambda _request: sleeper.terminate()

        ended = program("stop", "--json")

    assert (ended.code, json.loads(ended.out)) == (0, {"stopped": True, "pid": sleeper.pid})
    assert sleeper.poll() is not None


def test_stop_ends_1_when_the_process_stays(
    tmp_path: Path, program: Program, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop, "DEFAULT_DRAIN", 0.0)
    monkeypatch.setattr(stop, "AFTER_DRAIN", 0.1)
    with running_fake_node(tmp_path, pid=sleeper.pid) as node:
        node.reply("POST /api/v1/node/stop", ok({"state": "stopping"}, 202))

        ended = program("stop")

    assert ended.code == 1
    assert f"kill {sleeper.pid}" in ended.err


def test_a_second_stop_waits_though_the_doors_are_closed(
    tmp_path: Path, program: Program, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminate(*_: object) -> bool:
        sleeper.terminate()
        return True

    with running_fake_node(tmp_path, pid=sleeper.pid) as node:
        write_node_file(tmp_path, replace(node.file, http="http://127.0.0.1:1"))
        monkeypatch.setattr(stop, "wait_until_gone", terminate)

        assert program("stop").code == 0


def test_stop_without_pidfd_looks_until_the_process_is_gone(
    tmp_path: Path, program: Program, sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    with running_fake_node(tmp_path, pid=sleeper.pid) as node:
        node.reply("POST /api/v1/node/stop", ok({"state": "stopping"}, 202))
        node.on_request = lambda _request: sleeper.terminate()

        assert program("stop").code == 0


def test_the_file_of_a_dead_node_is_not_stopped_but_explained(node: FakeNode, program: Program) -> None:
    write_node_file(node.state_dir, replace(node.file, pid=NOBODY))

    ended = program("stop")

    assert ended.code == 4
    assert "not running" in ended.err


@pytest.mark.skipif(process_start_time(os.getpid()) is None, reason="start times are read from /proc")
def test_a_stranger_with_the_nodes_process_id_is_not_stopped(node: FakeNode, program: Program) -> None:
    write_node_file(node.state_dir, replace(node.file, start_time="1"))

    ended = program("stop")

    assert (ended.code, node.requests) == (4, [])


def test_validate_accepts_the_packaged_configuration(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MCPV_CONFIG", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", "/no/such/folder")

    ended = program("validate", "--json")

    assert ended.code == 0
    assert json.loads(ended.out)["ok"] is True


def test_validate_names_every_problem_with_file_and_line(program: Program, tmp_path: Path) -> None:
    config = tmp_path / "node.yaml"
    config.write_text("servers:\n  - name: fs\n    comand: x\nbootstrapMode: sometimes\n")

    ended = program("validate", "--config", str(config))

    assert (ended.code, ended.out) == (3, "")
    assert f"{config}:3: " in ended.err
    assert f"{config}:4: bootstrapMode: " in ended.err


def test_validate_gives_the_problems_as_data_with_json(program: Program, tmp_path: Path) -> None:
    config = tmp_path / "node.yaml"
    config.write_text("servers: []\nbootstrapMode: sometimes\n")

    ended = program("validate", "--config", str(config), "--json")

    (found,) = json.loads(ended.err)["problems"]
    assert (ended.code, found["file"], found["line"], found["key"]) == (3, str(config), 2, "bootstrapMode")


def test_validate_of_a_file_that_is_not_there_ends_3(program: Program) -> None:
    assert program("validate", "--config", "/no/such/file").code == 3


def test_version_is_one_line(program: Program) -> None:
    ended = program("version")

    assert ended.code == 0
    assert ended.out.startswith("mcpv-node ")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ä 漢", "plain ä 漢"),
        ("a\nb\tc", "a b c"),
        ("\x1b[2J", "\N{REPLACEMENT CHARACTER}[2J"),
        ("", ""),
    ],
)
def test_text_for_one_line_has_no_control_characters(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_text_of_many_lines_keeps_its_lines() -> None:
    assert clean_text("a\n\tb\x07") == "a\n    b\N{REPLACEMENT CHARACTER}"


def test_a_reload_that_comes_after_the_nodes_own_says_what_that_has_changed(
    node: FakeNode, program: Program
) -> None:
    node.reply("POST /api/v1/reload", ok({"outcome": "unchanged", "changes": [], "warnings": []}))
    config = {"appliedAt": "2026-01-31T09:08:07.006Z", "changes": [{"class": "replaced", "name": "fs"}]}
    node.reply("GET /api/v1/node", ok({"ready": True, "config": config}))

    out = program("reload").out

    assert out == (
        "nothing has changed\n"
        "what is in the files is in effect since 2026-01-31T09:08:07.006Z (fs: replaced)\n"
    )


def test_a_reload_that_is_refused_says_that_the_node_goes_on_and_what_to_do(
    node: FakeNode, program: Program
) -> None:
    node.reply(
        "POST /api/v1/reload", problem(422, "Unprocessable Content", "it has errors", problems=["a: b"])
    )

    ended = program("reload")

    assert (ended.code, ended.out) == (1, "")
    assert "goes on as it was: it has errors" in ended.err
    assert "mcpv-node validate" in ended.err


def test_why_tells_that_the_files_are_not_what_is_in_effect(node: FakeNode, program: Program) -> None:
    trouble = {"reason": "fs: there is no program", "problems": []}
    config = {"appliedAt": "2026-01-31T09:08:07.006Z", "changes": [], "problem": trouble}
    node.reply("GET /api/v1/node", ok({"ready": True, "config": config}))

    out = program("why", "fs").out

    assert "the change is not in effect:\n  fs: there is no program\n" in out
    assert "mcpv-node reload" in out
