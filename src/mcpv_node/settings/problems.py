"""What is wrong with a configuration, said all at once.

Each problem names the file, the line, the key and what is wrong with it. No message holds a value of `env`,
of `headers` or of a variable: what may be a secret is named, not shown.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

# Enough to recognise a value by; more would drown the message.
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, and where."""

    file: Path
    # 0: the file as a whole.
    line: int
    key_path: str
    message: str
    # For programs, where there is one: what was written, what may be, and which of these was probably meant.
    found: str | None = None
    allowed: tuple[str, ...] = ()
    nearest: str | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else str(self.file)
        return ": ".join(part for part in (place, self.key_path, self.message) if part)


class SettingsError(Exception):
    """The configuration is refused; `problems` are all reasons, in the order of the files."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__(problems)
        self.problems = problems

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)


def quoted(text: str) -> str:
    """Show `text` in a message: in quotes, on one line, not too long."""
    shown = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
    return json.dumps(shown, ensure_ascii=False)
