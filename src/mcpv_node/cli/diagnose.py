"""`mcpv-node diagnose`: all that helps to find a fault, in one file that can be shown to others.

It works without a node, or with one that does not answer: then there is less in it, and it says what and why. Values
of `env` and `headers`, tokens and whatever else is known or looks like a secret are masked in all of it.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from importlib import metadata
from itertools import chain, count
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import click

from mcpv_node.client import ClientError, NodeClient, NodeUnreachable, find_node
from mcpv_node.node_file import LOG_NAME, NodeFile
from mcpv_node.secret_names import is_secret_name
from mcpv_node.settings import Loaded, SettingsError, find_config, load_settings, secret_values, state_dir
from mcpv_node.settings.explain import explain
from mcpv_node.telemetry import SystemClock
from mcpv_node.version import VERSION

from .bundle import MAX_PART, Bundle
from .common import OK, CommandFailed, common_options, invocation
from .output import counted, print_json

# A report of each of so many servers; the list has them all.
MAX_WHYS = 200

# Of a folder.
MAX_FILES = 1000

# Of a file of secrets; what is longer is none.
_MAX_SECRET_FILE = 64 * 1024

_KINDS = ("tools", "resources", "prompts")


@click.command("diagnose", short_help="Pack what helps to find a fault, without secrets.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to write (default: mcpv-node-diagnose-TIME.tar.gz here).",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="The configuration (default: the node's, else what `start` would run).",
)
@common_options
def command(output: Path | None, config: Path | None) -> int:
    """Write what helps to find a fault into one file, without secrets.

    Look into it before you send it: names of servers, paths and what servers wrote to stderr are in it.

    \b
      mcpv-node diagnose
      mcpv-node diagnose --output fault.tar.gz
    """
    clock = SystemClock()
    path = output or unused_path(f"mcpv-node-diagnose-{clock.wall():%Y%m%d-%H%M%S}")
    folder = state_dir(invocation().state_dir, os.environ, None)
    node, absence = _find(folder)
    loaded, problem = _load(config, node)
    if node is None and loaded is not None:
        # The configuration may name another folder, as it does for `start`.
        folder = state_dir(invocation().state_dir, os.environ, loaded.settings)
        node, absence = _find(folder)
    bundle = Bundle(_secrets(loaded, folder, node), clock)
    _add_facts(bundle, loaded, problem, folder, node)
    if node is None:
        bundle.leave_out("node", absence)
    else:
        _add_node(bundle, node)
    about: dict[str, object] = {
        "version": VERSION,
        "stateDir": str(folder),
        "node": None if node is None else node.pid,
    }
    try:
        bundle.write(path, about)
    except FileExistsError:
        raise CommandFailed(f"{path} is there already; name another file with --output") from None
    except OSError as error:
        raise CommandFailed(f"{path} cannot be written: {error.strerror or error}") from None
    _announce(path, bundle)
    return OK


def unused_path(stem: str) -> Path:
    """Name the first of STEM.tar.gz, STEM-2.tar.gz, ... that is not there: two in one second are two files."""
    stems = chain([stem], (f"{stem}-{number}" for number in count(2)))
    return next(path for name in stems if not os.path.lexists(path := Path(f"{name}.tar.gz")))


def _announce(path: Path, bundle: Bundle) -> None:
    if invocation().as_json:
        parts = [{"name": part.name, "bytes": len(part.data)} for part in bundle.parts]
        print_json({"path": str(path.absolute()), "parts": parts, "leftOut": bundle.left_out})
        return
    click.echo(f"{path}: {counted(len(bundle.parts), 'part')}")
    for name, why in bundle.left_out.items():
        click.echo(f"not in it: {name}: {why}", err=True)


def _find(folder: Path) -> tuple[NodeFile | None, str]:
    try:
        return find_node(folder), ""
    except NodeUnreachable as error:
        return None, str(error)


def _load(config: Path | None, node: NodeFile | None) -> tuple[Loaded | None, str]:
    """The configuration as its files and this command's environment say."""
    try:
        said = config
        if said is None and node is not None and node.config_path is not None:
            said = Path(node.config_path)
        return load_settings(find_config(said, os.environ), environ=os.environ), ""
    except SettingsError as error:
        return None, "; ".join(str(problem) for problem in error.problems)


# --- what is known without the node ------------------------------------------------------------------


def _add_facts(
    bundle: Bundle, loaded: Loaded | None, problem: str, folder: Path, node: NodeFile | None
) -> None:
    bundle.add_value("versions.json", _versions)
    if loaded is None:
        bundle.leave_out("config.json", problem)
    else:
        bundle.add_value("config.json", lambda: [asdict(one) for one in explain(loaded)])
    bundle.add_lines("state-files.txt", lambda: _listing(folder))
    # Of a node that was started in the background; the former one too.
    logs = {LOG_NAME: folder / LOG_NAME, f"{LOG_NAME}.1": folder / f"{LOG_NAME}.1"}
    if loaded is not None and loaded.settings.log.file is not None:
        logs["log-file.jsonl"] = Path(loaded.settings.log.file)
    for name, path in logs.items():
        if path.exists():
            bundle.add_lines(name, partial(_tail, path))
    bundle.add_lines("ledger.jsonl", lambda: _tail(folder / "ledger.jsonl"))
    if node is not None:
        bundle.add_text("process.txt", lambda: _process(node.pid))


def _versions() -> dict[str, object]:
    packages = {one.name: one.version for one in metadata.distributions()}
    return {
        "mcpv-node": VERSION,
        "python": sys.version,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "packages": dict(sorted(packages.items(), key=lambda one: one[0].lower())),
    }


