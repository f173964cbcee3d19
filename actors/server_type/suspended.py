"""What stands in a server type's place when its group has given up: it refuses with the reason, until a retry.

It owns nothing. Whoever asks for a retry is answered by the server type that comes in its place.
"""

from __future__ import annotations

from collections.abc import Callable

from mcpv_node.actors.context import NodeContext
from mcpv_node.actors.kernel import Crashed, Deferred, ExitReason, LoopActor, Normal, answers, handles
from mcpv_node.actors.leases import Acquire, Refused, Release
from mcpv_node.protocol import CallFailure, Reason
from mcpv_node.settings import ServerGroup, ServerName

from .messages import (
    Activation,
    CallCounts,
    CallEnded,
    ClientGone,
    ClientSaid,
    DrainNow,
    OperatorStart,
    OperatorStop,
    Reconfigure,
    Retry,
    ServerState,
    Settled,
    Warm,
    Why,
    WhyReport,
)


class SuspendedServer(LoopActor[None]):
    """See the module. `group` says what the server type would be made of now; `reason`, why its group ended."""

    def __init__(self, node: NodeContext, group: Callable[[], ServerGroup], reason: ExitReason) -> None:
        super().__init__()
        self._node = node
        self._group = group
        why = reason.root_cause if isinstance(reason, Crashed) else str(reason)
        self._reason = f"its group gave up: {why}; `server retry` tries again"
        self._since = node.clock.wall()
        self._refused = 0

    def on_start(self, estate: None = None) -> None:
        """An estate here is the server type's, which has taken it to its end."""

    @property
    def _name(self) -> ServerName:
        return self._group().name

    @answers(Acquire)
    def _on_acquire(self, _request: Acquire) -> Refused:
        self._refused += 1
        self._node.metrics.acquire_refusals_total(self._name, Reason.SUSPENDED.value).inc()
        message = f"{self._name}: {self._reason}"
        failure = CallFailure(reason=Reason.SUSPENDED, message=message, server=self._name, executed="no")
        return Refused(failure)

    @answers(Why)
    def _on_why(self, _request: Why) -> WhyReport:
        group = self._group()
        return WhyReport(
            name=group.name,
            spec_key=group.spec_key,
            state=ServerState.SUSPENDED,
            reason=self._reason,
            since=self._since,
            next_try_at=None,
            desired=0,
            waiting=0,
            start_cause=None,
            last_exit=None,
            stderr=(),
            starts=0,
            restarts=0,
            calls=CallCounts(refused=self._refused),
            shared_with=tuple(ServerName(spec.name) for spec in group.specs[1:]),
        )

    @answers(Retry)
    def _on_retry(self, _request: Retry) -> Deferred[ServerState]:
        return self._make_room()

    @answers(OperatorStart)
    def _on_operator_start(self, _request: OperatorStart) -> Deferred[ServerState]:
        return self._make_room()

    @handles(Reconfigure)
    def _on_reconfigure(self, message: Reconfigure) -> None:
        if message.is_edit:  # which lifts a suspension
            self.exit(Normal())

    def _make_room(self) -> Deferred[ServerState]:
        """End; what was promised here is asked again of the server type, by the handle it came through."""
        self.exit(Normal())
        deferred: Deferred[ServerState] = self.defer()
        return deferred

    @answers(OperatorStop)
    def _on_operator_stop(self, _request: OperatorStop) -> ServerState:
        return ServerState.SUSPENDED

    @answers(Settled)
    def _on_settled(self, _request: Settled) -> ServerState:
        return ServerState.SUSPENDED

    @handles(Release)
    def _on_release(self, _message: Release) -> None:
        """Nothing is leased."""

    @handles(Activation)
    def _on_activation(self, _message: Activation) -> None:
        """It is told again, absolutely, every few seconds."""

    @handles(CallEnded)
    def _on_call_ended(self, _message: CallEnded) -> None:
        """Its instance ended with the group."""

    @handles(ClientGone)
    def _on_client_gone(self, _message: ClientGone) -> None:
        """Nothing here is anybody's."""

    @handles(ClientSaid)
    def _on_client_said(self, _message: ClientSaid) -> None:
        """There is no instance to tell it to."""

    @handles(DrainNow)
    def _on_drain_now(self, _message: DrainNow) -> None:
        """Nothing drains."""

    @handles(Warm)
    def _on_warm(self, _message: Warm) -> None:
        """Not before a retry."""
