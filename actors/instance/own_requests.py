"""What the node itself asks a server (the handshake, its lists, pings): whose reply it is, and how long we wait."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from mcpv_node.actors.kernel import Timer
from mcpv_node.protocol import Failure, Message, Success, encode_request

# Called with the reply, or with None when there was none: in time, or with the HTTP status that came instead.
Then: TypeAlias = Callable[[Message | None, int | None], None]


@dataclass(frozen=True, slots=True)
class _OwnRequest:
    then: Then
    end: Timer


class OwnRequests:
    """See the module. Part of an Instance: `time_over` comes back with `on_unanswered` after so many seconds."""

    def __init__(
        self,
        *,
        send: Callable[[int, str, bytes | None, bytes], None],
        time_over: Callable[[float, int], Timer],
    ) -> None:
        self._send = send
        self._time_over = time_over
        self._requests: dict[int, _OwnRequest] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def ask(self, number: int, method: str, params: bytes | None, then: Then, *, timeout: float) -> None:
        """Send one."""
        self._requests[number] = _OwnRequest(then, self._time_over(timeout, number))
        self._send(number, method, params, encode_request(number, method, params))

    def on_reply(self, number: int, reply: Success | Failure | None, status: int | None = None) -> bool:
        """Tell whether this was a reply to one of them; if so, it has been taken."""
        own = self._requests.pop(number, None)
        if own is None:
            return False
        own.end.cancel()
        own.then(reply, status)
        return True

    def on_unanswered(self, number: int) -> None:
        """Its time is over."""
        own = self._requests.pop(number, None)
        if own is not None:
            own.then(None, None)

    def clear(self) -> None:
        """Nobody wants the replies any more."""
        self._requests.clear()
