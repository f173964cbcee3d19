"""Init: the supervisor of the server types.

Each server type has a group of its own: the supervisor of its instances, then the ServerType. Groups stand
alone: one that gives up is kept as a suspended record and costs the others nothing. Always-on servers are
warmed when Init starts, a few at a time, so that a hundred of them do not start at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from mcpv_node.actors.kernel import Handle, handles
from mcpv_node.actors.server_type import ServerState, ServerTypeMessage, Settled, Warm

from .dynamic import DynamicSupervisor
from .events import EventSink, log_event
from .messages import StartChild
from .specs import ChildSpec, DynamicSpec, GivingUp

# So many always-on servers are started side by side.
WARM_CONCURRENCY = 4


@dataclass(frozen=True, slots=True)
class ServerGroupSpec:
    """One server type's group, and what Init has to know of it."""

    child: ChildSpec
    server: Handle[ServerTypeMessage]
    always_on: bool
    warm_timeout: float  # seconds after which the next one has its turn, whatever became of this one


@dataclass(frozen=True, slots=True)
class _Warmed:
    """One that was told to warm has settled, or has taken too long."""

    outcome: ServerState | Exception


class Init(DynamicSupervisor):
    """See the module."""

    def __init__(self, groups: Sequence[ServerGroupSpec], *, sink: EventSink = log_event) -> None:
        super().__init__(DynamicSpec(giving_up=GivingUp.RECORD), sink=sink)
        self._server_groups = tuple(groups)
        self._cold: deque[ServerGroupSpec] = deque()

    def on_start(self, estate: None = None) -> None:
        for group in self._server_groups:
            self.note(StartChild(group.child))
        self._cold.extend(group for group in self._server_groups if group.always_on)
        for _ in range(min(WARM_CONCURRENCY, len(self._cold))):
            self._warm_next()

    def _warm_next(self) -> None:
        if self._cold:
            group = self._cold.popleft()
            group.server.tell(Warm())
            self.run(group.server.ask(Settled(), group.warm_timeout), _Warmed)

    @handles(_Warmed)
    def _on_warmed(self, _message: _Warmed) -> None:
        self._warm_next()
