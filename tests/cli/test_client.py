"""What programs get from a node, and how they are told that there is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.fake_node import (
    REPORT,
    FakeNode,
    Reply,
    answer_line,
    ok,
    problem,
    result_line,
    running_fake_node,
)

from mcpv_node.client import BadAnswer, CallRefused, NodeClient, NodeRefused, NodeUnreachable, find_node
from mcpv_node.node_file import write_node_file

NOBODY = 2**22 + 1


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    with running_fake_node(tmp_path) as running:
        yield running


@pytest.fixture
def client(node: FakeNode) -> NodeClient:
    return NodeClient(find_node(node.state_dir))


def test_where_no_node_runs_one_is_told_how_to_start_it(tmp_path: Path) -> None:
    with pytest.raises(NodeUnreachable, match="mcpv-node start"):
        find_node(tmp_path)


def test_the_file_of_a_killed_node_is_not_a_node(node: FakeNode) -> None:
    write_node_file(node.state_dir, replace(node.file, pid=NOBODY))

    with pytest.raises(NodeUnreachable, match=f"process {NOBODY} is gone"):
        find_node(node.state_dir)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "node.json").write_text("{")

    with pytest.raises(NodeUnreachable, match=r"node\.json"):
        find_node(tmp_path)


def test_an_answer_is_kept_as_bytes_and_as_data(client: NodeClient) -> None:
    answer = client.server("fs")

    assert json.loads(answer.body) == REPORT
    assert answer.value.last_exit is not None
    assert (answer.value.state, answer.value.last_exit.signal) == ("suspended", 9)
    assert answer.value.instances[0].started_at == "2026-01-31T09:08:07.006Z"


@pytest.mark.parametrize("body", [[REPORT], {"servers": [REPORT]}])
def test_servers_are_read_from_a_list_and_from_an_object(
    node: FakeNode, client: NodeClient, body: Any
) -> None:
    node.reply("GET /api/v1/servers", ok(body))

    assert [server.name for server in client.servers().value] == ["fs"]


def test_members_it_does_not_know_are_ignored(node: FakeNode, client: NodeClient) -> None:
    node.reply("GET /api/v1/servers/fs", ok({**REPORT, "mood": "good"}))

    assert client.server("fs").value.name == "fs"


def test_a_name_cannot_leave_its_place_in_the_path(node: FakeNode, client: NodeClient) -> None:
    with pytest.raises(NodeRefused):
        client.server("../node/stop?x")

    assert node.requests == ["GET /api/v1/servers/..%2Fnode%2Fstop%3Fx"]


def test_a_problem_says_status_title_and_detail(node: FakeNode, client: NodeClient) -> None:
    node.reply("GET /api/v1/servers/fs", problem(503, "Stopping", "fs drains", reason="stopping"))

    with pytest.raises(NodeRefused, match="fs drains") as refused:
        client.server("fs")

    assert (refused.value.status, refused.value.title, refused.value.reason) == (503, "Stopping", "stopping")


def test_a_refusal_without_a_problem_still_has_its_status(node: FakeNode, client: NodeClient) -> None:
    node.reply("GET /api/v1/servers/fs", Reply(500, b"<html>"))

    with pytest.raises(NodeRefused, match="HTTP 500"):
        client.server("fs")


def test_a_wrong_token_names_its_file(node: FakeNode, client: NodeClient) -> None:
    (node.state_dir / "token").write_text("wrong")

    with pytest.raises(NodeRefused, match=str(node.state_dir / "token")):
        client.server("fs")


def test_a_token_that_cannot_be_read_is_said_before_asking(node: FakeNode, client: NodeClient) -> None:
    (node.state_dir / "token").unlink()

    with pytest.raises(NodeUnreachable, match="token"):
        client.server("fs")

    assert node.requests == []


def test_while_rest_is_being_loaded_it_waits(node: FakeNode, client: NodeClient) -> None:
    loading = replace(problem(503, "Loading", "in a moment"), headers={"Retry-After": "1"})
    node.reply("GET /api/v1/servers/fs", loading, ok(REPORT))

    assert client.server("fs").value.name == "fs"
    assert len(node.requests) == 2


def test_a_port_where_nobody_listens_is_an_unreachable_node(node: FakeNode) -> None:
    client = NodeClient(replace(node.file, http="http://127.0.0.1:1"))

    with pytest.raises(NodeUnreachable, match=r"127\.0\.0\.1:1 cannot be reached"):
        client.node_state()


def test_an_answer_that_is_no_json_is_a_bad_answer(node: FakeNode, client: NodeClient) -> None:
    node.reply("GET /api/v1/node", Reply(200, b"hello"))

    with pytest.raises(BadAnswer):
        client.node_state()


@pytest.mark.parametrize("address", ["ftp://127.0.0.1:1", "http://127.0.0.1:port"])
def test_an_address_that_is_none_is_a_bad_answer(node: FakeNode, address: str) -> None:
    with pytest.raises(BadAnswer, match="address"):
        NodeClient(replace(node.file, http=address))


def test_an_address_without_a_scheme_is_read_too(node: FakeNode) -> None:
    client = NodeClient(replace(node.file, http=node.file.http.removeprefix("http://")))

    assert client.node_state().value.ready is True


def test_a_call_gives_text_and_the_result_as_sent(node: FakeNode, client: NodeClient) -> None:
    raw = b'{ "content":[{"type":"text","text":"a"},{"type":"image","data":""},{"type":"text","text":"b"}] }'
    node.line_answers = lambda message: (
        [b'{"jsonrpc":"2.0","id":%d,"result":%s}\n' % (message["id"], raw)]
        if message.get("method") == "tools/call"
        else answer_line(message)
    )

    result = client.call_tool("fs_read", {"path": "x"})

    assert (result.raw, result.is_error) == (raw, False)
    assert (result.texts, result.others) == (("a", "b"), ("image",))


def test_a_call_says_hello_shakes_hands_and_passes_its_arguments(node: FakeNode, client: NodeClient) -> None:
    node.line_answers = lambda message: (
        [result_line(message, {"content": []})]
        if message.get("method") == "tools/call"
        else answer_line(message)
    )

    client.call_tool("fs_read", {"path": "ä"})

    hello, initialize, initialized, call = map(json.loads, node.lines)
    assert hello == {"mcpv": 1}
    assert initialize["params"]["protocolVersion"] == "2025-11-25"
    assert initialized["method"] == "notifications/initialized"
    assert call["params"] == {"name": "fs_read", "arguments": {"path": "ä"}}


def test_what_the_node_says_in_between_is_no_answer(node: FakeNode, client: NodeClient) -> None:
    def answers(message: dict[str, Any]) -> list[bytes]:
        if message.get("method") != "tools/call":
            return answer_line(message)
        return [
            b'{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}\n',
            b'{"jsonrpc":"2.0","id":2,"method":"ping"}\n',
            b'{"jsonrpc":"2.0","id":99,"result":{}}\n',
            result_line(message, {"content": [], "isError": True}),
        ]

    node.line_answers = answers

    assert client.call_tool("fs_read").is_error


def test_a_refused_call_has_the_errors_code_and_data(node: FakeNode, client: NodeClient) -> None:
    error = {"code": -31005, "message": "fs is suspended", "data": {"reason": "suspended"}}
    node.line_answers = lambda message: (
        [json.dumps({"jsonrpc": "2.0", "id": message["id"], "error": error}).encode() + b"\n"]
        if message.get("method") == "tools/call"
        else answer_line(message)
    )

    with pytest.raises(CallRefused, match="fs is suspended") as refused:
        client.call_tool("fs_read")

    assert (refused.value.code, refused.value.data) == (-31005, {"reason": "suspended"})


def test_a_node_that_hangs_up_is_unreachable(node: FakeNode, client: NodeClient) -> None:
    node.hang_up_after = 4

    with pytest.raises(NodeUnreachable, match="before it had answered"):
        client.call_tool("fs_read")


def test_a_call_ends_with_its_timeout(client: NodeClient) -> None:
    with pytest.raises(NodeUnreachable, match="did not answer within"):
        client.call_tool("fs_read", timeout=0.2)


def test_all_pages_of_a_list_are_read(node: FakeNode, client: NodeClient) -> None:
    def answers(message: dict[str, Any]) -> list[bytes]:
        if message.get("method") != "tools/list":
            return answer_line(message)
        if "cursor" in message["params"]:
            return [result_line(message, {"tools": [{"name": "b"}]})]
        return [result_line(message, {"tools": [{"name": "a", "description": "A"}], "nextCursor": "2"})]

    node.line_answers = answers

    assert [(tool.name, tool.description) for tool in client.list_tools()] == [("a", "A"), ("b", "")]
