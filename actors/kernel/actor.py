"""What an actor is, whatever it runs on: handlers, estate, timers, deferred replies, one end.

An actor is a class with handlers:

    class Counter(LoopActor[int]):
        @answers(Add)
        def _on_add(self, request: Add) -> int:
            self.estate = (self.estate or 0) + request.amount
            return self.estate

A handler is a plain function that does not block. What it returns is the reply; `self.defer()` promises it
for later. An exception it lets out, of whatever kind, ends this actor and only this actor; expected
outcomes are reply values. What it has assigned to `self.estate` counts once the handler has returned.
"""

from __future__ import annotations

import abc
import asyncio
import contextlib
import inspect
import itertools
import threading
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, ClassVar, Generic, TypeVar, cast

import pykka
from loguru import logger
from msgspec import Struct
from pykka import messages

from .cell import Cell, Letter, StopRequested
from .errors import ActorDead, ActorRestarted, UnhandledMessage
from .mailbox import Mailbox
from .messages import (
    Crashed,
    DeadLetter,
    Down,
    ExitReason,
    MonitorId,
    Normal,
    Pulse,
    Request,
    Shutdown,
)
from .replies import AnyThreadFuture, Port

E = TypeVar("E")  # the estate: frozen data, or None before anything was committed
A = TypeVar("A", bound="KernelActor[Any]")
T = TypeVar("T")
R = TypeVar("R")

# How many letters one actor reads in one turn of the loop before the others have theirs.
BATCH = 64

_monitor_numbers = itertools.count(1)

# What pykka names an actor by; one process's actors are told apart by their numbers.
_URN = uuid.uuid4().urn
_urn_numbers = itertools.count(1)
_HANDLED_TYPE = "_mcpv_handled_type"


def monitor_id() -> MonitorId:
    """A fresh id for one watch."""
    return MonitorId(next(_monitor_numbers))


class Deferred(Struct, Generic[R], eq=False):
    """A reply that was promised and comes later; at the actor's death it fails with ActorRestarted."""

    _actor: KernelActor[Any]
    _port: Port[R] | None

    def answer(self, value: R) -> None:
        """Reply; only the first answer counts."""
        port = self._settle()
        if port is None:
            return
        if self._actor.cell.system.on_loop_thread():
            port.answer(value)
        else:
            self._actor.on_loop(port.answer, value)

    def fail(self, error: Exception) -> None:
        port = self._settle()
        if port is not None:
            self._actor.on_loop(port.fail, error)

    def _settle(self) -> Port[R] | None:
        port, self._port = self._port, None
        self._actor.forget_deferred(self)
        return port


def answers(
    message_type: type[Request[R]],
) -> Callable[[Callable[[A, Any], R | Deferred[R]]], Callable[[A, Any], R | Deferred[R]]]:
    """Make the decorated method the handler of this request; its result is the reply."""

    def mark(method: Callable[[A, Any], R | Deferred[R]]) -> Callable[[A, Any], R | Deferred[R]]:
        setattr(method, _HANDLED_TYPE, message_type)
        return method

    return mark


def handles(message_type: type[T]) -> Callable[[Callable[[A, T], None]], Callable[[A, T], None]]:
    """Make the decorated method the handler of this message, to which there is no reply."""

    def mark(method: Callable[[A, T], None]) -> Callable[[A, T], None]:
        setattr(method, _HANDLED_TYPE, message_type)
        return method

    return mark


