"""Where the configuration is, and where the state is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .problems import Problem, SettingsError
from .types import NodeSettings

_FOLDER = "mcpv-node"
_FILE = "runtime.yaml"

PACKAGED_CONFIG = Path(__file__).resolve().parent.parent / "defaults" / _FILE


def find_config(explicit: Path | None, environ: Mapping[str, str]) -> Path:
    """Say which configuration to run: the one asked for, `$MCPV_CONFIG`, the user's, else the packaged one.

    One that was named must be there; the user's own need not.
    """
    if explicit is not None:
        return _existing(explicit, "--config")
    named = environ.get("MCPV_CONFIG")
    if named:
        return _existing(Path(named), "$MCPV_CONFIG")
    own = user_config(environ)
    return own if own is not None and own.is_file() else PACKAGED_CONFIG


def user_config(environ: Mapping[str, str]) -> Path | None:
    """Say where the user's own configuration is, or would be; None without a home."""
    base = _xdg(environ, "XDG_CONFIG_HOME", ".config")
    return None if base is None else base / _FOLDER / _FILE


def state_dir(explicit: Path | None, environ: Mapping[str, str], settings: NodeSettings | None) -> Path:
    """Say where the state is: as asked for, `$MCPV_STATE_DIR`, `stateDir`, else the user's state folder."""
    if explicit is not None:
        return explicit.absolute()
    named = environ.get("MCPV_STATE_DIR")
    if named:
        return Path(named).absolute()
    if settings is not None and settings.state_dir is not None:
        return Path(settings.state_dir).absolute()
    base = _xdg(environ, "XDG_STATE_HOME", ".local/state")
    if base is None:
        base = Path.home() / ".local/state"
    return base / _FOLDER


def _existing(path: Path, named_by: str) -> Path:
    if not path.exists():
        raise SettingsError((Problem(path, 0, "", f"there is no such file ({named_by} names it)"),))
    return path.absolute()


def _xdg(environ: Mapping[str, str], variable: str, below_home: str) -> Path | None:
    """Give a base folder; the specification says that a relative one is to be ignored."""
    named = environ.get(variable, "")
    if named.startswith("/"):
        return Path(named)
    home = environ.get("HOME", "")
    return Path(home) / below_home if home else None
