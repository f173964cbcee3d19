"""The owner of everybody who wants to hear that a list has changed.

Consumers are data: a session, a stream, a host's actor, each with the view it looks at. A consumer is told only
when that view's ETag is another than the one it was told last; versions in between are skipped, latest wins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

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


class Subscribers(LoopActor[dict[ConsumerId, Consumer]]):
    """See the module. The consumers are the estate: a restart loses none.

    The table itself is, as that of `Sessions`: a copy for each of ten thousand who come and go would take the node
    seconds of its stop. Each handler changes it entry by entry, and an entry is whole at any moment.
    """

    def __init__(self, node: NodeContext) -> None:
        super().__init__()
        self._node = node
        self._consumers: dict[ConsumerId, Consumer] = {}

    def on_start(self, estate: dict[ConsumerId, Consumer] | None = None) -> None:
        if estate is not None:
            self._consumers = estate
        self.estate = self._consumers
        self._count()
        if estate:
            # The change that was in hand when the last incarnation ended, if there was one.
            for kind in KINDS:
                snapshot = self._node.world.world.snapshot(kind)
                self.note(SnapshotChanged(kind, snapshot.version, snapshot.etag))

    @handles(Join)
    def _on_join(self, message: Join) -> None:
        world = self._node.world.world
        etags = tuple(world.view(kind, message.selector, message.profile).etag for kind in KINDS)
        self._consumers[message.consumer] = Consumer(message, etags)
        self._count()

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
                self._tell(join, SnapshotChanged(kind, version, etag))
                self._consumers[key] = replace(consumer, etags=etags)

    def _tell(self, join: Join, news: SnapshotChanged) -> None:
        try:
            join.notify(news)
        except Exception as error:  # noqa: BLE001  (a foreign callback: its failure is its own)
            logger.opt(exception=error).warning("a subscriber could not be told of a change")

    def _count(self) -> None:
        for kind in KINDS:
            self._node.metrics.subscribers(kind).set(len(self._consumers))
