"""What the doors need of the node: handed to them by the composition root, frozen.

The doors know nothing of supervisors: the tree comes as plain data, and stopping is a function.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from mcpv_node.actors.config import ConfigMessage
from mcpv_node.actors.context import NodeContext
from mcpv_node.actors.index_messages import ConsumerId
from mcpv_node.actors.kernel import Handle, Health
from mcpv_node.actors.status import LearningMessage, ShowInit
from mcpv_node.protocol import Sealer
from mcpv_node.telemetry.log_ring import LogRing

from .auth import TokenTable
from .issuer import Issuer
from .open_tasks import OpenTasksMessage
from .rates import Rates

if TYPE_CHECKING:
    from .held import HeldMessage
    from .sessions import Session, SessionId

_consumer_numbers = itertools.count(1)


def new_consumer_id() -> ConsumerId:
    """An id no other consumer of the doors has."""
    return ConsumerId(next(_consumer_numbers))


def count_down(counts: Counter[str], principal: str) -> None:
    """One less; who has none left takes no place."""
    left = counts[principal] - 1
    if left:
        counts[principal] = left
    else:
        counts.pop(principal)


@dataclass(frozen=True, slots=True)
class TreeData:
    """One place in the tree and what is below it."""

    id: str
    kind: str
    state: str
    restarts: int
    since: datetime
    children: tuple[TreeData, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """Where and what the node is: the content of `node.json`."""

    pid: int
    start_time: str  # by the kernel's clock, so that a reused pid is not mistaken for us
    version: str
    http: str | None
    socket: str | None
    token_file: str | None
    config_path: str | None
    certificate: str | None = None  # of the HTTP door: the SHA-256 of its DER, in hex


@dataclass(frozen=True, slots=True)
class DoorServices:
    """See the module."""

    node: NodeContext
    sealer: Sealer
    tokens: TokenTable | None  # None: nobody needs one; on loopback only
    version: str
    learning: Handle[LearningMessage]
    init: Handle[ShowInit]
    config: Handle[ConfigMessage]
    log: LogRing
    open_tasks: Handle[OpenTasksMessage]
    tree: Callable[[], TreeData]
    info: Callable[[], NodeInfo]
    request_stop: Callable[[], None]
    on_sessions: Callable[[str, int], None]  # a door's name and how many sessions it has now
    is_ready: Callable[[], bool]
    check_health: Callable[[], Awaitable[Health]]  # whether every actor answers
    held: Handle[HeldMessage]  # the calls that wait for a modern client
    # How many requests each principal has in flight, at all doors together. Theirs to change, on the loop's thread.
    load: Counter[str] = field(default_factory=Counter[str])
    # What each principal may still ask, at all doors together.
    rates: Rates = field(default_factory=Rates)
    issuer: Issuer | None = None  # None: tokens of ours are the only ones
    # The legacy sessions that live. Sessions alone changes it, each time by one assignment or deletion; every request
    # reads it, on the loop's thread, as it reads the World.
    sessions: dict[SessionId, Session] = field(default_factory=dict["SessionId", "Session"])
