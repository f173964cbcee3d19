"""One real Instance over the server that misbehaves, with its owner, its index and its guard played."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import msgspec
from msgspec import Raw
from support.children import BADSERVER
from support.owners import BOUND, Home, Recorder, RecorderOfAll, home, until
from support.processes import group_members

from mcpv_node.actors.callers import EMPTY_PROFILE, Caller, ClientProfile
from mcpv_node.actors.guard import Enlist, StrikeOff
from mcpv_node.actors.instance.messages import (
    Answer,
    Call,
    CallEvent,
    CallFailed,
    InstanceExited,
    InstanceFailed,
    InstanceReady,
    InstanceStarting,
    Lists,
    ListsFailed,
    Progressed,
    StopInstance,
)
from mcpv_node.actors.instance.stdio import StdioInstance
from mcpv_node.actors.kernel import Deferred, Handle, LoopActor, answers, handles
from mcpv_node.actors.leases import InstanceId, LeaseId, new_lease_id
from mcpv_node.actors.server_type.facts import Lane
from mcpv_node.settings import LimitSettings, NodeLimits, NodeSettings, ServerName, ServerSpec, SpecKey
from mcpv_node.telemetry import SystemClock

T = TypeVar("T")
KEY = SpecKey("b" * 64)
CALLER = Caller(principal="somebody", client="test", key="session:1", turn="session:1")


class FakeGuard(LoopActor[None]):
    """Writes down who is enlisted; refuses, or keeps silent, if a test wants that."""

    def __init__(self) -> None:
        super().__init__()
        self.enlisted: list[int] = []
        self.struck_off: list[int] = []
        self.refusal: Exception | None = None

    @answers(Enlist)
    def _on_enlist(self, request: Enlist) -> Deferred[None] | None:
        self.enlisted.append(request.entry.pgid)
        if self.refusal is None:
            return None
        deferred: Deferred[None] = self.defer()
        deferred.fail(self.refusal)
        return deferred

    @handles(StrikeOff)
    def _on_strike_off(self, message: StrikeOff) -> None:
        self.struck_off.append(message.pgid)


class Session:
    """One instance as its owner sees it."""

    def __init__(self, at_home: Home, owner: Recorder, guard: FakeGuard, log: Path) -> None:
        self.home = at_home
        self.owner = owner
        self.index = at_home.index
        self.guard = guard
        self.log = log
        self.instance: Handle[Any] = Handle.create(at_home.system, "instance")

    @property
    def pid(self) -> int:
        found = self.owner.of(InstanceStarting)[-1].pid
        assert found is not None
        return found

    async def heard(self, kind: type[T]) -> T:
        """The first thing of this kind that the owner was told."""
        await until(lambda: self.owner.of(kind))
        return self.owner.of(kind)[0]

    async def is_ready(self) -> Session:
        await until(lambda: self.owner.of(InstanceReady) or self.owner.of(InstanceFailed))
        assert not self.owner.of(InstanceFailed)
        return self

    async def learnt(self) -> list[str]:
        """The names of the tools, once the lists were told."""
        await until(lambda: self.tool_lists() or self.index.of(ListsFailed))
        return [tool.name for tool in self.tool_lists()[-1].listed]

    def tool_lists(self) -> list[Lists]:
        """What was told of the tools."""
        return [lists for lists in self.index.of(Lists) if lists.kind == "tools"]

    def call(
        self,
        tool: str,
        *,
        lease: LeaseId | None = None,
        within: float = 1000.0,
        on_progress: Callable[[Raw], None] | None = None,
        on_event: Callable[[CallEvent], None] | None = None,
        caller: Caller = CALLER,
        **arguments: object,
    ) -> asyncio.Task[Answer | CallFailed]:
        """Send one call; the clock is the machine's."""
        params = msgspec.json.encode({"name": "prefixed_" + tool, "arguments": arguments})

        def hear(event: CallEvent) -> None:
            if on_event is not None:
                on_event(event)
            if on_progress is not None and isinstance(event, Progressed):
                on_progress(event.params)

        request = Call(
            lease or new_lease_id(),
            caller,
            "tools/call",
            Raw(params),
            self.home.context.clock.monotonic() + within,
            name=tool,
            on_event=hear,
            wants_progress=on_progress is not None,
        )
        return asyncio.get_running_loop().create_task(self.instance.ask(request, BOUND))

    async def text(self, tool: str, **arguments: object) -> str:
        """Call and return the text of the result."""
        return text_of(await self.call(tool, **arguments))  # type: ignore[arg-type]

    def said(self, *words: str) -> list[str]:
        """The lines of the server's own log that have these words."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line for line in lines if set(words) <= set(line.split())]

    async def is_gone(self) -> None:
        """No actor, no process of the group, nothing in the ledger."""
        await until(lambda: not self.instance.is_alive())
        await until(lambda: not any(group_members(pgid) for pgid in self.guard.enlisted))
        await until(lambda: self.guard.struck_off == self.guard.enlisted)

    async def stopped(self) -> InstanceExited:
        self.instance.tell(StopInstance("the test wants it"))
        return await self.heard(InstanceExited)


def text_of(answer: Answer | CallFailed) -> str:
    assert isinstance(answer, Answer), answer
    assert answer.result is not None
    return str(msgspec.json.decode(answer.result)["content"][0]["text"])


def failure_of(answer: Answer | CallFailed) -> tuple[str, str, str]:
    """Its reason, whether it was executed, and its words."""
    assert isinstance(answer, CallFailed), answer
    return answer.failure.reason.value, answer.failure.executed, answer.failure.message


@asynccontextmanager
async def session(
    tmp_path: Path,
    *,
    limits: NodeLimits | None = None,
    limits_of_server: LimitSettings | None = None,
    refusal: Exception | None = None,
    profile: ClientProfile = EMPTY_PROFILE,
    may_probe: bool = False,
    refresh_seconds: float = 0.0,
    **given: Any,
) -> AsyncIterator[Session]:
    """Start an Instance; names in capitals are knobs of the server, the others settings of its spec."""
    knobs = {key: value for key, value in given.items() if key.isupper()}
    settings = {"stop_grace_seconds": 0.5, **{k: v for k, v in given.items() if not k.isupper()}}
    log = tmp_path / "spawn.log"
    words = [f"{knob}={value}" for knob, value in {"SPAWN_LOG": log, **knobs}.items()]
    spec = ServerSpec(
        **{
            "name": ServerName("bad"),
            "command": sys.executable,
            "args": ("-S", BADSERVER, *words),
            "limits": limits_of_server or LimitSettings(),
            **settings,
        }
    )
    async with home(
        tmp_path,
        clock=SystemClock(),
        settings=NodeSettings(servers=(), limits=limits or NodeLimits(), refresh_seconds=refresh_seconds),
        environ={"PATH": os.environ["PATH"]},
        node_id=f"test-{uuid4().hex[:8]}",
    ) as at_home:
        owner, guard = RecorderOfAll(), FakeGuard()
        guard.refusal = refusal
        owner_handle = await at_home.fill("owner", lambda: owner)
        guard_handle = await at_home.fill("guard", lambda: guard)
        one = Session(at_home, owner, guard, log)
        try:
            await at_home.fill(
                "instance",
                lambda: StdioInstance(
                    at_home.context,
                    spec=spec,
                    spec_key=KEY,
                    instance_id=InstanceId("bad-1"),
                    owner=owner_handle,
                    lane=Lane(profile),
                    may_probe=may_probe,
                    guard=guard_handle,
                ),
                handle=one.instance,
            )
            yield one
        finally:
            one.instance.cell.stop()
            await until(lambda: not one.instance.is_alive())
            await until(lambda: not any(group_members(pgid) for pgid in guard.enlisted))
