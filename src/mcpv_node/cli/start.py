"""`mcpv-node start`: run a node here, under a supervisor of its own with `--supervised`, or in the background with `--detach`."""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal, NoReturn, get_args

import click

from mcpv_node.bounds import process_end_bound
from mcpv_node.node_file import LOG_NAME, NodeFile
from mcpv_node.settings import Loaded, SettingsError, find_config, load_settings, parse_address, state_dir
from mcpv_node.settings.types import LogLevel
from mcpv_node.state_dir import StateDirBusy, lock_for_supervisor, unlock_state_dir
from mcpv_node.telemetry.notify import Listener, SupervisorPipe, take_service_manager

from .announce import announce, report_ready
from .common import OK, CommandFailed, common_options, config_failure, invocation
from .progress import working

if TYPE_CHECKING:
    from mcpv_node.serving import StopSwitch
    from mcpv_node.telemetry import Redactor

NO_TOKEN = "none"

# Of the sentence with which a second start on a state folder is refused.
ALREADY_RUNS = "already runs on"

# Nothing on the way of a call is part of a cycle, so the collector finds next to nothing however often it looks; the
# default of 700 has it look a few times for every hundred calls, and a full round stalls the loop for tens of ms.
YOUNG_OBJECTS = 20_000
OLDER_ROUNDS = (20, 50)

StopHow = Literal["drain", "now", "kill"]

# The first signal, the second, and every one after: nobody who asks three times wants to wait.
_STOPS: tuple[StopHow, ...] = ("drain", "now", "kill")
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@click.command("start", short_help="Run a node, here or in the background.")
@click.option("--config", type=click.Path(path_type=Path), help="The configuration: a file, or a folder.")
@click.option("--http", metavar="HOST:PORT", help="Where the HTTP door is; port 0 takes a free one.")
@click.option(
    "--token", metavar="FILE|none", help="The bearer token's file; none: no token, on loopback only."
)
@click.option("--log-level", type=click.Choice(get_args(LogLevel)), help="Log from this level on.")
@click.option("--supervised", is_flag=True, help="Run it under one more process, which starts it again.")
@click.option("--detach", is_flag=True, help="Return once the node is ready in the background.")
@click.option(
    "--linger",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="End when nobody was connected for this long.",
)
@click.option("--ready-fd", type=int, hidden=True)
@click.option("--supervisor-fd", type=int, hidden=True)
@click.option("--notify-fd", type=int, hidden=True)
@click.option("--watchdog", type=float, hidden=True)
@common_options
def command(
    config: Path | None,
    http: str | None,
    token: str | None,
    log_level: str | None,
    supervised: bool,
    detach: bool,
    linger: float | None,
    ready_fd: int | None,
    supervisor_fd: int | None,
    notify_fd: int | None,
    watchdog: float | None,
) -> int:
    """Run a node: start its servers on demand and serve their tools.

    \b
      mcpv-node start
      mcpv-node start --config team.yaml --http 127.0.0.1:9000
      mcpv-node start --detach
    """
    if os.getpid() == 1:
        # The kernel spares the first process of a container what it has no handler for.
        signal.signal(signal.SIGTERM, _leave)
    if http is not None:
        _check_address(http)
    path, loaded = _load(config)
    folder = _make_state_dir(state_dir(invocation().state_dir, os.environ, loaded.settings))
    token = token if token is None or token == NO_TOKEN else os.path.abspath(token)
    options = ["--config", str(path), "--state-dir", str(folder)]
    options += ["--http", http] if http is not None else []
    options += ["--token", token] if token is not None else []
    options += ["--log-level", log_level] if log_level is not None else []
    options += ["--linger", f"{linger:g}"] if linger is not None else []
    if detach:
        return _start_in_background(folder, [*options, "--supervised"] if supervised else options)
    if supervised:
        _configure_logging(loaded, folder, log_level, None)
        return _run_supervised(folder, loaded, options, ready_fd=ready_fd)
    return _run(
        path,
        loaded,
        folder,
        http=http,
        token=token,
        log_level=log_level,
        linger=linger,
        ready_fd=ready_fd,
        supervisor_fd=supervisor_fd,
        listener=None if notify_fd is None else SupervisorPipe(notify_fd, watchdog),
    )


