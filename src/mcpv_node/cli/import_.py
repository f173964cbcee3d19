"""`mcpv-node import FILE...`: the servers of an MCP client's configuration file become entries of ours.

Without `--write` it only says what it would do, with the exact commands. `--write` is the consent: entries are added
enabled, but for those that are switched off in the client or cannot work yet. Nothing that is found is ever run.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import click
import msgspec

from mcpv_node.client_files import (
    DocumentError,
    Found,
    Installed,
    Translated,
    find_entries,
    translate,
    unwrap,
)
from mcpv_node.client_files.shapes import as_strings
from mcpv_node.settings import (
    ServerSpec,
    SettingsError,
    SpecKey,
    command_line,
    describe_server,
    load_settings,
    spec_key,
)
from mcpv_node.settings.editing import EditError, add
from mcpv_node.settings.target import Target

from .common import CommandFailed, common_options, invocation
from .config_file import config_option, find_target, finish, judge, save
from .output import clean, counted, print_json, print_lines

# Far more than any client's file: ~/.claude.json holds a history, too.
MAX_FILE_BYTES = 64 * 1024 * 1024

Outcome = Literal["new", "duplicate", "conflict", "invalid"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A found server, and what becomes of it."""

    found: Found
    name: str
    outcome: Outcome
    entry: Mapping[str, object] | None = None
    # As it would be run here; variables as written.
    spec: ServerSpec | None = None
    # Why it is not new, or what is the same already.
    reason: str | None = None
    notes: tuple[str, ...] = ()


@click.command("import", short_help="Take over the servers of an MCP client.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE...")
@click.option("--write", is_flag=True, help="Write the new entries into the configuration.")
@config_option
@common_options
def command(files: tuple[Path, ...], write: bool, config: Path | None) -> int:
    """Take over the servers of Claude Desktop, Claude Code, Cursor, VS Code, Windsurf, Codex or Gemini.

    Says what would be added, with the exact commands, and adds it with --write. Runs nothing.

    \b
      mcpv-node import ~/.cursor/mcp.json
      mcpv-node import ~/.cursor/mcp.json --write
    """
    target = find_target(config)
    found = [one for file in files for one in _read(file)]
    candidates = choose(found, target)
    new = [one for one in candidates if one.outcome == "new"]
    text = target.texts[target.main]
    try:
        for one in new:
            text = add(text, one.entry or {})
    except EditError as error:
        raise CommandFailed(f"{target.main}: {error}") from None
    changed = {target.main: text}
    judge(target, changed)
    if not invocation().as_json:
        _print(candidates)
    said = {
        "config": str(target.main),
        "written": bool(write and new),
        "entries": [_as_json(one) for one in candidates],
    }
    if write and new:
        save(target, changed)
        if not invocation().as_json:
            _say_next(new)
        return finish(said, f"{counted(len(new), 'server')} added to {target.main}", target)
    if invocation().as_json:
        print_json(said)
    elif new:
        click.echo(f"nothing is written; --write adds {counted(len(new), 'server')} to {target.main}")
    else:
        click.echo("there is nothing to add")
    return 0


def _say_next(new: Sequence[Candidate]) -> None:
    """Each server would run twice if its client went on running it."""
    for client in sorted({one.found.client.name for one in new if one.found.client is not None}):
        click.echo(
            f"next: `mcpv-node export {client} --write` points it at the node; take its own entries out then",
            err=True,
        )


def choose(found: Sequence[Found], target: Target) -> list[Candidate]:
    """Say of each found server whether it is new, and if not, why."""
    loaded = judge(target, {})
    address = loaded.settings.listen.http
    taken = {str(spec.name): spec_key(spec) for spec in loaded.settings.servers}
    own = [f"http://{address}/mcp", f"http://localhost:{address.rpartition(':')[2]}/mcp"]
    known = {name for name, value in os.environ.items() if value}
    return [_judged(translate(one, known=known, own_addresses=own), taken, target) for one in found]


