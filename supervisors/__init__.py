"""Who starts whom, in which order, and what happens when one dies: the semantics of Erlang/OTP.

# Layout

`specs`, `window` and `backoff` say what is wanted; `decisions` says, purely, what follows from what is heard;
`keeper` performs it, for `supervisor` and `dynamic`. `messages` is what one can ask, `events` what is told,
`tree` what it all looks like. `init` and `bootstrap` are the node's own two: the server types, and the probes
whose turns `learning` plans.
"""

from __future__ import annotations

from .backoff import Backoff
from .bootstrap import Bootstrap, ProbeSpec
from .dynamic import DynamicSupervisor, dynamic_child
from .errors import SpecError
from .events import (
    ChildDidNotStop,
    ChildExited,
    ChildGaveUp,
    ChildKilled,
    ChildRestarting,
    ChildStarted,
    EventSink,
    SupervisionEvent,
    SupervisorGaveUp,
    log_event,
)
from .init import AddGroup, GroupsChanged, Init, InitMessage, RemoveGroup, ServerGroupSpec
from .keeper import ChildCallback, ChildKeeper
from .messages import (
    AlreadyThere,
    ChildCounts,
    ChildStatus,
    ChildUp,
    CountChildren,
    DeleteChild,
    Deleted,
    DeleteOutcome,
    NotFound,
    Phase,
    Refused,
    RestartChild,
    RestartOutcome,
    StartChild,
    StartFailed,
    StartOutcome,
    TerminateChild,
    Terminated,
    TerminateOutcome,
    WhichChildren,
)
from .specs import (
    AutoShutdown,
    ChildKind,
    ChildSpec,
    DynamicSpec,
    GivingUp,
    Restart,
    Strategy,
    SupervisorSpec,
)
from .supervisor import Supervisor, supervisor_child
from .tree import TreeNode, tree
from .window import RestartWindow

__all__ = [
    "AddGroup",
    "AlreadyThere",
    "AutoShutdown",
    "Backoff",
    "Bootstrap",
    "ChildCallback",
    "ChildCounts",
    "ChildDidNotStop",
    "ChildExited",
    "ChildGaveUp",
    "ChildKeeper",
    "ChildKilled",
    "ChildKind",
    "ChildRestarting",
    "ChildSpec",
    "ChildStarted",
    "ChildStatus",
    "ChildUp",
    "CountChildren",
    "DeleteChild",
    "DeleteOutcome",
    "Deleted",
    "DynamicSpec",
    "DynamicSupervisor",
    "EventSink",
    "GivingUp",
    "GroupsChanged",
    "Init",
    "NotFound",
    "Phase",
    "ProbeSpec",
    "Refused",
    "InitMessage",
    "RemoveGroup",
    "Restart",
    "RestartChild",
    "RestartOutcome",
    "RestartWindow",
    "ServerGroupSpec",
    "SpecError",
    "StartChild",
    "StartFailed",
    "StartOutcome",
    "Strategy",
    "SupervisionEvent",
    "Supervisor",
    "SupervisorGaveUp",
    "SupervisorSpec",
    "TerminateChild",
    "TerminateOutcome",
    "Terminated",
    "TreeNode",
    "WhichChildren",
    "dynamic_child",
    "log_event",
    "supervisor_child",
    "tree",
]
