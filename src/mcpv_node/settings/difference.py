"""What a new configuration changes of the one in effect: what a reload has to do, and what it says it did.

Pure. Server types are compared by what is runnable and by their pool settings, entries by their names: one entry may
move from one server type to another while both go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import msgspec
from msgspec.structs import replace

from .spec_key import ServerGroup, group_servers, pool_settings
from .types import NodeLimits, NodeSettings, ServerName, ServerSpec


class ChangeClass(StrEnum):
    """What a change costs."""

    ADDED = "added"
    REMOVED = "removed"
    REPLACED = "replaced"  # other processes: the old ones drain once the new are there
    POOL = "pool"  # the same processes go on under other settings
    VIEW = "view"  # who sees it, and what of it
    NODE = "node"  # a key of the node itself that takes effect at once
    RESTART = "restart"  # a key of the node itself that takes effect at the node's next start


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that is different: the name of a server, or the path of one of the node's own keys."""

    what: ChangeClass
    name: str


@dataclass(frozen=True, slots=True)
class KeptGroup:
    """A server type that goes on, with the entries it has from now on."""

    before: ServerGroup
    after: ServerGroup

    @property
    def is_edit(self) -> bool:
        """Tell whether somebody changed an entry, rather than that others came to share its server type, or left."""
        before = {spec.name: spec for spec in self.before.specs}
        return any(before.get(spec.name, spec) != spec for spec in self.after.specs)


@dataclass(frozen=True, slots=True)
class Difference:
    """All that is different. Server types without an enabled entry are not among the groups.

    `settings` are what is in effect afterwards: keys that need a restart stay what they are until then.
    """

    settings: NodeSettings
    kept: tuple[KeptGroup, ...] = ()
    added: tuple[ServerGroup, ...] = ()
    removed: tuple[ServerGroup, ...] = ()
    changes: tuple[Change, ...] = ()

    def is_empty(self) -> bool:
        """Tell whether nothing is different."""
        return not self.changes


# Of what is built once, when the node starts.
_AT_START = frozenset(
    {
        "bootstrapConcurrency",
        "bootstrapMode",
        "bootstrapTimeoutSeconds",
        "auth",
        "cluster",
        "journal",
        "limits.bodyBytes",
        "limits.lineBytes",
        "limits.requestsPerMinute",
        "listen",
        "log",
        "stateDir",
        "telemetry",
    }
)


def compare(old: NodeSettings, new: NodeSettings) -> Difference:
    """Say what `new` changes of `old`."""
    kept, added, removed = _match(enabled_groups(old), enabled_groups(new))
    homes = {spec.name: group for group in kept for spec in _wanted(group.before)}
    stays = {spec.name for group in kept for spec in _wanted(group.after) if homes.get(spec.name) is group}
    servers = tuple(_server_changes(old, new, stays))
    changes = (*servers, *_node_changes(old, new))
    return Difference(_as_far_as_possible(old, new), kept, added, removed, changes)


def enabled_groups(settings: NodeSettings) -> list[ServerGroup]:
    """The server types that are to be there, in the order of the configuration."""
    return [group for group in group_servers(settings) if not group.is_disabled]


def _as_far_as_possible(old: NodeSettings, new: NodeSettings) -> NodeSettings:
    fields = msgspec.structs.fields(NodeSettings)
    limits = msgspec.structs.fields(NodeLimits)
    held = {
        one.name: getattr(old.limits, one.name) for one in limits if f"limits.{one.encode_name}" in _AT_START
    }
    return replace(
        new,
        limits=replace(new.limits, **held),
        **{one.name: getattr(old, one.name) for one in fields if one.encode_name in _AT_START},
    )


def _wanted(group: ServerGroup) -> Iterator[ServerSpec]:
    return (spec for spec in group.specs if not spec.disabled)


def _match(
    old: Sequence[ServerGroup], new: Sequence[ServerGroup]
) -> tuple[tuple[KeptGroup, ...], tuple[ServerGroup, ...], tuple[ServerGroup, ...]]:
    """Find for each new server type the old one that it goes on from: the same runnable thing, the nearest settings."""
    left = list(old)
    kept: dict[int, KeptGroup] = {}
    for is_same in (_is_unchanged, _shares_a_name):
        for number, group in enumerate(new):
            if number in kept:
                continue
            before = next((one for one in left if is_same(one, group)), None)
            if before is not None:
                left.remove(before)
                kept[number] = KeptGroup(before, group)
    added = tuple(group for number, group in enumerate(new) if number not in kept)
    return tuple(kept[number] for number in sorted(kept)), added, tuple(left)


def _is_unchanged(old: ServerGroup, new: ServerGroup) -> bool:
    return old.spec_key == new.spec_key and pool_settings(old.specs[0]) == pool_settings(new.specs[0])


def _shares_a_name(old: ServerGroup, new: ServerGroup) -> bool:
    names = {spec.name for spec in _wanted(old)}
    return old.spec_key == new.spec_key and any(spec.name in names for spec in _wanted(new))


def _server_changes(old: NodeSettings, new: NodeSettings, stays: set[ServerName]) -> Iterator[Change]:
    before = {spec.name: spec for spec in old.servers if not spec.disabled}
    after = {spec.name: spec for spec in new.servers if not spec.disabled}
    for name in dict.fromkeys([*before, *after]):
        match before.get(name), after.get(name):
            case None, _:
                yield Change(ChangeClass.ADDED, name)
            case _, None:
                yield Change(ChangeClass.REMOVED, name)
            case one, other if one == other:
                pass
            case _ if name not in stays:
                yield Change(ChangeClass.REPLACED, name)
            case ServerSpec() as one, ServerSpec() as other:
                is_pool = pool_settings(one) != pool_settings(other)
                yield Change(ChangeClass.POOL if is_pool else ChangeClass.VIEW, name)


def _node_changes(old: NodeSettings, new: NodeSettings) -> Iterator[Change]:
    before, after = _node_keys(old), _node_keys(new)
    for key in dict.fromkeys([*before, *after]):
        if before.get(key) != after.get(key):
            yield Change(ChangeClass.RESTART if key in _AT_START else ChangeClass.NODE, key)


def _node_keys(settings: NodeSettings) -> Mapping[str, object]:
    """Every key of the node itself; `limits` by its keys, because only some of them need a restart."""
    keys: dict[str, object] = {}
    for field in msgspec.structs.fields(NodeSettings):
        if field.name == "servers":
            continue
        value = getattr(settings, field.name)
        if isinstance(value, NodeLimits):
            limits = msgspec.structs.fields(NodeLimits)
            keys |= {f"limits.{one.encode_name}": getattr(value, one.name) for one in limits}
        else:
            keys[field.encode_name] = value
    return keys
