"""Work that is fetched later: the client has an id of its own, the task its instance, and nobody else either."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.nodes import Json, Node, Session, initialize, running_node
from support.real_servers import everything_argv

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

KEEPER = Path(__file__).parents[1] / "support" / "keeper_server.py"
RELATED = "io.modelcontextprotocol/related-task"


def entry(**settings: Any) -> Json:
    return {
        "name": "keeper",
        "command": sys.executable,
        "args": [str(KEEPER)],
        "idleSeconds": 1,
        **settings,
    }


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with running_node(tmp_path, [entry()]) as node:
        node.until_learnt(["keeper"])
        yield node


def begin(session: Session, **task: Any) -> Json:
    reply = session.request("tools/call", name="keeper_work", arguments={}, task=task).reply()
    assert "result" in reply, reply
    result: Json = reply["result"]
    return result


def test_a_task_lives_under_an_id_of_its_own_from_its_beginning_to_its_result(node: Node) -> None:
    with node.session() as session:
        created = begin(session, ttl=50_000)
        id = created["task"]["taskId"]
        seen = session.request("tasks/get", taskId=id).reply()["result"]
        # One slot is all there is, and who waits for a task does not hold it.
        waiting = session.request("tasks/result", taskId=id, _meta={"progressToken": "p"})
        finished = session.text("keeper_finish", id="t-1")
        *before, answer = [json.loads(message) for message in waiting.messages()]
        after = session.request("tasks/get", taskId=id).reply()["result"]

    assert "t-1" not in id
    assert created["_meta"] == {"big": 12345678901234567890}
    assert (seen["taskId"], seen["status"], seen["ttl"]) == (id, "working", 50_000)
    assert finished == "finished"
    assert [(note["method"], note["params"]["taskId"]) for note in before] == [
        ("notifications/tasks/status", id)
    ]
    assert answer["result"]["content"][0]["text"] == "the work of t-1 is completed"
    assert answer["result"]["_meta"] == {RELATED: {"taskId": id}}
    assert (after["taskId"], after["status"]) == (id, "completed")


@pytest.mark.parametrize("end", ["tasks/cancel", "finish"])
def test_its_instance_is_kept_while_a_task_works_and_not_longer(node: Node, end: str) -> None:
    with node.session() as session:
        id = begin(session)["task"]["taskId"]
        node.until(lambda: node.why("keeper")["instances"][0]["state"] == "busy", "kept")
        idle_since = node.why("keeper")["instances"][0]["idleSince"]
        if end == "finish":
            session.text("keeper_finish", id="t-1")
            last = session.request("tasks/result", taskId=id).reply()
        else:
            last = session.request("tasks/cancel", taskId=id).reply()

        assert idle_since is None
        assert "result" in last
        node.until(lambda: not node.why("keeper")["instances"], "stopped when idle")


def test_a_task_that_nobody_asks_for_does_not_keep_its_instance_past_its_time(node: Node) -> None:
    with node.session() as session:
        begin(session, ttl=10)

        node.until(lambda: not node.why("keeper")["instances"], "stopped when idle")


def test_forged_ids_and_the_servers_own_are_refused(node: Node) -> None:
    with node.session() as session:
        id = begin(session)["task"]["taskId"]
        forged = [
            session.request("tasks/get", taskId=given).failure()["code"]
            for given in ("t-1", id[:-1], id + "A", "", 7)
        ]
        absent = session.request("tasks/get").failure()["code"]
        listed = session.request("tasks/list").failure()["code"]
        modern = session.request("tasks/update", taskId=id).failure()["code"]
        good = session.request("tasks/cancel", taskId=id).reply()["result"]["status"]

    assert forged == [-32602] * 5
    assert absent == -32602
    assert listed == modern == -32601
    assert good == "cancelled"


def test_what_is_offered_of_tasks_is_what_the_node_can_do(node: Node) -> None:
    welcome = node.session().send(initialize()).reply()["result"]
    with node.session() as session:
        tools = session.request("tools/list").reply()["result"]["tools"]

    assert welcome["capabilities"]["tasks"] == {"cancel": {}, "requests": {"tools": {"call": {}}}}
    assert {"taskSupport": "required"} in [tool.get("execution") for tool in tools]


def test_a_task_is_nothing_where_its_server_is_not_seen(tmp_path: Path) -> None:
    other = {"name": "other", "command": sys.executable, "args": [str(KEEPER), "noTasks"]}
    with running_node(tmp_path, [entry(), other]) as node:
        node.until_learnt(["keeper", "other"])
        with node.session() as session, node.session("/mcp/server/other") as elsewhere:
            id = begin(session)["task"]["taskId"]
            hidden = elsewhere.request("tasks/get", taskId=id).failure()["code"]
            seen = session.request("tasks/get", taskId=id).reply()

    assert hidden == -32602
    assert "result" in seen


def test_a_request_goes_to_the_instance_that_has_the_task(tmp_path: Path) -> None:
    with running_node(tmp_path, [entry(maxInstances=2, strategy="exclusive", idleSeconds=60)]) as node:
        node.until_learnt(["keeper"])
        with node.session() as one, node.session() as two:
            ids = [begin(session)["task"]["taskId"] for session in (one, two)]
            pids = {session.text("keeper_pid") for session in (one, two)}
            # Each names the other's task: it is the principal's, and the instance is in the id.
            one.request("tasks/cancel", taskId=ids[1]).reply()
            states = [one.request("tasks/get", taskId=id).reply()["result"] for id in ids]

        assert len(pids) == 2
        assert [(state["taskId"], state["status"]) for state in states] == [
            (ids[0], "working"),
            (ids[1], "cancelled"),
        ]


def test_a_task_that_died_with_its_instance_is_unknown_to_the_next_one(node: Node) -> None:
    with node.session() as session:
        id = begin(session)["task"]["taskId"]
        (pid,) = node.pids("keeper")
        os.kill(pid, signal.SIGKILL)
        node.until(lambda: pid not in node.pids("keeper"), "seen to be gone")
        failure = session.request("tasks/get", taskId=id).failure()

    assert failure["code"] == -32602
    assert "no task" in failure["message"]


class ModernClient:
    """Says with each request who it is, and that it can do tasks."""

    def __init__(self, node: Node, *, offers_tasks: bool = True) -> None:
        self._node = node
        self._extensions: Json = {"io.modelcontextprotocol/tasks": {}} if offers_tasks else {}

    def ask(self, method: str, **params: Any) -> Json:
        ours = "io.modelcontextprotocol"
        meta = {
            f"{ours}/protocolVersion": "2026-07-28",
            f"{ours}/clientInfo": {"name": "modern", "version": "1"},
            f"{ours}/clientCapabilities": {"extensions": self._extensions},
        }
        headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "MCP-Protocol-Version": "2026-07-28",
            "Mcp-Method": method,
            "Mcp-Name": str(params.get("taskId", params.get("name"))),
        }
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
        return self._node.send("POST", "/mcp", json.dumps(body).encode(), headers).reply()


def test_a_modern_server_makes_a_task_of_a_call_for_a_modern_client(tmp_path: Path) -> None:
    modern = entry(args=[str(KEEPER), "modern"])
    with running_node(tmp_path, [modern]) as node:
        node.until_learnt(["keeper"])
        client = ModernClient(node)
        unable = ModernClient(node, offers_tasks=False).ask("tools/call", name="keeper_work", arguments={})
        created = client.ask("tools/call", name="keeper_work", arguments={})["result"]
        id = created["taskId"]
        node.until(lambda: node.why("keeper")["instances"][0]["idleSince"] is None, "kept")
        told = client.ask("tasks/update", taskId=id, inputResponses={"k": {"action": "accept"}})
        seen = client.ask("tasks/get", taskId=id)["result"]
        client.ask("tools/call", name="keeper_finish", arguments={"id": "t-1"})
        done = client.ask("tasks/get", taskId=id)["result"]
        forged = client.ask("tasks/get", taskId="t-1")["error"]["code"]
        gone = client.ask("tasks/result", taskId=id)["error"]["code"]

        assert unable["error"]["code"] == -32021
        assert (created["resultType"], created["status"]) == ("task", "working")
        assert "t-1" not in id
        assert "result" in told
        assert (seen["taskId"], seen["status"], seen["resultType"]) == (id, "working", "complete")
        assert json.loads(seen["statusMessage"]) == {"k": {"action": "accept"}}
        assert (done["taskId"], done["status"]) == (id, "completed")
        assert done["result"]["content"][0]["text"] == "the work of t-1 is completed"
        assert (forged, gone) == (-32602, -32601)
        # Its end was seen: nothing keeps the instance.
        node.until(lambda: not node.why("keeper")["instances"], "stopped when idle")


def test_the_task_of_a_real_server_comes_to_its_result(tmp_path: Path) -> None:
    program, *arguments = everything_argv()
    path = f"{Path(program).parent}:{os.environ['PATH']}"
    everything = {"name": "every", "command": program, "args": arguments, "env": {"PATH": path}}
    with running_node(tmp_path, [everything]) as node:
        node.until_learnt(["every"])
        with node.session() as session:
            reply = session.request(
                "tools/call",
                name="every_simulate-research-query",
                arguments={"topic": "queues"},
                task={"ttl": 60_000},
            ).reply()
            id = reply["result"]["task"]["taskId"]
            seen = session.request("tasks/get", taskId=id).reply()["result"]
            result = session.request("tasks/result", taskId=id).reply()["result"]

        assert seen["taskId"] == id
        assert seen["status"] == "working"
        assert "queues" in result["content"][0]["text"]
        assert result["_meta"][RELATED]["taskId"] == id
