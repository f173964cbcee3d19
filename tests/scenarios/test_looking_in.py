"""Looking into a node that serves: its log as it is written, and what its processes use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.nodes import BadServer, running_node

SECRET = "hunter2-and-more"


def lines_of(raw: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in raw.splitlines()]


@pytest.fixture
def one(tmp_path: Path) -> BadServer:
    return BadServer(tmp_path, "one")


def test_the_log_is_shown_of_the_level_and_the_server_that_are_asked_for(
    tmp_path: Path, one: BadServer
) -> None:
    other = BadServer(tmp_path, "other", EXIT_IN_HANDSHAKE=3)
    with running_node(tmp_path, [one.entry(), other.entry()]) as node:
        node.until_learnt(["one"])
        node.until(lambda: "other" in node.log() and "warning" in node.log(), "failed")

        everything = lines_of(node.command("logs", "--json").stdout)
        of_one = lines_of(node.command("logs", "--json", "--server", "one").stdout)
        warnings = lines_of(node.command("logs", "--json", "--level", "warning").stdout)
        readable = node.command("logs", "--server", "one").stdout.decode()

    assert {line.get("server") for line in everything} >= {"one", "other"}
    assert {line["server"] for line in of_one} == {"one"}
    assert {line["level"] for line in warnings} <= {"warning", "error"}
    assert "cold -> starting" in readable


def test_what_a_server_writes_to_stderr_is_in_the_log_with_whose_it_is_from_debug_on(tmp_path: Path) -> None:
    loud = BadServer(tmp_path, "loud", STDERR_LINES=3)
    with running_node(tmp_path, [loud.entry()], log={"level": "debug", "file": "own.log"}) as node:
        node.until_learnt(["loud"])
        shown = lines_of(node.command("logs", "--json", "--server", "loud").stdout)
    filed = lines_of((tmp_path / "own.log").read_bytes())

    for lines in (shown, filed):
        said = [line for line in lines if line["message"].startswith("stderr: ")]
        assert [(line["level"], line["server"], line["instance"]) for line in said] == [
            ("debug", "loud", "loud-1")
        ] * 3


def test_the_log_is_followed_and_resumed(tmp_path: Path, one: BadServer) -> None:
    with running_node(tmp_path, [one.entry(env={"API_TOKEN": SECRET})]) as node, node.session() as session:
        node.until_learnt(["one"])
        accept = {"Accept": "text/event-stream"}
        stream = node.send("GET", "/api/v1/logs?server=one", headers=accept)
        messages = stream.messages()
        first = json.loads(next(messages))
        session.text("one_echo", text=SECRET)
        seen = [first]
        while seen[-1].get("to") != "ready" or len(seen) < 3:
            seen.append(json.loads(next(messages)))
        stream.hang_up()

        again = node.send("GET", "/api/v1/logs?follow=false", headers={**accept, "Last-Event-ID": "x-1"})
        reset = json.loads(next(again.messages()))
        again.hang_up()

    assert {line["server"] for line in seen} == {"one"}
    assert SECRET not in json.dumps(seen)
    assert reset["kind"] == "reset"


def test_top_shows_each_instance_with_what_its_process_uses(tmp_path: Path, one: BadServer) -> None:
    with running_node(tmp_path, [one.entry(activationMode="always-on")]) as node:
        node.until_state(one, "ready")
        (pid,) = node.pids(one)

        screen = node.command("top").stdout.decode()
        data = json.loads(node.command("top", "--json").stdout)

    (row,) = [line.split() for line in screen.splitlines() if line.startswith("one-1")]
    assert row[1:3] == [str(pid), "ready"]
    assert row[-2] == "MB"
    assert data["usage"][str(pid)]["rssBytes"] > 0
    assert [server["name"] for server in data["servers"]] == ["one"]


def test_a_node_without_a_cluster_is_alone(tmp_path: Path) -> None:
    with running_node(tmp_path, []) as node:
        body = node.get("nodes")

    assert [(one["pid"], one["ready"]) for one in body["nodes"]] == [(node.pid, True)]
