"""What the indexes and their subscribers hear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NewType, TypeAlias

from mcpv_node.settings import SpecKey

from .callers import EMPTY_PROFILE, ClientProfile
from .instance.messages import Lists, ListsFailed
from .kernel import Request
from .snapshot import Kind
from .world import Selector

ConsumerId = NewType("ConsumerId", int)


@dataclass(frozen=True, slots=True)
class ListsLearnt:
    """The lists of a spec key are known, or could not be had now: why."""

    spec_key: SpecKey
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class AwaitLists(Request[ListsLearnt]):
    """Answered at the next attempt to read them; at once where they are known, unless they shall be `fresh`."""

    spec_key: SpecKey
    fresh: bool = False


@dataclass(frozen=True, slots=True)
class LearningFailed:
    """The first attempt to learn this spec key is over without lists; nobody should wait for them."""

    spec_key: SpecKey
    message: str


@dataclass(frozen=True, slots=True)
class AwaitFirstLists(Request[None]):
    """Answered when the first attempt is over for all of these, whatever came of it; at once if it is."""

    spec_keys: frozenset[SpecKey]


@dataclass(frozen=True, slots=True)
class Unlearnt(Request[tuple[SpecKey, ...]]):
    """Which spec keys of the world's servers have no lists yet."""


@dataclass(frozen=True, slots=True)
class Approve(Request[tuple[str, ...]]):
    """Take the changed definitions of this spec key for good, or those of `names`; answered with what was."""

    spec_key: SpecKey
    names: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class ListsReport:
    """What is known of one kind of one server's lists."""

    learnt: bool
    entries: int = 0
    learnt_at: str | None = None
    source: str | None = None
    stale: bool = False
    failure: str | None = None  # why the last attempt did not succeed
    changed: tuple[str, ...] = ()  # definitions that are not as they were approved
    withheld: tuple[str, ...] = ()  # of those: not shown
    rejected: tuple[str, ...] = ()  # entries that were left out, and why


@dataclass(frozen=True, slots=True)
class DescribeLists(Request[ListsReport]):
    """What is known of this spec key's lists."""

    spec_key: SpecKey


@dataclass(frozen=True, slots=True)
class ServersChanged:
    """The world's servers were replaced: merge again."""


@dataclass(frozen=True, slots=True)
class SnapshotChanged:
    """A view's content changed; read the world for it. Latest wins: versions may be skipped."""

    kind: Kind
    version: int
    etag: str


@dataclass(frozen=True, slots=True)
class Join:
    """Have `notify` called, on the loop's thread, whenever what `selector` sees of a kind has another ETag.

    `notify` must not block or raise. A consumer joined twice has its selector replaced.
    """

    consumer: ConsumerId
    selector: Selector
    notify: Callable[[SnapshotChanged], None]
    profile: ClientProfile = EMPTY_PROFILE


@dataclass(frozen=True, slots=True)
class Leave:
    """The consumer is gone; nothing is sent to it any more."""

    consumer: ConsumerId


IndexMessage: TypeAlias = (
    Lists
    | ListsFailed
    | LearningFailed
    | AwaitLists
    | AwaitFirstLists
    | Unlearnt
    | Approve
    | DescribeLists
    | ServersChanged
)
SubscribersMessage: TypeAlias = Join | Leave | SnapshotChanged
