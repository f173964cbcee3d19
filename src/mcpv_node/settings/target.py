"""The files of a configuration as texts that are about to be changed.

What was read is remembered: a file that somebody else has changed meanwhile is not written over.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .editing import entry_names
from .loader import PROFILES_FOLDER, RUNTIME_FILE


@dataclass(frozen=True, slots=True)
class Target:
    """The configuration that is changed."""

    # A file, or a folder with runtime.yaml and profiles.
    path: Path
    # The text of each file as it is, runtime.yaml first; it may still have to be made.
    texts: dict[Path, str]

    @property
    def main(self) -> Path:
        """The file that new entries go into."""
        return next(iter(self.texts))

    def holding(self, name: str) -> Path:
        """Give the file with the entry `name`, or the main one; raises NotEditable."""
        for file, text in self.texts.items():
            if name in entry_names(text):
                return file
        return self.main


def read_target(path: Path) -> Target:
    """Read the files of a configuration that is there; raises OSError, UnicodeDecodeError."""
    files = (
        [path / RUNTIME_FILE, *sorted((path / PROFILES_FOLDER).glob("*.yaml"))] if path.is_dir() else [path]
    )
    return Target(path, {file: file.read_text(encoding="utf-8") for file in files})
