"""What everything inside a node may use of it: handed to actors and doors by the composition root."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mcpv_node.settings import NodeSettings
from mcpv_node.telemetry import PLAIN_REDACTOR, Clock, Event, EventKind, Redactor
from mcpv_node.telemetry.metrics import Metrics

from .kernel import ActorSystem, Handle
from .snapshot import Kind
from .world import WorldCell

if TYPE_CHECKING:
    from mcpv_node.telemetry.tracing import Tracing

    from .audit import AuditMessage
    from .clients import ClientsMessage
    from .events import EventsMessage
    from .herald import HeraldMessage
    from .index_messages import IndexMessage, SubscribersMessage
    from .watch_messages import WatchesMessage


@dataclass(frozen=True, slots=True)
class NodeContext:
    """The node's shared things, each with its owner: handles are stable for the life of the node."""

    node_id: str  # stable over restarts: our children carry it as their mark
    boot: str  # this life of the node
    system: ActorSystem
    clock: Clock
    state_dir: Path
    environ: Mapping[str, str]  # the environment the node was started with
    world: WorldCell
    metrics: Metrics
    events: Handle[EventsMessage]
    indexes: Mapping[Kind, Handle[IndexMessage]]
    subscribers: Handle[SubscribersMessage]
    clients: Handle[ClientsMessage]
    watches: Handle[WatchesMessage]
    config_path: Path | None = None
    redact: Redactor = (
        PLAIN_REDACTOR  # for every text that leaves the node and that a server may have written
    )
    audit: Handle[AuditMessage] | None = None  # None: no audit is kept
    herald: Handle[HeraldMessage] | None = None  # None: no service manager listens
    tracing: Tracing | None = None  # None: no traces are made

    @property
    def settings(self) -> NodeSettings:
        """The settings in effect now: a reload replaces them together with the servers."""
        return self.world.world.settings

    def tell_event(self, kind: EventKind, **fields: str | None) -> None:
        """Publish one transition, stamped with the wall clock's time."""
        if (reason := fields.get("reason")) is not None:
            fields["reason"] = self.redact(reason)
        self.events.tell(Event(kind=kind, at=self.clock.wall(), **fields))

    def tell_herald(self, message: HeraldMessage) -> None:
        """Have a service manager told, where one listens."""
        if self.herald is not None:
            self.herald.tell(message)
