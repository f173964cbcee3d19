"""What actors say to each other about themselves: requests, ends, monitors.

All of it is frozen data. A message that expects a reply derives from `Request[R]`, so that a type checker
knows what `ask` returns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from msgspec import Struct

R_co = TypeVar("R_co", covariant=True)


class Request(Generic[R_co]):
    """A message that is answered with an `R_co`; everything else is only told."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Pulse(Request[None]):
    """Do you read your mailbox? Every actor answers, in mailbox order; none has a handler for it."""


@dataclass(frozen=True, slots=True)
class Normal:
    """The actor ended by itself, its work done."""

    def __str__(self) -> str:
        return "done"


@dataclass(frozen=True, slots=True)
class Shutdown:
    """The actor ended because its supervisor or its owner asked it to."""

    def __str__(self) -> str:
        return "asked to stop"


@dataclass(frozen=True, slots=True)
class Crashed:
    """The actor met something it did not expect.

    `cause` is what went wrong at the bottom, in the exception's own words: each supervisor above adds to
    `error` which of its children it was.
    """

    error: str
    cause: str = field(default="", compare=False)

    @property
    def root_cause(self) -> str:
        return self.cause or self.error

    def __str__(self) -> str:
        return f"crashed: {self.error}"


@dataclass(frozen=True, slots=True)
class Killed:
    """The actor was ended without being asked, as Erlang's `kill`."""

    why: str = "killed"

    def __str__(self) -> str:
        return self.why


ExitReason: TypeAlias = Normal | Shutdown | Crashed | Killed


@dataclass(frozen=True, slots=True)
class MonitorId:
    """One watch of one actor; each gets exactly one `Down`."""

    number: int


class Down(Struct, frozen=True):
    """The watched incarnation has ended, or was not there to begin with."""

    monitor: MonitorId
    name: str
    incarnation: int
    reason: ExitReason


@dataclass(frozen=True, slots=True)
class ActorStatistics:
    """What can be said of an actor from outside without asking it."""

    name: str
    kind: str
    state: str
    incarnation: int
    since: float
    mailbox: int
    handled: int
    crashes: int
    deferred: int
    timers: int
    tasks: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message nobody will read, and why."""

    name: str
    kind: str
    message: str
    why: str
