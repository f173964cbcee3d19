"""A configuration that changes while the node serves: every class of change, and whatever can be wrong with one."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.modern_client import VERSION, modern
from support.nodes import BadServer, Node, Session, ended_at_last, running_node, start_node_as_configured
from support.processes import alive, wait_until

Json = dict[str, Any]

# So many clients call on and on while the configuration changes.
CALLERS = 4


def write(node: Node, servers: Sequence[Mapping[str, Any]], **settings: Any) -> None:
    """Write the node's configuration in one step, as editors do."""
    path = node.folder / "node.yaml"
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps({**settings, "servers": list(servers)}, indent=1))
    beside.replace(path)


def write_folder(folder: Path, one: BadServer) -> Path:
    """Write a configuration in a folder, with a profile that shows two tools of one server; the profile's file."""
    profiles = folder / "node.yaml" / "profiles"
    profiles.mkdir(parents=True)
    (profiles.parent / "runtime.yaml").write_text(json.dumps({"servers": [one.entry()]}))
    quiet = profiles / "quiet.yaml"
    quiet.write_text(json.dumps({"servers": ["one"], "tools": {"allow": ["one.echo", "one.pid"]}}))
    return quiet


def reload(node: Node) -> dict[str, str]:
    """Have it applied, and say what has changed."""
    status, body = node.rest("POST", "reload")
    assert status == 200, body
    return last_changes(node)


def last_changes(node: Node) -> dict[str, str]:
    """What the last reload that changed anything has changed, whether it was asked for or the node saw the files."""
    return {change["name"]: change["class"] for change in node.get("node")["config"]["changes"]}


def refused(node: Node) -> Json:
    status, body = node.rest("POST", "reload")
    assert status == 422, body
    return body


def applied(node: Node) -> int:
    """How many reloads have been applied since the node started."""
    return int(node.metrics().get('mcpv_reloads_total{outcome="applied"}', 0))


class Load:
    """Clients that call one tool again and again, each its next call once the last is answered."""

    def __init__(self, sessions: Sequence[Session], tool: str) -> None:
        self._sessions = sessions
        self._tool = tool
        self._calls = [session.call(tool, {"text": "x"}) for session in sessions]
        self.answers: list[Json] = []

    def turn(self) -> None:
        """Take every answer that is due, and call again."""
        for place, session in enumerate(self._sessions):
            self.answers.append(self._calls[place].reply())
            self._calls[place] = session.call(self._tool, {"text": "x"})

    def failures(self) -> list[Json]:
        """Take what is under way, and say what was not answered with a result."""
        self.answers += [call.reply() for call in self._calls]
        return [
            answer for answer in self.answers if "result" not in answer or answer["result"].get("isError")
        ]


@contextmanager
def load(node: Node, tool: str) -> Iterator[Load]:
    sessions = [node.session().open() for _ in range(CALLERS)]
    try:
        yield Load(sessions, tool)
    finally:
        for session in sessions:
            session.close()


@pytest.fixture
def one(tmp_path: Path) -> BadServer:
    return BadServer(tmp_path, "one")


@pytest.fixture
def two(tmp_path: Path) -> BadServer:
    return BadServer(tmp_path, "two")


def test_no_call_fails_while_every_class_of_change_is_applied(
    tmp_path: Path, one: BadServer, two: BadServer
) -> None:
    steps: list[tuple[list[Json], Json, dict[str, str]]] = [
        ([one.entry(tags=["a"])], {}, {"one": "view"}),
        ([one.entry(maxConcurrent=3)], {}, {"one": "pool"}),
        ([one.entry(env={"X": "1"})], {}, {"one": "replaced"}),
        ([one.entry(env={"X": "1"}), two.entry()], {}, {"two": "added"}),
        ([one.entry(env={"X": "1"}), two.entry(env={"X": "2"})], {}, {"two": "replaced"}),
        ([one.entry(env={"X": "1"})], {}, {"two": "removed"}),
        ([one.entry()], {"clientInactiveSeconds": 100}, {"one": "replaced", "clientInactiveSeconds": "node"}),
        (
            [one.entry()],
            {"limits": {"bodyBytes": 100_000}},
            {"clientInactiveSeconds": "node", "limits.bodyBytes": "restart"},
        ),
    ]
    with running_node(tmp_path, [one.entry()]) as node:
        node.until_learnt(["one"])
        with load(node, "one_echo") as callers:
            callers.turn()
            found = []
            for servers, settings, _ in steps:
                write(node, servers, **settings)
                under_way = node.send("POST", "/api/v1/reload")
                while not under_way.answered():
                    callers.turn()
                body = under_way.body()
                assert under_way.response.status == 200, body
                found.append(last_changes(node))
                callers.turn()

            assert callers.failures() == []
            assert found == [expected for _, _, expected in steps]


