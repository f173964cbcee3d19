"""Calls that wait for their client over several rounds, and the actor that owns them in between.

A legacy server asks its client while its call is under way; a modern client is asked in the result of its request, and
answers with another request. Between the two nobody is connected: the call goes on, its slot is taken, and `HeldCalls`
has it until the client comes back or its time is over. Where the server is modern, it has answered and nothing is
under way; what is kept then is its instance, which may hold what the next round needs.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final, NewType, TypeAlias

import msgspec
from msgspec import Raw, Struct

from mcpv_node.actors.instance.messages import Answer
from mcpv_node.actors.kernel import ExitReason, Handle, LoopActor, Request, Timer, answers, handles
from mcpv_node.actors.leases import LeaseId, Release
from mcpv_node.actors.server_type.messages import ServerTypeMessage
from mcpv_node.protocol import (
    METHOD_NOT_FOUND,
    PROGRESS,
    ROUND_METHODS,
    InputRequest,
    RemoteProtocolError,
    admits,
    encode_notification,
    input_request,
    offers,
    retoken_progress,
)

from .calls import CallControl, CallReply
from .ports import Tell
from .services import count_down
from .session_port import LOG_MESSAGE, level_of

HeldId = NewType("HeldId", str)

# How long a client may think about what it was asked (seconds). A person who fills in a form needs minutes.
HOLD_SECONDS: Final = 600.0

# Each takes a slot of a server; who asks for more than these at once answers none of them.
MAX_HELD: Final = 64

# The owner answers from memory; longer means that it is being restarted (seconds).
HELD_BOUND: Final = 5.0


def new_held_id() -> HeldId:
    """An id that nobody guesses."""
    return HeldId(secrets.token_urlsafe(16))


class HeldPort(Struct, eq=False):
    """A modern client while a call of its is under way: what the server asks is parked until the client is there.

    Between two requests of the client there is nowhere to write to: what the server tells then is lost to it.
    """

    method: str
    token: Raw | None
    log_level: str | None
    capabilities: bytes
    tell: Tell | None
    _open: dict[str, tuple[InputRequest, asyncio.Future[Answer]]] = {}
    _last: int = 0
    _changed: asyncio.Event | None = None  # for who waits: most calls ask their client nothing

    @property
    def wants_progress(self) -> bool:
        return self.token is not None

    def attach(self, tell: Tell, token: Raw | None) -> None:
        """The client is there again, with a token of its own for what comes from here on."""
        self.tell = tell
        self.token = token

    def detach(self) -> None:
        """The client has its answer; nothing can be written until it comes back."""
        self.tell = None

    def on_progress(self, params: Raw) -> None:
        if self.tell is not None and self.token is not None:
            self.tell(encode_notification(PROGRESS, retoken_progress(params, self.token)))

    def on_note(self, method: str, params: Raw | None) -> None:
        # This era knows no other notification on a call's own stream.
        if self.tell is None or self.log_level is None or method != LOG_MESSAGE:
            return
        if admits(level_of(params), self.log_level):
            self.tell(encode_notification(method, params))

    async def ask(self, method: str, params: bytes | Raw | None) -> Answer:
        if self.method not in ROUND_METHODS or not offers(self.capabilities, method, params):
            return _not_offered(method)
        try:
            question = input_request(f"ask-{self._last + 1}", method, params)
        except RemoteProtocolError:
            return _not_offered(method)
        self._last += 1
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._open[question.key] = question, answered
        self.wake()
        try:
            return await answered
        finally:
            del self._open[question.key]

    def questions(self) -> tuple[InputRequest, ...]:
        """What the client has to be asked, or asked again."""
        return tuple(question for question, answered in self._open.values() if not answered.done())

    def feed(self, key: str, answer: bytes) -> None:
        """The client's answer to one of the questions, where the server still waits for it."""
        known = self._open.get(key)
        if known is not None and not known[1].done():
            known[1].set_result(Answer(result=answer))

    def wake(self) -> None:
        """Something is to be looked at: a question, or the end of the call."""
        if self._changed is not None:
            self._changed.set()

    async def changed(self) -> None:
        """Return when something is to be looked at that was not there before."""
        self._changed = asyncio.Event()
        await self._changed.wait()


