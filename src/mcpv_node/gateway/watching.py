"""A client's subscription to one resource, from its request to the server's own answer.

`find_watched` looks up whose the resource is, as for reading it; `watch_resource` has it watched for a consumer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import Raw, Struct

from mcpv_node.actors.callers import Caller
from mcpv_node.actors.context import NodeContext
from mcpv_node.actors.index_messages import ConsumerId
from mcpv_node.actors.instance.messages import Answer
from mcpv_node.actors.kernel import ActorError
from mcpv_node.actors.watch_messages import Unwatch, Watch, Watching
from mcpv_node.actors.watches import AGREE_BOUND
from mcpv_node.actors.world import Selector, Server, World
from mcpv_node.protocol import (
    INVALID_PARAMS,
    READ_RESOURCE,
    Call,
    CallFailure,
    RawId,
    Reason,
    RemoteProtocolError,
    subject_of,
)

from .calls import RETRY_AFTER, CallReply, failure_reply
from .routing import NoRoute, find_route

SUBSCRIBE: Final = "resources/subscribe"
UNSUBSCRIBE: Final = "resources/unsubscribe"

# Beside the bounds of the server type and of the agreement: who owns them answers in time (seconds).
WATCH_MARGIN = 5.0


class WatchStep(Struct, frozen=True):
    """Run this too: a server is to be asked to tell of a resource."""

    id: RawId
    server: Server
    uri: str
    caller: Caller


def find_watched(
    world: World, selector: Selector, caller: Caller, method: str, params: Raw | None
) -> tuple[Server, str] | NoRoute:
    """Whose the resource is that a request names, of those the caller may see, and its URI."""
    try:
        uri = subject_of(method, params) or ""
    except RemoteProtocolError as error:
        return NoRoute(INVALID_PARAMS, str(error))
    owner = owner_of(world, selector, caller, uri)
    return owner if isinstance(owner, NoRoute) else (owner, uri)


def owner_of(world: World, selector: Selector, caller: Caller, uri: str) -> Server | NoRoute:
    """Whose a resource is, of those the caller may see."""
    reading = Call(method=READ_RESOURCE, name=uri, progress_token=None, key=None, params=Raw(b"{}"))
    route = find_route(world, selector, caller.profile, reading)
    return route if isinstance(route, NoRoute) else route.server


async def watch_resource(
    node: NodeContext,
    *,
    consumer: ConsumerId,
    server: Server,
    uri: str,
    caller: Caller,
    notify: Callable[[str, bytes], None],
) -> CallReply:
    """Return once the server has agreed, with what to answer. Cancelled or failed, nothing is watched."""
    spec = server.spec
    bound = spec.queue_timeout_seconds + spec.start_timeout_seconds + AGREE_BOUND + WATCH_MARGIN
    answered = False
    try:
        outcome = await node.watches.ask(Watch(consumer, server.view.name, uri, caller, notify), bound)
        answered = True
    except ActorError as error:
        return failure_reply(
            CallFailure(
                reason=Reason.OVERLOADED,
                message=f"{spec.name}: {error}",
                server=spec.name,
                executed="unknown",
                retry_after=RETRY_AFTER,
            )
        )
    finally:
        if not answered:
            node.watches.tell(Unwatch(consumer, uri, server.view.name))
    match outcome:
        case Watching():
            return CallReply(result=b"{}")
        case _ if isinstance(outcome.why, Answer):
            return CallReply(error=outcome.why.error)
        case _:
            return failure_reply(outcome.why)
