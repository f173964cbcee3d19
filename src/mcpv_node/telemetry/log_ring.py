"""The last lines of the log, for whoever asks the node for them instead of its files.

Lines come from any thread and are kept on the loop's; what a line says has been masked before it is kept.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loguru import logger

from .logs import to_json
from .redaction import Redactor

if TYPE_CHECKING:
    from loguru import Message, Record

# Minutes of a node that tells of every call in debug, days of a quiet one; at 300 bytes each it is 600 KB.
RING_LINES = 2048

# What others in a host application write is the host's.
_OURS = "mcpv_node"


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line: `severity` as loguru counts it (info is 20), `data` the JSON object that the log's file would have."""

    number: int
    severity: int
    server: str | None
    data: bytes


class LogRing:
    """See the module. Made and used on the loop's thread; `attach` begins, `detach` ends it."""

    def __init__(self, redact: Redactor) -> None:
        self._redact = redact
        self._lines: deque[LogLine] = deque(maxlen=RING_LINES)
        self._followers: set[Callable[[LogLine], None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sink: int | None = None
        self._last = 0

    @property
    def newest(self) -> int:
        """The number of the newest line, 0 before the first."""
        return self._last

    def attach(self, level: str) -> None:
        """Keep every line from `level` on; called on the loop that is to keep them."""
        self._loop = asyncio.get_running_loop()
        self._sink = logger.add(
            self._write,
            level=level.upper(),
            format="",
            filter=_is_ours,
            backtrace=False,
            diagnose=False,
            catch=True,
        )

    def detach(self) -> None:
        """Keep nothing more."""
        if self._sink is not None:
            with suppress(ValueError):  # whoever set up logging anew has removed it already
                logger.remove(self._sink)
            self._sink = None

    def after(self, number: int) -> tuple[LogLine, ...] | None:
        """The lines behind this one; None where it is not known any more, or never was."""
        oldest = self._last - len(self._lines)
        if not oldest <= number <= self._last:
            return None
        return tuple(line for line in self._lines if line.number > number)

    def all(self) -> tuple[LogLine, ...]:
        """The lines that are kept, oldest first."""
        return tuple(self._lines)

    def follow(self, hear: Callable[[LogLine], None]) -> None:
        """Have `hear` called for every line to come; it must not block, raise or log."""
        self._followers.add(hear)

    def unfollow(self, hear: Callable[[LogLine], None]) -> None:
        self._followers.discard(hear)

    def _write(self, message: Message) -> None:
        """On whatever thread logs."""
        record = message.record
        data = to_json(record, self._redact).encode("utf-8", "replace")
        server = record["extra"].get("server")
        severity = record["level"].no
        assert self._loop is not None
        with suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(
                self._keep, severity, None if server is None else str(server), data
            )

    def _keep(self, severity: int, server: str | None, data: bytes) -> None:
        self._last += 1
        line = LogLine(self._last, severity, server, data)
        self._lines.append(line)
        for hear in tuple(self._followers):
            hear(line)


def _is_ours(record: Record) -> bool:
    return (record["name"] or "").startswith(_OURS)
