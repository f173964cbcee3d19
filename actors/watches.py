"""The owner of who wants to hear of which resource, and so of what each server is asked to tell.

Where something is watched an instance is kept by a lease of its own, and its server is asked for exactly what anybody
there watches. When the instance ends another one is acquired and asked, as long as somebody watches; a consumer keeps
its place and hears of its resources once when the subscription stands again: what happened meanwhile nobody told.
How often a server that keeps ending is started is its server type's to say, not ours.

The consumers' wishes stand in a table that outlives every crash, also a second one: nobody else could say who watches.
Leases do not: an incarnation releases all it has, and the next one acquires anew.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import msgspec
from loguru import logger

from mcpv_node.protocol import INVALID_REQUEST, CallFailure, Reason

from .context import NodeContext
from .index_messages import ConsumerId, ServersChanged
from .instance.messages import Answer, CallFailed, InstanceMessage, ResourceUpdated, WatchResources
from .kernel import (
    ActorDead,
    AskTimeout,
    Deferred,
    Down,
    ExitReason,
    Handle,
    LoopActor,
    MonitorId,
    Timer,
    answers,
    handles,
)
from .leases import Acquire, InstanceId, Lease, LeaseId, LeaseKind, Refused, Release, new_lease_id
from .watch_messages import NotWatching, Unwatch, UnwatchAll, Watch, Watching
from .watch_table import (
    Place,
    Spot,
    Watcher,
    WatchTable,
    Wishes,
    concerned,
    is_for,
    place_of,
    retry_delay,
)
from .world import Server

# A server that has not agreed to a subscription by then is not going to (seconds).
AGREE_BOUND = 30.0

# The owner of a deadline answers at the deadline; this much later (seconds) it is not going to.
REPLY_MARGIN = 2.0

# When a client that watches too much may well find a place (seconds).
RETRY_AFTER = 5.0


@dataclass(frozen=True, slots=True)
class _Acquired:
    place: Place
    lease: LeaseId
    outcome: Lease | Refused | Exception


@dataclass(frozen=True, slots=True)
class _Asked:
    instance_id: InstanceId
    uris: frozenset[str]
    outcome: Answer | CallFailed | Exception


@dataclass(frozen=True, slots=True)
class _TryAgain:
    place: Place


@dataclass(slots=True)
class _Post:
    """What is done for one place: a lease that is asked for or held, or a pause before the next try."""

    server: Server
    lease: LeaseId | None = None
    instance: InstanceId | None = None
    failures: int = 0  # in a row
    pause: Timer | None = None
    missed: set[str] = field(default_factory=set[str])  # a consumer may have missed an update of these


@dataclass(slots=True)
class _Seat:
    """What one instance is asked to tell, for every place that stands on it."""

    handle: Handle[InstanceMessage]
    monitor: MonitorId
    places: set[Place] = field(default_factory=set[Place])
    told: frozenset[str] = frozenset()  # what its server has agreed to
    asking: frozenset[str] | None = None
    one_by_one: bool = False  # one of several was refused, and which one is not known


class Watches(LoopActor[None]):
    """See the module. `wishes` is made once for a node, and read and written here alone."""

    def __init__(self, node: NodeContext, wishes: Wishes) -> None:
        super().__init__()
        self._node = node
        self._table = WatchTable(wishes)
        self._posts: dict[Place, _Post] = {}
        self._seats: dict[InstanceId, _Seat] = {}
        self._monitors: dict[MonitorId, InstanceId] = {}
        self._parked: dict[tuple[ConsumerId, Spot], list[Deferred[Watching | NotWatching]]] = {}

    def on_start(self, estate: None = None) -> None:
        self._table.forget_asked()
        for place in self._table.places():
            watchers = list(self._table.watchers_at(place))
            post = self._posts[place] = _Post(watchers[0][2].server)
            post.missed = {spot.uri for _, spot, watcher in watchers if watcher.agreed}
            self._acquire(place, post)

    def on_exit(self, reason: ExitReason) -> None:
        for post in self._posts.values():
            self._release(post)

    # --- who watches ----------------------------------------------------------------------------

    @answers(Watch)
    def _on_watch(self, request: Watch) -> Watching | NotWatching | Deferred[Watching | NotWatching]:
        server = self._node.world.world.servers.get(request.server)
        if server is None:
            return NotWatching(_failure(request.server, Reason.STOPPING, "is not there any more"))
        spot = Spot(place_of(server, request.caller), request.uri)
        known = self._table.get(request.consumer, spot)
        if known is None and not self._table.has_room_for(request.consumer):
            return NotWatching(_failure(request.server, Reason.OVERLOADED, "too many resources are watched"))
        agreed = self._stands(spot)
        self._table.put(request.consumer, spot, Watcher(server, request.caller, request.notify, agreed))
        if agreed:
            return Watching()
        deferred: Deferred[Watching | NotWatching] = self.defer()
        self._parked.setdefault((request.consumer, spot), []).append(deferred)
        post = self._posts.get(spot.place)
        if post is not None and post.pause is not None:
            # Somebody has a new reason to try, however long the pause was to be.
            post.pause.cancel()
            post.pause = None
        self._tend(spot.place)
        return deferred

    @handles(Unwatch)
    def _on_unwatch(self, message: Unwatch) -> None:
        for spot in self._table.spots_of(message.consumer):
            watcher = self._table.get(message.consumer, spot)
            if spot.uri == message.uri and watcher is not None and is_for(watcher, message.server):
                self._drop(message.consumer, spot, _WITHDRAWN)
                self._tend(spot.place)

    @handles(UnwatchAll)
    def _on_unwatch_all(self, message: UnwatchAll) -> None:
        spots = self._table.spots_of(message.consumer)
        for spot in spots:
            self._drop(message.consumer, spot, _WITHDRAWN)
        for place in {spot.place for spot in spots}:
            self._tend(place)

    @handles(ResourceUpdated)
    def _on_resource_updated(self, message: ResourceUpdated) -> None:
        seat = self._seats.get(message.instance_id)
        if seat is None:
            return
        told: set[ConsumerId] = set()
        for place in seat.places:
            for uri in concerned(message.uri):
                for consumer, _, watcher in self._table.watchers_of(Spot(place, uri)):
                    if consumer not in told:
                        told.add(consumer)
                        self._notify(watcher, message.uri, message.params)

    # --- a lease for each place -----------------------------------------------------------------

    def _tend(self, place: Place) -> None:
        """Bring one place in line with what is watched there."""
        post = self._posts.get(place)
        if not self._table.uris_at(place):
            if post is not None:
                self._leave(place, post)
            return
        if post is None:
            post = self._posts[place] = _Post(next(self._table.watchers_at(place))[2].server)
        if post.instance is not None:
            self._ask(post.instance)
        elif post.lease is None and post.pause is None:
            self._acquire(place, post)

    def _acquire(self, place: Place, post: _Post) -> None:
        _, _, watcher = next(self._table.watchers_at(place))
        post.server = watcher.server
        spec, lease = watcher.server.spec, new_lease_id()
        bound = spec.queue_timeout_seconds + spec.start_timeout_seconds
        deadline = self._node.clock.monotonic() + bound
        post.lease = lease
        request = Acquire(lease, watcher.caller, deadline, kind=LeaseKind.SUBSCRIPTION)
        self.run(
            place.server.ask(request, bound + REPLY_MARGIN),
            lambda outcome: _Acquired(place, lease, outcome),
        )

    @handles(_Acquired)
    def _on_acquired(self, message: _Acquired) -> None:
        place, outcome = message.place, message.outcome
        post = self._posts.get(place)
        if post is None or post.lease != message.lease:
            # The last one has left meanwhile. Its release may have come before the request.
            place.server.tell(Release(message.lease))
            return
        name = post.server.spec.name
        match outcome:
            case Lease():
                self._sit(place, post, outcome)
            case Refused(failure=failure):
                self._fail(place, post, failure)
            case ActorDead():
                # It will not come back: a reload has taken the server away, or put another in its place.
                post.lease = None
                self._move(place)
                self._abandon(place, _failure(name, Reason.STOPPING, "is not there any more"))
            case AskTimeout():
                self._fail(place, post, _failure(name, Reason.QUEUE_TIMEOUT, "had no instance in time"))
            case error:
                self._fail(place, post, _failure(name, Reason.OVERLOADED, str(error)))

    def _sit(self, place: Place, post: _Post, lease: Lease) -> None:
        post.instance = lease.instance_id
        seat = self._seats.get(lease.instance_id)
        if seat is None:
            monitor = self.watch(lease.instance.cell)
            self._monitors[monitor] = lease.instance_id
            seat = self._seats[lease.instance_id] = _Seat(lease.instance, monitor)
        seat.places.add(place)
        self._stand(place, self._table.uris_at(place) & seat.told)
        self._ask(lease.instance_id)

    def _leave(self, place: Place, post: _Post) -> None:
        """Nobody watches anything there."""
        del self._posts[place]
        self._release(post)
        if post.pause is not None:
            post.pause.cancel()
        seat = None if post.instance is None else self._seats.get(post.instance)
        if seat is not None and post.instance is not None:
            seat.places.discard(place)
            self._ask(post.instance)

    def _fail(self, place: Place, post: _Post, why: Answer | CallFailure) -> None:
        """The subscription does not stand: who waits for it hears that, who had it waits for the next try."""
        self._release(post)
        post.instance = None
        for consumer, spot, watcher in self._table.watchers_at(place):
            self._answer(consumer, spot, NotWatching(why))
            if not watcher.agreed:
                self._table.remove(consumer, spot)
        if not self._table.uris_at(place):
            self._leave(place, post)
            return
        post.failures += 1
        post.pause = self.after(retry_delay(post.failures), _TryAgain(place))

    def _move(self, place: Place) -> None:
        """Whoever watches here goes on with what runs their server now, where that is another."""
        servers = self._node.world.world.servers
        for consumer, spot, watcher in list(self._table.watchers_at(place)):
            server = servers.get(watcher.server.spec.name)
            if server is None or server.handle is place.server:
                continue
            moved = Spot(place_of(server, watcher.caller), spot.uri)
            self._table.remove(consumer, spot)
            self._table.put(consumer, moved, replace(watcher, server=server))
            parked = self._parked.pop((consumer, spot), [])
            if parked:
                self._parked.setdefault((consumer, moved), []).extend(parked)
            there = self._posts.get(moved.place)
            if there is None:
                there = self._posts[moved.place] = _Post(server)
            if watcher.agreed:
                there.missed.add(spot.uri)
            self._tend(moved.place)

    def _abandon(self, place: Place, why: CallFailure) -> None:
        for consumer, spot, _ in self._table.watchers_at(place):
            self._drop(consumer, spot, NotWatching(why))
        self._tend(place)

    @handles(_TryAgain)
    def _on_try_again(self, message: _TryAgain) -> None:
        post = self._posts.get(message.place)
        if post is not None:
            post.pause = None
            self._tend(message.place)

    @handles(ServersChanged)
    def _on_servers_changed(self, _message: ServersChanged) -> None:
        for place in list(self._posts):
            self._move(place)
            self._tend(place)

    def _release(self, post: _Post) -> None:
        lease, post.lease = post.lease, None
        if lease is not None:
            post.server.handle.tell(Release(lease))

    # --- what each instance is asked for --------------------------------------------------------

    def _ask(self, instance_id: InstanceId) -> None:
        """Ask for what is watched and not asked for yet; one request at a time."""
        seat = self._seats[instance_id]
        wanted = frozenset[str]().union(*(self._table.uris_at(place) for place in seat.places))
        if seat.asking is not None:
            return
        if wanted == seat.told:
            seat.one_by_one = False
            if not seat.places:
                self._forget(instance_id, seat)
            return
        added = wanted - seat.told
        if seat.one_by_one and len(added) > 1:
            wanted = (wanted & seat.told) | {min(added)}
        seat.asking = wanted
        self.run(
            seat.handle.ask(WatchResources(wanted), AGREE_BOUND),
            lambda outcome: _Asked(instance_id, wanted, outcome),
        )

    @handles(_Asked)
    def _on_asked(self, message: _Asked) -> None:
        seat = self._seats.get(message.instance_id)
        if seat is None:
            return
        seat.asking = None
        name = self._name_of(seat)
        match message.outcome:
            case Answer(error=None):
                added, seat.told = message.uris - seat.told, message.uris
                for place in seat.places:
                    self._stand(place, added)
            case Answer() as refusal:
                self._on_refused(seat, message.uris, refusal)
            case CallFailed(failure=failure):
                self._lose(message.instance_id, failure)
                return
            case AskTimeout():
                self._lose(
                    message.instance_id,
                    _failure(name, Reason.CALL_TIMEOUT, "did not answer the subscription in time"),
                )
                return
            case error:
                self._lose(message.instance_id, _failure(name, Reason.INSTANCE_DIED, str(error)))
                return
        self._ask(message.instance_id)

    def _stand(self, place: Place, uris: frozenset[str]) -> None:
        """These stand from now on: answer who waits, and tell who may have missed something."""
        post = self._posts[place]
        for uri in uris:
            for consumer, spot, watcher in self._table.watchers_of(Spot(place, uri)):
                post.failures = 0
                self._answer(consumer, spot, Watching())
                if not watcher.agreed:
                    self._table.agree(consumer, spot)
                elif uri in post.missed:
                    self._notify(watcher, uri, _updated(uri))
        post.missed -= uris

    def _on_refused(self, seat: _Seat, asked: frozenset[str], refusal: Answer) -> None:
        added = asked - seat.told
        if len(added) > 1:
            seat.one_by_one = True
            return
        seat.told = asked - added
        for place in seat.places:
            for uri in added:
                for consumer, spot, watcher in self._table.watchers_of(Spot(place, uri)):
                    if watcher.agreed:
                        # Another instance has agreed to it: it has changed at any rate.
                        self._notify(watcher, uri, _updated(uri))
                    self._drop(consumer, spot, NotWatching(refusal))
        for place in [place for place in seat.places if not self._table.uris_at(place)]:
            post = self._posts.pop(place)
            self._release(post)
            seat.places.discard(place)

    def on_down(self, down: Down) -> None:
        """An instance has ended that something stood on."""
        instance_id = self._monitors.pop(down.monitor, None)
        seat = None if instance_id is None else self._seats.get(instance_id)
        if instance_id is not None and seat is not None:
            message = "its instance ended before it agreed to the subscription"
            self._lose(instance_id, _failure(self._name_of(seat), Reason.INSTANCE_DIED, message))

    def _lose(self, instance_id: InstanceId, why: CallFailure) -> None:
        """Nothing stands on this instance any more."""
        seat = self._seats[instance_id]
        self._forget(instance_id, seat)
        for place in seat.places:
            post = self._posts[place]
            had = {spot.uri for _, spot, watcher in self._table.watchers_at(place) if watcher.agreed}
            post.missed |= had
            logger.bind(server=post.server.spec.name, instance=instance_id).info(
                "{} watched resources wait for another instance: {}", len(had), why.message
            )
            self._fail(place, post, why)

    def _forget(self, instance_id: InstanceId, seat: _Seat) -> None:
        del self._seats[instance_id]
        if self._monitors.pop(seat.monitor, None) is not None:
            self.unwatch(seat.handle.cell, seat.monitor)

    # --- small parts ----------------------------------------------------------------------------

    def _stands(self, spot: Spot) -> bool:
        post = self._posts.get(spot.place)
        seat = None if post is None or post.instance is None else self._seats.get(post.instance)
        if seat is None or spot.uri not in seat.told:
            return False
        return seat.asking is None or spot.uri in seat.asking

    def _name_of(self, seat: _Seat) -> str:
        return next((self._posts[place].server.spec.name for place in seat.places), seat.handle.name)

    def _drop(self, consumer: ConsumerId, spot: Spot, outcome: NotWatching) -> None:
        self._table.remove(consumer, spot)
        self._answer(consumer, spot, outcome)

    def _answer(self, consumer: ConsumerId, spot: Spot, outcome: Watching | NotWatching) -> None:
        for deferred in self._parked.pop((consumer, spot), ()):
            deferred.answer(outcome)

    def _notify(self, watcher: Watcher, uri: str, params: bytes) -> None:
        try:
            watcher.notify(uri, params)
        except Exception as error:  # noqa: BLE001  (a foreign callback: its failure is its own)
            logger.opt(exception=error).warning("a watcher could not be told of {}", uri)


_WITHDRAWN = NotWatching(
    Answer(error=msgspec.json.encode({"code": INVALID_REQUEST, "message": "it was unsubscribed meanwhile"}))
)


def _failure(server: str, reason: Reason, message: str) -> CallFailure:
    return CallFailure(
        reason=reason,
        message=f"{server}: {message}",
        server=server,
        executed="no",
        retry_after=RETRY_AFTER if reason is Reason.OVERLOADED else None,
    )


def _updated(uri: str) -> bytes:
    return msgspec.json.encode({"uri": uri})
