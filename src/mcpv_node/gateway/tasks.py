"""Tasks pass through the node: their ids are sealed, and requests about them go where they are.

The id that a client has holds the server, the instance and the server's own id, and is worth nothing to anybody else.
So a task needs no entry in any map to be found. A door does three things with them: before it looks for a route it
opens the id (`open_task`), what a server has replied it hands to `on_reply`, and what a server says or asks on the
way to `said_of_task`.

`tasks/list` is not offered: an instance has the tasks of several clients, and cannot say whose they are.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from mcpv_node.actors.callers import Caller, Era
from mcpv_node.actors.leases import InstanceId, Lease
from mcpv_node.actors.world import Selector, Server, World
from mcpv_node.protocol import (
    CALL,
    GET_TASK,
    INVALID_PARAMS,
    TASK_RESULT,
    TASK_STATUS,
    RemoteProtocolError,
    TaskState,
    asks_for_task,
    created_task,
    error_code,
    names_task,
    parse_call,
    rename_task,
    task_state,
)
from mcpv_node.settings import ServerName

from .calls import CallReply
from .open_tasks import TaskOpen, TaskOver
from .routing import NoRoute, Route
from .services import DoorServices

PURPOSE: Final = "task"

# Asked of what is over, the server answers with what became of it.
_FINAL: Final = frozenset({TASK_RESULT})


class TaskRef(Struct, frozen=True):
    """A task of a client's: its id there, and what it is called where it is."""

    given: str
    own: str
    instance: InstanceId


class _Sealed(Struct, frozen=True, array_like=True):
    server: ServerName
    instance: InstanceId
    own: str


def open_task(
    services: DoorServices, world: World, selector: Selector, principal: str, method: str, params: Raw | None
) -> tuple[Route, TaskRef] | NoRoute:
    """Where a request about a task goes, under the server's own id for it.

    An id that was not given to this principal, or is of a server that it may not see, is not valid.
    """
    try:
        call = parse_call(params, method)
        opened = services.sealer.open(
            PURPOSE, call.name, bound_to=(principal,), now=services.node.clock.wall().timestamp()
        )
    except RemoteProtocolError as error:
        return NoRoute(INVALID_PARAMS, str(error))
    sealed = msgspec.json.decode(opened, type=_Sealed)
    server = world.servers.get(sealed.server)
    if server is None or not selector.selects(server.view):
        return NoRoute(INVALID_PARAMS, f"the {PURPOSE} is not valid here")
    own = Raw(rename_task(call.params, call.name, sealed.own))
    task = TaskRef(call.name, sealed.own, sealed.instance)
    return Route(call.with_params(own), server, None), task


def on_reply(
    services: DoorServices, caller: Caller, route: Route, task: TaskRef | None, reply: CallReply
) -> CallReply:
    """What the client is to be answered, and what the reply means for the instance that the task is on."""
    served = reply.served
    if served is None:
        return reply
    try:
        if task is not None:
            return _on_task_reply(services, caller, route, task, served, reply)
        if reply.result is None or route.call.method != CALL or not _may_become_task(caller, route):
            return reply
        state = created_task(reply.result)
    except RemoteProtocolError:
        return reply  # as it is: what cannot be read names no task that we could keep
    if state is None:
        return reply
    sealed = _Sealed(route.server.view.name, served.instance_id, state.id)
    given = services.sealer.seal(
        PURPOSE, msgspec.json.encode(sealed), bound_to=(caller.principal,), expires_at=None
    )
    _keep(services, caller, route.server, served, given, state)
    return replace(reply, result=rename_task(reply.result, state.id, given))


def is_for_client(task: TaskRef | None, method: str, params: Raw | None) -> bool:
    """Whether a notification may reach the client of a request about `task`: of another one nobody knows whose it is."""
    if method != TASK_STATUS:
        return True
    try:
        return task is not None and names_task(params, task.own)
    except RemoteProtocolError:
        return False


def as_client_knows(task: TaskRef | None, params: Raw | bytes | None) -> Raw | bytes | None:
    """What a server says or asks during a request about `task`, under the id that the client has for it."""
    if task is None or params is None:
        return params
    try:
        return Raw(rename_task(params, task.own, task.given))
    except RemoteProtocolError:
        return params


def _on_task_reply(
    services: DoorServices, caller: Caller, route: Route, task: TaskRef, served: Lease, reply: CallReply
) -> CallReply:
    method = route.call.method
    if reply.result is None:
        if method in (GET_TASK, TASK_RESULT) and error_code(reply.error or b"{}") == INVALID_PARAMS:
            services.open_tasks.tell(TaskOver(task.given))  # its server does not know it any more
        return reply
    if method in _FINAL:
        services.open_tasks.tell(TaskOver(task.given))
    else:
        state = task_state(reply.result)
        if state is not None:
            _keep(services, caller, route.server, served, task.given, state)
    return replace(reply, result=rename_task(reply.result, task.own, task.given))


def _keep(
    services: DoorServices, caller: Caller, server: Server, served: Lease, given: str, state: TaskState
) -> None:
    if state.is_over:
        services.open_tasks.tell(TaskOver(given))
    else:
        services.open_tasks.tell(TaskOpen(given, server, served.instance_id, caller, state.ttl))


def _may_become_task(caller: Caller, route: Route) -> bool:
    """Whether a server may answer the call with a task: the older era asks for it, in the modern one the server says."""
    return caller.era is Era.MODERN or asks_for_task(route.call.params)
