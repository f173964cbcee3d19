"""What a node says once it is ready: where it is, and how to point a client at it."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from mcpv_node.node_file import NodeFile

from .output import print_facts, print_json

# A client that wants a command gets this checkout's own, where there is one.
_CHECKOUT_PROGRAM = Path(__file__).resolve().parents[3] / "bin" / "mcpv-node"


def ready_event(node: NodeFile) -> dict[str, Any]:
    """Give the one line that `--json` prints when the node is ready."""
    return {"event": "ready", **node.to_data()}


def report_ready(node: NodeFile, descriptor: int) -> None:
    """Tell the command that started us in the background, and let go of it."""
    with open(descriptor, "w", encoding="utf-8") as pipe:
        json.dump(ready_event(node), pipe)
        pipe.write("\n")


def announce(node: NodeFile, *, as_json: bool, detached: bool, state_dir: Path, is_default_dir: bool) -> None:
    """Say that the node is ready."""
    if as_json:
        print_json(ready_event(node))
        return
    where = [] if is_default_dir else ["--state-dir", str(state_dir)]
    click.echo(f"mcpv-node {node.version} is ready (process {node.pid})")
    print_facts(
        (
            ("endpoint", node.endpoint),
            ("token file", node.token_file or "none: whoever reaches the endpoint may use every tool"),
            ("config", node.config_path),
            ("Claude Code", claude_code_line(node)),
            ("any client", shlex.join([*stdio_program(), "stdio", *where]) + "   (as a command, on stdio)"),
            ("to stop it", shlex.join(["mcpv-node", "stop", *where]) if detached else "Ctrl-C"),
        ),
        indent="  ",
    )


def claude_code_line(node: NodeFile) -> str:
    """Give the command that points Claude Code at the HTTP door."""
    line = f"claude mcp add --transport http mcpv {node.endpoint}"
    if node.token_file is None:
        return line
    # The shell reads the token: it never stands on the screen or in a log.
    return f'{line} --header "Authorization: Bearer $(cat {shlex.quote(node.token_file)})"'


def stdio_program() -> list[str]:
    """Say how this program is called, wherever the client is."""
    if _CHECKOUT_PROGRAM.is_file():
        return [str(_CHECKOUT_PROGRAM)]
    installed = shutil.which("mcpv-node")
    return [installed] if installed is not None else [sys.executable, "-P", "-m", "mcpv_node"]
