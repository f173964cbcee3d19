"""The echo server over HTTP, by the official SDK: what its clients reach without anything between.

python echo_sdk.py PORT [--tools N]
"""

from __future__ import annotations

import json
import sys
from typing import Any

import uvicorn
from echo_server import make_tools
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
)


def make_server(tools: int) -> Server[Any]:
    """A server with so many tools; `echo` says what it is given."""
    listing = ListToolsResult.model_validate(json.loads(make_tools(tools)))

    async def call(_: ServerRequestContext[Any], params: CallToolRequestParams) -> CallToolResult:
        text = str((params.arguments or {}).get("text", ""))
        return CallToolResult(content=[TextContent(type="text", text=text)])

    async def list_tools(_: ServerRequestContext[Any], __: PaginatedRequestParams | None) -> ListToolsResult:
        return listing

    return Server("echo", on_call_tool=call, on_list_tools=list_tools)


def main(port: int, tools: int) -> None:
    app = make_server(tools).streamable_http_app(json_response=True)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="error", access_log=False)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[3]) if sys.argv[2:3] == ["--tools"] else 1)
