"""Lines on a server's stdout that are no messages: noise to skip, or broken replies that fail their call.

Which of the two is judged from the line's beginning. Where even that does not tell, and one call alone waits, the
call has some time left: noise before a reply is common, noise instead of one is rare.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from mcpv_node.actors.kernel import Timer
from mcpv_node.protocol import guess_id

from .pending import PendingCall, PendingCalls

if TYPE_CHECKING:
    from loguru import Logger

# A line that is no message may be noise before the reply, or be meant as the reply: so long we wait to see.
BAD_REPLY_PATIENCE = 5.0

# What tells a message from noise stands at its beginning, if anywhere.
MESSAGE_HEAD = 1024

# DESIGN 7.6: that many broken replies in a row and the instance is replaced.
MAX_BAD_REPLIES = 3

# More of the same tells nobody more.
MAX_LOGGED = 3

# An id of ours has no more digits than a 64-bit integer; a longer number is nobody's, and slow to read.
MAX_ID_DIGITS = 19


def our_id(raw: bytes | None) -> int | None:
    """The number of one of our requests, or None: servers may echo anything."""
    return int(raw) if raw is not None and len(raw) <= MAX_ID_DIGITS and raw.isdigit() else None


class BadLines:
    """See the module. Part of an Instance, which runs its callbacks.

    `look_again` comes back with `on_patience_over(call_id)` after so many seconds; `fail` ends a call whose reply is
    broken; `retire` ends an instance that gives no other replies.
    """

    def __init__(
        self,
        pending: PendingCalls,
        *,
        look_again: Callable[[float, int], Timer],
        fail: Callable[[PendingCall, str], None],
        retire: Callable[[str], None],
        log: Logger,
    ) -> None:
        self._pending = pending
        self._look_again = look_again
        self._fail = fail
        self._retire = retire
        self._log = log
        self._suspicion: Timer | None = None
        self._is_known_noisy = False
        self._lines = 0
        self._replies = 0

    def on_good_line(self) -> None:
        """A message has come: what was before it was noise."""
        self._replies = 0
        if self._suspicion is not None:
            self._suspicion.cancel()
            self._suspicion = None
            self._is_known_noisy = True  # it wrote noise and then went on: it does that

    def on_bad_line(self, line: bytes, why: str) -> None:
        """Skip it. Where it was meant as a reply, the call it belonged to fails now."""
        self._lines += 1
        if self._lines <= MAX_LOGGED:
            self._log.warning("skipped on stdout ({}): {}", why, line[:200].decode("utf-8", "replace"))
        head = line[:MESSAGE_HEAD].lstrip()
        guess = our_id(guess_id(head))
        meant = None if guess is None else self._pending.get(guess)
        awaited = self._pending.awaited()
        if not self._is_meant_as_message(head, of_a_call=meant is not None):
            if len(awaited) == 1 and not self._is_known_noisy and self._suspicion is None:
                self._suspicion = self._look_again(BAD_REPLY_PATIENCE, awaited[0].id)
            return
        if meant is None and len(awaited) == 1:
            meant = awaited[0]
        self._count(meant, why)

    def on_patience_over(self, call_id: int) -> None:
        """Nothing sensible has come since a line that was no message, while only this call waited."""
        self._suspicion = None
        # That very call: another one may have taken its place and has not had its time yet.
        call = self._pending.get(call_id)
        if call is not None and self._pending.awaited() == [call]:
            self._count(call, "what it wrote instead of a reply is not JSON")

    def hint(self) -> str:
        """What there was of it, to be added to another complaint."""
        return f"; {self._lines} lines on its stdout were not JSON-RPC" if self._lines else ""

    def _is_meant_as_message(self, head: bytes, *, of_a_call: bool) -> bool:
        """Tell a broken reply from a log line, which may well begin with a bracket or be JSON itself."""
        return head.startswith(b"{") and (b'"jsonrpc"' in head or of_a_call)

    def _count(self, meant: PendingCall | None, why: str) -> None:
        self._replies += 1
        if meant is not None:
            self._fail(meant, why)
        if self._replies >= MAX_BAD_REPLIES:
            self._retire(f"{MAX_BAD_REPLIES} replies in a row were not JSON-RPC, the last: {why}")
