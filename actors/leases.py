"""A lease: the right to use one slot of one instance until it is released.

`Acquire` is idempotent by its lease id: asked twice, because an actor restarted in between, it grants once.
"""

from __future__ import annotations

import itertools
from enum import StrEnum
from typing import TYPE_CHECKING, NewType

from msgspec import Struct

from mcpv_node.protocol import CallFailure, ServerHello

from .callers import Caller
from .kernel import Handle, Request

if TYPE_CHECKING:
    from .instance.messages import InstanceMessage

LeaseId = NewType("LeaseId", int)
InstanceId = NewType("InstanceId", str)

_numbers = itertools.count(1)


def new_lease_id() -> LeaseId:
    """An id no other lease of this process has."""
    return LeaseId(next(_numbers))


class LeaseKind(StrEnum):
    """What a lease is for, and so when it ends."""

    CALL = "call"
    # Until the task is terminal, or its ttl; of a request in several rounds, between two of them, until its state expires.
    TASK = "task"
    SUBSCRIPTION = "subscription"


# These count against `maxConcurrent`; all kinds keep an instance from its idle stop. Between two rounds a server has
# nothing in hand, or the call that waits at it has its slot: a second one would be held from the very next round.
SLOT_KINDS = frozenset({LeaseKind.CALL})


class StartCause(StrEnum):
    """Why an instance was started (DESIGN 7.5); the first cause stays with it."""

    TOOL_CALL = "tool_call"
    BOOTSTRAP = "bootstrap"
    ALWAYS_ON = "always_on"
    MIN_READY = "min_ready"  # one of the warm ones was missing
    CLIENT_ACTIVATE = "client_activate"  # the first client has come, and with it the warm ones
    OPERATOR = "operator"


class Lease(Struct, frozen=True):
    """A slot is yours: call the instance, then release."""

    lease: LeaseId
    instance_id: InstanceId
    instance: Handle[InstanceMessage]
    queued_seconds: float  # waiting for a slot
    started_seconds: float  # of these, while a start was under way
    hello: ServerHello  # what the server said of itself: which era it speaks, what it offers


class Refused(Struct, frozen=True):
    """There is no slot, and why; nothing was executed."""

    failure: CallFailure


class Acquire(Request[Lease | Refused], Struct, frozen=True):
    """Wait for a slot, at most until `deadline` (monotonic seconds)."""

    lease: LeaseId
    caller: Caller
    deadline: float
    cause: StartCause = StartCause.TOOL_CALL
    kind: LeaseKind = LeaseKind.CALL
    instance: InstanceId | None = None  # this one or none: it holds what the request goes on with


class Release(Struct, frozen=True, gc=False):
    """The lease is over; a second release of the same one is nothing."""

    lease: LeaseId
    ok: bool | None = (
        None  # how the call made under it ended, where one was made; for the counts of the report
    )
