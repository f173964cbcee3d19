"""The levels of log messages, and which of them somebody wants to hear."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

# RFC 5424, section 6.2.1, the least severe first.
LOG_LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")

_RANK: Final = {level: rank for rank, level in enumerate(LOG_LEVELS)}


def is_log_level(level: str) -> bool:
    """Whether the specification knows the level."""
    return level in _RANK


def admits(level: str, minimum: str | None) -> bool:
    """Whether a message of this level is for who asked for `minimum` and above; None asked for nothing.

    A level nobody knows passes: its reader may know it.
    """
    if minimum is None:
        return False
    return _RANK.get(level, len(LOG_LEVELS)) >= _RANK[minimum]


def lowest_level(minimums: Iterable[str | None]) -> str | None:
    """What to ask of a server that speaks to all of them; None when nobody wants to hear anything."""
    return min((minimum for minimum in minimums if minimum is not None), key=_RANK.__getitem__, default=None)
