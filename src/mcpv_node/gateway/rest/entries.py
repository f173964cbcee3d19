"""REST that changes the configuration: one entry of `servers:` at a time, written to its file and brought into effect.

An edit is all or nothing: after a refusal the files and the servers are as they were. Who may edit decides which
commands the node runs, so that takes a token, and one that sees everything. What is secret goes in and never comes out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias, cast

from litestar import Request, Response, delete, get, patch, post
from litestar.datastructures import State
from litestar.exceptions import HTTPException, NotFoundException, PermissionDeniedException
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, JSONBody
from msgspec import Struct

from mcpv_node.actors.config import RELOAD_BOUND, Applied, EditConfig, NotWritten, Rejected
from mcpv_node.actors.config_edits import (
    AddEntry,
    ChangeEntry,
    Edit,
    EntryChanged,
    NameUnknown,
    NotEdited,
    RemoveEntry,
    etag_of,
)
from mcpv_node.gateway.services import DoorServices
from mcpv_node.settings import ServerSpec, describe_server

from .config import ChangeBody, change_bodies
from .problems import PROBLEMS, ProblemBody, Rejection
from .state import services_of

# An entry as it stands in a file: its keys are in docs/configuration.md, and judged with the rest of the configuration.
Keys: TypeAlias = dict[str, Any]


class EntryBody(Struct, frozen=True):
    """One entry of the configuration in effect, with its defaults; values of `env` and `headers` are `***`."""

    name: str
    entry: dict[str, Any]


class EditedBody(Struct, frozen=True):
    """What an edit has changed: as a reload says it."""

    name: str
    changes: list[ChangeBody]
    warnings: list[str]


_EDITING: Final = {
    **PROBLEMS,
    **{
        status: ResponseSpec(
            ProblemBody, generate_examples=False, description=meaning, media_type="application/problem+json"
        )
        for status, meaning in (
            (403, "This node has no tokens, or this token is not for that"),
            (409, "The name is taken, or the files are not changed by programs"),
            (412, "The entry is not the one of If-Match"),
        )
    },
}


@get("/servers/{name:str}/entry", sync_to_thread=False, responses=PROBLEMS)
def show_entry(state: State, name: FromPath[str]) -> Response[EntryBody]:
    """One entry of `servers:` as it is in effect; its ETag goes into the If-Match of an edit."""
    spec = _find(services_of(state), name)
    if spec is None:
        raise NotFoundException(f"there is no server named {name}")
    return Response(EntryBody(name, describe_server(spec)), headers=_etag(spec))


@post("/servers", status_code=201, responses=_EDITING)
async def add_server(state: State, data: JSONBody[Keys]) -> Response[EditedBody]:
    """Add an entry: its keys as in the configuration file, `name` among them; variables as `${VAR}`."""
    name = data.get("name")
    if not isinstance(name, str):
        raise Rejection("this is no entry", ["name is missing, or no text"])
    body = await _edit(state, AddEntry(name, {"name": name, **data}))
    spec = _find(services_of(state), name)
    headers = {"Location": f"/api/v1/servers/{name}"} | ({} if spec is None else _etag(spec))
    return Response(body, headers=headers)


@patch("/servers/{name:str}", responses=_EDITING)
async def change_server(
    request: Request[Any, Any, State], state: State, name: FromPath[str], data: JSONBody[Keys]
) -> Response[EditedBody]:
    """Set keys of an entry, and take out those that are null; inside `env`, `headers` and other tables key by key."""
    changes, unset = _as_changes(data)
    return await _changed(state, name, ChangeEntry(name, changes, unset, _known(request)))


@delete("/servers/{name:str}", status_code=200, responses=_EDITING)
async def remove_server(request: Request[Any, Any, State], state: State, name: FromPath[str]) -> EditedBody:
    """Take an entry out; its calls in hand are finished."""
    return await _edit(state, RemoveEntry(name, _known(request)))


@post("/servers/{name:str}/enable", status_code=200, responses=_EDITING)
async def enable_server(
    request: Request[Any, Any, State], state: State, name: FromPath[str]
) -> Response[EditedBody]:
    """Have an entry run and listed."""
    return await _changed(state, name, ChangeEntry(name, {}, ("disabled",), _known(request)))


@post("/servers/{name:str}/disable", status_code=200, responses=_EDITING)
async def disable_server(
    request: Request[Any, Any, State], state: State, name: FromPath[str]
) -> Response[EditedBody]:
    """Have an entry neither run nor listed; it stays in the configuration."""
    return await _changed(state, name, ChangeEntry(name, {"disabled": True}, (), _known(request)))


async def _changed(state: State, name: str, edit: ChangeEntry) -> Response[EditedBody]:
    body = await _edit(state, edit)
    spec = _find(services_of(state), name)
    return Response(body, headers={} if spec is None else _etag(spec))


async def _edit(state: State, edit: Edit) -> EditedBody:
    services = services_of(state)
    if services.tokens is None:
        raise PermissionDeniedException(
            "this node runs without tokens: whoever can reach it could have it run any command; edit its file"
        )
    match await services.config.ask(EditConfig(edit), RELOAD_BOUND):
        case Applied(changes=changes, warnings=warnings):
            return EditedBody(edit.name, change_bodies(changes), list(warnings))
        case Rejected(reason=reason, problems=problems):
            raise Rejection(reason, problems)
        case NotWritten(error=error):
            raise HTTPException(str(error), status_code=_status(error))


def _status(error: NotEdited) -> int:
    match error:
        case NameUnknown():
            return 404
        case EntryChanged():
            return 412
        case _:
            return 409


def _as_changes(keys: Mapping[str, object]) -> tuple[dict[str, object], tuple[str, ...]]:
    """Give a merge patch as the keys that are set and those that are taken out."""
    changes: dict[str, object] = {}
    unset: list[str] = []
    wrong: list[str] = []
    for key, value in keys.items():
        if key == "name":
            wrong.append("name: a server keeps its name; remove it and add another")
        elif not key or "." in key:
            wrong.append(f"{key!r}: this is no key of an entry")
        elif value is None:
            unset.append(key)
        elif isinstance(value, dict) and value:
            for below, inner in cast("dict[str, object]", value).items():
                if inner is None:
                    unset.append(f"{key}.{below}")
                else:
                    changes[f"{key}.{below}"] = inner
        else:
            changes[key] = value
    if wrong:
        raise Rejection("the configuration would have errors", wrong)
    return changes, tuple(unset)


def _known(request: Request[Any, Any, State]) -> str | None:
    given = request.headers.get("if-match")
    return None if given is None or given.strip() == "*" else given.strip().strip('"')


def _find(services: DoorServices, name: str) -> ServerSpec | None:
    return next((spec for spec in services.node.settings.servers if spec.name == name), None)


def _etag(spec: ServerSpec) -> dict[str, str]:
    return {"ETag": f'"{etag_of(spec)}"'}
