"""What a server asks of its client while it serves: whose client is meant, and what it is told.

A request that comes on a call's own stream is that call's. On a pipe nothing says which call it belongs to, so it
goes to the only client that has calls in flight; where there are several it cannot be told, and is refused. One that
comes while nobody calls waits for the next call: servers ask for their roots right after the handshake.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from msgspec import Raw

from mcpv_node.protocol import (
    INTERNAL_ERROR,
    METHOD_NOT_FOUND,
    RawId,
    RemoteProtocolError,
    Request,
    encode_failure,
    encode_failure_raw,
    encode_success,
    offers,
)

from .messages import Answer, Asked, AskNumber, AskWithdrawn
from .pending import PendingCall, PendingCalls

# A server that asks so much before anybody has called wants nothing that a client could give.
MAX_UNCLAIMED = 16


@dataclass(frozen=True, slots=True)
class _OpenAsk:
    id: RawId  # the server's own
    call: int


class Asks:
    """See the module. Part of an Instance, which runs its callbacks.

    `capabilities` are those of the clients of this lane; `send` writes a line to the server; `claimed` hears whose
    client was asked.
    """

    def __init__(
        self,
        pending: PendingCalls,
        capabilities: bytes,
        *,
        send: Callable[[bytes], None],
        claimed: Callable[[str], None],
    ) -> None:
        self._pending = pending
        self._capabilities = capabilities
        self._send = send
        self._claimed = claimed
        self._open: dict[AskNumber, _OpenAsk] = {}
        self._unclaimed: list[Request] = []
        self._last = 0

    def on_request(self, request: Request, *, call: PendingCall | None) -> None:
        """The server asks; `call` is the one on whose stream it did, where there is such a thing."""
        if request.method == "ping":
            self._send(encode_success(request.id, b"{}"))
        elif not self._is_offered(request):
            self._refuse(request.id, METHOD_NOT_FOUND, f"{request.method} is not offered by this client")
        elif call is not None or (call := self._pending.only_clients()) is not None:
            self._pass_on(request, call)
        elif not self._pending.awaited() and len(self._unclaimed) < MAX_UNCLAIMED:
            self._unclaimed.append(
                Request(request.id, request.method, None if request.params is None else request.params.copy())
            )
        else:
            self._refuse(request.id, INTERNAL_ERROR, "it cannot be told which client is meant")

    def on_call(self, call: PendingCall) -> None:
        """Somebody calls: what was asked before is asked of that client."""
        unclaimed, self._unclaimed = self._unclaimed, []
        for request in unclaimed:
            self._pass_on(request, call)

    def on_withdrawn(self, id: RawId) -> None:
        """The server cancels a request of its own."""
        self._unclaimed = [request for request in self._unclaimed if request.id != id]
        for number, ask in list(self._open.items()):
            if ask.id == id:
                self._close(number, tell=True)

    def answer(self, number: AskNumber, answer: Answer) -> PendingCall | None:
        """Send the client's answer; the call that goes on with it, where it is still in flight."""
        ask = self._open.get(number)
        if ask is None:
            return None
        call = self._close(number)
        if answer.result is not None:
            self._send(encode_success(ask.id, answer.result))
        else:
            self._send(encode_failure_raw(ask.id, answer.error or b'{"code":-32603,"message":"no answer"}'))
        return call

    def on_call_over(self, call: PendingCall) -> None:
        """Nobody waits for the call any more: the server shall not wait for its client either."""
        for number in call.asks:
            ask = self._open.get(number)
            if ask is not None:
                self._close(number, tell=True)
                self._refuse(ask.id, INTERNAL_ERROR, "the client does not wait any more")

    def _is_offered(self, request: Request) -> bool:
        try:
            return offers(self._capabilities, request.method, request.params)
        except RemoteProtocolError:
            return False

    def _pass_on(self, request: Request, call: PendingCall) -> None:
        if call.on_event is None:
            self._refuse(request.id, METHOD_NOT_FOUND, f"this client cannot be asked for {request.method}")
            return
        self._last += 1
        number = AskNumber(self._last)
        self._open[number] = _OpenAsk(request.id, call.id)
        call.asks |= {number}
        self._claimed(call.client)
        params: Raw | None = None if request.params is None else request.params.copy()
        call.on_event(Asked(number, request.method, params))

    def _close(self, number: AskNumber, *, tell: bool = False) -> PendingCall | None:
        ask = self._open.pop(number)
        call = self._pending.get(ask.call)
        if call is not None:
            call.asks -= {number}
            if tell and call.on_event is not None:
                call.on_event(AskWithdrawn(number))
        return call

    def _refuse(self, id: RawId, code: int, message: str) -> None:
        self._send(encode_failure(id, code=code, message=message))
