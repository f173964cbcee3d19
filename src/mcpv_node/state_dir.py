"""What marks a state folder as one node's: its lock, its supervisor's, its id and its key."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import stat
from pathlib import Path

LOCK_FILE = "node.lock"
SUPERVISOR_LOCK_FILE = "supervisor.lock"
ID_FILE = "node.id"
SEAL_FILE = "seal.key"

# What the cipher of sealed handles takes.
SEAL_KEY_BYTES = 32

# It goes into the environment of children, before a slash.
_NODE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class StateDirBusy(Exception):
    """Another node runs on this folder; the message names it."""


class StateDirUnsafe(Exception):
    """Others could put their own token or key into this folder; the message names it."""


def check_state_dir(state_dir: Path) -> None:
    """Refuse a folder that is another user's, or that everybody may write to: what is in it opens the node.

    Root may use a folder of any user's. Raises StateDirUnsafe, OSError.
    """
    found = state_dir.stat()
    if found.st_uid != os.getuid() and os.getuid() != 0:
        raise StateDirUnsafe(f"{state_dir} belongs to another user")
    if found.st_mode & stat.S_IWOTH:
        raise StateDirUnsafe(f"{state_dir} can be written to by everybody: chmod o-w {state_dir}")


def lock_state_dir(state_dir: Path) -> int:
    """Take the folder for this node until `unlock_state_dir`; raises StateDirBusy, OSError.

    The lock file holds the owner's pid, for the message of whoever comes second.
    """
    return _lock(state_dir, LOCK_FILE, "a node with pid {} already runs on")


def lock_for_supervisor(state_dir: Path) -> int:
    """Become the one who keeps a node running on this folder, until `unlock_state_dir`.

    Raises StateDirBusy, also where a node runs already without one; OSError.
    """
    unlock_state_dir(lock_state_dir(state_dir))
    return _lock(state_dir, SUPERVISOR_LOCK_FILE, "a supervisor with pid {} already keeps a node running on")


def running_supervisor(state_dir: Path) -> int | None:
    """The process that keeps a node running on this folder; None without one. Raises OSError."""
    try:
        fd = os.open(state_dir / SUPERVISOR_LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        # Whoever holds it lives: the lock goes with its process.
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(fd, 32).strip()
        return int(owner) if owner.isdigit() else None
    else:
        return None
    finally:
        os.close(fd)


def _lock(state_dir: Path, name: str, busy: str) -> int:
    fd = os.open(state_dir / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.read(fd, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise StateDirBusy(f"{busy.format(owner)} {state_dir}") from None
    except OSError:
        os.close(fd)
        raise
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def unlock_state_dir(fd: int) -> None:
    """Give the folder back."""
    # Not by closing alone: a process that the host has forked meanwhile holds the lock as long as it lives.
    fcntl.flock(fd, fcntl.LOCK_UN)
    os.close(fd)


def read_or_create_node_id(state_dir: Path) -> str:
    """The node's name in the environment of its children: the same over restarts, so that it knows its own."""
    path = state_dir / ID_FILE
    try:
        known = path.read_text(encoding="ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        known = ""
    if _NODE_ID.fullmatch(known):
        return known
    fresh = secrets.token_hex(8)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.write(fresh + "\n")
    return fresh


def read_or_create_seal_key(state_dir: Path) -> bytes:
    """What the node seals its handles with: the same over restarts, so that a cursor outlives one."""
    path = state_dir / SEAL_FILE
    try:
        known = path.read_bytes()
    except FileNotFoundError:
        known = b""
    if len(known) == SEAL_KEY_BYTES:
        return known
    fresh = secrets.token_bytes(SEAL_KEY_BYTES)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(fresh)
    return fresh
