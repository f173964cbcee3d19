"""A node as a job of launchd: launchd.plist(5).

launchd has no readiness and no watchdog, and starts again whatever ends otherwise than with 0: also a node whose
configuration is wrong, every `ThrottleInterval` seconds, until it is mended.
"""

from __future__ import annotations

import plistlib
from pathlib import Path
from typing import Any

from .definition import NAME, OPEN_FILES, Definition, Scope

LABEL = NAME
FILE_NAME = f"{LABEL}.plist"

SYSTEM_FOLDER = Path("/Library/LaunchDaemons")
SYSTEM_STATE = Path("/usr/local/var") / NAME

# Between two starts; launchd's own least.
THROTTLE_SECONDS = 10

LOG_NAME = "node.log"


def plist_path(scope: Scope, home: Path) -> Path:
    """Where the job's file belongs."""
    folder = SYSTEM_FOLDER if scope is Scope.SYSTEM else home / "Library" / "LaunchAgents"
    return folder / FILE_NAME


def domain(scope: Scope, uid: int) -> str:
    """Where launchd runs it."""
    return "system" if scope is Scope.SYSTEM else f"gui/{uid}"


def write_plist(definition: Definition) -> str:
    """The text of the job's file."""
    log = str(definition.state_dir / LOG_NAME)
    job: dict[str, Any] = {
        "Label": LABEL,
        "ProgramArguments": list(definition.command),
        "RunAtLoad": True,
        # A node that ends with 0 was asked to.
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": THROTTLE_SECONDS,
        "ExitTimeOut": definition.stop_seconds,
        # The default slows down disk and processor, and the servers would inherit that.
        "ProcessType": "Interactive",
        "SoftResourceLimits": {"NumberOfFiles": OPEN_FILES},
        "Umask": 0o077,
        "StandardOutPath": log,
        "StandardErrorPath": log,
    }
    if definition.path is not None:
        job["EnvironmentVariables"] = {"PATH": definition.path}
    if definition.scope is Scope.SYSTEM and definition.run_as is not None:
        job["UserName"] = definition.run_as
    return plistlib.dumps(job).decode()
