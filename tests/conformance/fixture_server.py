"""The MCP server that the official conformance harness expects behind what it tests, in both protocol eras.

    python fixture_server.py stdio [--legacy]
    python fixture_server.py http [--port N]

Over HTTP it listens on loopback, and its first line on stdout is its URL. With `--legacy` it knows nothing of
`server/discover`, as the servers that were written before there was such a thing. Names, texts and schemas are what the
harness' scenarios ask for. It is written with the official SDK: what the harness finds through a gateway is the
gateway's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import socket
import warnings
from typing import Any

import anyio
import uvicorn
from fixture_asking import Context, Unanswered, ask, content_of, form, is_modern
from fixture_tools import (
    PNG,
    STATE,
    call_tool,
    embedded,
    image,
    input_schema_of,
    listed_tools,
    session_id,
)
from mcp.server import NotificationOptions, Server
from mcp.server.caching import CacheHint
from mcp.server.models import InitializationOptions
from mcp.server.request_state import RequestStateBoundary, RequestStateSecurity
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.server.subscriptions import ListenHandler
from mcp.shared.exceptions import MCPDeprecationWarning, MCPError
from mcp.shared.message import SessionMessage
from mcp_types import (
    INVALID_PARAMS,
    METHOD_NOT_FOUND,
    BlobResourceContents,
    CompleteRequestParams,
    CompleteResult,
    Completion,
    ContentBlock,
    EmptyResult,
    ErrorData,
    GetPromptRequestParams,
    GetPromptResult,
    InputRequiredResult,
    JSONRPCError,
    JSONRPCMessage,
    JSONRPCRequest,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    PaginatedRequestParams,
    Prompt,
    PromptArgument,
    PromptMessage,
    ReadResourceRequestParams,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    SetLevelRequestParams,
    SubscribeRequestParams,
    TextContent,
    TextResourceContents,
    UnsubscribeRequestParams,
)

NAME = "conformance-fixture"

# How long a client whose stream was closed waits before it comes back, in milliseconds.
RETRY_INTERVAL = 100

# Streams that are open at the end are nobody's loss, in seconds.
SHUTDOWN_GRACE = 1

# What the lists may be kept for: long enough to be seen, short enough to disturb nobody.
FRESH = CacheHint(ttl_ms=1000, scope="public")

# What the legacy era says where the modern one says INVALID_PARAMS.
RESOURCE_NOT_FOUND = -32002

Page = PaginatedRequestParams | None


# ---- resources --------------------------------------------------------------------------------------------------

RESOURCES = [
    Resource(
        uri="test://static-text",
        name="static-text",
        description="A text that stays as it is.",
        mime_type="text/plain",
    ),
    Resource(
        uri="test://static-binary",
        name="static-binary",
        description="An image that stays as it is.",
        mime_type="image/png",
    ),
    Resource(
        uri="test://watched-resource",
        name="watched-resource",
        description="A text that can be subscribed to.",
        mime_type="text/plain",
    ),
]
TEXTS = {
    "test://static-text": "This is the content of the static text resource.",
    "test://watched-resource": "This is the content of the watched resource.",
}
TEMPLATE = ResourceTemplate(
    uri_template="test://template/{id}/data",
    name="template",
    description="Data by its id.",
    mime_type="application/json",
)
OF_TEMPLATE = re.compile(r"test://template/([^/]+)/data")


async def list_resources(_ctx: Context, _params: Page) -> ListResourcesResult:
    return ListResourcesResult(resources=RESOURCES)


async def list_templates(_ctx: Context, _params: Page) -> ListResourceTemplatesResult:
    return ListResourceTemplatesResult(resource_templates=[TEMPLATE])


async def read_resource(ctx: Context, params: ReadResourceRequestParams) -> ReadResourceResult:
    uri = str(params.uri)
    contents: TextResourceContents | BlobResourceContents
    if uri in TEXTS:
        contents = TextResourceContents(uri=uri, mime_type="text/plain", text=TEXTS[uri])
    elif uri == "test://static-binary":
        contents = BlobResourceContents(uri=uri, mime_type="image/png", blob=PNG)
    elif (match := OF_TEMPLATE.fullmatch(uri)) is not None:
        data = {"id": match[1], "templateTest": True, "data": f"Data for ID: {match[1]}"}
        contents = TextResourceContents(uri=uri, mime_type="application/json", text=json.dumps(data))
    else:
        code = INVALID_PARAMS if is_modern(ctx) else RESOURCE_NOT_FOUND
        raise MCPError(code, "Resource not found", {"uri": uri})
    return ReadResourceResult(contents=[contents])


async def subscribe(ctx: Context, params: SubscribeRequestParams) -> EmptyResult:
    STATE.watched.add((session_id(ctx), str(params.uri)))
    return EmptyResult()


async def unsubscribe(ctx: Context, params: UnsubscribeRequestParams) -> EmptyResult:
    STATE.watched.discard((session_id(ctx), str(params.uri)))
    return EmptyResult()


# ---- prompts ----------------------------------------------------------------------------------------------------


def argument(name: str, description: str) -> PromptArgument:
    return PromptArgument(name=name, description=description, required=True)


PROMPTS = [
    Prompt(name="test_simple_prompt", description="A text."),
    Prompt(
        name="test_prompt_with_arguments",
        description="A text about its arguments.",
        arguments=[argument("arg1", "First test argument"), argument("arg2", "Second test argument")],
    ),
    Prompt(
        name="test_prompt_with_embedded_resource",
        description="A resource, and a text about it.",
        arguments=[argument("resourceUri", "URI of the resource to embed")],
    ),
    Prompt(name="test_prompt_with_image", description="An image, and a text about it."),
    Prompt(name="test_input_required_result_prompt", description="Asks for its context."),
]
ONE_MORE = Prompt(name="test_one_more_prompt", description="Is there every other time.")
CONTEXT_FORM = form("What context should the prompt use?", {"context": {"type": "string"}}, ["context"])


async def list_prompts(_ctx: Context, _params: Page) -> ListPromptsResult:
    return ListPromptsResult(prompts=[*PROMPTS, ONE_MORE] if STATE.has_more_prompts else PROMPTS)


async def get_prompt(ctx: Context, params: GetPromptRequestParams) -> GetPromptResult | InputRequiredResult:
    try:
        blocks = await prompt(ctx, params)
    except Unanswered as question:
        return question.result
    return GetPromptResult(messages=[PromptMessage(role="user", content=block) for block in blocks])


async def prompt(ctx: Context, params: GetPromptRequestParams) -> list[ContentBlock]:
    given = params.arguments or {}
    match params.name:
        case "test_simple_prompt" | "test_one_more_prompt":
            return [TextContent(type="text", text="This is a simple prompt for testing.")]
        case "test_prompt_with_arguments":
            words = f"Prompt with arguments: arg1='{given['arg1']}', arg2='{given['arg2']}'"
            return [TextContent(type="text", text=words)]
        case "test_prompt_with_embedded_resource":
            return [
                embedded(given["resourceUri"], "text/plain", "Embedded resource content for testing."),
                TextContent(type="text", text="Please process the embedded resource above."),
            ]
        case "test_prompt_with_image":
            return [image(), TextContent(type="text", text="Please analyze the image above.")]
        case "test_input_required_result_prompt":
            answers = await ask(ctx, params, {"user_context": CONTEXT_FORM})
            words = f"The context: {content_of(answers['user_context']).get('context')}"
            return [TextContent(type="text", text=words)]
        case name:
            raise MCPError(INVALID_PARAMS, f"Unknown prompt: {name}")


async def complete(_ctx: Context, params: CompleteRequestParams) -> CompleteResult:
    known = [word for word in ("paris", "park", "party") if word.startswith(params.argument.value)]
    return CompleteResult(completion=Completion(values=known, total=len(known), has_more=False))


# ---- the server -------------------------------------------------------------------------------------------------


class Fixture(Server):
    """A server that says, in the legacy era too, that its lists may change."""

    def create_initialization_options(
        self, notification_options: NotificationOptions | None = None, *more: object
    ) -> InitializationOptions:
        changing = NotificationOptions(prompts_changed=True, resources_changed=False, tools_changed=True)
        return super().create_initialization_options(notification_options or changing, *more)  # type: ignore[arg-type]


class Events(EventStore):
    """The events of all streams, so that a stream that was closed can be resumed."""

    def __init__(self) -> None:
        self._events: list[tuple[str, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        self._events.append((stream_id, message))
        return str(len(self._events))

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        last = int(last_event_id)
        stream_id, _ = self._events[last - 1]
        for number, (stream, message) in enumerate(self._events[last:], last + 1):
            if stream == stream_id and message is not None:
                await send_callback(EventMessage(message, str(number)))
        return stream_id


async def list_tools(_ctx: Context, _params: Page) -> ListToolsResult:
    return ListToolsResult(tools=listed_tools())


async def set_level(ctx: Context, params: SetLevelRequestParams) -> EmptyResult:
    STATE.levels[session_id(ctx)] = params.level
    return EmptyResult()


def make_server() -> Fixture:
    server = Fixture(
        NAME,
        version="1.0.0",
        cache_hints=dict.fromkeys(
            ("tools/list", "prompts/list", "resources/list", "resources/templates/list", "resources/read"),
            FRESH,
        ),
        get_tool_input_schema=input_schema_of,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
        on_list_resources=list_resources,
        on_list_resource_templates=list_templates,
        on_read_resource=read_resource,
        on_subscribe_resource=subscribe,
        on_unsubscribe_resource=unsubscribe,
        on_list_prompts=list_prompts,
        on_get_prompt=get_prompt,
        on_completion=complete,
        on_set_logging_level=set_level,
        on_subscriptions_listen=ListenHandler(STATE.bus),
    )
    server.middleware.append(RequestStateBoundary(RequestStateSecurity.ephemeral(), default_audience=NAME))
    return server


async def serve_stdio(*, legacy: bool) -> None:
    server = make_server()
    options = server.create_initialization_options()
    async with stdio_server() as (read_stream, write_stream):
        if not legacy:
            await server.run(read_stream, write_stream, options)
            return
        send, receive = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pass_on_legacy, read_stream, send, write_stream)
            await server.run(receive, write_stream, options)


async def pass_on_legacy(incoming: Any, server: Any, outgoing: Any) -> None:
    """Answer the modern era's first request as one that nobody has heard of; everything else is the server's."""
    async with server:
        async for item in incoming:
            message = getattr(item, "message", None)
            if isinstance(message, JSONRPCRequest) and message.method == "server/discover":
                error = ErrorData(code=METHOD_NOT_FOUND, message="Method not found")
                answer = JSONRPCError(jsonrpc="2.0", id=message.id, error=error)
                await outgoing.send(SessionMessage(answer))
            else:
                await server.send(item)


async def serve_http(port: int) -> None:
    app = make_server().streamable_http_app(event_store=Events(), retry_interval=RETRY_INTERVAL)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    print(f"http://localhost:{listener.getsockname()[1]}/mcp", flush=True)
    # h11 takes the white space around a header's value away, as HTTP says; httptools leaves what is behind it.
    config = uvicorn.Config(app, http="h11", log_level="warning", timeout_graceful_shutdown=SHUTDOWN_GRACE)
    await uvicorn.Server(config).serve(sockets=[listener])


def main() -> None:
    parser = argparse.ArgumentParser(description="The fixture server of the conformance harness.")
    doors = parser.add_subparsers(dest="door", required=True)
    doors.add_parser("stdio").add_argument("--legacy", action="store_true")
    doors.add_parser("http").add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    # The legacy era is half of the purpose.
    warnings.simplefilter("ignore", MCPDeprecationWarning)
    if arguments.door == "stdio":
        asyncio.run(serve_stdio(legacy=arguments.legacy))
    else:
        asyncio.run(serve_http(arguments.port))


if __name__ == "__main__":
    main()
