"""What a server is asked to tell by itself: that a list has changed, that a resource has.

A server of the older era tells of its lists unasked, and of each resource it is asked for. A modern one is asked once
for everything, and anew when something is added: the new subscription stands before the old one is given up. One
that the server ends is opened again, after a pause that grows; what happened in between nobody has told.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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

# A server may end a subscription any time, a proxy an idle stream; one that ends it at once is not asked in a loop (seconds).
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 60.0

# How often the pause doubles before it is the longest one.
_DOUBLINGS = 8

Done = Callable[[Answer], None]

_OK = Answer(result=b"{}")


@dataclass(frozen=True, slots=True)
class _Coming:
    """A subscription that the server has not agreed to yet."""

    number: int
    uris: frozenset[str]
    done: Done | None


class Watching:
    """See the module. Part of an Instance, which runs its callbacks.

    `ask` sends a request of our own and calls back within its bound; `open` sends one that stays open and gives its
    number; `close` withdraws such a one. `pause` has `listen_again` called after so many seconds; `missed` hears of
    which resources updates may have been missed, and that changes of lists may have been. Times are monotonic seconds.
    """

    def __init__(
        self,
        *,
        ask: Callable[[str, bytes | None, Then], None],
        open: Callable[[str, bytes], int],
        close: Callable[[int], None],
        pause: Callable[[float], object],
        missed: Callable[[frozenset[str]], None],
        now: Callable[[], float],
    ) -> None:
        self._ask = ask
        self._open = open
        self._close = close
        self._pause = pause
        self._missed = missed
        self._now = now
        self._hello: ServerHello | None = None
        self._uris: frozenset[str] = frozenset()
        self._agreed: frozenset[str] = frozenset()  # of these a modern server tells, or told before a gap
        self._standing: int | None = None
        self._stands_since = 0.0
        self._coming: _Coming | None = None
        self._has_gap = False  # a subscription has ended, and none has stood since
        self._ends = 0  # in a row, each soon after it stood

    def begin(self, hello: ServerHello) -> None:
        """The server is ready."""
        self._hello = hello
        if hello.era == "modern" and self._wants_anything():
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
        if self._coming is None or named != RawId(b"%d" % self._coming.number):
            return
        coming, former = self._coming, self._standing
        self._coming, self._standing, self._stands_since = None, coming.number, self._now()
        if former is not None:
            self._close(former)
        had, self._agreed = self._agreed, coming.uris
        if self._has_gap:
            self._has_gap = False
            self._missed(had & coming.uris)
        if coming.done is not None:
            coming.done(_OK)

    def on_reply(self, number: int, reply: Success | Failure | None) -> bool:
        """Tell whether a subscription has ended with this."""
        if self._coming is not None and number == self._coming.number:
            self._on_not_agreed(self._coming, reply)
            return True
        if number == self._standing:
            self._standing = None
            if self._now() - self._stands_since >= LONGEST_PAUSE:
                self._ends = 0
            self._has_gap = True
            if self._coming is None:
                self._listen_later()
            return True
        return False

    def listen_again(self) -> None:
        """The pause is over."""
        if self._standing is None and self._coming is None and self._wants_anything():
            self._listen(None)

    def _on_not_agreed(self, coming: _Coming, reply: Success | Failure | None) -> None:
        self._coming = None
        self._uris = self._agreed
        refused = reply.error if isinstance(reply, Failure) else None
        # What it refuses from the beginning it would refuse again.
        if self._standing is None and (self._has_gap or refused is None):
            self._listen_later()
        if coming.done is not None:
            ended = _error(INTERNAL_ERROR, "the server ended it")
            coming.done(ended if refused is None else Answer(error=refused))

    def _listen_later(self) -> None:
        if self._wants_anything():
            self._pause(min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self._ends, _DOUBLINGS)))
            self._ends += 1

    def _wants_anything(self) -> bool:
        assert self._hello is not None  # there has been a subscription
        offered = self._hello.capabilities
        changes = offered.tools_list_changed, offered.resources_list_changed, offered.prompts_list_changed
        return bool(self._uris) or any(changes)

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
        self._coming = _Coming(self._open(LISTEN, listen_params(wanted)), self._uris, done)
        if overtaken is not None:
            # What was asked before is a part of what is asked now, or is not wanted any more.
            self._close(overtaken.number)
            if overtaken.done is not None:
                overtaken.done(_OK)

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
