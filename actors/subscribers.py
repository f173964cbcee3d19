"""The owner of everybody who wants to hear that a list has changed.

Consumers are data: a session, a stream, a host's actor, each with the view it looks at. A consumer is told only
when that view's ETag is another than the one it was told last; versions in between are skipped, latest wins.

Who listens stands in a `Roster` that outlives every crash, also a second one: nobody else could say who is there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from loguru import logger

from .context import NodeContext
from .index_messages import ConsumerId, Join, Leave, SnapshotChanged
from .kernel import LoopActor, handles
from .snapshot import KINDS


@dataclass(frozen=True, slots=True)
class Consumer:
    """One that wants to hear, and the ETags it knows, in the order of `KINDS`."""

    join: Join
    etags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Roster:
    """Who listens. Made once for a node; read and written by Subscribers alone."""

    consumers: dict[ConsumerId, Consumer] = field(default_factory=dict[ConsumerId, Consumer])


class Subscribers(LoopActor[None]):
    """See the module."""

    def __init__(self, node: NodeContext, roster: Roster) -> None:
        super().__init__()
        self._node = node
        self._consumers = roster.consumers

    def on_start(self, estate: None = None) -> None:
        self._count()
        if self._consumers:
            # The change that was in hand when the last incarnation ended, if there was one.
            for kind in KINDS:
                snapshot = self._node.world.world.snapshot(kind)
                self.note(SnapshotChanged(kind, snapshot.version, snapshot.etag))

    @handles(Join)
    def _on_join(self, message: Join) -> None:
        world = self._node.world.world
        etags = tuple(world.view(kind, message.selector, message.profile).etag for kind in KINDS)
        before = self._consumers.get(message.consumer)
        self._consumers[message.consumer] = Consumer(message, etags)
        self._count()
        if before is None:
            return
        # It looks at another part from now on: what it sees may have changed by that alone.
        for kind, known, etag in zip(KINDS, before.etags, etags, strict=True):
            if known != etag:
                self._tell(message, SnapshotChanged(kind, world.snapshot(kind).version, etag))

    @handles(Leave)
    def _on_leave(self, message: Leave) -> None:
        self._consumers.pop(message.consumer, None)
        self._count()

    @handles(SnapshotChanged)
    def _on_snapshot_changed(self, message: SnapshotChanged) -> None:
        """Read the world of now, not of when the message was sent: the latest wins."""
        world = self._node.world.world
        kind, at = message.kind, KINDS.index(message.kind)
        version = world.snapshot(kind).version
        for key, consumer in list(self._consumers.items()):
            join = consumer.join
            etag = world.view(kind, join.selector, join.profile).etag
            if etag != consumer.etags[at]:
                etags = (*consumer.etags[:at], etag, *consumer.etags[at + 1 :])
                self._consumers[key] = replace(consumer, etags=etags)
                self._tell(join, SnapshotChanged(kind, version, etag))

    def _tell(self, join: Join, news: SnapshotChanged) -> None:
        try:
            join.notify(news)
        except Exception as error:  # noqa: BLE001  (a foreign callback: its failure is its own)
            logger.opt(exception=error).warning("a subscriber could not be told of a change")

    def _count(self) -> None:
        for kind in KINDS:
            self._node.metrics.subscribers(kind).set(len(self._consumers))
