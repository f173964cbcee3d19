"""Real servers from the package indexes: learnt once, listed with nothing running, called, stopped when idle."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from support.nodes import Node, ended_at_last, groups_gone, start_node, start_node_as_configured
from support.processes import wait_until
from support.real_servers import everything_argv, filesystem_argv, time_argv

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NAMES = ("everything", "files", "time")

# Node.js needs a second to start on a busy machine, and here three of them start at once.
LEARNING_TIMEOUT = 60.0


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A state folder in which a node has learnt the three servers, and the names it listed."""
    folder = tmp_path_factory.mktemp("real")
    shared = folder / "shared"
    shared.mkdir()
    (shared / "hello.txt").write_text("hello from a file\n")
    programs = {"everything": everything_argv(), "files": filesystem_argv(shared), "time": time_argv()}
    # Through links of ours, so that a later start can find them broken without another spec key.
    links = folder / "bin"
    links.mkdir()
    for name, argv in programs.items():
        (links / name).symlink_to(argv[0])
    path = f"{Path(programs['everything'][0]).parent}:{os.environ['PATH']}"
    entries = [
        {
            "name": name,
            "command": str(links / name),
            "args": argv[1:],
            "idleSeconds": 1,
            "env": {"PATH": path},
        }
        for name, argv in programs.items()
    ]
    with ended_at_last(start_node(folder, entries)) as node:
        assert wait_until(lambda: servers_listed(node) == set(NAMES), LEARNING_TIMEOUT), node.log()
        node.until_learnt(NAMES)
        with node.session() as session:
            names = session.tools()
    return folder, names


def servers_listed(node: Node) -> set[str]:
    return {entry["server"] for entry in node.get("catalog/tools")["entries"]}


def processes(node: Node) -> list[Any]:
    return [instance for name in NAMES for instance in node.why(name)["instances"]]


def test_on_the_second_start_all_tools_are_listed_before_anything_runs(
    learnt: tuple[Path, list[str]],
) -> None:
    folder, names = learnt
    with ended_at_last(start_node_as_configured(folder)) as node, node.session() as session:
        listed = session.tools()
        catalog = node.get("catalog/tools")

        assert listed == names
        assert len(listed) > 20
        assert [node.why(name)["starts"] for name in NAMES] == [0, 0, 0]
        assert node.leftovers() == []
        assert {entry["source"] for entry in catalog["entries"]} == {"cache"}
        assert {entry["cold"] for entry in catalog["entries"]} == {True}


def test_each_is_called_and_each_stops_when_idle(learnt: tuple[Path, list[str]]) -> None:
    folder, _ = learnt
    hello = str(folder / "shared" / "hello.txt")
    with ended_at_last(start_node_as_configured(folder)) as node, node.session() as session:
        echoed = session.text("everything_echo", message="hello")
        read = session.text("files_read_text_file", path=hello)
        now = session.text("time_get_current_time", timezone="UTC")
        pids = [instance["pid"] for instance in processes(node)]

        assert "hello" in echoed
        assert "hello from a file" in read
        assert "UTC" in now
        for name in NAMES:
            node.until_state(name, "cold")
        assert groups_gone(pids)
        assert [node.why(name)["starts"] for name in NAMES] == [1, 1, 1]
        assert session.tools()


def test_lists_answer_when_no_command_works_any_more(learnt: tuple[Path, list[str]]) -> None:
    folder, names = learnt
    links = {name: os.readlink(folder / "bin" / name) for name in NAMES}
    for name in NAMES:
        (folder / "bin" / name).unlink()
    try:
        with ended_at_last(start_node_as_configured(folder)) as node, node.session() as session:
            listed = session.tools()
            error = session.call("time_get_current_time", {"timezone": "UTC"}).failure()
            still = session.tools()

            assert listed == still == names
            assert {entry["source"] for entry in node.get("catalog/tools")["entries"]} == {"cache"}
            assert error["data"]["reason"] == "start_failed"
            assert str(folder / "bin" / "time") in error["message"]
    finally:
        for name, target in links.items():
            (folder / "bin" / name).symlink_to(target)
