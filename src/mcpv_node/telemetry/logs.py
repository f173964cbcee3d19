"""Logging: one configured stream for our lines, for events and for the libraries below us.

Nothing happens on import, so a host application keeps the logging it has: only the command line calls
`configure_logging`, and only a process that is the node's alone `lead_logging`. Lines are JSON when nobody looks at them. Bearer tokens and the like are masked on the way
out, whoever logged them.
"""

from __future__ import annotations

import json as jsonlib
import logging
import os
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from loguru import logger

from mcpv_node.secret_names import is_secret_name

from .clock import rfc3339
from .events import ERRORS, WARNINGS, Event
from .redaction import MASK, PLAIN_REDACTOR, Redactor

if TYPE_CHECKING:
    from loguru import Message, Record, RecordException

# A file grows to so many megabytes, then a new one begins; so many former ones are kept: half a gigabyte at most.
ROTATE_MB = 50
KEPT_FILES = 10

# Standard loggers that write a line for every request or every task at their lower levels.
_TALKATIVE = ("asyncio", "httpcore", "httpx", "pykka", "urllib3", "uvicorn.access", "watchfiles")

# uvicorn brings handlers of its own, which would write each line a second time.
_SELF_HANDLING = ("uvicorn", "uvicorn.access", "uvicorn.error")

_LEVEL_NAMES = frozenset({"TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL"})
_STANDARD_LEVELS = {"TRACE": 5, "DEBUG": logging.DEBUG, "WARNING": logging.WARNING, "ERROR": logging.ERROR}

MEGABYTE = 1024 * 1024

_STDOUT, _STDERR = 1, 2

# Where a finished line waits for loguru's template to pick it up.
_LINE = "_line"


def configure_logging(
    level: str,
    *,
    json: bool | None = None,
    file: Path | None = None,
    rotate_mb: int = ROTATE_MB,
    keep: int = KEPT_FILES,
    sink: TextIO | OwnOutput | None = None,
    redact: Redactor = PLAIN_REDACTOR,
) -> None:
    """Send everything from `level` on to `sink` (stderr) and `file`.

    `json` None means: JSON unless `sink` is a terminal. The file always holds JSON; at `rotate_mb` a new one begins,
    and `keep` former ones stay. Replaces whatever loguru and
    the standard library's root logger were set to. Every line goes through `redact`.
    """
    stream = sys.stderr if sink is None else sink
    as_json = not stream.isatty() if json is None else json
    name = level.upper()
    json_line, text_line = partial(_json_line, redact=redact), partial(_text_line, redact=redact)

    logger.remove()
    # Both off: what they add to a traceback are values of variables, and with them secrets.
    logger.add(
        stream,
        level=name,
        format=json_line if as_json else text_line,
        colorize=not as_json and stream.isatty(),
        backtrace=False,
        diagnose=False,
    )
    if file is not None:
        _add_file(file, name, redact, rotate_mb=rotate_mb, keep=keep)
    _intercept_standard_logging(name)


def lead_logging(
    level: str,
    to: Callable[[logging.LogRecord], None],
    *,
    file: Path | None = None,
    rotate_mb: int = ROTATE_MB,
    keep: int = KEPT_FILES,
    redact: Redactor = PLAIN_REDACTOR,
) -> None:
    """Hand everything from `level` on to `to`, as a standard record with finished text, and write it to `file`.

    For a process whose log is somebody else's. `to` is called on whatever thread logs. Replaces what
    `configure_logging` replaces.
    """
    name = level.upper()

    def hand_over(message: Message) -> None:
        record = message.record
        to(
            logging.LogRecord(
                name=record["name"] or __name__,
                level=record["level"].no,
                pathname=record["file"].path,
                lineno=record["line"],
                msg=message.rstrip("\n"),
                args=None,
                exc_info=None,
                func=record["function"],
            )
        )

    logger.remove()
    logger.add(
        hand_over, level=name, format=partial(_bare_line, redact=redact), backtrace=False, diagnose=False
    )
    if file is not None:
        _add_file(file, name, redact, rotate_mb=rotate_mb, keep=keep)
    _intercept_standard_logging(name)


