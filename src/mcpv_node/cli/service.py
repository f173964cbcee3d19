"""`mcpv-node service print|install|uninstall`: a node in the hands of systemd, or of launchd on macOS.

`print` writes to stdout and touches nothing. `install` writes one file, and says what to run next; it runs it itself
only with `--now`. `uninstall` undoes both.
"""

from __future__ import annotations

import math
import os
import shlex
import stat
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, get_args

import click

from mcpv_node.bounds import process_end_bound
from mcpv_node.service import launchd, systemd
from mcpv_node.service.commands import (
    Command,
    CommandRefused,
    forget_commands,
    is_there,
    program_of,
    run_command,
    start_commands,
    stop_commands,
)
from mcpv_node.service.definition import (
    NAME,
    Definition,
    Kind,
    Scope,
    Unsupported,
    search_path,
    service_kind,
)
from mcpv_node.service.node_process import node_program
from mcpv_node.settings import (
    PACKAGED_CONFIG,
    NodeSettings,
    SettingsError,
    find_config,
    load_settings,
    parse_address,
    state_dir,
    user_config,
)
from mcpv_node.settings.types import LogLevel
from mcpv_node.store.files import write_atomically

from .common import CommandFailed, common_options, config_failure, invocation
from .output import print_json

# Service managers read them as root, and everybody may look: nothing in them is a secret.
FILE_MODE = 0o644
FOLDER_MODE = 0o755

# Where the machine's own configuration is looked for.
SYSTEM_CONFIG = Path("/etc") / NAME / "runtime.yaml"
ENVIRONMENT_NAME = "environment"

WITHOUT = "`mcpv-node start --supervised --detach` runs a node in the background without a service manager"

_Command = TypeVar("_Command", bound=Callable[..., object])


@dataclass(frozen=True, slots=True)
class Service:
    """What is written where."""

    kind: Kind
    scope: Scope
    path: Path
    text: str


@click.group("service", short_help="Have systemd or launchd run the node.")
@common_options
def command() -> None:
    """Run the node as a service of this machine, or of yours with --user.

    \b
      mcpv-node service print
      mcpv-node service install --user --now
    """


def _definition_options(verb: _Command) -> _Command:
    options = (
        click.option("--user", "is_user", is_flag=True, help="A service of yours, not of the machine."),
        click.option(
            "--config", type=click.Path(path_type=Path), help="The configuration: a file, or a folder."
        ),
        click.option("--http", metavar="HOST:PORT", help="Where the HTTP door is."),
        click.option("--log-level", type=click.Choice(get_args(LogLevel)), help="Log from this level on."),
        click.option("--run-as", metavar="USER", help="The user that the machine's service runs as."),
    )
    for option in reversed(options):
        verb = option(verb)
    return verb


@command.command("print")
@_definition_options
@common_options
def print_(
    is_user: bool, config: Path | None, http: str | None, log_level: str | None, run_as: str | None
) -> None:
    """Write the service's file to stdout.

    \b
      mcpv-node service print --user
      mcpv-node service print --run-as ada --config /etc/mcpv-node/runtime.yaml
    """
    service = _service(is_user, config, http, log_level, run_as)
    if invocation().as_json:
        print_json({**_facts(service), "text": service.text})
    else:
        click.echo(service.text, nl=False)


