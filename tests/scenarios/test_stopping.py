"""A node that stops: what is in hand ends well, nothing stays, and nobody else may be where it is."""

from __future__ import annotations

import http.client
import json
import signal
from pathlib import Path

import pytest
from support.nodes import BadServer, Node, refused_start, running_node
from support.processes import alive

LONG = 600


def states_told(node: Node, server: BadServer) -> list[str]:
    """Return the states of a server that the log tells of."""
    events = [line for line in node.log_lines() if line.get("event") == "server_state"]
    return [str(line["to"]) for line in events if line["server"] == server.name]


def until_draining(node: Node, server: BadServer) -> None:
    """Wait until the node has begun to stop."""
    node.until(lambda: "draining" in states_told(node, server)[-1:], "draining")


@pytest.fixture
def slow(tmp_path: Path) -> BadServer:
    return BadServer(tmp_path, "slow")


def test_a_stop_lets_the_call_in_hand_end_and_its_client_have_the_reply(
    tmp_path: Path, slow: BadServer
) -> None:
    with running_node(tmp_path, [slow.entry()]) as node, node.session() as session:
        node.until_learnt(["slow"])
        plain = session.call("slow_sleep", {"seconds": 1})
        streamed = session.call("slow_slow_progress", {"seconds": 1}, token="t")
        slow.until_told("call sleep")
        node.process.send_signal(signal.SIGTERM)

        texts = [plain.text(), streamed.text()]
        code = node.process.wait(30)

        assert texts == ["slept 1.0", "slept 1.0"]
        assert code == 0
        assert not (node.state_dir / "node.json").exists()
        assert not (node.state_dir / "node.sock").exists()
        assert node.leftovers() == []
        assert not any(map(alive, slow.starts()))
        assert not alive(node.guard)


def test_a_stop_over_rest_is_a_stop(tmp_path: Path, slow: BadServer) -> None:
    with running_node(tmp_path, [slow.entry()]) as node:
        status, body = node.rest("POST", "node/stop")

        assert (status, body) == (202, {"state": "stopping"})
        assert node.process.wait(30) == 0
        assert not (node.state_dir / "node.json").exists()


def test_the_stop_command_returns_when_the_node_is_gone(tmp_path: Path, slow: BadServer) -> None:
    with running_node(tmp_path, [slow.entry(activationMode="always-on")]) as node:
        node.until_state(slow, "ready")

        done = node.command("stop")

        assert done.returncode == 0, done.stderr
        assert node.process.wait(1) == 0
        assert node.leftovers() == []


def test_a_second_signal_does_not_wait_for_the_call_and_its_client_hears_of_it(
    tmp_path: Path, slow: BadServer
) -> None:
    with running_node(tmp_path, [slow.entry(drainTimeoutSeconds=LONG)]) as node, node.session() as session:
        node.until_learnt(["slow"])
        call = session.call("slow_sleep", {"seconds": LONG})
        slow.until_told("call sleep")
        node.process.send_signal(signal.SIGTERM)
        node.until(lambda: stopping(node), "stopping")
        assert not call.answered()
        node.process.send_signal(signal.SIGTERM)

        error = call.failure()

        assert node.process.wait(30) == 0
        assert (error["code"], error["data"]["reason"]) == (-31006, "stopping")
        assert error["data"]["executed"] == "unknown"
        assert node.leftovers() == []


def test_a_third_signal_ends_it_and_the_guard_cleans_up(tmp_path: Path) -> None:
    deaf = BadServer(tmp_path, "deaf")
    entry = deaf.entry(drainTimeoutSeconds=LONG, stopGraceSeconds=60)
    with running_node(tmp_path, [entry]) as node, node.session() as session:
        node.until_learnt(["deaf"])
        deaf.behave(IGNORE_TERM=1, IGNORE_STDIN_EOF=1)
        session.call("deaf_sleep", {"seconds": LONG})
        deaf.until_told("call sleep")
        for _ in range(3):
            node.process.send_signal(signal.SIGTERM)
            node.until(lambda: node.process.poll() is not None or stopping(node), "stopping")

        node.process.wait(30)

        node.until(lambda: node.leftovers() == [], "cleaned up")


def test_a_second_node_on_the_same_folder_is_refused_and_the_first_goes_on(
    tmp_path: Path, slow: BadServer
) -> None:
    with running_node(tmp_path, [slow.entry()]) as node:
        code, line = refused_start(tmp_path)

        assert code == 1
        assert str(node.pid) in json.loads(line)["error"]
        assert node.get("node")["pid"] == node.pid
        assert (node.state_dir / "node.json").exists()


def test_a_port_that_is_taken_is_named_in_a_sentence_and_nothing_stays(
    tmp_path: Path, slow: BadServer
) -> None:
    with running_node(tmp_path, [slow.entry()]) as node:
        other = tmp_path / "other"
        other.mkdir()
        (other / "node.yaml").write_text((tmp_path / "node.yaml").read_text())

        address = node.url.removeprefix("http://")
        code, line = refused_start(other, "--http", address)

        assert code == 1
        sentence = json.loads(line)["error"]
        assert address in sentence or address.rpartition(":")[2] in sentence, sentence
        assert "Traceback" not in line
        assert not (other / "state" / "node.json").exists()
        assert not (other / "state" / "node.sock").exists()


def stopping(node: Node) -> bool:
    """Whether the node has begun to stop: its door takes nobody new."""
    try:
        exchange = node.send("GET", "/readyz")
        try:
            return exchange.response.status != 200
        finally:
            exchange.hang_up()
    except (OSError, http.client.HTTPException):
        return True
