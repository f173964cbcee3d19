"""The programs of service managers: which commands make a definition known, and running them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from . import launchd
from .definition import Kind, Scope
from .systemd import UNIT_NAME

Command = tuple[str, ...]

# `systemctl start` returns when the node is ready, and `stop` when it is gone: their own bounds, and a margin.
COMMAND_BOUND = 180.0


class CommandRefused(Exception):
    """The service manager's program is not there, or did not do what it was asked to; the message says which."""


def program_of(kind: Kind) -> str:
    """The program that speaks to the service manager."""
    return "systemctl" if kind is Kind.SYSTEMD else "launchctl"


def is_there(kind: Kind) -> bool:
    """Tell whether this machine has that program."""
    return shutil.which(program_of(kind)) is not None


def start_commands(
    kind: Kind, scope: Scope, path: Path, uid: int, *, is_replaced: bool
) -> tuple[Command, ...]:
    """What makes a definition that was written known, and has it run, now and at every start of its scope."""
    if kind is Kind.LAUNCHD:
        domain = launchd.domain(scope, uid)
        begin = ("launchctl", "bootstrap", domain, str(path))
        return (("launchctl", "bootout", f"{domain}/{launchd.LABEL}"), begin) if is_replaced else (begin,)
    systemctl = _systemctl(scope)
    reload = (*systemctl, "daemon-reload")
    if is_replaced:
        return (reload, (*systemctl, "enable", UNIT_NAME), (*systemctl, "restart", UNIT_NAME))
    return (reload, (*systemctl, "enable", "--now", UNIT_NAME))


def stop_commands(kind: Kind, scope: Scope, uid: int) -> tuple[Command, ...]:
    """What ends it, and keeps it from being started; before its definition goes."""
    if kind is Kind.LAUNCHD:
        return (("launchctl", "bootout", f"{launchd.domain(scope, uid)}/{launchd.LABEL}"),)
    return ((*_systemctl(scope), "disable", "--now", UNIT_NAME),)


def forget_commands(kind: Kind, scope: Scope) -> tuple[Command, ...]:
    """What makes known that the definition has gone."""
    return () if kind is Kind.LAUNCHD else ((*_systemctl(scope), "daemon-reload"),)


def run_command(command: Sequence[str]) -> None:
    """Run one of them to its end; raises CommandRefused with its own words."""
    shown = " ".join(command)
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=COMMAND_BOUND,
            check=False,
        )
    except FileNotFoundError:
        raise CommandRefused(f"there is no {command[0]} here") from None
    except OSError as error:
        raise CommandRefused(f"`{shown}` cannot be run: {error.strerror or error}") from None
    except subprocess.TimeoutExpired:
        raise CommandRefused(f"`{shown}` did not end within {COMMAND_BOUND:g} s") from None
    if done.returncode != 0:
        said = " ".join(done.stdout.decode(errors="replace").split()) or "it said nothing"
        raise CommandRefused(f"`{shown}` ended with {done.returncode}: {said}")


def _systemctl(scope: Scope) -> Command:
    return ("systemctl",) if scope is Scope.SYSTEM else ("systemctl", "--user")
