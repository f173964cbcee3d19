"""How a legacy conversation opens: `initialize` and its answer, for both ends.

Whatever the peer got wrong is a `RemoteProtocolError` whose sentence names it.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

from .errors import RemoteProtocolError
from .reading import read_object, read_text
from .versions import LEGACY, MODERN, Era

INITIALIZE: Final = "initialize"
INITIALIZED: Final = "notifications/initialized"


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What a server says it offers; `raw` is all of it in its own words."""

    tools: bool = False
    tools_list_changed: bool = False
    resources: bool = False
    resources_list_changed: bool = False
    resources_subscribe: bool = False
    prompts: bool = False
    prompts_list_changed: bool = False
    logging: bool = False
    completions: bool = False
    tasks: bool = False
    raw: bytes = b"{}"


class ServerHello(msgspec.Struct, frozen=True, kw_only=True):
    """What a server said of itself in answer to `initialize` or `server/discover`."""

    version: str
    name: str
    server_version: str
    capabilities: Capabilities
    instructions: str | None = None

    @property
    def era(self) -> Era:
        """How the server is spoken to from here on."""
        return "modern" if self.version in MODERN else "legacy"


class ClientHello(msgspec.Struct, frozen=True, kw_only=True):
    """What a client said of itself with `initialize`; the version is the one it asked for."""

    version: str
    name: str
    client_version: str
    # In its own words, to be passed on as they are.
    capabilities: bytes = b"{}"


def build_initialize(
    version: str, client_name: str, client_version: str, capabilities: bytes = b"{}"
) -> bytes:
    """The params of `initialize`."""
    return msgspec.json.encode(
        {
            "protocolVersion": version,
            "capabilities": Raw(capabilities),
            "clientInfo": {"name": client_name, "version": client_version},
        }
    )


def initialize_result(
    version: str, *, name: str, server_version: str, capabilities: bytes, instructions: str | None = None
) -> bytes:
    """The result of `initialize`."""
    result: dict[str, object] = {
        "protocolVersion": version,
        "capabilities": Raw(capabilities),
        "serverInfo": {"name": name, "version": server_version},
    }
    if instructions is not None:
        result["instructions"] = instructions
    return msgspec.json.encode(result)


def parse_initialize_result(raw: bytes | Raw) -> ServerHello:
    """Read a server's answer; it may choose any version we speak, not only the one we asked for."""
    result = read_object(raw, "the server's answer to initialize")
    version = read_text(result, "protocolVersion", "the server's protocolVersion")
    if version not in LEGACY:
        spoken = ", ".join(LEGACY)
        raise RemoteProtocolError(f'the server wants protocolVersion "{version}"; we speak {spoken}')
    if "capabilities" not in result:
        raise RemoteProtocolError("the server's answer to initialize has no capabilities")
    if "serverInfo" not in result:
        raise RemoteProtocolError("the server's answer to initialize has no serverInfo")
    info = read_object(result["serverInfo"], "the server's serverInfo")
    instructions = result.get("instructions")
    return ServerHello(
        version=version,
        name=read_text(info, "name", "the server's serverInfo.name"),
        server_version=_optional_text(info, "version", "the server's serverInfo.version"),
        capabilities=parse_capabilities(result["capabilities"]),
        instructions=None
        if instructions is None or bytes(instructions) == b"null"
        else read_text(result, "instructions", "the server's instructions"),
    )


def parse_initialize(params: bytes | Raw | None) -> ClientHello:
    """Read what a client opens with. A client that does not say who it is has the name ""."""
    if params is None:
        raise RemoteProtocolError("initialize has no params")
    found = read_object(params, "the params of initialize")
    version = read_text(found, "protocolVersion", "protocolVersion")
    info = read_object(found["clientInfo"], "clientInfo") if "clientInfo" in found else {}
    capabilities = found.get("capabilities", Raw(b"{}"))
    read_object(capabilities, "capabilities")
    return ClientHello(
        version=version,
        name=_optional_text(info, "name", "clientInfo.name"),
        client_version=_optional_text(info, "version", "clientInfo.version"),
        capabilities=bytes(capabilities),
    )


def parse_capabilities(raw: bytes | Raw) -> Capabilities:
    """Read what a server says it offers."""
    found = read_object(raw, "the server's capabilities")
    tools = _flags(found, "tools")
    resources = _flags(found, "resources")
    prompts = _flags(found, "prompts")
    return Capabilities(
        tools=tools is not None,
        tools_list_changed=_is_true(tools, "listChanged"),
        resources=resources is not None,
        resources_list_changed=_is_true(resources, "listChanged"),
        resources_subscribe=_is_true(resources, "subscribe"),
        prompts=prompts is not None,
        prompts_list_changed=_is_true(prompts, "listChanged"),
        logging=_flags(found, "logging") is not None,
        completions=_flags(found, "completions") is not None,
        tasks=_flags(found, "tasks") is not None,
        raw=bytes(raw),
    )


def _flags(found: dict[str, Raw], name: str) -> dict[str, Raw] | None:
    """The capability's own settings; None when it is not offered."""
    raw = found.get(name)
    # Some servers write null for what they do not have.
    if raw is None or bytes(raw) == b"null":
        return None
    return read_object(raw, f"the server's capabilities.{name}")


def _is_true(flags: dict[str, Raw] | None, name: str) -> bool:
    raw = None if flags is None else flags.get(name)
    return raw is not None and bytes(raw) == b"true"


def _optional_text(found: dict[str, Raw], key: str, what: str) -> str:
    return read_text(found, key, what) if key in found else ""
