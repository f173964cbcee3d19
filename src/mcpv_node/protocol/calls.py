"""The messages of a call on its way: what is read of them, and the little that is rewritten.

A rewritten object keeps the order of its keys and the bytes of every value that was not meant; only white space
between its own members is lost. Params that cannot be read are a `RemoteProtocolError`.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from .envelope import RawId
from .errors import RemoteProtocolError
from .meta import META, PROGRESS_TOKEN, ROUTING_KEY, RequestMeta, meta_in, read_progress_token
from .params import subject_in
from .reading import read_object, read_scalar, read_text

CALL: Final = "tools/call"
GET_PROMPT: Final = "prompts/get"
READ_RESOURCE: Final = "resources/read"
CANCELLED: Final = "notifications/cancelled"
PROGRESS: Final = "notifications/progress"


class Call(msgspec.Struct, frozen=True):
    """What is read of a request for one thing; the rest stays in `params`, a view into the received bytes."""

    name: str  # of the tool or prompt, or the URI of the resource
    progress_token: Raw | None
    key: str | None
    params: Raw
    method: str = CALL
    # Those of the params, where they have been read; nobody changes them.
    members: dict[str, Raw] | None = None

    def with_params(self, params: Raw) -> Call:
        """The same call with other params."""
        return replace(self, params=params, members=None)


def parse_call(params: Raw | None, method: str = CALL) -> Call:
    """Read which tool, prompt, resource, task or reference is meant, and what the call says of itself."""
    if params is None:
        raise RemoteProtocolError(f"{method} has no params")
    found = read_object(params, f"the params of {method}")
    name = subject_in(method, found) or ""
    if META not in found:
        return Call(name, None, None, params, method, found)
    meta = meta_in(found)
    token = read_progress_token(meta)
    key = read_text(meta, ROUTING_KEY, f'_meta["{ROUTING_KEY}"]') if ROUTING_KEY in meta else None
    return Call(name, token, key, params, method, found)


def call_of(params: Raw, method: str, found: dict[str, Raw], meta: RequestMeta) -> Call:
    """The same for a modern request, whose params and `_meta` have been read."""
    return Call(subject_in(method, found) or "", meta.progress_token, meta.key, params, method, found)


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
