"""Host applications as processes of their own, and what is left of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .processes import process_census, wait_until

# What a host of ours may not do: leave a file or a socket open.
STRICT = ("-W", "error::ResourceWarning")

# Nor what asyncio and the interpreter see in their development mode.
STRICTEST = ("-X", "dev", *STRICT)


@contextmanager
def host(
    code: str, folder: Path, *arguments: str, options: Sequence[str] = STRICTEST
) -> Iterator[subprocess.Popen[str]]:
    """Run a host application in `folder`, its home and where its temporary files are: `code`, or the file of that name."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("MCPV_", "XDG_"))}
    program = [code] if code.endswith(".py") else ["-c", code]
    process = subprocess.Popen(
        [sys.executable, *options, *program, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**environ, "HOME": str(folder), "TMPDIR": str(folder), "LOGURU_LEVEL": "ERROR"},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def complaints(err: str) -> str:
    """Return what a host has written to stderr, but for what asyncio's debug mode says of a slow machine."""
    return "".join(line for line in err.splitlines(keepends=True) if not line.startswith("Executing <"))


def processes_of(folder: Path) -> list[int]:
    """Return the living processes whose home is `folder`: what a host has forked, its node's guard and servers."""
    home = f"HOME={folder}".encode()
    return [pid for pid in process_census() if home in _environ(pid)]


def nothing_is_left(folder: Path) -> bool:
    """Wait until no process of the host is left."""
    return wait_until(lambda: not processes_of(folder))


def _environ(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
