"""The client that the conformance harness tests: a node, played by the official SDK's client.

    python client_adapter.py URL            the harness' server behind a node, the SDK's client in front
    python client_adapter.py --direct URL   the SDK's client alone: what it can show without a node

The harness names the scenario, the revision and the scenario's data in the environment. What it sees of the requests
then is the node's work towards its servers; the client only has them made. Needs `tests` on the import path.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mcp import Client, MCPError
from mcp_types import (
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequestParams,
    ElicitResult,
    ListRootsResult,
    Root,
    TextContent,
)
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from pydantic import ValidationError
from support.nodes import running_node

# All that a scenario asks for, the harness' own pauses included; its own patience is longer, for the node's end.
ACTION_TIMEOUT = 20.0

# Tools that no client may call; the harness' server lists them beside a valid one.
INVALID_TOOLS = (
    "invalid_empty_header",
    "invalid_object_header",
    "invalid_array_header",
    "invalid_null_header",
    "invalid_number_header",
    "invalid_duplicate_same_case",
    "invalid_duplicate_diff_case",
    "invalid_space_in_name",
    "invalid_colon_in_name",
    "invalid_non_ascii_name",
    "invalid_control_char_name",
)

# ---- what the user, the model and the file system say -----------------------------------------------------------


async def fill_in(_context: object, params: ElicitRequestParams) -> ElicitResult:
    """Accept a form as it is: the defaults, and yes to every question without one."""
    content: dict[str, Any] = {}
    for name, field in getattr(params, "requested_schema", {}).get("properties", {}).items():
        if "default" in field:
            content[name] = field["default"]
        elif field.get("type") == "boolean":
            content[name] = True
    return ElicitResult(action="accept", content=content)


async def sample(_context: object, _params: CreateMessageRequestParams) -> CreateMessageResult:
    return CreateMessageResult(
        role="assistant", content=TextContent(type="text", text="An answer."), model="none"
    )


async def list_roots(_context: object) -> ListRootsResult:
    return ListRootsResult(roots=[Root(uri="file:///tmp")])


# ---- what the scenarios have a client do ------------------------------------------------------------------------


async def only_list(client: Client) -> None:
    await client.list_tools()


async def add_numbers(client: Client) -> None:
    await client.list_tools()
    await client.call_tool("add_numbers", {"a": 5, "b": 3})


async def call_all(client: Client) -> None:
    """Call every tool that is listed, with nothing."""
    for tool in (await client.list_tools()).tools:
        await client.call_tool(tool.name, {})


async def answer_questions(client: Client) -> None:
    for tool in (await client.list_tools()).tools:
        if tool.name != "test_mrtr_no_result_type":
            await client.call_tool(tool.name, {})
    # A result that does not say that it is complete is; this client refuses it, which is not what is looked at.
    with suppress(ValidationError):
        await client.call_tool("test_mrtr_no_result_type", {})


async def use_everything(client: Client) -> None:
    await call_all(client)
    for resource in (await client.list_resources()).resources:
        await client.read_resource(str(resource.uri))
    for prompt in (await client.list_prompts()).prompts:
        await client.get_prompt(prompt.name)


async def call_as_told(client: Client) -> None:
    """Make the calls that the harness hands over."""
    await client.list_tools()
    for call in json.loads(os.environ["MCP_CONFORMANCE_CONTEXT"])["toolCalls"]:
        await client.call_tool(call["name"], call["arguments"])


async def call_what_is_valid(client: Client) -> None:
    """Call a valid tool, and all the others: who is asked for one must refuse."""
    listed = [tool.name for tool in (await client.list_tools()).tools]
    assert listed == ["valid_tool"], listed
    await client.call_tool("valid_tool", {"region": "us-west1"})


async def call_what_is_invalid_too(client: Client) -> None:
    await call_what_is_valid(client)
    for name in INVALID_TOOLS:
        try:
            await client.call_tool(name, {"value": "1"})
        except MCPError:
            continue
        raise AssertionError(f"{name} could be called")


ACTIONS: dict[str, Callable[[Client], Awaitable[None]]] = {
    "initialize": only_list,
    "tools_call": add_numbers,
    "elicitation-sep1034-client-defaults": call_all,
    "sse-retry": call_all,
    "request-metadata": only_list,
    "sep-2322-client-request-state": answer_questions,
    "http-standard-headers": use_everything,
    "http-custom-headers": call_as_told,
    "http-invalid-tool-headers": call_what_is_invalid_too,
    "json-schema-ref-no-deref": only_list,
}


# ---- the way there ----------------------------------------------------------------------------------------------


@contextmanager
def behind_a_node(url: str) -> Iterator[str]:
    """Have a node whose only server is the harness'; give the URL at which that server is found."""
    with tempfile.TemporaryDirectory() as folder:
        entry = {"name": "back", "transport": "streamable-http", "url": url}
        with running_node(Path(folder), [entry], "--token", "none") as node:
            yield f"{node.url}/mcp/server/back"


async def act(url: str, scenario: str, revision: str) -> None:
    mode: Any = "legacy" if revision in HANDSHAKE_PROTOCOL_VERSIONS else "auto"
    async with (
        asyncio.timeout(ACTION_TIMEOUT),
        Client(
            url,
            mode=mode,
            elicitation_callback=fill_in,
            sampling_callback=sample,
            list_roots_callback=list_roots,
        ) as client,
    ):
        await ACTIONS[scenario](client)


def main() -> None:
    parser = argparse.ArgumentParser(description="The client side of the conformance harness.")
    parser.add_argument("--direct", action="store_true")
    parser.add_argument("url")
    arguments = parser.parse_args()
    scenario = os.environ["MCP_CONFORMANCE_SCENARIO"]
    revision = os.environ["MCP_CONFORMANCE_PROTOCOL_VERSION"]
    if arguments.direct:
        # The SDK's client lets its user call what it does not list.
        ACTIONS["http-invalid-tool-headers"] = call_what_is_valid
        asyncio.run(act(arguments.url, scenario, revision))
        return
    with behind_a_node(arguments.url) as url:
        asyncio.run(act(url, scenario, revision))


if __name__ == "__main__":
    main()
