"""The owner of everybody who wants to hear that a list has changed.

Consumers are data: a session, a stream, a host's actor, each with the view it looks at. A consumer is told only
when that view's ETag is another than the one it was told last; versions in between are skipped, latest wins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from loguru import logger

from .context import NodeContext
from .index_messages import ConsumerId, Join, Leave, SnapshotChanged
from .kernel import LoopActor, handles
from .world import Selector


@dataclass(frozen=True, slots=True)
class Consumer:
    """One that wants to hear, and the ETag it knows."""

    selector: Selector
    etag: str
    notify: Callable[[SnapshotChanged], None]


class Subscribers(LoopActor[Mapping[ConsumerId, Consumer]]):
    """See the module. The consumers are the estate: a restart loses none."""

    def __init__(self, node: NodeContext) -> None:
        super().__init__()
        self._node = node

    def on_start(self, estate: Mapping[ConsumerId, Consumer] | None = None) -> None:
        self._keep(dict(estate or {}))
        if estate:
            # The change that was in hand when the last incarnation ended, if there was one.
            tools = self._node.world.world.tools
            self.note(SnapshotChanged("tools", tools.version, tools.etag))

    @property
    def _consumers(self) -> Mapping[ConsumerId, Consumer]:
        return self.estate or {}

    @handles(Join)
    def _on_join(self, message: Join) -> None:
        etag = self._node.world.world.tool_view(message.selector).etag
        self._keep({**self._consumers, message.consumer: Consumer(message.selector, etag, message.notify)})

    @handles(Leave)
    def _on_leave(self, message: Leave) -> None:
        self._keep({key: one for key, one in self._consumers.items() if key != message.consumer})

    @handles(SnapshotChanged)
    def _on_snapshot_changed(self, message: SnapshotChanged) -> None:
        """Read the world of now, not of when the message was sent: the latest wins."""
        world = self._node.world.world
        told: dict[ConsumerId, Consumer] = {}
        for key, consumer in self._consumers.items():
            etag = world.tool_view(consumer.selector).etag
            if etag != consumer.etag:
                told[key] = replace(consumer, etag=etag)
                self._tell(consumer, SnapshotChanged(message.kind, world.tools.version, etag))
        if told:
            self._keep({**self._consumers, **told})

    def _tell(self, consumer: Consumer, news: SnapshotChanged) -> None:
        try:
            consumer.notify(news)
        except Exception as error:  # noqa: BLE001  (a foreign callback: its failure is its own)
            logger.opt(exception=error).warning("a subscriber could not be told of a change")

    def _keep(self, consumers: dict[ConsumerId, Consumer]) -> None:
        self.estate = MappingProxyType(consumers)
        self._node.metrics.subscribers("tools").set(len(consumers))
