"""Nothing of a client's own headers reaches a server behind a URL: what goes there is the node's and configured."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from support.nodes import initialize, running_node

# Whatever may go out with a message; another name is a reason to look.
ALLOWED = {
    "accept",
    "accept-encoding",
    "authorization",  # the configured one
    "connection",
    "content-length",
    "content-type",
    "host",
    "last-event-id",
    "mcp-method",
    "mcp-name",
    "mcp-protocol-version",
    "mcp-session-id",
    "user-agent",
    "x-configured",
}

HOSTILE = {
    "Cookie": "session=clients-secret",
    "Proxy-Authorization": "Basic clients-secret",
    "X-Forwarded-For": "clients-secret",
    "Forwarded": "for=clients-secret",
    "X-Api-Key": "clients-secret",
    "Referer": "http://127.0.0.1/clients-secret",
    "User-Agent": "clients-secret",
    "Mcpv-Key": "clients-secret",
    "Traceparent": "00-clients-secret",
}


class _Server(BaseHTTPRequestHandler):
    """A legacy MCP server that keeps the headers it was asked with."""

    heard: list[dict[str, str]]

    def do_POST(self) -> None:
        self.heard.append({name.lower(): value for name, value in self.headers.items()})
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        tool = {"name": "hello", "inputSchema": {"type": "object"}}
        results: dict[str, Any] = {
            "initialize": {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "s", "version": "1"},
            },
            "tools/list": {"tools": [tool]},
            "tools/call": {"content": [{"type": "text", "text": "hello"}]},
        }
        method = asked.get("method")
        if "id" not in asked:
            self._answer(202, b"")
        elif method in results:
            self._answer(
                200, json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": results[method]}).encode()
            )
        else:
            error = {"code": -32601, "message": "no"}
            self._answer(200, json.dumps({"jsonrpc": "2.0", "id": asked["id"], "error": error}).encode())

    def do_GET(self) -> None:
        self.heard.append({name.lower(): value for name, value in self.headers.items()})
        self._answer(405, b"")

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the tests' output clean."""

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving() -> Iterator[tuple[str, list[dict[str, str]]]]:
    heard: list[dict[str, str]] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Server", (_Server,), {"heard": heard}))
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/mcp", heard
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def test_a_server_hears_no_header_of_a_client_and_never_its_token(tmp_path: Path) -> None:
    with serving() as (url, heard):
        headers = {"Authorization": "Bearer the-servers-own", "X-Configured": "yes"}
        entry = {"name": "far", "transport": "streamable-http", "url": url, "headers": headers}
        with running_node(tmp_path, [entry]) as node:
            given = {
                "Content-Type": "application/json",
                "Accept": "application/json, text/event-stream",
                **HOSTILE,
            }
            opened = node.send("POST", "/mcp", json.dumps(initialize()).encode(), given)
            session = opened.response.getheader("mcp-session-id")
            opened.body()
            message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "far_hello"}}
            called = node.send(
                "POST", "/mcp", json.dumps(message).encode(), {**given, "Mcp-Session-Id": str(session)}
            )
            assert called.text() == "hello"
            token = node.token

    assert heard
    for one in heard:
        assert set(one) <= ALLOWED, set(one) - ALLOWED
        assert one["authorization"] == "Bearer the-servers-own"
        assert one["x-configured"] == "yes"
        assert "clients-secret" not in str(one)
        assert token not in str(one)
        assert str(session) not in str(one)
