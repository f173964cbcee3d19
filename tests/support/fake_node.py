"""A node that is none: its REST answers are given, its line door speaks just enough MCP.

It writes a real `node.json` with this process's id, so that the client's whole way is walked.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from mcpv_node.node_file import NodeFile, process_start_time, write_node_file

TOKEN = "a-token-for-tests"

# Both doors are on this machine; what takes longer is a test that has failed.
DOOR_TIMEOUT = 10.0

REPORT: dict[str, Any] = {
    "name": "fs",
    "specKey": "0" * 64,
    "state": "suspended",
    "reason": "it failed to start 6 times in a row; retry tries again",
    "since": "2026-01-31T09:08:07.006Z",
    "nextTryAt": None,
    "desired": 1,
    "waiting": 2,
    "startCause": "tool_call",
    "lastExit": {"code": None, "signal": 9, "at": "2026-01-31T09:08:07.006Z"},
    "stderr": ["no such \x1b[31mfolder\x1b[0m"],
    "starts": 6,
    "restarts": 5,
    "calls": {"ok": 3, "failed": 1, "refused": 0},
    "sharedWith": ["fs2"],
    "instances": [
        {
            "id": "fs-7",
            "pid": 4711,
            "state": "busy",
            "busy": 1,
            "startedAt": "2026-01-31T09:08:07.006Z",
            "idleSince": None,
            "era": "2025-11-25",
            "bindings": 0,
        }
    ],
}

CATALOG: dict[str, Any] = {
    "version": 4,
    "etag": "abc",
    "complete": True,
    "entries": [
        {"name": "fs_read", "server": "fs", "specKey": "0", "rawName": "read", "source": "cache"}
        | {"stale": True, "cold": False, "definition": {"name": "fs_read"}},
        {"name": "clock_now", "server": "clock", "specKey": "1", "rawName": "now", "source": "live"}
        | {"stale": False, "cold": False, "definition": {"name": "clock_now"}},
    ],
}


TREE: dict[str, Any] = {
    "id": "node",
    "kind": "Supervisor",
    "state": "running",
    "restarts": 0,
    "since": "2026-01-31T09:08:07.006Z",
    "children": [
        {"id": name, "kind": name.title(), "state": state, "restarts": restarts, "children": []}
        | {"since": "2026-01-31T09:08:07.006Z"}
        for name, state, restarts in (
            ("guard", "running", 0),
            ("events", "running", 0),
            ("store", "running", 2),
            ("config", "suspended", 0),
        )
    ],
}

LEARNING: dict[str, Any] = {
    "mode": "metadata",
    "state": "running",
    "total": 5,
    "completed": 2,
    "failed": 1,
    "current": ["clock"],
    "outcomes": [
        {"server": "clock", "specKey": "1", "state": "running", "attempts": 1, "reason": ""}
        | {"since": "2026-01-31T09:08:07.006Z"},
        {"server": "fs", "specKey": "0", "state": "failed", "attempts": 3, "reason": "no \x1b[31mluck"}
        | {"since": "2026-01-31T09:08:07.006Z"},
    ],
}

INIT: list[dict[str, Any]] = [
    {"name": "clock", "state": "ready", "reason": "always-on", "ready": 1, "target": 1, "retries": 0}
    | {"nextTryAt": None},
    {"name": "fs", "state": "failed", "reason": "try 2 after: no", "ready": 0, "target": 2, "retries": 2}
    | {"nextTryAt": "2026-01-31T09:08:09.006Z"},
]


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer over HTTP."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


def ok(data: Any, status: int = 200) -> Reply:
    """An answer with JSON."""
    return Reply(status, json.dumps(data).encode(), {"Content-Type": "application/json"})


def problem(status: int, title: str, detail: str, **more: Any) -> Reply:
    """An answer that refuses."""
    body = json.dumps({"type": "about:blank", "status": status, "title": title, "detail": detail, **more})
    return Reply(status, body.encode(), {"Content-Type": "application/problem+json"})


LineAnswers = Callable[[dict[str, Any]], list[bytes]]


def answer_line(message: dict[str, Any]) -> list[bytes]:
    """Shake hands; anything else is answered by those who know better."""
    if message.get("method") == "initialize":
        return [result_line(message, {"protocolVersion": "2025-11-25", "capabilities": {}})]
    return []


def result_line(message: dict[str, Any], result: Any) -> bytes:
    """The line that answers a request."""
    return json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode() + b"\n"


@dataclass(slots=True)
class FakeNode:
    """What it answers, and what it was asked."""

    file: NodeFile
    state_dir: Path
    # Several answers to one request are given one after the other; the last stays.
    replies: dict[str, list[Reply]]
    line_answers: LineAnswers = answer_line
    requests: list[str] = field(default_factory=list[str])
    lines: list[bytes] = field(default_factory=list[bytes])
    # Closes a line connection after this many lines.
    hang_up_after: int | None = None
    on_request: Callable[[str], None] = lambda _request: None

    def reply(self, request: str, *replies: Reply) -> None:
        """Set what `GET /path` is answered."""
        self.replies[request] = list(replies)

    def next_reply(self, request: str) -> Reply:
        """Give the answer to `GET /path`."""
        self.requests.append(request)
        self.on_request(request)
        waiting = self.replies.get(request)
        if waiting is None:
            return problem(404, "Not Found", f"there is no {request}")
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]


@contextmanager
def running_fake_node(state_dir: Path, *, pid: int | None = None) -> Iterator[FakeNode]:
    """Run a node that is none on `state_dir`."""
    token_file = state_dir / "token"
    token_file.write_text(TOKEN + "\n")
    doors: list[FakeNode] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(doors))
    # So that closing waits for every answer.
    server.daemon_threads = False
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path = state_dir / "node.sock"
    listener.bind(str(path))
    listener.listen()
    file = NodeFile(
        pid=pid or os.getpid(),
        start_time=process_start_time(pid or os.getpid()) or "",
        version="9.9.9",
        http=f"http://127.0.0.1:{server.server_address[1]}",
        socket=str(path),
        token_file=str(token_file),
        config_path=None,
    )
    write_node_file(state_dir, file)
    node = FakeNode(
        file=file,
        state_dir=state_dir,
        replies={
            "GET /api/v1/node": [ok({"pid": file.pid, "version": "9.9.9", "ready": True})],
            "GET /api/v1/tree": [ok(TREE)],
            "GET /api/v1/servers": [ok([REPORT])],
            "GET /api/v1/servers/fs": [ok(REPORT)],
            "GET /api/v1/catalog/tools": [ok(CATALOG)],
        },
    )
    doors.append(node)
    http = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="fake-http")
    lines = threading.Thread(target=_serve_lines, args=(listener, node), name="fake-lines")
    http.start()
    lines.start()
    try:
        yield node
    finally:
        server.shutdown()
        server.server_close()
        http.join(DOOR_TIMEOUT)
        # On Linux this wakes the accept; closing alone does not.
        listener.shutdown(socket.SHUT_RDWR)
        lines.join(DOOR_TIMEOUT)
        listener.close()
        path.unlink()


def _handler(doors: list[FakeNode]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = DOOR_TIMEOUT

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the tests' output clean."""

        def _answer(self) -> None:
            authorized = self.headers.get("Authorization") == f"Bearer {TOKEN}"
            reply = (
                doors[0].next_reply(f"{self.command} {self.path}")
                if authorized
                else problem(401, "Unauthorized", "a token is needed")
            )
            self.send_response(reply.status)
            for name, value in {**reply.headers, "Content-Length": str(len(reply.body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

    return Handler


def _serve_lines(listener: socket.socket, node: FakeNode) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, connection.makefile("rb") as incoming:
            connection.settimeout(DOOR_TIMEOUT)
            for count, line in enumerate(incoming, 1):
                node.lines.append(line)
                if node.hang_up_after == count:
                    break
                for answer in node.line_answers(json.loads(line)):
                    connection.sendall(answer)
