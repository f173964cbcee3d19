"""What the tool index and its subscribers hear."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NewType, TypeAlias

from mcpv_node.settings import SpecKey

from .instance.messages import ListsFailed, ToolLists
from .kernel import Request
from .world import Selector

ConsumerId = NewType("ConsumerId", int)
Kind: TypeAlias = Literal["tools"]


@dataclass(frozen=True, slots=True)
class ListsLearnt:
    """The lists of a spec key are known, or could not be had now: why."""

    spec_key: SpecKey
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class AwaitLists(Request[ListsLearnt]):
    """Answered at once where the lists of this spec key are known, else at the next attempt to read them.

    `fresh`: at the next attempt in any case.
    """

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
    """Have `notify` called, on the loop's thread, whenever what `selector` sees has another ETag.

    `notify` must not block or raise. A consumer joined twice has its selector replaced.
    """

    consumer: ConsumerId
    selector: Selector
    notify: Callable[[SnapshotChanged], None]


@dataclass(frozen=True, slots=True)
class Leave:
    """The consumer is gone; nothing is sent to it any more."""

    consumer: ConsumerId


IndexMessage: TypeAlias = (
    ToolLists | ListsFailed | LearningFailed | AwaitLists | AwaitFirstLists | Unlearnt | ServersChanged
)
SubscribersMessage: TypeAlias = Join | Leave | SnapshotChanged
