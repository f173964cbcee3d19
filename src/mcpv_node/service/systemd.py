"""A node as a unit of systemd: systemd.service(5), systemd.exec(5).

What each line of the unit is for, and what it keeps servers from doing, is told in docs/service.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from .definition import DESCRIPTION, NAME, OPEN_FILES, START_SECONDS, WATCHDOG_SECONDS, Definition, Scope

UNIT_NAME = f"{NAME}.service"

# Exit codes that no second start mends: usage and configuration.
NOT_MENDED = (2, 3)

SYSTEM_FOLDER = Path("/etc/systemd/system")

# Where the state of the system's service is: systemd makes it, for whichever user the service runs as.
SYSTEM_STATE = Path("/var/lib") / NAME

# Lines that hold in a user's manager too, which may not make namespaces on every system.
_HARDENING = (
    # A server gets no rights by a setuid program; sudo in a server does not work.
    ("NoNewPrivileges", "yes"),
    ("LockPersonality", "yes"),
    ("RestrictRealtime", "yes"),
    ("RestrictSUIDSGID", "yes"),
    # What the node and its servers write is their user's alone.
    ("UMask", "0077"),
)

_SYSTEM_HARDENING = (
    ("PrivateTmp", "yes"),
    ("ProtectKernelTunables", "yes"),
    ("ProtectKernelModules", "yes"),
    ("ProtectKernelLogs", "yes"),
    ("ProtectControlGroups", "yes"),
    ("ProtectClock", "yes"),
    ("ProtectHostname", "yes"),
    # AF_NETLINK: Node.js asks it for the machine's addresses.
    ("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6 AF_NETLINK"),
    ("CapabilityBoundingSet", ""),
)


def unit_path(scope: Scope, config_home: Path) -> Path:
    """Where the unit belongs; `config_home` is the user's folder of configurations."""
    folder = SYSTEM_FOLDER if scope is Scope.SYSTEM else config_home / "systemd" / "user"
    return folder / UNIT_NAME


def write_unit(definition: Definition) -> str:
    """The text of the unit."""
    sections = [
        ("Unit", _unit(definition)),
        ("Service", _service(definition)),
        ("Install", _install(definition)),
    ]
    return "\n".join(_section(name, lines) for name, lines in sections)


def quote_word(word: str, *, is_command: bool = False) -> str:
    """Write one word so that systemd reads it as it is: quotes, escapes, `%` and, in a command, `$` mean something.

    Raises ValueError for what no unit can hold.
    """
    _check_one_line(word)
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    if is_command:
        escaped = escaped.replace("$", "$$")
    plain = (
        escaped == word
        and word
        and not any(character.isspace() or character in "'\";#" for character in word)
    )
    return word if plain else f'"{escaped}"'


def _check_one_line(text: str) -> None:
    if "\n" in text or "\0" in text:
        raise ValueError(f"{text!r} cannot stand in a unit: it has a line break or a NUL")


_Lines = Sequence[tuple[str, str]]


def _unit(definition: Definition) -> _Lines:
    lines = [("Description", DESCRIPTION)]
    if definition.scope is Scope.SYSTEM:
        # Servers behind a URL are reached from the first moment; a user's manager does not know this target.
        lines += [("Wants", "network-online.target"), ("After", "network-online.target")]
    # A node that fails five times within five minutes is left to somebody who reads the log.
    return [*lines, ("StartLimitIntervalSec", "300"), ("StartLimitBurst", "5")]


def _service(definition: Definition) -> _Lines:
    return [
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("ExecStart", " ".join(quote_word(word, is_command=True) for word in definition.command)),
        ("ExecReload", "kill -HUP $MAINPID"),
        ("Restart", "on-failure"),
        ("RestartSec", "1"),
        ("RestartPreventExitStatus", " ".join(map(str, NOT_MENDED))),
        ("WatchdogSec", str(WATCHDOG_SECONDS)),
        ("TimeoutStartSec", str(START_SECONDS)),
        ("TimeoutStopSec", str(definition.stop_seconds)),
        # The node alone is asked to stop, and stops its servers in order; what is left then is killed.
        ("KillMode", "mixed"),
        # One server that takes all the memory is ended alone, and started again by the node.
        ("OOMPolicy", "continue"),
        ("LimitNOFILE", str(OPEN_FILES)),
        *_environment(definition),
        *_identity(definition),
        *_HARDENING,
        *(_SYSTEM_HARDENING if definition.scope is Scope.SYSTEM else ()),
    ]


def _environment(definition: Definition) -> _Lines:
    lines: list[tuple[str, str]] = []
    if definition.path is not None:
        lines.append(("Environment", quote_word(f"PATH={definition.path}")))
    if definition.environment_file is not None:
        # The hyphen: it need not be there. The rest of the line is the path: no quotes, and no escapes but this one.
        path = str(definition.environment_file)
        _check_one_line(path)
        lines.append(("EnvironmentFile", "-" + path.replace("%", "%%")))
    return lines


def _identity(definition: Definition) -> _Lines:
    """Whom a system's service runs as, and what it may write."""
    if definition.scope is Scope.USER:
        return []
    if definition.run_as is not None:
        # A person's servers work on their files: only the system itself is closed to them.
        lines = [("User", definition.run_as), ("ProtectSystem", "full")]
    else:
        # A user that exists while the service runs and owns nothing else. It has no home, and npx wants one.
        home = quote_word(f"HOME={SYSTEM_STATE}")
        lines = [("DynamicUser", "yes"), ("Environment", home), ("ProtectHome", "read-only")]
    if definition.state_dir == SYSTEM_STATE:
        lines += [("StateDirectory", NAME), ("StateDirectoryMode", "0700")]
    return lines


def _install(definition: Definition) -> _Lines:
    target = "multi-user.target" if definition.scope is Scope.SYSTEM else "default.target"
    return [("WantedBy", target)]


def _section(name: str, lines: Iterable[tuple[str, str]]) -> str:
    return "\n".join([f"[{name}]", *(f"{key}={value}" for key, value in lines), ""])
