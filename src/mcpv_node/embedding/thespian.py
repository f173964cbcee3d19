"""A node as a Thespian actor: `self.createActor("mcpv_node.embedding.thespian.ThespianNode")`.

The actor's process is the node's: the node lives there on a thread of its own, is asked from the actor's thread, and
what it answers is sent from there (see `post`). On the simple base that process is the host's.

What it promises: no handler raises, for Thespian would hand the same message over a second time. Every request is
answered, with its id; who started the node, subscribed or asked it to stop hears one NodeDown. When the actor is asked
to exit, or its host has ended, the node stops in order first.

This module alone imports thespian, and nothing imports this module: Thespian does, by its name.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any, assert_never

import pykka
from loguru import logger
from thespian.actors import (
    Actor,
    ActorAddress,
    ActorExitRequest,
    ActorSystemMessage,
    DeadEnvelope,
    PoisonMessage,
    Thespian_StatusReq,
    Thespian_SystemStatus,
    ThespianWatch,
    WakeupMessage,
)

from mcpv_node.actors.kernel import AnyThreadFuture, MailboxFull
from mcpv_node.node import NodeOptions
from mcpv_node.node_file import is_same_process, process_start_time
from mcpv_node.settings import SettingsError
from mcpv_node.telemetry import Redactor, SystemClock
from mcpv_node.telemetry.logs import lead_logging

from .actor import NodeActor, node_options
from .messages import (
    AwaitDown,
    AwaitUp,
    CallTool,
    Failed,
    GetPrompt,
    ListTools,
    News,
    NodeDown,
    NodeRequest,
    ReadResource,
    Reload,
    Reloaded,
    ServerEvent,
    SnapshotChanged,
    StartNode,
    Stop,
    Subscribe,
    ToolList,
    ToolResult,
    Topic,
    Unsubscribe,
    Why,
    WhyReport,
)
from .post import HEARTBEAT, Post, decide_look

# What Thespian says of itself in an actor's capabilities.
BASE = "Thespian ActorSystem Name"
WATCHES = "Thespian Watch Supported"
SIMPLE, QUEUE = "simpleSystem", "multiprocQueueBase"

# A node's stop has bounds of its own, made of its servers' drains and graces; longer than this is a fault (seconds).
EXIT_BOUND = 600.0

# Before the first StartNode.
NOT_STARTED = "no node was started here: send StartNode first"

_REPLIES = ToolResult | ToolList | SnapshotChanged | ServerEvent | WhyReport | Reloaded | Failed | NodeDown


@dataclass(frozen=True, slots=True)
class _Answer:
    """The node's answer to a request, or what went wrong with it."""

    number: int
    to: ActorAddress
    request_id: str
    outcome: object


@dataclass(frozen=True, slots=True)
class _Up:
    """Whether the node of this life came up; the one who started it hears if not."""

    life: int
    to: ActorAddress
    request_id: str
    outcome: object


@dataclass(frozen=True, slots=True)
class _Down:
    """The node of this life has ended."""

    life: int
    outcome: object


class _Remote:
    """An actor elsewhere, as a subscriber of the node: what it is told waits for the actor's thread."""

    def __init__(self, address: ActorAddress, post: Post[_Item]) -> None:
        self.actor_urn = str(address.actorAddressString)
        self.actor_inbox = self
        self.address = address
        self.topics: set[Topic] = set()
        self.sent = 0  # counted on the actor's thread
        self._told = 0  # counted on the node's
        self._post = post

    def tell(self, message: News | NodeDown) -> None:
        """Take a piece, on the node's thread."""
        self._told += 1
        self._post.put(_Told(self, message))

    def qsize(self) -> int:
        """How much was not sent yet."""
        return self._told - self.sent


@dataclass(frozen=True, slots=True)
class _Told:
    to: _Remote
    news: News | NodeDown


_Item = _Answer | _Up | _Down | _Told


