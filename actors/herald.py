"""What the service manager that started the node hears of it: ready, reloading, stopping, how many servers are up.

A sign of life goes out only after every actor has answered, at half of the time the service manager allows. All of it
happens on the node's loop: a loop that is stuck says nothing, and that is what the service manager waits for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from loguru import logger

from mcpv_node.telemetry.notify import Listener

from .kernel import Handle, Health, LoopActor, Shutdown, handles
from .status import InitState, InitStatus, ShowInit

# Between two looks at the servers; seconds. A status is for people, who do not read faster.
LOOK_EVERY = 2.0

# Every server type reports from memory, within 2 s; a look that takes longer is left out.
LOOK_BOUND = 5.0

# A check that has failed has waited for its own bound; the next follows after this (seconds).
CHECK_AGAIN = 0.5

_UP = frozenset({InitState.READY})
_FAILED = frozenset({InitState.FAILED, InitState.SUSPENDED, InitState.DEGRADED})


@dataclass(frozen=True, slots=True)
class NodeReady:
    """The whole tree is up, and `/readyz` says so."""

    http: str


@dataclass(frozen=True, slots=True)
class ReloadBegan:
    """The configuration is being read again, whoever asked for it."""


@dataclass(frozen=True, slots=True)
class ReloadEnded:
    """It is in effect, or `problem` says why the one before goes on."""

    problem: str | None = None


@dataclass(frozen=True, slots=True)
class _Look:
    """It is time to look at the servers."""


@dataclass(frozen=True, slots=True)
class _Looked:
    outcome: Sequence[InitStatus] | Exception


@dataclass(frozen=True, slots=True)
class _Check:
    """It is time for a sign of life."""


@dataclass(frozen=True, slots=True)
class _Checked:
    outcome: Health | Exception


HeraldMessage: TypeAlias = NodeReady | ReloadBegan | ReloadEnded


@dataclass(frozen=True, slots=True)
class Standing:
    """What a status line is made of; the estate, so that a restart of this actor says nothing new."""

    http: str
    servers: str = ""
    problem: str | None = None  # of the configuration
    silent: str | None = None  # who did not answer

    def __str__(self) -> str:
        parts = (f"serving at {self.http}", self.servers, self.problem, self.silent)
        return "; ".join(part for part in parts if part)


def describe_servers(statuses: Sequence[InitStatus]) -> str:
    """Say how many servers have what they should have: `5 servers: 3 ready, 1 starting, 1 failed`."""
    ready = sum(status.state in _UP for status in statuses)
    failed = sum(status.state in _FAILED for status in statuses)
    starting = len(statuses) - ready - failed
    counts = [f"{ready} ready"]
    counts += [f"{starting} starting"] if starting else []
    counts += [f"{failed} failed"] if failed else []
    return f"{len(statuses)} server{'' if len(statuses) == 1 else 's'}: {', '.join(counts)}"


class Herald(LoopActor[Standing]):
    """See the module. `address` is where the node serves, once it is ready; `look_every` is in seconds."""

    def __init__(
        self,
        manager: Listener,
        init: Handle[ShowInit],
        address: Callable[[], str | None],
        check: Callable[[], Coroutine[Any, Any, Health]],
        monotonic: Callable[[], float],
        *,
        look_every: float = LOOK_EVERY,
    ) -> None:
        super().__init__()
        self._manager = manager
        self._init = init
        self._address = address
        self._check_health = check
        self._monotonic = monotonic
        self._look_every = look_every
        # Where the service manager is gone every message fails; the first says so.
        self._is_heard = True
        self._told: str | None = None

    def on_start(self, estate: Standing | None = None) -> None:
        if estate is not None:
            self._begin()
        elif (http := self._address()) is not None:
            # What was known is lost; that the node is ready is a fact.
            self.estate = Standing(http)
            self._begin()

    def on_shutdown(self) -> None:
        self._tell(STOPPING=1, STATUS="stopping: nothing new is taken, calls in hand are finished")
        self.exit(Shutdown())

    @handles(NodeReady)
    def _on_ready(self, message: NodeReady) -> None:
        if self.estate is None:
            self.estate = Standing(message.http)
            self._begin()
        self._say_ready()

    def _begin(self) -> None:
        self.note(_Look())
        if self._manager.watchdog is not None:
            self.note(_Check())

    def _say_ready(self) -> None:
        self._told = str(self.estate)
        self._tell(READY=1, MAINPID=os.getpid(), STATUS=self._told)

    # --- reloads --------------------------------------------------------------------------------

    @handles(ReloadBegan)
    def _on_reload_began(self, _message: ReloadBegan) -> None:
        # The files are looked at from the start; what happens before the node is ready is a part of its start.
        if self.estate is not None:
            self._tell(
                RELOADING=1,
                MONOTONIC_USEC=int(self._monotonic() * 1e6),
                STATUS="reloading the configuration",
            )

    @handles(ReloadEnded)
    def _on_reload_ended(self, message: ReloadEnded) -> None:
        if self.estate is not None:
            problem = None if message.problem is None else f"the configuration is not good: {message.problem}"
            self.estate = Standing(self.estate.http, self.estate.servers, problem, self.estate.silent)
            self._say_ready()

    # --- how the servers are --------------------------------------------------------------------

    @handles(_Look)
    def _on_look(self, _message: _Look) -> None:
        self.run(self._init.ask(ShowInit(), LOOK_BOUND), _Looked)

    @handles(_Looked)
    def _on_looked(self, message: _Looked) -> None:
        self.after(self._look_every, _Look())
        if self.estate is not None and not isinstance(message.outcome, Exception):
            servers = describe_servers(message.outcome)
            self.estate = Standing(self.estate.http, servers, self.estate.problem, self.estate.silent)
            self._say_if_new()

    def _say_if_new(self) -> None:
        status = str(self.estate)
        if status != self._told:
            self._told = status
            self._tell(STATUS=status)

    # --- the sign of life -----------------------------------------------------------------------

    @handles(_Check)
    def _on_check(self, _message: _Check) -> None:
        self.run(self._check_health(), _Checked)

    @handles(_Checked)
    def _on_checked(self, message: _Checked) -> None:
        assert self._manager.watchdog is not None
        if isinstance(message.outcome, Exception):
            raise message.outcome
        health, before = message.outcome, self.estate
        if health.is_good:
            self._tell(WATCHDOG=1)
            self.after(self._manager.watchdog / 2, _Check())
        else:
            self.after(CHECK_AGAIN, _Check())
        if before is None:
            return
        silent = None if health.is_good else str(health)
        if silent is not None and silent != before.silent:
            logger.error("no sign of life for the service manager: {}", silent)
        self.estate = Standing(before.http, before.servers, before.problem, silent)
        self._say_if_new()

    def _tell(self, **assignments: str | int) -> None:
        try:
            self._manager.tell(**assignments)
        except OSError as error:
            if self._is_heard:
                logger.warning("the service manager at {} does not hear: {}", self._manager.address, error)
            self._is_heard = False
        else:
            self._is_heard = True
