"""The owner of the guard process and the ledger: what makes sure that no server outlives its node.

Every group of processes is enlisted before its start goes on and struck off once it is gone. The guard process
holds our pipe; when that closes, whatever the reason, it ends what the ledger names.

Where orphans become our children, as those of the first process of a container do, it waits for them when they end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from loguru import logger

from mcpv_node.transports import (
    ExitStatus,
    GuardProcess,
    Ledger,
    LedgerEntry,
    ReapReport,
    Strangers,
    reap_leftovers,
    start_guard,
)

from .kernel import Deferred, ExitReason, LoopActor, Request, Shutdown, answers, handles

# Seconds between TERM and KILL for what a dead node left: a server that has lost its client has nothing to finish.
REAP_GRACE = 1.0

# Between two looks for orphans that have ended; seconds. What waits for a child of ours has long done so by the second.
STRANGERS_EVERY = 1.0


@dataclass(frozen=True, slots=True)
class Enlist(Request[None]):
    """A group of processes exists; it is in the ledger when the reply comes."""

    entry: LedgerEntry


@dataclass(frozen=True, slots=True)
class StrikeOff:
    """The group is gone."""

    pgid: int


@dataclass(frozen=True, slots=True)
class _Reaped:
    outcome: ReapReport | Exception


@dataclass(frozen=True, slots=True)
class _LookForStrangers:
    """It is time to look for orphans that have ended."""


@dataclass(frozen=True, slots=True)
class _GuardDied:
    status: ExitStatus


@dataclass(frozen=True, slots=True)
class _Finished:
    outcome: bool | Exception


GuardMessage: TypeAlias = Enlist | StrikeOff


class GuardPost:
    """Where the guard process stands, for every incarnation of its actor.

    An estate is dropped when an actor crashes twice in a row, but this is a fact, and nothing to rebuild: without a
    holder its pipe would close, and the guard would end every server.
    """

    process: GuardProcess | None = None


class Guard(LoopActor[GuardProcess]):
    """See the module. `mark_prefix` is what our children carry in their environment: `<node id>/`.

    `strangers` waits for orphans; None where they are not our children, or not ours to wait for.
    """

    def __init__(
        self,
        ledger: Path,
        mark_prefix: str,
        *,
        on_reaped: Callable[[ReapReport], None],
        post: GuardPost | None = None,
        strangers: Strangers | None = None,
    ) -> None:
        super().__init__()
        self._strangers = strangers
        self._post = GuardPost() if post is None else post
        self._path = ledger
        self._mark_prefix = mark_prefix
        self._on_reaped = on_reaped
        self._ledger: Ledger | None = None

    def on_start(self, estate: GuardProcess | None = None) -> None:
        """Reap what an earlier life left, then stand guard. A restart of this actor reaps nobody.

        The estate is the guard process itself: its pipe must not close while servers run, or it would take them
        for leftovers.
        """
        self.hold_start()
        if self.incarnation == 1:
            self.run(asyncio.to_thread(reap_leftovers, self._path, self._mark_prefix, REAP_GRACE), _Reaped)
        else:
            self._stand()

    def on_shutdown(self) -> None:
        if self.estate is None:
            self.exit(Shutdown())
        else:
            self.run(self.estate.finish(), _Finished)

    def on_exit(self, reason: ExitReason) -> None:
        if self._ledger is not None:
            self._ledger.close()

    @handles(_Reaped)
    def _on_leftovers_reaped(self, message: _Reaped) -> None:
        if isinstance(message.outcome, Exception):
            raise message.outcome
        self._on_reaped(message.outcome)
        self._stand()

    def _stand(self) -> None:
        self._ledger = Ledger(self._path)
        process = self.estate or self._post.process
        if process is None or not process.is_alive:
            process = start_guard(self._path, self._mark_prefix, REAP_GRACE, on_exit=self._guard_ended)
        self.estate = self._post.process = process
        self.started()
        if self._strangers is not None:
            self.after(STRANGERS_EVERY, _LookForStrangers())

    @handles(_LookForStrangers)
    def _on_look_for_strangers(self, _message: _LookForStrangers) -> None:
        assert self._strangers is not None
        assert self._ledger is not None
        self.after(STRANGERS_EVERY, _LookForStrangers())
        own = {entry.pid for entry in self._ledger.live}
        if self.estate is not None:
            own.add(self.estate.pid)
        gone = self._strangers.reap(own=own)
        if gone:
            logger.debug("orphans that had ended: {}", ", ".join(map(str, gone)))

    def _guard_ended(self, status: ExitStatus) -> None:
        # By its place, not by this incarnation: the process outlives a restart of its actor.
        self.cell.note(_GuardDied(status))

    @handles(_GuardDied)
    def _on_guard_died(self, message: _GuardDied) -> None:
        raise RuntimeError(f"the guard process {message.status}")

    @handles(_Finished)
    def _on_finished(self, _message: _Finished) -> None:
        self.estate = self._post.process = None
        self.exit(Shutdown())

    @answers(Enlist)
    def _on_enlist(self, request: Enlist) -> Deferred[None] | None:
        """A disk that refuses costs this one start, not the guard: without it every server would be ended."""
        assert self._ledger is not None
        try:
            self._ledger.append_started(request.entry)
        except OSError as error:
            refused: Deferred[None] = self.defer()
            refused.fail(error)
            return refused
        return None

    @handles(StrikeOff)
    def _on_strike_off(self, message: StrikeOff) -> None:
        assert self._ledger is not None
        try:
            self._ledger.append_ended(message.pgid)
        except OSError as error:
            # What stays in the ledger by mistake is looked at again, and has ended.
            logger.error("the end of group {} could not be kept: {}", message.pgid, error)
