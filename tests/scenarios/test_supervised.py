"""`start --supervised`: whoever of the two is killed, the node runs again or everything is gone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import background_node_ended
from support.nodes import STOP_TIMEOUT, BadServer, environment, groups_gone, log_path, spawn_node
from support.processes import alive, group_members, wait_until
from support.supervised_nodes import SupervisedNode, ended_at_last, left_on, supervised

from mcpv_node.node_file import read_node_file
from mcpv_node.state_dir import running_supervisor

# It takes the guard a grace and a KILL to end this one.
STUBBORN = {"IGNORE_STDIN_EOF": 1, "IGNORE_TERM": 1}


def command(folder: Path, *words: str) -> tuple[int, str]:
    """Run `mcpv-node WORDS` about the node on `folder`/state; its exit code and stdout."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "mcpv_node", *words, "--state-dir", str(folder / "state")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(folder),
        timeout=STOP_TIMEOUT,
        check=False,
    )
    return done.returncode, (done.stdout + done.stderr).decode()


def always_on(server: BadServer) -> dict[str, object]:
    """A server that runs as long as its node."""
    return server.entry(activationMode="always-on", drainTimeoutSeconds=1, stopGraceSeconds=0.3)


def test_a_killed_node_is_started_again_with_the_same_options_after_its_guard_has_cleaned_up(
    tmp_path: Path,
) -> None:
    bad = BadServer(tmp_path, "bad", **STUBBORN)
    with supervised(tmp_path, [always_on(bad)], "--token", "none") as node:
        bad.until_told("initialize")
        first, server = node.ready, bad.starts()[0]

        node.kill_node()
        second = node.until_ready()

        # Ready means that what was left is gone: only then the new one has started its servers.
        assert group_members(server) == []
        assert second["pid"] != first["pid"]
        assert {**second, "pid": 0, "startTime": "", "http": ""} == {
            **first,
            "pid": 0,
            "startTime": "",
            "http": "",
        }
        assert second["tokenFile"] is None
        assert read_node_file(node.state_dir).pid == second["pid"]
        bad.until_told("initialize", times=2)
        assert any("was ended by SIGKILL after" in line for line in node.told())


def test_a_node_is_in_a_group_of_its_own_so_that_ctrl_c_reaches_it_once(tmp_path: Path) -> None:
    with supervised(tmp_path) as node:
        assert os.getpgid(node.pid) == node.pid

        node.process.send_signal(signal.SIGINT)

        assert node.wait() == 0
        assert node.told()[0] == "SIGINT: the node is asked to stop"


