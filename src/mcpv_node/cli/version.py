"""`mcpv-node version`: which version this is."""

from __future__ import annotations

import platform

import click

from mcpv_node.version import VERSION

from .common import common_options, invocation
from .output import print_json


@click.command("version")
@common_options
def command() -> None:
    """Say which version this is.

    \b
      mcpv-node version
    """
    if invocation().as_json:
        print_json({"version": VERSION, "python": platform.python_version()})
    else:
        click.echo(f"mcpv-node {VERSION} (Python {platform.python_version()})")
