"""A program: a server of the official SDK on loopback. `sdk_server.py KIND` prints its address once it listens.

KIND is streamable, json (answers without streams), resumable (streams whose events can be asked for again) or sse.
"""

from __future__ import annotations

import socket
import sys

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.types import JSONRPCMessage

# Milliseconds: long enough for the answer to be there when the client comes back. The SDK loses what it sends in
# the moment in which a client comes back.
RETRY = 500

server = MCPServer("referee")


@server.tool()
def echo(text: str) -> str:
    """Say it again."""
    return text


@server.tool()
async def slowly(steps: int, ctx: Context) -> str:
    """Report progress on the way."""
    for step in range(steps):
        await ctx.report_progress(step, steps)
    return "done"


@server.tool()
async def in_two_parts(ctx: Context) -> str:
    """End the stream in the middle of the call; the answer is there for who comes back."""
    await ctx.report_progress(1, 2)
    await ctx.close_sse_stream()
    return "after all"


class Memory(EventStore):
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: list[tuple[str, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        self.events.append((stream_id, message))
        return str(len(self.events) - 1)

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        stream_id = self.events[int(last_event_id)][0]
        for number, (stream, message) in enumerate(self.events):
            if number > int(last_event_id) and stream == stream_id and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream_id


def main(kind: str) -> None:
    match kind:
        case "sse":
            app = server.sse_app()
        case "resumable":
            app = server.streamable_http_app(event_store=Memory(), retry_interval=RETRY)
        case _:
            app = server.streamable_http_app(json_response=kind == "json")
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    path = "/sse" if kind == "sse" else "/mcp"
    print(f"http://127.0.0.1:{listener.getsockname()[1]}{path}", flush=True)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(sys.argv[1])
