"""`mcpv-node stdio`: a byte pipe between a client and the node, as a process of its own."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.commands import COMMAND_TIMEOUT, background_node_ended, ended, run_command, start_command

from mcpv_node.cli.stdio import Unusable, find_state_dir, hello_line, parse_arguments
from mcpv_node.node_file import read_node_file
from mcpv_node.settings import state_dir


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """The node's line door, in the test's own hands."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.bind(str(tmp_path / "node.sock"))
        door.listen()
        door.settimeout(COMMAND_TIMEOUT)
        yield door


def accept(listener: socket.socket) -> tuple[socket.socket, bytes]:
    """Take a connection, and read its hello line."""
    connection, _ = listener.accept()
    connection.settimeout(COMMAND_TIMEOUT)
    line = b""
    while not line.endswith(b"\n"):
        line += connection.recv(1)
    return connection, line


def receive_all(connection: socket.socket) -> bytes:
    """Read until the other side has ended."""
    received = bytearray()
    while chunk := connection.recv(1 << 20):
        received += chunk
    return bytes(received)


def receive(connection: socket.socket, size: int) -> bytes:
    """Read this many bytes."""
    received = bytearray()
    while len(received) < size and (chunk := connection.recv(size - len(received))):
        received += chunk
    return bytes(received)


@pytest.mark.parametrize(
    ("arguments", "hello"),
    [
        ([], {"mcpv": 1}),
        (["--server", "fs"], {"mcpv": 1, "server": "fs"}),
        (["--server=fs-1_a"], {"mcpv": 1, "server": "fs-1_a"}),
        (["--tag", "a", "--tag", "b"], {"mcpv": 1, "tags": ["a", "b"]}),
        (["--profile", "work"], {"mcpv": 1, "profile": "work"}),
        (["--json", "--state-dir", "/x", "--server", "fs"], {"mcpv": 1, "server": "fs"}),
    ],
)
def test_the_hello_line_says_what_the_client_wants_to_see(arguments: list[str], hello: object) -> None:
    assert json.loads(hello_line(parse_arguments(arguments))) == hello


@given(st.text(min_size=1))
def test_the_hello_line_is_one_line_of_json_whatever_the_tag(tag: str) -> None:
    line = hello_line(parse_arguments([f"--tag={tag}"]))

    assert json.loads(line) == {"mcpv": 1, "tags": [tag]}
    assert line.count(b"\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["fs"],
        ["--loud"],
        ["--server"],
        ["--server", ""],
        ["--server=fs", "--tag=a"],
        ["--tag=a", "--profile=p"],
        ["--server=fs", "--profile=p"],
    ],
)
def test_what_cannot_be_understood_is_a_usage_error(arguments: list[str]) -> None:
    with pytest.raises(Unusable) as refused:
        parse_arguments(arguments)

    assert refused.value.code == 2


@pytest.mark.parametrize("explicit", [None, "/abs/dir", "relative", "a/../b"])
@pytest.mark.parametrize("named", [None, "", "/named", "also-relative"])
@pytest.mark.parametrize("xdg", [None, "", "/xdg", "not-absolute"])
@pytest.mark.parametrize("home", [None, "/home/somebody"])
def test_it_looks_where_every_other_command_looks(
    explicit: str | None,
    named: str | None,
    xdg: str | None,
    home: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in (("MCPV_STATE_DIR", named), ("XDG_STATE_HOME", xdg), ("HOME", home)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)

    expected = state_dir(None if explicit is None else Path(explicit), os.environ, None)

    assert Path(find_state_dir(explicit)) == expected


def test_it_costs_what_a_bare_interpreter_costs() -> None:
    script = (
        "import sys; before = set(sys.modules); import mcpv_node.cli.stdio; print(*set(sys.modules) - before)"
    )

    out = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, check=True).stdout

    own = {"mcpv_node", "mcpv_node.cli", "mcpv_node.cli.stdio"}
    assert set(out.decode().split()) - own <= {"__future__", "_socket", "select"}


