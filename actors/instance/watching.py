"""What a server is asked to tell by itself: that a list has changed, that a resource has.

A server of the older era tells of its lists unasked, and of each resource it is asked for. A modern one is asked once
for everything, and anew when something is added: the new subscription stands before the old one is given up.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec import Raw

from mcpv_node.protocol import (
    INTERNAL_ERROR,
    LISTEN,
    METHOD_NOT_FOUND,
    Failure,
    ListenFilter,
    Message,
    RawId,
    RemoteProtocolError,
    ServerHello,
    Success,
    listen_params,
    subscription_of,
)

from .messages import Answer
from .own_requests import Then

SUBSCRIBE = "resources/subscribe"
UNSUBSCRIBE = "resources/unsubscribe"

Done = Callable[[Answer], None]

_OK = Answer(result=b"{}")


class Watching:
    """See the module. Part of an Instance, which runs its callbacks.

    `ask` sends a request of our own and calls back within its bound; `open` sends one that stays open and gives its
    number; `close` withdraws such a one.
    """

    def __init__(
        self,
        *,
        ask: Callable[[str, bytes | None, Then], None],
        open: Callable[[str, bytes], int],
        close: Callable[[int], None],
    ) -> None:
        self._ask = ask
        self._open = open
        self._close = close
        self._hello: ServerHello | None = None
        self._uris: frozenset[str] = frozenset()
        self._standing: int | None = None
        self._coming: tuple[int, Done | None] | None = None

    def begin(self, hello: ServerHello) -> None:
        """The server is ready."""
        self._hello = hello
        offered = hello.capabilities
        changes = offered.tools_list_changed, offered.resources_list_changed, offered.prompts_list_changed
        if hello.era == "modern" and any(changes):
            self._listen(None)

    def watch(self, uris: frozenset[str], done: Done) -> None:
        """Hear of these resources and of no others; `done` is told what the server says to that."""
        hello = self._hello
        if hello is None:
            done(_error(INTERNAL_ERROR, "the server is not ready"))
        elif not hello.capabilities.resources_subscribe:
            done(_error(METHOD_NOT_FOUND, "the server does not tell of its resources"))
        elif hello.era == "modern":
            self._uris = uris
            self._listen(done)
        else:
            self._subscribe(uris, done)

    def on_acknowledged(self, params: Raw | None) -> None:
        """The server has agreed to a subscription."""
        try:
            named = subscription_of(params)
        except RemoteProtocolError:
            return
        if self._coming is None or named != RawId(b"%d" % self._coming[0]):
            return
        (number, done), former = self._coming, self._standing
        self._coming, self._standing = None, number
        if former is not None:
            self._close(former)
        if done is not None:
            done(_OK)

    def on_reply(self, number: int, reply: Success | Failure | None) -> bool:
        """Tell whether a subscription has ended with this."""
        if self._coming is not None and number == self._coming[0]:
            done = self._coming[1]
            self._coming = None
            if done is not None:
                failed = reply.error if isinstance(reply, Failure) else None
                done(
                    _error(INTERNAL_ERROR, "the server ended it") if failed is None else Answer(error=failed)
                )
            return True
        if number == self._standing:
            self._standing = None
            return True
        return False

    def _listen(self, done: Done | None) -> None:
        assert self._hello is not None
        offered = self._hello.capabilities
        wanted = ListenFilter(
            tools_list_changed=offered.tools_list_changed,
            resources_list_changed=offered.resources_list_changed,
            prompts_list_changed=offered.prompts_list_changed,
            resource_subscriptions=tuple(sorted(self._uris)),
        )
        overtaken = self._coming
        self._coming = (self._open(LISTEN, listen_params(wanted)), done)
        if overtaken is not None:
            # What was asked before is a part of what is asked now, or is not wanted any more.
            self._close(overtaken[0])
            if overtaken[1] is not None:
                overtaken[1](_OK)

    def _subscribe(self, uris: frozenset[str], done: Done) -> None:
        added, removed = uris - self._uris, self._uris - uris
        self._uris = uris
        for uri in removed:
            self._ask(UNSUBSCRIBE, msgspec.json.encode({"uri": uri}), lambda _reply, _status: None)
        if not added:
            done(_OK)
            return
        left = len(added)
        refused: Answer | None = None

        def on_reply(uri: str, reply: Message | None) -> None:
            nonlocal left, refused
            left -= 1
            if isinstance(reply, Failure):
                refused = Answer(error=reply.error.copy())
            elif not isinstance(reply, Success):
                refused = _error(INTERNAL_ERROR, "the server did not answer")
            if not isinstance(reply, Success):
                self._uris -= {uri}
            if not left:
                done(refused or _OK)

        def then(uri: str) -> Then:
            return lambda reply, _status: on_reply(uri, reply)

        for uri in sorted(added):
            self._ask(SUBSCRIBE, msgspec.json.encode({"uri": uri}), then(uri))


def _error(code: int, message: str) -> Answer:
    return Answer(error=msgspec.json.encode({"code": code, "message": message}))
