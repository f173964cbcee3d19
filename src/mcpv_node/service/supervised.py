"""`start --supervised`: one more process, which outlives a crash of the node and starts it again.

A Thespian actor on the simple base owns the node's process: it runs in this process and this thread, opens no port
and starts nothing of its own. `supervise` only waits, for signals, for the node and for the time, tells the actor what
it has heard, and is told how things stand. What is to be done is decided in `keeping`.
"""

from __future__ import annotations

import logging
import os
import select
import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from types import FrameType
from typing import TypeAlias, assert_never, cast

from loguru import logger
from thespian.actors import Actor, ActorAddress, ActorSystem

from mcpv_node.node_file import NodeFile
from mcpv_node.telemetry import Clock, SystemClock
from mcpv_node.transports import Strangers

from .keeping import (
    GAVE_UP,
    Event,
    Keeping,
    KeepingPolicy,
    Leaving,
    Phase,
    Say,
    Signalled,
    SignalNode,
    SignOfLife,
    StartNode,
    Woke,
    decide,
)
from .node_process import Exited, NodeProcess

# It runs in this process and this thread; the others start processes and open ports to everybody.
SYSTEM_BASE = "simpleSystemBase"

# SIGCHLD only wakes: which child has ended is looked up.
HEARD = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

# Where orphans become our children, we look for those that have ended so often (seconds).
STRANGERS_EVERY = 1.0

SIGNALS_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class Keep:
    """Start a node with these options, and keep it running."""

    options: tuple[str, ...]
    policy: KeepingPolicy
    clock: Clock


@dataclass(frozen=True, slots=True)
class Look:
    """Something may have happened: these signals came, in this order, or the node spoke or ended, or it is time."""

    signals: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """The answer to both: how things stand, and what to wait for."""

    phase: Phase
    pid: int | None
    wake_at: float | None = None
    descriptors: tuple[int, ...] = ()
    # Once for each start.
    ready: NodeFile | None = None
    code: int | None = None


KeeperMessage: TypeAlias = Keep | Look


class NodeKeeper(Actor):  # type: ignore[misc]  # thespian has no types
    """The owner of the node's process, and of what is known of its starts and ends."""

    def __init__(self) -> None:
        super().__init__()
        self._keeping = Keeping()
        self._node: NodeProcess | None = None
        self._chance = Random()
        self._asked: Keep

    # thespian's own only raises, and so seems to return nothing at all.
    def receiveMessage(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, msg: KeeperMessage, sender: ActorAddress
    ) -> None:
        """Answer with a `Standing`, whatever happens: what a handler lets out, Thespian would run a second time."""
        try:
            standing = self._on_message(msg)
        except Exception:  # noqa: BLE001  (the border to Thespian)
            logger.exception("the supervisor of the node has a fault of its own")
            self._let_go()
            standing = Standing(Phase.ENDED, None, code=GAVE_UP)
        self.send(sender, standing)

    def _on_message(self, message: KeeperMessage) -> Standing:
        match message:
            case Keep():
                self._asked = message
                self._keeping = Keeping(since=self._now())
                self._start()
                return self._standing(None)
            case Look(signals=signals):
                ready = None if self._node is None else self._node.take_ready()
                if ready is not None:
                    # Its first word: from now on it owes the next.
                    self._hear(SignOfLife())
                self._hear_notices()
                self._look_at_node()
                for number in signals:
                    if number != signal.SIGCHLD:
                        self._hear(Signalled(number))
                self._hear(Woke())
                return self._standing(ready)
            case _:
                assert_never(message)

    def _now(self) -> float:
        return self._asked.clock.monotonic()

    def _hear_notices(self) -> None:
        for notice in () if self._node is None else self._node.take_notices():
            match notice:
                case "READY=1" | "WATCHDOG=1":
                    self._hear(SignOfLife())
                case "STOPPING=1":
                    self._hear(Leaving())
                case _:
                    pass

    def _look_at_node(self) -> None:
        exited = None if self._node is None else self._node.poll()
        if exited is not None:
            self._let_go()
            self._hear(exited)

    def _hear(self, event: Event) -> None:
        self._keeping, actions = decide(
            self._keeping, event, self._now(), policy=self._asked.policy, chance=self._chance
        )
        for action in actions:
            match action:
                case StartNode():
                    self._start()
                case SignalNode(number=number):
                    if self._node is not None:
                        self._node.signal(number)
                case Say(level=level, text=text):
                    logger.bind(process="supervisor").log(level, "{}", text)
                case _:
                    assert_never(action)

    def _start(self) -> None:
        try:
            self._node = NodeProcess(self._asked.options, watchdog=self._asked.policy.watchdog)
        except OSError as error:
            self._hear(Exited(error=error.strerror or str(error)))

    def _let_go(self) -> None:
        if self._node is not None:
            self._node.close()
            self._node = None

    def _standing(self, ready: NodeFile | None) -> Standing:
        node, state = self._node, self._keeping
        times = [at for at in (state.wake_at, state.silent_at) if at is not None]
        return Standing(
            phase=state.phase,
            pid=None if node is None else node.pid,
            wake_at=min(times, default=None),
            descriptors=() if node is None else node.descriptors,
            ready=ready,
            code=state.code,
        )


