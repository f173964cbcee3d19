"""Variables as clients write them, in the way we write them.

A variable that is not set becomes `${NAME:-}`: an entry must not keep a whole configuration from being loaded.
Whoever translates hears of it and leaves the entry disabled until somebody has set it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from .clients import Variables

_REFERENCE = re.compile(r"\$(?:\{(?P<body>[^}]*)\}|(?P<bare>[A-Za-z_][A-Za-z0-9_]*))?")
_SHELL = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_]+")

_PROJECT_VARIABLE = "CLAUDE_PROJECT_DIR"


@dataclass(slots=True)
class VariableReader:
    """Translates the values of one entry, and notes what they need."""

    variables: Variables
    # Which variables are set where the node will run, as far as that is known here.
    known: Collection[str]
    folder: Path | None = None
    missing: list[str] = field(default_factory=list[str])
    # Inputs a client asks its user for, as the variables that stand for them.
    asked: list[str] = field(default_factory=list[str])
    unknown: list[str] = field(default_factory=list[str])

    def text(self, value: str) -> str:
        """Give a value in our spelling."""
        return _REFERENCE.sub(self._reference, value)

    def variable(self, name: str) -> str:
        """Give a reference to a variable."""
        if name in self.known:
            return f"${{{name}}}"
        if name not in self.missing:
            self.missing.append(name)
        return f"${{{name}:-}}"

    def _reference(self, found: re.Match[str]) -> str:
        body, bare = found["body"], found["bare"]
        if bare is not None:
            return self.variable(bare) if self.variables == "dollar" else "$$" + found[0][1:]
        if body is None or self.variables == "none":
            return "$$" + found[0][1:]
        translated = self._named(body)
        if translated is not None:
            return translated
        self.unknown.append(found[0])
        return "$$" + found[0][1:]

    def _named(self, body: str) -> str | None:
        shell = _SHELL.fullmatch(body)
        if shell is not None and shell["name"] == _PROJECT_VARIABLE and self.folder is not None:
            return _literal(str(self.folder))
        if shell is not None and self.variables in ("shell", "dollar", "any") and body not in _PLACES:
            if shell["default"] is not None:
                return f"${{{body}}}"
            return self.variable(shell["name"])
        if self.variables not in ("env", "any"):
            return None
        kind, _, name = body.partition(":")
        if kind == "env" and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            return self.variable(name)
        if kind == "input" and name:
            variable = _NOT_IN_NAMES.sub("_", name).upper().lstrip("0123456789_")
            self.asked.append(variable)
            return self.variable(variable)
        return self._place(body)

    def _place(self, body: str) -> str | None:
        if body == "userHome":
            return "${HOME}"
        if body in ("pathSeparator", "/"):
            return os.sep
        if self.folder is None:
            return None
        return {
            "workspaceFolder": _literal(str(self.folder)),
            "workspaceFolderBasename": _literal(self.folder.name),
        }.get(body)


# What looks like a variable of the shell and is a place.
_PLACES = frozenset({"userHome", "workspaceFolder", "workspaceFolderBasename", "pathSeparator", "/"})


def _literal(text: str) -> str:
    return text.replace("$", "$$")
