"""A supervisor's decisions without a supervisor: inputs go in, what is to be done comes out as words."""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import Any

from mcpv_node.actors.kernel import KernelActor, LoopActor
from mcpv_node.supervisors import ChildSpec, Phase, Restart, SupervisionEvent
from mcpv_node.supervisors.decisions import (
    Action,
    Arm,
    BecomeStarted,
    Begin,
    Child,
    Close,
    Disarm,
    Exited,
    Finish,
    Forget,
    GiveUp,
    Group,
    Input,
    Kill,
    Mode,
    Reply,
    ReplyUp,
    Report,
    Start,
    Started,
    Stop,
    decide,
)


def make_nobody() -> KernelActor[Any]:
    """For specs that are only decided about."""
    return LoopActor()


def a_spec(child_id: str, **fields: Any) -> ChildSpec:
    return ChildSpec(id=child_id, start=make_nobody, **fields)


def words(actions: Iterable[Action]) -> list[str]:
    """One word or two for each action; reports are left out."""
    return [_word(action) for action in actions if not isinstance(action, Report)]


def _word(action: Action) -> str:
    match action:
        case Start(id) | Stop(id) | Kill(id) | Disarm(id) | Close(id) | Forget(id) | GiveUp(id):
            return f"{type(action).__name__.lower()} {id}"
        case Arm(due):
            return f"arm {type(due).__name__} {due.id}"
        case Reply(ask, outcome):
            return f"reply {ask} {type(outcome).__name__}"
        case ReplyUp(ask, id):
            return f"up {ask} {id}"
        case BecomeStarted():
            return "started"
        case Finish(reason):
            return f"finish {type(reason).__name__}"
        case _:
            return "?"


class Rehearsal:
    """A group of children, the time, and everything that was decided so far."""

    def __init__(self, *specs: ChildSpec, **rules: Any) -> None:
        self.group = Group(
            "root",
            tuple(Child(spec, spec.restart or Restart.PERMANENT) for spec in specs),
            **rules,
        )
        self.now = 1000.0
        self.rng = Random(4)
        self.actions: list[Action] = []

    def hear(self, heard: Input) -> list[str]:
        """Let the group hear; the words are what starts, stops and ends because of it."""
        return [word for word in self.hear_all(heard) if not word.startswith(("arm", "disarm", "close"))]

    def hear_all(self, heard: Input) -> list[str]:
        """The same, with timers and closings."""
        self.group, actions = decide(self.group, heard, now=self.now, rng=self.rng)
        self.actions += actions
        return words(actions)

    def begin(self) -> Rehearsal:
        """Start every child."""
        self.hear(Begin())
        while self.group.mode is Mode.STARTING:
            child = next(child for child in self.group.children if child.phase is Phase.STARTING)
            self.hear(Started(child.id, child.incarnation))
        return self

    def start(self, child_id: str) -> list[str]:
        return self.hear(Started(child_id, self.child(child_id).incarnation))

    def end(self, child_id: str, reason: Any) -> list[str]:
        return self.hear(Exited(child_id, self.child(child_id).incarnation, reason))

    def child(self, child_id: str) -> Child:
        return next(child for child in self.group.children if child.id == child_id)

    def ids(self) -> list[str]:
        return [child.id for child in self.group.children]

    def phases(self) -> list[str]:
        return [str(child.phase) for child in self.group.children]

    def events(self) -> list[SupervisionEvent]:
        return [action.event for action in self.actions if isinstance(action, Report)]