def supervise(
    options: Sequence[str],
    policy: KeepingPolicy,
    *,
    on_ready: Callable[[NodeFile], None],
    on_stopping: Callable[[], None],
    reaps_strangers: bool = False,
    clock: Clock | None = None,
) -> int:
    """Keep a node running until it is asked to end; return the exit code. Main thread only.

    `on_ready` hears of every start that succeeded, `on_stopping` once that a stop was asked for.
    """
    clock = clock or SystemClock()
    # It reports every message; what there is to say, the actor says.
    logging.getLogger("Thespian").setLevel(logging.WARNING)
    system = ActorSystem(SYSTEM_BASE, logDefs=False, transientUnique=True)
    strangers = Strangers() if reaps_strangers else None
    try:
        keeper = cast(ActorAddress, system.createActor(NodeKeeper))
        with _hearing() as signals:
            standing = _ask(system, keeper, Keep(tuple(options), policy, clock))
            is_stopping = False
            while standing.code is None:
                heard = _wait(
                    signals, standing, clock, at_most=None if strangers is None else STRANGERS_EVERY
                )
                if strangers is not None:
                    _reap(strangers, standing.pid)
                standing = _ask(system, keeper, Look(heard))
                if standing.ready is not None:
                    on_ready(standing.ready)
                if standing.phase is Phase.STOPPING and not is_stopping:
                    is_stopping = True
                    on_stopping()
        return standing.code
    finally:
        system.shutdown()


def _reap(strangers: Strangers, node: int | None) -> None:
    gone = strangers.reap(own=() if node is None else (node,))
    if gone:
        said = ", ".join(map(str, gone))
        logger.bind(process="supervisor").debug("orphans that had ended: {}", said)


def _ask(system: ActorSystem, keeper: ActorAddress, message: KeeperMessage) -> Standing:
    # No time limit: on the simple base the handler has run when `ask` returns.
    return cast(Standing, system.ask(keeper, message))


def _wait(signals: int, standing: Standing, clock: Clock, *, at_most: float | None) -> tuple[int, ...]:
    """Wait for a signal, for the node's word, or for the time; the signals that came."""
    left = at_most
    if standing.wake_at is not None:
        until = max(0.0, standing.wake_at - clock.monotonic())
        left = until if left is None else min(left, until)
    readable = select.select([signals, *standing.descriptors], [], [], left)[0]
    return tuple(os.read(signals, SIGNALS_AT_ONCE)) if signals in readable else ()


def _heard_elsewhere(_number: int, _frame: FrameType | None) -> None:
    """The signal's number is in the pipe already: the interpreter writes it before it calls us."""


@contextmanager
def _hearing() -> Generator[int]:
    """Have the signals of `HEARD` written into a pipe; its read end."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    handlers = [(number, signal.signal(number, _heard_elsewhere)) for number in HEARD]
    try:
        yield reading
    finally:
        for number, handler in handlers:
            signal.signal(number, handler)
        signal.set_wakeup_fd(before)
        os.close(reading)
        os.close(writing)
