"""Where a list goes on: a sealed place, good for the principal and the selection that it was given to.

A place is the name that the page before ended with, not a number, so a list that changes between two pages loses
none of what stays in it, and shows nothing twice.
"""

from __future__ import annotations

import msgspec
from msgspec import Raw

from mcpv_node.actors.world import Selector
from mcpv_node.protocol import ListName, Sealer, SealError
from mcpv_node.telemetry import Clock

PURPOSE = "cursor"


class Cursors:
    """Makes and reads the cursors of one caller."""

    __slots__ = ("_bound_to", "_clock", "_sealer")

    def __init__(self, sealer: Sealer, clock: Clock, principal: str, selector: Selector) -> None:
        self._sealer = sealer
        self._clock = clock
        self._bound_to = (principal, _text_of(selector))

    def make(self, of: ListName, last: str) -> bytes:
        """The JSON text of the cursor behind the name `last`."""
        sealed = self._sealer.seal(
            PURPOSE, last.encode("utf-8", "surrogatepass"), bound_to=(*self._bound_to, of), expires_at=None
        )
        return msgspec.json.encode(sealed)

    def parse(self, of: ListName, cursor: bytes | Raw) -> str | None:
        """The name that a cursor of ours stands for; None where it is none, or somebody else's."""
        try:
            text = msgspec.json.decode(cursor, type=str)
            place = self._sealer.open(
                PURPOSE, text, bound_to=(*self._bound_to, of), now=self._clock.wall().timestamp()
            )
        except (msgspec.DecodeError, SealError):
            return None
        return place.decode("utf-8", "surrogatepass")


def _text_of(selector: Selector) -> str:
    """The same for the same selection, also in the next life of the node: sets have no order of their own."""
    return msgspec.json.encode(selector, order="sorted").decode()