@command.command("install")
@_definition_options
@click.option("--now", is_flag=True, help="Have it run too, now and from the next boot or login on.")
@click.option("--force", is_flag=True, help="Replace a file that says something else.")
@common_options
def install(
    is_user: bool,
    config: Path | None,
    http: str | None,
    log_level: str | None,
    run_as: str | None,
    now: bool,
    force: bool,
) -> None:
    """Write the service's file, and have it run with --now.

    \b
      mcpv-node service install --user --now
      mcpv-node service install --run-as ada
    """
    service = _service(is_user, config, http, log_level, run_as)
    _require_manager(service.kind)
    before = _read(service.path)
    if before is not None and before != service.text and not force:
        raise CommandFailed(
            f"{service.path} is there and says something else; `service print` shows what would be written, "
            "--force writes it"
        )
    is_written = before != service.text
    if is_written:
        _write(service)
    commands = start_commands(
        service.kind, service.scope, service.path, os.getuid(), is_replaced=before is not None and is_written
    )
    if now:
        _run(commands, f"{service.path} is written, but ")
    if invocation().as_json:
        print_json({**_facts(service), "written": is_written, "commands": _shown(commands), "ran": now})
        return
    click.echo(f"{'wrote' if is_written else 'unchanged:'} {service.path}")
    if now:
        click.echo("the node runs")
    else:
        click.echo("to have it run, now and from the next start on:")
        for line in _shown(commands):
            click.echo(f"  {line}")
    if service.kind is Kind.SYSTEMD and is_user:
        click.echo("it ends with your last session, unless you once say: loginctl enable-linger")


@command.command("uninstall")
@click.option("--user", "is_user", is_flag=True, help="A service of yours, not of the machine.")
@common_options
def uninstall(is_user: bool) -> None:
    """Stop the service, and remove its file. The node's state stays.

    \b
      mcpv-node service uninstall --user
    """
    kind, scope = _kind(), _scope(is_user)
    path = _path(kind, scope)
    if _read(path) is None:
        if invocation().as_json:
            print_json({"kind": kind, "scope": scope, "path": str(path), "removed": False, "ran": False})
        else:
            click.echo(f"nothing to do: there is no {path}")
        return
    has_manager = is_there(kind)
    if has_manager:
        _run(stop_commands(kind, scope, os.getuid()), "the service could not be stopped, and stays: ")
    try:
        path.unlink()
    except OSError as error:
        raise _not_ours(path, error) from None
    if has_manager:
        _run(forget_commands(kind, scope), f"{path} is removed, but ")
    if invocation().as_json:
        print_json({"kind": kind, "scope": scope, "path": str(path), "removed": True, "ran": has_manager})
        return
    click.echo(f"removed {path}")
    if not has_manager:
        click.echo(f"there is no {program_of(kind)} here, so nothing was stopped")


def make_service(definition: Definition, kind: Kind, path: Path) -> Service:
    """Write a definition down as its service manager reads it. Raises UsageError for what it cannot be told."""
    if kind is Kind.LAUNCHD and definition.scope is Scope.SYSTEM and definition.run_as is None:
        raise click.UsageError("launchd would run it as root: say whom with --run-as USER, or use --user")
    try:
        text = systemd.write_unit(definition) if kind is Kind.SYSTEMD else launchd.write_plist(definition)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    return Service(kind, definition.scope, path, text)


def closed_folder(program: Path) -> Path | None:
    """The folder above a program that keeps other users out; None when everybody may run it."""
    # The interpreter of a virtual environment is a link, and where it leads must be open too.
    for way in (program.absolute(), program.resolve()):
        for folder in reversed(way.parents):
            try:
                if not folder.stat().st_mode & stat.S_IXOTH:
                    return folder
            except OSError:
                return folder
    return None


def _service(
    is_user: bool, config: Path | None, http: str | None, log_level: str | None, run_as: str | None
) -> Service:
    kind, scope = _kind(), _scope(is_user)
    if http is not None and parse_address(http) is None:
        raise click.UsageError(f"--http {http}: this is not HOST:PORT")
    if is_user and run_as is not None:
        raise click.UsageError("a service of yours runs as you: --run-as does not go with --user")
    found = _config(scope, config)
    settings = _settings(found)
    program = tuple(node_program())
    closed = None if is_user else closed_folder(Path(program[0]))
    if closed is not None and run_as is None:
        click.echo(
            f"warning: the program is below {closed}, where the service's user may not look; install mcpv-node for "
            "everybody, or say --run-as USER",
            err=True,
        )
    definition = Definition(
        scope=scope,
        program=program,
        stop_seconds=math.ceil(process_end_bound(settings.servers)),
        state_dir=_state_dir(kind, scope, settings, run_as),
        config=found,
        http=http,
        log_level=log_level,
        run_as=run_as,
        # A machine's service does not depend on who installed it.
        path=search_path(os.environ) if is_user or kind is Kind.LAUNCHD else None,
        environment_file=_environment_file(scope) if kind is Kind.SYSTEMD else None,
    )
    return make_service(definition, kind, _path(kind, scope))


