"""How commands change the configuration: read, edit, judge the whole, save, and have a running node reload it.

Nothing is written unless the loader takes all of it. The packaged configuration is never changed: the first edit
makes the user's own file, a copy of it with every key and its reason.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mcpv_node.client import ClientError, NodeClient, NodeRefused, NodeUnreachable, find_node
from mcpv_node.settings import (
    PACKAGED_CONFIG,
    Loaded,
    SettingsError,
    find_config,
    load_settings,
    user_config,
)
from mcpv_node.settings.editing import EditError
from mcpv_node.settings.target import Target, read_target
from mcpv_node.store.files import write_atomically

from .common import CommandFailed, chosen_state_dir, config_failure, invocation
from .output import clean, print_json
from .progress import working

# In the packaged file: where editors find the schema. In a copy it has to lead back.
SCHEMA_LINE = "# yaml-language-server: $schema="

config_option = click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="The file or folder to change (default: what the running node uses, else what `start` would run).",
)


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What came of asking a running node to read the configuration again."""

    # reloaded, refused, restart (it runs, and has to be restarted) or none (no node runs).
    outcome: str
    sentence: str
    data: dict[str, Any] | None = None


def find_target(config: Path | None) -> Target:
    """Find and read the configuration that is to be changed."""
    path = config.absolute() if config is not None and not config.exists() else _find(config)
    if path == PACKAGED_CONFIG:
        own = user_config(os.environ)
        if own is None:
            raise CommandFailed("there is no place for a configuration of your own; name one with --config")
        return Target(own, {own: _packaged_text()})
    if not path.exists():
        # Named, and not there yet: an empty one of that name is wanted.
        return Target(path, {path: "servers: []\n"})
    try:
        return read_target(path)
    except OSError as error:
        raise CommandFailed(f"{error.filename} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CommandFailed(f"{path} is not UTF-8") from None


def judge(target: Target, changed: dict[Path, str]) -> Loaded:
    """Load the configuration as it would be, or fail with all that is wrong with it."""
    try:
        return load_settings(target.path, environ=os.environ, instead={**target.texts, **changed})
    except SettingsError as error:
        raise config_failure(error) from None


def save(target: Target, changed: dict[Path, str]) -> None:
    """Write what was judged, private to the user; a link stays a link."""
    for file, text in changed.items():
        if file.exists() and _read(file) != target.texts[file]:
            raise CommandFailed(f"{file} was changed by somebody else meanwhile; try again")
        try:
            write_atomically(file.resolve(), text.encode())
        except OSError as error:
            raise CommandFailed(f"{file} cannot be written: {error.strerror}") from None


def change(config: Path | None, name: str, act: Callable[[str], str], done: str) -> int:
    """Change the entry `name` by `act` over its file's text, save, reload, and say what was `done`."""
    target = find_target(config)
    try:
        file = target.holding(name)
        changed = {file: act(target.texts[file])}
    except EditError as error:
        # A file that is wrong as it is says so first.
        judge(target, {})
        raise CommandFailed(str(error)) from None
    judge(target, changed)
    save(target, changed)
    return finish({"server": name, "done": done, "file": str(file)}, f"{name} is {done} in {file}", target)


def finish(said: dict[str, Any], sentence: str, target: Target) -> int:
    """Have a running node reload, and say how it ended; gives the exit code."""
    reloaded = reload_node(target)
    if invocation().as_json:
        print_json({**said, "reload": {"outcome": reloaded.outcome, **(reloaded.data or {})}})
    else:
        click.echo(clean(sentence))
        if reloaded.sentence:
            click.echo(clean(reloaded.sentence))
        if reloaded.outcome == "none":
            click.echo("no node runs; `mcpv-node start` starts one with it", err=True)
    return 1 if reloaded.outcome == "refused" else 0


def reload_node(target: Target) -> Reloaded:
    """Ask the node that runs on this configuration, if one does, to read it again."""
    try:
        node = find_node(chosen_state_dir())
    except NodeUnreachable:
        return Reloaded("none", "")
    runs = node.config_path
    if runs is None or Path(runs).resolve() != target.path.resolve():
        where = runs or "no file"
        return Reloaded("restart", f"the running node uses {where}; restart it to use {target.path}")
    try:
        with working("bringing the configuration into effect"):
            answer = NodeClient(node).reload().value
    except NodeRefused as error:
        return Reloaded(
            "refused",
            f"saved, but the node goes on as it was: {error}; correct it, then `mcpv-node reload`",
            {"reason": str(error)},
        )
    except ClientError as error:
        return Reloaded("restart", f"saved; the node did not say whether it applies: {error}")
    changes = [{"name": one.name, "class": one.what} for one in answer.changes]
    what = ", ".join(f"{one.name}: {one.what}" for one in answer.changes) or "no change"
    return Reloaded("reloaded", f"applied ({what})", {"applied": answer.outcome, "changes": changes})


def _find(config: Path | None) -> Path:
    try:
        if config is None and "MCPV_CONFIG" not in os.environ:
            running = _running_config()
            if running is not None:
                return running
        return find_config(config, os.environ)
    except SettingsError as error:
        raise config_failure(error) from None


def _running_config() -> Path | None:
    try:
        named = find_node(chosen_state_dir()).config_path
    except NodeUnreachable:
        return None
    return Path(named) if named is not None and Path(named).exists() else None


def _packaged_text() -> str:
    text = PACKAGED_CONFIG.read_text(encoding="utf-8")
    return text.replace(SCHEMA_LINE, f"{SCHEMA_LINE}{PACKAGED_CONFIG.resolve().parent}/", 1)


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise CommandFailed(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CommandFailed(f"{file} is not UTF-8") from None
