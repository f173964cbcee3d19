"""Which program a server's command means, and what environment it gets.

Asked before every start, so that a missing program is a sentence and not an exit code.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from .guard import MARK_VARIABLE

# What the MCP SDKs let a stdio server inherit.
INHERITED = frozenset({"HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER"})

# Beyond them, what describes the machine and not the person: how text is encoded, which day it is, where temporary
# files go. And the way to the network: many servers are started by npx or uvx, which hang without it.
MACHINE = frozenset(
    {"LANG", "LANGUAGE", "TMPDIR", "TZ", "SSL_CERT_DIR", "SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS"}
)
MACHINE_PREFIXES = ("LC_", "XDG_")
PROXIES = frozenset({"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"})

# What an attempt with the same program cannot cure.
FATAL_ERRORS = frozenset({errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOEXEC, errno.ENOTDIR, errno.E2BIG})


class StartError(Exception):
    """A server's process could not be started. `is_fatal`: trying the same again will not help.

    StartError
    ├── ProgramNotFound
    ├── ProgramNotExecutable
    ├── FolderNotFound
    └── SpawnFailed
    """

    is_fatal = True


class ProgramNotFound(StartError):
    """There is no such program where it was looked for. `path`: the PATH that was searched, if one was."""

    def __init__(self, message: str, path: str | None = None) -> None:
        super().__init__(message)
        self.path = path


class ProgramNotExecutable(StartError):
    """There is such a file, and we may not run it."""


class FolderNotFound(StartError):
    """The folder to start in is not there."""


class SpawnFailed(StartError):
    """The system refused to start the program."""

    def __init__(self, program: str, error: OSError) -> None:
        super().__init__(f"{program!r} could not be started: {error.strerror or error}")
        self.is_fatal = error.errno is None or error.errno in FATAL_ERRORS


def resolve_program(command: str, *, path: str, cwd: str | None) -> str:
    """Return the absolute path of the program that `command` means.

    With a slash it is a path, relative to `cwd`; else it is searched in `path`, which is the child's own PATH.
    Entries of `path` that are not absolute are passed over: they would let the current folder decide what runs.
    """
    if cwd is not None and not os.path.isdir(cwd):
        raise FolderNotFound(f"the folder {cwd!r} to start {command!r} in does not exist")
    if not command:
        raise ProgramNotFound("the command is empty")
    if "/" in command:
        program = os.path.join(os.path.abspath(cwd or "."), command)
        if not os.path.exists(program):
            raise ProgramNotFound(f"there is no program {program!r}")
        if not _is_program(program):
            raise ProgramNotExecutable(f"{program!r} is not a program that may be run")
        return program
    candidates = [os.path.join(folder, command) for folder in path.split(os.pathsep) if os.path.isabs(folder)]
    for program in candidates:
        if _is_program(program):
            return program
    for program in candidates:
        if os.path.isfile(program):
            raise ProgramNotExecutable(f"{program!r} is not a program that may be run")
    # Not the PATH itself: it is often longer than all else that is said of a server together.
    where = "its PATH" if path else "its PATH, which is empty"
    raise ProgramNotFound(f"there is no program {command!r} in {where}", path)


def child_environment(base: Mapping[str, str], configured: Mapping[str, str], mark: str) -> dict[str, str]:
    """Return the whole environment of a server: little of ours, all that is configured, and our mark.

    The rest of ours stays with us: it holds the keys of other servers.
    """
    inherited = {name: value for name, value in base.items() if _is_inherited(name, value)}
    return {**inherited, **configured, MARK_VARIABLE: mark}


def _is_program(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _is_inherited(name: str, value: str) -> bool:
    if value.startswith("()"):
        # A function that a shell has exported: code, not data.
        return False
    if name.upper() in PROXIES:
        # A proxy's address may hold its password; who wants to hand that on configures it.
        return "@" not in value
    return name in INHERITED or name in MACHINE or name.startswith(MACHINE_PREFIXES)
