"""Actors whose handlers run on the node's event loop."""

from __future__ import annotations

from typing import Any, TypeVar

from .actor import BATCH, KernelActor
from .cell import Letter
from .messages import ExitReason, Normal

E = TypeVar("E")

# Letters that came before an ask are read before it. More than a few are a turn's work of their own.
BEFORE_AN_ASK = 8


class LoopActor(KernelActor[E]):
    """An actor on the loop: a handler runs to completion, nothing interleaves, nothing may block."""

    def __init__(self) -> None:
        super().__init__()
        self._booting = False
        self._doom: ExitReason | None = None

    def _boot(self) -> None:
        if self.state == "ended":
            return
        self._begun = True
        self._booting = True
        try:
            self.on_start(self.estate)
        except BaseException as error:  # noqa: BLE001  (the actor loop is the border; see DESIGN on BaseException)
            self._booting = False
            self._crash(error, None)
            return
        self._booting = False
        if self._doom is not None:
            self.die(self._doom)
            return
        self._boot_done()
        if self._exit is not None:
            self.die(self._exit)

    def die(self, reason: ExitReason) -> None:
        """End now; from inside this actor's own handler, as soon as it returns: it cannot be interrupted.

        What a handler does after it was killed does not count: no estate, no reply.
        """
        if self._letter is None and not self._booting:
            super().die(self._doom or reason)
        elif self._doom is None:
            self._doom = reason
            self._exit = self._exit or reason

    def drain(self) -> None:
        mailbox = self.mailbox
        mailbox.disarm()
        self._exit_now()
        for _ in range(BATCH):
            letter = mailbox.take()
            if letter is None or not self._read(letter):
                return
        mailbox.arm()

    def read_now(self, letter: Letter) -> bool:
        if self.state != "running" or self._letter is not None or self._exit is not None:
            return False
        if self.mailbox.letters and not self._catch_up():
            return False
        self._read(letter)
        return True

    def _catch_up(self) -> bool:
        """Read what came before; False if that is too much, or was the end."""
        letters = self.mailbox.letters
        if len(letters) > BEFORE_AN_ASK:
            return False
        for _ in range(len(letters)):
            if letters and not self._read(letters.popleft()):
                return False
        return not letters  # an actor that writes to itself has its turns like the others

    def _read(self, letter: Letter) -> bool:
        """Handle one letter; False when there is nobody to read another."""
        self._letter = letter
        try:
            # `_invoke`, without a call of its own: every message comes through here.
            handler = self.handlers.get(type(letter.message))
            reply = self._invoke_other(letter) if handler is None else handler(self, letter.message)
        except BaseException as error:  # noqa: BLE001  (the actor loop is the border)
            self._letter = None
            self._crash(error, letter)
            return False
        self._letter = None
        if self._exit is not None:
            self._finish(letter, reply)
            return False
        self._settle(letter, reply)
        return self.state != "ended"

    def _finish(self, letter: Letter, reply: Any) -> None:
        """The last handler has returned: this actor was asked to end, or killed, while it ran."""
        if self._doom is None:
            self._settle(letter, reply)
            self.die(self._exit or Normal())
        else:
            self._letter = letter  # its asker has no reply yet: the end gives it one
            super().die(self._doom)
