"""Where a request for one thing goes: by look-up in what the caller may see, never by parsing names. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec
from msgspec import Struct

from mcpv_node.actors.callers import ClientProfile
from mcpv_node.actors.snapshot import Entry, Kind
from mcpv_node.actors.world import Selector, Server, World
from mcpv_node.protocol import CALL, GET_PROMPT, INVALID_PARAMS, READ_RESOURCE, Call

# The code of the legacy era for a resource that is not there (2025-11-25, server/resources).
RESOURCE_NOT_FOUND: Final = -32002

KIND_OF: Final[Mapping[str, Kind]] = MappingProxyType(
    {CALL: "tools", GET_PROMPT: "prompts", READ_RESOURCE: "resources"}
)


class Route(Struct, frozen=True):
    """A request that can be made: of which server, and under which name there."""

    call: Call
    server: Server
    entry: Entry

    @property
    def own_name(self) -> str | None:
        """The server's own name, where requests have one that is not a URI."""
        return None if self.call.method == READ_RESOURCE else self.entry.raw_name

    @property
    def is_safe_to_repeat(self) -> bool:
        """Whether making it twice does no harm: reading does none, and tools say it of themselves."""
        return self.call.method != CALL or self.entry.safe_to_repeat


class NoRoute(Struct, frozen=True):
    """There is nothing of that name that this caller may see; which of the two it is stays unsaid."""

    code: int
    message: str
    data: bytes | None = None


def find_route(world: World, selector: Selector, profile: ClientProfile, call: Call) -> Route | NoRoute:
    """Look up what `call` names."""
    view = world.view(KIND_OF[call.method], selector, profile)
    entry = view.targets.get(call.name)
    server = None if entry is None else world.servers.get(entry.server)
    if entry is None or server is None:
        return _unknown(call)
    return Route(call, server, entry)


def _unknown(call: Call) -> NoRoute:
    match call.method:
        case "tools/call":
            return NoRoute(INVALID_PARAMS, f"Unknown tool: {call.name}")
        case "prompts/get":
            return NoRoute(INVALID_PARAMS, f"Unknown prompt: {call.name}")
        case _:
            data = msgspec.json.encode({"uri": call.name})
            return NoRoute(RESOURCE_NOT_FOUND, f"Resource not found: {call.name}", data)
