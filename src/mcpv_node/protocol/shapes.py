"""Results and errors between the eras: what the other one needs is added, what it does not know is taken away.

Where nothing is to be done the very bytes pass. Values are never re-encoded.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from msgspec import Raw

from .errors import (
    INVALID_PARAMS,
    MISSING_CAPABILITY,
    RESOURCE_NOT_FOUND,
    URL_ELICITATION_REQUIRED,
    RemoteProtocolError,
)
from .members import members
from .meta import META, SERVER_INFO_KEY, meta_in
from .reading import is_there, read_object
from .rounds import RESULT_TYPE, ResultType, result_type_in

CacheScope = Literal["public", "private"]

# Their complete results say how long they hold, and for whom.
CACHEABLE: Final = frozenset(
    {
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "server/discover",
        "tools/list",
    }
)
_TTL: Final = "ttlMs"
_SCOPE: Final = "cacheScope"
_READ: Final = "resources/read"
_QUOTED_TYPE: Final = f'"{RESULT_TYPE}"'.encode()
_QUOTED_META: Final = f'"{META}"'.encode()
_COMPLETE: Final = f'"{RESULT_TYPE}":"{ResultType.COMPLETE.value}",'.encode()
_SIGNED: Final = f'"{META}":{{"{SERVER_INFO_KEY}":'.encode()
_SAYS_COMPLETE: Final = f'"{ResultType.COMPLETE.value}"'.encode()
_OBJECT: Final = ord("{")


def to_modern(
    method: str, result: bytes | Raw, *, server_info: bytes, ttl_ms: int, cache_scope: CacheScope
) -> bytes:
    """A result for a modern client: what its server did not say of itself is added."""
    data = bytes(result)
    if method not in CACHEABLE and _says_nothing_of_itself(data):
        return b"%b,%b%b%b}}" % (data[:-1], _COMPLETE, _SIGNED, server_info)
    said = read_object(result, "the server's result")
    if method not in CACHEABLE and META not in said and _says_complete(said, data):
        return b"%b,%b%b}}" % (data[:-1], _SIGNED, server_info)
    kind = result_type_in(said)
    found: dict[str, object] = {**said}
    before = len(found)
    found.setdefault(RESULT_TYPE, kind.value)
    if method in CACHEABLE and kind is ResultType.COMPLETE:
        found.setdefault(_TTL, ttl_ms)
        found.setdefault(_SCOPE, cache_scope)
    signed = _sign(found, server_info)
    if len(found) == before and not signed:
        return data
    return msgspec.json.encode(found)


def to_legacy(method: str, result: bytes | Raw) -> bytes:
    """A complete result for a legacy client; one that is not complete has no legacy form."""
    said = read_object(result, "the server's result")
    kind = result_type_in(said)
    if kind is not ResultType.COMPLETE:
        raise RemoteProtocolError(f"the server answered {method} with a result that is {kind}, not complete")
    found: dict[str, object] = {**said}
    before = len(found)
    found.pop(RESULT_TYPE, None)
    if method in CACHEABLE:
        found.pop(_TTL, None)
        found.pop(_SCOPE, None)
    unsigned = _unsign(found)
    if len(found) == before and not unsigned:
        return bytes(result)
    return msgspec.json.encode(found)


def error_to_modern(error: bytes | Raw, *, uri: str | None = None) -> bytes:
    """A server's error for a modern client, who must not see the codes of the legacy era.

    `uri` is the resource that was asked for; it stands in the error when the server did not name it.
    """
    found: dict[str, object] = dict(read_object(error, "the server's error"))
    code = _code(found)
    if code == RESOURCE_NOT_FOUND:
        found["code"] = INVALID_PARAMS
        if uri is not None:
            _name_uri(found, uri)
        return msgspec.json.encode(found)
    if code == URL_ELICITATION_REQUIRED:
        # Whoever can visit a URL is asked to (`url_elicitations`); this is for who cannot.
        found["code"] = MISSING_CAPABILITY
        found["data"] = {"requiredCapabilities": {"elicitation": {"url": {}}}}
        return msgspec.json.encode(found)
    return bytes(error)


def error_to_legacy(method: str, error: bytes | Raw) -> bytes:
    """A modern server's error for a legacy client, who knows a resource that is not there by a code of its own."""
    found: dict[str, object] = dict(read_object(error, "the server's error"))
    if method != _READ or _code(found) != INVALID_PARAMS or not _names_uri(found.get("data")):
        return bytes(error)
    found["code"] = RESOURCE_NOT_FOUND
    return msgspec.json.encode(found)


def _says_nothing_of_itself(data: bytes) -> bool:
    """Whether an object with members certainly has none of those that are added: it need not be read for that."""
    # A backslash may spell a letter of a key.
    return data[:2] == b'{"' and not (b"\\" in data or _QUOTED_TYPE in data or _QUOTED_META in data)


def _says_complete(said: dict[str, Raw], data: bytes) -> bool:
    """Whether it is complete by its own words, in the spelling that all use, and can be added to at its end."""
    kind = said.get(RESULT_TYPE)
    return kind is not None and bytes(kind) == _SAYS_COMPLETE and data[-1:] == b"}"


def _sign(found: dict[str, object], server_info: bytes) -> bool:
    meta: dict[str, object] = dict(meta_in(found))
    if SERVER_INFO_KEY in meta:
        return False
    meta[SERVER_INFO_KEY] = Raw(server_info)
    found[META] = meta
    return True


def _unsign(found: dict[str, object]) -> bool:
    meta = meta_in(found)
    if meta.pop(SERVER_INFO_KEY, None) is None:
        return False
    if meta:
        found[META] = meta
    else:
        del found[META]
    return True


def _code(found: dict[str, object]) -> int | None:
    raw = found.get("code")
    try:
        return msgspec.json.decode(raw, type=int) if isinstance(raw, Raw) else None
    except msgspec.DecodeError:
        return None


def _name_uri(found: dict[str, object], uri: str) -> None:
    raw = found.get("data")
    if not isinstance(raw, Raw) or bytes(raw) == b"null":
        found["data"] = {"uri": uri}
    elif memoryview(raw)[0] == _OBJECT and not _names_uri(raw):
        found["data"] = dict(members(raw)) | {"uri": uri}


def _names_uri(data: object) -> bool:
    if not isinstance(data, Raw) or memoryview(data)[0] != _OBJECT:
        return False
    return is_there(members(data), "uri")
