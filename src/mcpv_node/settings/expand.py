"""Variables in the scalar values of a configuration.

`${VAR}`, `${VAR:-default}` (when it is unset or empty), `${file:PATH}` (the file's text without its last line
end; relative to the configuration), `$$` for a dollar. A dollar before anything else is just a dollar. What a
variable holds is never expanded again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# A value is a token or a key, not a document; a device or a huge file must not stop the node from starting.
MAX_FILE_BYTES = 64 * 1024

_REFERENCE = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<body>[^}]*)(?P<end>\})?)")
_VARIABLE = re.compile(r"(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)
_FILE = "file:"


class ExpansionError(ValueError):
    """A value refers to something that is not there. The message names it, and holds no value."""


def references(text: str) -> tuple[str, ...]:
    """Name what `text` refers to: `VAR` for each variable, `file:PATH` for each file, without defaults."""
    bodies = [found["body"] for found in _REFERENCE.finditer(text) if found["body"] and found["end"]]
    names = [body if body.startswith(_FILE) else body.partition(":-")[0] for body in bodies]
    return tuple(dict.fromkeys(names))


@dataclass(frozen=True, slots=True)
class Expander:
    """What variables and files mean for one configuration file."""

    environ: Mapping[str, str]
    folder: Path
    # Every file a value came from, so that whoever watches the configuration can watch them, too.
    files: set[Path] = field(default_factory=set[Path])

    def expand(self, text: str) -> str:
        """Replace every reference in `text`, or raise ExpansionError."""
        if "$" not in text:
            return text
        return _REFERENCE.sub(self._replacement, text)

    def absolute(self, path: str) -> str:
        """Make a path of the configuration absolute: `~` is the home, the rest is relative to the file."""
        home = self.environ.get("HOME")
        if home and (path == "~" or path.startswith("~/")):
            path = home + path[1:]
        return str(self.folder / path)

    def _replacement(self, reference: re.Match[str]) -> str:
        if reference["dollar"]:
            return "$"
        body = reference["body"]
        if reference["end"] is None:
            raise ExpansionError("a ${ has no } (write $$ for a dollar)")
        if body.startswith(_FILE):
            return self._file(body.removeprefix(_FILE))
        return self._variable(body)

    def _variable(self, body: str) -> str:
        variable = _VARIABLE.fullmatch(body)
        if variable is None or "${" in body:
            raise ExpansionError(
                "a ${...} is not ${VAR}, ${VAR:-default} or ${file:PATH} (write $$ for a dollar)"
            )
        name, default = variable["name"], variable["default"]
        value = self.environ.get(name)
        if value or (value is not None and default is None):
            return value
        if default is None:
            raise ExpansionError(f"the variable {name} is not set")
        return default

    def _file(self, path: str) -> str:
        if not path:
            raise ExpansionError("${file:} names no file")
        target = Path(self.absolute(path))
        self.files.add(target)
        try:
            if not target.is_file():
                raise ExpansionError(f"the file {target} is not there, or is no plain file")
            with target.open("rb") as source:
                data = source.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise ExpansionError(f"the file {target} cannot be read: {error.strerror}") from None
        if len(data) > MAX_FILE_BYTES:
            raise ExpansionError(f"the file {target} is longer than {MAX_FILE_BYTES} bytes")
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise ExpansionError(f"the file {target} is not UTF-8") from None
        return text.removesuffix("\n").removesuffix("\r")
