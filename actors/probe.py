"""One metadata sweep of one server: get an instance, wait until its lists are learnt, let it go.

A fresh sweep asks an instance that is ready already to read again; one that has just started reads by itself. A probe
that fails ends as crashed, and its exit reason says why; its supervisor tries again as often as it sees fit.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TypeAlias

from mcpv_node.settings import SpecKey

from .callers import Caller
from .context import NodeContext
from .index_messages import AwaitLists, LearningFailed, ListsLearnt
from .instance.messages import ReadLists
from .kernel import AskTimeout, Crashed, ExitReason, Handle, LoopActor, Normal, handles
from .leases import Acquire, Lease, Refused, Release, StartCause, new_lease_id
from .server_type.messages import ServerTypeMessage

# Beside the probe's own deadline: the answer travels one turn of the loop.
ASK_MARGIN = 1.0

CALLER = Caller(principal="node", client="bootstrap", key="bootstrap")


@dataclass(frozen=True, slots=True)
class _Acquired:
    outcome: Lease | Refused | Exception


@dataclass(frozen=True, slots=True)
class _Learnt:
    outcome: ListsLearnt | Exception


ProbeMessage: TypeAlias = _Acquired | _Learnt


class Probe(LoopActor[None]):
    """See the module. `timeout` is for the whole sweep of this server, in seconds."""

    def __init__(
        self,
        node: NodeContext,
        spec_key: SpecKey,
        server: Handle[ServerTypeMessage],
        timeout: float,
        *,
        fresh: bool = False,
    ) -> None:
        super().__init__()
        self._node = node
        self._spec_key = spec_key
        self._server = server
        self._timeout = timeout
        self._fresh = fresh
        self._lease = new_lease_id()

    def on_start(self, estate: None = None) -> None:
        deadline = self._node.clock.monotonic() + self._timeout
        # Asked before the instance exists, so that its first reading cannot be missed.
        self.run(self._await_lists(), _Learnt)
        acquire = Acquire(self._lease, CALLER, deadline, StartCause.BOOTSTRAP)
        self.run(self._server.ask(acquire, self._timeout + ASK_MARGIN), _Acquired)

    async def _await_lists(self) -> ListsLearnt:
        """All that a probe asks of the indexes: to hear of the next reading of each; the first failure is its own."""
        request = AwaitLists(self._spec_key, fresh=self._fresh)
        learnt = await asyncio.gather(
            *(index.ask(request, self._timeout + ASK_MARGIN) for index in self._node.indexes.values())
        )
        return next((one for one in learnt if one.failure is not None), learnt[0])

    @handles(_Acquired)
    def _on_acquired(self, message: _Acquired) -> None:
        match message.outcome:
            case Lease(instance=instance):
                if self._fresh:
                    # One that has just become ready has not begun its own reading: this is it, only sooner.
                    instance.tell(ReadLists())
            case Refused(failure=failure):
                self.exit(Crashed(failure.message))
            case AskTimeout():
                self.exit(Crashed(f"it had no instance within {self._timeout:g} s"))
            case error:
                self.exit(Crashed(str(error)))

    @handles(_Learnt)
    def _on_learnt(self, message: _Learnt) -> None:
        match message.outcome:
            case ListsLearnt(failure=None):
                self.exit(Normal())
            case ListsLearnt(failure=failure):
                self.exit(Crashed(failure or ""))
            case AskTimeout():
                self.exit(Crashed(f"its lists were not read within {self._timeout:g} s"))
            case error:
                self.exit(Crashed(str(error)))

    def on_exit(self, reason: ExitReason) -> None:
        if not isinstance(reason, Normal):
            for index in self._node.indexes.values():
                index.tell(LearningFailed(self._spec_key, str(reason)))
        self._server.tell(Release(self._lease))
