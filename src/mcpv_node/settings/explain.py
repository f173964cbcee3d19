"""Where each setting in effect comes from: a default, a line of a file, a variable or a file it came through.

Pure over what was loaded. What may be a secret stays hidden: whatever `describe` hides, what came through
`${file:}`, and what came through a variable that sounds like a secret.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from mcpv_node.secret_names import is_secret_name

from .describe import HIDDEN, describe
from .loader import Loaded
from .reading import Origin, join

Kind = Literal["default", "file", "implied"]

# Computed, not configured.
_NOT_KEYS = frozenset({"specKey"})


@dataclass(frozen=True, slots=True)
class Explained:
    """One setting in effect."""

    key: str
    # As JSON; hidden where it may be a secret.
    value: object
    kind: Kind
    # Of a value that was written: where, and through what. Of an implied one: where its reason was written.
    file: Path | None = None
    line: int | None = None
    through: tuple[str, ...] = ()
    # The key that an implied value follows from.
    because_of: str | None = None


def explain(loaded: Loaded) -> tuple[Explained, ...]:
    """Give every setting in effect with its origin, entries as `servers.NAME`, in the order of the reference."""
    settings = describe(loaded.settings)
    servers, profiles = settings.pop("servers"), settings.pop("profiles")
    found = list(_walk(settings, "", loaded.origins))
    for server in servers:
        path = f"servers.{server['name']}"
        entry = {key: value for key, value in server.items() if key not in _NOT_KEYS}
        found += [_implied(one, path, server, loaded.origins) for one in _walk(entry, path, loaded.origins)]
    for profile in profiles:
        found += _walk(profile, f"profiles.{profile['name']}", loaded.origins)
    return tuple(found)


def _walk(value: object, path: str, origins: Mapping[str, Origin]) -> Iterator[Explained]:
    """Give the leaves; a list is one leaf, and so is a table without keys."""
    table = _as_table(value)
    if table:
        for key, inner in table.items():
            yield from _walk(inner, join(path, key), origins)
        return
    origin = origins.get(path)
    if origin is None:
        yield Explained(path, value, "default")
        return
    through = tuple(dict.fromkeys([*origin.through, *_through_items(path, origins)]))
    shown = HIDDEN if any(map(_is_secret, through)) else value
    yield Explained(path, shown, "file", origin.file, origin.line, through)


def _as_table(value: object) -> dict[str, object]:
    return cast("dict[str, object]", value) if isinstance(value, dict) else {}


def _through_items(path: str, origins: Mapping[str, Origin]) -> Iterator[str]:
    for where, origin in origins.items():
        if where.startswith(f"{path}["):
            yield from origin.through


def _is_secret(reference: str) -> bool:
    return reference.startswith("file:") or is_secret_name(reference)


def _implied(
    one: Explained, path: str, server: Mapping[str, Any], origins: Mapping[str, Origin]
) -> Explained:
    """Say which other key a value follows from that was not written itself."""
    if one.kind != "default":
        return one
    reasons = {
        f"{path}.activationMode": "defaultActivationMode",
        f"{path}.transport": f"{path}.url",
        f"{path}.maxInstances": f"{path}.strategy" if server["strategy"] == "singleton" else "",
    }
    reason = reasons.get(one.key, "")
    origin = origins.get(reason)
    if origin is None:
        return one
    return Explained(one.key, one.value, "implied", origin.file, origin.line, (), reason)
