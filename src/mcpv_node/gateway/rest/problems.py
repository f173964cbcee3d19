"""Errors as problems after RFC 9457; those of 7.6 carry their `reason`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

import msgspec
from litestar import Request, Response
from litestar.exceptions import HTTPException
from litestar.openapi import ResponseSpec
from loguru import logger
from msgspec import Struct

from mcpv_node.actors.kernel import ActorError, AskTimeout, MailboxFull
from mcpv_node.gateway.asgi import PROBLEM, TITLES
from mcpv_node.protocol import Reason, http_status_for

_PROBLEM = PROBLEM.decode()


class ProblemBody(Struct, frozen=True, omit_defaults=True):
    """Why there is no other answer. `reason` is the node's word for it, `problems` what is wrong, one by one."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    reason: str | None = None
    problems: list[str] | None = None


# What any route may answer instead of what it is for.
PROBLEMS: Final = {
    status: ResponseSpec(
        ProblemBody, generate_examples=False, description=TITLES.get(status, "Error"), media_type=_PROBLEM
    )
    for status in (400, 404, 406, 422, 429, 502, 503, 504)
}


class Rejection(HTTPException):
    """What was asked for cannot be, for these reasons."""

    status_code = 422

    def __init__(self, detail: str, problems: Sequence[str]) -> None:
        super().__init__(detail)
        self.problems = tuple(problems)


def _problem(
    status: int, detail: str, *, reason: Reason | None = None, problems: Sequence[str] | None = None
) -> Response[bytes]:
    body: dict[str, object] = {
        "type": "about:blank",
        "title": TITLES.get(status, "Error"),
        "status": status,
        "detail": detail,
    }
    if reason is not None:
        body["reason"] = str(reason)
    if problems is not None:
        body["problems"] = problems
    return Response(content=msgspec.json.encode(body), status_code=status, media_type=_PROBLEM)


def on_http_error(_: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    reason = Reason.OVERLOADED if error.status_code == http_status_for(Reason.OVERLOADED) else None
    problems = error.problems if isinstance(error, Rejection) else None
    response = _problem(error.status_code, _sentence(error), reason=reason, problems=problems)
    for name, value in (error.headers or {}).items():
        response.headers[name] = value
    return response


def _sentence(error: HTTPException) -> str:
    """What is wrong, and where in the request."""
    # One for each value that is not what it should be.
    places = cast("list[dict[str, str]]", error.extra) if isinstance(error.extra, list) else []
    found = [": ".join(place[part] for part in ("key", "message") if part in place) for place in places]
    return f"{error.detail}: {'; '.join(found)}" if found else error.detail


def on_actor_error(_: Request[Any, Any, Any], error: ActorError) -> Response[bytes]:
    """The owner of what was asked for could not say it."""
    if isinstance(error, AskTimeout):
        reason = Reason.CALL_TIMEOUT
    elif isinstance(error, MailboxFull):
        reason = Reason.OVERLOADED
    else:
        reason = Reason.STOPPING
    return _problem(http_status_for(reason), str(error), reason=reason)


def on_error(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    logger.bind(path=request.url.path).opt(exception=error).error("a request failed inside the node")
    return _problem(500, "the node failed at this; its log says how")