def test_calls_reach_the_environment_that_is_configured_now(tmp_path: Path, one: BadServer) -> None:
    with running_node(tmp_path, [one.entry(env={"COLOUR": "red"})]) as node, node.session() as session:
        node.until_learnt(["one"])
        before = session.text("one_env", name="COLOUR")
        tools = session.tools()
        old = node.pids(one)

        write(node, [one.entry(env={"COLOUR": "blue"})])
        assert reload(node) == {"one": "replaced"}

        assert (before, session.text("one_env", name="COLOUR")) == ("red", "blue")
        assert session.tools() == tools
        assert node.pids(one) != old
        assert wait_until(lambda: not any(map(alive, old)))


def test_a_call_in_hand_survives_the_replacement_of_its_server(tmp_path: Path, one: BadServer) -> None:
    with running_node(tmp_path, [one.entry()]) as node, node.session() as session:
        node.until_learnt(["one"])
        call = session.call("one_sleep", {"seconds": 2})
        one.until_told("call sleep")

        write(node, [one.entry(env={"X": "1"})])
        reload(node)

        assert not call.answered()
        assert session.text("one_echo", text="new") == "new"
        assert call.text() == "slept 2.0"


def test_other_pool_settings_leave_the_processes_alone(tmp_path: Path, one: BadServer) -> None:
    with running_node(tmp_path, [one.entry(activationMode="always-on")]) as node:
        node.until_state(one, "ready")
        before = node.pids(one)

        write(node, [one.entry(activationMode="always-on", minReady=2, maxConcurrent=5)])

        assert reload(node) == {"one": "pool"}
        node.until(lambda: len(node.pids(one)) == 2, "two of them")
        assert set(before) <= set(node.pids(one))
        assert node.why(one)["desired"] == 2


def test_other_timeouts_hold_for_the_instances_that_run(tmp_path: Path, one: BadServer) -> None:
    with running_node(tmp_path, [one.entry()]) as node, node.session() as session:
        node.until_learnt(["one"])
        session.text("one_echo", text="warm")
        before = node.pids(one)

        write(node, [one.entry(callTimeoutSeconds=0.5)])
        assert reload(node) == {"one": "pool"}
        failure = session.call("one_sleep", {"seconds": 30}).failure()

        assert failure["data"]["reason"] == "call_timeout"
        assert node.pids(one) in (before, [])


def test_servers_that_run_are_asked_for_their_lists_as_often_as_is_configured_now(
    tmp_path: Path, one: BadServer
) -> None:
    entries = [one.entry(activationMode="always-on")]
    with running_node(tmp_path, entries) as node:
        node.until_learnt(["one"])
        pids, learnt = node.pids(one), node.why(one)["lists"]

        write(node, entries, refreshSeconds=0.05)

        assert reload(node) == {"refreshSeconds": "node"}
        node.until(lambda: node.why(one)["lists"] != learnt, "its lists are read again")
        assert node.pids(one) == pids


def test_a_new_server_that_does_not_start_leaves_all_as_it_was(
    tmp_path: Path, one: BadServer, two: BadServer
) -> None:
    three = BadServer(tmp_path, "three", EXIT_IN_HANDSHAKE=3)
    always = {"activationMode": "always-on"}
    with running_node(tmp_path, [one.entry(**always), two.entry(**always)]) as node:
        node.until_state(one, "ready")
        node.until_state(two, "ready")
        before = node.pids(one), node.pids(two)

        write(
            node,
            [
                one.entry(**always, env={"X": "1"}),
                two.entry(**always, maxConcurrent=4),
                three.entry(**always),
            ],
        )
        body = refused(node)

        assert body["detail"].startswith("three: ")
        assert (node.pids(one), node.pids(two)) == before
        assert [server["name"] for server in node.get("servers")["servers"]] == ["one", "two"]
        assert "three" in node.get("node")["config"]["problem"]["reason"]
        assert wait_until(lambda: len(node.leftovers()) == 2), node.leftovers()

        three.behave()
        assert reload(node) == {"one": "replaced", "two": "pool", "three": "added"}
        assert node.pids(two) == before[1]
        assert node.get("node")["config"]["problem"] is None


