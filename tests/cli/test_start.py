"""`mcpv-node start`: what it says, which signals it hears, how it ends; the node itself is a stand-in."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from contextlib import nullcontext
from pathlib import Path

import pytest
from support.commands import COMMAND_TIMEOUT, background_node_ended, ended, run_command, start_command
from support.processes import wait_until

from mcpv_node.cli.announce import claude_code_line
from mcpv_node.node_file import NodeFile, read_node_file


def next_line(process: subprocess.Popen[bytes]) -> bytes:
    """Read one line of its stdout."""
    assert process.stdout is not None
    return process.stdout.readline()


def rest(process: subprocess.Popen[bytes]) -> bytes:
    """Read its stdout to the end, and wait for its exit. Not communicate(): it misses what readline() buffered."""
    assert process.stdout is not None
    out = process.stdout.read()
    process.wait(COMMAND_TIMEOUT)
    return out


def stops_told(folder: Path) -> int:
    """Count the requests to stop that the node has heard."""
    return (folder / "story").read_text().count("stop")


def write_config(folder: Path, text: str = "servers: []\n") -> Path:
    """Write a configuration."""
    path = folder / "node.yaml"
    path.write_text(text)
    return path


def test_with_json_it_prints_one_line_once_it_is_ready(tmp_path: Path) -> None:
    with ended(start_command("start", "--json", state_dir=tmp_path)) as node:
        event = json.loads(next_line(node))
        file = read_node_file(tmp_path)
        node.terminate()
        out = rest(node)

    assert event == {"event": "ready", **file.to_data()}
    assert (node.returncode, out) == (0, b"")


def test_for_people_it_says_where_it_is_and_how_to_point_a_client_at_it(tmp_path: Path) -> None:
    with ended(start_command("start", state_dir=tmp_path)) as node:
        first = next_line(node)
        node.send_signal(signal.SIGINT)
        out = rest(node)

    assert first == b"mcpv-node 9.9.9 is ready (process %d)\n" % node.pid
    assert node.returncode == 0
    text = out.decode()
    assert "http://127.0.0.1:1/mcp" in text
    assert str(tmp_path / "token") in text
    assert "claude mcp add --transport http mcpv http://127.0.0.1:1/mcp" in text
    assert "mcpv-node stdio --state-dir" in text


def test_a_node_without_a_token_says_so_loudly(tmp_path: Path) -> None:
    with ended(start_command("start", "--token", "none", state_dir=tmp_path)) as node:
        next_line(node)
        node.terminate()
        out = rest(node)

    assert b"whoever reaches the endpoint may use every tool" in out
    assert b"Authorization" not in out


def test_the_first_signal_drains_the_second_does_not_wait_the_third_kills(tmp_path: Path) -> None:
    with ended(start_command("start", "--json", state_dir=tmp_path, MCPV_FAKE_ENDS_ON="kill")) as node:
        next_line(node)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            told = stops_told(tmp_path)
            node.send_signal(number)
            # Two signals of one kind at once would be one signal.
            assert wait_until(lambda told=told: stops_told(tmp_path) > told)
        assert node.wait(COMMAND_TIMEOUT) == 0

    story = (tmp_path / "story").read_text().splitlines()
    assert story[1:] == ["stop drain", "stop now", "stop kill"]


def test_a_root_that_gave_up_ends_it_with_1(tmp_path: Path) -> None:
    done = run_command("start", "--json", state_dir=tmp_path, MCPV_FAKE="gave-up")

    assert done.returncode == 1
    assert json.loads(done.stderr.splitlines()[-1])["error"] == "the root gave up: gateway"


def test_a_second_node_on_the_same_folder_is_refused_and_names_the_first(tmp_path: Path) -> None:
    with ended(start_command("start", "--json", state_dir=tmp_path)) as first:
        next_line(first)

        done = run_command("start", "--json", state_dir=tmp_path)

        assert (done.returncode, done.stdout) == (1, b"")
        assert f"process {first.pid}" in json.loads(done.stderr)["error"]


def test_a_wrong_configuration_ends_it_with_3_and_all_problems(tmp_path: Path) -> None:
    config = write_config(tmp_path, "servers: 1\nbootstrapMode: sometimes\n")

    done = run_command("start", "--config", str(config), state_dir=tmp_path)

    assert (done.returncode, done.stdout) == (3, b"")
    assert b"node.yaml:1" in done.stderr
    assert b"node.yaml:2: bootstrapMode" in done.stderr


def test_a_state_folder_that_cannot_be_made_ends_it_with_1(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    done = run_command("start", "--state-dir", str(tmp_path / "file" / "x"), state_dir=tmp_path)

    assert done.returncode == 1
    assert b"--state-dir" in done.stderr


def test_the_state_folder_is_its_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "state"
    with ended(start_command("start", "--json", "--state-dir", str(folder), state_dir=tmp_path)) as node:
        next_line(node)

        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_configurations_own_state_folder_is_heard_last(tmp_path: Path) -> None:
    config = write_config(tmp_path, "servers: []\nstateDir: own\n")
    arguments = ("start", "--json", "--config", str(config))
    with ended(start_command(*arguments, state_dir=tmp_path, MCPV_STATE_DIR="")) as node:
        event = json.loads(next_line(node))

    assert event["socket"] == str(tmp_path / "own" / "node.sock")


def test_detached_it_returns_once_the_node_is_ready(tmp_path: Path) -> None:
    with background_node_ended(tmp_path):
        done = run_command("start", "--detach", "--linger", "90", "--json", state_dir=tmp_path)

        file = read_node_file(tmp_path)
        assert (done.returncode, done.stderr) == (0, b"")
        assert json.loads(done.stdout) == {"event": "ready", **file.to_data()}
        assert os.getsid(file.pid) == file.pid
        assert "linger=90.0 http=None cwd=/" in (tmp_path / "story").read_text()


def test_detached_it_keeps_paths_that_were_relative(tmp_path: Path) -> None:
    write_config(tmp_path)
    options = ("--config", "node.yaml", "--token", "my-token", "--http", "127.0.0.1:0", "--state-dir", "s")
    with background_node_ended(tmp_path / "s"):
        done = run_command("start", "--detach", "--json", *options, state_dir=tmp_path, cwd=tmp_path)

        event = json.loads(done.stdout)
        assert event["configPath"] == str(tmp_path / "node.yaml")
        assert event["tokenFile"] == str(tmp_path / "my-token")
        assert event["socket"] == str(tmp_path / "s" / "node.sock")


def test_detached_its_log_is_its_owners_and_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "node.log"
    log.write_text("earlier\n")
    log.chmod(0o600)
    with background_node_ended(tmp_path):
        run_command("start", "--detach", state_dir=tmp_path)

        assert log.read_text().startswith("earlier\n")
        assert stat.S_IMODE(log.stat().st_mode) == 0o600


@pytest.mark.parametrize("fate", ["", "crash"])
def test_detached_a_log_that_is_long_begins_anew_and_still_explains_a_death(
    tmp_path: Path, fate: str
) -> None:
    config = write_config(tmp_path, "servers: []\nlog: {rotateMB: 1}\n")
    log = tmp_path / "node.log"
    log.write_text("earlier\n" * 140_000)
    with background_node_ended(tmp_path) if not fate else nullcontext():
        done = run_command("start", "--detach", "--config", str(config), state_dir=tmp_path, MCPV_FAKE=fate)

        assert (tmp_path / "node.log.1").read_text() == "earlier\n" * 140_000
        assert "a node that is none begins" in log.read_text()
        assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert (b"a line before the end" in done.stderr) is bool(fate)


def test_detached_a_second_node_is_refused_in_the_first_ones_favour(tmp_path: Path) -> None:
    with background_node_ended(tmp_path):
        run_command("start", "--detach", state_dir=tmp_path)
        file = read_node_file(tmp_path)

        done = run_command("start", "--detach", "--json", state_dir=tmp_path)

        assert done.returncode == 1
        assert json.loads(done.stderr)["error"] == f"another node runs on {tmp_path}: process {file.pid}"
        assert read_node_file(tmp_path) == file


def test_detached_a_node_that_dies_in_its_start_is_explained_by_its_last_lines(tmp_path: Path) -> None:
    (tmp_path / "node.log").write_text('{"error": "of an earlier start"}\n')

    done = run_command("start", "--detach", state_dir=tmp_path, MCPV_FAKE="crash")

    assert done.returncode == 1
    assert b"a line before the end" in done.stderr
    assert b"earlier" not in done.stderr


@pytest.mark.parametrize("json_flag", [[], ["--json"]])
def test_detached_a_wrong_configuration_ends_it_with_3(tmp_path: Path, json_flag: list[str]) -> None:
    config = write_config(tmp_path, "servers: 1\n")

    done = run_command("start", "--detach", *json_flag, "--config", str(config), state_dir=tmp_path)

    assert done.returncode == 3
    assert b"node.yaml" in done.stderr


def test_the_line_for_a_client_never_holds_the_token_and_quotes_its_file() -> None:
    node = NodeFile(
        pid=1,
        start_time="",
        version="1",
        http="http://127.0.0.1:8090",
        socket="/s",
        token_file="/a b/token",
        config_path=None,
    )

    assert claude_code_line(node) == (
        "claude mcp add --transport http mcpv http://127.0.0.1:8090/mcp "
        "--header \"Authorization: Bearer $(cat '/a b/token')\""
    )
