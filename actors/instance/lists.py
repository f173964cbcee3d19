"""Reading a server's lists, page by page, and telling the index.

One reading at a time; a change announced meanwhile is read after it. A server without the tools capability has
said that its list is empty, which is not a failure.
"""

from __future__ import annotations

from collections.abc import Callable

from mcpv_node.actors.callers import EMPTY_PROFILE
from mcpv_node.actors.index_messages import IndexMessage
from mcpv_node.actors.kernel import Handle
from mcpv_node.actors.leases import InstanceId
from mcpv_node.protocol import (
    Failure,
    ListedTool,
    Message,
    Rejected,
    RemoteProtocolError,
    ServerHello,
    Success,
    list_params,
    parse_tools_page,
)
from mcpv_node.settings import SpecKey

from .messages import ListsFailed, ToolLists

# A server with more pages than this is counting, not listing.
MAX_PAGES = 1000

# Sends one request for a page; the callback gets the reply, or None when there was none in time.
Ask = Callable[[bytes | None, Callable[[Message | None], None]], None]


class ListReader:
    """See the module. Part of an Instance, which runs its callbacks."""

    def __init__(
        self, spec_key: SpecKey, instance_id: InstanceId, index: Handle[IndexMessage], ask: Ask
    ) -> None:
        self._spec_key = spec_key
        self._instance_id = instance_id
        self._index = index
        self._ask = ask
        self._hello: ServerHello | None = None
        self._tools: dict[str, ListedTool] = {}
        self._rejected: list[Rejected] = []
        self._cursors: set[str] = set()
        self._reading = False
        self._again = False
        self._readings = 0

    def begin(self, hello: ServerHello) -> None:
        """The handshake told what there is to list."""
        self._hello = hello

    def read(self) -> None:
        """Read all pages, or once more after the reading under way."""
        hello = self._hello
        if hello is None:
            return
        if self._reading:
            self._again = True
            return
        self._tools = {}
        self._rejected = []
        self._cursors = set()
        if not hello.capabilities.tools:
            self._tell_learnt(hello)
            return
        self._reading = True
        self._ask(list_params(None), self._on_page)

    def abandon(self, why: str) -> None:
        """The instance ends: a reading under way has failed."""
        if self._reading:
            self._fail(f"the instance ended while its tools were read: {why}")
        self._hello = None

    def _on_page(self, reply: Message | None) -> None:
        hello = self._hello
        if hello is None:
            return
        if reply is None:
            self._fail("tools/list was not answered in time")
            return
        if not isinstance(reply, Success):
            error = bytes(reply.error).decode("utf-8", "replace") if isinstance(reply, Failure) else ""
            self._fail(f"tools/list was answered with an error: {error[:500]}")
            return
        try:
            page = parse_tools_page(reply.result)
        except RemoteProtocolError as error:
            self._fail(str(error))
            return
        for tool in page.entries:
            self._tools.setdefault(tool.name, tool)
        self._rejected.extend(page.rejected)
        cursor = page.next_cursor
        if cursor is None:
            self._reading = False
            self._tell_learnt(hello)
            if self._again:
                self._again = False
                self.read()
        elif cursor in self._cursors or len(self._cursors) >= MAX_PAGES:
            self._fail(f"the pages of tools/list do not end: cursor {cursor[:80]!r} came again")
        else:
            self._cursors.add(cursor)
            self._ask(list_params(cursor), self._on_page)

    def _tell_learnt(self, hello: ServerHello) -> None:
        self._readings += 1
        self._index.tell(
            ToolLists(
                self._spec_key,
                EMPTY_PROFILE,
                self._instance_id,
                hello,
                tuple(self._tools.values()),
                tuple(self._rejected),
                # The first reading is ours; every other one the server asked for.
                announced=self._readings > 1,
            )
        )

    def _fail(self, message: str) -> None:
        self._reading = False
        self._again = False
        self._index.tell(ListsFailed(self._spec_key, EMPTY_PROFILE, self._instance_id, message))
