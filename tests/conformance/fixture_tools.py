"""The tools of the fixture server, and what they remember."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from fixture_asking import (
    Context,
    Json,
    Unanswered,
    ask,
    content_of,
    form,
    is_modern,
    roots_of,
    said,
    sampling,
)
from mcp.server.subscriptions import InMemorySubscriptionBus
from mcp.shared.exceptions import MCPError, UrlElicitationRequiredError
from mcp.shared.subscriptions import PromptsListChanged, ResourceUpdated, ToolsListChanged
from mcp_types import (
    INVALID_PARAMS,
    MISSING_REQUIRED_CLIENT_CAPABILITY,
    AudioContent,
    CallToolRequestParams,
    CallToolResult,
    ContentBlock,
    ElicitRequest,
    ElicitRequestURLParams,
    ElicitResult,
    EmbeddedResource,
    ImageContent,
    InputRequest,
    InputRequiredResult,
    ListRootsRequest,
    TextContent,
    TextResourceContents,
    Tool,
)

# Between the messages of a call that reports on itself, as the scenarios ask.
PAUSE = 0.05

# The smallest image and sound there are: one red pixel; a header and no samples.
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
WAV = "UklGRiQAAABXQVZFZm10IBAAAAABAAEAQB8AAIA+AAACABAAZGF0YQAAAAA="

# What a tool says that it has changed.
WATCHED = "test://watched-resource"

LEVELS = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")

Params: TypeAlias = CallToolRequestParams
Answer: TypeAlias = Callable[[Context, Params], Awaitable[CallToolResult]]


# ---- what the server remembers ----------------------------------------------------------------------------------


class State:
    """What clients have changed."""

    def __init__(self) -> None:
        self.bus = InMemorySubscriptionBus()
        # A list whose change is announced does change: whoever compares sees it.
        self.has_more_tools = False
        self.has_more_prompts = False
        # Per session; a connection over pipes is one session.
        self.levels: dict[str | None, str] = {}
        self.has_refused = False
        self.watched: set[tuple[str | None, str]] = set()


STATE = State()


def session_id(ctx: Context) -> str | None:
    return None if ctx.request is None else ctx.request.headers.get("mcp-session-id")


# ---- tools ------------------------------------------------------------------------------------------------------


def text(words: str) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=words)])


def embedded(uri: str, mime_type: str, words: str) -> EmbeddedResource:
    return EmbeddedResource(
        type="resource", resource=TextResourceContents(uri=uri, mime_type=mime_type, text=words)
    )


def image() -> ImageContent:
    return ImageContent(type="image", data=PNG, mime_type="image/png")


def fixed(*content: ContentBlock, is_error: bool = False) -> Answer:
    async def answer(_ctx: Context, _params: Params) -> CallToolResult:
        return CallToolResult(content=list(content), is_error=is_error)

    return answer


async def with_logging(ctx: Context, _params: Params) -> CallToolResult:
    lowest = LEVELS.index(STATE.levels.get(session_id(ctx), "debug"))
    for number, words in enumerate(
        ("Tool execution started", "Tool processing data", "Tool execution completed")
    ):
        if number:
            await asyncio.sleep(PAUSE)
        if LEVELS.index("info") >= lowest:
            await ctx.session.send_log_message("info", words, related_request_id=ctx.request_id)
    return text("Three messages were logged.")


async def with_progress(ctx: Context, _params: Params) -> CallToolResult:
    for done in (0, 50, 100):
        if done:
            await asyncio.sleep(PAUSE)
        await ctx.session.report_progress(done, 100)
    return text("The work is done.")


async def reconnection(ctx: Context, _params: Params) -> CallToolResult:
    # None over pipes, and in the modern era, which resumes nothing.
    if ctx.close_sse_stream is not None:
        await ctx.close_sse_stream()
    await asyncio.sleep(PAUSE)
    return text("The stream was closed before this was said.")


async def sample(ctx: Context, params: Params) -> CallToolResult:
    answers = await ask(ctx, params, {"answer": sampling((params.arguments or {})["prompt"], 100)})
    return text(f"LLM response: {said(answers['answer'])}")


def elicit(label: str, properties: Json, required: list[str] | None = None) -> Answer:
    """Make a tool that shows a form and says what came of it."""

    async def answer(ctx: Context, params: Params) -> CallToolResult:
        message = (params.arguments or {}).get("message", "Please fill in this form.")
        answers = await ask(ctx, params, {"form": form(message, properties, required)})
        filled = answers["form"]
        action = filled.action if isinstance(filled, ElicitResult) else "cancel"
        return text(f"{label}: action={action}, content={json.dumps(content_of(filled))}")

    return answer


async def missing_capability(ctx: Context, _params: Params) -> CallToolResult:
    declared = ctx.session.client_capabilities
    if declared is None or declared.sampling is None:
        raise MCPError(
            MISSING_REQUIRED_CLIENT_CAPABILITY,
            "This tool needs a client that can sample.",
            {"requiredCapabilities": {"sampling": {}}},
        )
    return text("The client can sample.")


async def trigger_tool_change(ctx: Context, _params: Params) -> CallToolResult:
    STATE.has_more_tools = not STATE.has_more_tools
    await STATE.bus.publish(ToolsListChanged())
    if not is_modern(ctx):
        await ctx.session.send_tool_list_changed()
    return text("The list of tools is another one.")


async def trigger_prompt_change(ctx: Context, _params: Params) -> CallToolResult:
    STATE.has_more_prompts = not STATE.has_more_prompts
    await STATE.bus.publish(PromptsListChanged())
    if not is_modern(ctx):
        await ctx.session.send_prompt_list_changed()
    return text("The list of prompts is another one.")


async def trigger_resource_update(ctx: Context, _params: Params) -> CallToolResult:
    await STATE.bus.publish(ResourceUpdated(uri=WATCHED))
    if not is_modern(ctx) and (session_id(ctx), WATCHED) in STATE.watched:
        await ctx.session.send_resource_updated(WATCHED)
    return text("The watched resource is another one.")


NAME_FORM = form("What is your name?", {"name": {"type": "string"}}, ["name"])
CONFIRM_FORM = form("Please confirm", {"ok": {"type": "boolean"}}, ["ok"])


async def input_elicitation(ctx: Context, params: Params) -> CallToolResult:
    answers = await ask(ctx, params, {"user_name": NAME_FORM})
    return text(f"Hello, {content_of(answers['user_name']).get('name')}!")


async def input_sampling(ctx: Context, params: Params) -> CallToolResult:
    answers = await ask(ctx, params, {"capital_question": sampling("What is the capital of France?", 100)})
    return text(said(answers["capital_question"]))


async def input_list_roots(ctx: Context, params: Params) -> CallToolResult:
    answers = await ask(ctx, params, {"client_roots": ListRootsRequest()})
    return text(f"The client's roots: {roots_of(answers['client_roots'])}")


VISIT = "https://example.test/sign-in"


async def visit(ctx: Context, params: Params) -> CallToolResult:
    """Send the user to a URL; in the older era, told to `refuse`, with an error for every other call."""
    modern = is_modern(ctx)
    if (params.arguments or {}).get("refuse") and not modern:
        STATE.has_refused = not STATE.has_refused
        if STATE.has_refused:
            raise UrlElicitationRequiredError([visit_of("visit-1")])
        return text("visited")
    question = ElicitRequest(params=visit_of(None if modern else "visit-2"))
    answer = (await ask(ctx, params, {"visit": question}))["visit"]
    return text(
        "visited" if isinstance(answer, ElicitResult) and answer.action == "accept" else "not visited"
    )


def visit_of(number: str | None) -> ElicitRequestURLParams:
    return ElicitRequestURLParams(message="Sign in, please.", url=VISIT, elicitation_id=number)


async def input_request_state(ctx: Context, params: Params) -> CallToolResult:
    await ask(ctx, params, {"confirm": CONFIRM_FORM}, "asked for confirmation")
    # What is no state of ours, whole and untouched, has not come so far.
    if is_modern(ctx) and params.request_state != "asked for confirmation":
        raise MCPError(INVALID_PARAMS, "The request state is missing.")
    return text("state-ok")


async def input_multiple(ctx: Context, params: Params) -> CallToolResult:
    questions: dict[str, InputRequest] = {
        "user_name": NAME_FORM,
        "greeting": sampling("Generate a greeting", 50),
        "client_roots": ListRootsRequest(),
    }
    answers = await ask(ctx, params, questions, "asked for three things")
    name = content_of(answers["user_name"]).get("name")
    return text(f"{said(answers['greeting'])} {name}, at {roots_of(answers['client_roots'])}")


async def input_multi_round(ctx: Context, params: Params) -> CallToolResult:
    first = form("Step 1: What is your name?", {"name": {"type": "string"}}, ["name"])
    second = form("Step 2: What is your favorite color?", {"color": {"type": "string"}}, ["color"])
    # The state carries what the first round has given: the second round's answers do not.
    if params.request_state is not None and params.request_state.startswith("name="):
        name = params.request_state.removeprefix("name=")
    else:
        answers = await ask(ctx, params, {"step1": first}, "asked for a name")
        name = str(content_of(answers["step1"]).get("name"))
    answers = await ask(ctx, params, {"step2": second}, f"name={name}")
    return text(f"{name} likes {content_of(answers['step2']).get('color')}.")


async def input_capabilities(ctx: Context, params: Params) -> CallToolResult:
    declared = ctx.session.client_capabilities
    questions: dict[str, InputRequest] = {}
    if declared is not None and declared.sampling is not None:
        questions["greeting"] = sampling("Generate a greeting", 50)
    if declared is not None and declared.elicitation is not None:
        questions["user_name"] = NAME_FORM
    if not questions:
        return text("The client can be asked nothing.")
    await ask(ctx, params, questions)
    return text("The client was asked what it can answer.")


def schema(required: list[str] | None = None, **properties: Json) -> Json:
    given: Json = {"type": "object", "properties": properties}
    return given if required is None else {**given, "required": required}


def one_of(**titles: str) -> list[Json]:
    return [{"const": value, "title": title} for value, title in titles.items()]


STRING: Json = {"type": "string"}
OPTIONS = ["option1", "option2", "option3"]

USER_FORM = {
    "username": {"type": "string", "description": "User's response"},
    "email": {"type": "string", "description": "User's email address"},
}
DEFAULTS_FORM = {
    "name": {"type": "string", "description": "A name", "default": "John Doe"},
    "age": {"type": "integer", "description": "An age", "default": 30},
    "score": {"type": "number", "description": "A score", "default": 95.5},
    "status": {"type": "string", "enum": ["active", "inactive", "pending"], "default": "active"},
    "verified": {"type": "boolean", "description": "Whether it was verified", "default": True},
}
ENUMS_FORM = {
    "untitledSingle": {"type": "string", "enum": OPTIONS},
    "titledSingle": {
        "type": "string",
        "oneOf": one_of(value1="First Option", value2="Second Option", value3="Third Option"),
    },
    "legacyEnum": {
        "type": "string",
        "enum": ["opt1", "opt2", "opt3"],
        "enumNames": ["Option One", "Option Two", "Option Three"],
    },
    "untitledMulti": {"type": "array", "items": {"type": "string", "enum": OPTIONS}},
    "titledMulti": {
        "type": "array",
        "items": {"anyOf": one_of(value1="First Choice", value2="Second Choice", value3="Third Choice")},
    },
}

# Every keyword of JSON Schema 2020-12 that something on the way may know nothing of.
JSON_SCHEMA_2020_12: Json = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {"address": {"$anchor": "addressDef", **schema(street=STRING, city=STRING)}},
    "properties": {
        "name": STRING,
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": STRING,
        "email": STRING,
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


# ---- the list ---------------------------------------------------------------------------------------------------


def tool(
    name: str, description: str, answer: Answer, input_schema: Json | None = None
) -> tuple[Tool, Answer]:
    return Tool(name=name, description=description, input_schema=input_schema or schema()), answer


TEXT_ABOUT_MIXED = TextContent(type="text", text="Multiple content types test:")
MIXED_RESOURCE = embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}')
PLAIN_RESOURCE = embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")
ERROR = TextContent(type="text", text="This tool intentionally returns an error for testing")

TOOLS: dict[str, tuple[Tool, Answer]] = {
    name: tool(name, description, *more)
    for name, description, *more in (
        (
            "test_simple_text",
            "Answers with a text.",
            fixed(TextContent(type="text", text="This is a simple text response for testing.")),
        ),
        ("test_image_content", "Answers with an image.", fixed(image())),
        (
            "test_audio_content",
            "Answers with a sound.",
            fixed(AudioContent(type="audio", data=WAV, mime_type="audio/wav")),
        ),
        ("test_embedded_resource", "Answers with a resource.", fixed(PLAIN_RESOURCE)),
        (
            "test_multiple_content_types",
            "Answers with a text, an image and a resource.",
            fixed(TEXT_ABOUT_MIXED, image(), MIXED_RESOURCE),
        ),
        ("test_tool_with_logging", "Logs three messages.", with_logging),
        ("test_logging_tool", "Logs three messages, to who wants them.", with_logging),
        ("test_tool_with_progress", "Tells how far it is.", with_progress),
        ("test_error_handling", "Always fails.", fixed(ERROR, is_error=True)),
        ("test_reconnection", "Closes its stream before it answers.", reconnection),
        ("test_sampling", "Asks the client's model.", sample, schema(["prompt"], prompt=STRING)),
        (
            "test_elicitation",
            "Asks the user who they are.",
            elicit("User response", USER_FORM, ["username", "email"]),
            schema(["message"], message=STRING),
        ),
        (
            "test_elicitation_sep1034_defaults",
            "Shows a form with a default in every field.",
            elicit("Elicitation completed", DEFAULTS_FORM, []),
        ),
        (
            "test_elicitation_sep1330_enums",
            "Shows a form with every kind of choice.",
            elicit("Elicitation completed", ENUMS_FORM, []),
        ),
        ("test_visit", "Sends the user to a URL.", visit, schema(refuse={"type": "boolean"})),
        ("test_streaming_elicitation", "Asks the user for a name.", input_elicitation),
        ("json_schema_2020_12_tool", "Has a schema of many words.", fixed(), JSON_SCHEMA_2020_12),
        (
            "test_x_mcp_header",
            "Takes an argument that is also a header.",
            fixed(TextContent(type="text", text="The header was the argument.")),
            schema(["region"], region={"type": "string", "x-mcp-header": "Region"}),
        ),
        ("test_missing_capability", "Needs a client that can sample.", missing_capability),
        ("test_trigger_tool_change", "Changes the list of tools.", trigger_tool_change),
        ("test_trigger_prompt_change", "Changes the list of prompts.", trigger_prompt_change),
        ("test_trigger_resource_update", "Changes the watched resource.", trigger_resource_update),
        ("test_input_required_result_elicitation", "Asks for a name.", input_elicitation),
        ("test_input_required_result_sampling", "Asks the model.", input_sampling),
        ("test_input_required_result_list_roots", "Asks for the roots.", input_list_roots),
        ("test_input_required_result_request_state", "Asks, and remembers that.", input_request_state),
        ("test_input_required_result_tampered_state", "Asks, and remembers that.", input_request_state),
        ("test_input_required_result_multiple_inputs", "Asks three things at once.", input_multiple),
        ("test_input_required_result_multi_round", "Asks twice.", input_multi_round),
        ("test_input_required_result_capabilities", "Asks what can be answered.", input_capabilities),
    )
}
ONE_MORE = tool("test_one_more", "Is there every other time.", fixed())


def listed_tools() -> list[Tool]:
    listed = [listed for listed, _ in TOOLS.values()]
    return [*listed, ONE_MORE[0]] if STATE.has_more_tools else listed


async def call_tool(ctx: Context, params: Params) -> CallToolResult | InputRequiredResult:
    found = ONE_MORE if params.name == ONE_MORE[0].name else TOOLS.get(params.name)
    if found is None:
        raise MCPError(INVALID_PARAMS, f"Unknown tool: {params.name}")
    try:
        return await found[1](ctx, params)
    except Unanswered as question:
        return question.result


def input_schema_of(name: str) -> Json | None:
    return TOOLS[name][0].input_schema if name in TOOLS else None
