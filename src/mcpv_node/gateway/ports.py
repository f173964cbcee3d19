"""What a call on its way may do toward the client that made it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeAlias

from msgspec import Raw

from mcpv_node.actors.instance.messages import Answer


class Emit(Protocol):
    """Says something to the client on the stream of its call, before the answer."""

    def __call__(self, message: bytes, *, may_be_dropped: bool) -> bool:
        """False: it was not taken, because nobody will read it or the client owes us too much reading."""
        ...


# Says something that may be dropped: modern clients hear nothing else before an answer.
Tell: TypeAlias = Callable[[bytes], object]


# Returns once nobody is there any more who could answer what was said on the stream of a call.
Gone: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


class ClientPort(Protocol):
    """One client while one call of its is under way; used on the loop's thread."""

    @property
    def wants_progress(self) -> bool:
        """Whether the client gave a token for it."""
        ...

    @property
    def log_level(self) -> str | None:
        """The least severe log message the client wants to hear; None: it has not said."""
        ...

    def on_progress(self, params: Raw) -> None:
        """Pass on the params of a progress notification, under the client's own token."""
        ...

    def on_note(self, method: str, params: Raw | None) -> None:
        """Pass on another notification of the server's, if the client may hear it."""
        ...

    async def ask(self, method: str, params: bytes | Raw | None) -> Answer:
        """Ask the client what the server wants to know; cancelled, the client is told that nobody waits for it."""
        ...
