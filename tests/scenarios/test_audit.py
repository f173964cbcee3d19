"""A node that keeps an audit says of each request who made it, of whom, and how it ended; never what was in it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from support.nodes import STOP_TIMEOUT, BadServer, NodeFailed, running_node, start_node


def audit_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_each_request_leaves_one_line_and_nothing_of_its_arguments_or_results(tmp_path: Path) -> None:
    server = BadServer(tmp_path, "bad")
    path = tmp_path / "audit.jsonl"
    with (
        running_node(tmp_path, [server.entry()], log={"audit": "audit.jsonl"}) as node,
        node.session() as session,
    ):
        session.text("bad_echo", text="a-very-private-thing")
        session.call("bad_error", {"message": "private-as-well"}).failure()
        session.call("bad_crash", {"code": 1}).failure()
        session.call("bad_nothing").failure()
        session.tools()

    lines = audit_of(path)
    assert [(line["method"], line["name"], line["outcome"]) for line in lines] == [
        ("tools/call", "bad_echo", "ok"),
        ("tools/call", "bad_error", "error"),
        ("tools/call", "bad_crash", "instance_died"),
    ]
    digest = hashlib.sha256(b'{"text": "a-very-private-thing"}').hexdigest()
    assert lines[0]["arguments"] == f"sha256:{digest}"
    assert {(line["principal"], line["client"], line["server"]) for line in lines} == {
        ("default", "scenario", "bad")
    }
    assert all(line["seconds"] >= 0 and line["at"].endswith("Z") for line in lines)
    assert "private" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_node_that_keeps_no_audit_writes_none(tmp_path: Path) -> None:
    server = BadServer(tmp_path, "bad")
    with running_node(tmp_path, [server.entry()]) as node, node.session() as session:
        session.text("bad_echo", text="hello")
        kinds = json.dumps(node.get("tree"))

    assert '"audit"' not in kinds
    assert not list(tmp_path.rglob("audit*"))


def test_a_place_where_no_audit_can_be_written_refuses_the_start(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").mkdir()

    with pytest.raises(NodeFailed, match=r"audit\.jsonl"):
        start_node(tmp_path, [], log={"audit": "audit.jsonl"})


def test_who_was_turned_away_and_what_an_operator_ordered_is_in_it(tmp_path: Path) -> None:
    server = BadServer(tmp_path, "bad")
    path = tmp_path / "audit.jsonl"
    with running_node(tmp_path, [server.entry()], log={"audit": "audit.jsonl"}) as node:
        node.get("servers")
        for method, where, headers in (
            ("POST", "/mcp", {"Authorization": "Bearer wrong-and-private"}),
            ("GET", "/api/v1/node", {"Origin": "http://elsewhere.test"}),
            ("POST", "/api/v1/servers/bad/stop", {}),
            ("POST", "/api/v1/servers/nothing/start", {}),
            ("POST", "/api/v1/node/stop", {}),
        ):
            node.send(method, where, b"", headers).hang_up()
        assert node.process.wait(STOP_TIMEOUT) == 0

    lines = [
        (line["principal"], line["method"], line["name"], line["server"], line["outcome"])
        for line in audit_of(path)
    ]
    assert lines == [
        ("", "POST", "/mcp", "", "unauthorized"),
        ("", "GET", "/api/v1/node", "", "forbidden"),
        ("default", "POST", "/api/v1/servers/bad/stop", "bad", "ok"),
        ("default", "POST", "/api/v1/servers/nothing/start", "nothing", "http_404"),
        ("default", "POST", "/api/v1/node/stop", "", "ok"),
    ]
    assert {line["client"] for line in audit_of(path)} == {"127.0.0.1"}
    assert "private" not in path.read_text()
