"""What a service manager is to know of a node, whichever service manager it is.

Nothing in it is a secret: definitions are readable by everybody. What a configuration wants from the environment comes
from a file of its owner's, which the definition only names.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

# The service's name: `mcpv-node.service`, and the label of launchd's job.
NAME = "mcpv-node"

DESCRIPTION = "mcpv-node: one place that owns the MCP servers"

# A node that is not well for so long (seconds) is ended and started again. It says so at half of it; before that every
# actor has had 5 s to answer, so one slow disk passes.
WATCHDOG_SECONDS = 30

# What a killed node left may have to be reaped before the next is ready; more is a fault. As long as `--detach` waits,
# and a margin.
START_SECONDS = 90

# So many descriptors let 10,000 sessions in, and every server has three.
OPEN_FILES = 65536


class Kind(StrEnum):
    """Which service manager."""

    SYSTEMD = "systemd"
    LAUNCHD = "launchd"


class Scope(StrEnum):
    """Whose service: the machine's, started when it boots, or one user's."""

    SYSTEM = "system"
    USER = "user"


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """A node as a service."""

    scope: Scope
    # The program and its first words, up to and without `start`.
    program: tuple[str, ...]
    # How long a stop may take before what is left is killed, in whole seconds.
    stop_seconds: int
    state_dir: Path
    config: Path | None = None
    http: str | None = None
    log_level: str | None = None
    # The user a system's service runs as; None: one that the service manager makes up.
    run_as: str | None = None
    # Where programs such as npx are found; None: what the service manager says.
    path: str | None = None
    # The owner's variables, for the configuration: not there is good, too.
    environment_file: Path | None = None

    @property
    def command(self) -> tuple[str, ...]:
        """What runs the node."""
        words = [*self.program, "start", "--state-dir", str(self.state_dir)]
        words += ["--config", str(self.config)] if self.config is not None else []
        words += ["--http", self.http] if self.http is not None else []
        words += ["--log-level", self.log_level] if self.log_level is not None else []
        return tuple(words)


class Unsupported(Exception):
    """This system has no service manager that we know."""


def service_kind(platform: str) -> Kind:
    """Say which service manager a platform has, as `sys.platform` names it; raises Unsupported."""
    if platform.startswith("linux"):
        return Kind.SYSTEMD
    if platform == "darwin":
        return Kind.LAUNCHD
    raise Unsupported(f"no service manager of {platform} is known here")


def search_path(environ: Mapping[str, str]) -> str | None:
    """The folders where the installing shell finds its programs, as a service may use them.

    Service managers know few: without it npx and uvx of a version manager are not found. What is relative would mean
    another folder there, and is left out.
    """
    folders = environ.get("PATH", "").split(os.pathsep)
    kept = dict.fromkeys(folder for folder in folders if folder.startswith("/") and "\n" not in folder)
    return os.pathsep.join(kept) or None
