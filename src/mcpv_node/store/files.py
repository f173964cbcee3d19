"""Files that are either the old or the new, never half of one.

For the store's own thread and for commands: these functions block. Everything is private to the user (0600, folders 0700):
catalogs and tokens are nobody else's business.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

FILE_MODE = 0o600
FOLDER_MODE = 0o700

# What a writer that was killed leaves behind carries this ending, and is never taken for a file of ours.
PARTIAL_SUFFIX = ".partial"


def make_folder(folder: Path) -> None:
    """Make `folder`, and what is above it, if it is not there."""
    folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)


def write_atomically(path: Path, data: bytes, *, mode: int = FILE_MODE) -> None:
    """Replace `path` by `data`; when this returns, it is on the disk, whatever happens to the machine."""
    make_folder(path.parent)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=PARTIAL_SUFFIX)
    renamed = False
    try:
        with os.fdopen(descriptor, "wb") as target:
            os.fchmod(target.fileno(), mode)
            target.write(data)
            target.flush()
            os.fsync(target.fileno())
        Path(partial).rename(path)
        renamed = True
    finally:
        if not renamed:
            with suppress(FileNotFoundError):
                Path(partial).unlink()
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Put the names in `folder` on the disk: a rename alone may not survive a loss of power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_if_there(path: Path) -> bytes | None:
    """Read a file; None when there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def set_aside(path: Path, ending: str) -> Path:
    """Rename a file that cannot be used, so that nothing is lost; give its new name."""
    number = 1
    target = path.with_name(f"{path.name}.{ending}-{number}")
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.{ending}-{number}")
    path.rename(target)
    sync_folder(path.parent)
    return target


def remove_partials(folder: Path) -> None:
    """Remove what killed writers left. Only the owner of `folder` may call this, and not while it writes."""
    for partial in folder.glob(f".*{PARTIAL_SUFFIX}"):
        with suppress(FileNotFoundError):
            partial.unlink()