def _kind() -> Kind:
    try:
        return service_kind(sys.platform)
    except Unsupported as error:
        raise CommandFailed(f"{error}; {WITHOUT}") from None


def _scope(is_user: bool) -> Scope:
    return Scope.USER if is_user else Scope.SYSTEM


def _path(kind: Kind, scope: Scope) -> Path:
    if kind is Kind.LAUNCHD:
        return launchd.plist_path(scope, Path.home())
    return systemd.unit_path(scope, _config_home())


def _config_home() -> Path:
    own = user_config(os.environ)
    return Path.home() / ".config" if own is None else own.parent.parent


def _environment_file(scope: Scope) -> Path:
    folder = SYSTEM_CONFIG.parent if scope is Scope.SYSTEM else _config_home() / NAME
    return folder / ENVIRONMENT_NAME


def _config(scope: Scope, explicit: Path | None) -> Path | None:
    """The configuration that the service is to name; None: what `start` finds, or the packaged one."""
    if scope is Scope.SYSTEM and explicit is None:
        return SYSTEM_CONFIG if SYSTEM_CONFIG.is_file() else None
    try:
        found = find_config(explicit, os.environ)
    except SettingsError as error:
        raise config_failure(error) from None
    return None if found == PACKAGED_CONFIG else found


def _settings(config: Path | None) -> NodeSettings:
    try:
        return load_settings(config or PACKAGED_CONFIG, environ=os.environ).settings
    except SettingsError as error:
        # It may need variables that only the service has.
        message = config_failure(error).message
        click.echo(f"warning: {message}\n  the bound of a stop is that of the defaults", err=True)
        return load_settings(PACKAGED_CONFIG, environ=os.environ).settings


def _state_dir(kind: Kind, scope: Scope, settings: NodeSettings, run_as: str | None) -> Path:
    if scope is Scope.USER:
        return state_dir(invocation().state_dir, os.environ, settings)
    default = systemd.SYSTEM_STATE if kind is Kind.SYSTEMD else launchd.SYSTEM_STATE
    # Not ours of the environment: whoever installs it is not whom it runs as.
    explicit = invocation().state_dir
    if explicit is not None and run_as is None and explicit.absolute() != default:
        raise click.UsageError(
            f"a service without a user of its own keeps its state in {default}; another folder needs --run-as USER"
        )
    return default if explicit is None else explicit.absolute()


def _require_manager(kind: Kind) -> None:
    if not is_there(kind):
        raise CommandFailed(
            f"there is no {program_of(kind)} here, so nothing would read the file; `service print` shows it, and "
            + WITHOUT
        )


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _not_ours(path, error) from None


def _write(service: Service) -> None:
    try:
        service.path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        write_atomically(service.path, service.text.encode(), mode=FILE_MODE)
    except OSError as error:
        raise _not_ours(service.path, error) from None


def _not_ours(path: Path, error: OSError) -> CommandFailed:
    hint = (
        "; run it as root, or with --user for a service of yours"
        if isinstance(error, PermissionError)
        else ""
    )
    return CommandFailed(f"{path}: {error.strerror or error}{hint}")


def _run(commands: Sequence[Command], what_is_so: str) -> None:
    for one in commands:
        try:
            run_command(one)
        except CommandRefused as refusal:
            raise CommandFailed(f"{what_is_so}{refusal}") from None


def _shown(commands: Sequence[Command]) -> list[str]:
    return [shlex.join(one) for one in commands]


def _facts(service: Service) -> dict[str, object]:
    return {"kind": service.kind, "scope": service.scope, "path": str(service.path)}
