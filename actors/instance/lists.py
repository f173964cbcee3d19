"""Reading a server's lists, page by page, and telling the indexes: each kind on its own.

One reading of a kind at a time; a change announced meanwhile is read after it. A server that does not offer a kind,
or does not know the method for it, has said that its list is empty, which is not a failure. A page that is to the byte
what it was the time before is not read again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping

from msgspec import Raw

from mcpv_node.actors.callers import ClientProfile
from mcpv_node.actors.index_messages import IndexMessage
from mcpv_node.actors.kernel import Handle
from mcpv_node.actors.leases import InstanceId
from mcpv_node.actors.snapshot import KINDS, LISTS_OF, Kind
from mcpv_node.protocol import (
    LISTS,
    METHOD_NOT_FOUND,
    Capabilities,
    Failure,
    Listed,
    ListName,
    Message,
    Page,
    Rejected,
    RemoteProtocolError,
    ServerHello,
    Success,
    error_code,
    list_params,
    parse_page,
)
from mcpv_node.settings import SpecKey

from .messages import Lists, ListsFailed

# A server with more pages than this is counting, not listing.
MAX_PAGES = 1000

# The digest of a page and what it says, by its list and its cursor.
Pages = dict[tuple[ListName, str | None], tuple[bytes, Page]]

# Sends one request for a page; the callback gets the reply, or None when there was none in time.
Ask = Callable[[str, bytes | None, Callable[[Message | None], None]], None]


def offers(capabilities: Capabilities, kind: Kind) -> bool:
    """Whether the server says that it has lists of this kind."""
    match kind:
        case "tools":
            return capabilities.tools
        case "resources":
            return capabilities.resources
        case "prompts":
            return capabilities.prompts


def announces(capabilities: Capabilities, kind: Kind) -> bool:
    """Whether the server says that it tells when a list of this kind changes."""
    match kind:
        case "tools":
            return capabilities.tools_list_changed
        case "resources":
            return capabilities.resources_list_changed
        case "prompts":
            return capabilities.prompts_list_changed


class ListReader:
    """See the module. Part of an Instance, which runs its callbacks.

    `complaint` says why an entry cannot be used over this instance's transport, if so.
    """

    def __init__(
        self,
        spec_key: SpecKey,
        profile: ClientProfile,
        instance_id: InstanceId,
        indexes: Mapping[Kind, Handle[IndexMessage]],
        ask: Ask,
        monotonic: Callable[[], float],
        complaint: Callable[[Kind, Listed], str | None] = lambda _kind, _one: None,
    ) -> None:
        self._hello: ServerHello | None = None
        self._readers = {
            kind: _KindReader(kind, spec_key, profile, instance_id, indexes[kind], ask, monotonic, complaint)
            for kind in KINDS
        }

    def begin(self, hello: ServerHello) -> None:
        """The handshake told what there is to list."""
        self._hello = hello

    def read(self, kinds: Iterable[Kind] = KINDS) -> None:
        """Read all pages, or once more after the reading under way."""
        if self._hello is not None:
            for kind in kinds:
                self._readers[kind].read(self._hello)

    @property
    def offered(self) -> frozenset[Kind]:
        """What there is to list: that there is nothing of a kind does not change."""
        hello = self._hello
        return frozenset(kind for kind in KINDS if hello is not None and offers(hello.capabilities, kind))

    def abandon(self, why: str, *, asked: bool) -> None:
        """The instance ends, because it was `asked` to or by itself: a reading under way has failed."""
        self._hello = None
        for reader in self._readers.values():
            reader.abandon(why, asked=asked)


class _KindReader:
    """The lists of one kind, one after the other."""

    def __init__(
        self,
        kind: Kind,
        spec_key: SpecKey,
        profile: ClientProfile,
        instance_id: InstanceId,
        index: Handle[IndexMessage],
        ask: Ask,
        monotonic: Callable[[], float],
        complaint: Callable[[Kind, Listed], str | None],
    ) -> None:
        self._kind: Kind = kind
        self._monotonic = monotonic
        self._began = 0.0
        self._spec_key = spec_key
        self._profile = profile
        self._instance_id = instance_id
        self._index = index
        self._ask = ask
        self._complaint = complaint
        self._hello: ServerHello | None = None  # while a reading is under way
        self._listed: dict[tuple[ListName, str], Listed] = {}
        self._rejected: list[Rejected] = []
        self._left: list[ListName] = []
        self._cursors: set[str] = set()
        self._cursor: str | None = None  # of the page that was asked for
        self._pages: Pages = {}
        self._pages_before: Pages = {}
        self._again = False
        self._readings = 0

    def read(self, hello: ServerHello) -> None:
        if self._hello is not None:
            self._again = True
            return
        self._hello = hello
        self._began = self._monotonic()
        self._listed = {}
        self._rejected = []
        self._pages_before, self._pages = self._pages, {}
        self._left = list(LISTS_OF[self._kind]) if offers(hello.capabilities, self._kind) else []
        self._read_next_list(hello)

    def abandon(self, why: str, *, asked: bool) -> None:
        if self._hello is not None:
            self._again = False
            words = f"the instance ended while its {self._kind} were read: {why}"
            self._fail(self._hello, words, asked=asked)

    def _read_next_list(self, hello: ServerHello) -> None:
        if self._left:
            self._cursors = set()
            self._ask_for_page(None)
            return
        self._hello = None
        self._tell_learnt(hello)
        self._read_again(hello)

    def _read_again(self, hello: ServerHello) -> None:
        if self._again:
            self._again = False
            self.read(hello)

    def _ask_for_page(self, cursor: str | None) -> None:
        self._cursor = cursor
        self._ask(LISTS[self._left[0]].method, list_params(cursor), self._on_page)

    def _on_page(self, reply: Message | None) -> None:
        hello = self._hello
        if hello is None:
            return
        of = self._left[0]
        method = LISTS[of].method
        if isinstance(reply, Failure) and error_code(reply.error) == METHOD_NOT_FOUND:
            # Many servers that have resources have no templates and do not know the word.
            self._end_list(hello)
            return
        if reply is None:
            self._fail(hello, f"{method} was not answered in time")
            return
        if not isinstance(reply, Success):
            error = bytes(reply.error).decode("utf-8", "replace") if isinstance(reply, Failure) else ""
            self._fail(hello, f"{method} was answered with an error: {error[:500]}")
            return
        try:
            page = self._read_page(of, reply.result)
        except RemoteProtocolError as error:
            self._fail(hello, str(error))
            return
        for index, one in enumerate(page.entries):
            why = self._complaint(self._kind, one)
            if why is None:
                self._listed.setdefault((of, one.name), one)
            else:
                self._rejected.append(Rejected(index, one.name, why))
        self._rejected.extend(page.rejected)
        cursor = page.next_cursor
        if cursor is None:
            self._end_list(hello)
        elif cursor in self._cursors or len(self._cursors) >= MAX_PAGES:
            self._fail(hello, f"the pages of {method} do not end: cursor {cursor[:80]!r} came again")
        else:
            self._cursors.add(cursor)
            self._ask_for_page(cursor)

    def _read_page(self, of: ListName, result: bytes | Raw) -> Page:
        at = of, self._cursor
        digest = hashlib.sha256(result).digest()
        before = self._pages_before.get(at)
        page = before[1] if before is not None and before[0] == digest else parse_page(of, result)
        self._pages[at] = digest, page
        return page

    def _end_list(self, hello: ServerHello) -> None:
        del self._left[0]
        self._read_next_list(hello)

    def _tell_learnt(self, hello: ServerHello) -> None:
        self._readings += 1
        self._index.tell(
            Lists(
                self._kind,
                self._spec_key,
                self._profile,
                self._instance_id,
                hello,
                tuple(self._listed.values()),
                tuple(self._rejected),
                offered=offers(hello.capabilities, self._kind),
                again=self._readings > 1,
                began=self._began,
            )
        )

    def _fail(self, hello: ServerHello, message: str, *, asked: bool = False) -> None:
        self._hello = None
        self._index.tell(
            ListsFailed(
                self._kind,
                self._spec_key,
                self._profile,
                self._instance_id,
                message,
                began=self._began,
                asked=asked,
            )
        )
        # What was announced meanwhile may be the cure.
        self._read_again(hello)