def test_a_server_that_runs_is_not_replaced_by_one_that_cannot_start(tmp_path: Path, one: BadServer) -> None:
    with running_node(tmp_path, [one.entry()]) as node, node.session() as session:
        node.until_learnt(["one"])
        session.text("one_echo", text="warm")
        before = node.pids(one)

        write(node, [{**one.entry(), "command": str(tmp_path / "nothing-there")}])

        assert "nothing-there" in refused(node)["detail"]
        assert session.text("one_echo", text="still") == "still"
        assert node.pids(one) == before


def test_ten_edits_in_a_burst_are_applied_once(tmp_path: Path, one: BadServer) -> None:
    with running_node(tmp_path, [one.entry()]) as node:
        for number in range(10):
            write(node, [one.entry(tags=[f"t{number}"])])

        node.until(lambda: applied(node) > 0, "applied")
        write(node, [one.entry(tags=["t9", "more"])])
        node.until(lambda: applied(node) == 2, "applied once more")

        assert node.metrics().get('mcpv_reloads_total{outcome="rejected"}', 0) == 0


def test_a_file_that_is_not_a_configuration_changes_nothing_and_is_reported(
    tmp_path: Path, one: BadServer
) -> None:
    with running_node(tmp_path, [one.entry()]) as node, node.session() as session:
        node.until_learnt(["one"])
        (tmp_path / "node.yaml").write_text("servers: [{name: one, comand: x\n")
        node.until(lambda: node.get("node")["config"]["problem"] is not None, "reported")

        said = node.command("status").stdout.decode()
        by_hand = node.command("reload")

        assert session.text("one_echo", text="on") == "on"
        assert "not in effect" in said
        assert "node.yaml" in said
        assert by_hand.returncode == 1
        assert b"node.yaml" in by_hand.stderr

        write(node, [one.entry(tags=["a"])])
        node.until(lambda: node.get("node")["config"]["problem"] is None, "well again")


def test_a_server_that_is_taken_away_lets_its_call_end_and_leaves_nothing(
    tmp_path: Path, one: BadServer, two: BadServer
) -> None:
    with running_node(tmp_path, [one.entry(), two.entry()]) as node, node.session() as session:
        node.until_learnt(["one", "two"])
        call = session.call("two_sleep", {"seconds": 1})
        two.until_told("call sleep")

        write(node, [one.entry()])
        assert reload(node) == {"two": "removed"}

        assert call.text() == "slept 1.0"
        node.until(lambda: session.tools() == [t for t in session.tools() if t.startswith("one_")], "gone")
        assert session.call("two_echo", {"text": "x"}).failure()["code"] == -32602
        assert node.rest("GET", "servers/two")[0] == 404
        node.until(lambda: not any('server="two"' in name for name in node.metrics()), "forgotten")
        assert wait_until(lambda: not any(map(alive, two.starts())))


def test_a_signal_has_the_configuration_read_again(tmp_path: Path, one: BadServer, two: BadServer) -> None:
    with running_node(tmp_path, [one.entry()]) as node:
        write(node, [one.entry(), two.entry()])
        node.process.send_signal(signal.SIGHUP)

        node.until(lambda: node.rest("GET", "servers/two")[0] == 200, "added")


def test_what_needs_a_restart_is_said_each_time_and_is_no_change_once_it_is_taken_back(
    tmp_path: Path, one: BadServer
) -> None:
    with running_node(tmp_path, [one.entry()]) as node:
        write(node, [one.entry()], limits={"lineBytes": 100_000})
        first, second = (node.rest("POST", "reload")[1] for _ in range(2))
        write(node, [one.entry()])
        third = node.rest("POST", "reload")[1]

        assert second["changes"] == [{"class": "restart", "name": "limits.lineBytes"}]
        assert first == second
        assert third == {"outcome": "unchanged", "changes": [], "warnings": []}


