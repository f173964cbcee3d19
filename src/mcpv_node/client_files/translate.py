"""A server as its client knows it, as an entry of ours.

Nothing is guessed silently: what has no place here is named in a note, and an entry that cannot work yet (a variable
that is not set, a sign-in, a file of variables) is made disabled, with a note that says what is missing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from urllib.parse import urlsplit

from .clients import Variables
from .entries import Found
from .shapes import as_list, as_string, as_strings, as_table
from .variables import VariableReader

# `${NAME}` in a file of a client we do not know is more often meant than not.
_ANY_CLIENT: Variables = "any"

_MAX_NAME = 32
_NOT_IN_NAMES = re.compile(r"[^a-z0-9_-]+")

_TRANSPORTS: Mapping[str, str] = {
    "http": "streamable-http",
    "streamable-http": "streamable-http",
    "streamable_http": "streamable-http",
    "streamablehttp": "streamable-http",
    "sse": "sse",
}

# Keys with a translation, or without a meaning for a node: the client's own approvals, pictures and texts.
_TAKEN = frozenset(
    {
        "command",
        "args",
        "env",
        "cwd",
        "type",
        "transport",
        "url",
        "serverUrl",
        "httpUrl",
        "endpoint",
        "headers",
    }
    | {"http_headers", "env_http_headers", "bearer_token_env_var", "env_vars", "envFile", "oauth", "auth"}
    | {
        "disabled",
        "enabled",
        "enabled_tools",
        "includeTools",
        "timeout",
        "startup_timeout_sec",
        "headersHelper",
    }
    | {"startup_timeout_ms", "tool_timeout_sec", "description", "icon", "trust", "alwaysAllow", "autoApprove"}
    | {"required", "default_tools_approval_mode", "supports_parallel_tool_calls", "gallery", "version", "dev"}
)

# What cannot be said here and changes what the server does or shows.
_LACKING: Mapping[str, str] = {
    "envFile": "its variables are in a file: put them into env",
    "oauth": "it signs in: see the key oauth",
    "auth": "it signs in: see the key oauth",
    "headersHelper": "its headers come from a program: put them into headers",
}


@dataclass(frozen=True, slots=True)
class Translated:
    """What became of one found server."""

    found: Found
    # None: it cannot be run here, and `problem` says why.
    entry: Mapping[str, object] | None
    problem: str | None = None
    # What is different from what the client does, and what has to be done first.
    notes: tuple[str, ...] = ()


class _Impossible(Exception):
    """An entry has no meaning here."""


def translate(found: Found, *, known: Collection[str], own_addresses: Collection[str] = ()) -> Translated:
    """Make our entry of a found one; `known` are the variables that are set, `own_addresses` lead to this node."""
    variables = found.client.variables if found.client is not None else _ANY_CLIENT
    reader = VariableReader(variables, known, found.folder)
    try:
        _refuse_own(found, own_addresses)
        entry: dict[str, object] = {"name": clean_name(found.name)}
        notes = [*_renamed(found, entry), *_put_way(found, entry, reader)]
        _put_rest(found, entry)
    except _Impossible as reason:
        return Translated(found, None, str(reason))
    lacking = [*_lacking(found), *_unset(reader)]
    if _is_off(found):
        entry["disabled"] = True
        notes.append("it is switched off in the client, and stays so")
    elif lacking:
        entry["disabled"] = True
        notes += [*lacking, f"made disabled; then `mcpv-node server enable {entry['name']}`"]
    dropped = [key for key in found.said if key not in _TAKEN]
    if dropped:
        notes.append(f"not taken over: {', '.join(sorted(dropped))}")
    return Translated(found, entry, None, tuple(notes))


def clean_name(name: str) -> str:
    """Give the nearest valid name."""
    return _NOT_IN_NAMES.sub("-", name.lower()).strip("-_")[:_MAX_NAME].rstrip("-_") or "server"


def _refuse_own(found: Found, own_addresses: Collection[str]) -> None:
    command = found.said.get("command")
    words = [command, *as_strings(found.said.get("args"))]
    names = {PurePath(word).name for word in words if isinstance(word, str)}
    url = _url(found.said) or ""
    here = any(url == address or url.startswith(f"{address}/") for address in own_addresses)
    if here or ("stdio" in names and not names.isdisjoint({"mcpv-node", "mcpv_node"})):
        raise _Impossible("this is the node itself")


def _renamed(found: Found, entry: Mapping[str, object]) -> list[str]:
    return [] if entry["name"] == found.name else [f"named {entry['name']} (was {found.name})"]


def _put_way(found: Found, entry: dict[str, object], reader: VariableReader) -> list[str]:
    """Write how the server is reached."""
    said = found.said
    if isinstance(said.get("command"), str) and said["command"]:
        return _put_program(found, entry, reader)
    url = _url(said)
    if url is None:
        raise _Impossible("it has neither a command nor a url")
    return _put_address(found, url, entry, reader)


def _put_program(found: Found, entry: dict[str, object], reader: VariableReader) -> list[str]:
    said = found.said
    command = str(said["command"])
    if command.lower() in ("cmd", "cmd.exe"):
        raise _Impossible("it runs a Windows shell")
    args = as_strings(said.get("args"))
    entry["command"] = reader.text(command)
    if args:
        entry["args"] = [reader.text(one) for one in args]
    env = {name: reader.text(as_string(value)) for name, value in as_table(said.get("env")).items()}
    for wanted in as_list(said.get("env_vars")):
        name = as_table(wanted).get("name", wanted)
        if isinstance(name, str):
            env[name] = reader.variable(name)
    if env:
        entry["env"] = env
    cwd = said.get("cwd")
    if isinstance(cwd, str) and cwd:
        base = reader.text(cwd)
        is_relative = found.folder is not None and not base.startswith(("/", "~", "$"))
        entry["cwd"] = f"{found.folder}/{base}" if is_relative else base
    elif found.folder is not None:
        entry["cwd"] = str(found.folder).replace("$", "$$")
        return [f"runs in its project's folder, {found.folder}"]
    return []


def _put_address(found: Found, url: str, entry: dict[str, object], reader: VariableReader) -> list[str]:
    said = found.said
    is_gemini = found.client is not None and found.client.name == "gemini"
    entry["transport"] = _transport(said, url, is_gemini=is_gemini)
    entry["url"] = reader.text(url)
    headers = {
        name: reader.text(as_string(value))
        for key in ("headers", "http_headers")
        for name, value in as_table(said.get(key)).items()
    }
    for name, variable in as_table(said.get("env_http_headers")).items():
        headers[name] = reader.variable(str(variable))
    bearer = said.get("bearer_token_env_var")
    if isinstance(bearer, str) and bearer:
        headers["Authorization"] = f"Bearer {reader.variable(bearer)}"
    if headers:
        entry["headers"] = headers
    return []


def _transport(said: Mapping[str, object], url: str, *, is_gemini: bool) -> str:
    named = said.get("type") or said.get("transport")
    scheme = url.partition(":")[0].lower()
    if scheme in ("unix", "pipe"):
        raise _Impossible(f"its address is {scheme}:, which is not spoken here")
    if isinstance(named, str) and named != "stdio":
        transport = _TRANSPORTS.get(named.lower())
        if transport is None:
            raise _Impossible(f"its transport is {named}; here are stdio, streamable-http and sse")
        return transport
    # Gemini: httpUrl is Streamable HTTP, and url alone is SSE.
    is_sse = _path(url).endswith("/sse") or (is_gemini and "httpUrl" not in said)
    return "sse" if is_sse else "streamable-http"


def _path(url: str) -> str:
    try:
        return urlsplit(url).path.rstrip("/")
    except ValueError:
        raise _Impossible("its url is none") from None


def _put_rest(found: Found, entry: dict[str, object]) -> None:
    said = found.said
    tools = said.get("enabled_tools", said.get("includeTools"))
    if as_list(tools):
        entry["exposeTools"] = as_strings(tools)
    start = _number(said.get("startup_timeout_sec")) or _number(said.get("startup_timeout_ms"), 1000)
    if start:
        entry["startTimeoutSeconds"] = start
    call = _number(said.get("tool_timeout_sec")) or _number(said.get("timeout"), 1000)
    if call:
        entry["callTimeoutSeconds"] = call


def _lacking(found: Found) -> list[str]:
    return [why for key, why in _LACKING.items() if found.said.get(key)]


def _unset(reader: VariableReader) -> list[str]:
    asked = " (the client asks its user for it)"
    missing = [
        f"set {name} where the node starts{asked if name in reader.asked else ''}" for name in reader.missing
    ]
    unknown = [f"{one} has no meaning outside of the client" for one in dict.fromkeys(reader.unknown)]
    return [*missing, *unknown]


def _is_off(found: Found) -> bool:
    return found.said.get("disabled") is True or found.said.get("enabled") is False or found.excluded


def _url(said: Mapping[str, object]) -> str | None:
    for key in ("httpUrl", "serverUrl", "url", "endpoint"):
        value = said.get(key)
        if isinstance(value, str) and value:
            return value
    return None


def _number(value: object, divisor: float = 1) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
        return None
    number = value / divisor
    return int(number) if float(number).is_integer() else number
