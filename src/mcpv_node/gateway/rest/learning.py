"""REST about the node's beginnings: what is learnt, what should be up, and learning again.

`catalog/refresh` is answered at once with what will be done, or, with `wait`, when it is done. Who asks for the node
or for one server gets these statuses beside the rest; while their owners are being restarted, they are null.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from litestar import Request, Response, post
from litestar.datastructures import State
from litestar.exceptions import ClientException, NotFoundException
from litestar.openapi import ResponseSpec
from msgspec import Struct

from mcpv_node.actors.kernel import ActorError, AskTimeout
from mcpv_node.actors.status import (
    AwaitLearning,
    InitStatus,
    Learn,
    LearningOutcome,
    LearningStatus,
    ShowInit,
    ShowLearning,
)
from mcpv_node.gateway.services import DoorServices
from mcpv_node.settings import ServerName, SpecKey
from mcpv_node.telemetry import rfc3339

from .problems import PROBLEMS
from .state import Wait, services_of

# Both are made from memory, after a question to others that are (seconds).
STATUS_BOUND = 5.0


class OutcomeBody(Struct, frozen=True, rename="camel"):
    """What became of learning one server."""

    server: str
    spec_key: str
    state: str
    attempts: int
    reason: str
    since: str


class LearningBody(Struct, frozen=True):
    """Learning as a whole."""

    mode: str
    state: str
    total: int
    completed: int
    failed: int
    current: list[str]
    outcomes: list[OutcomeBody]


class InitBody(Struct, frozen=True, rename="camel"):
    """How far a server has come that should have instances running."""

    name: str
    state: str
    reason: str
    ready: int
    target: int
    retries: int
    next_try_at: str | None


# With `wait`, when it is over.
_OUTCOME: Final = {
    **PROBLEMS,
    200: ResponseSpec(LearningBody, generate_examples=False, description="The outcome"),
}


class RefreshBody(Struct, frozen=True, forbid_unknown_fields=True):
    """Which servers are to be learnt again; none named: all."""

    servers: list[str] = []


@post("/catalog/refresh", status_code=202, responses=_OUTCOME)
async def refresh_catalog(
    request: Request[Any, Any, State], state: State, wait: Wait = None
) -> Response[LearningBody]:
    """Read the lists of these servers again, starting them where they do not run. The body is optional."""
    services = services_of(state)
    keys = _keys_of(services, _parse_body(await request.body()))
    status, code = await services.learning.ask(Learn(fresh=keys), STATUS_BOUND), 202
    if wait is not None:
        try:
            status, code = await services.learning.ask(AwaitLearning(keys), wait), 200
        except AskTimeout:
            status = await services.learning.ask(ShowLearning(), STATUS_BOUND)
    return Response(content=learning_body(status, keys), status_code=code)


async def show_learning(services: DoorServices) -> LearningStatus | None:
    """Ask how far learning is."""
    try:
        return await services.learning.ask(ShowLearning(), STATUS_BOUND)
    except ActorError:
        return None


async def show_init(services: DoorServices) -> list[InitBody] | None:
    """Ask how far each server has come."""
    try:
        statuses = await services.init.ask(ShowInit(), STATUS_BOUND)
    except ActorError:
        return None
    return [_init_body(one) for one in statuses]


async def show_outcomes(services: DoorServices) -> Mapping[SpecKey, LearningOutcome]:
    """Ask what became of learning each spec key."""
    status = await show_learning(services)
    return {} if status is None else status.outcomes


def learning_body(status: LearningStatus, keys: frozenset[SpecKey] | None = None) -> LearningBody:
    """Give the status for the doors; the outcomes of these spec keys alone, if any are named."""
    return LearningBody(
        mode=status.mode,
        state=str(status.state),
        total=status.total,
        completed=status.completed,
        failed=status.failed,
        current=list(status.current),
        outcomes=[
            body
            for key, outcome in status.outcomes.items()
            if keys is None or key in keys
            if (body := outcome_body(outcome)) is not None
        ],
    )


def outcome_body(outcome: LearningOutcome | None) -> OutcomeBody | None:
    """Give one outcome for the doors."""
    if outcome is None:
        return None
    return OutcomeBody(
        server=outcome.server,
        spec_key=outcome.spec_key,
        state=str(outcome.state),
        attempts=outcome.attempts,
        reason=outcome.reason,
        since=rfc3339(outcome.since),
    )


def _init_body(status: InitStatus) -> InitBody:
    return InitBody(
        name=status.name,
        state=str(status.state),
        reason=status.reason,
        ready=status.ready,
        target=status.target,
        retries=status.retries,
        next_try_at=None if status.next_try_at is None else rfc3339(status.next_try_at),
    )


def _parse_body(body: bytes) -> RefreshBody:
    try:
        return msgspec.json.decode(body, type=RefreshBody) if body.strip() else RefreshBody()
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ClientException(f"the body is not {{servers: [NAME..]}}: {error}") from None


def _keys_of(services: DoorServices, body: RefreshBody) -> frozenset[SpecKey]:
    servers = services.node.world.world.servers
    unknown = [name for name in body.servers if ServerName(name) not in servers]
    if unknown:
        raise NotFoundException(f"there is no server named {', '.join(unknown)}")
    names = [ServerName(name) for name in body.servers] or list(servers)
    return frozenset(servers[name].view.spec_key for name in names)
