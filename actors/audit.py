"""The owner of the audit file: it may block, so it has a thread of its own.

One message for each call, each order of an operator's and each refusal that is to be written, told when it is over; nobody waits for it. A disk that refuses is reported and the node
goes on: what could not be written is counted, and said when writing works again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

from loguru import logger

from mcpv_node.store import AuditFile, AuditLine
from mcpv_node.telemetry import rfc3339

from .callers import Caller
from .kernel import ExitReason, ThreadActor, handles


@dataclass(frozen=True, slots=True)
class Audited:
    """A request that is over, or was turned away. `digest` is what `digest_of` says of its arguments; None: it had none."""

    at: datetime  # when it came
    caller: Caller
    server: str
    method: str
    name: str
    digest: bytes | None
    outcome: str
    seconds: float
    times: int = 1  # of so many alike this is the only line


AuditMessage: TypeAlias = Audited


def digest_of(arguments: bytes | memoryview) -> bytes:
    """The SHA-256 of arguments as they were written."""
    return hashlib.sha256(arguments).digest()


class Audit(ThreadActor[None]):
    """See the module."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._file = AuditFile(path)
        self._unwritten = 0

    def on_start(self, estate: None = None) -> None:
        # A file that cannot be written must be known before anything happens that it should say.
        self._file.append(())

    def on_exit(self, reason: ExitReason) -> None:
        self._file.close()

    @handles(Audited)
    def _on_audited(self, message: Audited) -> None:
        line = AuditLine(
            at=rfc3339(message.at),
            principal=message.caller.principal,
            client=message.caller.client,
            server=message.server,
            method=message.method,
            name=message.name,
            arguments=None if message.digest is None else f"sha256:{message.digest.hex()}",
            outcome=message.outcome,
            seconds=round(message.seconds, 6),
            times=message.times,
        )
        try:
            self._file.append((line,))
        except OSError as error:
            if not self._unwritten:
                logger.error("{}: the audit cannot be written: {}", self._path, error.strerror)
            self._unwritten += 1
            self._file.close()
            return
        if self._unwritten:
            logger.error("{}: {} lines of the audit were not written", self._path, self._unwritten)
            self._unwritten = 0