def _judged(translated: Translated, taken: dict[str, SpecKey], target: Target) -> Candidate:
    """Compare with what is there, `taken`, and add to it what is new."""
    found, entry = translated.found, translated.entry
    if entry is None:
        return Candidate(found, found.name, "invalid", reason=translated.problem)
    entry, notes = _without_wrapper(entry, translated.notes)
    name = str(entry["name"])
    candidate = Candidate(found, name, "new", entry, msgspec.convert(entry, ServerSpec), None, notes)
    try:
        key = spec_key(_loaded(entry, target))
    except SettingsError as error:
        reason = "; ".join(f"{problem.key_path}: {problem.message}" for problem in error.problems)
        return replace(candidate, outcome="invalid", reason=reason)
    same = next((other for other, its in taken.items() if its == key), None)
    if same is not None:
        return replace(candidate, outcome="duplicate", reason=f"{same} is the same")
    if name in taken:
        reason = f"another server is named {name}; rename it in the client's file, or remove the other first"
        return replace(candidate, outcome="conflict", reason=reason)
    taken[name] = key
    return candidate


def _without_wrapper(
    entry: Mapping[str, object], notes: tuple[str, ...]
) -> tuple[Mapping[str, object], tuple[str, ...]]:
    command = entry.get("command")
    if not isinstance(command, str):
        return entry, notes
    unwrapped = unwrap(command, as_strings(entry.get("args")), Installed(os.environ))
    if unwrapped is None:
        return entry, notes
    return {**entry, "command": unwrapped.command, "args": list(unwrapped.args)}, (*notes, unwrapped.note)


def _loaded(entry: Mapping[str, object], target: Target) -> ServerSpec:
    """Load an entry alone, where it will stand; raises SettingsError."""
    file = target.main
    loaded = load_settings(file, environ=os.environ, instead={file: add("servers: []\n", entry)})
    return loaded.settings.servers[0]


def _read(file: Path) -> tuple[Found, ...]:
    try:
        with file.open("rb") as source:
            data = source.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise DocumentError(f"is longer than {MAX_FILE_BYTES} bytes")
        return find_entries(data.decode("utf-8-sig"), file.absolute())
    except OSError as error:
        raise CommandFailed(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise CommandFailed(f"{file} is not UTF-8") from None
    except DocumentError as error:
        raise CommandFailed(f"{file} {error}") from None


def _print(candidates: Sequence[Candidate]) -> None:
    for one in candidates:
        client = one.found.client.title if one.found.client is not None else "an MCP client"
        head = f"{one.name}: {one.outcome}" + (f", {one.reason}" if one.reason else "")
        click.echo(clean(head))
        lines = [] if one.spec is None else _shown(one.spec)
        print_lines([*lines, f"from {client}: {one.found.file}: {one.found.key_path}", *one.notes])


def _shown(spec: ServerSpec) -> list[str]:
    names = [f"{name}=***" for name in spec.env] + [f"{name}: ***" for name in spec.headers]
    where = [f"in {spec.cwd}"] if spec.cwd else []
    # As it is run: a doubled dollar is how one is written in our file.
    command = command_line(spec).replace("$$", "$")
    return [
        f"{'runs' if spec.is_stdio else 'speaks to'} {command}",
        *where,
        *([", ".join(names)] if names else []),
    ]


def _as_json(one: Candidate) -> dict[str, Any]:
    client = one.found.client
    said: dict[str, Any] = {
        "name": one.name,
        "outcome": one.outcome,
        "reason": one.reason,
        "source": {
            "client": client.name if client is not None else None,
            "file": str(one.found.file),
            "key": one.found.key_path,
        },
        "notes": list(one.notes),
    }
    if one.spec is not None and one.entry is not None:
        described = describe_server(one.spec)
        said["command"] = command_line(one.spec).replace("$$", "$")
        said["disabled"] = one.spec.disabled
        said["entry"] = {key: described[key] for key in one.entry}
    return said
