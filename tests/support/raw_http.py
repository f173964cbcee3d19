"""HTTP as bytes: a client that sends what a test wants, also what no library would, and reads streams as they come."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class RawResponse:
    """A whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    def last_message(self) -> Any:
        """The answer to a call, which is a stream where it took the server long."""
        if self.headers.get("content-type") != "text/event-stream":
            return self.json()
        lines = self.body.split(b"\n")
        return json.loads([line for line in lines if line.startswith(b"data: {")][-1].removeprefix(b"data: "))


@dataclass(frozen=True, slots=True)
class RawEvent:
    """One server-sent event; what it does not have is None."""

    data: bytes
    id: str | None = None
    retry: int | None = None

    @classmethod
    def parse(cls, chunk: bytes) -> RawEvent:
        """An event that came whole, in a chunk of its own."""
        assert chunk.endswith(b"\n\n"), chunk
        fields = dict(line.split(b": ", 1) for line in chunk[:-2].split(b"\n"))
        id, retry = fields.get(b"id"), fields.get(b"retry")
        return cls(
            fields[b"data"], None if id is None else id.decode(), None if retry is None else int(retry)
        )


class RawConnection:
    """One connection; one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self.reader, self.writer, self.host = reader, writer, host

    @classmethod
    async def open(cls, url: str, tls: ssl.SSLContext | None = None) -> RawConnection:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=1 << 26, ssl=tls)
        return cls(reader, writer, parts.netloc)

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            return

    def pause(self) -> None:
        """Read nothing from the socket any more, until `resume`."""
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    def resume(self) -> None:
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]

    async def send(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> None:
        """Send one request."""
        given = {"Host": self.host, **(headers or {})}
        if body or method == "POST":
            given.setdefault("Content-Length", str(len(body)))
        lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
        self.writer.write(f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode("latin-1") + body)
        await self.writer.drain()

    async def read_head(self) -> tuple[int, dict[str, str]]:
        """Read the status and the headers, in lower case."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.strip().split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return int(status_line.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}

    async def read_chunk(self) -> bytes:
        """Read one chunk of a stream; b"" is its end."""
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        data = await self.reader.readexactly(size)
        await self.reader.readexactly(2)
        return data

    async def read_raw_event(self) -> RawEvent | None:
        """Read the next event of a stream, past comments; None at its end."""
        while chunk := await self.read_chunk():
            if not chunk.startswith(b":"):
                return RawEvent.parse(chunk)
        return None

    async def read_event(self) -> Any:
        """Read the next event of a stream as JSON, past comments and events without data; None at its end."""
        while (event := await self.read_raw_event()) is not None:
            if event.data:
                return json.loads(event.data)
        return None

    async def read(self) -> RawResponse:
        """Read a whole answer."""
        status, headers = await self.read_head()
        if headers.get("transfer-encoding") == "chunked":
            parts: list[bytes] = []
            while chunk := await self.read_chunk():
                parts.append(chunk)
            return RawResponse(status, headers, b"".join(parts))
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return RawResponse(status, headers, body)

    async def ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> RawResponse:
        await self.send(method, path, headers, body)
        return await self.read()


class RawClient:
    """An MCP client of the legacy era on one connection, which knows its session."""

    def __init__(self, connection: RawConnection, path: str = "/mcp", token: str | None = None) -> None:
        self.connection = connection
        self.path = path
        self.session: str | None = None
        self.token = token

    @classmethod
    async def open(
        cls,
        url: str,
        path: str = "/mcp",
        token: str | None = None,
        version: str = "2025-11-25",
        capabilities: Mapping[str, Any] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> RawClient:
        """Connect and shake hands."""
        client = cls(await RawConnection.open(url, tls), path, token)
        answer = await client.post(initialize(version=version, capabilities=capabilities))
        assert answer.status == 200, answer
        client.session = answer.headers["mcp-session-id"]
        assert (await client.post({"jsonrpc": "2.0", "method": "notifications/initialized"})).status == 202
        return client

    def headers(self, **more: str) -> dict[str, str]:
        """What every request carries."""
        given = {"Content-Type": "application/json", "Accept": "application/json, text/event-stream"}
        if self.session is not None:
            given["Mcp-Session-Id"] = self.session
        if self.token is not None:
            given["Authorization"] = f"Bearer {self.token}"
        return {**given, **{name.replace("_", "-"): value for name, value in more.items()}}

    async def send(self, message: Any, **more: str) -> None:
        body = message if isinstance(message, bytes) else json.dumps(message).encode()
        await self.connection.send("POST", self.path, self.headers(**more), body)

    async def post(self, message: Any, **more: str) -> RawResponse:
        await self.send(message, **more)
        return await self.connection.read()

    async def listen(self, after: str | None = None) -> int:
        """Send a GET, which reads on after an event; read the head and return the status."""
        more = {} if after is None else {"Last_Event_ID": after}
        await self.connection.send("GET", self.path, self.headers(**more))
        return (await self.connection.read_head())[0]

    async def beside(self, url: str) -> RawClient:
        """The same client on one more connection."""
        other = RawClient(await RawConnection.open(url), self.path, self.token)
        other.session = self.session
        return other

    async def close(self) -> None:
        await self.connection.close()


def initialize(
    id: object = 0, version: str = "2025-11-25", capabilities: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The first request of a session."""
    return {
        "jsonrpc": "2.0",
        "id": id,
        "method": "initialize",
        "params": {
            "protocolVersion": version,
            "capabilities": capabilities or {},
            "clientInfo": {"name": "raw", "version": "1"},
        },
    }


def call(id: object, name: str, *, token: object = None, key: str | None = None) -> dict[str, Any]:
    """A tools/call."""
    params: dict[str, Any] = {"name": name, "arguments": {"a": 1}}
    meta = {"progressToken": token} if token is not None else {}
    if key is not None:
        meta["mcpv/key"] = key
    if meta:
        params["_meta"] = meta
    return {"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params}


def request(id: object, method: str, **params: Any) -> dict[str, Any]:
    """Any other request."""
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def notification(method: str, **params: Any) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "method": method, "params": params}
