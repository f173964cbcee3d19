"""Any message at any door, in either era: an answer, in time, that shows nothing of the inside or of anybody else."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from support.doors import Stage, local, open_door
from support.fake_servers import FakeNode, fake_node
from support.fuzzing import TEST_TIMEOUT, Theatre, assert_keeps_to_itself, bodies, fuzz, until_loaded
from support.raw_http import RawClient

from mcpv_node.actors.world import Selector
from mcpv_node.gateway import LinesDoor, TokenTable
from mcpv_node.gateway.auth import DEFAULT_AUTHORITY, Authority
from mcpv_node.gateway.heads import CONNECTION, Connection
from mcpv_node.gateway.http import HttpApp
from mcpv_node.settings import NodeLimits, ServerName

pytestmark = pytest.mark.timeout(TEST_TIMEOUT)

TOKENS = TokenTable(
    [("good", DEFAULT_AUTHORITY), ("beta", Authority("b", Selector(server=ServerName("beta"))))]
)

# What only the victim's own streams hold.
MARKER = b"6b1d-the-victims-own"

STATUSES = {200, 202, 204, 400, 401, 403, 404, 405, 406, 413, 415, 421, 429}

PATHS = (
    "/mcp",
    "/mcp/",
    "/mcp/server/beta",
    "/mcp/server/alpha",
    "/mcp/server/",
    "/mcp/tags/one,two",
    "/mcp/tags/,",
    "/mcp/profile/x",
    "/mcp/../api/v1/node",
    "//mcp",
    "/healthz",
    "/readyz",
    "/metrics",
    "/api",
    "/api/v1/servers",
    "/api/v1/servers/alpha",
    "/api/v1/servers/alpha/start",
    "/api/v1/servers/\x00/retry",
    "/api/v1/catalog/tools",
    "/api/v1/catalog/\u00e9",
    "/api/v1/catalog/refresh",
    "/api/v1/clients",
    "/api/v1/clients/x",
    "/api/v1/events",
    "/api/v1/node",
    "/.well-known/oauth-protected-resource/mcp",
    "/mcp/server/\x00",
    "/mcp/server/%2e%2e",
    "/" + "a" * 3000,
    "",
)

texts = st.one_of(
    st.text(max_size=30), st.sampled_from(("", "application/json", "text/event-stream", "*/*", "1", "\xff"))
)


class Answered:
    """An ASGI server's side of one request: what the application is given, and what it says."""

    def __init__(self, body: list[bytes], connection: Connection) -> None:
        self._connection = connection
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.is_over = False
        self._left = list(body) or [b""]
        self._asked = 0

    async def receive(self) -> dict[str, Any]:
        self._asked += 1
        if self._left:
            piece = self._left.pop(0)
            if not self._left:
                # An answer that is a stream stays open as long as its client does.
                asyncio.get_running_loop().call_soon(self._connection.lost)
            return {"type": "http.request", "body": piece, "more_body": bool(self._left)}
        await asyncio.sleep(0)
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            assert not self.status, "an answer began twice"
            self.status, self.headers = message["status"], message["headers"]
        else:
            assert self.status, "a body without a head"
            assert not self.is_over, "a body after its end"
            self.body += message.get("body", b"")
            self.is_over = not message.get("more_body", False)