class OwnOutput:
    """The file that this process has as its stderr, begun anew when it is `limit` bytes long; the former is kept as
    `<name>.1`. For a node that writes there for months: nobody else bounds it. Where somebody else has begun it anew, a
    node under its supervisor or a program that rotates logs, this process follows.

    Used under loguru's own lock, from any thread.
    """

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._due = limit

    @classmethod
    def at(cls, path: Path, limit: int) -> OwnOutput | None:
        """The file there, if it is this process's stderr."""
        try:
            named, ours = path.stat(), os.fstat(_STDERR)
        except OSError:
            return None
        return cls(path, limit) if os.path.samestat(named, ours) else None

    def write(self, message: str) -> None:
        data = message.encode("utf-8", "replace")
        ours = os.fstat(_STDERR)
        if not self._is_named(ours):
            self._open()
        elif ours.st_size + len(data) > self._due:
            self._begin_anew()
        os.write(_STDERR, data)

    def flush(self) -> None:
        """There is nothing between us and the file."""

    def isatty(self) -> bool:
        return False

    def _is_named(self, ours: os.stat_result) -> bool:
        try:
            return os.path.samestat(self._path.stat(), ours)
        except OSError:
            return False

    def _begin_anew(self) -> None:
        try:
            os.replace(self._path, f"{self._path}.1")
        except OSError:
            # It goes on where it is; not every line shall try again.
            self._due += self._limit
        else:
            self._open()

    def _open(self) -> None:
        try:
            fresh = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
        except OSError:
            return  # what is open is written on
        self._due = self._limit
        for descriptor in (_STDOUT, _STDERR):
            os.dup2(fresh, descriptor)
        os.close(fresh)


def log_event(event: Event) -> None:
    """Write one event as one line, its fields beside it."""
    fields = {name: value for name, value in event.to_data().items() if name not in ("at", "kind")}
    if event.actor is not None:
        fields["actor"] = event.actor
    logger.bind(event=str(event.kind), **fields).log(_level(event), "{}", _sentence(event))


def to_json(record: Record, redact: Redactor = PLAIN_REDACTOR) -> str:
    """Write a record as one compact JSON object on one line."""
    line: dict[str, object] = {
        "at": rfc3339(record["time"]),
        "level": record["level"].name.lower(),
        "message": record["message"],
    }
    line.update((name, value) for name, value in _extra(record).items() if name not in line)
    if record["exception"] is not None:
        line["error"] = _traceback(record["exception"])

    def masked(value: object) -> str:
        return redact(str(value))

    shown = {
        name: MASK if is_secret_name(name) else masked(value) if isinstance(value, str) else value
        for name, value in line.items()
    }
    return jsonlib.dumps(shown, ensure_ascii=False, separators=(",", ":"), default=masked)


def _json_line(record: Record, redact: Redactor) -> str:
    return _written(record, to_json(record, redact))


def _text_line(record: Record, redact: Redactor) -> str:
    return "<green>{time:HH:mm:ss.SSS}</green> <level>{level: <7}</level> " + _bare_line(record, redact)


def _bare_line(record: Record, redact: Redactor) -> str:
    fields = " ".join(f"{name}={value}" for name, value in _extra(record).items() if name != "event")
    text = "  ".join(part for part in (record["message"], fields) if part)
    if record["exception"] is not None:
        text += "\n" + _traceback(record["exception"])
    return _written(record, redact(text))


def _add_file(file: Path, level: str, redact: Redactor, *, rotate_mb: int, keep: int) -> None:
    logger.add(
        file,
        level=level,
        format=partial(_json_line, redact=redact),
        rotation=rotate_mb * MEGABYTE,
        retention=keep,
        opener=_private,
        backtrace=False,
        diagnose=False,
    )


def _written(record: Record, line: str) -> str:
    """Give the template that writes exactly `line`: loguru would fill in braces of a line given as template."""
    record["extra"][_LINE] = line
    return f"{{extra[{_LINE}]}}\n"


def _extra(record: Record) -> dict[str, object]:
    return {name: value for name, value in record["extra"].items() if name != _LINE}


def _traceback(error: RecordException) -> str:
    return "".join(traceback.format_exception(error.type, error.value, error.traceback)).rstrip()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _level(event: Event) -> str:
    if event.kind in ERRORS:
        return "ERROR"
    return "WARNING" if event.kind in WARNINGS else "INFO"


def _sentence(event: Event) -> str:
    """Say an event in the order one would tell it: kind, whose, from where to where, why."""
    whose = event.instance or event.server or event.client or event.actor
    step = f"{event.from_ or '?'} -> {event.to}" if event.to is not None else None
    parts = (event.kind.replace("_", " "), whose, step, f"({event.reason})" if event.reason else None)
    return " ".join(part for part in parts if part)


def _intercept_standard_logging(level: str) -> None:
    """Lead the standard library's loggers, and so the libraries below us, into ours."""
    logging.basicConfig(handlers=[_ToLoguru()], level=logging.NOTSET, force=True)
    logging.getLogger().setLevel(_STANDARD_LEVELS.get(level, logging.INFO))
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in _SELF_HANDLING:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True


class _ToLoguru(logging.Handler):
    """Writes a standard record as one of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        level: str | int = record.levelname
        if level not in _LEVEL_NAMES:
            level = record.levelno
        logger.bind(logger=record.name).opt(exception=record.exc_info).log(level, "{}", record.getMessage())
