"""What the commands that write an entry share: how keys and their values stand on a command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click

from mcpv_node.settings.places import NotYaml, read_value

_Command = TypeVar("_Command", bound=Callable[..., Any])


def entry_options(command: _Command) -> _Command:
    """Add the options that set keys of an entry."""
    options = [
        click.option("--url", help="The address of a server that is spoken to over HTTP."),
        click.option(
            "--env",
            multiple=True,
            metavar="NAME=VALUE",
            help="A variable for the program. Other users see command lines: write ${VAR} or ${file:PATH} in "
            "place of a secret, in single quotes.",
        ),
        click.option("--header", multiple=True, metavar="NAME:VALUE", help="A header of every request."),
        click.option("--tag", multiple=True, help="Who sees it: clients with one of these tags."),
        click.option(
            "--set",
            "settings",
            multiple=True,
            metavar="KEY=VALUE",
            help="Any key of an entry, as restart.maxRetries=3 or exposeTools=[read].",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def read_changes(
    url: str | None, env: Sequence[str], header: Sequence[str], tag: Sequence[str], settings: Sequence[str]
) -> dict[str, object]:
    """Give what was said as keys of an entry, with paths where they lead into a table."""
    changes: dict[str, object] = {} if url is None else {"url": url}
    for said in env:
        name, value = _split(said, "=", "--env", "NAME=VALUE")
        changes[f"env.{name}"] = value
    for said in header:
        name, value = _split(said, ":", "--header", "NAME:VALUE")
        changes[f"headers.{name}"] = value.strip()
    if tag:
        changes["tags"] = list(tag)
    for said in settings:
        key, value = _split(said, "=", "--set", "KEY=VALUE")
        try:
            changes[key] = read_value(value)
        except NotYaml as error:
            raise click.UsageError(f"--set {key}: {error}") from None
    return changes


def as_entry(name: str, changes: dict[str, object]) -> dict[str, object]:
    """Give the keys as an entry of its own, with tables in place of paths."""
    entry: dict[str, object] = {"name": name}
    tables: dict[str, dict[str, object]] = {}
    for path, value in changes.items():
        key, dot, below = path.partition(".")
        if dot:
            entry[key] = tables.setdefault(key, {})
            tables[key][below] = value
        else:
            entry[key] = value
    return entry


def _split(said: str, by: str, option: str, form: str) -> tuple[str, str]:
    name, found, value = said.partition(by)
    if not found or not name:
        raise click.UsageError(f"{option} {name or said}: this is not {form}")
    return name, value
