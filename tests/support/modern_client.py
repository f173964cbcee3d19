"""A client of the modern era as bytes: over HTTP, one request a time on each connection, or as lines."""

from __future__ import annotations

import itertools
import json
from typing import Any

from support.raw_http import RawConnection, RawResponse

VERSION = "2026-07-28"
Json = dict[str, Any]

# What a client can do that can do everything a server may ask.
WILLING: Json = {"elicitation": {"form": {}, "url": {}}, "sampling": {}, "roots": {}}

_OURS = "io.modelcontextprotocol/"
_numbers = itertools.count(1)


def modern(
    method: str,
    *,
    id: object = None,
    can: Json | None = None,
    meta: Json | None = None,
    version: str = VERSION,
    **params: Any,
) -> Json:
    """A request that says who asks."""
    said: Json = {
        f"{_OURS}protocolVersion": version,
        f"{_OURS}clientCapabilities": {} if can is None else can,
        f"{_OURS}clientInfo": {"name": "modern", "version": "1"},
        **(meta or {}),
    }
    number = next(_numbers) if id is None else id
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": {**params, "_meta": said}}


def log_level(level: str) -> Json:
    """What in `_meta` asks for log messages."""
    return {f"{_OURS}logLevel": level}


def again(message: Json, result: Json, answers: Json | None = None, *, id: object = None) -> Json:
    """The next round of a request: with what its result has asked for."""
    params = {**message["params"], "requestState": result["requestState"]}
    if answers is not None:
        params["inputResponses"] = answers
    return {**message, "id": next(_numbers) if id is None else id, "params": params}


class ModernClient:
    """Its requests over HTTP, each on a connection of its own."""

    def __init__(self, url: str, path: str = "/mcp", token: str | None = None) -> None:
        self.url = url
        self.path = path
        self.token = token
        self._connections: list[RawConnection] = []

    async def send(self, message: Json, **headers: str | None) -> RawConnection:
        """Send one request; read its answer from the connection."""
        connection = await RawConnection.open(self.url)
        self._connections.append(connection)
        await connection.send(
            "POST", self.path, self.headers(message, **headers), json.dumps(message).encode()
        )
        return connection

    def headers(self, message: Json, **headers: str | None) -> dict[str, str]:
        """What goes with a message; a header of None is left out."""
        given: dict[str, str | None] = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "Mcp-Protocol-Version": VERSION,
            "Mcp-Method": message["method"],
            "Mcp-Name": message.get("params", {}).get("name") or message.get("params", {}).get("uri"),
            "Authorization": None if self.token is None else f"Bearer {self.token}",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        return {name: value for name, value in given.items() if value is not None}

    async def post(self, message: Json, **headers: str | None) -> RawResponse:
        """Send one request and read its whole answer."""
        return await (await self.send(message, **headers)).read()

    async def ask(self, message: Json, **headers: str | None) -> Json:
        """Send one request; return the JSON of its answer."""
        reply: Json = (await self.post(message, **headers)).json()
        return reply

    async def result(self, message: Json, **headers: str | None) -> Json:
        """Send one request that must succeed."""
        reply = await self.ask(message, **headers)
        assert "result" in reply, reply
        assert reply["id"] == message["id"]
        found: Json = reply["result"]
        return found

    async def error(self, message: Json, **headers: str | None) -> Json:
        """Send one request that must fail; its error, with the status beside it."""
        answer = await self.post(message, **headers)
        reply = answer.json()
        assert "error" in reply, reply
        assert reply["id"] == message["id"]
        return {"status": answer.status, **reply["error"]}

    async def close(self) -> None:
        for connection in self._connections:
            await connection.close()
