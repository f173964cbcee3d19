"""Any bytes from a server: the instance outlives them or ends in order, and every call has its own end."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from msgspec import Raw
from support.fakes import FakeClock
from support.fuzzing import TEST_TIMEOUT, Theatre, anything, bodies, damaged, damages, fuzz
from support.owners import BOUND, Home, RecorderOfAll, home, turns

from mcpv_node.actors.callers import Caller
from mcpv_node.actors.instance.messages import (
    Answer,
    Call,
    CallEvent,
    CallFailed,
    InstanceFailed,
    InstanceReady,
    Noted,
    Progressed,
    StopInstance,
)
from mcpv_node.actors.instance.process import Stdout
from mcpv_node.actors.instance.stdio import StdioInstance
from mcpv_node.actors.kernel import Crashed, Handle
from mcpv_node.actors.leases import InstanceId, new_lease_id
from mcpv_node.actors.server_type.facts import Lane
from mcpv_node.settings import NodeLimits, NodeSettings, ServerName, ServerSpec, SpecKey

pytestmark = pytest.mark.timeout(TEST_TIMEOUT)

KEY = SpecKey("f" * 64)
SPEC = ServerSpec(name=ServerName("hostile"), command="none", stop_grace_seconds=0.0)

HELLO = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"tools": {"listChanged": True}, "logging": {}, "resources": {"subscribe": True}},
    "serverInfo": {"name": "hostile", "version": "1"},
}


class ScriptedInstance(StdioInstance):
    """An instance whose server is the test: what is written to it is kept, and what it says is told."""

    written: list[bytes]

    def on_start(self, estate: None = None) -> None:
        self.written = []
        self._begin_handshake()

    def _transmit(self, message: bytes) -> None:
        self.written.append(message)

    def say(self, data: bytes) -> None:
        self.note_now(Stdout(data))

    def asked(self, method: str) -> list[int]:
        """The ids of the requests of this kind."""
        sent = [json.loads(message) for message in self.written]
        return [one["id"] for one in sent if one.get("method") == method and "id" in one]


# What the server says: lines of its own, or an answer to what it was asked, as it should be or not.
says = st.one_of(
    st.tuples(st.just("line"), bodies),
    st.tuples(st.just("reply"), anything),
    st.tuples(st.just("own"), st.none()),
    st.tuples(st.just("error"), anything),
    st.tuples(st.just("progress"), anything),
    st.tuples(
        st.just("ask"),
        st.tuples(
            st.sampled_from(("ping", "roots/list", "sampling/createMessage", "elicitation/create", "x")),
            anything,
        ),
    ),
    st.tuples(st.just("note"), st.tuples(st.text(max_size=30), anything)),
    st.tuples(st.just("unended"), st.binary(max_size=300)),
    st.tuples(st.just("long"), st.integers(0, 9000)),
    st.tuples(st.just("list"), anything),
)


def spoken(kind: str, what: Any, ids: list[int], lists: list[int]) -> bytes:
    """The bytes that the server writes."""
    rpc: dict[str, Any] = {"jsonrpc": "2.0"}
    match kind:
        case "line":
            return bytes(what).replace(b"\n", b" ") + b"\n"
        case "unended":
            return bytes(what)
        case "long":
            return b'{"jsonrpc":"2.0","id":1,"result":"' + b"x" * int(what) + b'"}\n'
        case "reply":
            rpc |= {"id": ids[0] if ids else 1, "result": what}
        case "own":
            return b"".join(
                json.dumps({"jsonrpc": "2.0", "id": id, "result": {"of": id}}).encode() + b"\n" for id in ids
            )
        case "error":
            rpc |= {"id": ids[-1] if ids else 1, "error": what}
        case "progress":
            params = {"progressToken": ids[0] if ids else 1, "progress": what}
            rpc |= {"method": "notifications/progress", "params": params}
        case "ask":
            rpc |= {"id": 7, "method": what[0], "params": what[1]}
        case "list":
            rpc |= {"id": lists[0] if lists else 2, "result": {"tools": what, "nextCursor": what}}
        case _:
            rpc |= {"method": what[0], "params": what[1]}
    return json.dumps(rpc).encode() + b"\n"


def test_whatever_a_server_says_its_instance_keeps_its_calls_apart_and_ends_in_order(tmp_path: Path) -> None:
    limits = NodeLimits(line_bytes=8192, depth=64)

    async def live(
        at_home: Home, before: list[tuple[str, Any]], during: list[tuple[str, Any]], harm: Any
    ) -> None:
        handle: Handle[Any] = Handle.create(at_home.system, "instance")
        owner = RecorderOfAll()
        owner_handle: Handle[Any] = Handle.create(at_home.system, "owner")
        owner_handle.cell.start(owner)
        ends: list[object] = []
        handle.cell.on_ended = lambda _incarnation, reason: ends.append(reason)
        instance = ScriptedInstance(
            at_home.context,
            spec=SPEC,
            spec_key=KEY,
            instance_id=InstanceId("hostile-1"),
            owner=owner_handle,
            lane=Lane(),
            may_probe=False,
            guard=Handle.create(at_home.system, "guard"),
        )
        handle.cell.start(instance)
        await turns()
        for kind, what in before:
            instance.say(spoken(kind, what, [], []))
        await turns()
        for id in instance.asked("initialize"):
            instance.say(json.dumps({"jsonrpc": "2.0", "id": id, "result": HELLO}).encode() + b"\n")
        await turns()
        # What a hostile server says in the handshake may end it; then there is nothing to call.
        assert ends or owner.of(InstanceReady) or owner.of(InstanceFailed) or instance.asked("initialize")

        heard: dict[str, list[CallEvent]] = {"one": [], "two": []}
        calls = (
            [asyncio.ensure_future(self_call(handle, name, heard[name])) for name in heard]
            if not ends
            else []
        )
        await turns()
        ids = instance.asked("tools/call")
        data = b"".join(spoken(kind, what, ids, instance.asked("tools/list")) for kind, what in during)
        instance.say(damaged(data, harm) if harm else data)
        await turns()
        handle.tell(StopInstance("the test is over"))
        async with asyncio.timeout(BOUND):
            answers = await asyncio.gather(*calls, return_exceptions=True)
            while not ends:
                await turns()
        owner_handle.cell.stop()
        await turns()

        assert not isinstance(ends[0], Crashed), ends[0]
        for id, answer in zip(ids, answers, strict=False):
            assert isinstance(answer, Answer | CallFailed), answer
            result = bytes(answer.result) if isinstance(answer, Answer) and answer.result is not None else b""
            if result.startswith(b'{"of": '):
                assert result == f'{{"of": {id}}}'.encode() or harm
        for events in heard.values():
            for event in events:
                assert not isinstance(event, Progressed | Noted) or isinstance(event.params, Raw | None)

    with Theatre() as theatre:
        at_home_context = home(
            tmp_path, clock=FakeClock(), settings=NodeSettings(servers=(), limits=limits), environ={}
        )
        with theatre.standing(at_home_context) as at_home:

            @fuzz(
                250,
                before=st.lists(says, max_size=3),
                during=st.lists(says, min_size=1, max_size=8),
                harm=st.one_of(st.none(), damages),
            )
            def check(before: list[tuple[str, Any]], during: list[tuple[str, Any]], harm: Any) -> None:
                theatre.run(live(at_home, before, during, harm))


async def self_call(handle: Handle[Any], who: str, heard: list[CallEvent]) -> Answer | CallFailed:
    """One call of one client."""
    arguments: Mapping[str, Any] = {"name": "x", "arguments": {"who": who}}
    caller = Caller(principal=who, client=who, key=who, turn=who)
    request = Call(
        new_lease_id(),
        caller,
        "tools/call",
        Raw(json.dumps(arguments).encode()),
        1e9,
        name="x",
        on_event=heard.append,
        wants_progress=True,
    )
    answer: Answer | CallFailed = await handle.ask(request, BOUND)
    return answer
