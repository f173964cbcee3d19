"""What an Instance tells itself: that a time is over, or that work it had started is done."""

from __future__ import annotations

from dataclasses import dataclass

from mcpv_node.transports import StopReport


@dataclass(frozen=True, slots=True)
class Enlisted:
    """The ledger has it, or could not take it."""

    outcome: Exception | None


@dataclass(frozen=True, slots=True)
class StartTimedOut:
    """The whole start has had its time."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """A call's limit may have passed."""


@dataclass(frozen=True, slots=True)
class ListNow:
    """The lists have waited long enough."""


@dataclass(frozen=True, slots=True)
class ListenAgain:
    """A subscription that the server ended has waited long enough to be opened again."""


@dataclass(frozen=True, slots=True)
class Poll:
    """`refreshSeconds` have passed since the last look at the lists."""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """One of our own requests has had its time."""

    number: int


@dataclass(frozen=True, slots=True)
class StillBad:
    """Nothing sensible has come since a line that was no message, while only this call waited."""

    call_id: int


@dataclass(frozen=True, slots=True)
class StillOpenEnded:
    """Its stdout has closed, and no exit has followed."""


@dataclass(frozen=True, slots=True)
class PatienceOver:
    """The calls that went on beside an abandoned one have had their time."""


@dataclass(frozen=True, slots=True)
class PingTurn:
    """The interval between two pings is over."""


@dataclass(frozen=True, slots=True)
class LookAtMemory:
    """The interval between two looks is over."""


@dataclass(frozen=True, slots=True)
class GroupLimited:
    """The limits of another configuration were set; a sentence for each that was refused."""

    outcome: tuple[str, ...] | Exception


@dataclass(frozen=True, slots=True)
class MemorySeen:
    """The resident bytes of its group; None where the system does not say."""

    used: int | Exception | None


@dataclass(frozen=True, slots=True)
class Stopped:
    """The stop is complete."""

    outcome: StopReport | Exception
