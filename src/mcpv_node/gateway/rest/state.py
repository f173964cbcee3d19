"""What every route works with."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias

from litestar import Request
from litestar.datastructures import State
from litestar.params import QueryParameter

from mcpv_node.gateway.auth import AUTHORITY, Authority
from mcpv_node.gateway.services import DoorServices

# A report is made from memory; an owner that takes longer is being restarted (seconds).
REPORT_BOUND = 5.0

# No start, drain or sweep takes longer; a client that wants to wait on may ask again (seconds).
MAX_WAIT = 600.0

Wait: TypeAlias = Annotated[float | None, QueryParameter(ge=0, le=MAX_WAIT)]


def services_of(state: State) -> DoorServices:
    """The services that travel with the application."""
    services = state["services"]
    assert isinstance(services, DoorServices)
    return services


def authority_of(request: Request[Any, Any, Any]) -> Authority:
    """Whose request it is, as the door has found out."""
    scope: dict[str, Any] = {**request.scope}
    authority = scope[AUTHORITY]
    assert isinstance(authority, Authority)
    return authority
