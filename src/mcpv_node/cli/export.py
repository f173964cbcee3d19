"""`mcpv-node export CLIENT`: the entry that points an MCP client at this node.

Prints it, or merges it into the client's file: what else is in that file stays to the byte, and the file as it was
stays beside it.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import click

from mcpv_node.client import NodeUnreachable, find_node
from mcpv_node.client_files import (
    CLIENTS,
    Client,
    DocumentError,
    Pointer,
    client_file,
    over_http,
    over_stdio,
    put,
)
from mcpv_node.client_files.documents import read_json, read_toml, write
from mcpv_node.client_files.shapes import as_list, as_table
from mcpv_node.node_file import from_here
from mcpv_node.settings import SettingsError, find_config, load_settings, parse_address, state_dir
from mcpv_node.store.files import FILE_MODE, write_atomically

from .announce import stdio_program
from .common import CommandFailed, chosen_state_dir, common_options, config_failure, invocation
from .output import print_json

# Under which clients know the node; a selection has its own name beside it.
NAME = "mcpv"


@click.command("export", short_help="Point an MCP client at the node.")
@click.argument("client", type=click.Choice(list(CLIENTS)))
@click.option("--http", "over", flag_value="http", help="The client speaks HTTP to the node.")
@click.option("--stdio", "over", flag_value="stdio", help="The client runs `mcpv-node stdio` (the default).")
@click.option("--server", help="Only this server, with its own names.")
@click.option("--tag", multiple=True, help="Only servers with this tag, and untagged ones; may be repeated.")
@click.option("--profile", help="Only what this profile shows.")
@click.option(
    "--write",
    "write_it",
    is_flag=True,
    help="Merge it into the client's file; a copy of the file stays beside it.",
)
@click.option("--file", type=click.Path(path_type=Path), help="Another file than the client's usual one.")
@common_options
def command(
    client: str,
    over: str | None,
    server: str | None,
    tag: tuple[str, ...],
    profile: str | None,
    write_it: bool,
    file: Path | None,
) -> int:
    """Point CLIENT at this node: print the entry for its configuration file, or --write it there.

    \b
      mcpv-node export claude-desktop --write
      mcpv-node export cursor --http
      mcpv-node export codex --server clock
    """
    if (server is not None) + bool(tag) + (profile is not None) > 1:
        raise click.UsageError("choose one of --server, --tag and --profile")
    which = CLIENTS[client]
    selector = _selector(server, tag, profile)
    name = "-".join([NAME, *selector[1:]])
    if over == "http":
        if not which.takes_http:
            raise CommandFailed(f"{which.title} runs commands only; use --stdio")
        base, token_file = _door()
        pointer = over_http(which, name, base + _path(selector), token_file=token_file)
    else:
        options = [f"--{selector[0]}={one}" for one in selector[1:]] if selector else []
        pointer = over_stdio(which, name, [*stdio_program(), "stdio", *_where(), *options])
    target = file or client_file(which, home=Path.home(), folder=Path.cwd(), platform=sys.platform)
    _say(which, pointer, target, _merge(which, pointer, target) if write_it else None)
    return 0


def _selector(server: str | None, tags: tuple[str, ...], profile: str | None) -> tuple[str, ...]:
    if server is not None:
        return ("server", server)
    if profile is not None:
        return ("profile", profile)
    return ("tag", *tags) if tags else ()


def _path(selector: tuple[str, ...]) -> str:
    if not selector:
        return ""
    kind, *names = selector
    return f"/{'tags' if kind == 'tag' else kind}/{','.join(quote(name, safe='') for name in names)}"


def _where() -> list[str]:
    """Name the state folder where it is not what a client's command would find by itself."""
    chosen = chosen_state_dir()
    environ = {name: value for name, value in os.environ.items() if name != "MCPV_STATE_DIR"}
    return [] if chosen == state_dir(None, environ, None) else ["--state-dir", str(chosen)]


def _door() -> tuple[str, str | None]:
    """Say where the running node's HTTP door is, or where it would be; and where its token is."""
    folder = chosen_state_dir()
    try:
        node = find_node(folder)
    except NodeUnreachable:
        return _configured_door(folder)
    return node.endpoint, node.token_file


def _configured_door(folder: Path) -> tuple[str, str | None]:
    try:
        listen = load_settings(find_config(None, os.environ), environ=os.environ).settings.listen
    except SettingsError as error:
        raise config_failure(error) from None
    address = parse_address(listen.http)
    if address is None or address[1] == 0:
        raise CommandFailed("listen.http takes any free port: start the node first, or give it a port")
    url = from_here(f"{'https' if listen.tls is not None else 'http'}://{listen.http}")
    return f"{url}/mcp", str(folder / "token")


@dataclass(frozen=True, slots=True)
class Merged:
    """What became of a client's file."""

    # False: it said so already.
    written: bool
    # The copy of what it was; None where there was none.
    backup: Path | None = None


def _merge(client: Client, pointer: Pointer, file: Path) -> Merged:
    """Write the entry into the client's file."""
    real = file.resolve()
    read = read_toml if client.is_toml else read_json
    try:
        before = real.read_text(encoding="utf-8") if real.exists() else ""
        after = _with_inputs(put(before, pointer.path, pointer.entry, is_toml=client.is_toml), pointer)
        if read(after) == read(before):
            return Merged(written=False)
        backup = _keep(real) if real.exists() else None
        mode = real.stat().st_mode & 0o777 if real.exists() else FILE_MODE
        write_atomically(real, after.encode(), mode=mode)
    except OSError as error:
        raise CommandFailed(f"{file} cannot be written: {error.strerror}") from None
    except (DocumentError, UnicodeDecodeError) as error:
        what = str(error) if isinstance(error, DocumentError) else "is not UTF-8"
        raise CommandFailed(f"{file} {what}; put the entry there by hand") from None
    return Merged(written=True, backup=backup)


def _with_inputs(text: str, pointer: Pointer) -> str:
    if not pointer.inputs:
        return text
    there = as_list(read_json(text).get("inputs"))
    known = {as_table(one).get("id") for one in there}
    missing = [one for one in pointer.inputs if one["id"] not in known]
    return put(text, ("inputs",), [*there, *missing]) if missing else text


def _keep(file: Path) -> Path:
    number = 1
    while (backup := file.with_name(f"{file.name}.before-mcpv-{number}")).exists():
        number += 1
    shutil.copy2(file, backup)
    return backup


def _say(client: Client, pointer: Pointer, file: Path, merged: Merged | None) -> None:
    text = write(pointer.path, pointer.entry, is_toml=client.is_toml)
    if pointer.inputs:
        text = put(text, ("inputs",), list(pointer.inputs))
    if invocation().as_json:
        print_json(
            {
                "client": client.name,
                "file": str(file),
                "path": list(pointer.path),
                "entry": pointer.entry,
                "inputs": list(pointer.inputs),
                "needs": pointer.needs,
                "written": merged is not None and merged.written,
                "backup": None if merged is None or merged.backup is None else str(merged.backup),
            }
        )
        return
    if merged is None:
        click.echo(text.rstrip("\n"))
        click.echo(f"for {client.title}: {file}; --write merges it in", err=True)
    elif not merged.written:
        click.echo(f"{client.title} is pointed at the node already, in {file}")
    else:
        click.echo(f"{client.title} is pointed at the node, in {file}")
        if merged.backup is not None:
            click.echo(f"the file as it was: {merged.backup}")
    if pointer.needs is not None:
        click.echo(f"needs {pointer.needs}", err=True)
