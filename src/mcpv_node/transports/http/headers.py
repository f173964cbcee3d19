"""Headers: what goes out with a message, and what of an answer's head means something here. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import urljoin, urlsplit

from mcpv_node.version import VERSION

JSON: Final = "application/json"
EVENT_STREAM: Final = "text/event-stream"

SESSION_ID: Final = "mcp-session-id"
PROTOCOL_VERSION: Final = "mcp-protocol-version"
LAST_EVENT_ID: Final = "last-event-id"

_ACCEPT_BOTH: Final = f"{JSON}, {EVENT_STREAM}"

# The specification's alphabet of a session id; the library bounds the length of a header.
_SESSION_ID: Final = re.compile(r"[\x21-\x7e]+")

_PORTS: Final = {"http": 80, "https": 443}


def lower_names(headers: Mapping[str, str]) -> dict[str, str]:
    """The same headers under names that can be compared."""
    return {name.lower(): value for name, value in headers.items()}


def message_headers(base: Mapping[str, str], extra: Mapping[str, str]) -> dict[str, str]:
    """What goes with a POST."""
    ours = {"accept": _ACCEPT_BOTH, "content-type": JSON}
    return {**base, **lower_names(extra), **ours}


def stream_headers(base: Mapping[str, str], last_event_id: str) -> dict[str, str]:
    """What goes with a GET; `last_event_id` is empty for a stream from now on."""
    resume = {LAST_EVENT_ID: last_event_id} if last_event_id else {}
    return {**base, "accept": EVENT_STREAM, **resume}


def default_headers(configured: Mapping[str, str]) -> dict[str, str]:
    """What goes with everything: who we are, what we can unpack, and what was configured."""
    return {
        "user-agent": f"mcpv-node/{VERSION}",
        **lower_names(configured),
        # Bytes that only a library we may not have could unpack would be lost.
        "accept-encoding": "gzip, deflate",
    }


def media_type(content_type: str | None) -> str:
    """`text/event-stream` of `Text/Event-Stream; charset=utf-8`; empty if the answer has no body to speak of."""
    return (content_type or "").partition(";")[0].strip().lower()


def is_json(content_type: str | None) -> bool:
    """Tell whether a body is JSON, of whatever kind."""
    kind = media_type(content_type)
    return kind == JSON or kind.endswith("+json")


def is_session_id(value: str) -> bool:
    """Tell whether a server may call a session so."""
    return _SESSION_ID.fullmatch(value) is not None


def same_origin(url: str, other: str) -> bool:
    """Tell whether credentials for `url` may go to `other`."""
    return _origin(url) == _origin(other)


def absolute(url: str, reference: str) -> str | None:
    """Where `reference`, seen at `url`, leads; None if it is no address."""
    try:
        found = urljoin(url, reference)
        _origin(found)
    except ValueError:
        return None
    return found


def shown(url: str) -> str:
    """An address for a sentence: without what may be a credential."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme)
