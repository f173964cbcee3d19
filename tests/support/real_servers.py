"""Real MCP servers from the package indexes, in exact versions, installed once into `.cache/servers`.

Each function returns the argv that runs one server on stdio. Where a server cannot be installed, a CI fails;
elsewhere (no npm, no network) the test is skipped and says why. `npm_folder` and `pypi_folder` do the same for
whatever else a test needs of the indexes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SERVERS = ROOT / ".cache" / "servers"

EVERYTHING = "@modelcontextprotocol/server-everything@2026.8.31"
FILESYSTEM = "@modelcontextprotocol/server-filesystem@2026.8.31"
MEMORY = "@modelcontextprotocol/server-memory@2026.8.31"
TIME = "mcp-server-time==2026.10.19"
GIT = "mcp-server-git==2026.10.19"

# A cold cache on a slow network; a warm one needs a few seconds.
INSTALL_TIMEOUT = 300.0


class InstallError(Exception):
    """A real server could not be installed."""


def everything_argv() -> list[str]:
    """Return the argv of the reference server that has every feature (npm)."""
    return [_npm_program("mcp-server-everything", EVERYTHING), "stdio"]


def filesystem_argv(*folders: Path) -> list[str]:
    """Return the argv of the file server (npm), which may touch only these folders."""
    return [_npm_program("mcp-server-filesystem", FILESYSTEM), *map(str, folders)]


def memory_argv() -> list[str]:
    """Return the argv of the server that remembers a graph (npm); `MEMORY_FILE_PATH` says where."""
    return [_npm_program("mcp-server-memory", MEMORY)]


def git_argv(repository: Path) -> list[str]:
    """Return the argv of the server over one git repository (PyPI)."""
    folder = pypi_folder("pypi-git", GIT)
    return [str(folder / "bin" / "mcp-server-git"), "--repository", str(repository)]


def time_argv() -> list[str]:
    """Return the argv of the clock server (PyPI)."""
    folder = pypi_folder("pypi", TIME)
    return [str(folder / "bin" / "mcp-server-time"), "--local-timezone", "UTC"]


def npm_folder(name: str, spec: str) -> Path:
    """Return a folder whose `node_modules` has this package and what it needs."""
    return _installed(name, spec, install_from_npm)


def pypi_folder(name: str, spec: str) -> Path:
    """Return a virtual environment of its own that has this package."""
    return _installed(name, spec, install_from_pypi)


def install(folder: Path, spec: str, installer: Callable[[Path, str], None]) -> Path:
    """Install `spec` into `folder` unless it already is there, complete; of two at once, one does it."""
    with _locked(folder.with_suffix(".lock")):
        stamp = folder / ".installed"
        if not stamp.exists() or stamp.read_text() != _stamp(spec):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            installer(folder, spec)
            stamp.write_text(_stamp(spec))
    return folder


def _npm_program(name: str, spec: str) -> str:
    folder = npm_folder("npm-" + name, spec)
    return str(folder / "node_modules" / ".bin" / name)


def _installed(name: str, spec: str, installer: Callable[[Path, str], None]) -> Path:
    try:
        return install(SERVERS / name, spec, installer)
    except InstallError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"not in a CI, and {error}")


def install_from_npm(folder: Path, spec: str) -> None:
    """Install one package of npm, and what it needs, below `folder`; raises InstallError."""
    npm = shutil.which("npm")
    if npm is None:
        raise InstallError(f"{spec} needs npm, which is not on PATH")
    _call(
        [
            npm,
            "install",
            "--no-audit",
            "--no-fund",
            "--loglevel=error",
            "--fetch-retries=1",
            "--prefix",
            str(folder),
            spec,
        ],
        spec,
    )


def install_from_pypi(folder: Path, spec: str) -> None:
    """Make `folder` a virtual environment with one package of PyPI; raises InstallError."""
    # Its own environment: the server's pins are not ours.
    _call([sys.executable, "-m", "venv", str(folder)], spec)
    _call([str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-input", spec], spec)


def _call(argv: list[str], spec: str) -> None:
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=INSTALL_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise InstallError(f"installing {spec} took longer than {INSTALL_TIMEOUT:.0f} s") from None
    if done.returncode != 0:
        raise InstallError(
            f"{spec} cannot be installed: {' '.join(argv)} ended {done.returncode}:\n{done.stdout}"
        )


def _stamp(spec: str) -> str:
    # An environment cannot be moved, and it dies with the interpreter it was made with.
    return f"{spec}\n{sys.executable}\n{ROOT}\n"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        # Bounded by the other's own INSTALL_TIMEOUT, and by the timeout of the test.
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