def test_bytes_pass_unchanged_both_ways(tmp_path: Path, listener: socket.socket) -> None:
    with ended(start_command("stdio", "--server", "fs", state_dir=tmp_path)) as client:
        node, hello = accept(listener)
        assert client.stdin is not None
        assert client.stdout is not None
        with node:
            up = bytes(range(256)) + b"\r\n\n\xff\xfe no newline"
            client.stdin.write(up)
            client.stdin.flush()
            received = receive(node, len(up))
            down = up[::-1]
            node.sendall(down)
            answered = client.stdout.read(len(down))
            client.stdin.close()
            rest = receive_all(node)

        assert client.wait(COMMAND_TIMEOUT) == 0
        assert hello == b'{"mcpv":1,"server":"fs"}\n'
        assert (received, answered, rest) == (up, down, b"")
        assert client.stdout.read() == b""
        assert client.stderr is not None
        assert client.stderr.read() == b""


def test_big_lines_pass_while_both_sides_write_first_and_read_later(
    tmp_path: Path, listener: socket.socket
) -> None:
    up = os.urandom(1 << 20)
    down = os.urandom(8 << 20)
    source = tmp_path / "up"
    source.write_bytes(up)
    with source.open("rb") as stdin, (tmp_path / "down").open("wb") as stdout:
        from_file = subprocess.Popen(
            [sys.executable, "-P", "-m", "mcpv_node", "stdio", "--state-dir", str(tmp_path)],
            stdin=stdin,
            stdout=stdout,
        )
        with ended(from_file):
            node, _ = accept(listener)
            with node:
                node.sendall(down)
                received = receive_all(node)
            code = from_file.wait(COMMAND_TIMEOUT)

    assert (code, received, (tmp_path / "down").read_bytes()) == (0, up, down)


def test_a_client_that_does_not_read_can_still_write(tmp_path: Path, listener: socket.socket) -> None:
    with ended(start_command("stdio", state_dir=tmp_path)) as client:
        node, _ = accept(listener)
        assert client.stdin is not None
        assert client.stdout is not None
        with node:
            # More than the pipe holds, less than pipe, buffer and socket hold together.
            node.sendall(b"d" * 300_000)
            client.stdin.write(b"u" * 500_000)
            client.stdin.flush()
            assert receive(node, 500_000) == b"u" * 500_000
            assert client.stdout.read(300_000) == b"d" * 300_000


def test_after_the_clients_end_the_last_replies_still_come(tmp_path: Path, listener: socket.socket) -> None:
    with ended(start_command("stdio", state_dir=tmp_path)) as client:
        node, _ = accept(listener)
        assert client.stdin is not None
        assert client.stdout is not None
        with node:
            client.stdin.write(b"last question\n")
            client.stdin.close()
            question = receive_all(node)
            node.sendall(b"last answer\n")
        assert question == b"last question\n"
        assert client.stdout.read() == b"last answer\n"
        assert client.wait(COMMAND_TIMEOUT) == 0


def test_a_node_that_goes_away_ends_it_with_1_after_its_last_words(
    tmp_path: Path, listener: socket.socket
) -> None:
    with ended(start_command("stdio", state_dir=tmp_path)) as client:
        node, _ = accept(listener)
        with node:
            node.sendall(b'{"error":"there is no server named fs"}\n')
        assert client.wait(COMMAND_TIMEOUT) == 1
        assert client.stdout is not None
        assert client.stderr is not None
        assert client.stdout.read() == b'{"error":"there is no server named fs"}\n'
        assert b"the node closed the connection" in client.stderr.read()


@pytest.mark.skipif(not hasattr(select, "POLLRDHUP"), reason="Linux tells when the other side stops writing")
def test_a_node_that_leaves_the_clients_last_words_unread_ends_it_with_1(
    tmp_path: Path, listener: socket.socket
) -> None:
    with ended(start_command("stdio", state_dir=tmp_path)) as client:
        node, _ = accept(listener)
        assert client.stdin is not None
        with node:
            client.stdin.write(b"unread")
            client.stdin.close()
            # Written and ended, but left in the socket: closing it now is a reset.
            half_closed = select.poll()
            half_closed.register(node, select.POLLRDHUP)
            assert half_closed.poll(COMMAND_TIMEOUT * 1000)
        assert client.wait(COMMAND_TIMEOUT) == 1