def test_any_request_at_all_has_an_answer_of_a_known_kind(tmp_path: Path) -> None:
    limits = NodeLimits(body_bytes=20_000, depth=64, sessions=10)

    async def begin(stage: Stage) -> tuple[HttpApp, str, list[str]]:
        await until_loaded(stage.door)
        victim = await RawClient.open(stage.url, "/mcp/server/beta", token="good")
        assert victim.session is not None
        session = next(iter(stage.sessions.cell.actor._sessions.values()))  # type: ignore[union-attr]
        note = b'{"jsonrpc":"2.0","method":"notifications/message","params":"' + MARKER + b'"}'
        session.send(note, may_be_dropped=False)
        thief = await RawClient.open(stage.url, "/mcp/server/beta", token="beta")
        assert thief.session is not None
        await victim.close()
        await thief.close()
        return stage.door.cell.actor._app, victim.session, [thief.session, victim.session]  # type: ignore[union-attr]

    remembered = Connection()

    async def ask(app: HttpApp, scope: dict[str, Any], body: list[bytes]) -> Answered:
        # All come on one connection, as far as it remembers anything; each is the last one on it.
        connection = Connection()
        connection.head = remembered.head
        answered = Answered(body, connection)
        scope["state"] = {CONNECTION: connection}
        if scope["method"] == "GET":
            # Its stream stays open as long as its client does, and it has no body to wait for.
            asyncio.get_running_loop().call_soon(connection.lost)
        task = asyncio.ensure_future(app(scope, answered.receive, answered.send))
        done, _ = await asyncio.wait({task}, timeout=0.05)
        if not done:
            # A stream that its client has left ends when it next says something; the server below cancels it first.
            assert answered.status in (0, 200)
            task.cancel()
            await asyncio.wait({task})
        elif task.exception() is not None:
            raise task.exception()  # type: ignore[misc]
        remembered.head = connection.head
        return answered

    door = open_door(tmp_path, settings=local(limits=limits), tokens=TOKENS)
    with Theatre() as theatre, theatre.standing(door) as stage:
        app, stolen, known = theatre.run(begin(stage))

        @fuzz(
            500,
            method=st.sampled_from(
                ("POST", "POST", "POST", "GET", "DELETE", "PUT", "OPTIONS", "HEAD", "TRACE", "")
            ),
            path=st.one_of(st.sampled_from(("/mcp", "/mcp/server/beta")), st.sampled_from(PATHS), texts),
            token=st.sampled_from(
                ("Bearer good", "Bearer beta", "bearer beta", "Bearer beta", "Bearer x", "Basic x", "")
            ),
            session=st.one_of(st.none(), st.sampled_from(known), texts),
            event=st.one_of(st.none(), st.sampled_from(("1-1", "2-0", "-1", "9" * 50)), texts),
            more=st.lists(
                st.tuples(
                    st.sampled_from(
                        (
                            "accept",
                            "content-type",
                            "content-length",
                            "mcp-protocol-version",
                            "mcp-method",
                            "mcp-name",
                            "mcp-param-x",
                            "mcpv-key",
                            "origin",
                            "host",
                            "x-forwarded-for",
                            "transfer-encoding",
                            "authorization",
                            "cookie",
                        )
                    ),
                    texts,
                ),
                max_size=3,
            ),
            query=st.one_of(
                st.just(b""),
                st.binary(max_size=20),
                st.sampled_from(
                    (
                        b"wait=nan",
                        b"wait=-1",
                        b"wait=1e999",
                        b"since=-1",
                        b"since=x",
                        b"since=%ff",
                        b"kind=%00",
                        b"=&=",
                    )
                ),
            ),
            body=bodies,
            pieces=st.integers(1, 3),
        )
        def check(
            method: str,
            path: str,
            token: str,
            session: str | None,
            event: str | None,
            more: list[tuple[str, str]],
            query: bytes,
            body: bytes,
            pieces: int,
        ) -> None:
            given = {
                "host": "127.0.0.1:1",
                "accept": "application/json, text/event-stream",
                "content-type": "application/json",
                "authorization": token,
                "mcp-session-id": session,
                "last-event-id": event,
            }
            pairs = [(name, value) for name, value in given.items() if value] + more
            headers = [(name.encode(), value.encode("latin-1", "replace")) for name, value in pairs]
            scope = {
                "type": "http",
                "method": method,
                "path": path,
                "raw_path": path.encode("utf-8", "replace"),
                "query_string": query,
                "headers": headers,
                "scheme": "http",
                "http_version": "1.1",
                "client": ("127.0.0.1", 1),
                "server": ("127.0.0.1", 1),
                "root_path": "",
            }
            size = max(1, len(body) // pieces)
            answered = theatre.run(
                ask(app, scope, [body[at : at + size] for at in range(0, len(body), size)])
            )

            # 503: the REST application is still being loaded.
            assert answered.status in STATUSES | {0, 503}, answered.status
            if token.lower() != "bearer good" and "good" not in str(more):
                assert_keeps_to_itself(answered.body, MARKER, stolen.encode())
            else:
                assert_keeps_to_itself(answered.body)
            assert not any(name.startswith(b"access-control") for name, _ in answered.headers)


def test_any_line_at_all_is_answered_or_passed_over(tmp_path: Path) -> None:
    async def begin(node: FakeNode) -> Path:
        path = tmp_path / "node.sock"
        await node.start(LinesDoor(node.services, path, drain_bound=1.0), "lines")
        return path

    async def speak(path: Path, lines: list[bytes], greet: bool) -> bytes:
        reader, writer = await asyncio.open_unix_connection(str(path), limit=1 << 26)
        if greet:
            writer.write(b'{"mcpv":1}\n')
        for line in lines:
            writer.write(line.replace(b"\n", b" ") + b"\n")
        # The last thing asked: its answer says that everything before it was read.
        writer.write(b'{"jsonrpc":"2.0","id":"the-end","method":"ping"}\n')
        said = b""
        while line := await reader.readline():
            said += line
            if b"the-end" in line:
                break
        writer.close()
        return said

    with Theatre() as theatre, theatre.standing(fake_node(tmp_path)) as node:
        path = theatre.run(begin(node))

        @fuzz(250, lines=st.lists(bodies, max_size=6), greet=st.sampled_from((True, True, True, False)))
        def check(lines: list[bytes], greet: bool) -> None:
            said = theatre.run(speak(path, lines, greet))

            assert_keeps_to_itself(said)
            for line in said.splitlines():
                json.loads(line)
            if greet:
                assert said
