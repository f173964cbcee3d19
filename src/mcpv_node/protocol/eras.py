"""Which era a message belongs to, and whether a modern one may be served at all.

Over HTTP every message says it anew:

    _meta names a version, or the header names one that is not legacy    modern, and held to the modern rules
    anything else                                                        legacy; without a header it is 2025-03-26

A modern request is refused at the first of these that fails: `_meta` is whole (-32602), the headers repeat the body
(-32020), we speak the version (-32022), the era has the method (-32601). Whether the client offers what a server needs
(-32021) only that server can tell.

On lines there are no headers. The first `initialize` makes the process legacy, but a request whose `_meta` names a
version is modern at any time.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

from .envelope import Message, Notification, Request
from .errors import (
    HEADER_MISMATCH,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    MISSING_CAPABILITY,
    PARSE_ERROR,
    UNSUPPORTED_VERSION,
    RemoteProtocolError,
)
from .headers import HeaderMismatch, McpHeaders, check_headers
from .lifecycle import INITIALIZE
from .meta import VERSION_KEY, RequestMeta, read_meta, request_meta_in
from .reading import read_object
from .versions import LEGACY, MODERN

# All that a modern client may ask, the tasks extension included. What is missing here on purpose: initialize, ping,
# logging/setLevel, resources/subscribe and resources/unsubscribe.
MODERN_METHODS: Final = frozenset(
    {
        "completion/complete",
        "prompts/get",
        "prompts/list",
        "resources/list",
        "resources/read",
        "resources/templates/list",
        "server/discover",
        "subscriptions/listen",
        "tasks/cancel",
        "tasks/get",
        "tasks/update",
        "tools/call",
        "tools/list",
    }
)
# No legacy client asks these, so one that comes without `_meta` is a modern one that forgot it.
_MODERN_ONLY: Final = frozenset({"server/discover", "subscriptions/listen", "tasks/update"})

_STATUS: Final = {
    PARSE_ERROR: 400,
    INVALID_REQUEST: 400,
    INVALID_PARAMS: 400,
    HEADER_MISMATCH: 400,
    MISSING_CAPABILITY: 400,
    UNSUPPORTED_VERSION: 400,
    METHOD_NOT_FOUND: 404,
}


class Legacy(msgspec.Struct, frozen=True):
    """It belongs to a session, or opens one."""


class Modern(msgspec.Struct, frozen=True):
    """A request that stands for itself and may be served; `params` are the members of its params."""

    meta: RequestMeta
    params: dict[str, Raw]


class ModernNotice(msgspec.Struct, frozen=True):
    """A modern client tells something: over HTTP it is accepted and ignored, on lines it may cancel a request."""


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a message that is not served; `data` is JSON. The status is for HTTP alone."""

    http_status: int
    code: int
    message: str
    data: bytes | None = None


Verdict = Legacy | Modern | ModernNotice | Refused

_LEGACY: Final = Legacy()
_NOTICE: Final = ModernNotice()


def modern_http_status(code: int) -> int:
    """The status of a modern answer with this error, whoever found it: the gateway or the server behind it."""
    return _STATUS.get(code, 200)


def refuse(code: int, message: str, data: bytes | None = None) -> Refused:
    """A refusal with the status the specification has for its code."""
    return Refused(http_status=modern_http_status(code), code=code, message=message, data=data)


def judge_post(message: Message, headers: McpHeaders) -> Verdict:
    """The era of a message that was posted, or the answer that refuses it."""
    legacy_header = headers.version is None or headers.version in LEGACY
    if not isinstance(message, (Request, Notification)):
        if legacy_header:
            return _LEGACY
        return refuse(INVALID_REQUEST, "a modern client posts requests and notifications, no responses")
    if isinstance(message, Notification):
        return _judge_posted_notification(message, headers, legacy_header=legacy_header)
    if legacy_header and not _names_version(message.params):
        unmistakable = message.method in _MODERN_ONLY and headers.version is None and headers.session is None
        return _judge_request(message, headers) if unmistakable else _LEGACY
    if not legacy_header and headers.version not in MODERN and not _names_version(message.params):
        # A later legacy draft may put its own version into the header; initialize settles on one of ours.
        return _LEGACY if message.method == INITIALIZE else _unsupported(headers.version or "")
    return _judge_request(message, headers)


def judge_line(message: Message, *, opened: bool) -> Verdict:
    """The era of a message on lines, or the answer that refuses it; `opened` once `initialize` was seen."""
    if not isinstance(message, (Request, Notification)):
        return _LEGACY
    modern = _names_version(message.params)
    if isinstance(message, Notification):
        return _LEGACY if opened and not modern else _NOTICE
    if modern or (message.method in _MODERN_ONLY and not opened):
        return _judge_request(message, None)
    return _LEGACY


def _judge_posted_notification(
    message: Notification, headers: McpHeaders, *, legacy_header: bool
) -> ModernNotice | Legacy | Refused:
    # The specification leaves the headers of a notification open; only its version can be wrong.
    if headers.version in MODERN:
        return _NOTICE
    if legacy_header:
        return _NOTICE if _names_version(message.params) else _LEGACY
    return _unsupported(headers.version or "")


def _judge_request(request: Request, headers: McpHeaders | None) -> Modern | Refused:
    try:
        params = {} if request.params is None else read_object(request.params, "params")
        meta = request_meta_in(params)
        if headers is not None:
            check_headers(headers, version=meta.version, method=request.method, params=params)
    except HeaderMismatch as mismatch:
        return refuse(HEADER_MISMATCH, str(mismatch))
    except RemoteProtocolError as error:
        return refuse(INVALID_PARAMS, str(error))
    if meta.version not in MODERN:
        return _unsupported(meta.version)
    if request.method not in MODERN_METHODS:
        return refuse(METHOD_NOT_FOUND, f'version {meta.version} has no method "{request.method}"')
    return Modern(meta, params)


def _unsupported(requested: str) -> Refused:
    # Modern versions alone: this is what server/discover says, and a legacy one cannot be asked for in _meta.
    data = msgspec.json.encode({"supported": MODERN, "requested": requested})
    spoken = ", ".join(MODERN)
    return refuse(
        UNSUPPORTED_VERSION, f'the protocol version "{requested}" is not supported; we speak {spoken}', data
    )


def _names_version(params: Raw | None) -> bool:
    """Whether `_meta` names a version, whatever it is."""
    # Most legacy messages do not even hold the word, and need not be read for it.
    if params is None or b"protocolVersion" not in bytes(params):
        return False
    try:
        meta = read_meta(params)
    except RemoteProtocolError:
        return False
    return VERSION_KEY in meta
