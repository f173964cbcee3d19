"""The clients: who is registered, and how a program registers itself.

A program that uses the node in another way than a session says so here, and its servers are kept warm for it. It
belongs to the principal of its token; for anybody else there is no such client.
"""

from __future__ import annotations

import secrets
from typing import Annotated, Any

from litestar import Request, Response, delete, get, post, put
from litestar.datastructures import State
from litestar.exceptions import NotFoundException, TooManyRequestsException, ValidationException
from litestar.params import FromPath, JSONBody
from msgspec import Meta, Struct

from mcpv_node.actors.clients import (
    HEARTBEATS_PER_LIMIT,
    Client,
    ClientId,
    ClientKind,
    Heartbeat,
    ListClients,
    Register,
    Registered,
    Withdraw,
)
from mcpv_node.actors.world import Selector
from mcpv_node.gateway.visibility import resolve_selector
from mcpv_node.settings import ServerName
from mcpv_node.telemetry import rfc3339

from .problems import PROBLEMS
from .state import REPORT_BOUND, authority_of, services_of

# 96 random bits: an id is found by nobody who was not given it.
CLIENT_ID_BYTES = 12

# Every process id of the systems we run on is below.
MAX_PID = 2**31 - 1


class SelectBody(Struct, frozen=True, forbid_unknown_fields=True):
    """What a client wants to see: one of these, or nothing for all it may."""

    server: str | None = None
    tags: list[Annotated[str, Meta(min_length=1)]] | None = None
    profile: str | None = None


class RegisterBody(SelectBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A client that registers itself. With the id of a process on the node's machine it goes when that ends."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    pid: Annotated[int, Meta(ge=1, le=MAX_PID)] | None = None


class LifeBody(Struct, frozen=True, rename="camel"):
    """The client's id, and how often a sign of life is wanted."""

    id: str
    heartbeat_seconds: float


class ClientBody(Struct, frozen=True, rename="camel"):
    """One registered client. `lastSeen` is null where its connection tells more than the time."""

    id: str
    name: str
    kind: str
    principal: str
    pid: int | None
    server: str | None
    tags: list[str] | None
    profile: str | None
    since: str
    last_seen: str | None


class ClientsBody(Struct, frozen=True):
    """All clients, in order of registration."""

    clients: list[ClientBody]


@get("/clients", responses=PROBLEMS)
async def list_clients(state: State) -> ClientsBody:
    """Who is registered: sessions, connections, and programs that registered themselves."""
    found = await services_of(state).node.clients.ask(ListClients(), REPORT_BOUND)
    return ClientsBody(clients=[_client_body(one) for one in found])


@post("/clients", responses=PROBLEMS)
async def register_client(
    request: Request[Any, Any, State], state: State, data: JSONBody[RegisterBody]
) -> Response[LifeBody]:
    """Register a client that sees `server`, what shares one of `tags`, or a `profile`; without any, everything.

    It is forgotten when it gives no sign of life for three times `heartbeatSeconds`.
    """
    services = services_of(state)
    client = Client(
        id=ClientId(f"c-{secrets.token_urlsafe(CLIENT_ID_BYTES)}"),
        name=data.name,
        selector=_selector(request, state, data),
        kind=ClientKind.API,
        principal=authority_of(request).principal,
        pid=data.pid,
    )
    if not await services.node.clients.ask(Register(client), REPORT_BOUND):
        raise TooManyRequestsException("there are too many clients", headers={"Retry-After": "1"})
    return Response(
        content=_life_body(state, client.id), headers={"Location": f"/api/v1/clients/{client.id}"}
    )


@put("/clients/{id:str}", responses=PROBLEMS)
async def keep_client(
    request: Request[Any, Any, State],
    state: State,
    id: FromPath[str],
    data: JSONBody[SelectBody | None] = None,
) -> LifeBody:
    """A sign of life. With a body that names `server`, `tags` or `profile`, the client sees that from now on."""
    selector = None if data is None or data == SelectBody() else _selector(request, state, data)
    beat = Heartbeat(ClientId(id), authority_of(request).principal, selector)
    if not await services_of(state).node.clients.ask(beat, REPORT_BOUND):
        raise _unknown(id)
    return _life_body(state, id)


@delete("/clients/{id:str}", responses=PROBLEMS)
async def remove_client(request: Request[Any, Any, State], state: State, id: FromPath[str]) -> None:
    """The client leaves; what nobody else uses stops when it has been idle for its time."""
    leave = Withdraw(ClientId(id), authority_of(request).principal)
    if not await services_of(state).node.clients.ask(leave, REPORT_BOUND):
        raise _unknown(id)


def _selector(request: Request[Any, Any, State], state: State, body: SelectBody) -> Selector:
    """What the client will see: what it asks for, as far as its token goes."""
    if sum(part is not None for part in (body.server, body.tags, body.profile)) > 1:
        raise ValidationException("server, tags and profile exclude each other")
    tags = frozenset(tag for name in body.tags or () if (tag := name.strip().lower()))
    wanted = Selector(
        server=None if body.server is None else ServerName(body.server),
        tags=tags or None,
        profile=body.profile,
    )
    services = services_of(state)
    within = authority_of(request).selector
    selector = resolve_selector(services.node.world.world, wanted, within=within)
    if selector is None:
        named = [
            f"{kind} {name}" for kind in ("server", "profile") if (name := getattr(body, kind)) is not None
        ]
        raise NotFoundException(f"there is no {named[0] if named else 'server that this token may see'}")
    return selector


def _life_body(state: State, id: str) -> LifeBody:
    limit = services_of(state).node.settings.client_inactive_seconds
    return LifeBody(id, limit / HEARTBEATS_PER_LIMIT)


def _client_body(one: Registered) -> ClientBody:
    client, selector = one.client, one.client.selector
    return ClientBody(
        id=client.id,
        name=client.name,
        kind=client.kind,
        principal=client.principal,
        pid=client.pid,
        server=selector.server,
        tags=None if selector.tags is None else sorted(selector.tags),
        profile=selector.profile,
        since=rfc3339(one.since),
        last_seen=None if one.last_seen is None else rfc3339(one.last_seen),
    )


def _unknown(id: str) -> NotFoundException:
    return NotFoundException(f"there is no client {id}; one that was silent for too long registers anew")