class HeldCall:
    """One call under way, from its first request to its reply, whatever requests of its client are open meanwhile."""

    __slots__ = ("_task", "control", "port", "principal")

    def __init__(self, principal: str, port: HeldPort, control: CallControl) -> None:
        self.principal = principal
        self.port = port
        self.control = control
        self._task: asyncio.Task[CallReply] | None = None

    def start(self, work: Coroutine[Any, Any, CallReply]) -> None:
        """Make the call."""
        task = self._task = asyncio.get_running_loop().create_task(work)

        def ended(done: asyncio.Task[CallReply]) -> None:
            self.port.wake()
            if not done.cancelled():
                done.exception()  # whoever waits for the reply sees it; nobody has to

        task.add_done_callback(ended)

    async def next_step(self) -> CallReply | tuple[InputRequest, ...] | None:
        """Wait for the reply, or for what the client has to be asked; None when the call was cancelled."""
        assert self._task is not None  # it has been started
        while True:
            if self._task.done():
                return None if self._task.cancelled() else self._task.result()
            if self.port.questions():
                # A server that asks two things at once writes them one after the other.
                await asyncio.sleep(0)
                if not self._task.done() and (questions := self.port.questions()):
                    return questions
                continue
            await self.port.changed()


@dataclass(frozen=True, slots=True)
class Hold(Request[bool]):
    """Own this call until its client comes back with the id. False: this principal has too many already."""

    id: HeldId
    call: HeldCall


@dataclass(frozen=True, slots=True)
class Take(Request[HeldCall | None]):
    """The client is back. None: there is no such call of this principal's, or not any more."""

    id: HeldId
    principal: str


@dataclass(frozen=True, slots=True)
class KeepInstance:
    """Own this lease until the client comes back with the id: the instance has what the next round needs."""

    id: HeldId
    principal: str
    server: Handle[ServerTypeMessage]
    lease: LeaseId


@dataclass(frozen=True, slots=True)
class LetGo:
    """The next round is over, or has a lease of its own."""

    id: HeldId


@dataclass(frozen=True, slots=True)
class _Expired:
    id: HeldId


HeldMessage: TypeAlias = Hold | Take | KeepInstance | LetGo


class HeldCalls(LoopActor[None]):
    """See the module. `load` counts what each principal has in flight, and so what is held here.

    What it owns ends with it: a call whose client cannot find it any more would only take a slot.
    """

    def __init__(
        self, load: Counter[str], *, hold_seconds: float = HOLD_SECONDS, limit: int = MAX_HELD
    ) -> None:
        super().__init__()
        self._load = load
        self._hold_seconds = hold_seconds
        self._limit = limit
        self._calls: dict[HeldId, tuple[HeldCall, Timer]] = {}
        self._kept: dict[HeldId, tuple[KeepInstance, Timer]] = {}
        self._counts: Counter[str] = Counter()

    def on_exit(self, reason: ExitReason) -> None:
        for id in list(self._calls):
            self._drop_call(id).control.cancel("the node stops")
        for id in list(self._kept):
            self._release(id)

    @answers(Hold)
    def _on_hold(self, request: Hold) -> bool:
        call = request.call
        if self._counts[call.principal] >= self._limit:
            return False
        self._calls[request.id] = call, self.after(self._hold_seconds, _Expired(request.id))
        self._counts[call.principal] += 1
        self._load[call.principal] += 1
        return True

    @answers(Take)
    def _on_take(self, request: Take) -> HeldCall | None:
        known = self._calls.get(request.id)
        if known is None or known[0].principal != request.principal:
            return None
        return self._drop_call(request.id)

    @handles(KeepInstance)
    def _on_keep(self, message: KeepInstance) -> None:
        if self._counts[message.principal] >= self._limit:
            # It may live on without: an instance ends only after some time of idleness.
            message.server.tell(Release(message.lease))
            return
        self._kept[message.id] = message, self.after(self._hold_seconds, _Expired(message.id))
        self._counts[message.principal] += 1

    @handles(LetGo)
    def _on_let_go(self, message: LetGo) -> None:
        self._release(message.id)

    @handles(_Expired)
    def _on_expired(self, message: _Expired) -> None:
        if message.id in self._calls:
            self._drop_call(message.id).control.cancel("the client did not answer in time")
        self._release(message.id)

    def _drop_call(self, id: HeldId) -> HeldCall:
        call, timer = self._calls.pop(id)
        timer.cancel()
        count_down(self._counts, call.principal)
        count_down(self._load, call.principal)
        return call

    def _release(self, id: HeldId) -> None:
        if id not in self._kept:
            return
        kept, timer = self._kept.pop(id)
        timer.cancel()
        count_down(self._counts, kept.principal)
        kept.server.tell(Release(kept.lease))


def _not_offered(method: str) -> Answer:
    error = {"code": METHOD_NOT_FOUND, "message": f"{method} is not offered by this client"}
    return Answer(error=msgspec.json.encode(error))
