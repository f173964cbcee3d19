"""The head of a request, and the connection that remembers it.

A client sends the same head with nearly every request on a connection, so what follows from it alone (whether Host and
Origin are ours, whether it may be answered as MCP is, what it says to MCP) is found out once, and anew as soon as
anything is different. Two lines do not count: Content-Length, which differs, and Authorization. The token is judged with
every request, and no connection keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from mcpv_node.actors.clients import Seen
from mcpv_node.protocol import McpHeaders

Headers: TypeAlias = list[tuple[bytes, bytes]]

# Where a request carries its connection, in the state that the HTTP server keeps for it.
CONNECTION: Final = "mcpv_node.connection"

CONTENT_LENGTH: Final = b"content-length"
AUTHORIZATION: Final = b"authorization"


class Head:
    """A method, a path, and headers by their lower-case names, without Content-Length and Authorization.

    Of equal headers the first counts, except where their values are one list. `is_ours` and `mcp` are notes of who reads
    it: that Host and Origin may be here, and what it says to MCP, once it is known to be fit for that.
    """

    __slots__ = ("headers", "is_ours", "is_repeated", "mcp", "method", "path")

    def __init__(self, method: str, path: str, headers: dict[bytes, bytes], *, is_repeated: bool) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.is_repeated = is_repeated  # some header stands there more than once
        self.is_ours = False
        self.mcp: McpHeaders | None = None


class Connection:
    """What the requests on one connection share. They come one after the other: the next is read once this is answered.

    `head` is that of the last request that was let in, `seen` the client that was last said to be there, and when.
    """

    __slots__ = ("_on_lost", "head", "is_lost", "seen")

    def __init__(self) -> None:
        self.head: Head | None = None
        self.seen: tuple[Seen | None, float] = None, 0.0
        self.is_lost = False
        self._on_lost: Callable[[], object] | None = None

    def when_lost(self, callback: Callable[[], object]) -> None:
        """Call this once the client has gone; whoever asks for it ends with `forget`."""
        self._on_lost = callback
        if self.is_lost:
            callback()

    def forget(self, callback: Callable[[], object]) -> None:
        """Do not call this any more."""
        if self._on_lost == callback:
            self._on_lost = None

    def lost(self) -> None:
        """The client has gone."""
        self.is_lost = True
        if self._on_lost is not None:
            self._on_lost()


def first_of_each(lines: Headers) -> dict[bytes, bytes]:
    """Headers that repeat some name: the first of each, and of Accept all of them."""
    found: dict[bytes, bytes] = {}
    for name, value in lines:
        if name not in found:
            found[name] = value
        elif name == b"accept":
            found[name] += b"," + value
    return found
