"""The params of a request on its way to a server: under the server's own names, with our own `_meta`.

What a client says of its connection (version, name, capabilities, log level, progress token) holds on its own leg
only. A modern server is told ours in its place, a legacy one nothing. Everything else passes, unknown keys and trace
context included; where nothing changes, the very bytes do.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import msgspec
from msgspec import Raw

from .meta import (
    CAPABILITIES_KEY,
    CLIENT_INFO_KEY,
    CONNECTION_KEYS,
    LOG_LEVEL_KEY,
    META,
    PROGRESS_TOKEN,
    REMEMBERED,
    REMEMBERED_BYTES,
    VERSION_KEY,
    meta_in,
)
from .reading import decode_text, read_object, read_text

# The member of the params that says what a request is about. Modern headers repeat some of them.
NAMED_BY: Final[dict[str, str]] = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "resources/subscribe": "uri",
    "resources/unsubscribe": "uri",
    "tasks/get": "taskId",
    "tasks/result": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
COMPLETE: Final = "completion/complete"
# What a completion is for, by the type of its reference.
_REFERRED_BY: Final = {"ref/prompt": "name", "ref/resource": "uri"}


_NOT_PASSED: Final = CONNECTION_KEYS | {PROGRESS_TOKEN}


class BackMeta(msgspec.Struct, frozen=True, kw_only=True):
    """What a modern server is told of who asks: the front client's own words, in our version."""

    version: str
    capabilities: bytes
    # The JSON of an Implementation; None when the client did not say who it is.
    client_info: bytes | None = None
    log_level: str | None = None


def params_for_back(
    method: str,
    params: bytes | Raw | None,
    *,
    meta: BackMeta | None,
    progress_token: int | None = None,
    name: str | None = None,
    members: Mapping[str, Raw] | None = None,
) -> bytes | None:
    """The same params for a server: a modern one when there is a `meta`, else a legacy one.

    `name` is what the server itself calls the tool, prompt, resource or task; None leaves it as it is. `members` are
    those of the params, where they have been read.
    """
    if members is None:
        members = {} if params is None else read_object(params, "params")
    found: dict[str, object] = {**members}
    is_changed = name is not None and _rename(method, found, name)
    if meta is not None or progress_token is not None or META in found:
        is_changed |= _set_meta(found, meta, progress_token)
    if is_changed:
        return msgspec.json.encode(found)
    return None if params is None else bytes(params)


def subject_of(method: str, params: bytes | Raw | None) -> str | None:
    """What a request is about: a tool, prompt, resource or task by name; None for methods that name none."""
    return subject_in(method, {} if params is None else read_object(params, f"the params of {method}"))


def subject_in(method: str, found: dict[str, Raw]) -> str | None:
    """The same, of params that have been read."""
    member = NAMED_BY.get(method)
    if method != COMPLETE:
        return None if member is None else read_text(found, member, f"the {member} of {method}")
    if "ref" not in found:
        return read_text(found, "ref", "the ref of a completion")
    ref = read_object(found["ref"], "the ref of a completion")
    member = _REFERRED_BY.get(read_text(ref, "type", "the type of a completion's ref"))
    return None if member is None else read_text(ref, member, f"the {member} of a completion's ref")


def is_prompt_reference(params: bytes | Raw | None) -> bool:
    """Whether a completion is for a prompt; else it is for a resource or a template."""
    found = {} if params is None else read_object(params, "params")
    ref = read_object(found["ref"], "the ref of a completion") if "ref" in found else {}
    return _text(ref.get("type")) == "ref/prompt"


def _rename(method: str, found: dict[str, object], name: str) -> bool:
    """Set what the request is about, if that says something else now; return whether it did."""
    if method == COMPLETE and isinstance(ref := found.get("ref"), Raw):
        inside: dict[str, object] = dict(read_object(ref, "the ref of a completion"))
        if not _set_text(inside, _REFERRED_BY.get(_text(inside.get("type")) or ""), name):
            return False
        found["ref"] = inside
        return True
    return _set_text(found, NAMED_BY.get(method), name)


def _set_text(found: dict[str, object], member: str | None, value: str) -> bool:
    if member is None or _text(found.get(member)) == value:
        return False
    found[member] = value
    return True


def _text(raw: object) -> str | None:
    if not isinstance(raw, Raw):
        return None
    try:
        return decode_text(raw)
    except msgspec.DecodeError:
        return None


def _set_meta(found: dict[str, object], back: BackMeta | None, progress_token: int | None) -> bool:
    """Put our own keys in the place of the client's; return whether anything changed."""
    raw = found.get(META)
    said = bytes(raw) if isinstance(raw, Raw) else b"null"
    # A token of ours is another with every call; the rest is what a client says all the time.
    make = _meta_for_back if progress_token is not None or len(said) > REMEMBERED_BYTES else _remembered_meta
    meta = make(said, back, progress_token)
    if meta is None:
        return False
    found[META] = meta
    return True


def _meta_for_back(client: bytes, back: BackMeta | None, progress_token: int | None) -> Raw | None:
    """What stands in the place of the `_meta` that a client sent; None where that may pass as it is."""
    said = meta_in({META: Raw(client)})
    ours = {} if back is None else _back_keys(back)
    if progress_token is not None:
        ours[PROGRESS_TOKEN] = progress_token
    if not ours and _NOT_PASSED.isdisjoint(said):
        return None
    kept = {key: value for key, value in said.items() if key in ours or key not in _NOT_PASSED}
    # What the client said already keeps its place.
    return Raw(msgspec.json.encode(kept | ours))


_remembered_meta: Final = lru_cache(REMEMBERED)(_meta_for_back)


def _back_keys(back: BackMeta) -> dict[str, object]:
    keys: dict[str, object] = {
        VERSION_KEY: back.version,
        CAPABILITIES_KEY: Raw(back.capabilities),
    }
    if back.client_info is not None:
        keys[CLIENT_INFO_KEY] = Raw(back.client_info)
    if back.log_level is not None:
        keys[LOG_LEVEL_KEY] = back.log_level
    return keys
