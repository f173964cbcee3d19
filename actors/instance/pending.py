"""The requests one instance has sent and not seen answered: our ids, whose they are, until when they may take.

Our ids are integers that count up; they are the progress tokens as well. A call that was given up stays here
as abandoned, because its slot is not free before the server has answered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec import Struct

from mcpv_node.actors.kernel import Deferred
from mcpv_node.actors.leases import LeaseId

from .messages import Answer, AskNumber, CallEvent, CallFailed


class PendingCall(Struct, eq=False):
    """One call in flight. Times are monotonic seconds."""

    id: int
    lease: LeaseId
    client: str  # whose call it is: a session, or a client that has none
    reply: Deferred[Answer | CallFailed]
    on_event: Callable[[CallEvent], None] | None
    sent_at: float
    idle_until: float  # moved by progress
    deadline: float
    abandoned_until: float | None = None
    # What the server waits for on this call's account. Meanwhile its silence is not its own.
    asks: frozenset[AskNumber] = frozenset()

    @property
    def ends_at(self) -> float:
        """The next moment at which something must be done about it."""
        if self.abandoned_until is not None:
            return self.abandoned_until
        return self.deadline if self.asks else min(self.idle_until, self.deadline)


class PendingCalls:
    """All calls of one instance, by our id and by lease."""

    def __init__(self) -> None:
        self._by_id: dict[int, PendingCall] = {}
        self._by_lease: dict[LeaseId, PendingCall] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[PendingCall]:
        return iter(list(self._by_id.values()))

    def add(self, call: PendingCall) -> None:
        self._by_id[call.id] = call
        self._by_lease[call.lease] = call

    def get(self, call_id: int) -> PendingCall | None:
        return self._by_id.get(call_id)

    def of_lease(self, lease: LeaseId) -> PendingCall | None:
        return self._by_lease.get(lease)

    def remove(self, call: PendingCall) -> None:
        self._by_id.pop(call.id, None)
        self._by_lease.pop(call.lease, None)

    def awaited(self) -> list[PendingCall]:
        """Those somebody still waits for."""
        return [call for call in self._by_id.values() if call.abandoned_until is None]

    def only_clients(self) -> PendingCall | None:
        """The call that something unrelated must belong to: the oldest, where all are one client's."""
        awaited = self.awaited()
        return awaited[0] if len({call.client for call in awaited}) == 1 else None

    def due(self, now: float) -> list[PendingCall]:
        return [call for call in self._by_id.values() if call.ends_at <= now]

    def next_end(self) -> float | None:
        return min((call.ends_at for call in self._by_id.values()), default=None)
