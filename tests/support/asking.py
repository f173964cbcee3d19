"""Servers that ask their clients, for nodes in tests: both eras behind, over pipes and over HTTP.

    with asking_servers(tmp_path) as servers, running_node(tmp_path, [one.entry for one in servers]) as node: ...

The legacy one is askserver.py, the modern one the fixture of the conformance harness.
"""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .harness import FIXTURE, fixture_over_http
from .nodes import Exchange, Session
from .processes import wait_until

ASKSERVER = Path(__file__).with_name("askserver.py")

# An interpreter, on a busy machine.
START_TIMEOUT = 30.0

# What the clients of these tests can do.
ABLE: dict[str, Any] = {
    "elicitation": {"form": {}, "url": {}},
    "sampling": {},
    "roots": {"listChanged": True},
}

Json = dict[str, Any]


@dataclass(frozen=True)
class AskServer:
    """A legacy server that asks, as it stands in the node's configuration; its log tells what it did."""

    entry: Json
    log: Path

    def story(self) -> list[str]:
        """What it said, without the pids."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.partition(" ")[2] for line in lines]

    def until_told(self, words: str, times: int = 1) -> None:
        """Wait until it has said this so often."""
        assert wait_until(lambda: self.story().count(words) >= times), f"never {words!r}: {self.story()}"

    def forget(self) -> None:
        """Begin a new story."""
        self.log.unlink(missing_ok=True)


def ask_server(folder: Path, name: str = "ask", *knobs: str, **settings: object) -> AskServer:
    """askserver.py over pipes."""
    log = folder / f"{name}.story"
    args = ["-S", str(ASKSERVER), f"SPAWN_LOG={log}", *knobs]
    return AskServer({"name": name, "command": sys.executable, "args": args, **settings}, log)


@contextmanager
def ask_server_over_http(
    folder: Path, name: str = "askhttp", *knobs: str, **settings: object
) -> Iterator[AskServer]:
    """askserver.py over HTTP."""
    log = folder / f"{name}.story"
    process = subprocess.Popen(
        [sys.executable, "-S", str(ASKSERVER), "http", f"SPAWN_LOG={log}", *knobs],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        came = select.select([process.stdout], [], [], START_TIMEOUT)[0]
        url = process.stdout.readline().decode().strip() if came else ""
        assert url, "askserver.py did not start"
        yield AskServer({"name": name, "transport": "streamable-http", "url": url, **settings}, log)
    finally:
        process.kill()
        process.wait(START_TIMEOUT)
        process.stdout.close()


@contextmanager
def fixture_servers(folder: Path, **settings: object) -> Iterator[list[Json]]:
    """The fixture of the harness over pipes (`fixture`) and over HTTP (`fixturehttp`), as modern servers."""
    with ExitStack() as stack:
        url = stack.enter_context(fixture_over_http(folder))
        yield [
            {"name": "fixture", "command": sys.executable, "args": [str(FIXTURE), "stdio"], **settings},
            {"name": "fixturehttp", "transport": "streamable-http", "url": url, **settings},
        ]


# ---- a client that is asked --------------------------------------------------------------------------------------


class Asked:
    """A call whose server asks: what comes on its stream, one message after the other."""

    def __init__(self, session: Session, exchange: Exchange) -> None:
        self._session = session
        self._messages = exchange.messages()
        self.heard: list[Json] = []

    def next(self) -> Json:
        """The next message."""
        message: Json = json.loads(next(self._messages))
        self.heard.append(message)
        return message

    def question(self) -> Json:
        """The next message that is a request."""
        while "method" not in (message := self.next()) or "id" not in message:
            assert "method" in message, f"answered, not asked: {message}"
        return message

    def answer(self, question: Json, result: Json | None = None, error: Json | None = None) -> None:
        """Answer a question; over HTTP that is a message of its own."""
        said = {"result": result} if error is None else {"error": error}
        sent = self._session.send({"jsonrpc": "2.0", "id": question["id"], **said})
        assert sent.response.status == 202

    def reply(self) -> Json:
        """Read to the answer of the call."""
        while "method" in (message := self.next()):
            pass
        return message

    def text(self) -> str:
        """The text of the call's result."""
        reply = self.reply()
        assert "result" in reply, reply
        return str(reply["result"]["content"][0]["text"])


def call(session: Session, tool: str, **arguments: Any) -> Asked:
    """Call a tool whose server asks."""
    return Asked(session, session.call(tool, arguments))