class Timer:
    """A message to oneself at a later time. It dies with its actor, also when it has rung and waits unread."""

    __slots__ = ("_actor", "_handle", "cancelled", "message")

    def __init__(self, actor: KernelActor[Any], message: object) -> None:
        self._actor = actor
        self._handle: asyncio.TimerHandle | None = None
        self.message = message
        self.cancelled = False

    def start(self, loop: asyncio.AbstractEventLoop, delay: float) -> None:
        """Begin, on the loop's thread, unless a cancellation or the actor's end came first."""
        if self.cancelled or self._actor.state == "ended":
            self._actor.forget_timer(self)
            return
        self._handle = loop.call_later(delay, self._ring)

    def cancel(self) -> None:
        """Never ring, also when the message is in the mailbox already; nothing happens once it was read."""
        self.cancelled = True  # at once: on another thread than the loop's, _cancel comes only after a turn
        self._actor.on_loop(self._cancel)

    def _cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._actor.forget_timer(self)

    def _ring(self) -> None:
        self._handle = None
        self._actor.forget_timer(self)
        self._actor.mailbox.put_letter(Letter(self), bounded=False)


class _WorkDone:
    """What `run` brings back. The next incarnation did not ask for it and never sees it."""

    __slots__ = ("message",)

    def __init__(self, message: object) -> None:
        self.message = message


