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
from mcpv_node.protocol import (
    CALL,
    COMPLETE,
    GET_PROMPT,
    INVALID_PARAMS,
    READ_RESOURCE,
    RESOURCE_NOT_FOUND,
    Call,
    is_prompt_reference,
)

# What is looked up where; a completion is for one of two kinds, as its reference says.
KIND_OF: Final[Mapping[str, Kind]] = MappingProxyType(
    {CALL: "tools", GET_PROMPT: "prompts", READ_RESOURCE: "resources"}
)

ROUTED: Final = frozenset({*KIND_OF, COMPLETE})

# Where what a server lists says by itself that doing it twice does no harm.
_READING: Final = frozenset({GET_PROMPT, READ_RESOURCE, COMPLETE})


class Route(Struct, frozen=True):
    """A request that can be made: of which server, and under which name there."""

    call: Call
    server: Server
    entry: Entry | None  # None: a resource that its server does not list

    @property
    def own_name(self) -> str | None:
        """The server's own name, where it may be another than the client's."""
        return None if self.entry is None or self.entry.is_resource else self.entry.raw_name

    @property
    def is_safe_to_repeat(self) -> bool:
        """Whether making it twice does no harm: reading does none, and tools say it of themselves."""
        return self.call.method in _READING or (self.entry is not None and self.entry.safe_to_repeat)


class NoRoute(Struct, frozen=True):
    """There is nothing of that name that this caller may see; which of the two it is stays unsaid."""

    code: int
    message: str
    data: bytes | None = None


def find_route(world: World, selector: Selector, profile: ClientProfile, call: Call) -> Route | NoRoute:
    """Look up what `call` names."""
    kind = kind_of(call)
    view = world.view(kind, selector, profile)
    entry = view.targets.get(call.name)
    if entry is None and kind == "resources":
        entry = view.template_for(call.name)
        if entry is None and selector.server is not None and (alone := world.servers.get(selector.server)):
            # One server alone knows best what it has.
            return Route(call, alone, None)
    server = None if entry is None else world.servers.get(entry.server)
    if entry is None or server is None:
        return _unknown(call, kind)
    return Route(call, server, entry)


def kind_of(call: Call) -> Kind:
    """Among what the name of a call is looked up."""
    if call.method != COMPLETE:
        return KIND_OF[call.method]
    return "prompts" if is_prompt_reference(call.params) else "resources"


def _unknown(call: Call, kind: Kind) -> NoRoute:
    match kind:
        case "tools":
            return NoRoute(INVALID_PARAMS, f"Unknown tool: {call.name}")
        case "prompts":
            return NoRoute(INVALID_PARAMS, f"Unknown prompt: {call.name}")
        case "resources":
            data = msgspec.json.encode({"uri": call.name})
            return NoRoute(RESOURCE_NOT_FOUND, f"Resource not found: {call.name}", data)
