"""`mcpv-node server remove NAME`: an entry leaves the configuration."""

from __future__ import annotations

from pathlib import Path

import click

from mcpv_node.settings.editing import remove

from .common import common_options
from .config_file import change, config_option


@click.command("remove")
@click.argument("name")
@config_option
@common_options
def command(name: str, config: Path | None) -> int:
    """Take NAME out of the configuration.

    \b
      mcpv-node server remove time
    """
    return change(config, name, lambda text: remove(text, name), "removed")
