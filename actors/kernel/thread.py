"""Actors whose handlers may block: each has a thread of its own.

The mailbox, the timers and the end stay on the loop, where everybody else's are; the thread is handed one
letter at a time. A handler that never returns can be abandoned (its thread is a daemon), not stopped.
"""

from __future__ import annotations

import queue
from dataclasses import dataclass
from typing import Any, TypeVar

import pykka

from .actor import KernelActor
from .cell import Letter
from .messages import ExitReason

E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class _End:
    reason: ExitReason


class ThreadActor(KernelActor[E], pykka.ThreadingActor):
    """A `KernelActor` on a `pykka.ThreadingActor`'s thread."""

    use_daemon_thread = True

    def __init__(self) -> None:
        super().__init__()
        self._jobs: queue.SimpleQueue[Letter | _End] = queue.SimpleQueue()
        self._busy = True  # until on_start has returned
        self._thread_done = False

    def is_abandoned(self) -> bool:
        """Whether this actor has ended while its thread is still in a hook or a handler."""
        return self._begun and self.state == "ended" and self._busy and not self._thread_done

    def _boot(self) -> None:
        if self.state == "ended":
            return
        try:
            pykka.ThreadingActor._start_actor_loop(self)
        except RuntimeError as error:  # the machine gives no more threads
            self._crash(error, None)
            return
        self._begun = True

    def drain(self) -> None:
        self.mailbox.disarm()
        if self._busy or self._exit is not None or self.state == "ended":
            return
        letter = self.mailbox.take()
        if letter is not None:
            self._busy = True
            self._letter = letter
            self._jobs.put(letter)

    def _actor_loop(self) -> None:
        """The thread's body."""
        post = self.cell.system.post
        try:
            self.on_start(self.estate)
        except BaseException as error:  # noqa: BLE001  (the actor loop is the border)
            post(self._handled, None, None, error)
        else:
            post(self._handled, None, None, None)
        while True:
            job = self._jobs.get()
            if isinstance(job, _End):
                super()._last_rites(job.reason)
                post(self._over, job.reason)
                return
            if self.state == "ended":
                continue
            try:
                reply = self._invoke(job)
            except BaseException as error:  # noqa: BLE001  (the actor loop is the border)
                post(self._handled, job, None, error)
            else:
                post(self._handled, job, reply, None)

    def _handled(self, letter: Letter | None, reply: Any, error: BaseException | None) -> None:
        """Back on the loop: on_start (no letter) or a handler has returned."""
        self._letter = None
        if self.state == "ended":
            return
        if error is not None:
            self._crash(error, letter)
            return
        if letter is None:
            self._boot_done()
        else:
            self._settle(letter, reply)
        if self._exit is not None:
            self._end(self._exit)
            return
        self._busy = False
        self.mailbox.arm()

    def _exit_now(self) -> None:
        if self._exit is not None and not self._busy and self.state != "ended":
            self._end(self._exit)

    def _end(self, reason: ExitReason) -> None:
        """An orderly end waits for the thread: what on_exit closes is closed when the end is seen."""
        self._busy = True
        self._jobs.put(_End(reason))

    def _last_rites(self, reason: ExitReason) -> None:
        """A crash or a kill does not wait: the thread, if it ever returns, does what on_exit says and ends."""
        if not self._thread_done:
            self._jobs.put(_End(reason))

    def _over(self, reason: ExitReason) -> None:
        self._thread_done = True
        self.die(reason)
