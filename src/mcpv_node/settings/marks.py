"""What tells one version of a file from another, without reading it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

# When it was written, how long it is and which file it is; None: there is none.
Mark: TypeAlias = tuple[int, int, int] | None
Marks: TypeAlias = tuple[tuple[Path, Mark], ...]


def file_marks(paths: Iterable[Path]) -> Marks:
    """The marks of these files and folders as they are now; a folder's changes when something in it comes or goes."""
    return tuple((path, _mark(path)) for path in paths)


def _mark(path: Path) -> Mark:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size, status.st_ino)
