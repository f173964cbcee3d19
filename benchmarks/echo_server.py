"""An MCP server on stdio that costs as little as one in Python can: it lists tools and echoes what they are given.

    python -I -S echo_server.py [--tools N] [--modern]

Standard library only. With --modern it says that it knows the modern era, too, and its results are whole in that
era. Every request that is there is answered with one write, so that what is measured is what
stands in front of it. It ends when its input does.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

READ_SIZE = 64 * 1024


DISCOVERY = (
    b'{"supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"resultType":"complete",'
    b'"ttlMs":0,"cacheScope":"private","serverInfo":{"name":"echo","version":"1"},'
    b'"_meta":{"io.modelcontextprotocol/serverInfo":{"name":"echo","version":"1"}}}'
)
WHOLE = b',"resultType":"complete","ttlMs":0,"cacheScope":"private"'


def make_tools(count: int) -> bytes:
    """The result of `tools/list`: `echo`, and as many like it as it takes; of the size real tools have."""
    schema = {"type": "object", "properties": {"text": {"type": "string", "description": "what to say"}}}
    names = ["echo", *(f"echo{number}" for number in range(1, count))]
    tools = [
        {
            "name": name,
            "description": "Say the same again, as soon as possible and without looking at it.",
            "inputSchema": schema,
            "annotations": {"readOnlyHint": True},
        }
        for name in names
    ]
    return json.dumps({"tools": tools}, separators=(",", ":")).encode()


def answer(request: dict[str, Any], tools: bytes, *, is_modern: bool) -> bytes:
    """The line that answers one message; nothing for a notification."""
    if "id" not in request:
        return b""
    match request.get("method"):
        case "tools/call":
            text = json.dumps(request["params"].get("arguments", {}).get("text", ""))
            result = b'{"content":[{"type":"text","text":%b}]}' % text.encode()
        case "initialize":
            version = json.dumps(request["params"]["protocolVersion"]).encode()
            result = (
                b'{"protocolVersion":%b,"capabilities":{"tools":{}},"serverInfo":{"name":"echo","version":"1"}}'
                % version
            )
        case "tools/list":
            result = tools
        case "server/discover" if is_modern:
            result = DISCOVERY
        case _:
            result = b"{}"
    if is_modern and request["method"].startswith("tools/"):
        result = result[:-1] + WHOLE + b"}"
    return b'{"jsonrpc":"2.0","id":%b,"result":%b}\n' % (json.dumps(request["id"]).encode(), result)


def main(arguments: list[str]) -> int:
    """Serve until the input ends."""
    is_modern = arguments[-1:] == ["--modern"]
    tools = make_tools(int(arguments[1]) if arguments[:1] == ["--tools"] else 1)
    rest = b""
    while data := os.read(0, READ_SIZE):
        *lines, rest = (rest + data).split(b"\n")
        out = b"".join(answer(json.loads(line), tools, is_modern=is_modern) for line in lines if line)
        while out:
            out = out[os.write(1, out) :]
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
