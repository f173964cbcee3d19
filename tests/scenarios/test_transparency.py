"""What passes through the node is what was sent: ids, numbers, unknown fields, progress; and it reaches whom it is for."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.nodes import BadServer, Exchange, Json, Node, running_node, text_of

LONG = 600

# What a typed proxy loses: big and oddly written numbers, white space, unknown and doubled members, their order.
RESULT = (
    '{"structuredContent":{"big":123456789012345678901234567890,"n":1.0E5,"e":"\\u00e9\\/"},'
    '"content":[ {"type":"text","text":"x"},{"type":"brand-new","y":[1, 2 ]} ],"z-unknown":-0,"_meta":{"a/b":1}}'
)
ARGUMENTS = '{"big":98765432109876543210987654321,"n":1.50,"empty":{},"list":[ 1 ,2],"uni":"\\u00e9"}'

MIRROR = """
import json, sys
for line in sys.stdin:
    message = json.loads(line)
    method, number = message.get("method"), message.get("id")
    if method == "initialize":
        result = json.dumps({"protocolVersion": "2025-11-25", "capabilities": {"tools": {}},
                             "serverInfo": {"name": "mirror", "version": "1"}})
    elif method == "tools/list":
        result = '{"tools":[{"name":"look","inputSchema":{"type":"object"},"x-unknown":[1.0, 2 ]}]}'
    elif method == "tools/call":
        open(sys.argv[1], "w").write(line)
        result = sys.argv[2]
    else:
        continue
    sys.stdout.write('{"jsonrpc":"2.0","id":%s,"result":%s}\\n' % (json.dumps(number), result))
    sys.stdout.flush()