def test_when_the_supervisor_is_killed_the_node_stops_in_order_and_leaves_nothing(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad", **STUBBORN)
    with supervised(tmp_path, [always_on(bad)]) as node:
        bad.until_told("initialize")
        pid = node.pid

        node.process.kill()
        node.wait()

        assert wait_until(lambda: not alive(pid))
        assert node.is_all_gone()
        assert "the supervisor of this node has gone: the node stops" in node.log()
        # In order: the file of a killed node would still be there.
        assert not (node.state_dir / "node.json").exists()
        assert groups_gone(bad.starts())


def test_when_both_are_killed_nothing_is_left(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad", GRANDCHILD=1, **STUBBORN)
    with supervised(tmp_path, [always_on(bad)]) as node:
        bad.until_told("initialize")

        # The supervisor first: it has no time to see the other's end.
        node.process.send_signal(signal.SIGSTOP)
        node.kill_node()
        node.process.kill()
        node.wait()

        assert node.is_all_gone()
        assert groups_gone(bad.starts())


def test_the_second_signal_is_passed_on_too_and_skips_the_drain(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad", **STUBBORN)
    entry = {**always_on(bad), "drainTimeoutSeconds": 300, "stopGraceSeconds": 0.3}
    with supervised(tmp_path, [entry]) as node:
        bad.until_told("initialize")

        node.process.terminate()
        assert wait_until(lambda: bool(node.told()))
        node.process.terminate()

        assert node.wait() == 0


def test_a_hangup_is_passed_on_and_reloads_the_configuration(tmp_path: Path) -> None:
    with supervised(tmp_path) as node:
        node.process.send_signal(signal.SIGHUP)

        assert wait_until(lambda: "the configuration has not changed" in node.log())
        assert node.process.poll() is None


def test_a_node_that_is_asked_to_stop_itself_is_not_started_again(tmp_path: Path) -> None:
    with supervised(tmp_path) as node:
        os.kill(node.pid, signal.SIGTERM)

        assert node.wait() == 0
        assert node.told() == ["the node has ended as it was asked to"]


def test_stop_ends_node_and_supervisor(tmp_path: Path) -> None:
    with supervised(tmp_path) as node:
        code, said = command(tmp_path, "stop", "--json")

        assert (code, json.loads(said)) == (
            0,
            {"stopped": True, "pid": node.pid, "supervisor": node.process.pid},
        )
        # Reaped by nobody but us: it has ended when `stop` returns.
        assert node.process.poll() == 0
        assert not alive(node.pid)


def test_a_configuration_that_is_wrong_ends_it_with_3_at_once(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text("servers: 1\n")
    process = spawn_node(tmp_path, "--supervised")
    with ended_at_last(SupervisedNode(tmp_path, process)) as node:
        assert node.wait() == 3
        assert "node.yaml" in node.log()


def test_a_second_one_on_the_same_folder_is_refused_and_names_the_first(tmp_path: Path) -> None:
    with supervised(tmp_path) as node:
        for options in ((), ("--supervised",)):
            code, said = command(tmp_path, "start", *options, "--config", str(tmp_path / "node.yaml"))

            assert code == 1
            assert str(node.pid) in said


def test_detached_it_is_ready_when_the_node_is_and_one_stop_ends_both(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text('{"servers": [], "listen": {"http": "127.0.0.1:0"}}')
    folder = tmp_path / "state"
    with background_node_ended(folder):
        start = ("start", "--json", "--supervised", "--detach", "--config", str(tmp_path / "node.yaml"))
        code, said = command(tmp_path, *start)
        supervisor = running_supervisor(folder)

        assert code == 0, said
        assert json.loads(said)["pid"] == read_node_file(folder).pid
        assert supervisor is not None
        assert os.getsid(supervisor) == supervisor

        code, said = command(tmp_path, "stop")

        assert (code, said) == (0, f"the node and its supervisor have stopped (process {supervisor})\n")
        assert not alive(supervisor)
        assert wait_until(lambda: left_on(folder) == [])


def test_detached_a_node_that_was_killed_comes_back_by_itself(tmp_path: Path) -> None:
    (tmp_path / "node.yaml").write_text('{"servers": [], "listen": {"http": "127.0.0.1:0"}}')
    folder = tmp_path / "state"
    with background_node_ended(folder):
        assert (
            command(tmp_path, "start", "--supervised", "--detach", "--config", str(tmp_path / "node.yaml"))[0]
            == 0
        )
        first = read_node_file(folder).pid

        os.kill(first, signal.SIGKILL)

        assert wait_until(lambda: read_node_file(folder).pid != first)
        assert "was ended by SIGKILL" in (folder / "node.log").read_text()
        assert command(tmp_path, "stop")[0] == 0


# With short delays, and signs of life every half second.
SUPERVISE_QUICKLY = """
import json, sys
from mcpv_node.service.keeping import KeepingPolicy
from mcpv_node.service.supervised import supervise
from mcpv_node.supervisors import Backoff, RestartWindow
from mcpv_node.telemetry.logs import configure_logging

configure_logging("info")
policy = KeepingPolicy(float(sys.argv[1]), 1.0, RestartWindow(2, 60.0), Backoff(0.01, 0.02))
sys.exit(
    supervise(sys.argv[2:], policy, on_ready=lambda node: print(json.dumps({'pid': node.pid}), flush=True), on_stopping=lambda: None)
)
"""


def supervise_quickly(folder: Path, *options: str, stop_bound: float = STOP_TIMEOUT) -> SupervisedNode:
    """Run the supervisor with short delays, and a window of two restarts."""
    with log_path(folder).open("ab") as log:
        process = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-c",
                SUPERVISE_QUICKLY,
                str(stop_bound),
                "--state-dir",
                str(folder / "state"),
                *options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment(folder),
        )
    return SupervisedNode(folder, process)


def test_a_node_that_does_not_stay_up_is_given_up_with_1(tmp_path: Path) -> None:
    # A file where the folder is to be.
    (tmp_path / "state").write_text("")
    with ended_at_last(supervise_quickly(tmp_path)) as node:
        assert node.wait() == 1
        told = node.told()

    assert len([line for line in told if "starting it again" in line]) == 2
    assert told[-1].startswith("the node ended with exit code 1 after")
    assert told[-1].endswith("it was started again 2 times within 60 s: giving up")


@pytest.mark.parametrize(("option", "code"), [("--no-such-option", 2), ("--config=/no/such/file", 3)])
def test_a_first_start_that_is_mistaken_ends_it_with_the_nodes_own_code(
    tmp_path: Path, option: str, code: int
) -> None:
    with ended_at_last(supervise_quickly(tmp_path, option)) as node:
        assert node.wait() == code
        assert len(node.told()) == 1


def test_a_node_that_hangs_is_ended_and_started_again(tmp_path: Path) -> None:
    config = tmp_path / "node.yaml"
    config.write_text('{"servers": []}')
    options = ("--config", str(config), "--http", "127.0.0.1:0")
    with ended_at_last(supervise_quickly(tmp_path, *options)) as node:
        node.until_ready()
        hanging = node.pid

        # It does not even hear SIGABRT.
        os.kill(hanging, signal.SIGSTOP)
        node.until_ready()

        assert node.pid != hanging
        assert not alive(hanging)
        assert "the node gave no sign of life for 1 s: it is ended" in node.told()
        assert any("was ended by SIGKILL after" in line for line in node.told())


def test_a_node_that_does_not_stop_in_time_is_killed_and_its_servers_end_with_it(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad", **STUBBORN)
    config = tmp_path / "node.yaml"
    entry = bad.entry(activationMode="always-on", drainTimeoutSeconds=60, stopGraceSeconds=60)
    config.write_text(json.dumps({"servers": [entry]}))
    options = ("--config", str(config), "--http", "127.0.0.1:0")
    with ended_at_last(supervise_quickly(tmp_path, *options, stop_bound=0.5)) as node:
        bad.until_told("initialize")

        node.process.terminate()

        assert node.wait() == 1
        assert any("did not stop in time and is killed" in line for line in node.told())
        assert node.is_all_gone()
        assert groups_gone(bad.starts())
