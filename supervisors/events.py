"""What supervisors tell: one frozen event for every transition, and the log line written from it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, assert_never

from loguru import logger
from msgspec import Struct

from mcpv_node.actors.kernel import Crashed, ExitReason, Killed


class ChildStarted(Struct, frozen=True):
    """The child has completed its start."""

    supervisor: str
    child: str
    incarnation: int


class ChildExited(Struct, frozen=True):
    """The child has ended; `asked` when its supervisor had asked it to."""

    supervisor: str
    child: str
    incarnation: int
    reason: ExitReason
    asked: bool


class ChildRestarting(Struct, frozen=True):
    """The child will be started again in `delay` seconds."""

    supervisor: str
    child: str
    incarnation: int
    reason: ExitReason
    delay: float


class ChildKilled(Struct, frozen=True):
    """The child did not start or stop in its time, or has no grace."""

    supervisor: str
    child: str
    incarnation: int
    why: str


class ChildDidNotStop(Struct, frozen=True):
    """The child ignored stop and kill: its thread is still in a handler and was left behind."""

    supervisor: str
    child: str
    incarnation: int
    kind: str


class ChildGaveUp(Struct, frozen=True):
    """Restarting does not cure the child; its supervisor keeps a record of it and goes on."""

    supervisor: str
    child: str
    incarnation: int
    reason: ExitReason


class SupervisorGaveUp(Struct, frozen=True):
    """Restarting does not cure the child; the supervisor stops its children, then itself."""

    supervisor: str
    child: str
    incarnation: int
    reason: ExitReason


SupervisionEvent: TypeAlias = (
    ChildStarted
    | ChildExited
    | ChildRestarting
    | ChildKilled
    | ChildDidNotStop
    | ChildGaveUp
    | SupervisorGaveUp
)

# Called on the loop's thread; what it raises is logged and goes no further.
EventSink: TypeAlias = Callable[[SupervisionEvent], object]


def log_event(event: SupervisionEvent) -> None:
    """Write one line for one event."""
    log = logger.bind(
        event=type(event).__name__,
        supervisor=event.supervisor,
        child=event.child,
        incarnation=event.incarnation,
    )
    name = f"{event.supervisor}/{event.child}"
    match event:
        case ChildStarted():
            log.debug("{} started", name)
        case ChildExited(reason=reason, asked=asked):
            is_fault = isinstance(reason, Crashed | Killed) and not asked
            log.log("WARNING" if is_fault else "DEBUG", "{} ended: {}", name, reason)
        case ChildRestarting(delay=delay):
            log.warning("{} is restarting in {:.1f}s", name, delay)
        case ChildKilled(why=why):
            log.warning("{} is killed: {}", name, why)
        case ChildDidNotStop(kind=kind):
            log.error("{} did not stop: the thread of {} is left behind", name, kind)
        case ChildGaveUp(reason=reason):
            log.error("{} gave up and is suspended: {}", name, reason)
        case SupervisorGaveUp(reason=reason):
            log.error("{} gave up because of {}: {}", event.supervisor, event.child, reason)
        case _:
            assert_never(event)
