"""The entry in a client's file that points it at a node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .clients import Client

# Where clients find the token; it never stands in their files.
TOKEN_VARIABLE = "MCPV_TOKEN"
_INPUT = "mcpv-token"


@dataclass(frozen=True, slots=True)
class Pointer:
    """What goes into the file, and where: `path` leads to `entry`."""

    path: tuple[str, ...]
    entry: Mapping[str, object]
    # VS Code asks its user for the token, once.
    inputs: tuple[Mapping[str, object], ...] = ()
    # What has to be so for it to work.
    needs: str | None = None


def over_stdio(client: Client, name: str, program: Sequence[str]) -> Pointer:
    """Have the client run `mcpv-node stdio`, which joins the node or starts one."""
    command, *args = program
    kind = {"type": "stdio"} if client.name == "vscode" else {}
    return Pointer((*client.root, name), {**kind, "command": command, "args": args})


def over_http(client: Client, name: str, url: str, *, token_file: str | None) -> Pointer:
    """Have the client speak to the node's HTTP door; `client` takes HTTP."""
    path = (*client.root, name)
    needs = None
    if token_file is not None:
        needs = (
            f'{TOKEN_VARIABLE} in the client\'s environment: export {TOKEN_VARIABLE}="$(cat {token_file})"'
        )
    if client.name == "codex":
        bearer = {"bearer_token_env_var": TOKEN_VARIABLE} if token_file is not None else {}
        return Pointer(path, {"url": url, **bearer}, needs=needs)
    address = {
        "claude-code": {"type": "http", "url": url},
        "vscode": {"type": "http", "url": url},
        "windsurf": {"serverUrl": url},
        "gemini": {"httpUrl": url},
    }.get(client.name, {"url": url})
    if token_file is None:
        return Pointer(path, address)
    reference = {
        "shell": f"${{{TOKEN_VARIABLE}}}",
        "dollar": f"${{{TOKEN_VARIABLE}}}",
        "env": f"${{env:{TOKEN_VARIABLE}}}",
    }[client.variables]
    inputs: tuple[Mapping[str, object], ...] = ()
    if client.name == "vscode":
        reference, needs = (
            f"${{input:{_INPUT}}}",
            f"the token, when VS Code asks for it: it is in {token_file}",
        )
        inputs = (
            {"type": "promptString", "id": _INPUT, "description": "Token of mcpv-node", "password": True},
        )
    return Pointer(path, {**address, "headers": {"Authorization": f"Bearer {reference}"}}, inputs, needs)
