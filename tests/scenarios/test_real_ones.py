"""Real servers from the package indexes: learnt once, listed with nothing running, called, stopped when idle."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from support.nodes import Node, ended_at_last, groups_gone, start_node, start_node_as_configured
from support.processes import wait_until
from support.real_servers import everything_argv, filesystem_argv, git_argv, memory_argv, time_argv

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NAMES = ("everything", "files", "memory", "time", "git")

# Node.js needs a second to start on a busy machine, and here three of them start at once.
LEARNING_TIMEOUT = 60.0

# The official client waits for ever by itself; four lists take a fraction of a second.
CONVERSATION_TIMEOUT = 30.0


@dataclass(frozen=True)
class Lists:
    """What the official client is shown."""

    tools: list[str]
    resources: list[str]
    templates: list[str]
    prompts: list[str]


async def all_pages(ask: Callable[..., Awaitable[Any]], member: str, key: str) -> list[str]:
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = await ask(cursor=cursor)
        found += [str(getattr(one, key)) for one in getattr(page, member)]
        cursor = page.next_cursor
        if cursor is None:
            return found


def lists_shown(node: Node) -> Lists:
    """Have the official client read every list to its end."""

    async def main() -> Lists:
        headers = {"Authorization": f"Bearer {node.token}"}
        async with asyncio.timeout(CONVERSATION_TIMEOUT), httpx2.AsyncClient(headers=headers) as http:
            transport = streamable_http_client(f"{node.url}/mcp", http_client=http)
            async with Client(transport, mode="legacy") as client:
                return Lists(
                    tools=await all_pages(client.list_tools, "tools", "name"),
                    resources=await all_pages(client.list_resources, "resources", "uri"),
                    templates=await all_pages(
                        client.list_resource_templates, "resource_templates", "uri_template"
                    ),
                    prompts=await all_pages(client.list_prompts, "prompts", "name"),
                )

    return asyncio.run(main())


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Lists]:
    """A state folder in which a node has learnt the five servers, and what it listed."""
    folder = tmp_path_factory.mktemp("real")
    shared = folder / "shared"
    shared.mkdir()
    (shared / "hello.txt").write_text("hello from a file\n")
    repository = folder / "repository"
    subprocess.run(["git", "init", "--quiet", str(repository)], check=True, timeout=CONVERSATION_TIMEOUT)
    programs = {
        "everything": everything_argv(),
        "files": filesystem_argv(shared),
        "memory": memory_argv(),
        "time": time_argv(),
        "git": git_argv(repository),
    }
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
            "env": {"PATH": path, "MEMORY_FILE_PATH": str(folder / "memory.json")},
        }
        for name, argv in programs.items()
    ]
    with ended_at_last(start_node(folder, entries)) as node:
        assert wait_until(lambda: servers_listed(node) == set(NAMES), LEARNING_TIMEOUT), node.log()
        node.until_learnt(NAMES)
        shown = lists_shown(node)
        for name in NAMES:
            node.until_state(name, "cold")
    return folder, shown


def servers_listed(node: Node) -> set[str]:
    return {entry["server"] for entry in node.get("catalog/tools")["entries"]}


def processes(node: Node) -> list[Any]:
    return [instance for name in NAMES for instance in node.why(name)["instances"]]


def sources(node: Node) -> set[tuple[str, bool]]:
    """Where the entries of all kinds come from, and whether their servers are cold."""
    kinds = ("tools", "resources", "prompts")
    return {
        (entry["source"], entry["cold"]) for kind in kinds for entry in node.get(f"catalog/{kind}")["entries"]
    }


def test_all_that_they_offer_is_learnt(learnt: tuple[Path, Lists]) -> None:
    _, shown = learnt

    assert {name.partition("_")[0] for name in shown.tools} == set(NAMES)
    assert len(shown.tools) > 40
    assert shown.resources
    assert shown.templates
    assert shown.prompts


def test_on_the_second_start_all_is_listed_before_anything_runs(learnt: tuple[Path, Lists]) -> None:
    folder, before = learnt
    with ended_at_last(start_node_as_configured(folder)) as node:
        shown = lists_shown(node)

        assert shown == before
        assert [node.why(name)["starts"] for name in NAMES] == [0] * len(NAMES)
        assert node.leftovers() == []
        assert sources(node) == {("cache", True)}


def test_each_is_called_and_each_stops_when_idle(learnt: tuple[Path, Lists]) -> None:
    folder, _ = learnt
    hello = str(folder / "shared" / "hello.txt")
    with ended_at_last(start_node_as_configured(folder)) as node, node.session() as session:
        echoed = session.text("everything_echo", message="hello")
        read = session.text("files_read_text_file", path=hello)
        now = session.text("time_get_current_time", timezone="UTC")
        graph = session.text("memory_read_graph")
        status = session.text("git_git_status", repo_path=str(folder / "repository"))
        pids = [instance["pid"] for instance in processes(node)]

        assert "hello" in echoed
        assert "hello from a file" in read
        assert "UTC" in now
        assert "entities" in graph
        assert "commit" in status
        for name in NAMES:
            node.until_state(name, "cold")
        assert groups_gone(pids)
        assert [node.why(name)["starts"] for name in NAMES] == [1] * len(NAMES)
        assert session.tools()


def test_lists_answer_when_no_command_works_any_more(learnt: tuple[Path, Lists]) -> None:
    folder, before = learnt
    links = {name: os.readlink(folder / "bin" / name) for name in NAMES}
    for name in NAMES:
        (folder / "bin" / name).unlink()
    try:
        with ended_at_last(start_node_as_configured(folder)) as node, node.session() as session:
            shown = lists_shown(node)
            error = session.call("time_get_current_time", {"timezone": "UTC"}).failure()
            still = lists_shown(node)

            assert shown == still == before
            assert sources(node) == {("cache", True)}
            assert error["data"]["reason"] == "start_failed"
            assert str(folder / "bin" / "time") in error["message"]
    finally:
        for name, target in links.items():
            (folder / "bin" / name).symlink_to(target)
