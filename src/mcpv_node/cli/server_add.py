"""`mcpv-node server add NAME`: a new entry in the configuration."""

from __future__ import annotations

from pathlib import Path

import click

from mcpv_node.settings.editing import add

from .common import common_options
from .config_file import change, config_option
from .server_entry import as_entry, entry_options, read_changes


@click.command("add")
@click.argument("name")
@click.argument("program", nargs=-1)
@entry_options
@config_option
@common_options
def command(
    name: str,
    program: tuple[str, ...],
    url: str | None,
    env: tuple[str, ...],
    header: tuple[str, ...],
    tag: tuple[str, ...],
    settings: tuple[str, ...],
    config: Path | None,
) -> int:
    """Add a server: NAME, and the program that is it, or --url.

    \b
    After -- stands the program with its arguments:
      mcpv-node server add time -- uvx mcp-server-time
      mcpv-node server add files --env 'API_KEY=${API_KEY}' -- npx -y some-server /data
      mcpv-node server add remote --url https://example.org/mcp
    """
    if (url is None) == (not program) and not any(one.startswith("cmd=") for one in settings):
        raise click.UsageError("say which program is the server, or its --url")
    changes = read_changes(url, env, header, tag, settings)
    run: dict[str, object] = {"command": program[0], "args": list(program[1:])} if program else {}
    if url is not None and "transport" not in changes:
        run = {"transport": "streamable-http"}
    entry = as_entry(name, {**run, **changes})
    if entry.get("args") == []:
        del entry["args"]
    return change(config, name, lambda text: add(text, entry), "added")
