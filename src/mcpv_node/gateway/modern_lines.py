"""The modern side of one connection that speaks lines: its requests in flight and its subscriptions, by their ids."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine

from mcpv_node.actors.world import Selector
from mcpv_node.protocol import (
    Modern,
    Notification,
    RawId,
    RemoteProtocolError,
    Request,
    parse_cancelled,
)

from .callers import make_modern_caller
from .listening import Subscription
from .modern import ModernFront
from .modern_flight import ModernFlight
from .modern_reply import Asked, ModernReply, overloaded
from .ports import Tell
from .services import DoorServices

# One connection is one client; it needs one subscription, and another while it changes what it wants to hear.
MAX_SUBSCRIPTIONS = 64


class ModernLines:
    """See the module. `write` is for answers, `tell` for what may be dropped; `on_quiet` hears that all is answered."""

    def __init__(
        self,
        services: DoorServices,
        *,
        write: Callable[[bytes], None],
        tell: Tell,
        on_quiet: Callable[[], None],
    ) -> None:
        self._loop = services.node.system.loop
        self._front = ModernFront(services)
        self._write = write
        self._tell = tell
        self._on_quiet = on_quiet
        self._flights: dict[RawId, ModernFlight] = {}
        self._subscriptions: dict[RawId, Subscription] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def in_flight(self) -> int:
        """How many calls have not been answered; a subscription never is, while it lasts."""
        return len(self._flights)

    def knows(self, id: RawId) -> bool:
        """Whether a request with this id has not been answered."""
        return id in self._flights or id in self._subscriptions

    def receive(self, request: Request, said: Modern, principal: str, selector: Selector) -> None:
        """Take one request whose id nobody uses."""
        caller = make_modern_caller(principal, said.meta)
        step = self._front.receive(Asked(request, said.meta, said.params, caller, selector))
        match step:
            case ModernReply():
                self._write(step.data)
            case ModernFlight():
                self._flights[step.id] = step
                self._start(self._fly(step), lambda: self._landed(step))
            case Subscription():
                if len(self._subscriptions) >= MAX_SUBSCRIPTIONS:
                    self._write(overloaded(step.id, "too many subscriptions are open").data)
                else:
                    self._subscriptions[step.id] = step
                    self._start(step.begin(self._tell), lambda: None)

    def cancel(self, notification: Notification) -> None:
        """The client does not want the answer to something any more."""
        try:
            id = parse_cancelled(notification.params)
        except RemoteProtocolError:
            return
        flight, subscription = self._flights.get(id), self._subscriptions.pop(id, None)
        if flight is not None:
            flight.cancel("the client cancelled")
        if subscription is not None:
            subscription.drop()

    def drain(self) -> None:
        """End the subscriptions with their results; calls go on."""
        for id in list(self._subscriptions):
            self._write(self._subscriptions.pop(id).finish())

    def end(self, reason: str) -> None:
        """Nobody is there any more."""
        for flight in self._flights.values():
            flight.cancel(reason)
        for subscription in self._subscriptions.values():
            subscription.drop()
        self._subscriptions.clear()

    async def _fly(self, flight: ModernFlight) -> None:
        reply = await flight.run(self._tell)
        # From here on its id is free, and nothing of it can be cancelled.
        self._flights.pop(flight.id, None)
        if reply is not None:
            self._write(reply.data)

    def _landed(self, flight: ModernFlight) -> None:
        # A task that is cancelled before its first step never comes to its own end.
        flight.end()
        if self._flights.get(flight.id) is flight:
            del self._flights[flight.id]
        self._on_quiet()

    def _start(self, work: Coroutine[None, None, None], on_end: Callable[[], None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)

        def ended(done: asyncio.Task[None]) -> None:
            self._tasks.discard(done)
            on_end()

        task.add_done_callback(ended)
