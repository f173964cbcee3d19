"""Who hears from an HTTP session, what can go wrong in it, and what bounds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from mcpv_node.settings import OAuthSettings, ServerTlsSettings

FailureKind = Literal[
    # No connection: the server has not seen the message.
    "connect",
    "tls",
    "proxy",
    # The session already has as many requests as it may; nothing was sent.
    "busy",
    # The server answered, with a status that is no success.
    "status",
    "redirect",
    # It answered with what is no answer: no JSON, no stream, a header that may not be.
    "content",
    "too_large",
    # A named wait was over.
    "timeout",
    # The connection broke, or its stream ended without more to come. The server may have acted on the message.
    "broken",
    "ended",
    # A credential could not be had.
    "auth",
    # A fault of ours.
    "fault",
]

# In these cases nothing of the message can have reached the server.
_UNSENT: frozenset[FailureKind] = frozenset({"connect", "tls", "proxy", "busy", "auth"})


@dataclass(frozen=True, slots=True)
class HttpFailure:
    """Why an exchange brought nothing, in a sentence for people and in fields for decisions."""

    kind: FailureKind
    # A sentence that goes on after the server's name; holds no credential.
    message: str
    status: int | None = None
    # Of an answer that is no success: all of it if it is JSON (an error of JSON-RPC may stand in it), else its head.
    body: bytes = b""
    is_json: bool = False
    # What the server says of when to try again, and of which credential it wants.
    retry_after: str | None = None
    www_authenticate: str | None = None

    @property
    def was_sent(self) -> bool:
        """Tell whether the server may have seen the message; False is certain."""
        return self.kind not in _UNSENT

    def __str__(self) -> str:
        return self.message


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What bounds one session; sizes in bytes, waits in seconds."""

    # One message, event or body, after decompression.
    message_bytes: int
    # Requests in flight. Each may hold a connection; the session's stream and what is sent have their own.
    requests: int
    # To a usable connection: name, TCP, proxy and TLS together. More is a host that does not answer.
    connect_timeout: float = 10.0
    # To the answer of what should be answered at once: notifications, responses, the opening of a stream.
    answer_timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """Where a server is and how it is reached."""

    url: str
    # As configured; what the transport writes itself comes over it.
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    tls: ServerTlsSettings | None = None
    # None: what `environ` says; "none": no proxy.
    proxy: str | None = None
    environ: Mapping[str, str] = field(default_factory=dict[str, str])
    # How tokens are had, and the file in which they are kept: both or none.
    oauth: OAuthSettings | None = None
    token_file: Path | None = None


class HttpSink(Protocol):
    """Who hears what happens in a session; called on the loop's thread, never from inside the session's methods.

    It neither blocks nor raises. After `close` it hears nothing more, after `abort_request` nothing more of that request.
    """

    def on_message(self, data: bytes, request: int | None) -> None:
        """Take one JSON text as it came; `request` is the one on whose exchange it came, None the session's own stream."""
        ...

    def on_request_over(self, request: int, failure: HttpFailure | None) -> None:
        """The exchange of `request` has ended, once for each; `failure` says why if it brought no JSON answer and
        nobody said that the request is settled."""
        ...

    def on_send_failed(self, failure: HttpFailure) -> None:
        """A notification or a response did not arrive, as far as is known."""
        ...

    def on_stream_lost(self, failure: HttpFailure) -> None:
        """The session's own stream is gone and was not to be had again; requests go on."""
        ...

    def on_session_lost(self, why: str) -> None:
        """The server has forgotten the session, or its only stream has ended. Told once."""
        ...