def test_a_profile_that_is_added_to_the_folder_is_there(tmp_path: Path, one: BadServer) -> None:
    folder = tmp_path / "node.yaml"
    (folder / "profiles").mkdir(parents=True)
    (folder / "runtime.yaml").write_text(json.dumps({"servers": [one.entry()]}))
    with ended_at_last(start_node_as_configured(tmp_path)) as node:
        node.until_learnt(["one"])
        (folder / "profiles" / "quiet.yaml").write_text(
            json.dumps({"servers": ["one"], "tools": {"allow": ["one.echo"]}})
        )
        node.until(lambda: applied(node) == 1, "applied")

        with node.session("/mcp/profile/quiet") as session:
            assert session.tools() == ["one_echo"]


def test_a_client_that_stays_sees_what_its_profile_shows_now(tmp_path: Path, one: BadServer) -> None:
    quiet = write_folder(tmp_path, one)
    with ended_at_last(start_node_as_configured(tmp_path)) as node:
        node.until_learnt(["one"])
        with node.line_session("--profile", "quiet") as lines:
            before = lines.ask({"jsonrpc": "2.0", "id": 1, "method": "tools/list"})
            quiet.write_text(json.dumps({"servers": ["one"], "tools": {"allow": ["one.echo"]}}))
            reload(node)
            after = lines.ask({"jsonrpc": "2.0", "id": 2, "method": "tools/list"})
            hidden = lines.ask(
                {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "one_pid"}}
            )

    assert [tool["name"] for tool in before["result"]["tools"]] == ["one_echo", "one_pid"]
    assert [tool["name"] for tool in after["result"]["tools"]] == ["one_echo"]
    assert hidden["error"]["code"] == -32602


def test_a_session_lives_on_when_its_profile_is_edited_and_hears_that_its_lists_are_others(
    tmp_path: Path, one: BadServer
) -> None:
    quiet = write_folder(tmp_path, one)
    with ended_at_last(start_node_as_configured(tmp_path)) as node:
        node.until_learnt(["one"])
        with node.session("/mcp/profile/quiet") as session, node.session() as other:
            stream = session.listen()
            pid = session.text("one_pid")
            quiet.write_text(json.dumps({"servers": ["one"], "tools": {"allow": ["one.echo"]}}))
            reload(node)
            news = json.loads(next(stream.messages()))
            narrowed = session.tools()
            hidden = session.call("one_pid").failure()
            quiet.write_text(json.dumps({"servers": ["one"], "tools": {"allow": ["one.echo", "one.pid"]}}))
            reload(node)
            again = session.text("one_pid")
            quiet.unlink()
            reload(node)
            gone = session.request("ping").response.status

            assert other.text("one_pid") == pid

    assert news["method"] == "notifications/tools/list_changed"
    assert narrowed == ["one_echo"]
    assert hidden["code"] == -32602
    assert again == pid
    assert gone == 404


def test_a_modern_subscription_ends_once_its_profile_shows_something_else(
    tmp_path: Path, one: BadServer
) -> None:
    quiet = write_folder(tmp_path, one)
    listen = modern("subscriptions/listen", id="s", notifications={"toolsListChanged": True})
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": VERSION,
        "Mcp-Method": "subscriptions/listen",
    }
    with ended_at_last(start_node_as_configured(tmp_path)) as node:
        node.until_learnt(["one"])
        stream = node.send("POST", "/mcp/profile/quiet", json.dumps(listen).encode(), headers)
        messages = stream.messages()
        agreed = json.loads(next(messages))
        quiet.write_text(json.dumps({"servers": ["one"], "tools": {"allow": ["one.echo"]}}))
        reload(node)
        last = [json.loads(message) for message in messages][-1]

    assert agreed["method"] == "notifications/subscriptions/acknowledged"
    assert (last["id"], last["result"]["resultType"]) == ("s", "complete")


def test_an_operators_stop_is_over_when_the_entry_is_edited(tmp_path: Path, one: BadServer) -> None:
    with running_node(tmp_path, [one.entry()]) as node, node.session() as session:
        node.until_learnt(["one"])
        node.order(one, "stop")

        write(node, [one.entry(idleSeconds=50)])
        reload(node)

        assert session.text("one_echo", text="again") == "again"


def test_a_strict_node_ends_when_it_cannot_have_its_configuration(tmp_path: Path, one: BadServer) -> None:
    with running_node(tmp_path, [one.entry()], reloadMode="strict") as node:
        (tmp_path / "node.yaml").write_text("nonsense")

        assert node.process.wait(30) == 1
        assert "the configuration has errors" in node.log()
