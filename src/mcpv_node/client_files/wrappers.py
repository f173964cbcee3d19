"""The program behind `npx` and `uvx`, where it is certain which one that is.

A wrapper is a process of its own beside every instance (npx: 60 MB and more), and asks a package index first. It is
left out only where what it would run is installed already, in the very version it would take:

* `npx -y PACKAGE@VERSION` with that exact version installed globally by the same npm;
* `uvx PACKAGE` with the package installed as a tool of uv, which uvx then takes, too; with a version, that exact one.

Anything else (no version, options beside `-y`, a cache that may be emptied) stays as it is. Reads the disk, runs
nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from configparser import ConfigParser
from configparser import Error as ConfigParserError
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, cast

_NPM_SPEC = re.compile(r"(?P<name>(?:@[\w.~-]+/)?[A-Za-z0-9_~][\w.~-]*)(?:@(?P<version>[^@]+))?")
_UV_SPEC = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*)(?:(?:==|@)(?P<version>[^@=]+))?")
_EXACT = re.compile(r"\d+\.\d+[\w.+-]*")
_QUIET = frozenset({"-q", "--quiet"})
_NPX_FLAGS = _QUIET | {"-y", "--yes"}


@dataclass(frozen=True, slots=True)
class Unwrapped:
    """What is to be run, and what to say about it."""

    command: str
    args: tuple[str, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Installed:
    """Where installed packages are on this machine."""

    environ: Mapping[str, str]

    def npm_program(self, package: str, version: str) -> Path | None:
        """Give the program of a globally installed npm package of exactly this version."""
        for prefix in self._npm_prefixes():
            manifest = _read_json(prefix / "lib" / "node_modules" / package / "package.json")
            if manifest.get("version") != version:
                continue
            program = prefix / "bin" / (_npm_bin(package, manifest) or "/")
            if program.is_file() and os.access(program, os.X_OK):
                return program
        return None

    def uv_program(self, package: str, version: str | None, program: str) -> Path | None:
        """Give a program of an installed tool of uv, of this version where one is asked for."""
        name = re.sub(r"[-_.]+", "-", package).lower()
        tool = self._uv_tools() / name
        if not (tool / "uv-receipt.toml").is_file():
            return None
        stem = name.replace("-", "_")
        for info in tool.glob(f"lib/python3*/site-packages/{stem}-*.dist-info"):
            has_version = info.name.removesuffix(".dist-info").removeprefix(f"{stem}-")
            path = tool / "bin" / program
            if version in (None, has_version) and program in _scripts(info) and os.access(path, os.X_OK):
                return path
        return None

    def _npm_prefixes(self) -> list[Path]:
        named = self.environ.get("NPM_CONFIG_PREFIX") or self.environ.get("npm_config_prefix")
        if named:
            return [Path(named)]
        npx = shutil.which("npx", path=self.environ.get("PATH", ""))
        if npx is None:
            return []
        # PREFIX/lib/node_modules/npm/bin/npx-cli.js: npm installs beside itself unless it is told otherwise.
        real = Path(npx).resolve()
        is_npm = real.parts[-5:-1] == ("lib", "node_modules", "npm", "bin")
        if not is_npm or _says_prefix(Path(self.environ.get("HOME", "/nonexistent")) / ".npmrc"):
            return []
        return [real.parents[4]]

    def _uv_tools(self) -> Path:
        named = self.environ.get("UV_TOOL_DIR")
        if named:
            return Path(named)
        home = Path(self.environ.get("HOME", "/nonexistent"))
        data = self.environ.get("XDG_DATA_HOME", "")
        return (Path(data) if data.startswith("/") else home / ".local/share") / "uv" / "tools"


def unwrap(command: str, args: Sequence[str], installed: Installed) -> Unwrapped | None:
    """Say what a wrapper runs, or that it stays and why; None where there is no wrapper."""
    name = PurePath(command).name
    if name == "npx":
        return _unwrap_npx(command, args, installed)
    if name == "uvx":
        return _unwrap_uvx(command, args, args, installed)
    if name == "uv" and tuple(args[:2]) == ("tool", "run"):
        return _unwrap_uvx(command, args, args[2:], installed)
    return None


def _unwrap_npx(command: str, args: Sequence[str], installed: Installed) -> Unwrapped:
    words = _after_flags(args, _NPX_FLAGS)
    spec = _NPM_SPEC.fullmatch(words[0]) if words else None
    if spec is None:
        return _stays(command, args, "npx", "its options say more than a package")
    package, version = spec["name"], spec["version"]
    if version is None or not _EXACT.fullmatch(version):
        return _stays(command, args, "npx", f"{package} has no exact version, so what runs may change")
    program = installed.npm_program(package, version)
    if program is None:
        return _stays(command, args, "npx", f"`npm install -g {package}@{version}` would save its process")
    return _found(program, words[1:], "npx", f"{package}@{version}")


def _unwrap_uvx(command: str, args: Sequence[str], after: Sequence[str], installed: Installed) -> Unwrapped:
    words = _after_flags(after, _QUIET)
    source = words[0] if words else ""
    if source == "--from" and len(words) > 2:
        source, words = words[1], words[2:]
    spec = _UV_SPEC.fullmatch(source)
    if spec is None:
        return _stays(command, args, "uvx", "its options say more than a package")
    package, version = spec["name"], spec["version"]
    if version is not None and not _EXACT.fullmatch(version):
        return _stays(command, args, "uvx", f"{package} has no exact version, so what runs may change")
    program = installed.uv_program(package, version, package if words[0] == source else words[0])
    if program is None:
        pinned = f"{package}=={version}" if version else package
        return _stays(command, args, "uvx", f"`uv tool install {pinned}` would save its process")
    return _found(program, words[1:], "uvx", source)


def _after_flags(args: Sequence[str], flags: frozenset[str]) -> list[str]:
    words = list(args)
    while words and words[0] in flags:
        del words[0]
    return words


def _found(program: Path, args: Sequence[str], wrapper: str, spec: str) -> Unwrapped:
    note = f"runs {program} instead of {wrapper}: {spec} is installed, and an instance is one process less"
    return Unwrapped(str(program).replace("$", "$$"), tuple(args), note)


def _stays(command: str, args: Sequence[str], wrapper: str, why: str) -> Unwrapped:
    return Unwrapped(command, tuple(args), f"{wrapper} stays: {why}")


def _npm_bin(package: str, manifest: Mapping[str, Any]) -> str | None:
    """Give the name that npx would run: the only one, or the one named like the package."""
    own = package.rpartition("/")[2]
    programs = manifest.get("bin")
    if isinstance(programs, str):
        return own
    names = list(cast("dict[str, object]", programs)) if isinstance(programs, dict) else []
    if len(names) == 1:
        return names[0]
    return own if own in names else None


def _scripts(info: Path) -> set[str]:
    parser = ConfigParser(delimiters=("=",), interpolation=None)
    # Names of programs keep their case.
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    try:
        parser.read_string((info / "entry_points.txt").read_text(encoding="utf-8"))
        return set(parser["console_scripts"])
    except (OSError, ValueError, KeyError, ConfigParserError):
        return set()


def _says_prefix(npmrc: Path) -> bool:
    try:
        return re.search(r"^\s*prefix\s*=", npmrc.read_text(encoding="utf-8"), re.MULTILINE) is not None
    except (OSError, ValueError):
        return False


def _read_json(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return cast("Mapping[str, Any]", data) if isinstance(data, dict) else {}
