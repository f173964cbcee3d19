"""An operator changes entries of the configuration over REST: written, applied, or as if nothing had been asked."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.nodes import BadServer, Node, default_node, ended_at_last, start_node_as_configured

SECRET = "hunter2-hunter2"

JSON = {"Content-Type": "application/json"}


def edit(
    node: Node, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    """Ask for an edit; the status, the JSON and the headers of the answer."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    data = b"" if body is None else json.dumps(body).encode()
    exchange = node.send(method, f"/api/v1/{path}", data, {**JSON, **given})
    answered = {name.lower(): value for name, value in exchange.response.getheaders()}
    return exchange.response.status, json.loads(exchange.body()), answered


@contextmanager
def node_of(folder: Path, text: str, *options: str) -> Iterator[Node]:
    (folder / "node.yaml").write_text(text)
    with ended_at_last(start_node_as_configured(folder, *options)) as node:
        yield node


@pytest.fixture
def one(tmp_path: Path) -> BadServer:
    return BadServer(tmp_path, "one")


@pytest.fixture
def two(tmp_path: Path) -> BadServer:
    return BadServer(tmp_path, "two")


def written(one: BadServer) -> str:
    """A file with what only a person writes."""
    return f"# ours\nservers:\n  # the first\n  - name: one\n    command: {one.script}  # by hand\n"


def test_an_entry_is_added_changed_switched_and_removed_and_the_rest_of_the_file_stays(
    tmp_path: Path, one: BadServer, two: BadServer
) -> None:
    file = tmp_path / "node.yaml"
    with node_of(tmp_path, written(one)) as node, node.session() as session:
        node.until_learnt(["one"])
        (pid,) = {session.text("one_pid")}
        entry = {"name": "two", "command": str(two.script), "env": {"KEY": SECRET}}
        added = edit(node, "POST", "servers", entry)
        node.until_learnt(["two"])
        called = session.text("two_echo", text="new")
        changed = edit(node, "PATCH", "servers/two", {"maxConcurrent": 3, "env": {"KEY": None, "B": "b"}})
        shown = edit(node, "GET", "servers/two/entry")
        off = edit(node, "POST", "servers/two/disable")
        hidden = [tool for tool in session.tools() if tool.startswith("two")]
        on = edit(node, "POST", "servers/two/enable")
        removed = edit(node, "DELETE", "servers/two")
        again = edit(node, "DELETE", "servers/two")

        assert session.text("one_pid") == pid, "nobody else notices"

    assert added[0] == 201
    assert added[1] == {"name": "two", "changes": [{"class": "added", "name": "two"}], "warnings": []}
    assert added[2]["location"] == "/api/v1/servers/two"
    assert called == "new"
    assert (changed[0], changed[1]["changes"]) == (200, [{"class": "replaced", "name": "two"}])
    assert shown[1]["entry"]["maxConcurrent"] == 3
    assert shown[1]["entry"]["env"] == {"B": "***"}
    assert shown[2]["etag"] == changed[2]["etag"] != added[2]["etag"]
    assert (off[0], hidden, on[0]) == (200, [], 200)
    assert (removed[0], again[0]) == (200, 404)
    assert file.read_text() == written(one)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_what_cannot_be_leaves_the_file_and_the_servers_as_they_were(tmp_path: Path, one: BadServer) -> None:
    file = tmp_path / "node.yaml"
    with node_of(tmp_path, written(one)) as node, node.session() as session:
        pid = session.text("one_pid")
        taken = edit(node, "POST", "servers", {"name": "one", "command": "x"})
        unnamed = edit(node, "POST", "servers", {"command": "x"})
        wrong = edit(
            node, "POST", "servers", {"name": "two", "comand": "x", "maxInstances": 0, "env": {"K": SECRET}}
        )
        renamed = edit(node, "PATCH", "servers/one", {"name": "two"})
        unknown = edit(node, "PATCH", "servers/nobody", {"tags": ["a"]})
        # It runs, so what takes its place has to show that it can.
        broken = edit(node, "PATCH", "servers/one", {"command": "/there/is/no/such/program"})
        stale = edit(node, "PATCH", "servers/one", {"tags": ["a"]}, If_Match='"0000000000000000"')
        untouched = file.read_text()
        etag = edit(node, "GET", "servers/one/entry")[2]["etag"]
        fresh = edit(node, "PATCH", "servers/one", {"tags": ["a"]}, If_Match=etag)

        assert session.text("one_pid") == pid
        assert node.get("node")["config"]["problem"] is None
        assert SECRET not in node.log()

    statuses = [answer[0] for answer in (taken, unnamed, wrong, renamed, unknown, broken, stale, fresh)]
    assert statuses == [409, 422, 422, 422, 404, 422, 412, 200]
    assert untouched == written(one)
    assert all(answer[2]["content-type"] == "application/problem+json" for answer in (taken, wrong, stale))
    assert "comand" in " ".join(wrong[1]["problems"])
    assert "maxInstances" in " ".join(wrong[1]["problems"])
    assert SECRET not in json.dumps(wrong[1])
    assert "/there/is/no/such/program" in broken[1]["detail"]


def test_edits_at_the_same_time_are_all_made(tmp_path: Path, one: BadServer) -> None:
    with node_of(tmp_path, written(one)) as node:
        bodies = [
            json.dumps({"name": f"s{number}", "command": str(one.script), "args": [str(number)]})
            for number in range(8)
        ]
        asked = [node.send("POST", "/api/v1/servers", body.encode(), JSON) for body in bodies]
        statuses = [exchange.response.status for exchange in asked]
        for exchange in asked:
            exchange.hang_up()
        names = {server["name"] for server in node.get("servers")["servers"]}

    assert statuses == [201] * 8
    assert names == {"one", *(f"s{number}" for number in range(8))}


def test_a_token_for_a_part_of_the_node_changes_nothing(tmp_path: Path, one: BadServer) -> None:
    (tmp_path / "partial").write_text("a-token-for-one\n")
    auth = f"auth:\n  tokens:\n    - name: part\n      file: {tmp_path / 'partial'}\n      server: one\n"
    with node_of(tmp_path, written(one) + auth) as node:
        answer = edit(node, "DELETE", "servers/one", Authorization="Bearer a-token-for-one")

    assert answer[0] == 403
    assert (tmp_path / "node.yaml").read_text() == written(one) + auth


def test_where_anybody_may_come_in_nobody_may_edit(tmp_path: Path, one: BadServer) -> None:
    with node_of(tmp_path, written(one), "--token", "none") as node:
        answer = edit(node, "POST", "servers", {"name": "two", "command": "x"})

    assert answer[0] == 403
    assert "token" in answer[1]["detail"]


def test_the_packaged_configuration_stays_as_it_is(tmp_path: Path) -> None:
    with default_node(tmp_path) as node:
        answer = edit(node, "POST", "servers/clock/disable")

    assert answer[0] == 409
    assert "packaged" in answer[1]["detail"]
