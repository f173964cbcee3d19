"""Bootstrap: the supervisor of the metadata probes, one for each spec key whose lists are not known yet.

At most so many probes run at once. One that fails is tried again a few times with growing delays, then reported;
the servers' own state is none of its business.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loguru import logger

from mcpv_node.actors.index_messages import IndexMessage, Unlearnt
from mcpv_node.actors.kernel import ExitReason, Handle, KernelActor, handles
from mcpv_node.actors.snapshot import Kind
from mcpv_node.settings import SpecKey

from .backoff import Backoff
from .dynamic import DynamicSupervisor
from .events import EventSink, log_event
from .messages import StartChild
from .specs import ChildSpec, DynamicSpec, GivingUp, Restart
from .window import RestartWindow

# A probe is tried three times in all; a server that cannot be listed then will not be by trying once more.
MAX_RETRIES = 2
RETRY_PERIOD = 600.0
RETRY_DELAY = Backoff(base=2.0, maximum=15.0)

# The index reads its files before it answers.
ASK_TIMEOUT = 15.0


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """How to learn one spec key; `name` is that of its first server."""

    spec_key: SpecKey
    name: str
    start: Callable[[], KernelActor[Any]]


@dataclass(frozen=True, slots=True)
class _Missing:
    outcome: frozenset[SpecKey] | Exception


@dataclass(frozen=True, slots=True)
class _ProbeOver:
    name: str
    failure: str | None


class Bootstrap(DynamicSupervisor):
    """See the module."""

    def __init__(
        self,
        probes: Sequence[ProbeSpec],
        indexes: Mapping[Kind, Handle[IndexMessage]],
        *,
        concurrency: int,
        sink: EventSink = log_event,
    ) -> None:
        super().__init__(
            DynamicSpec(window=RestartWindow(MAX_RETRIES, RETRY_PERIOD), giving_up=GivingUp.RECORD),
            on_child_gone=self._probe_gone,
            on_child_gave_up=self._probe_gave_up,
            sink=sink,
        )
        self._probes = tuple(probes)
        self._indexes = indexes
        self._concurrency = concurrency
        self._pending: deque[ProbeSpec] = deque()

    def on_start(self, estate: None = None) -> None:
        if self._probes:
            self.run(self._ask_what_is_missing(), _Missing)

    async def _ask_what_is_missing(self) -> frozenset[SpecKey]:
        """Of some server one kind may be known and another not: the file is of an older node."""
        missing = [await index.ask(Unlearnt(), ASK_TIMEOUT) for index in self._indexes.values()]
        return frozenset(key for keys in missing for key in keys)

    @handles(_Missing)
    def _on_missing(self, message: _Missing) -> None:
        if isinstance(message.outcome, Exception):
            raise message.outcome
        missing = message.outcome
        self._pending.extend(probe for probe in self._probes if probe.spec_key in missing)
        for _ in range(min(self._concurrency, len(self._pending))):
            self._start_next()

    def _start_next(self) -> None:
        if self._pending and self._ending is None:
            probe = self._pending.popleft()
            self.note(
                StartChild(
                    ChildSpec(
                        id=probe.name, start=probe.start, restart=Restart.TRANSIENT, backoff=RETRY_DELAY
                    )
                )
            )

    def _probe_gone(self, name: str, _reason: ExitReason) -> None:
        self.note(_ProbeOver(name, None))

    def _probe_gave_up(self, name: str, reason: ExitReason) -> None:
        self.note(_ProbeOver(name, str(reason)))

    @handles(_ProbeOver)
    def _on_probe_over(self, message: _ProbeOver) -> None:
        if message.failure is not None:
            logger.bind(server=message.name).warning("its lists could not be learnt: {}", message.failure)
        self._start_next()