def _listing(folder: Path) -> Iterator[bytes]:
    """The files of the state folder, without what is in them."""
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}")
    for number, path in enumerate(sorted(folder.rglob("*"))):
        if number == MAX_FILES:
            yield b"(and more)"
            return
        with suppress(OSError):
            facts = path.lstat()
            line = f"{facts.st_mode:06o} {facts.st_size:>12} {facts.st_mtime:.0f} {path.relative_to(folder)}"
            yield line.encode("utf-8", "replace")


def _tail(path: Path) -> Iterable[bytes]:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - MAX_PART))
        lines = file.read(MAX_PART).splitlines()
    return lines[1:] if size > MAX_PART else lines


def _process(pid: int) -> bytes:
    """What the system says of the node's process: its memory, threads, limits and open files."""
    place = Path("/proc") / str(pid)
    count = len(list((place / "fd").iterdir()))
    return (
        (place / "status").read_bytes() + (place / "limits").read_bytes() + f"open files: {count}\n".encode()
    )


# --- what the node says ------------------------------------------------------------------------------


def _add_node(bundle: Bundle, node: NodeFile) -> None:
    try:
        client = NodeClient(node)
    except ClientError as error:
        bundle.leave_out("node", str(error))
        return
    bundle.add_value("health.json", client.health)
    for name in ("node", "tree", "clients", "nodes"):
        bundle.add_body(f"{name}.json", partial(client.read, f"/api/v1/{name}"))
    names: list[str] = []

    def servers() -> bytes:
        answer = client.servers()
        names.extend(one.name for one in answer.value)
        return answer.body

    bundle.add_body("servers.json", servers)
    for name in names[:MAX_WHYS]:
        path = f"/api/v1/servers/{quote(name, safe='')}"
        bundle.add_body(f"why/{name}.json", partial(client.read, path))
    bundle.add_value("catalog.json", lambda: {kind: _outline(client, kind) for kind in _KINDS})
    bundle.add_lines("events.jsonl", client.events)
    bundle.add_text("metrics.txt", lambda: client.read("/metrics"))
    bundle.add_lines("logs.jsonl", client.logs)


def _outline(client: NodeClient, kind: str) -> dict[str, object]:
    """How many entries of each server a catalog has; not what they are."""
    body: Any = json.loads(client.read(f"/api/v1/catalog/{kind}"))
    entries: list[dict[str, Any]] = body.get("entries", [])
    return {
        **{name: body.get(name) for name in ("version", "etag", "complete")},
        "entries": dict(Counter(str(one.get("server")) for one in entries)),
        "cold": sum(1 for one in entries if one.get("cold")),
        "stale": sum(1 for one in entries if one.get("stale")),
    }


# --- what nobody may see -----------------------------------------------------------------------------


def _secrets(loaded: Loaded | None, folder: Path, node: NodeFile | None) -> set[str]:
    """Every value that must not be in the bundle: more than the node masks, for this goes to others."""
    found: set[str] = set()
    files = [folder / "token"]
    if node is not None and node.token_file is not None:
        files.append(Path(node.token_file))
    if loaded is not None:
        found |= _of_settings(loaded)
        files += [Path(token.file) for token in loaded.settings.auth.tokens]
        files += _files_put_in(loaded)
    for path in files:
        found |= _of_file(path)
    for path in (folder / "oauth").glob("*.json"):
        found |= _of_grant(path)
    return found


def _of_settings(loaded: Loaded) -> set[str]:
    settings = loaded.settings
    found = set(secret_values(settings))
    urls: list[str] = []
    for spec in settings.servers:
        found |= {*spec.env.values(), *spec.headers.values()}
        urls += [spec.url, spec.proxy or "", *spec.env.values(), *spec.args]
    otlp = settings.telemetry.otlp
    if otlp is not None:
        found |= set(otlp.headers.values())
        urls.append(otlp.endpoint or "")
    for url in urls:
        found |= _of_url(url)
    # What came into the configuration through a variable that sounds like a secret.
    through = (one for origin in loaded.origins.values() for one in origin.through)
    return found | {os.environ[one] for one in through if is_secret_name(one) and one in os.environ}


def _files_put_in(loaded: Loaded) -> list[Path]:
    """What was put into the configuration with `${file:}`: read to be masked, whatever it is."""
    files = {origin.file for origin in loaded.origins.values()}
    return [path for path in loaded.sources if path not in files]


def _of_url(url: str) -> set[str]:
    """User, password and every value of the query."""
    if "://" not in url:
        return set()
    try:
        parts = urlsplit(url)
        said = {parts.username or "", parts.password or ""}
    except ValueError:
        return set()
    queries = {value for _, value in parse_qsl(parts.query)}
    raw = {one.partition("=")[2] for one in parts.query.split("&")}
    return {one for value in said | queries | raw for one in (value, unquote(value))}


def _of_file(path: Path) -> set[str]:
    """A secret that is a file's text, whole and by its lines."""
    with suppress(OSError, UnicodeDecodeError), path.open("rb") as file:
        text = file.read(_MAX_SECRET_FILE).decode()
        return {text.strip(), *(line.strip() for line in text.splitlines())}
    return set()


def _of_grant(path: Path) -> set[str]:
    """The tokens in a file of an OAuth grant."""
    with suppress(OSError, ValueError):
        return set(_texts_of_secrets(json.loads(path.read_text())))
    return set()


def _texts_of_secrets(value: object, *, is_secret: bool = False) -> Iterator[str]:
    if isinstance(value, str) and is_secret:
        yield value
    elif isinstance(value, dict):
        for key, inner in cast("dict[str, object]", value).items():
            yield from _texts_of_secrets(inner, is_secret=is_secret or is_secret_name(key))
    elif isinstance(value, list):
        for inner in cast("list[object]", value):
            yield from _texts_of_secrets(inner, is_secret=is_secret)
