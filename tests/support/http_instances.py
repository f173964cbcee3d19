"""One real HttpInstance over a server whose every answer the test writes, with its owner and its index played.

async with http_instance(tmp_path, Script("modern")) as one: ...
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Raw
from support.http_servers import HttpServer, Request
from support.owners import BOUND, Home, Recorder, RecorderOfAll, home, until

from mcpv_node.actors.callers import EMPTY_PROFILE, Caller, ClientProfile
from mcpv_node.actors.instance.http import HttpInstance
from mcpv_node.actors.instance.messages import (
    Answer,
    Call,
    CallEvent,
    CallFailed,
    InstanceExited,
    InstanceFailed,
    InstanceReady,
    StopInstance,
)
from mcpv_node.actors.kernel import Handle
from mcpv_node.actors.leases import InstanceId, LeaseId, new_lease_id
from mcpv_node.actors.server_type.facts import Lane
from mcpv_node.settings import NodeLimits, NodeSettings, ServerName, ServerSpec, SpecKey
from mcpv_node.telemetry import SystemClock
from mcpv_node.telemetry.tracing import Tracing

T = TypeVar("T")
Json = dict[str, Any]
Handler = Callable[[Request, Json], Awaitable[None]]

KEY = SpecKey("c" * 64)
CALLER = Caller(principal="somebody", client="test", key="session:1", turn="session:1")
META = "io.modelcontextprotocol"


def success(message: Json, result: Json | bytes) -> bytes:
    raw = result if isinstance(result, bytes) else json.dumps(result).encode()
    return b'{"jsonrpc":"2.0","id":%s,"result":%s}' % (json.dumps(message["id"]).encode(), raw)


def failure(id: object, code: int, words: str) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": words}}).encode()


class Script:
    """A server of one era. `on` says how a method, or `GET` and `DELETE`, is answered instead."""

    def __init__(self, era: str = "legacy", *, session: str | None = None, **on: Handler) -> None:
        self.era = era
        self.session = session
        self.on: dict[str, Handler] = dict(on)
        self.heard: list[Json] = []
        self.verbs: list[str] = []

    def methods(self) -> list[str]:
        """What was posted, in order; a response is its id."""
        return [str(message.get("method", message.get("id"))) for message in self.heard]

    def of(self, method: str) -> list[Json]:
        return [message for message in self.heard if message.get("method") == method]

    async def __call__(self, request: Request) -> None:
        self.verbs.append(request.method)
        if request.method != "POST":
            handler = self.on.get(request.method)
            await (
                handler(request, {}) if handler else request.reply(405 if request.method == "GET" else 204)
            )
            return
        message: Json = request.json()
        self.heard.append(message)
        method = str(message.get("method"))
        if (handler := self.on.get(method)) is not None:
            await handler(request, message)
        elif "id" not in message or "method" not in message:
            await request.reply(202)
        elif method == "initialize" and self.era == "legacy":
            result = {
                "protocolVersion": "2025-11-25",
                "capabilities": {"tools": {}, "logging": {}},
                "serverInfo": {"name": "s", "version": "1"},
            }
            headers = {} if self.session is None else {"Mcp_Session_Id": self.session}
            await request.reply(200, success(message, result), **headers)
        elif method == "server/discover" and self.era == "modern":
            found = {
                "resultType": "complete",
                "supportedVersions": ["2026-07-28"],
                "capabilities": {"tools": {}},
                "ttlMs": 0,
                "cacheScope": "private",
            }
            await request.reply(200, success(message, found))
        elif method == "tools/list":
            schema = {"type": "object"}
            await request.reply(200, success(message, {"tools": [{"name": "echo", "inputSchema": schema}]}))
        elif method == "tools/call":
            await request.reply(200, success(message, {"content": [], "said": message["params"]}))
        elif method == "ping" or method == "logging/setLevel":
            await request.reply(200, success(message, {}))
        else:
            await request.reply(
                200 if self.era == "legacy" else 404, failure(message["id"], -32601, f"no {method}")
            )


class HttpOne:
    """One instance as its owner sees it."""

    def __init__(self, at_home: Home, owner: Recorder, server: HttpServer, script: Script) -> None:
        self.home = at_home
        self.owner = owner
        self.server = server
        self.script = script
        self.instance: Handle[Any] = Handle.create(at_home.system, "instance")

    async def heard(self, kind: type[T]) -> T:
        await until(lambda: self.owner.of(kind))
        return self.owner.of(kind)[0]

    async def is_ready(self) -> HttpOne:
        await until(lambda: self.owner.of(InstanceReady) or self.owner.of(InstanceFailed))
        assert not self.owner.of(InstanceFailed), self.owner.of(InstanceFailed)
        return self

    def call(
        self,
        *,
        lease: LeaseId | None = None,
        within: float = 1000.0,
        on_event: Callable[[CallEvent], None] | None = None,
        caller: Caller = CALLER,
        log_level: str | None = None,
        definition: bytes | None = None,
        meta: Json | None = None,
        **arguments: object,
    ) -> asyncio.Task[Answer | CallFailed]:
        said = {} if meta is None else {"_meta": meta}
        params = msgspec.json.encode({"name": "prefixed_echo", "arguments": arguments, **said})
        request = Call(
            lease or new_lease_id(),
            caller,
            "tools/call",
            Raw(params),
            self.home.context.clock.monotonic() + within,
            name="echo",
            on_event=on_event,
            log_level=log_level,
            definition=definition,
        )
        return asyncio.get_running_loop().create_task(self.instance.ask(request, BOUND))

    async def stopped(self) -> InstanceExited:
        self.instance.tell(StopInstance("the test wants it"))
        return await self.heard(InstanceExited)


@asynccontextmanager
async def http_instance(
    tmp_path: Path,
    script: Script,
    *,
    url: str | None = None,
    profile: ClientProfile = EMPTY_PROFILE,
    may_probe: bool = True,
    limits: NodeLimits | None = None,
    tracing: Tracing | None = None,
    **settings: Any,
) -> AsyncIterator[HttpOne]:
    """Start an instance of the server that `script` plays, or of the one at `url`."""
    node_settings = NodeSettings(servers=(), limits=limits or NodeLimits())
    given: dict[str, Any] = {"stop_grace_seconds": 0.5, "transport": "streamable-http", **settings}
    async with (
        HttpServer(script) as server,
        home(tmp_path, clock=SystemClock(), settings=node_settings) as at_home,
    ):
        spec = ServerSpec(name=ServerName("far"), url=url or server.url, **given)
        owner = RecorderOfAll()
        owner_handle = await at_home.fill("owner", lambda: owner)
        one = HttpOne(at_home, owner, server, script)
        try:
            await at_home.fill(
                "instance",
                lambda: HttpInstance(
                    replace(at_home.context, tracing=tracing),
                    spec=spec,
                    spec_key=KEY,
                    instance_id=InstanceId("far-1"),
                    owner=owner_handle,
                    lane=Lane(profile),
                    may_probe=may_probe,
                ),
                handle=one.instance,
            )
            yield one
        finally:
            if one.instance.is_alive():
                one.instance.cell.stop()
            await until(lambda: not one.instance.is_alive())
