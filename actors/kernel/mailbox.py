"""A mailbox: many senders, one reader, drained in batches by one callback on the loop.

It is the inbox pykka asks its actors for (`put`, `get`, `empty`), and it is bounded: what does not fit
is refused loudly. No ask is ever lost, whoever wins the race with the actor's end: either `put` sees the
mailbox closed and refuses, or closing it takes what `put` appended.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any

from pykka._envelope import Envelope
from pykka.messages import _ActorStop  # pyright: ignore[reportPrivateUsage]

from .cell import Letter, StopRequested
from .errors import MailboxFull
from .replies import AnyThreadFuture

if TYPE_CHECKING:
    from .actor import KernelActor


class Mailbox:
    """See the module. Everything but `put` runs on the loop's thread."""

    __slots__ = ("_armed", "_owner", "closed", "letters")

    def __init__(self) -> None:
        self.letters: deque[Letter] = deque()  # what was not read yet, for the reader alone
        self._owner: KernelActor[Any] | None = None
        self._armed = False
        self.closed = False

    # --- the sender's side ----------------------------------------------------------------------

    def put(self, envelope: Envelope[Any], /) -> None:
        """pykka's way in, from any thread. Raises MailboxFull; a stop is always taken."""
        message = envelope.message
        owner = self._owner
        assert owner is not None
        future = envelope.reply_to
        port = future if isinstance(future, AnyThreadFuture) else None
        if port is not None:
            port.loop_thread = owner.cell.system.thread_id
        if isinstance(message, _ActorStop):
            message = StopRequested()
        elif len(self.letters) >= owner.cell.capacity:
            error = MailboxFull(f"{owner.cell.name} has {owner.cell.capacity} messages to read already")
            if port is None:
                raise error
            port.fail(error)
            return
        letter = Letter(message, port)
        self.letters.append(letter)
        if self.closed:
            # Whoever takes it off the deque has it: this thread, or the loop that is closing the mailbox.
            with contextlib.suppress(ValueError):
                self.letters.remove(letter)
                owner.refuse_late(letter)
        elif not owner.cell.system.post(self._arm):
            self._refuse_all()

    def put_letter(self, letter: Letter, *, bounded: bool) -> None:
        """A handle's way in, on the loop's thread."""
        owner = self._owner
        assert owner is not None
        if bounded and len(self.letters) >= owner.cell.capacity:
            owner.cell.refuse(
                letter, MailboxFull(f"{owner.cell.name} has {owner.cell.capacity} messages to read already")
            )
            return
        self.letters.append(letter)
        if not self._armed:
            self._arm()

    # --- the reader's side ----------------------------------------------------------------------

    def bind(self, owner: KernelActor[Any]) -> None:
        self._owner = owner

    def take(self) -> Letter | None:
        """The next letter, or None."""
        return self.letters.popleft() if self.letters else None

    def depth(self) -> int:
        return len(self.letters)

    def arm(self) -> None:
        """Have the reader called in the loop's next turn, if there is something to read."""
        if self.letters and not self._armed:
            self._arm()

    def disarm(self) -> None:
        self._armed = False

    def close(self) -> deque[Letter]:
        """Refuse what comes from now on and hand over what was not read."""
        # In this order, and never another deque in its place: a `put` that has seen the mailbox open has
        # appended before, so its letter is taken here; one that sees it closed takes its letter back.
        self.closed = True
        self._armed = False
        unread: deque[Letter] = deque()
        while (letter := self.take()) is not None:
            unread.append(letter)
        return unread

    def get(self) -> Envelope[Any]:
        """pykka's inbox protocol; our actors are called with letters instead."""
        letter = self.letters.popleft()
        return Envelope(
            letter.message, reply_to=letter.port if isinstance(letter.port, AnyThreadFuture) else None
        )

    def empty(self) -> bool:
        return not self.letters

    def _arm(self) -> None:
        if self.closed:
            self._refuse_all()
            return
        if self._armed:
            return
        owner = self._owner
        assert owner is not None
        self._armed = True
        owner.cell.system.loop.call_soon(owner.drain)

    def _refuse_all(self) -> None:
        owner = self._owner
        assert owner is not None
        letters = self.letters
        while True:
            try:
                letter = letters.popleft()
            except IndexError:
                return
            owner.refuse_late(letter)
