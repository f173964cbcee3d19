"""The messages of a call on its way: what is read of them, and the little that is rewritten.

A rewritten object keeps the order of its keys and the bytes of every value that was not meant; only white space
between its own members is lost. Params that cannot be read are a `RemoteProtocolError`.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

from .envelope import RawId
from .errors import RemoteProtocolError
from .meta import PROGRESS_TOKEN, ROUTING_KEY, meta_in, read_progress_token
from .params import params_for_back
from .reading import read_object, read_scalar, read_text

CALL: Final = "tools/call"
CANCELLED: Final = "notifications/cancelled"
PROGRESS: Final = "notifications/progress"


class Call(msgspec.Struct, frozen=True):
    """What is read of a `tools/call`; the rest stays in `params`, a view into the received bytes."""

    name: str
    progress_token: Raw | None
    key: str | None
    params: Raw


def parse_call(params: Raw | None) -> Call:
    """Read the name of the tool and what the call says of itself."""
    if params is None:
        raise RemoteProtocolError("tools/call has no params")
    found = read_object(params, "the params of tools/call")
    meta = meta_in(found)
    return Call(
        name=read_text(found, "name", "the name of the tool"),
        progress_token=read_progress_token(meta),
        key=read_text(meta, ROUTING_KEY, f'_meta["{ROUTING_KEY}"]') if ROUTING_KEY in meta else None,
        params=params,
    )


def rewrite_call(params: bytes | Raw, *, name: str, progress_token: int | None) -> bytes:
    """The same call for a legacy server, under its own name for the tool and our own token, or none."""
    rewritten = params_for_back(CALL, params, meta=None, progress_token=progress_token, name=name)
    return bytes(params) if rewritten is None else rewritten


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
    found = read_object(params, "the params of notifications/cancelled")
    if "requestId" not in found:
        raise RemoteProtocolError("requestId is missing")
    return RawId(bytes(read_scalar(found["requestId"], "requestId")))


def parse_progress(params: bytes | Raw | None) -> Raw:
    """Whose progress it is: the token as the text its sender wrote."""
    if params is None:
        raise RemoteProtocolError("notifications/progress has no params")
    found = read_object(params, "the params of notifications/progress")
    if PROGRESS_TOKEN not in found:
        raise RemoteProtocolError("progressToken is missing")
    return read_scalar(found[PROGRESS_TOKEN], PROGRESS_TOKEN).copy()


def retoken_progress(params: bytes | Raw, token: bytes | Raw) -> bytes:
    """The same progress under the token its reader knows."""
    found = read_object(params, "the params of notifications/progress")
    found[PROGRESS_TOKEN] = Raw(bytes(token))
    return msgspec.json.encode(found)