@dataclass(frozen=True, slots=True)
class _Host:
    """A process that the node does not outlive."""

    pid: int
    start_time: str
    is_application: bool
    # Who wrote to us from there; once it has ended, a letter to it would hold up the actor's own end.
    address: ActorAddress | None

    def has_ended(self) -> bool:
        return not is_same_process(self.pid, self.start_time)


class ThespianNode(Actor):  # type: ignore[misc]
    """See the module."""

    def __init__(
        self, capabilities: Mapping[str, Any] | None = None, requirements: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        known = capabilities or {}
        self._base = str(known.get(BASE, ""))
        self._post: Post[_Item] = Post(with_pipe=bool(known.get(WATCHES)))
        self._clock = SystemClock()
        self._parent = os.getppid()
        self._node: pykka.ActorRef[NodeActor] | None = None
        self._life = 0
        # What is said to who comes when there is no node, and why there is none.
        self._refusal = ("invalid_request", NOT_STARTED)
        self._numbers = count(1)
        self._waiting: dict[
            int, float
        ] = {}  # when each request that is not answered was made; the newest is the last
        self._remotes: dict[str, _Remote] = {}
        self._hear_end: dict[str, ActorAddress] = {}  # who started it, and who asked it to stop
        self._is_stopping = False
        self._hosts: tuple[_Host, ...] = ()
        self._hosts_seen_at = 0.0
        self._lost: set[str] = set()  # addresses in a process that has ended
        self._is_leaving = False
        self._has_asked = False  # who hears of dead letters
        self._look = 0  # the number of the wakeup that counts, and when it comes
        self._look_at: float | None = None
        self._thespian_log: logging.Logger | None = None
        self._redact: Redactor | None = None

    def receiveMessage(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, msg: Any, sender: ActorAddress
    ) -> object:
        """Thespian's way in; raises nothing."""
        try:
            self._take(msg, sender)
            self._deliver()
        except Exception as error:  # noqa: BLE001  (a foreign callback: Thespian would call it again)
            logger.opt(exception=error).error("a message could not be handled")
            if isinstance(msg, StartNode | NodeRequest):
                reason = f"the message could not be handled: {error}"
                self.send(sender, Failed(msg.id, "internal_error", reason))
        return self._look_again()

    # Not `_receive`: the simple base sets an attribute of that name on every actor.
    def _take(self, message: Any, sender: ActorAddress) -> None:
        match message:
            case CallTool() | GetPrompt() | ReadResource() | ListTools() | Why() | Reload():
                self._ask(message, sender)
            case StartNode():
                self._start(message, sender)
            case Stop():
                self._stop(message, sender)
            case Subscribe():
                self._subscribe(message.kind, sender)
            case Unsubscribe():
                self._unsubscribe(message.kind, sender)
            case ActorSystemMessage():
                self._take_from_system(message, sender)
            case _ if isinstance(message, _REPLIES):
                # Answering answers would never end.
                logger.warning("{} sent a {}, which only a node says", sender, type(message).__name__)
            case _:
                reason = f"a node has no message {type(message).__name__}"
                self.send(sender, Failed("", "method_not_found", reason))

    def _take_from_system(self, message: Any, sender: ActorAddress) -> None:
        """What Thespian says; an actor of ours that has exited is none, for we make none."""
        if isinstance(message, WakeupMessage):
            self._on_wakeup(message)
        elif isinstance(message, ActorExitRequest):
            self._exit()
        elif isinstance(message, DeadEnvelope):
            self._on_returned(message)
        elif isinstance(message, Thespian_SystemStatus):
            self._on_status(message)
        elif isinstance(message, PoisonMessage):
            logger.warning("{} could not handle what it was told: {}", sender, _details(message))

    # --- one life of a node ---------------------------------------------------------------------

    def _start(self, message: StartNode, sender: ActorAddress) -> None:
        if self._node is not None:
            self.send(sender, Failed(message.id, "invalid_request", "a node runs here already"))
            return
        try:
            options = node_options(
                message.config,
                state_dir=message.state_dir,
                http=message.http,
                token=message.token,
                environ=message.environ,
            )
        except SettingsError as error:
            self._refusal = ("start_failed", str(error))
            self.send(sender, Failed(message.id, *self._refusal))
            return
        self._hosts = () if message.outlives_host else self._find_hosts(message.pid, sender)
        options = self._lead_logs(options)
        node = self._node = NodeActor.start(options)
        self._life += 1
        self._is_stopping = False
        self._refusal = ("stopping", "")
        life = self._life
        self._hear(
            node.ask(AwaitUp(id=message.id), block=False),
            lambda outcome: _Up(life, sender, message.id, outcome),
        )
        self._hear(node.ask(AwaitDown(), block=False), lambda outcome: _Down(life, outcome))

    def _on_up(self, up: _Up) -> None:
        if up.life != self._life:
            return
        if up.outcome is None:
            self._hear_end[str(up.to.actorAddressString)] = up.to
            return
        failed = _as_reply(up.request_id, up.outcome)
        assert isinstance(failed, Failed)
        self.send(up.to, failed)
        # It waits a moment for those who ask why; here it has no more to say than we know.
        if self._node is not None:
            self._tell_node(self._node, Stop())
        self._end(failed.reason, failed.message)

    def _on_down(self, down: _Down) -> None:
        if down.life != self._life or self._node is None:
            return
        reason = down.outcome.reason if isinstance(down.outcome, NodeDown) else str(down.outcome)
        self._end("stopping", f"the node has ended: {reason}", NodeDown(reason))

    def _end(self, word: str, reason: str, down: NodeDown | None = None) -> None:
        """This life is over: from now on we answer alone."""
        self._node = None
        self._refusal = (word, reason)
        hear_end, self._hear_end = self._hear_end, {}
        # Subscribers were told by the node; what it could not say any more, we do.
        for remote in self._remotes.values():
            hear_end[remote.actor_urn] = remote.address
        self._remotes = {}
        for address in hear_end.values():
            self.send(address, down or NodeDown(reason))

    def _stop(self, message: Stop, sender: ActorAddress) -> None:
        if self._node is None:
            self.send(sender, NodeDown(self._refusal[1]))
            return
        self._hear_end[str(sender.actorAddressString)] = sender
        self._is_stopping = True
        self._tell_node(self._node, message)

    # --- requests -------------------------------------------------------------------------------

    def _ask(self, request: NodeRequest, sender: ActorAddress) -> None:
        if self._node is None:
            word, reason = self._refusal
            self.send(sender, Failed(request.id, word, reason, {"reason": word, "executed": "no"}))
            return
        number = next(self._numbers)
        self._waiting[number] = self._clock.monotonic()
        self._hear(
            self._node.ask(request, block=False),
            lambda outcome: _Answer(number, sender, request.id, outcome),
        )

    def _hear(self, future: pykka.Future[Any], then: Callable[[object], _Item]) -> None:
        """Have `then` say, on the node's thread, what to put into the post once the answer is there."""
        assert isinstance(future, AnyThreadFuture)
        future.add_done_callback(lambda: self._post.put(then(_outcome(future))))

    @staticmethod
    def _tell_node(node: pykka.ActorRef[NodeActor], message: Stop) -> None:
        # Asked, not told: a request that comes too late is then nobody's dead letter.
        node.ask(message, block=False)

    # --- subscriptions --------------------------------------------------------------------------

    def _subscribe(self, topic: Topic, sender: ActorAddress) -> None:
        node, key = self._node, str(sender.actorAddressString)
        remote = self._remotes.get(key) or _Remote(sender, self._post)
        try:
            if node is None:
                raise pykka.ActorDeadError(self._refusal[1])
            node.tell(Subscribe(topic, remote))
        except (pykka.ActorDeadError, MailboxFull) as error:
            self.send(sender, NodeDown(str(error)))
            return
        remote.topics.add(topic)
        self._remotes[key] = remote
        self._seek_dead_letters()

    def _unsubscribe(self, topic: Topic, sender: ActorAddress) -> None:
        remote = self._remotes.get(str(sender.actorAddressString))
        if remote is not None and topic in remote.topics:
            self._drop(remote, topic)
            if not remote.topics:
                del self._remotes[remote.actor_urn]

    def _seek_dead_letters(self) -> None:
        """Ask, once, who hears of letters that come back: there is one such actor in a system.

        If it has none, we are it until the host names another. The admin's address is private, and a test holds it.
        """
        admin = getattr(getattr(self, "_myRef", None), "_adminAddr", None)
        if admin is not None and not self._has_asked:
            self._has_asked = True
            self.send(admin, Thespian_StatusReq())

    def _on_status(self, status: Any) -> None:
        if getattr(status, "deadLetterHandler", None) is None:
            self.handleDeadLetters(True)

    def _on_returned(self, letter: Any) -> None:
        """A letter came back: there is nobody, or nobody who reads."""
        self._forget(letter.deadAddress)

    def _forget(self, address: ActorAddress) -> None:
        """Tell this actor nothing more."""
        key = str(address.actorAddressString)
        self._hear_end.pop(key, None)
        remote = self._remotes.pop(key, None)
        if remote is not None:
            logger.info("{} hears nothing any more: its subscriptions end", key)
            for topic in tuple(remote.topics):
                self._drop(remote, topic)

    def _drop(self, remote: _Remote, topic: Topic) -> None:
        remote.topics.discard(topic)
        if self._node is not None:
            try:
                self._node.tell(Unsubscribe(topic, remote))
            except (pykka.ActorDeadError, MailboxFull) as error:
                logger.debug("a subscription ends with its node: {}", error)

    # --- what the node has for us ---------------------------------------------------------------

    def _deliver(self) -> None:
        for item in self._post.take():
            match item:
                case _Answer():
                    self._waiting.pop(item.number, None)
                    if str(item.to.actorAddressString) not in self._lost:
                        self.send(item.to, _as_reply(item.request_id, item.outcome))
                case _Told():
                    self._pass_on(item.to, item.news)
                case _Up():
                    self._on_up(item)
                case _Down():
                    self._on_down(item)
                case _:
                    assert_never(item)
        if self._thespian_log is not None:
            for line in self._post.take_lines():
                self._thespian_log.handle(line)

    def _pass_on(self, remote: _Remote, news: News | NodeDown) -> None:
        remote.sent += 1
        # It may have left, or been forgotten, while the news was on its way.
        if self._remotes.get(remote.actor_urn) is not remote:
            return
        if isinstance(news, NodeDown):
            del self._remotes[remote.actor_urn]
            self._hear_end.pop(remote.actor_urn, None)
        elif _topic(news) not in remote.topics:
            return
        self.send(remote.address, news)

    def _look_again(self) -> object:
        """Have Thespian wake us when there may be something to do."""
        now = self._clock.monotonic()
        if (self._node is not None or self._hosts) and not self._is_leaving:
            look = decide_look(
                asked=next(reversed(self._waiting.values()), None),
                listens=bool(self._remotes) or self._is_stopping,
                has_pipe=self._post.pipe is not None,
                now=now,
            )
            # A wakeup cannot be taken back: an earlier one takes its place, and it passes unheeded.
            if self._look_at is None or now + look < self._look_at:
                self._look += 1
                self._look_at = now + look
                self.wakeupAfter(timedelta(seconds=look), self._look)
        return None if self._post.pipe is None else ThespianWatch([self._post.pipe])

    def _on_wakeup(self, message: Any) -> None:
        if message.payload == self._look:
            self._look_at = None
        now = self._clock.monotonic()
        if now - self._hosts_seen_at >= HEARTBEAT:
            self._hosts_seen_at = now
            self._look_at_hosts()

    # --- the end --------------------------------------------------------------------------------

    def _exit(self, *, drain: bool = True) -> None:
        """The last handler: once it returns, the actor is gone. The node stops in order before, and we wait for it."""
        self._is_leaving = True
        node = self._node
        if node is None:
            return
        self._tell_node(node, Stop(drain=drain))
        deadline = self._clock.monotonic() + EXIT_BOUND
        while self._has_node() and self._clock.monotonic() < deadline:
            self._post.wait(HEARTBEAT)
            self._deliver()

    def _has_node(self) -> bool:
        return self._node is not None

    def _find_hosts(self, maker: int, sender: ActorAddress) -> tuple[_Host, ...]:
        """The processes that this node belongs to: that of the actor's parent, and the application's."""
        if self._base == SIMPLE:
            return ()
        application = self._maker_of_the_system() or maker
        hosts = [_Host(self._parent, process_start_time(self._parent) or "", False, None)]
        # The maker of a message may be on another machine, or be gone: then it is no host to look at.
        if application != self._parent and is_same_process(application, ""):
            address = sender if application == maker else None
            hosts.append(_Host(application, process_start_time(application) or "", True, address))
        return tuple(hosts)

    def _maker_of_the_system(self) -> int | None:
        """The application's process on the queue base, where Thespian's admin is reached by a queue that it made.

        Both names are private, and a test holds them; without them the maker of StartNode stands for it.
        """
        queue: Any = getattr(getattr(getattr(self, "_myRef", None), "transport", None), "_adminQ", None)
        pid = getattr(queue, "_opid", None)
        return pid if isinstance(pid, int) else None

    def _look_at_hosts(self) -> None:
        ended = [host for host in self._hosts if host.has_ended()]
        if not ended:
            return
        self._hosts = ()
        logger.warning("the host's process {} has ended, and the node ends with it", ended[0].pid)
        for host in ended:
            if host.address is not None:
                self._forget(host.address)
                self._lost.add(str(host.address.actorAddressString))
        self._exit(drain=False)
        self.send(self.myAddress, ActorExitRequest())  # pyright: ignore[reportUnknownArgumentType]
        if self._base == QUEUE and any(host.is_application for host in ended):
            # Nobody can reach this actor system any more: without this, all of it would stay for ever.
            self.actorSystemShutdown()

    # --- the log --------------------------------------------------------------------------------

    def _lead_logs(self, options: NodeOptions) -> NodeOptions:
        """In a process of our own, lead what is logged to Thespian's logger, and to the file of the settings.

        Once: a later node's settings change nothing of it, but its secrets are masked, too.
        """
        if self._base == SIMPLE:
            return options
        if self._redact is None:
            self._redact = options.redact
            self._thespian_log = log = logging.root
            # Thespian's own takes lines from the actor's thread alone, and lets nobody change its handlers.
            logging.root = logging.RootLogger(logging.WARNING)
            logging.Logger.root = logging.root
            logging.Logger.manager = logging.Manager(logging.root)

            def hand_over(line: logging.LogRecord) -> None:
                if log.isEnabledFor(line.levelno):
                    self._post.put_line(line)

            given = options.settings.log
            lead_logging(
                given.level,
                hand_over,
                file=None if given.file is None else Path(given.file),
                rotate_mb=given.rotate_mb,
                keep=given.keep,
                redact=self._redact,
            )
        return replace(options, redact=self._redact)


def _topic(news: News) -> Topic:
    return "events" if isinstance(news, ServerEvent) else news.kind


def _details(poison: Any) -> str:
    return str(poison.details)


def _outcome(future: AnyThreadFuture) -> object:
    try:
        return future.get(timeout=0)
    except Exception as error:  # noqa: BLE001  (whatever was answered instead of a reply)
        return error


def _as_reply(request_id: str, outcome: object) -> object:
    """What is sent for the node's answer; an exception is what the node could not answer."""
    match outcome:
        case MailboxFull():
            return Failed(request_id, "overloaded", str(outcome), {"reason": "overloaded", "executed": "no"})
        case pykka.ActorDeadError():
            message = "the node has ended"
            return Failed(request_id, "stopping", message, {"reason": "stopping", "executed": "unknown"})
        case Exception():
            return Failed(request_id, "internal_error", f"the node could not answer: {outcome}")
        case _:
            return outcome
