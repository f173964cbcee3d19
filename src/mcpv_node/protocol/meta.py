"""The `_meta` of a request: who asks, in which version, with which capabilities.

In the modern era nothing else says so: no connection and no earlier request. In the legacy era the same object
carries only what is not the protocol's own business, a progress token for one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import msgspec
from msgspec import Raw

from .errors import RemoteProtocolError
from .log_levels import LOG_LEVELS, is_log_level
from .profiles import profile_of
from .reading import check_object, read_object, read_scalar, read_text

META: Final = "_meta"
PROGRESS_TOKEN: Final = "progressToken"
# A caller's own routing key; the gateway also takes it from a header.
ROUTING_KEY: Final = "mcpv/key"

_OURS: Final = "io.modelcontextprotocol/"
VERSION_KEY: Final = _OURS + "protocolVersion"
CLIENT_INFO_KEY: Final = _OURS + "clientInfo"
CAPABILITIES_KEY: Final = _OURS + "clientCapabilities"
LOG_LEVEL_KEY: Final = _OURS + "logLevel"
SUBSCRIPTION_KEY: Final = _OURS + "subscriptionId"
SERVER_INFO_KEY: Final = _OURS + "serverInfo"

# They belong to one leg: what a client says on its own is never true on ours.
CONNECTION_KEYS: Final = frozenset(
    {VERSION_KEY, CLIENT_INFO_KEY, CAPABILITIES_KEY, LOG_LEVEL_KEY, SUBSCRIPTION_KEY}
)
# What every modern request must say; its client's name it need not.
REQUIRED_KEYS: Final = (VERSION_KEY, CAPABILITIES_KEY)


# A client says the very same of itself with nearly every request; whoever says ever new things fills no memory.
REMEMBERED: Final = 256
REMEMBERED_BYTES: Final = 1024


class RequestMeta(msgspec.Struct, frozen=True, kw_only=True):
    """What a modern request says of itself."""

    version: str
    client_name: str = ""
    client_version: str = ""
    # In the client's own words, to be passed on as they are; None when it did not say who it is.
    client_info: bytes | None = None
    capabilities: bytes = b"{}"
    profile: str = ""  # the one text for all spellings of these
    log_level: str | None = None
    progress_token: Raw | None = None
    key: str | None = None


class _Client(msgspec.Struct, frozen=True):
    """What of an Implementation is read with every request."""

    name: str = ""
    version: str = ""


_NOBODY: Final = _Client()
_NOTHING: Final = Raw(b"null")
_decode_client: Final = msgspec.json.Decoder(_Client).decode


def read_meta(params: bytes | Raw | None) -> dict[str, Raw]:
    """The members of `_meta` in params; empty when there is none."""
    return {} if params is None else meta_in(read_object(params, "params"))


def meta_in(found: Mapping[str, object]) -> dict[str, Raw]:
    """The members of `_meta` in an object; empty when there is none, or null, which says the same."""
    raw = found.get(META)
    return read_object(raw, META) if isinstance(raw, Raw) and bytes(raw) != b"null" else {}


def parse_request_meta(params: bytes | Raw | None) -> RequestMeta:
    """Read the `_meta` of a modern request; what is missing or wrong is named. The version may be any."""
    return request_meta_in({} if params is None else read_object(params, "params"))


def request_meta_in(found: Mapping[str, Raw]) -> RequestMeta:
    """The same, of params that have been read."""
    raw = found.get(META, _NOTHING)
    said = bytes(raw)
    return _remembered_meta(said) if len(said) <= REMEMBERED_BYTES else _request_meta(meta_in(found))


@lru_cache(REMEMBERED)
def _remembered_meta(said: bytes) -> RequestMeta:
    return _request_meta(meta_in({META: Raw(said)}))


def _request_meta(meta: dict[str, Raw]) -> RequestMeta:
    missing = [key for key in REQUIRED_KEYS if key not in meta]
    if missing:
        raise RemoteProtocolError(f"_meta must have {' and '.join(missing)}")
    check_object(meta[CAPABILITIES_KEY], CAPABILITIES_KEY)
    info = meta.get(CLIENT_INFO_KEY)
    client = _NOBODY if info is None else _read_client(info)
    return RequestMeta(
        version=read_text(meta, VERSION_KEY, VERSION_KEY),
        client_name=client.name,
        client_version=client.version,
        client_info=None if info is None else bytes(info),
        capabilities=bytes(meta[CAPABILITIES_KEY]),
        profile=profile_of(meta[CAPABILITIES_KEY]),
        log_level=_log_level(meta),
        progress_token=read_progress_token(meta),
        key=_optional_text(meta, ROUTING_KEY, f'_meta["{ROUTING_KEY}"]'),
    )


def read_progress_token(meta: dict[str, Raw]) -> Raw | None:
    """A copy of the token: it outlives the message that brought it."""
    return read_scalar(meta[PROGRESS_TOKEN], PROGRESS_TOKEN).copy() if PROGRESS_TOKEN in meta else None


def _read_client(info: Raw) -> _Client:
    try:
        return _decode_client(info)
    except msgspec.DecodeError:
        # Read once more for the sentence, or because the parser is stricter than JSON.
        said = read_object(info, CLIENT_INFO_KEY)
    return _Client(
        _optional_text(said, "name", f"{CLIENT_INFO_KEY}.name") or "",
        _optional_text(said, "version", f"{CLIENT_INFO_KEY}.version") or "",
    )


def _optional_text(found: dict[str, Raw], key: str, what: str) -> str | None:
    return read_text(found, key, what) if key in found else None


def _log_level(meta: dict[str, Raw]) -> str | None:
    level = _optional_text(meta, LOG_LEVEL_KEY, LOG_LEVEL_KEY)
    if level is not None and not is_log_level(level):
        raise RemoteProtocolError(f'{LOG_LEVEL_KEY} "{level}" is none of {", ".join(LOG_LEVELS)}')
    return level
