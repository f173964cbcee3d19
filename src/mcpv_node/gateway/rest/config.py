"""REST about the configuration: reload it, and what is wrong with what could not be applied."""

from __future__ import annotations

from collections.abc import Sequence

from litestar import post
from litestar.datastructures import State
from msgspec import Struct

from mcpv_node.actors.config import RELOAD_BOUND, ConfigStatus, Rejected, Reload, ShowConfig
from mcpv_node.actors.kernel import ActorError
from mcpv_node.gateway.services import DoorServices
from mcpv_node.settings import Change
from mcpv_node.telemetry import rfc3339

from .problems import PROBLEMS, Rejection
from .state import REPORT_BOUND, services_of


class ChangeBody(Struct, frozen=True, rename={"what": "class"}):
    """One thing that is different: `class` is added, removed, replaced, pool, view, node or restart.

    `name` is the server's, or with node and restart the path of the node's own key.
    """

    what: str
    name: str


class ReloadBody(Struct, frozen=True):
    """What a reload has changed; nothing, when the configuration was in effect already."""

    outcome: str
    changes: list[ChangeBody]
    warnings: list[str]


class RejectedBody(Struct, frozen=True):
    """Why a newer configuration is not in effect."""

    reason: str
    problems: list[str]


class ConfigBody(Struct, frozen=True, rename="camel"):
    """How it stands with the configuration: since when it is in effect, and what the last reload changed."""

    applied_at: str
    changes: list[ChangeBody]
    problem: RejectedBody | None


@post("/reload", status_code=200, responses=PROBLEMS)
async def reload_config(state: State) -> ReloadBody:
    """Read the configuration again and bring it into effect: all of it, or, with 422, nothing of it."""
    outcome = await services_of(state).config.ask(Reload(), RELOAD_BOUND)
    if isinstance(outcome, Rejected):
        raise Rejection(outcome.reason, outcome.problems)
    changes = change_bodies(outcome.changes)
    return ReloadBody("applied" if changes else "unchanged", changes, list(outcome.warnings))


async def show_config(services: DoorServices) -> ConfigBody | None:
    """How it stands; None while the owner is being restarted."""
    try:
        status = await services.config.ask(ShowConfig(), REPORT_BOUND)
    except ActorError:
        return None
    return _config_body(status)


def _config_body(status: ConfigStatus) -> ConfigBody:
    problem = None
    if status.problem is not None:
        problem = RejectedBody(status.problem.reason, list(status.problem.problems))
    return ConfigBody(rfc3339(status.applied_at), change_bodies(status.changes), problem)


def change_bodies(changes: Sequence[Change]) -> list[ChangeBody]:
    """Give the changes as they are answered."""
    return [ChangeBody(str(change.what), change.name) for change in changes]
