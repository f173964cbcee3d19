"""`mcpv-node server edit NAME`: other keys for an entry of the configuration."""

from __future__ import annotations

from pathlib import Path

import click

from mcpv_node.settings.editing import edit

from .common import common_options
from .config_file import change, config_option
from .server_entry import entry_options, read_changes


@click.command("edit")
@click.argument("name")
@entry_options
@click.option("--unset", multiple=True, metavar="KEY", help="Take a key out; its default holds again.")
@config_option
@common_options
def command(
    name: str,
    url: str | None,
    env: tuple[str, ...],
    header: tuple[str, ...],
    tag: tuple[str, ...],
    settings: tuple[str, ...],
    unset: tuple[str, ...],
    config: Path | None,
) -> int:
    """Change keys of NAME; its comments and its other keys stay as they are.

    \b
      mcpv-node server edit time --set maxConcurrent=4 --set restart.maxRetries=10
      mcpv-node server edit files --env 'API_KEY=${file:key}' --unset env.OLD_KEY
    """
    changes = read_changes(url, env, header, tag, settings)
    if not changes and not unset:
        raise click.UsageError("say what to change: --set KEY=VALUE or --unset KEY")
    return change(config, name, lambda text: edit(text, name, changes, unset), "changed")
