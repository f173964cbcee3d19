"""The place of one actor in the tree: what stays when an incarnation ends and the next begins.

A cell holds the current incarnation, the estate it has committed, and the messages that arrive while
there is none. Cells live on the loop's thread; a `Handle` is the typed outside of one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from .errors import ActorDead, ActorRestarted, MailboxFull
from .messages import ActorStatistics, Crashed, DeadLetter, Down, ExitReason, Killed, MonitorId
from .replies import Port
from .system import ActorSystem

if TYPE_CHECKING:
    from .actor import KernelActor

# More than a node's bound of calls in flight; a mailbox that deep means its actor does not keep up.
MAILBOX_CAPACITY = 20_000

# As many letters as a mailbox hands over in one turn of the loop.
ASKS_AT_ONCE = 64

# A second crash this soon makes the estate a suspect (seconds).
ESTATE_CRASH_WINDOW = 5.0


class StopRequested:
    """Asked to stop, by a supervisor or by pykka's `ref.stop()`; a port hears when it is over."""

    __slots__ = ()


class Letter(Struct, eq=False):
    """A message on its way, with the port of whoever waits for an answer."""

    message: object
    port: Port[Any] | None = None


class Cell:
    """See the module. `on_started` and `on_ended` belong to the supervisor that fills the cell."""

    __slots__ = (
        "_crashed_at",
        "_monitors",
        "actor",
        "capacity",
        "closed",
        "crashes",
        "estate",
        "incarnation",
        "kind",
        "name",
        "on_ended",
        "on_started",
        "since",
        "stash",
        "system",
    )

    def __init__(self, system: ActorSystem, name: str, *, capacity: int = MAILBOX_CAPACITY) -> None:
        self.system = system
        self.name = name
        self.kind = "?"
        self.capacity = capacity
        self.incarnation = 0
        self.actor: KernelActor[Any] | None = None
        self.estate: Any = None
        self.stash: deque[Letter] = deque()
        self.closed: ExitReason | None = None
        self.crashes = 0
        self.since = system.clock.monotonic()
        self.on_started: Callable[[int], None] | None = None
        self.on_ended: Callable[[int, ExitReason], None] | None = None
        self._crashed_at: float | None = None
        self._monitors: dict[MonitorId, Cell] = {}

    # --- messages -------------------------------------------------------------------------------

    def deliver(self, letter: Letter, *, bounded: bool = True) -> None:
        """Put a letter before the current incarnation, or keep it for the next one. Loop thread only."""
        if self.closed is not None:
            self.refuse(letter, ActorDead(f"{self.name} has ended ({self.closed})"))
        elif self.actor is not None:
            self.actor.mailbox.put_letter(letter, bounded=bounded)
        elif bounded and len(self.stash) >= self.capacity:
            self.refuse(letter, MailboxFull(f"{self.name} is restarting and {self.capacity} messages wait"))
        else:
            self.stash.append(letter)

    def deliver_now(self, letter: Letter) -> None:
        """Have a coroutine's letter read now if its reader is free, else deliver it. Never from a handler.

        What the loop would do in its next turn is done in this one, with nothing between: a future, a timer and two
        turns less. Some take the long way all the same, so that a coroutine that only asks lets the others run.
        """
        system = self.system
        system.asks_at_once += 1
        if system.asks_at_once < ASKS_AT_ONCE:
            actor = self.actor
            if actor is not None and actor.read_now(letter):
                return
        else:
            system.asks_at_once = 0
        self.deliver(letter)

    def note(self, message: object) -> None:
        """Tell whichever incarnation is current, past the bound: for callbacks of what outlives one."""
        self.deliver(Letter(message), bounded=False)

    def refuse(self, letter: Letter, error: Exception) -> None:
        """Answer an ask with `error`, or bury what was only told."""
        if letter.port is not None:
            letter.port.fail(error)
        else:
            self.system.bury(DeadLetter(self.name, self.kind, type(letter.message).__name__, str(error)))

    # --- incarnations ---------------------------------------------------------------------------

    def start(self, actor: KernelActor[Any]) -> None:
        """Make `actor` the next incarnation. It reports through `on_started` or `on_ended`."""
        if self.actor is not None:
            raise RuntimeError(f"{self.name} has an incarnation already; it has to end first")
        self.closed = None
        self.incarnation += 1
        self.kind = type(actor).__name__
        if self.incarnation > 1 and self.system.on_restart is not None:
            self.system.on_restart(self.kind)
        self.since = self.system.clock.monotonic()
        self.actor = actor
        actor.attach(self)
        for letter in self.stash:
            actor.mailbox.put_letter(letter, bounded=False)
        self.stash.clear()

    def ended(self, incarnation: int, reason: ExitReason, unread: deque[Letter]) -> None:
        """The current incarnation is over: keep what was told, answer what was asked, tell the watchers."""
        self.actor = None
        self.since = self.system.clock.monotonic()
        if isinstance(reason, Crashed | Killed):
            self.crashes += 1
            if self._crashed_at is not None and self.since - self._crashed_at <= ESTATE_CRASH_WINDOW:
                self.estate = None
            self._crashed_at = self.since
        for letter in unread:
            if letter.port is not None:
                letter.port.fail(ActorRestarted(f"{self.name} ended before it answered ({reason})"))
            else:
                self.stash.append(letter)
        monitors, self._monitors = self._monitors, {}
        for monitor, watcher in monitors.items():
            watcher.deliver(Letter(Down(monitor, self.name, incarnation, reason)), bounded=False)
        if self.closed is not None:
            self.close(self.closed)  # closed while it lived: what it left unread has no other end
        elif self.on_ended is None:
            self.close(reason)
        if self.on_ended is not None:
            self.on_ended(incarnation, reason)

    def close(self, reason: ExitReason) -> None:
        """No incarnation will follow: refuse what waits and whatever comes."""
        self.closed = reason
        self.estate = None
        self._tell_watchers(reason)
        while self.stash:
            self.refuse(self.stash.popleft(), ActorDead(f"{self.name} has ended ({reason})"))

    # --- control: past the mailbox --------------------------------------------------------------

    def watch(self, monitor: MonitorId, watcher: Cell) -> None:
        """Send `watcher` one `Down` when the current incarnation ends, or the first where none has begun.

        At once if there was one and there is none now.
        """
        if self.actor is not None or (self.incarnation == 0 and self.closed is None):
            self._monitors[monitor] = watcher
        else:
            reason = self.closed or Killed("no incarnation is running")
            watcher.deliver(Letter(Down(monitor, self.name, self.incarnation, reason)), bounded=False)

    def _tell_watchers(self, reason: ExitReason) -> None:
        monitors, self._monitors = self._monitors, {}
        for monitor, watcher in monitors.items():
            watcher.deliver(Letter(Down(monitor, self.name, self.incarnation, reason)), bounded=False)

    def unwatch(self, monitor: MonitorId) -> None:
        self._monitors.pop(monitor, None)

    def stop(self) -> None:
        """Ask the current incarnation to stop, in mailbox order and whatever the mailbox's bound."""
        if self.actor is not None:
            self.actor.mailbox.put_letter(Letter(StopRequested()), bounded=False)

    def kill(self, why: str = "killed") -> None:
        """End the current incarnation now, whatever its mailbox holds."""
        if self.actor is not None:
            self.actor.die(Killed(why))

    def statistics(self) -> ActorStatistics:
        actor = self.actor
        if actor is None:
            state = "restarting" if self.closed is None else "ended"
        else:
            state = actor.state
        return ActorStatistics(
            name=self.name,
            kind=self.kind,
            state=state,
            incarnation=self.incarnation,
            since=self.since,
            mailbox=len(self.stash) if actor is None else actor.mailbox.depth(),
            handled=0 if actor is None else actor.handled,
            crashes=self.crashes,
            deferred=0 if actor is None else actor.deferred_count(),
            timers=0 if actor is None else actor.timer_count(),
            tasks=0 if actor is None else actor.task_count(),
        )