"""


class Glass:
    """One node, a server that shows what it was sent, and one whose list changes."""

    def __init__(self, folder: Path) -> None:
        self.seen = folder / "seen"
        self.list_file = folder / "tools.json"
        self.write_tools("first")
        self.echo = BadServer(folder, "echo")
        self.moving = BadServer(folder, "moving", LIST_FILE=self.list_file)
        mirror = ["-S", "-c", MIRROR, str(self.seen), RESULT]
        self.entries = [
            {"name": "mirror", "command": sys.executable, "args": mirror, "idleSeconds": LONG},
            self.echo.entry(idleSeconds=LONG, maxInstances=1, maxConcurrent=8),
            self.moving.entry(idleSeconds=LONG, maxInstances=1),
        ]
        self.node: Node

    def write_tools(self, *names: str) -> None:
        """Have the moving server list these at its next look."""
        self.list_file.write_text(
            json.dumps([{"name": name, "inputSchema": {"type": "object"}} for name in names])
        )


@pytest.fixture(scope="module")
def _glass(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Glass]:
    folder = tmp_path_factory.mktemp("glass")
    glass = Glass(folder)
    with running_node(folder, glass.entries, bootstrapConcurrency=3) as glass.node:
        glass.node.until_learnt(["mirror", "echo", "moving"])
        yield glass


@pytest.fixture
def glass(_glass: Glass) -> Iterator[Glass]:
    """The node, with nothing running at the end of each test."""
    yield _glass
    for name in ("mirror", "echo", "moving"):
        if _glass.node.why(name)["instances"]:
            _glass.node.order(name, "stop")
        _glass.node.order(name, "retry")


def raw_call(id: str, name: str, arguments: str) -> bytes:
    """Write a tools/call with parts that no library would write."""
    params = f'{{"name":"{name}","arguments":{arguments},"x-more":[1.0, 2 ]}}'
    return f'{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{params}}}'.encode()


def test_a_result_and_its_arguments_keep_every_byte(glass: Glass) -> None:
    with glass.node.session() as session:
        raw = session.send(raw_call("7", "mirror_look", ARGUMENTS)).raw_reply()

    assert RESULT.encode() in raw
    seen = glass.seen.read_text()
    assert ARGUMENTS in seen
    assert '"x-more":[1.0, 2 ]' in seen
    assert '"name":"look"' in seen


def test_a_tools_definition_keeps_its_bytes_but_for_the_name(glass: Glass) -> None:
    with glass.node.session() as session:
        raw = session.request("tools/list").raw_reply()

    assert b'"x-unknown":[1.0, 2 ]' in raw
    assert b'"name":"mirror_look"' in raw


@pytest.mark.parametrize("id", ["1", '"1"', "12345678901234567890123", '"\\u00e9"', "-5", '""'])
def test_an_id_comes_back_as_it_was_written(glass: Glass, id: str) -> None:
    with glass.node.session() as session:
        raw = session.send(raw_call(id, "echo_echo", '{"text":"x"}')).raw_reply()

    assert f'"id":{id},'.encode() in raw


def test_a_number_and_a_text_are_two_ids(glass: Glass) -> None:
    with glass.node.session() as session:
        number = session.send(raw_call("1", "echo_sleep", '{"seconds":0.3}'))
        text = session.send(raw_call('"1"', "echo_echo", '{"text":"other"}'))

        replies = [number.reply(), text.reply()]

    assert [reply["id"] for reply in replies] == [1, "1"]
    assert [text_of(reply) for reply in replies] == ["slept 0.3", "other"]


def test_an_id_that_is_in_flight_is_refused_and_the_first_call_goes_on(glass: Glass) -> None:
    with glass.node.session() as session:
        first = session.call("echo_sleep", {"seconds": 0.5}, id=1)
        glass.echo.until_told("call sleep")
        second = session.call("echo_echo", {"text": "x"}, id=1).failure()

        assert second["code"] == -32600
        assert first.text() == "slept 0.5"


def test_clients_that_use_the_same_ids_and_tokens_never_cross(glass: Glass) -> None:
    arguments = {"seconds": 0.4, "steps": 4}
    with glass.node.session() as one, glass.node.session() as two, glass.node.line_session() as line:
        streams = [client.call("echo_slow_progress", arguments, id=1, token="t") for client in (one, two)]
        params = {"name": "echo_echo", "arguments": {"text": "on the line"}, "_meta": {"progressToken": "t"}}
        answer = line.ask({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})

        heard = [[json.loads(message) for message in stream.messages()] for stream in streams]

    assert (answer["id"], text_of(answer)) == (1, "on the line")
    for messages in heard:
        assert [message["params"]["progress"] for message in messages[:-1]] == [1, 2, 3, 4]
        assert text_of(messages[-1]) == "slept 0.4"


@pytest.mark.parametrize("token", ['"mine"', "5", "12345678901234567890123", '"5"'])
def test_progress_comes_under_the_clients_own_token_as_it_was_written(glass: Glass, token: str) -> None:
    meta = f'{{"progressToken":{token},"x/kept":1.0}}'
    params = f'{{"name":"echo_slow_progress","arguments":{{"seconds":0.1,"steps":2}},"_meta":{meta}}}'
    body = f'{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}'
    with glass.node.session() as session:
        messages = list(session.send(body.encode()).messages())

    assert len(messages) == 3
    for message in messages[:-1]:
        assert f'"progressToken":{token}'.encode() in message


def test_nobody_who_did_not_ask_for_progress_gets_any(glass: Glass) -> None:
    with glass.node.session() as session:
        messages = list(session.call("echo_slow_progress", {"seconds": 0.1, "steps": 2}).messages())

    assert len(messages) == 1


def test_a_changed_list_is_told_on_every_open_stream_and_is_what_is_listed(glass: Glass) -> None:
    node = glass.node
    with node.session() as session, node.line_session() as line:
        stream = session.listen()
        pid = start_moving(glass)
        glass.write_tools("first", "second")
        os.kill(pid, signal.SIGHUP)

        told = next_notification(stream)
        said = line.read()

        assert told["method"] == said["method"] == "notifications/tools/list_changed"
        assert {"moving_first", "moving_second"} <= set(session.tools())
        assert session.text("moving_second", text="new") == "new"
        stream.hang_up()
    glass.write_tools("first")


def test_a_list_that_is_read_again_and_is_the_same_is_not_told(glass: Glass) -> None:
    node = glass.node
    pid = start_moving(glass)
    # A session that was there before has a change to hear of.
    with node.session() as session:
        before = node.get("catalog/tools")
        stream = session.listen()
        os.kill(pid, signal.SIGHUP)
        glass.moving.until_told("signal HUP")
        glass.write_tools("first", "third")
        os.kill(pid, signal.SIGHUP)

        next_notification(stream)

        assert node.get("catalog/tools")["version"] == before["version"] + 1
        stream.hang_up()
    glass.write_tools("first")


def start_moving(glass: Glass) -> int:
    """Start the server whose list changes, and wait until the node has read its list."""
    glass.moving.forget()
    with glass.node.session() as session:
        session.text("moving_first", text="up")
    [pid] = glass.moving.starts()

    def read() -> bool:
        entries = glass.node.get("catalog/tools")["entries"]
        return [entry["rawName"] for entry in entries if entry["server"] == "moving"] == ["first"]

    glass.node.until(read, "read")
    return pid


def next_notification(stream: Exchange) -> Json:
    """Read the next message of a stream."""
    message: Json = json.loads(next(iter(stream.messages())))
    return message
