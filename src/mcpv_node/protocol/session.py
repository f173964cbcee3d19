"""An MCP server without its pipe, for a legacy conversation: a line in, the lines to write out.

    state    hears                            goes to
    new      initialize                       open
    new      tools/list, tools/call           new, with an error naming request and state
    open     initialize                       open, with an error naming request and state
    open     tools/list, tools/call           open
    any      ping                             the same
    any      another request                  the same, with "method not found"
    any      notifications, answers, noise    the same; noise is answered with what is wrong with it

A tool refuses with `ValueError` or fails with `OSError`: both are results a model can read, not protocol errors. Any
other exception is a defect and goes through to whoever runs the session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Final, TypeVar

import msgspec
from msgspec import Raw

from .calls import CALL, parse_call
from .envelope import Request, encode_failure, encode_success, parse_message
from .errors import INVALID_PARAMS, INVALID_REQUEST, METHOD_NOT_FOUND, EnvelopeError, RemoteProtocolError
from .lifecycle import INITIALIZE, initialize_result, parse_initialize
from .listing import LISTS, list_result
from .members import members
from .versions import negotiate

PING: Final = "ping"
LIST_TOOLS: Final = LISTS["tools"].method

# What a tool answers: text, or an object that is also shown as text.
Answer = str | Mapping[str, object]
ToolHandler = Callable[[bytes], Answer]

A = TypeVar("A", bound=msgspec.Struct)


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """One tool: how it is shown, and what it does with its arguments (the JSON of an object)."""

    description: str
    properties: Mapping[str, object]
    required: tuple[str, ...] = ()
    handler: ToolHandler
    read_only: bool = False
    idempotent: bool = False
    destructive: bool = False


def typed(arguments: type[A], handle: Callable[[A], Answer]) -> ToolHandler:
    """A handler whose arguments are read into a type; what does not fit is refused with the parser's sentence."""
    decoder = msgspec.json.Decoder(arguments)

    def handler(raw: bytes) -> Answer:
        try:
            read = decoder.decode(raw)
        except msgspec.DecodeError as error:
            raise ValueError(f"the arguments do not fit: {error}") from None
        return handle(read)

    return handler


class _State(StrEnum):
    NEW = "new"
    OPEN = "open"


class ServerSession:
    """One conversation with one client."""

    def __init__(
        self, *, name: str, version: str, tools: Mapping[str, Tool], instructions: str | None = None
    ) -> None:
        self._name = name
        self._version = version
        self._instructions = instructions
        self._tools = tools
        self._list = list_result("tools", (_definition(name, tool) for name, tool in tools.items()))
        self._state = _State.NEW

    def receive(self, line: bytes) -> list[bytes]:
        """The lines to write, without their newlines, for one line that came in."""
        try:
            message = parse_message(line)
        except EnvelopeError as error:
            return [encode_failure(error.id, code=error.code, message=error.message)]
        return [self._answer(message)] if isinstance(message, Request) else []

    def _answer(self, request: Request) -> bytes:
        method = request.method
        if method == PING:
            return encode_success(request.id, b"{}")
        if method == INITIALIZE:
            return self._initialize(request)
        if method not in (LIST_TOOLS, CALL):
            message = f'the server {self._name} has no method "{method}"'
            return encode_failure(request.id, code=METHOD_NOT_FOUND, message=message)
        if self._state is _State.NEW:
            return self._refuse_in_state(request)
        return encode_success(request.id, self._list) if method == LIST_TOOLS else self._call(request)

    def _initialize(self, request: Request) -> bytes:
        if self._state is not _State.NEW:
            return self._refuse_in_state(request)
        try:
            hello = parse_initialize(request.params)
        except RemoteProtocolError as error:
            return encode_failure(request.id, code=INVALID_PARAMS, message=str(error))
        self._state = _State.OPEN
        result = initialize_result(
            negotiate(hello.version),
            name=self._name,
            server_version=self._version,
            capabilities=b'{"tools":{}}',
            instructions=self._instructions,
        )
        return encode_success(request.id, result)

    def _call(self, request: Request) -> bytes:
        try:
            call = parse_call(request.params)
        except RemoteProtocolError as error:
            return encode_failure(request.id, code=INVALID_PARAMS, message=str(error))
        tool = self._tools.get(call.name)
        if tool is None:
            message = f'the server {self._name} has no tool "{call.name}"'
            return encode_failure(request.id, code=INVALID_PARAMS, message=message)
        arguments = members(call.params).get("arguments", Raw(b"{}"))
        try:
            answer = tool.handler(bytes(arguments))
        except (ValueError, OSError) as error:
            return encode_success(request.id, _result(str(error), is_error=True))
        return encode_success(request.id, _result(answer))

    def _refuse_in_state(self, request: Request) -> bytes:
        message = f"{request.method} came to a server session that is {self._state}"
        return encode_failure(request.id, code=INVALID_REQUEST, message=message)


def _definition(name: str, tool: Tool) -> bytes:
    schema: dict[str, object] = {"type": "object", "properties": tool.properties}
    if tool.required:
        schema["required"] = tool.required
    return msgspec.json.encode(
        {
            "name": name,
            "description": tool.description,
            "inputSchema": schema | {"additionalProperties": False},
            "annotations": {
                "readOnlyHint": tool.read_only,
                "idempotentHint": tool.idempotent,
                "destructiveHint": tool.destructive,
                # None of our own servers reaches beyond this machine.
                "openWorldHint": False,
            },
        }
    )


def _result(answer: Answer, *, is_error: bool = False) -> bytes:
    result: dict[str, object] = {}
    if isinstance(answer, str):
        result["content"] = [{"type": "text", "text": answer}]
    else:
        text = msgspec.json.format(msgspec.json.encode(answer), indent=2).decode()
        result["content"] = [{"type": "text", "text": text}]
        result["structuredContent"] = answer
    if is_error:
        result["isError"] = True
    return msgspec.json.encode(result)
