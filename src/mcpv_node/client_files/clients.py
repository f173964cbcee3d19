"""Which clients there are, where each keeps its servers, and what it calls things."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

ClientName = Literal["claude-desktop", "claude-code", "cursor", "vscode", "windsurf", "codex", "gemini"]

# How a client refers to variables in its values; `any` is a file of no known client, read as generously as is safe.
Variables = Literal["none", "shell", "env", "dollar", "any"]


@dataclass(frozen=True, slots=True)
class Client:
    """One kind of client."""

    name: ClientName
    title: str
    # The keys that lead to its table of servers.
    root: tuple[str, ...]
    variables: Variables
    # Below the home folder, or with `in_project` below the folder one works in.
    file: str
    in_project: bool = False
    # Where it differs on macOS.
    mac_file: str | None = None
    is_toml: bool = False
    takes_http: bool = True


CLIENTS: Mapping[str, Client] = {
    client.name: client
    for client in (
        Client(
            "claude-desktop",
            "Claude Desktop",
            ("mcpServers",),
            "none",
            ".config/Claude/claude_desktop_config.json",
            mac_file="Library/Application Support/Claude/claude_desktop_config.json",
            takes_http=False,
        ),
        # Its own ~/.claude.json is rewritten while it runs; .mcp.json is the file that others may write.
        Client("claude-code", "Claude Code", ("mcpServers",), "shell", ".mcp.json", in_project=True),
        Client("cursor", "Cursor", ("mcpServers",), "env", ".cursor/mcp.json"),
        Client("vscode", "VS Code", ("servers",), "env", ".vscode/mcp.json", in_project=True),
        Client("windsurf", "Windsurf", ("mcpServers",), "env", ".codeium/windsurf/mcp_config.json"),
        Client("codex", "Codex", ("mcp_servers",), "none", ".codex/config.toml", is_toml=True),
        Client("gemini", "Gemini CLI", ("mcpServers",), "dollar", ".gemini/settings.json"),
    )
}


def client_file(client: Client, *, home: Path, folder: Path, platform: str) -> Path:
    """Say where a client's servers are for this user, or for the project in `folder`."""
    if client.in_project:
        return folder / client.file
    return home / (client.mac_file if client.mac_file is not None and platform == "darwin" else client.file)


def client_of(file: Path) -> Client | None:
    """Say by its name and folder whose file this is; None where that does not tell."""
    parts = file.parts
    above = parts[-2] if len(parts) > 1 else ""
    by_name = {
        "claude_desktop_config.json": "claude-desktop",
        ".mcp.json": "claude-code",
        ".claude.json": "claude-code",
        "managed-mcp.json": "claude-code",
        "mcp_config.json": "windsurf",
    }
    by_folder = {".cursor": "cursor", ".vscode": "vscode", ".codex": "codex", ".gemini": "gemini"}
    name = by_name.get(file.name) or by_folder.get(above)
    return CLIENTS[name] if name is not None else None


def project_of(file: Path) -> Path | None:
    """Give the project a file belongs to: its servers run there. None for a user's own file."""
    if file.name == ".mcp.json":
        return file.parent
    if file.parent.name == ".vscode":
        return file.parent.parent
    return None
