"""What is asked in the modern era, and what is answered: the data that its parts hand to each other."""

from __future__ import annotations

from typing import Final

from msgspec import Raw, Struct

from mcpv_node.actors.callers import Caller, ClientProfile
from mcpv_node.actors.world import Selector
from mcpv_node.protocol import (
    CallFailure,
    McpHeaders,
    RawId,
    Reason,
    Request,
    RequestMeta,
    encode_failure,
    modern_http_status,
)

from .calls import RETRY_AFTER, failure_reply

# The node answers lists from memory, and tells who listens of a change: keeping one would only make it old.
TTL_MS: Final = 0

# What is listed depends on whose token asks.
SCOPE: Final = "private"


class Asked(Struct, frozen=True):
    """A request, who makes it, and what that client may see; `headers` came beside it, over HTTP."""

    request: Request
    meta: RequestMeta
    params: dict[str, Raw]  # their members
    caller: Caller
    selector: Selector
    headers: McpHeaders | None = None

    @property
    def principal(self) -> str:
        """On whose authority it is made."""
        return self.caller.principal

    @property
    def profile(self) -> ClientProfile:
        """What the client can do, in the one spelling."""
        return self.caller.profile


class ModernReply(Struct, frozen=True):
    """An answer, and the code of the error that it is; a long one comes in pieces, so that nobody has to copy it."""

    head: bytes
    rest: tuple[bytes, ...] = ()
    code: int | None = None

    @property
    def data(self) -> bytes:
        """The whole answer."""
        return b"".join((self.head, *self.rest)) if self.rest else self.head

    @property
    def http_status(self) -> int:
        return 200 if self.code is None else modern_http_status(self.code)


def refusal(id: RawId, code: int, message: str, data: bytes | None = None) -> ModernReply:
    """An error of our own."""
    return ModernReply(encode_failure(id, code=code, message=message, data=data), code=code)


def overloaded(
    id: RawId,
    message: str = "too many requests of this client are in flight",
    *,
    retry_after: float = RETRY_AFTER,
) -> ModernReply:
    """One request too many; another time it may be served."""
    failure = CallFailure(
        reason=Reason.OVERLOADED, message=message, server="", executed="no", retry_after=retry_after
    )
    return ModernReply(failure_reply(failure).encode(id), code=failure.code)
