"""The official SDK's server is the referee of the client side: real handshakes, in both eras and on both transports."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.children import run
from support.http_sinks import RecordingHttpSink, sse, streamable

from mcpv_node.transports.http import HttpSession

PROGRAM = Path(__file__).parent.parent / "support" / "sdk_server.py"


@contextmanager
def sdk_server(kind: str) -> Iterator[str]:
    """Run a server; give its address."""
    process = subprocess.Popen([sys.executable, str(PROGRAM), kind], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(15)
        process.stdout.close()


class Caller:
    """A client that counts its requests and finds their replies, wherever they came."""

    def __init__(self, session: HttpSession, sink: RecordingHttpSink) -> None:
        self.session, self.sink = session, sink
        self.number = 0

    async def ask(self, method: str, headers: dict[str, str] | None = None, **params: Any) -> Any:
        self.number += 1
        number = self.number
        message = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        self.session.send_request(number, json.dumps(message).encode(), headers=headers or {})
        await self.sink.until(lambda: self.reply(number) or number in self.sink.over)
        self.session.settle(number)
        assert await self.sink.until_over(number) is None
        return self.reply(number)["result"]

    def reply(self, number: int) -> Any:
        found = (json.loads(data) for data in self.sink.data)
        return next((message for message in found if message.get("id") == number), None)

    async def shake_hands(self) -> None:
        client = {"name": "t", "version": "1"}
        hello = await self.ask("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=client)
        self.session.adopt(protocol_version=hello["protocolVersion"])
        self.session.send(b'{"jsonrpc":"2.0","method":"notifications/initialized"}')

    async def call(self, tool: str, token: str | None = None, **arguments: Any) -> str:
        meta = {"_meta": {"progressToken": token}} if token else {}
        result = await self.ask("tools/call", name=tool, arguments=arguments, **meta)
        text: str = result["content"][0]["text"]
        return text

    def progress(self) -> list[int | None]:
        """The requests on whose streams progress came."""
        return [request for data, request in self.sink.messages if b"notifications/progress" in data]


@pytest.mark.parametrize("kind", ["streamable", "json"])
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_legacy_session_from_handshake_to_goodbye(kind: str, loop: str) -> None:
    async def main(url: str) -> None:
        sink = RecordingHttpSink()
        async with streamable(url, sink) as session:
            caller = Caller(session, sink)
            await caller.shake_hands()
            session.open_stream()

            tools = await caller.ask("tools/list")
            assert session.session_id is not None
            assert [tool["name"] for tool in tools["tools"]] == ["echo", "slowly", "in_two_parts"]
            assert await caller.call("echo", text="ä") == "ä"
            assert await caller.call("slowly", token="p", steps=3) == "done"
            assert caller.progress() == ([4, 4, 4] if kind == "streamable" else [])
            name = session.session_id
        assert sink.send_failures == sink.streams_lost == []
        assert sink.lost == []

        # The server has ended it: who comes with the old name is not known any more.
        again = RecordingHttpSink()
        async with streamable(url, again, headers={"Mcp-Session-Id": name}) as session:
            session.send_request(1, b'{"jsonrpc":"2.0","id":1,"method":"tools/list"}')
            assert (await again.until_failed(1)).status == 404
            assert len(again.lost) == 1

    with sdk_server(kind) as url:
        run(main(url), loop)


def test_call_goes_on_after_the_server_has_ended_its_stream() -> None:
    async def main(url: str) -> None:
        sink = RecordingHttpSink()
        async with streamable(url, sink) as session:
            caller = Caller(session, sink)
            await caller.shake_hands()

            assert await caller.call("in_two_parts", token="p") == "after all"
            assert caller.progress() == [2]

    with sdk_server("resumable") as url:
        run(main(url))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_modern_requests_need_no_session(loop: str) -> None:
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
    }

    async def main(url: str) -> None:
        sink = RecordingHttpSink()
        async with streamable(url, sink) as session:
            caller = Caller(session, sink)
            version = {"MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "server/discover"}
            hello = await caller.ask("server/discover", version, _meta=meta)
            assert "2026-07-28" in hello["supportedVersions"]
            session.adopt(protocol_version="2026-07-28")

            headers = {"Mcp-Method": "tools/call", "Mcp-Name": "slowly"}
            result = await caller.ask(
                "tools/call",
                headers,
                name="slowly",
                arguments={"steps": 2},
                _meta={**meta, "progressToken": 7},
            )
            assert result["content"][0]["text"] == "done"
            assert caller.progress() == [2, 2]
            assert session.session_id is None

            # What the server refuses it refuses in the protocol's own words.
            unknown = {"jsonrpc": "2.0", "id": 9, "method": "ping", "params": {"_meta": meta}}
            session.send_request(9, json.dumps(unknown).encode(), headers={"Mcp-Method": "ping"})
            failure = await sink.until_failed(9)
            assert (failure.status, json.loads(failure.body)["error"]["code"]) == (404, -32601)
            assert sink.lost == []

    with sdk_server("streamable") as url:
        run(main(url), loop)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_old_transport_works_the_same(loop: str) -> None:
    async def main(url: str) -> None:
        sink = RecordingHttpSink()
        async with sse(url, sink) as session:
            caller = Caller(session, sink)
            await caller.shake_hands()

            assert await caller.call("echo", text="x") == "x"
            assert await caller.call("slowly", token="p", steps=2) == "done"
            assert caller.progress() == [None, None]
        assert sink.lost == []

    with sdk_server("sse") as url:
        run(main(url), loop)
