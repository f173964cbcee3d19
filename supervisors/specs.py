"""Which children a supervisor has, and what it does when one of them ends: as frozen data.

A spec that exists is a spec that can be carried out: everything is validated when it is made, so a
supervisor never meets a bad one after it has started half of its children.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias

from mcpv_node.actors.kernel import Handle, KernelActor

from .backoff import Backoff
from .errors import SpecError
from .window import RestartWindow

# An actor on the loop ends within a turn; one with a thread may be in the middle of a disk write.
GRACE = 5.0

# An actor starts within milliseconds; one that opens a large file, within seconds.
START_TIMEOUT = 10.0


class Restart(StrEnum):
    """When a child is started again."""

    PERMANENT = "permanent"  # whenever it ends
    TRANSIENT = "transient"  # when it ends in a way that is a failure
    TEMPORARY = "temporary"  # never; once it has ended, it is forgotten


class Strategy(StrEnum):
    """Who is restarted with a child that failed."""

    ONE_FOR_ONE = "one_for_one"  # nobody
    ONE_FOR_ALL = "one_for_all"  # every sibling
    REST_FOR_ONE = "rest_for_one"  # the siblings that were started after it


class AutoShutdown(StrEnum):
    """Whether a supervisor ends when its significant children have ended by themselves."""

    NEVER = "never"
    ANY_SIGNIFICANT = "any_significant"
    ALL_SIGNIFICANT = "all_significant"


class ChildKind(StrEnum):
    """What a child is to its supervisor."""

    WORKER = "worker"
    SUPERVISOR = "supervisor"


class GivingUp(StrEnum):
    """What a dynamic supervisor does about a child that restarting does not cure."""

    ESCALATE = "escalate"  # it gives up itself; the restarts of all its children are counted together
    RECORD = "record"  # it keeps a record of the child, suspended; each child's restarts are counted alone


StartFunction: TypeAlias = Callable[[], KernelActor[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """One child: how to make its next incarnation, and how to treat it."""

    id: str
    # Makes the actor and does nothing else; what may fail or take time belongs into `on_start`.
    start: StartFunction
    # Given from outside where others hold it before the child starts, or longer than its supervisor lives.
    handle: Handle[Any] | None = None
    # None is the supervisor's default: permanent, and temporary under a dynamic supervisor.
    restart: Restart | None = None
    # Seconds between stop and kill; 0 kills at once. None is without bound, for supervisors: their own
    # children are bounded, one by one. A function is asked at each stop: what it depends on may change.
    grace: float | Callable[[], float] | None = GRACE
    # Seconds until the start counts as failed; None for supervisors, for the same reason.
    start_timeout: float | None = START_TIMEOUT
    # None restarts at once.
    backoff: Backoff | None = None
    significant: bool = False
    kind: ChildKind = ChildKind.WORKER

    def __post_init__(self) -> None:
        if not self.id:
            raise SpecError("a child spec has an empty id")
        where = f"child {self.id}"
        if not callable(self.start):
            raise SpecError(f"{where}: start is not callable: {self.start!r}")
        if self.restart is not None:
            _check_member(where, "restart", self.restart, Restart)
        _check_member(where, "kind", self.kind, ChildKind)
        if self.grace is None:
            if self.kind is not ChildKind.SUPERVISOR:
                raise SpecError(f"{where}: only a supervisor may stop without a bound on its grace")
        elif not callable(self.grace) and not self.grace >= 0:
            raise SpecError(f"{where}: grace is {self.grace}, less than 0 seconds")
        if self.start_timeout is None:
            if self.kind is not ChildKind.SUPERVISOR:
                raise SpecError(f"{where}: only a supervisor may start without a bound")
        elif not self.start_timeout > 0:
            raise SpecError(f"{where}: start_timeout is {self.start_timeout}, not more than 0 seconds")

    def grace_now(self) -> float | None:
        """The grace of a stop that begins now."""
        return self.grace() if callable(self.grace) else self.grace


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorSpec:
    """A supervisor and the children it starts, in this order, and stops in reverse."""

    children: tuple[ChildSpec, ...] = ()
    strategy: Strategy = Strategy.ONE_FOR_ONE
    window: RestartWindow = field(default_factory=RestartWindow)
    auto_shutdown: AutoShutdown = AutoShutdown.NEVER

    def __post_init__(self) -> None:
        _check_member("supervisor", "strategy", self.strategy, Strategy)
        _check_member("supervisor", "auto_shutdown", self.auto_shutdown, AutoShutdown)
        ids: set[str] = set()
        owners: dict[int, str] = {}
        for child in self.children:
            if child.id in ids:
                raise SpecError(f"child {child.id}: there are two children with this id")
            ids.add(child.id)
            if child.handle is not None:
                other = owners.setdefault(id(child.handle.cell), child.id)
                if other != child.id:
                    raise SpecError(f"child {child.id}: its handle is also that of child {other}")
            check_significant(child, self.auto_shutdown)


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamicSpec:
    """A supervisor whose children are all added while it runs."""

    window: RestartWindow = field(default_factory=RestartWindow)
    max_children: int | None = None
    giving_up: GivingUp = GivingUp.ESCALATE

    def __post_init__(self) -> None:
        _check_member("dynamic supervisor", "giving_up", self.giving_up, GivingUp)
        if self.max_children is not None and self.max_children < 1:
            raise SpecError(f"dynamic supervisor: max_children is {self.max_children}, less than 1")


def check_significant(child: ChildSpec, auto_shutdown: AutoShutdown) -> None:
    """Refuse a significant child whose end could never mean anything."""
    if not child.significant:
        return
    if auto_shutdown is AutoShutdown.NEVER:
        raise SpecError(f"child {child.id}: significant, but its supervisor's auto_shutdown is never")
    if child.restart in (None, Restart.PERMANENT):
        raise SpecError(f"child {child.id}: significant and permanent; a permanent child has no last end")


def _check_member(where: str, name: str, value: object, members: type[StrEnum]) -> None:
    if not isinstance(value, members):
        *most, last = (str(member) for member in members)
        raise SpecError(f'{where}: {name} "{value}" is not {", ".join(most)} or {last}')
