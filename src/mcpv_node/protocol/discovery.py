"""`server/discover`: what a modern server says of itself, and what its answer says of any server.

A server that was never spoken to is probed with it. What comes back, or does not, decides how the server is spoken to:

    stdio   a discovery                                      modern
            -32022 that names versions                       the one we share: modern again, or initialize
            another error of the modern era                  the server is modern and refuses us: failed
            anything else, and silence                       initialize
    http    the same for the body, if it is a message; else
            405                                              SSE: it takes no POST
            another 4xx, and silence                         initialize; if that meets 400, 404 or 405, SSE
            401, 403, 407, 408, 429 and everything else      failed: it says nothing about the era

No single code of a legacy server is relied upon: each implementation has its own.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from msgspec import Raw

from .envelope import Failure, Message, Success
from .errors import HEADER_MISMATCH, MISSING_CAPABILITY, UNSUPPORTED_VERSION, RemoteProtocolError
from .lifecycle import ServerHello, parse_capabilities, parse_initialize_result
from .meta import META, SERVER_INFO_KEY, meta_in
from .reading import is_there, read_object, read_text, read_texts
from .rounds import RESULT_TYPE, ResultType
from .shapes import CacheScope
from .versions import LEGACY, MODERN

DISCOVER: Final = "server/discover"
_VERSIONS: Final = "supportedVersions"

# Who asks is not let in, or has to come again: no statement about the era.
_NO_STATEMENT: Final = frozenset({401, 403, 407, 408, 429})
_METHOD_NOT_ALLOWED: Final = 405
# What a server of the oldest transport answers to a message posted to the address of its stream.
_MAYBE_SSE: Final = frozenset({400, 404, 405})


class SpeakModern(msgspec.Struct, frozen=True):
    """The server is modern, and this is what it said."""

    hello: ServerHello


class SpeakLegacy(msgspec.Struct, frozen=True):
    """The session is open; answered to `initialize` alone."""

    hello: ServerHello


class ProbeAgain(msgspec.Struct, frozen=True):
    """The server is modern, in another version that we speak, too."""

    version: str


class UseInitialize(msgspec.Struct, frozen=True):
    """Go on as with a legacy server; `version` is the newest one to ask for."""

    version: str = LEGACY[0]


class TrySse(msgspec.Struct, frozen=True):
    """Go on with the transport of 2024-11-05."""


class ProbeFailed(msgspec.Struct, frozen=True):
    """There is no way to speak to the server now; `why` is a sentence about it."""

    why: str


Silence = Literal["silence"]
AfterProbe = SpeakModern | ProbeAgain | UseInitialize | TrySse | ProbeFailed
AfterInitialize = SpeakLegacy | TrySse | ProbeFailed


def discover_result(
    *,
    capabilities: bytes,
    server_info: bytes,
    ttl_ms: int,
    cache_scope: CacheScope,
    instructions: str | None = None,
) -> bytes:
    """The result of `server/discover`. Modern versions only: a legacy one could not be asked for in `_meta`."""
    result: dict[str, object] = {
        RESULT_TYPE: ResultType.COMPLETE.value,
        _VERSIONS: MODERN,
        "capabilities": Raw(capabilities),
        "ttlMs": ttl_ms,
        "cacheScope": cache_scope,
        META: {SERVER_INFO_KEY: Raw(server_info)},
    }
    if instructions is not None:
        result["instructions"] = instructions
    return msgspec.json.encode(result)


def parse_discover_result(raw: bytes | Raw) -> ServerHello:
    """Read what a modern server says of itself; its `version` is the newest one we share."""
    result = read_object(raw, f"the server's answer to {DISCOVER}")
    versions = _supported(result, _VERSIONS)
    shared = _newest(versions, MODERN)
    if shared is None:
        raise RemoteProtocolError(_nothing_shared(versions))
    if "capabilities" not in result:
        raise RemoteProtocolError(f"the server's answer to {DISCOVER} has no capabilities")
    meta = meta_in(result)
    info = read_object(meta[SERVER_INFO_KEY], SERVER_INFO_KEY) if SERVER_INFO_KEY in meta else {}
    return ServerHello(
        version=shared,
        name=_optional_text(info, "name", f"{SERVER_INFO_KEY}.name") or "",
        server_version=_optional_text(info, "version", f"{SERVER_INFO_KEY}.version") or "",
        capabilities=parse_capabilities(result["capabilities"]),
        instructions=_optional_text(result, "instructions", "the server's instructions"),
    )


def after_probe(
    answer: Message | Silence | None, *, asked: str, status: int | None = None, is_first: bool = False
) -> AfterProbe:
    """How to go on after `server/discover` in the version `asked`; after the first one it may be asked once more.

    `answer` is the message that came, "silence" when none did in time, None when what came is no message. `status` is
    the HTTP status; None on stdio.
    """
    if isinstance(answer, Success):
        return _after_result(answer.result)
    if (
        isinstance(answer, Failure)
        and (known := _after_modern_error(answer.error, None if is_first else asked)) is not None
    ):
        return known
    if status is None or answer == "silence" or status < 300:
        return UseInitialize()
    if status == _METHOD_NOT_ALLOWED:
        return TrySse()
    if 400 <= status < 500 and status not in _NO_STATEMENT:
        return UseInitialize()
    return ProbeFailed(f"the server answered {DISCOVER} with the HTTP status {status}")


def after_initialize(answer: Message | Silence | None, *, status: int | None = None) -> AfterInitialize:
    """How to go on after `initialize`; the parameters are those of `after_probe`."""
    if isinstance(answer, Success):
        try:
            return SpeakLegacy(parse_initialize_result(answer.result))
        except RemoteProtocolError as error:
            return ProbeFailed(str(error))
    if isinstance(answer, Failure) and status not in (404, 405):
        return ProbeFailed(f"the server refused initialize: {_message_of(answer.error)}")
    if answer == "silence":
        return ProbeFailed("the server did not answer initialize")
    if status in _MAYBE_SSE:
        return TrySse()
    if status is None:
        return ProbeFailed("the server answered initialize with something that is no message")
    return ProbeFailed(f"the server answered initialize with the HTTP status {status}")


def _after_result(result: Raw) -> AfterProbe:
    try:
        return SpeakModern(parse_discover_result(result))
    except RemoteProtocolError as error:
        why = str(error)
    try:
        versions = _supported(read_object(result, "the result"), _VERSIONS)
    except RemoteProtocolError:
        # It answers whatever it is asked; a discovery it is not.
        return UseInitialize()
    if _newest(versions, MODERN) is None and (legacy := _newest(versions, LEGACY)) is not None:
        return UseInitialize(legacy)
    return ProbeFailed(why)


def _after_modern_error(error: Raw, refused: str | None) -> AfterProbe | None:
    """What an error of the modern era means; None when it is none."""
    try:
        found = read_object(error, "the server's error")
    except RemoteProtocolError:
        return None
    code = bytes(found.get("code", Raw(b"")))
    if code == b"%d" % UNSUPPORTED_VERSION:
        try:
            versions = _supported(read_object(found.get("data", Raw(b"{}")), "data"), "supported")
        except RemoteProtocolError:
            return None
        shared = _newest(tuple(version for version in versions if version != refused), MODERN)
        if shared is not None:
            return ProbeAgain(shared)
        legacy = _newest(versions, LEGACY)
        return ProbeFailed(_nothing_shared(versions)) if legacy is None else UseInitialize(legacy)
    if code in (b"%d" % HEADER_MISMATCH, b"%d" % MISSING_CAPABILITY):
        return ProbeFailed(f"the server refused {DISCOVER}: {_message_of(error)}")
    return None


def _supported(found: dict[str, Raw], name: str) -> tuple[str, ...]:
    if name not in found:
        raise RemoteProtocolError(f"the server's answer to {DISCOVER} has no {name}")
    return read_texts(found[name], f"the server's {name}")


def _newest(versions: tuple[str, ...], ours: tuple[str, ...]) -> str | None:
    return next((version for version in ours if version in versions), None)


def _nothing_shared(versions: tuple[str, ...]) -> str:
    spoken = ", ".join((*MODERN, *LEGACY))
    return f"the server speaks {', '.join(versions) or 'no version'}; we speak {spoken}"


def _message_of(error: Raw) -> str:
    try:
        return read_text(read_object(error, "the server's error"), "message", "message")
    except RemoteProtocolError:
        return "it did not say why"


def _optional_text(found: dict[str, Raw], key: str, what: str) -> str | None:
    return read_text(found, key, what) if is_there(found, key) else None
