"""Who is calling: made once at the door, carried by every Acquire."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType

# The canonical text of a client's capabilities; lists are learnt and instances stand in lanes per profile.
ClientProfile = NewType("ClientProfile", str)

# A client that offers nothing to servers. Lists not learnt for a profile yet are shown as learnt for this one.
EMPTY_PROFILE = ClientProfile("")


class Era(StrEnum):
    """The two wires of MCP, in the specification's own words."""

    LEGACY = "legacy"
    MODERN = "modern"


@dataclass(frozen=True, slots=True)
class Caller:
    """One consumer at one door."""

    principal: str  # whose authority: a token's name, an OAuth subject or local:<uid>
    client: str  # what it calls itself; for people to read, never for decisions of authority
    key: str  # routing: calls with the same key may be bound to one instance
    profile: ClientProfile = EMPTY_PROFILE
    era: Era = Era.LEGACY
    turn: str = ""  # who takes turns with others in a queue: its session or connection; "" is its key
    info: bytes | None = None  # the JSON of what it says of itself, to be passed on
