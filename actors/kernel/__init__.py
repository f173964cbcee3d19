"""What every actor of the node is made of.

# Layout

`messages` and `errors` are what actors say about themselves; `replies` is where answers go; `mailbox`, `cell` and
`system` are what an actor lives in; `actor` is what it is, `loop` and `thread` are where it runs; `handle` is how
others talk to it; `health` is whether all of them read what they are sent.
"""

from .actor import Deferred, KernelActor, Timer, answers, handles
from .cell import ESTATE_CRASH_WINDOW, MAILBOX_CAPACITY, Cell
from .errors import (
    ActorDead,
    ActorError,
    ActorRestarted,
    AskTimeout,
    MailboxFull,
    UnhandledMessage,
    WrongThread,
)
from .handle import Handle
from .health import ANSWER_BOUND, Health, HealthCheck
from .loop import LoopActor
from .messages import (
    ActorStatistics,
    Crashed,
    DeadLetter,
    Down,
    ExitReason,
    Killed,
    MonitorId,
    Normal,
    Pulse,
    Request,
    Shutdown,
)
from .replies import AnyThreadFuture
from .system import ActorSystem
from .thread import ThreadActor

__all__ = [
    "ANSWER_BOUND",
    "ESTATE_CRASH_WINDOW",
    "MAILBOX_CAPACITY",
    "ActorDead",
    "ActorError",
    "ActorRestarted",
    "ActorStatistics",
    "ActorSystem",
    "AnyThreadFuture",
    "AskTimeout",
    "Cell",
    "Crashed",
    "DeadLetter",
    "Deferred",
    "Down",
    "ExitReason",
    "Handle",
    "Health",
    "HealthCheck",
    "KernelActor",
    "Killed",
    "LoopActor",
    "MailboxFull",
    "MonitorId",
    "Normal",
    "Pulse",
    "Request",
    "Shutdown",
    "ThreadActor",
    "Timer",
    "UnhandledMessage",
    "WrongThread",
    "answers",
    "handles",
]
