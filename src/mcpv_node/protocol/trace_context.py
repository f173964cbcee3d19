"""The trace that a request belongs to, as its `_meta` says: W3C Trace Context under its own names (SEP-414).

What is not well formed is no trace: it is neither an error nor passed on in headers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Raw

from .errors import RemoteProtocolError
from .meta import META, meta_in, read_meta
from .reading import decode_text, read_object

TRACE_PARENT: Final = "traceparent"
TRACE_STATE: Final = "tracestate"

_PARENT: Final = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-[\x21-\x7e]*)?")
_STATE: Final = re.compile(r"[\x20-\x7e\t]*")

# The specification wants at least this much of it kept; more may be anything.
_MAX_STATE: Final = 8192


def read_trace(params: bytes | Raw | None) -> dict[str, str]:
    """What params say of their trace; empty where they say nothing of use."""
    try:
        meta = read_meta(params)
    except RemoteProtocolError:
        return {}
    if TRACE_PARENT not in meta:
        return {}
    return check_trace(_text(meta.get(TRACE_PARENT)), _text(meta.get(TRACE_STATE)))


def check_trace(parent: str | None, state: str | None) -> dict[str, str]:
    """The two fields where they are what they must be; without a parent there is no state."""
    if parent is None or _PARENT.fullmatch(parent) is None:
        return {}
    trace = {TRACE_PARENT: parent}
    if state and len(state) <= _MAX_STATE and _STATE.fullmatch(state) is not None:
        trace[TRACE_STATE] = state
    return trace


def write_trace(params: bytes | Raw | None, trace: Mapping[str, str]) -> bytes | Raw | None:
    """The same params, belonging to this trace; the very bytes where there is none."""
    if not trace:
        return params
    found: dict[str, object] = {} if params is None else dict(read_object(params, "params"))
    kept = {key: value for key, value in meta_in(found).items() if key not in (TRACE_PARENT, TRACE_STATE)}
    found[META] = {**kept, **trace}
    return msgspec.json.encode(found)


def _text(raw: Raw | None) -> str | None:
    if raw is None:
        return None
    try:
        return decode_text(raw)
    except msgspec.DecodeError:
        return None
