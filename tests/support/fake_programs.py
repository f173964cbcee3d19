"""A stand-in for a program that tests must not run: it writes down how it was called, and ends as it is told."""

from __future__ import annotations

import os
from pathlib import Path


class FakeProgram:
    """`name` on a PATH of its own; `FAIL` in its folder makes it fail with these words."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder / f"bin-{name}"
        self.folder.mkdir()
        self._calls = self.folder / "calls"
        self._words = self.folder / "FAIL"
        script = self.folder / name
        script.write_text(
            f'#!/bin/sh\necho "$*" >>{self._calls}\n[ -f {self._words} ] || exit 0\ncat {self._words}\nexit 1\n'
        )
        script.chmod(0o755)

    @property
    def path(self) -> str:
        """A PATH on which it comes first."""
        return f"{self.folder}:{os.environ['PATH']}"

    def calls(self) -> list[str]:
        """The arguments of each call."""
        return self._calls.read_text().splitlines() if self._calls.exists() else []

    def fail(self, words: str | None) -> None:
        """Fail from now on, or with None no more."""
        if words is None:
            self._words.unlink()
        else:
            self._words.write_text(words)