def _leave(_number: int, _frame: FrameType | None) -> NoReturn:
    """Nothing has been started yet: there is nothing to stop."""
    raise SystemExit(OK)


def _check_address(http: str) -> None:
    if parse_address(http) is None:
        raise click.UsageError(f"--http {http}: this is not HOST:PORT")


def _load(config: Path | None) -> tuple[Path, Loaded]:
    try:
        path = find_config(config, os.environ)
        return path, load_settings(path, environ=os.environ)
    except SettingsError as error:
        raise config_failure(error) from None


def _make_state_dir(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CommandFailed(
            f"the state folder {folder} cannot be made: {error.strerror}; name another with --state-dir"
        ) from None
    return folder


def _start_in_background(folder: Path, options: list[str]) -> int:
    from .detach import StartFailed, start_detached

    try:
        with working("starting the node"):
            node = start_detached(folder, options)
    except StartFailed as failure:
        details = {"problems": list(failure.problems)} if failure.problems else {}
        raise CommandFailed(failure.message, failure.code, details) from None
    except OSError as error:
        raise CommandFailed(f"the node cannot be started in the background: {error}") from None
    _announce(node, folder, detached=True)
    return OK


def _run_supervised(folder: Path, loaded: Loaded, options: list[str], *, ready_fd: int | None) -> int:
    """Keep a node running, from this process; every start of it that succeeds is announced."""
    from mcpv_node.service.keeping import GAVE_UP, KeepingPolicy
    from mcpv_node.service.supervised import supervise
    from mcpv_node.transports import receives_orphans

    manager = take_service_manager(os.environ, pid=os.getpid())
    if manager is not None and manager.watchdog is not None:
        raise click.UsageError(
            "the service manager that started this watches over the node itself: leave --supervised out"
        )

    def tell(**assignments: str | int) -> None:
        with suppress(OSError):
            if manager is not None:
                manager.tell(**assignments)

    is_reported = is_stopping = False

    def on_stopping() -> None:
        nonlocal is_stopping
        is_stopping = True
        tell(STOPPING=1)

    def on_ready(node: NodeFile) -> None:
        nonlocal is_reported
        tell(READY=1, STATUS=f"serving at {node.http}, process {node.pid}")
        # Whoever started us may have left: a node runs on without its audience.
        with suppress(OSError):
            if ready_fd is None:
                _announce(node, folder, detached=False)
            elif not is_reported:
                is_reported = True
                report_ready(node, ready_fd)

    policy = KeepingPolicy(stop_bound=process_end_bound(loaded.settings.servers))
    try:
        lock = lock_for_supervisor(folder)
    except StateDirBusy as refusal:
        raise CommandFailed(str(refusal)) from None
    except OSError as error:
        raise CommandFailed(f"{folder}: {error.strerror or error}") from None
    try:
        code = supervise(
            options,
            policy,
            on_ready=on_ready,
            on_stopping=on_stopping,
            reaps_strangers=receives_orphans(),
        )
    finally:
        unlock_state_dir(lock)
    if code == GAVE_UP and not is_stopping:
        raise CommandFailed("the node does not stay up; what is above says why")
    # What is wrong with usage or configuration, the node has said itself.
    return code


def _run(
    path: Path,
    loaded: Loaded,
    folder: Path,
    *,
    http: str | None,
    token: str | None,
    log_level: str | None,
    linger: float | None,
    ready_fd: int | None,
    supervisor_fd: int | None,
    listener: Listener | None,
) -> int:
    gc.set_threshold(YOUNG_OBJECTS, *OLDER_ROUNDS)
    # All that a node is made of: only a command that runs one pays for it.
    import uvloop

    from mcpv_node.serving import NodeOptions, StartRefused, StopSwitch, serve
    from mcpv_node.settings import secret_values
    from mcpv_node.telemetry import Redactor
    from mcpv_node.transports import receives_orphans

    # A service manager that started our supervisor is told by that one.
    manager = take_service_manager(os.environ, pid=os.getpid())
    listener = listener or manager
    if listener is not None and listener.watchdog is not None:
        # A node that hangs is ended with SIGABRT: where it hung belongs into the log.
        faulthandler.enable()
    redact = Redactor(secret_values(loaded.settings))
    _configure_logging(loaded, folder, log_level, redact)
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    options = NodeOptions(
        settings=loaded.settings,
        config_path=path,
        marks=loaded.marks,
        state_dir=folder,
        http=http,
        token=token,
        linger=linger,
        redact=redact,
        service_manager=listener,
        reaps_strangers=receives_orphans(),
    )
    switch = StopSwitch()

    def on_ready(node: NodeFile) -> None:
        _settle()
        # Whoever started us may have left: a node runs on without its audience.
        with suppress(OSError):
            if ready_fd is not None:
                report_ready(node, ready_fd)
            else:
                _announce(node, folder, detached=False)

    with _stopped_by_signals(switch):
        try:
            outcome = uvloop.run(serve(options, on_ready=on_ready, switch=switch, supervisor=supervisor_fd))
        except StartRefused as refusal:
            said = str(refusal)
            advice = (
                "; `mcpv-node stop` ends it; another --state-dir is another node"
                if ALREADY_RUNS in said
                else ""
            )
            raise CommandFailed(said + advice) from None
    if not outcome.ok:
        raise CommandFailed(outcome.message)
    return OK


def _settle() -> None:
    """What is there by now stays as long as the process: no later round of the collector need look at it."""
    gc.collect()
    gc.freeze()


def _announce(node: NodeFile, folder: Path, *, detached: bool) -> None:
    # Clients start their commands with an environment of their own: our $MCPV_STATE_DIR is not in it.
    environ = {name: value for name, value in os.environ.items() if name != "MCPV_STATE_DIR"}
    is_default = folder == state_dir(None, environ, None)
    announce(
        node, as_json=invocation().as_json, detached=detached, state_dir=folder, is_default_dir=is_default
    )


def _configure_logging(loaded: Loaded, folder: Path, log_level: str | None, redact: Redactor | None) -> None:
    """Without a redactor it is the supervisor's log: it has no secrets to say, and the file is the node's."""
    from mcpv_node.telemetry import PLAIN_REDACTOR
    from mcpv_node.telemetry.logs import MEGABYTE, OwnOutput, configure_logging

    log = loaded.settings.log
    configure_logging(
        log_level or log.level,
        json={"auto": None, "json": True, "text": False}[log.format],
        file=None if log.file is None or redact is None else Path(log.file),
        rotate_mb=log.rotate_mb,
        keep=log.keep,
        # In the background the node alone bounds what it writes there.
        sink=OwnOutput.at(folder / LOG_NAME, log.rotate_mb * MEGABYTE),
        redact=redact or PLAIN_REDACTOR,
    )


@contextmanager
def _stopped_by_signals(switch: StopSwitch) -> Generator[None]:
    """Let the first signal drain, the second stop at once, the third kill; SIGHUP reloads."""
    received = 0

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal received
        switch.request(_STOPS[min(received, len(_STOPS) - 1)])
        received += 1

    # signal.signal, not the loop's own: these are heard while a long message keeps the loop busy.
    before = [(number, signal.signal(number, on_signal)) for number in _SIGNALS]
    # What daemons do since there are any: read the configuration again.
    before.append((signal.SIGHUP, signal.signal(signal.SIGHUP, lambda _number, _frame: switch.reload())))
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
