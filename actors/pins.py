"""Tool definitions are pinned when they are first seen: a server that changes one later has to be noticed.

A changed description can tell a model to do something that nobody has agreed to. Pure; digests are hex.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from mcpv_node.protocol import Listed


@dataclass(frozen=True, slots=True)
class PinFinding:
    """The pins from now on, which definitions are not as pinned, and which of those nobody was told of yet."""

    pins: Mapping[str, str]
    changed: frozenset[str]
    news: tuple[str, ...]


def compare_with_pins(
    listed: Iterable[Listed], pins: Mapping[str, str], before: Iterable[Listed], *, keep: bool
) -> PinFinding:
    """Pin what is new. What has changed since it was pinned is found; `keep`: until somebody approves of it.

    The pin of a tool that is not listed any more stays, so that it cannot come back as another one.
    """
    digests = {one.name: digest_of(one) for one in listed}
    earlier = {one.name: digest_of(one) for one in before}
    changed = frozenset(name for name, digest in digests.items() if pins.get(name, digest) != digest)
    news = tuple(sorted(name for name in changed if earlier.get(name) != digests[name]))
    if not keep:
        return PinFinding(MappingProxyType({**pins, **digests}), frozenset(), news)
    return PinFinding(MappingProxyType({**digests, **pins}), changed, news)


def pins_after_approval(
    listed: Iterable[Listed], pins: Mapping[str, str], names: frozenset[str]
) -> Mapping[str, str]:
    """The pins once somebody has agreed to how `names` are now."""
    fresh = {one.name: digest_of(one) for one in listed if one.name in names}
    return MappingProxyType({**pins, **fresh})


def digest_of(tool: Listed) -> str:
    """What a pin holds of a definition."""
    return hashlib.sha256(tool.definition).hexdigest()
