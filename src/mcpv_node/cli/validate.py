"""`mcpv-node validate`: read the configuration, start nothing, and say all that is wrong with it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from mcpv_node.settings import SettingsError, find_config, load_settings

from .common import common_options, config_failure, invocation
from .output import counted, print_json


@click.command("validate")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="The file or folder to read (default: what `start` would run).",
)
@common_options
def command(config: Path | None) -> None:
    """Say all that is wrong with the configuration."""
    try:
        path = find_config(config, os.environ)
        loaded = load_settings(path, environ=os.environ)
    except SettingsError as error:
        raise config_failure(error) from None
    servers = len(loaded.settings.servers)
    if invocation().as_json:
        warnings = [str(warning) for warning in loaded.warnings]
        print_json({"ok": True, "config": str(path), "servers": servers, "warnings": warnings})
        return
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    click.echo(f"{path} is valid: {counted(servers, 'server')}")
