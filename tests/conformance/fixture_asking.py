"""How the fixture server asks its client something: in the way of the request's era.

In the legacy era that is a request of the server's own, on the stream of the call; in the modern one an
`input_required` result, after which the request comes again with the answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from mcp.server.context import ServerRequestContext
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp_types import (
    INVALID_PARAMS,
    CreateMessageRequest,
    CreateMessageRequestParams,
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestFormParams,
    ElicitResult,
    InputRequest,
    InputRequiredResult,
    InputResponseRequestParams,
    InputResponses,
    ListRootsResult,
    SamplingMessage,
    TextContent,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

Context: TypeAlias = ServerRequestContext[Any, Any]
Json: TypeAlias = dict[str, Any]


def is_modern(ctx: Context) -> bool:
    return ctx.protocol_version in MODERN_PROTOCOL_VERSIONS


class Unanswered(Exception):
    """The client has to be asked first; the result that does it."""

    def __init__(self, result: InputRequiredResult) -> None:
        super().__init__()
        self.result = result


def form(message: str, properties: Json, required: list[str] | None = None) -> ElicitRequest:
    schema: Json = {"type": "object", "properties": properties}
    if required is not None:
        schema["required"] = required
    return ElicitRequest(params=ElicitRequestFormParams(message=message, requested_schema=schema))


def sampling(text: str, max_tokens: int) -> CreateMessageRequest:
    message = SamplingMessage(role="user", content=TextContent(type="text", text=text))
    return CreateMessageRequest(params=CreateMessageRequestParams(messages=[message], max_tokens=max_tokens))


async def ask(
    ctx: Context,
    params: InputResponseRequestParams,
    requests: Mapping[str, InputRequest],
    state: str | None = None,
) -> InputResponses:
    """Give what the client says to these.

    Raises:
        Unanswered: The request must come again, with the answers.
    """
    if is_modern(ctx):
        answers = params.input_responses or {}
        if requests.keys() <= answers.keys():
            return answers
        raise Unanswered(InputRequiredResult(input_requests=dict(requests), request_state=state))
    results = {"elicitation/create": ElicitResult, "sampling/createMessage": CreateMessageResult}
    about_this_call = ServerMessageMetadata(related_request_id=ctx.request_id)
    given: InputResponses = {}
    for key, request in requests.items():
        kind = results.get(request.method, ListRootsResult)
        given[key] = await ctx.session.send_request(request, kind, metadata=about_this_call)
    return given


def content_of(answer: object) -> Json:
    """What the user filled in."""
    if not isinstance(answer, ElicitResult):
        raise MCPError(INVALID_PARAMS, "this was an elicitation")
    return dict(answer.content or {})


def said(answer: object) -> str:
    """What the model said."""
    content = getattr(answer, "content", None)
    blocks = content if isinstance(content, list) else [content]
    return " ".join(block.text for block in blocks if isinstance(block, TextContent))


def roots_of(answer: object) -> str:
    if not isinstance(answer, ListRootsResult):
        raise MCPError(INVALID_PARAMS, "this was a question for roots")
    return ", ".join(str(root.uri) for root in answer.roots)
