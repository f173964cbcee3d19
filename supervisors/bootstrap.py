"""Bootstrap: the supervisor of the metadata probes, one for each spec key whose lists are to be learnt.

At most so many probes run at once, and what is known is not probed unless somebody asks for it afresh. One that
fails is tried again a few times with growing delays, then reported; the servers' own state is none of its business.

What there is to learn comes from the world and from the index, whenever it looks; so a crash of its own costs it
nothing but the probes that ran, and they have their turn again. The plan (see `learning`) is its estate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from loguru import logger

from mcpv_node.actors.context import NodeContext
from mcpv_node.actors.index_messages import Unlearnt
from mcpv_node.actors.kernel import (
    Crashed,
    Deferred,
    ExitReason,
    KernelActor,
    Normal,
    answers,
    handles,
)
from mcpv_node.actors.status import AwaitLearning, Learn, LearningStatus, LearningStep, ShowLearning
from mcpv_node.settings import BootstrapMode, ServerName, SpecKey
from mcpv_node.telemetry import EventKind

from . import learning
from .backoff import Backoff
from .dynamic import DynamicSupervisor
from .events import EventSink, log_event
from .learning import Plan, Sweep
from .messages import StartChild, TerminateChild
from .specs import ChildSpec, DynamicSpec, Restart

RETRY_DELAY = Backoff(base=2.0, maximum=15.0)

# The index reads its files before it answers.
ASK_TIMEOUT = 15.0

# An index that did not answer is being restarted.
LOOK_AGAIN_DELAY = 1.0


@dataclass(frozen=True, slots=True)
class ProbeSpec:
    """How to learn one spec key; `name` is that of its first server. `make(fresh)` makes the probe."""

    spec_key: SpecKey
    name: ServerName
    make: Callable[[bool], KernelActor[Any]]


@dataclass(frozen=True, slots=True)
class _Missing:
    outcome: frozenset[SpecKey] | Exception


@dataclass(frozen=True, slots=True)
class _LookAgain:
    """The index may answer now."""


@dataclass(frozen=True, slots=True)
class _ProbeOver:
    spec_key: SpecKey
    run: int
    failure: str | None


@dataclass(frozen=True, slots=True)
class _Rested:
    spec_key: SpecKey
    run: int


class Bootstrap(DynamicSupervisor):
    """See the module. `probes` says, whenever it is asked, how to learn the servers that the node has now.

    Where `mode` is `disabled` nothing is learnt but what somebody asks for.
    """

    def __init__(
        self,
        node: NodeContext,
        probes: Callable[[], Sequence[ProbeSpec]],
        *,
        concurrency: int,
        mode: BootstrapMode = "metadata",
        sink: EventSink = log_event,
    ) -> None:
        super().__init__(DynamicSpec(), on_child_gone=self._probe_gone, sink=sink)
        self._node = node
        self._probes = probes
        self._concurrency = concurrency
        self._mode: BootstrapMode = mode
        self._plan = Plan()
        self._running: dict[str, Sweep] = {}
        self._looking = False
        self._look_once_more = False
        self._asking: list[Deferred[LearningStatus]] = []
        self._awaiting: list[tuple[frozenset[SpecKey], Deferred[LearningStatus]]] = []

    def on_start(self, estate: Plan | None = None) -> None:
        if estate is not None:
            self._plan = estate
            self._commit(learning.resume(estate, self._wall()))
        self._look()

    # --- requests -------------------------------------------------------------------------------

    @answers(ShowLearning)
    def _on_show(self, _request: ShowLearning) -> Deferred[LearningStatus]:
        """Answered after a look: a server may have been learnt by being called."""
        deferred: Deferred[LearningStatus] = self.defer()
        self._asking.append(deferred)
        self._look()
        return deferred

    @answers(Learn)
    def _on_learn(self, request: Learn) -> LearningStatus:
        targets = {key: name for key, name in self._targets().items() if key in request.fresh}
        self._commit(learning.learn_again(self._plan, targets, self._wall()))
        self._look()
        return self._learning_status()

    @answers(AwaitLearning)
    def _on_await(self, request: AwaitLearning) -> LearningStatus | Deferred[LearningStatus]:
        if learning.is_over(self._plan, request.spec_keys):
            return self._learning_status()
        deferred: Deferred[LearningStatus] = self.defer()
        self._awaiting.append((request.spec_keys, deferred))
        return deferred

    def _learning_status(self) -> LearningStatus:
        return learning.status(self._plan, self._mode)

    # --- looking --------------------------------------------------------------------------------

    def _look(self) -> None:
        """Ask the index what is missing, once at a time; whoever comes meanwhile gets a look of its own."""
        if self._looking:
            self._look_once_more = True
            return
        self._looking = True
        self._look_once_more = False
        self.run(self._ask_what_is_missing(), _Missing)

    async def _ask_what_is_missing(self) -> frozenset[SpecKey]:
        """Of some server one kind may be known and another not: what is on disk is an older node's."""
        indexes = self._node.indexes.values()
        missing = await asyncio.gather(*(index.ask(Unlearnt(), ASK_TIMEOUT) for index in indexes))
        return frozenset(key for keys in missing for key in keys)

    @handles(_LookAgain)
    def _on_look_again(self, _message: _LookAgain) -> None:
        self._look()

    @handles(_Missing)
    def _on_missing(self, message: _Missing) -> None:
        self._looking = False
        if isinstance(message.outcome, Exception):
            logger.warning("what is to be learnt is not known yet: {}", message.outcome)
            self.after(LOOK_AGAIN_DELAY, _LookAgain())
            self._answer_asking()
            return
        targets = self._targets()
        if self._mode == "disabled":
            targets = {key: name for key, name in targets.items() if key in self._plan.sweeps}
        before = self._plan
        plan = learning.look(before, targets, message.outcome, self._wall())
        self._commit(plan)
        for key in before.sweeps.keys() - plan.sweeps.keys():
            self._end_probe(key)
        self._begin()
        self._answer_asking()
        if self._look_once_more:
            self._look()

    def _targets(self) -> dict[SpecKey, ServerName]:
        return {probe.spec_key: probe.name for probe in self._probes()}

    # --- probes ---------------------------------------------------------------------------------

    def _begin(self) -> None:
        if self._ending is not None:
            return
        probes = {probe.spec_key: probe for probe in self._probes()}
        plan, begun = learning.begin(
            self._plan,
            self._concurrency,
            # The probe of a server that was removed may still be on its way out under the same name.
            lambda sweep: sweep.spec_key in probes and not self._has(sweep.server),
            self._wall(),
        )
        self._commit(plan)
        for sweep in begun:
            make = probes[sweep.spec_key].make
            self._running[sweep.server] = sweep
            self.note(
                StartChild(
                    ChildSpec(id=sweep.server, start=partial(make, sweep.fresh), restart=Restart.TEMPORARY)
                )
            )

    def _end_probe(self, key: SpecKey) -> None:
        for name, sweep in self._running.items():
            if sweep.spec_key == key:
                self.note(TerminateChild(name))

    def _probe_gone(self, name: str, reason: ExitReason) -> None:
        sweep = self._running.pop(name, None)
        if sweep is not None:
            self.note(_ProbeOver(sweep.spec_key, sweep.run, _failure(reason)))

    @handles(_ProbeOver)
    def _on_probe_over(self, message: _ProbeOver) -> None:
        if self._ending is not None:
            return
        self._commit(learning.end(self._plan, message.spec_key, message.run, message.failure, self._wall()))
        sweep = self._plan.sweeps.get(message.spec_key)
        if sweep is not None and sweep.resting and sweep.run == message.run:
            delay = RETRY_DELAY.delay(sweep.attempts, self._rng)
            self.after(delay, _Rested(message.spec_key, message.run))
        self._look()

    @handles(_Rested)
    def _on_rested(self, message: _Rested) -> None:
        self._commit(learning.rested(self._plan, message.spec_key, message.run))
        self._look()

    # --- what others hear -----------------------------------------------------------------------

    def _commit(self, plan: Plan) -> None:
        """Go on with this plan: tell what moved, and whoever waited for it."""
        before, self._plan, self.estate = self._plan, plan, plan
        for was, sweep in learning.moves(before, plan):
            self._node.tell_event(
                EventKind.LEARNING_STATE,
                server=sweep.server,
                from_=None if was is None else was.value,
                to=sweep.state.value,
                reason=sweep.reason or None,
            )
            if sweep.state is LearningStep.FAILED:
                logger.bind(server=sweep.server).warning("its lists could not be learnt: {}", sweep.reason)
        if self._awaiting:
            self._answer_awaiting()

    def _answer_awaiting(self) -> None:
        waiting, self._awaiting = self._awaiting, []
        for keys, deferred in waiting:
            if learning.is_over(self._plan, keys):
                deferred.answer(self._learning_status())
            else:
                self._awaiting.append((keys, deferred))

    def _answer_asking(self) -> None:
        asking, self._asking = self._asking, []
        for deferred in asking:
            deferred.answer(self._learning_status())

    def _wall(self) -> datetime:
        return self._node.clock.wall()


def _failure(reason: ExitReason) -> str | None:
    match reason:
        case Normal():
            return None
        case Crashed():
            return reason.error
        case _:
            return str(reason)