def test_a_client_that_stops_reading_ends_it_while_the_node_is_silent(
    tmp_path: Path, listener: socket.socket
) -> None:
    with ended(start_command("stdio", state_dir=tmp_path)) as client:
        node, _ = accept(listener)
        assert client.stdout is not None
        with node:
            client.stdout.close()
            assert client.wait(COMMAND_TIMEOUT) == 0
            assert receive_all(node) == b""


def test_an_interrupt_is_no_traceback(tmp_path: Path, listener: socket.socket) -> None:
    with ended(start_command("stdio", state_dir=tmp_path)) as client:
        node, _ = accept(listener)
        with node:
            client.send_signal(signal.SIGINT)
            assert client.wait(COMMAND_TIMEOUT) == 1
        assert client.stderr is not None
        assert client.stderr.read() == b""


def test_where_no_node_runs_one_is_started_in_the_background(tmp_path: Path) -> None:
    with background_node_ended(tmp_path):
        done = run_command("stdio", state_dir=tmp_path, stdin=b"hello\n")

        assert (done.returncode, done.stdout) == (0, b"hello\n")
        assert b"starting one in the background" in done.stderr
        assert read_node_file(tmp_path).version == "9.9.9"
        assert "linger=300.0" in (tmp_path / "story").read_text()


def test_two_clients_that_find_no_node_end_with_one(tmp_path: Path) -> None:
    with background_node_ended(tmp_path):
        with (
            ended(start_command("stdio", state_dir=tmp_path)) as one,
            ended(start_command("stdio", state_dir=tmp_path)) as two,
        ):
            (out, err), (other_out, other_err) = (
                client.communicate(b"hello\n", timeout=COMMAND_TIMEOUT) for client in (one, two)
            )

        assert (out, other_out) == (b"hello\n", b"hello\n")
        # The one that did not start it waited, instead of starting another that is refused.
        assert (err + other_err).count(b"starting one") == 1
        assert (tmp_path / "story").read_text().count("started") == 1


def test_the_socket_of_a_killed_node_does_not_stop_a_new_one(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(tmp_path / "node.sock"))
    with background_node_ended(tmp_path):
        done = run_command("stdio", state_dir=tmp_path, stdin=b"hello\n")

        assert (done.returncode, done.stdout) == (0, b"hello\n")


def test_a_node_that_cannot_be_started_ends_it_with_4(tmp_path: Path) -> None:
    done = run_command("stdio", state_dir=tmp_path, MCPV_FAKE="crash")

    assert (done.returncode, done.stdout) == (4, b"")
    assert b"a line before the end" in done.stderr
    assert b"starting one failed" in done.stderr


def test_a_wrong_configuration_ends_it_with_3(tmp_path: Path) -> None:
    config = tmp_path / "node.yaml"
    config.write_text("servers: 1\n")

    done = run_command("stdio", state_dir=tmp_path, MCPV_CONFIG=str(config))

    assert (done.returncode, done.stdout) == (3, b"")
    assert b"node.yaml:1" in done.stderr


def test_a_state_folder_that_cannot_be_ends_it_with_4(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    done = run_command("stdio", "--json", "--state-dir", str(tmp_path / "file" / "x"), state_dir=tmp_path)

    assert (done.returncode, done.stdout) == (4, b"")
    assert "error" in json.loads(done.stderr)


def test_options_before_the_verb_are_heard_too(tmp_path: Path, listener: socket.socket) -> None:
    arguments = ("--state-dir", str(tmp_path), "stdio", "--profile", "work")
    with ended(start_command(*arguments, state_dir=tmp_path / "other")) as client:
        node, hello = accept(listener)
        with node:
            assert client.stdin is not None
            client.stdin.close()
        assert client.wait(COMMAND_TIMEOUT) == 0
        assert hello == b'{"mcpv":1,"profile":"work"}\n'