class KernelActor(pykka.Actor, Generic[E]):
    """See the module. `LoopActor` and `ThreadActor` say where handlers run."""

    handlers: ClassVar[dict[type[Any], Callable[[Any, Any], Any]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # By name, so that a method a subclass overrides is the handler there, marked again or not.
        names: dict[type[Any], str] = {}
        for base in reversed(cls.__mro__):
            for name, method in vars(base).items():
                message_type = getattr(method, _HANDLED_TYPE, None)
                if message_type is not None:
                    names[message_type] = name
        cls.handlers = {message_type: getattr(cls, name) for message_type, name in names.items()}
        for handler in cls.handlers.values():
            _require_plain(cls.__name__, handler)

    def __init__(self) -> None:
        # As pykka does it, but for the urn: pykka draws random bytes for each, a call to the system.
        self.actor_urn = f"{_URN}:{next(_urn_numbers)}"
        self.actor_inbox = self.mailbox = self._create_actor_inbox()
        self.actor_stopped = threading.Event()
        self._actor_ref = pykka.ActorRef(self)
        self.mailbox.bind(self)
        self.estate: E | None = None
        self.handled = 0
        self.state = "starting"
        self.incarnation = 0
        self.registered = False  # in pykka's ActorRegistry: true of a node alone, so that a host's stop_all() meets the root
        self.cell: Cell
        self._letter: Letter | None = None
        self._exit: ExitReason | None = None
        self._begun = False  # on_start has been called, so on_exit will be
        self._holds = False
        self._stop_ports: list[Port[Any]] = []
        self._deferred: set[Deferred[Any]] = set()
        self._timers: set[Timer] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    # --- hooks ----------------------------------------------------------------------------------

    def on_start(self, estate: E | None = None) -> None:
        """Begin, with what the previous incarnation had committed. An exception here is a failed start."""

    def on_shutdown(self) -> None:
        """Asked to stop, in mailbox order. End with `exit`, now or when the work in hand is done."""
        self.exit(Shutdown())

    def on_down(self, down: Down) -> None:
        """Something this actor watched has ended."""

    def on_exit(self, reason: ExitReason) -> None:
        """The last thing an incarnation does, also when it crashed or was killed. Releases what it holds.

        One that ended before its `on_start` holds nothing and is not called.
        """

    # --- for handlers ---------------------------------------------------------------------------

    def hold_start(self) -> None:
        """In `on_start`: not started until `started` is called; the supervisor bounds the wait."""
        self._holds = True

    def started(self) -> None:
        """The start held by `hold_start` is complete."""
        self.on_loop(self._started)

    def exit(self, reason: ExitReason | None = None) -> None:
        """End this actor once the current handler returns, Normal unless said otherwise."""
        if self._exit is None:
            self._exit = reason or Normal()
            self.cell.system.post(self._exit_now)

    def defer(self) -> Deferred[Any]:
        """Promise the reply to the request being handled for later; return the result from the handler."""
        letter = self._letter
        if letter is None:
            raise RuntimeError("defer() outside a handler")
        deferred: Deferred[Any] = Deferred(self, letter.port)
        self._deferred.add(deferred)
        return deferred

    def after(self, delay: float, message: object) -> Timer:
        """Have `message` told to this actor in `delay` seconds, unless it has ended by then."""
        timer = Timer(self, message)
        self._timers.add(timer)
        self.on_loop(timer.start, self.cell.system.loop, delay)
        return timer

    def note(self, message: object) -> None:
        """Tell oneself, past the mailbox's bound: for what callbacks of the outside world bring. Loop thread only."""
        self.mailbox.put_letter(Letter(message), bounded=False)

    def note_now(self, message: object) -> None:
        """`note`, read in this very turn if nothing stands before it. Only from the loop's own callbacks."""
        letter = Letter(message)
        if not self.read_now(letter):
            self.mailbox.put_letter(letter, bounded=False)

    def run(self, work: Coroutine[Any, Any, T], then: Callable[[T | Exception], object]) -> None:
        """Start slow work; `then` makes the message that brings its result, or its exception, back.

        The work is cancelled when the actor ends.
        """
        if not self.on_loop(self._run, work, then):
            work.close()

    def watch(self, cell: Cell) -> MonitorId:
        """Have `on_down` called once when the current incarnation in `cell` ends."""
        monitor = monitor_id()
        self.on_loop(self._watch, cell, monitor)
        return monitor

    def unwatch(self, cell: Cell, monitor: MonitorId) -> None:
        self.on_loop(cell.unwatch, monitor)

    # --- the kernel's side ----------------------------------------------------------------------

    @staticmethod
    def _create_actor_inbox() -> Mailbox:
        return Mailbox()

    @staticmethod
    def _create_future() -> pykka.Future[Any]:
        return AnyThreadFuture()

    def _start_actor_loop(self) -> None:
        raise RuntimeError(f"{type(self).__name__} is started by a supervisor, not by start()")

    def attach(self, cell: Cell) -> None:
        """Become the current incarnation of `cell` and begin in the loop's next turn."""
        if self.incarnation:
            raise RuntimeError(f"{cell.name}: an actor lives once; make a new {type(self).__name__}")
        self.cell = cell
        self.incarnation = cell.incarnation
        self.estate = cell.estate
        cell.system.enter(self)
        cell.system.loop.call_soon(self._boot)

    @abc.abstractmethod
    def drain(self) -> None:
        """Read a batch from the mailbox. The loop calls this once per arming."""

    def read_now(self, letter: Letter) -> bool:
        """Read this letter now, after what came before it; False if it was not."""
        return False

    @abc.abstractmethod
    def _boot(self) -> None:
        """Run `on_start` where handlers run."""

    def _invoke(self, letter: Letter) -> Any:
        """Run the handler for one letter and return its result."""
        handler = self.handlers.get(type(letter.message))
        return self._invoke_other(letter) if handler is None else handler(self, letter.message)

    def _invoke_other(self, letter: Letter) -> Any:
        """The same for what no class has a handler of its own for."""
        message = letter.message
        if isinstance(message, StopRequested):
            if letter.port is not None:
                self._stop_ports.append(letter.port)
                letter.port = None
            return self.on_shutdown()
        if isinstance(message, Pulse):
            return None
        if isinstance(message, Down):
            return self.on_down(message)
        if isinstance(message, messages.ProxyCall | messages.ProxyGetAttr | messages.ProxySetAttr):
            return self._handle_receive(message)
        if isinstance(message, Timer):
            return None if message.cancelled else self._invoke(Letter(message.message))
        if isinstance(message, _WorkDone):
            return self._invoke(Letter(message.message))
        error = UnhandledMessage(f"{self.cell.name} has no handler for {type(message).__name__}")
        self.on_loop(self.cell.refuse, Letter(message, letter.port), error)
        letter.port = None
        return None

    def _settle(self, letter: Letter, reply: Any) -> None:
        """A handler returned: its estate counts, its reply goes out."""
        self.handled += 1
        self.cell.estate = self.estate
        port = letter.port
        if port is not None and type(reply) is not Deferred:
            port.answer(reply)

    def _crash(self, error: BaseException, letter: Letter | None) -> None:
        """An exception got out of a hook or a handler: this actor ends, nothing else does."""
        # Lazily: the text of a traceback takes about as long as all the rest of a restart, and is for who logs it.
        logger.bind(actor=self.cell.name, incarnation=self.incarnation).opt(lazy=True).error(
            "actor crashed\n{}", lambda: _trace(error)
        )
        description = _describe(error)
        if letter is not None and letter.port is not None:
            letter.port.fail(ActorRestarted(f"{self.cell.name} crashed on this request: {description}"))
        self.die(Crashed(description, _sentence(error)))

    def die(self, reason: ExitReason) -> None:
        """End now, on the loop's thread: the one place where an incarnation's life is over."""
        if self.state == "ended":
            return
        self.state = "ended"
        cell = self.cell
        in_hand, self._letter = self._letter, None
        for timer in list(self._timers):
            timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        if self._begun:
            self._last_rites(reason)
        for deferred in list(self._deferred):
            deferred.fail(self._unanswered(reason))
        unread = self.mailbox.close()
        if in_hand is not None:
            self._give_up(in_hand, reason)
        self.actor_stopped.set()
        if self.registered:
            pykka.ActorRegistry.unregister(self.actor_ref)
        cell.system.leave(self)
        try:
            cell.ended(self.incarnation, reason, deque(self._to_pass_on(unread)))
        finally:
            for port in self._stop_ports:
                port.answer(None)

    def _unanswered(self, reason: ExitReason) -> ActorRestarted:
        return ActorRestarted(f"{self.cell.name} ended before it answered ({reason})")

    def _give_up(self, letter: Letter, reason: ExitReason) -> None:
        """The handler at work on `letter` is abandoned: its asker hears of the end now."""
        port = letter.port
        if port is None:
            return
        if isinstance(letter.message, StopRequested):
            self._stop_ports.append(port)
        else:
            port.fail(self._unanswered(reason))

    def _to_pass_on(self, unread: Iterable[Letter]) -> list[Letter]:
        """What others sent is the next incarnation's; requests to stop and messages to oneself end here."""
        kept: list[Letter] = []
        for letter in unread:
            if isinstance(letter.message, StopRequested):
                if letter.port is not None:
                    self._stop_ports.append(letter.port)
            elif not isinstance(letter.message, Timer | _WorkDone):
                kept.append(letter)
        return kept

    def _last_rites(self, reason: ExitReason) -> None:
        try:
            self.on_exit(reason)
        except BaseException as error:  # noqa: BLE001  (a hook's failure must not keep the end from being seen)
            logger.bind(actor=self.cell.name).opt(exception=error).error("on_exit failed")

    def refuse_late(self, letter: Letter) -> None:
        """A message that lost the race with this actor's end, on whatever thread it was sent."""
        if isinstance(letter.message, StopRequested):
            if letter.port is not None:
                letter.port.answer(None)
        elif letter.port is not None:
            # An asker on a loop that has closed is gone; setting its future would want that loop.
            with contextlib.suppress(RuntimeError):
                letter.port.fail(ActorDead(f"{self.cell.name} has ended"))
        else:
            kind = type(letter.message).__name__
            self.cell.system.bury_late(
                DeadLetter(self.cell.name, self.cell.kind, kind, "the actor has ended")
            )

    def _boot_done(self) -> None:
        """`on_start` has returned, back on the loop: its estate counts, and the start too unless it is held."""
        self.cell.estate = self.estate
        if self._holds:
            self.state = "held"
        else:
            self._run_from_now()

    def _started(self) -> None:
        self._holds = False
        if self.state == "held":
            self._run_from_now()

    def _run_from_now(self) -> None:
        self.state = "running"
        if self.cell.on_started is not None:
            self.cell.on_started(self.incarnation)

    def _watch(self, cell: Cell, monitor: MonitorId) -> None:
        if self.state != "ended":
            cell.watch(monitor, self.cell)

    def forget_deferred(self, deferred: Deferred[Any]) -> None:
        self._deferred.discard(deferred)

    def forget_timer(self, timer: Timer) -> None:
        self._timers.discard(timer)

    def deferred_count(self) -> int:
        return len(self._deferred)

    def timer_count(self) -> int:
        return len(self._timers)

    def task_count(self) -> int:
        return len(self._tasks)

    def _exit_now(self) -> None:
        """The end that `exit` asked for, unless a handler is still at work: then it follows that."""
        if self._exit is not None and self._letter is None:
            self.die(self._exit)

    def _run(self, work: Coroutine[Any, Any, T], then: Callable[[T | Exception], object]) -> None:
        if self.state == "ended":
            work.close()
            return
        task = self.cell.system.loop.create_task(_contained(work))
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ran(done, work, then))

    def _ran(
        self,
        task: asyncio.Task[T],
        work: Coroutine[Any, Any, T],
        then: Callable[[T | Exception], object],
    ) -> None:
        self._tasks.discard(task)
        work.close()  # cancelled before its first step, it would complain that nobody awaited it
        outcome: T | Exception
        if task.cancelled():
            outcome = RuntimeError("the work was cancelled")
        else:
            error = task.exception()
            outcome = task.result() if error is None else cast("Exception", error)
        if self.state == "ended":
            return
        try:
            message = then(outcome)
        except BaseException as error:  # noqa: BLE001  (the actor's own code, outside a handler: same border)
            self._crash(error, None)
            return
        self.mailbox.put_letter(Letter(_WorkDone(message)), bounded=False)

    def on_loop(self, function: Callable[..., Any], *args: Any) -> bool:
        """Run `function` on the loop's thread, now if this is it; False when the loop has closed."""
        if self.cell.system.on_loop_thread():
            function(*args)
            return True
        return self.cell.system.post(function, *args)


def _sentence(error: BaseException) -> str:
    """What an exception says, without its class; foreign code may fail even here."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001  (a broken __str__ is not worth a second crash)
        return ""


async def _contained(work: Coroutine[Any, Any, T]) -> T:
    """A SystemExit in a task would stop the loop and everybody on it: it stays one actor's affair."""
    try:
        return await work
    except (Exception, asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        raise RuntimeError(f"the work raised {error!r}") from error


def _require_plain(owner: str, handler: Callable[..., Any]) -> None:
    """Refuse what would be called without running: a coroutine or a generator function."""
    kinds = (inspect.iscoroutinefunction, inspect.isasyncgenfunction, inspect.isgeneratorfunction)
    if any(is_kind(handler) for is_kind in kinds):
        raise TypeError(
            f"{owner}.{handler.__name__}: a handler is a plain function; "
            "start slow work with self.run() and let its end come back as a message"
        )


def _trace(error: BaseException) -> str:
    """What Python prints of an exception, but for the marks below its lines.

    To find their places every line is parsed anew, which takes longer than all the rest of a restart.
    """
    report = traceback.TracebackException.from_exception(error, compact=True)
    shown: traceback.TracebackException | None = report
    while shown is not None:
        for frame in shown.stack:
            frame.colno = None
        shown = shown.__cause__ or shown.__context__
    return "".join(report.format())


def _describe(error: BaseException) -> str:
    """`repr`, which is foreign code too: one that raises must not keep the crash from being seen."""
    try:
        return repr(error)
    except Exception as second:  # noqa: BLE001  (a foreign __repr__)
        return f"{type(error).__name__} (its repr raised {type(second).__name__})"
