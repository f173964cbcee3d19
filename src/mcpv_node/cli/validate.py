"""`mcpv-node validate`: read the configuration, start nothing, and say all that is wrong with it.

`--explain` shows every setting in effect and where it comes from.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import click

from mcpv_node.settings import Loaded, Problem, SettingsError, find_config, load_settings
from mcpv_node.settings.explain import Explained, explain

from .common import common_options, config_failure, invocation
from .output import counted, print_json, print_table


@click.command("validate", short_help="Say all that is wrong with the configuration.")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="The file or folder to read (default: what `start` would run).",
)
@click.option(
    "--explain", "explained", is_flag=True, help="Show every setting in effect, and where it comes from."
)
@common_options
def command(config: Path | None, explained: bool) -> None:
    """Say all that is wrong with the configuration.

    \b
      mcpv-node validate
      mcpv-node validate --config team.yaml --explain
    """
    try:
        path = find_config(config, os.environ)
        loaded = load_settings(path, environ=os.environ)
        if problems := _problems_of_files(loaded, path):
            raise SettingsError(problems)
    except SettingsError as error:
        raise config_failure(error) from None
    servers = len(loaded.settings.servers)
    if invocation().as_json:
        warnings = [str(warning) for warning in loaded.warnings]
        values = {"values": [_as_json(one) for one in explain(loaded)]} if explained else {}
        print_json({"ok": True, "config": str(path), "servers": servers, "warnings": warnings, **values})
        return
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    if explained:
        _print(loaded, path)
    click.echo(f"{path} is valid: {counted(servers, 'server')}")


def _problems_of_files(loaded: Loaded, path: Path) -> tuple[Problem, ...]:
    """What is wrong with the files that the configuration names and a start reads."""
    tls, tokens = loaded.settings.listen.tls, loaded.settings.auth.tokens
    if tls is None and not tokens:
        return ()
    # Only where it is needed: this takes longer than all the rest.
    from mcpv_node.gateway import AuthError, CertificateError, read_certificate, read_token

    found: list[tuple[str, str]] = []
    if tls is not None:
        try:
            read_certificate(tls)
        except CertificateError as error:
            found.append((error.key, error.words))
    for entry in tokens:
        try:
            read_token(Path(entry.file))
        except AuthError as error:
            found.append(("auth.tokens", str(error)))
    places = {one.key: one for one in explain(loaded)}
    return tuple(_problem(key, words, places.get(key), path) for key, words in found)


def _problem(key: str, words: str, place: Explained | None, path: Path) -> Problem:
    file, line = (None, None) if place is None else (place.file, place.line)
    return Problem(file or path, line or 0, key, words)


def _print(loaded: Loaded, path: Path) -> None:
    folder = path if path.is_dir() else path.parent
    rows = [
        (one.key, json.dumps(one.value, ensure_ascii=False), _origin(one, folder)) for one in explain(loaded)
    ]
    print_table(("KEY", "VALUE", "FROM"), rows)


def _origin(one: Explained, folder: Path) -> str:
    if one.kind == "default" or one.file is None:
        return "default"
    file = one.file.relative_to(folder) if one.file.is_relative_to(folder) else one.file
    place = f"{file}:{one.line}"
    through = ", ".join(f"${{{name}}}" for name in one.through)
    if one.because_of is not None:
        return f"follows from {one.because_of}, {place}"
    return f"{place}, {through}" if through else place


def _as_json(one: Explained) -> dict[str, Any]:
    return {
        "key": one.key,
        "value": one.value,
        "from": one.kind,
        "file": None if one.file is None else str(one.file),
        "line": one.line,
        "variables": [name for name in one.through if not name.startswith("file:")],
        "files": [name.removeprefix("file:") for name in one.through if name.startswith("file:")],
        "because": one.because_of,
    }
