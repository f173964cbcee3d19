"""A conversation by the first official SDK (`mcp` 1.x), in an environment of its own: it cannot stand beside the second.

    python sdk_one.py http URL TOKEN
    python sdk_one.py stdio COMMAND ARGUMENT...

Shakes hands, lists the tools and asks the clock; prints what it saw as one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack
from typing import Any

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamablehttp_client

# The client waits for ever by itself; this takes a second.
CONVERSATION_TIMEOUT = 30.0


async def converse(door: str, address: str, *more: str) -> dict[str, Any]:
    async with asyncio.timeout(CONVERSATION_TIMEOUT), AsyncExitStack() as stack:
        if door == "http":
            (token,) = more
            transport = streamablehttp_client(address, headers={"Authorization": f"Bearer {token}"})
            read, write, _ = await stack.enter_async_context(transport)
        else:
            command = StdioServerParameters(command=address, args=list(more), env=dict(os.environ))
            read, write = await stack.enter_async_context(stdio_client(command))
        session = await stack.enter_async_context(ClientSession(read, write))
        welcome = await session.initialize()
        listed = await session.list_tools()
        now = await session.call_tool("clock_now", {"tz": "UTC"})
        return {
            "version": welcome.protocolVersion,
            "server": welcome.serverInfo.name,
            "tools": [tool.name for tool in listed.tools],
            "now": now.content[0].text,
            "isError": now.isError,
        }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(converse(*sys.argv[1:]))))
