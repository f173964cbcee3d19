"""`mcpv-node server enable|disable NAME`: whether an entry of the configuration is run and listed."""

from __future__ import annotations

from pathlib import Path

import click

from mcpv_node.settings.editing import edit

from .common import common_options
from .config_file import change, config_option


@click.command("enable")
@click.argument("name")
@config_option
@common_options
def enable(name: str, config: Path | None) -> int:
    """Have NAME run and listed.

    \b
      mcpv-node server enable time
    """
    return change(config, name, lambda text: edit(text, name, {}, ["disabled"]), "enabled")


@click.command("disable")
@click.argument("name")
@config_option
@common_options
def disable(name: str, config: Path | None) -> int:
    """Have NAME neither run nor listed; its entry stays.

    \b
      mcpv-node server disable time
    """
    return change(config, name, lambda text: edit(text, name, {"disabled": True}), "disabled")
