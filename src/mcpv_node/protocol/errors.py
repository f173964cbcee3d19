"""What can go wrong between a client, the node and a server, and what each of them is told.

The exceptions say whose fault it was:

    ProtocolError
    ├── LocalProtocolError    we were about to send something that is not allowed
    └── RemoteProtocolError   the peer sent something that is not allowed
        └── EnvelopeError     what it sent is not one JSON-RPC message

A call that failed on its way is no exception but data: `CallFailure`, with one `Reason` of a closed set. Where the
server itself answered with an error, none of this applies: its answer passes untouched.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, Literal

import msgspec

if TYPE_CHECKING:
    from .envelope import RawId

# JSON-RPC 2.0, section 5.1.
PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603

# The specification's own, modern era.
HEADER_MISMATCH: Final = -32020
MISSING_CAPABILITY: Final = -32021
UNSUPPORTED_VERSION: Final = -32022
# Legacy era alone: a modern client must never see them.
RESOURCE_NOT_FOUND: Final = -32002
URL_ELICITATION_REQUIRED: Final = -32042


class ProtocolError(Exception):
    """Something is not as the protocol wants it."""


class LocalProtocolError(ProtocolError):
    """We were about to send something that is not allowed: a defect of ours."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something that is not allowed."""


class EnvelopeError(RemoteProtocolError):
    """The peer sent something that is not one JSON-RPC message.

    `code` and `message` are what to answer; `id` is the request's, where it could be told.
    """

    def __init__(self, code: int, message: str, id: RawId | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.id = id


class Reason(StrEnum):
    """Why a call failed before its server had answered it."""

    OVERLOADED = "overloaded"
    QUEUE_TIMEOUT = "queue_timeout"
    START_FAILED = "start_failed"
    BACKING_OFF = "backing_off"
    SUSPENDED = "suspended"
    STOPPING = "stopping"
    INSTANCE_DIED = "instance_died"
    CALL_TIMEOUT = "call_timeout"
    BAD_REPLY = "bad_reply"

    @property
    def code(self) -> int:
        """The JSON-RPC error code."""
        return CODES[self]


# Outside -32768..-32000: that range belongs to JSON-RPC and to the specification.
CODES: Final[dict[Reason, int]] = {
    Reason.OVERLOADED: -31001,
    Reason.QUEUE_TIMEOUT: -31002,
    Reason.START_FAILED: -31003,
    Reason.BACKING_OFF: -31004,
    Reason.SUSPENDED: -31005,
    Reason.STOPPING: -31006,
    Reason.INSTANCE_DIED: -31007,
    Reason.CALL_TIMEOUT: -31008,
    Reason.BAD_REPLY: -31009,
}

_HTTP_STATUS: Final[dict[Reason, int]] = {
    Reason.OVERLOADED: 429,
    Reason.QUEUE_TIMEOUT: 503,
    Reason.START_FAILED: 503,
    Reason.BACKING_OFF: 503,
    Reason.SUSPENDED: 503,
    Reason.STOPPING: 503,
    Reason.INSTANCE_DIED: 502,
    Reason.CALL_TIMEOUT: 504,
    Reason.BAD_REPLY: 502,
}

# Enough to show a traceback's last words; the whole ring is in the server's own report.
STDERR_LINES: Final = 5


def http_status_for(reason: Reason) -> int:
    """The status REST answers with. MCP over HTTP answers 200: there the message was understood."""
    return _HTTP_STATUS[reason]


class LastExit(msgspec.Struct, frozen=True):
    """How an instance's process ended last."""

    code: int | None
    signal: int | None
    # RFC 3339, UTC, milliseconds: the wall clock belongs to who saw it.
    at: str


class CallFailure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a call did not come back with its server's own answer."""

    reason: Reason
    message: str
    server: str
    # "no" is a promise: the server has not seen the call, and it may be sent again.
    executed: Literal["no", "unknown"]
    queued_seconds: float = 0.0
    started_seconds: float = 0.0
    called_seconds: float = 0.0
    retry_after: float | None = None
    last_exit: LastExit | None = None
    stderr: tuple[str, ...] = ()

    @property
    def code(self) -> int:
        """The JSON-RPC error code."""
        return CODES[self.reason]

    def encode_data(self) -> bytes:
        """The `data` of the error: the numbers to the millisecond, the last lines of stderr."""
        return msgspec.json.encode(
            _FailureData(
                reason=self.reason.value,
                server=self.server,
                executed=self.executed,
                queuedSeconds=round(self.queued_seconds, 3),
                startedSeconds=round(self.started_seconds, 3),
                calledSeconds=round(self.called_seconds, 3),
                retryAfter=None if self.retry_after is None else round(self.retry_after, 3),
                lastExit=self.last_exit,
                stderr=self.stderr[-STDERR_LINES:],
            )
        )


class _FailureData(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The spelling is the contract's, hence the names."""

    reason: str
    server: str
    executed: str
    queuedSeconds: float
    startedSeconds: float
    calledSeconds: float
    retryAfter: float | None = None
    lastExit: LastExit | None = None
    stderr: tuple[str, ...] = ()
