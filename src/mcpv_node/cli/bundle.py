"""What `mcpv-node diagnose` packs: parts that were read and masked, and what could not be read and why.

Nothing enters without going through the mask, and nothing stays in which a known secret is found all the same. A part
that is longer than its bound is cut where it is least worth: at its beginning.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from mcpv_node.client import ClientError, NodeUnreachable
from mcpv_node.secret_names import is_secret_name
from mcpv_node.settings import SettingsError
from mcpv_node.telemetry import Clock, Redactor, rfc3339
from mcpv_node.telemetry.redaction import MASK

# A log of a day; a report of a thousand servers.
MAX_PART = 4 * 1024 * 1024

# What somebody can still send with a mail, before it is compressed.
MAX_BUNDLE = 64 * 1024 * 1024

# Who waits for a bundle waits for this at most, and the answer that is under way (seconds).
READING_BOUND = 60.0

FOLDER = "mcpv-node-diagnose"
MANIFEST = "manifest.json"

# Shorter ones stand in ordinary words by chance.
_SHORTEST = 6


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a bundle."""

    name: str
    data: bytes
    is_cut: bool


class Bundle:
    """See the module. `secrets` are values that nobody may see."""

    def __init__(self, secrets: Iterable[str], clock: Clock) -> None:
        self._secrets = frozenset(one for one in secrets if len(one) >= _SHORTEST)
        self._redact = Redactor(self._secrets)
        self._clock = clock
        self._ends = clock.monotonic() + READING_BOUND
        self._silent: str | None = None  # why the node is asked for nothing more
        self._size = 0
        self.parts: list[Part] = []
        self.left_out: dict[str, str] = {}

    def add_value(self, name: str, read: Callable[[], object]) -> None:
        """Pack a value as JSON."""
        self._add(name, lambda: self._as_json(read()))

    def add_body(self, name: str, read: Callable[[], bytes]) -> None:
        """Pack a JSON text."""
        self._add(name, lambda: self._as_json(json.loads(read())))

    def add_lines(self, name: str, read: Callable[[], Iterable[bytes]]) -> None:
        """Pack lines, each a JSON object or any other text."""
        self._add(name, lambda: "\n".join(map(self._line, read())))

    def add_text(self, name: str, read: Callable[[], bytes]) -> None:
        """Pack a text."""
        self._add(name, lambda: self._redact(read().decode("utf-8", "replace")))

    def leave_out(self, name: str, why: str) -> None:
        """Say why a part is not there."""
        self.left_out[name] = self._redact(why)

    def write(self, path: Path, about: Mapping[str, object]) -> None:
        """Write all of it to a new file that its owner alone may read. Raises OSError."""
        now = self._clock.wall()
        manifest = {
            "at": rfc3339(now),
            **about,
            "parts": [{"name": one.name, "bytes": len(one.data), "cut": one.is_cut} for one in self.parts],
            "leftOut": [{"name": name, "why": why} for name, why in self.left_out.items()],
        }
        files = [Part(MANIFEST, self._as_json(manifest).encode(), is_cut=False), *self.parts]
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for part in files:
                info = tarfile.TarInfo(f"{FOLDER}/{part.name}")
                info.size, info.mode, info.mtime = len(part.data), 0o600, now.timestamp()
                archive.addfile(info, io.BytesIO(part.data))

    def _add(self, name: str, read: Callable[[], str]) -> None:
        try:
            if self._clock.monotonic() > self._ends:
                raise TimeoutError(f"there was no time left: it took {READING_BOUND:.0f} s to come here")
            if self._silent is not None:
                raise NodeUnreachable(self._silent)
            data = read().encode("utf-8", "replace")
        except NodeUnreachable as error:
            # It would have everything else wait as long.
            self._silent = str(error)
            self.leave_out(name, str(error))
        except (ClientError, SettingsError, OSError, ValueError) as error:
            self.leave_out(name, str(error))
        else:
            self._keep(name, data)

    def _keep(self, name: str, data: bytes) -> None:
        if self._holds_a_secret(data):
            self.leave_out(name, "a secret was in it that could not be masked")
            return
        room = min(MAX_PART, MAX_BUNDLE - self._size)
        is_cut = len(data) > room
        if is_cut:
            data = data[len(data) - room :].partition(b"\n")[2]
        self._size += len(data)
        self.parts.append(Part(name, data, is_cut))

    def _holds_a_secret(self, data: bytes) -> bool:
        text = data.decode("utf-8", "replace")
        return any(one in text or json.dumps(one)[1:-1] in text for one in self._secrets)

    def _line(self, line: bytes) -> str:
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        try:
            value = json.loads(text)
        except ValueError:
            return self._redact(text)
        return json.dumps(self._masked(value), ensure_ascii=False)

    def _as_json(self, value: object) -> str:
        return json.dumps(self._masked(value), indent=1, ensure_ascii=False, default=str) + "\n"

    def _masked(self, value: object) -> object:
        """Mask inside a value, before it is written: an escaped secret is not found any more."""
        if isinstance(value, str):
            return self._redact(value)
        if isinstance(value, dict):
            table = cast("dict[str, Any]", value)
            return {
                self._redact(key): MASK
                if isinstance(inner, str) and is_secret_name(key)
                else self._masked(inner)
                for key, inner in table.items()
            }
        if isinstance(value, list | tuple):
            return [self._masked(inner) for inner in cast("list[object]", value)]
        return value
