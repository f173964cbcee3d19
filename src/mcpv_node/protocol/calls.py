"""The messages of a call on its way: what is read of them, and the little that is rewritten.

A rewritten object keeps the order of its keys and the bytes of every value that was not meant; only white space
between its own members is lost. Params that cannot be read are a `RemoteProtocolError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import msgspec
from msgspec import Raw

from .envelope import RawId
from .errors import RemoteProtocolError
from .members import members

CALL: Final = "tools/call"
GET_PROMPT: Final = "prompts/get"
READ_RESOURCE: Final = "resources/read"
CANCELLED: Final = "notifications/cancelled"
PROGRESS: Final = "notifications/progress"
# A caller's own routing key; the gateway also takes it from a header.
ROUTING_KEY: Final = "mcpv/key"


class Call(msgspec.Struct, frozen=True):
    """What is read of a request for one thing; the rest stays in `params`, a view into the received bytes."""

    name: str  # of the tool or prompt, or the URI of the resource
    progress_token: Raw | None
    key: str | None
    params: Raw
    method: str = CALL


# Which member names what is wanted, and what that is called in a sentence.
NAMED_BY: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        CALL: ("name", "the name of the tool"),
        GET_PROMPT: ("name", "the name of the prompt"),
        READ_RESOURCE: ("uri", "the URI of the resource"),
    }
)


def parse_call(params: Raw | None, method: str = CALL) -> Call:
    """Read which tool, prompt or resource is meant, and what the call says of itself."""
    if params is None:
        raise RemoteProtocolError(f"{method} has no params")
    found = _object(params, f"the params of {method}")
    meta = _object(found["_meta"], "_meta") if "_meta" in found else {}
    member, what = NAMED_BY[method]
    return Call(
        method=method,
        name=_text(found, member, what),
        progress_token=_token(meta["progressToken"]) if "progressToken" in meta else None,
        key=_text(meta, ROUTING_KEY, f'_meta["{ROUTING_KEY}"]') if ROUTING_KEY in meta else None,
        params=params,
    )


def rewrite_call(params: bytes | Raw, *, name: str | None, progress_token: int | None) -> bytes:
    """The same call under the server's own name for what has one, and under our own token, or none."""
    found: dict[str, object] = dict(_object(params, "the params of a call"))
    if name is not None:
        found["name"] = name
    raw_meta = found.get("_meta")
    meta: dict[str, object] = dict(_object(raw_meta, "_meta")) if isinstance(raw_meta, Raw) else {}
    if progress_token is not None:
        meta["progressToken"] = progress_token
        found["_meta"] = meta
    elif "progressToken" in meta:
        del meta["progressToken"]
        found["_meta"] = meta
    return msgspec.json.encode(found)


def cancelled(id: int | RawId, reason: str | None = None) -> bytes:
    """The params that cancel a request."""
    request_id = id if isinstance(id, int) else Raw(id)
    params: dict[str, object] = {"requestId": request_id}
    if reason is not None:
        params["reason"] = reason
    return msgspec.json.encode(params)


def parse_cancelled(params: bytes | Raw | None) -> RawId:
    """Which request a cancellation means, as the text its sender wrote."""
    if params is None:
        raise RemoteProtocolError("notifications/cancelled has no params")
    found = _object(params, "the params of notifications/cancelled")
    if "requestId" not in found:
        raise RemoteProtocolError("requestId is missing")
    return RawId(bytes(_scalar(found["requestId"], "requestId")))


def parse_progress(params: bytes | Raw | None) -> Raw:
    """Whose progress it is: the token as the text its sender wrote."""
    if params is None:
        raise RemoteProtocolError("notifications/progress has no params")
    found = _object(params, "the params of notifications/progress")
    if "progressToken" not in found:
        raise RemoteProtocolError("progressToken is missing")
    return _token(found["progressToken"])


def retoken_progress(params: bytes | Raw, token: bytes | Raw) -> bytes:
    """The same progress under the token its reader knows."""
    found = _object(params, "the params of notifications/progress")
    found["progressToken"] = Raw(bytes(token))
    return msgspec.json.encode(found)


def _token(raw: Raw) -> Raw:
    # A copy: tokens outlive the message that brought them.
    return _scalar(raw, "progressToken").copy()


def _scalar(raw: Raw, what: str) -> Raw:
    """A string or an integer, as ids and tokens must be."""
    text = bytes(raw)
    if text[:1] == b'"' or text.removeprefix(b"-").isdigit():
        return raw
    raise RemoteProtocolError(f"{what} is neither a string nor an integer")


def _object(raw: bytes | Raw, what: str) -> dict[str, Raw]:
    try:
        return members(raw)
    except msgspec.DecodeError:
        raise RemoteProtocolError(f"{what} is not an object") from None


def _text(found: dict[str, Raw], key: str, what: str) -> str:
    if key not in found:
        raise RemoteProtocolError(f"{what} is missing")
    try:
        return msgspec.json.decode(found[key], type=str)
    except msgspec.DecodeError:
        raise RemoteProtocolError(f"{what} is not a string") from None
