"""The audit file: a line of JSON for each request, for its owner alone, and bounded by rotation.

Only for the audit's own thread: everything here blocks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from .files import FILE_MODE, make_folder

# A file grows to this size, then a new one begins: some 200,000 lines.
AUDIT_BYTES = 50 * 1024 * 1024

# Beside the one that is written: half a gigabyte at most.
KEPT_AUDITS = 10


class AuditLine(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What one line says. The arguments are there as their digest, results not at all.

    Of a request to the doors themselves (an order, or one that was turned away) `method` and `name` are those of HTTP,
    and `client` is the address it came from.
    """

    at: str  # when the request came, RFC 3339
    principal: str
    client: str
    server: str
    method: str
    name: str  # of the tool, prompt or resource, as the client named it
    arguments: str | None  # sha256:<hex> of the bytes as the client wrote them
    # ok, error (the server's own), cancelled, or a reason of the node's; unauthorized, forbidden, misdirected or
    # too_many_requests at the doors; http_<status> of an order
    outcome: str
    seconds: float
    times: int = 1  # refusals that came too fast for a line each


class AuditFile:
    """See the module. `path` is the file that is written; `path.1` is the newest of those that were."""

    def __init__(self, path: Path, *, limit: int = AUDIT_BYTES, kept: int = KEPT_AUDITS) -> None:
        self._path = path
        self._limit = limit
        self._kept = kept
        self._fd: int | None = None
        self._size = 0

    def append(self, lines: Iterable[AuditLine]) -> None:
        """Write lines; raises OSError. A line is whole or not there, also when several processes write."""
        data = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        if self._fd is not None and self._size + len(data) > self._limit:
            self.close()
            self._rotate()
        fd = self._open() if self._fd is None else self._fd
        self._size += len(data)
        while data:
            data = data[os.write(fd, data) :]

    def close(self) -> None:
        """Let go of the file; the next line opens it again."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def _open(self) -> int:
        make_folder(self._path.parent)
        # Through no link: whoever could put one there would choose which of our files is written to.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = self._fd = os.open(self._path, flags, FILE_MODE)
        os.fchmod(fd, FILE_MODE)
        self._size = os.fstat(fd).st_size
        return fd

    def _rotate(self) -> None:
        for number in range(self._kept, 0, -1):
            former = self._path if number == 1 else self._numbered(number - 1)
            if former.exists():
                former.replace(self._numbered(number))

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
