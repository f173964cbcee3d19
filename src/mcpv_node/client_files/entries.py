"""The servers in a client's file, each with the place it was found at.

By what is in a file, not by its name alone: people paste, rename and keep copies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .clients import CLIENTS, Client, client_of, project_of
from .documents import DocumentError, get, read_json, read_toml
from .shapes import as_list, as_table

# Where servers are listed in the files of all clients, also inside settings that hold more.
_ROOTS: tuple[tuple[str, ...], ...] = (
    ("mcpServers",),
    ("servers",),
    ("mcp_servers",),
    ("mcp", "servers"),
    ("mcp.servers",),
    ("customizations", "vscode", "mcp", "servers"),
)
_PROJECTS = "projects"


@dataclass(frozen=True, slots=True)
class Found:
    """One server as its client knows it."""

    name: str
    # None: no client's file that we know, but in its form.
    client: Client | None
    file: Path
    # The keys that lead to it in the file.
    key_path: str
    said: Mapping[str, object]
    # The project whose folder it runs in.
    folder: Path | None = None
    # Left out by a list of the file that says which are allowed.
    excluded: bool = False


def find_entries(text: str, file: Path) -> tuple[Found, ...]:
    """Give the servers of a client's file; raises DocumentError when it is none."""
    is_toml = file.suffix == ".toml" or _looks_like_toml(text)
    document = read_toml(text) if is_toml else read_json(text)
    found = tuple(_found(document, file, is_toml=is_toml))
    if not found and not any(get(document, root) is not None for root in _ROOTS):
        raise DocumentError("has no servers: there is no mcpServers, servers or mcp_servers in it")
    return found


def _looks_like_toml(text: str) -> bool:
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return first.startswith(("[", "#")) or (not first.startswith(("{", "/")) and "=" in first)


def _found(document: Mapping[str, object], file: Path, *, is_toml: bool) -> Iterator[Found]:
    client = CLIENTS["codex"] if is_toml else client_of(file)
    folder = project_of(file)
    for root in _ROOTS:
        by = client or (CLIENTS["vscode"] if root[-1] in ("servers", "mcp.servers") else None)
        for name, said in as_table(get(document, root)).items():
            path = ".".join((*root, name))
            excluded = _is_excluded(document, name)
            yield Found(name, by, file, path, as_table(said), folder, excluded)
    # Claude Code keeps the servers of each project beside what else it knows of it.
    for project, known in as_table(document.get(_PROJECTS)).items():
        for name, said in as_table(as_table(known).get("mcpServers")).items():
            path = f"{_PROJECTS}.{project}.mcpServers.{name}"
            yield Found(name, CLIENTS["claude-code"], file, path, as_table(said), Path(project))


def _is_excluded(document: Mapping[str, object], name: str) -> bool:
    """Gemini: `mcp.allowed` and `mcp.excluded`."""
    rules = as_table(document.get("mcp"))
    allowed, excluded = rules.get("allowed"), rules.get("excluded")
    return (allowed is not None and name not in as_list(allowed)) or name in as_list(excluded)
