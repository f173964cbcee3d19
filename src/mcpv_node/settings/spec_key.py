"""Which entries are the same thing: the fingerprint of what is runnable, and the settings of its pool.

Entries with the same spec key and equal pool settings share one server type; names, tags and exposure are views
over it. The fields are length-prefixed, so no two different specs read the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass

import msgspec

from .types import NodeSettings, ServerName, ServerSpec, SpecKey

_RUNNABLE = frozenset(
    {"transport", "command", "args", "env", "cwd", "url", "headers", "tls", "proxy", "oauth"}
)
_VIEW = frozenset({"name", "tags", "disabled", "expose_tools"})

_POOL = tuple(name for name in ServerSpec.__struct_fields__ if name not in _RUNNABLE | _VIEW)

# Marks that keep a cwd that was not given apart from every cwd that was.
_ABSENT, _PRESENT = "0", "1"


@dataclass(frozen=True, slots=True)
class ServerGroup:
    """The entries that share one server type, in the order of the configuration."""

    spec_key: SpecKey
    specs: tuple[ServerSpec, ...]

    @property
    def name(self) -> ServerName:
        """The first entry's name; metrics and logs carry it."""
        return self.specs[0].name

    @property
    def is_disabled(self) -> bool:
        """Tell whether no entry of it is wanted."""
        return all(spec.disabled for spec in self.specs)


def spec_key(spec: ServerSpec) -> SpecKey:
    """Fingerprint the runnable part of `spec`, and nothing else of it."""
    digest = hashlib.sha256()
    if spec.is_stdio:
        cwd = (_ABSENT,) if spec.cwd is None else (_PRESENT, spec.cwd)
        parts: tuple[tuple[str, ...], ...] = (
            (spec.transport, spec.command),
            spec.args,
            _sorted_pairs(spec.env),
            cwd,
        )
    else:
        headers = {name.lower(): value for name, value in spec.headers.items()}
        parts = ((spec.transport, spec.url), _sorted_pairs(headers), *_ways(spec))
    for part in parts:
        digest.update(_prefixed(part))
    return SpecKey(digest.hexdigest())


def pool_settings(spec: ServerSpec) -> Hashable:
    """Give all that must be equal, beside the spec key, for entries to share a server type."""
    return tuple((name, getattr(spec, name)) for name in _POOL)


def group_servers(settings: NodeSettings) -> tuple[ServerGroup, ...]:
    """Put entries that share a server type together, in the order of the configuration."""
    groups: dict[tuple[SpecKey, Hashable], list[ServerSpec]] = {}
    for spec in settings.servers:
        groups.setdefault((spec_key(spec), pool_settings(spec)), []).append(spec)
    return tuple(ServerGroup(key, tuple(specs)) for (key, _), specs in groups.items())


def _ways(spec: ServerSpec) -> Iterator[tuple[str, ...]]:
    """Give how a server is reached, where that is said: a key that needs neither stays what it was before they existed."""
    for name, table in (("tls", spec.tls), ("oauth", spec.oauth)):
        if table is not None:
            given = msgspec.to_builtins(table)
            yield (name, *(f"{key}={value}" for key, value in sorted(given.items())))
    if spec.proxy is not None:
        yield ("proxy", spec.proxy)


def _sorted_pairs(pairs: dict[str, str]) -> tuple[str, ...]:
    return tuple(text for pair in sorted(pairs.items()) for text in pair)


def _prefixed(texts: Iterable[str]) -> bytes:
    encoded = [text.encode("utf-8", "surrogateescape") for text in texts]
    return _length(len(encoded)) + b"".join(_length(len(one)) + one for one in encoded)


def _length(number: int) -> bytes:
    return number.to_bytes(8, "big")
