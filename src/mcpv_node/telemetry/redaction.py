"""Secrets masked in text that leaves the node: logs, events, reasons, what servers wrote to stderr.

Two nets: the values that the settings name as secrets, wherever they stand, and what looks like a credential whoever
wrote it. Results of servers pass untouched: they are between a client and its server.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from mcpv_node.secret_names import ENDINGS

MASK = "***"

# Written together, and as two words.
_ENDINGS = "|".join((*ENDINGS, "api[_-]key"))
_CREDENTIALS = (
    # The scheme stays, so that one sees what kind of credential it was.
    re.compile(
        r"""(?i)(?P<kept>authorization["']?\s*[:=]\s*["']?(?:(?:bearer|basic|digest|token)\s+)?)[^\s"',;}\]]+"""
    ),
    re.compile(r"(?i)(?P<kept>\bbearer\s+)[A-Za-z0-9._~+/=-]{8,}"),
    re.compile(
        rf"""(?ix)(?P<kept>(?:\b|[_-])(?:access_|refresh_|client_)?
        (?:{_ENDINGS})["']?\s*[=:]\s*["']?)[^\s"',;&}}\]]+"""
    ),
    re.compile(r"(?P<kept>://)[^/\s:@]+:[^/\s@]+(?=@)"),
)


def redact(text: str) -> str:
    """Mask what looks like a credential."""
    # Every one of them has a colon, an equals sign or its scheme before it, and most texts have none of these.
    if ":" not in text and "=" not in text and "bearer" not in text.lower():
        return text
    for credential in _CREDENTIALS:
        text = credential.sub(rf"\g<kept>{MASK}", text)
    return text


class Redactor:
    """Masks these values and those it learns later, and then what looks like a credential.

    It forgets none: what ran with an old secret may still write it.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values: tuple[str, ...] = ()
        self.learn(values)

    def learn(self, values: Iterable[str]) -> None:
        """Mask these, too; in one assignment, for logs are written on other threads."""
        known = {*self._values, *values} - {""}
        # The longest first: of a value inside another, the other would stand half masked.
        self._values = tuple(sorted(known, key=lambda value: (-len(value), value)))

    def __call__(self, text: str) -> str:
        # Thousands of values: three times as fast as one pattern of all of them.
        for value in self._values:
            if value in text:
                text = text.replace(value, MASK)
        return redact(text)


# Knows no value.
PLAIN_REDACTOR = Redactor()
