"""The head of a request, and the connection that remembers it.

A client sends the same head with nearly every request on a connection, so what follows from it alone (whether Host and
Origin are ours, whether it may be answered as MCP is, what it says to MCP) is found out once, and anew as soon as
anything is different. A few lines are not part of it, `OWN`: they belong to one request. The token is among them: it is
judged with every request, and no connection keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from mcpv_node.protocol import McpHeaders

if TYPE_CHECKING:
    from .modern_http import ModernClient
    from .places import Visit

Headers: TypeAlias = list[tuple[bytes, bytes]]

# Where a request carries its connection, in the state that the HTTP server keeps for it.
CONNECTION: Final = "mcpv_node.connection"

CONTENT_LENGTH: Final = b"content-length"
AUTHORIZATION: Final = b"authorization"
TRACEPARENT: Final = b"traceparent"
METHOD: Final = b"mcp-method"
NAME: Final = b"mcp-name"

# What is each request's own. That of a trace and that of the modern era's method and name differ as often as a body does.
OWN: Final = (CONTENT_LENGTH, AUTHORIZATION, TRACEPARENT, METHOD, NAME)

# White space around a value, which is not part of it (RFC 9110, section 5.6.3).
OWS: Final = " \t"

NONE: Final = frozenset[bytes]()

# What changes how a request is read, or what becomes of its connection.
UNUSUAL: Final = frozenset((b"transfer-encoding", b"expect", b"upgrade", b"trailer"))

# What most clients say of their connection, where they say anything.
KEPT: Final = b"keep-alive"

# Longer ones are rare, and not looked through a second time (bytes): a head, and a value in it.
MAX_HEAD: Final = 8192
MAX_VALUE: Final = 4096

# Where the body begins, its length, and the other values that are the request's own, by the names of their headers.
Reading: TypeAlias = tuple[int, int, dict[bytes, str]]


class Head:
    """A method, a path, and headers by their lower-case names, without what is each request's own.

    Of equal headers the first counts, except where their values are one list; their names are in `repeated`. `is_ours`,
    `mcp` and `spelling` are notes of who reads it: that Host and Origin may be here, what it says to MCP, once it is
    known to be fit for that, and the bytes that it came in.
    """

    __slots__ = ("_texts", "headers", "is_ours", "mcp", "method", "path", "repeated", "spelling")

    def __init__(
        self, method: str, path: str, headers: dict[bytes, bytes], repeated: frozenset[bytes] = NONE
    ) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        self.repeated = repeated
        self.is_ours = False
        self.mcp: McpHeaders | None = None
        self.spelling: Spelling | None = None
        self._texts: dict[bytes, str | None] = {}

    def text(self, name: bytes) -> str | None:
        """The value of a header as text; None where there is none."""
        if name in self._texts:
            return self._texts[name]
        value = self.headers.get(name)
        text = self._texts[name] = None if value is None else value.decode("latin-1").strip()
        return text


class Spelling:
    """The very bytes of a head, but for the values that are each request's own."""

    __slots__ = ("_parts",)

    def __init__(self, parts: tuple[tuple[bytes, bytes], ...]) -> None:
        self._parts = parts  # bytes, and the header whose value follows them; b"" at the end

    def read(self, data: bytes) -> Reading | None:
        """What `data` says where it begins with this head; None where it does not."""
        at = 0
        length = -1
        own: dict[bytes, str] = {}
        for literal, name in self._parts:
            if not data.startswith(literal, at):
                return None
            at += len(literal)
            if not name:
                return at, length, own
            end = data.find(b"\r", at, at + MAX_VALUE)
            if end < 0:
                return None
            value = data[at:end]
            if name == CONTENT_LENGTH:
                if not value.isdigit():
                    return None
                length = int(value)
            else:
                text = own[name] = value.decode("latin-1").strip(OWS)
                if not text.isprintable():
                    return None
            at = end
        return None


def spell(head: Head, data: bytes) -> Spelling | None:
    """How `head` is spelt where `data` begins with it, and a body of a declared length follows; None: some other way.

    Whatever could mean more to an HTTP parser than a line after the other is some other way.
    """
    if not UNUSUAL.isdisjoint(head.headers):
        return None
    if head.headers.get(b"connection", KEPT).lower() != KEPT:
        return None
    end = data.find(b"\r\n\r\n", 0, MAX_HEAD)
    first, *lines = data[: max(end, 0)].split(b"\r\n")
    if first != f"{head.method} {head.path} HTTP/1.1".encode("latin-1", "replace"):
        return None
    found: dict[bytes, bytes] = {}
    parts: list[tuple[bytes, bytes]] = []
    begun, at = 0, len(first) + 2
    for line in lines:
        name, _, value = line.partition(b":")
        name = name.lower()
        if name in found:
            return None
        found[name] = value.strip(b" \t")
        if name in OWN:
            value_at = at + len(line) - len(value.lstrip(b" \t"))
            parts.append((data[begun:value_at], name))
            begun = at + len(line)
        at += len(line) + 2
    parts.append((data[begun : end + 4], b""))
    length = found.get(CONTENT_LENGTH, b"")
    take_own(found)
    if found != head.headers or not length.isdigit():
        return None
    return Spelling(tuple(parts))


class Connection:
    """What the requests on one connection share. They come one after the other: the next is read once this is answered.

    `head` is that of the last request that was let in, `visit` where that led, and `client` the modern one that made it:
    each as long as what it follows from stays the same.
    """

    __slots__ = ("_on_lost", "client", "head", "is_lost", "visit")

    def __init__(self) -> None:
        self.head: Head | None = None
        self.visit: Visit | None = None
        self.client: ModernClient | None = None
        self.is_lost = False
        self._on_lost: Callable[[], object] | None = None

    def same_as(self, head: Head) -> Head | None:
        """The last head, with what is noted on it, where `head` says the very same."""
        known = self.head
        if known is None or head.repeated or known.headers != head.headers:
            return None
        return known if (known.path, known.method) == (head.path, head.method) else None

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


def take_own(headers: dict[bytes, bytes]) -> dict[bytes, str]:
    """Take out what is the request's own."""
    return {name: headers.pop(name).decode("latin-1").strip(OWS) for name in OWN if name in headers}


def headers_in(lines: Headers) -> tuple[dict[bytes, bytes], frozenset[bytes]]:
    """The first header of each name, but of Accept all of them, and the names that stand there more than once."""
    headers = dict(lines)
    if len(headers) == len(lines):
        return headers, NONE
    headers.clear()
    repeated: set[bytes] = set()
    for name, value in lines:
        if name not in headers:
            headers[name] = value
            continue
        repeated.add(name)
        if name == b"accept":
            headers[name] += b"," + value
    return headers, frozenset(repeated)
