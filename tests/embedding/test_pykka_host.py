"""A host application of pykka actors or plain threads holds a node and talks to it in messages."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pykka
import pytest
from support.embedded import (
    TIMEOUT,
    embedded,
    failure,
    guards,
    heard_soon,
    listening,
    new_children,
    node_threads,
    tool_names,
    write_config,
)
from support.leaks import find_leaks, take_census, wait_until_settled
from support.nodes import BadServer
from support.processes import alive, group_members, wait_until

from mcpv_node import (
    CallTool,
    Failed,
    ListTools,
    NodeActor,
    NodeDown,
    SnapshotChanged,
    Stop,
    Subscribe,
    ToolList,
    ToolResult,
    Unsubscribe,
    Why,
    WhyReport,
)
from mcpv_node.actors.kernel import AnyThreadFuture
from mcpv_node.actors.kernel.cell import Letter
from mcpv_node.embedding.messages import AwaitDown, AwaitUp
from mcpv_node.settings import SettingsError

# What a call that was given up may hold up at the end.
QUICK = {"drainTimeoutSeconds": 0.5, "stopGraceSeconds": 0.5}


def text(reply: object) -> str:
    """Return the text of a tool's result."""
    assert isinstance(reply, ToolResult), reply
    return str(reply.json()["content"][0]["text"])


# ---- asks -------------------------------------------------------------------------------------------------------


def test_what_is_asked_before_the_tree_is_up_waits_for_it(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    with embedded(write_config(tmp_path, bad.entry())) as node:
        asked = [
            node.ask(message, block=False)
            for message in (CallTool("bad_echo", {"text": "early"}), Why("bad"), ListTools())
        ]

        called, why, listed = pykka.get_all(asked, timeout=TIMEOUT)

    assert text(called) == "early"
    assert isinstance(why, WhyReport)
    assert why.name == "bad"
    assert isinstance(listed, ToolList)
    assert "bad_echo" in [tool.name for tool in listed.tools]


def test_a_result_carries_the_id_of_its_request_and_what_the_tool_says_of_itself(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    with embedded(write_config(tmp_path, bad.entry())) as node:
        fine = node.ask(CallTool("bad_echo", {"text": "é"}, id="mine"), timeout=TIMEOUT)
        unhappy = node.ask(CallTool("bad_is_error", {"text": "no"}), timeout=TIMEOUT)

    assert (fine.id, fine.is_error, text(fine)) == ("mine", False, "é")
    assert (unhappy.is_error, text(unhappy)) == (True, "no")


def test_one_servers_tools_are_listed_under_its_own_names(tmp_path: Path) -> None:
    bad, other = BadServer(tmp_path, "bad"), BadServer(tmp_path, "other")
    with embedded(write_config(tmp_path, bad.entry(), other.entry())) as node:
        everything, own = tool_names(node), tool_names(node, "bad")
        unknown = failure(node.ask(ListTools("nope", id="7"), timeout=TIMEOUT))

    assert {"bad_echo", "other_echo"} <= set(everything)
    assert "echo" in own
    assert not [name for name in own if name.startswith(("bad_", "other_"))]
    assert (unknown.id, unknown.reason) == ("7", "invalid_params")
    assert "nope" in unknown.message


def test_listing_and_asking_why_start_nothing(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    with embedded(write_config(tmp_path, bad.entry(), bootstrapMode="disabled")) as node:
        names = tool_names(node)
        why = node.ask(Why("bad"), timeout=TIMEOUT)

    assert names == []
    assert why.state == "cold"
    assert bad.starts() == []


def test_a_call_ends_at_its_own_timeout_and_says_what_is_unknown(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    with embedded(write_config(tmp_path, bad.entry(**QUICK))) as node:
        assert "bad_sleep" in tool_names(node)

        reply = failure(node.ask(CallTool("bad_sleep", {"seconds": 60}, timeout=0.2), timeout=TIMEOUT))

    assert (reply.reason, reply.data["executed"]) == ("call_timeout", "unknown")


def test_a_call_whose_server_is_being_learnt_still_ends_at_its_own_timeout(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad", HANG_HANDSHAKE=1)
    with embedded(write_config(tmp_path, bad.entry(**QUICK))) as node:
        reply = failure(node.ask(CallTool("bad_echo", timeout=0.2), timeout=TIMEOUT))

    assert reply.reason == "invalid_params"


def test_every_kind_of_failure_has_its_reason(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    with embedded(write_config(tmp_path, bad.entry(**QUICK, restart={"maxRetries": 0}))) as node:

        def fails(name: str, **arguments: object) -> Failed:
            return failure(node.ask(CallTool(name, arguments), timeout=TIMEOUT))

        own = fails("bad_error", message="mine")
        unknown = fails("bad_nope")
        no_server = failure(node.ask(Why("nope"), timeout=TIMEOUT))
        no_json = fails("bad_echo", text=object())
        circle: list[Any] = []
        circle.append(circle)
        endless = fails("bad_echo", text=circle)
        died = fails("bad_crash", code=3)

    assert (own.reason, own.message, own.data) == ("error", "mine", {})
    assert (unknown.reason, unknown.message) == ("invalid_params", "Unknown tool: bad_nope")
    assert no_server.reason == "invalid_params"
    assert no_json.reason == endless.reason == "invalid_params"
    assert "not JSON" in no_json.message
    assert (died.reason, died.data["server"], died.data["lastExit"]["code"]) == ("instance_died", "bad", 3)


def test_a_server_that_cannot_be_started_fails_the_call_that_waited_for_it(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    with embedded(write_config(tmp_path, bad.entry(idleSeconds=0.05))) as node:
        assert "bad_echo" in tool_names(node)
        assert wait_until(lambda: not node.ask(Why("bad"), timeout=TIMEOUT).instances)
        bad.behave(EXIT_IN_HANDSHAKE=7)

        reply = failure(node.ask(CallTool("bad_echo"), timeout=TIMEOUT))

    assert reply.reason == "start_failed"
    assert (reply.data["server"], reply.data["executed"]) == ("bad", "no")


def test_an_environment_of_ones_own_is_all_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MCPV_STATE_DIR", str(tmp_path / "not this one"))
    with embedded(write_config(tmp_path), environ={}) as node:
        assert tool_names(node) == []

    assert not (tmp_path / "not this one").exists()
    assert (tmp_path / "state" / "node.id").exists()


def test_a_wrong_configuration_is_the_callers_to_hear_and_nothing_is_started(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="serverz"):
        NodeActor.start(write_config(tmp_path, serverz=1))

    assert pykka.ActorRegistry.get_all() == []


# ---- subscriptions ----------------------------------------------------------------------------------------------


def test_a_subscriber_hears_of_the_list_as_it_is_and_as_it_becomes(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    with listening() as (ear, heard), embedded(write_config(tmp_path, bad.entry())) as node:
        node.tell(Subscribe("tools", subscriber=ear))
        listed = node.ask(ListTools(), timeout=TIMEOUT)

        assert heard_soon(heard, lambda told: bool(told) and told[-1].etag == listed.etag)

    news = [one for one in heard if isinstance(one, SnapshotChanged)]
    assert [one.version for one in news] == sorted({one.version for one in news})
    assert heard[-1] == NodeDown("asked to stop")


def test_who_subscribes_late_is_told_at_once_and_twice_is_once(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    with listening() as (ear, heard), embedded(write_config(tmp_path, bad.entry())) as node:
        listed = node.ask(ListTools(), timeout=TIMEOUT)

        node.tell(Subscribe("tools", ear))
        node.tell(Subscribe("tools", ear))

        assert heard_soon(heard, lambda told: bool(told))
        assert heard[0] == SnapshotChanged("tools", listed.version, listed.etag)

    assert heard == [heard[0], NodeDown("asked to stop")]


def test_who_has_unsubscribed_hears_nothing_more(tmp_path: Path) -> None:
    with listening() as (ear, heard), embedded(write_config(tmp_path)) as node:
        node.tell(Subscribe("tools", ear))
        assert heard_soon(heard, lambda told: bool(told))

        node.tell(Unsubscribe("tools", ear))
        node.ask(Stop(), timeout=TIMEOUT)

    assert [type(one) for one in heard] == [SnapshotChanged]


def test_a_subscriber_that_has_ended_is_dropped_and_disturbs_nobody(tmp_path: Path) -> None:
    tools = tmp_path / "tools.json"
    tools.write_text("[]")
    bad = BadServer(tmp_path, "bad", LIST_FILE=tools)
    config = write_config(tmp_path, bad.entry(activationMode="always-on"), bootstrapMode="disabled")
    with listening() as (dead, _), listening() as (ear, heard), embedded(config) as node:
        node.tell(Subscribe("tools", dead))
        node.tell(Subscribe("tools", ear))
        assert heard_soon(heard, lambda told: bool(told))
        assert wait_until(lambda: node.ask(Why("bad"), timeout=TIMEOUT).state == "ready")
        dead.stop()
        before = len(heard)

        tools.write_text('[{"name": "fresh", "inputSchema": {"type": "object"}}]')
        os.kill(bad.starts()[-1], 1)

        assert heard_soon(heard, lambda told: len(told) > before)
        assert wait_until(lambda: tool_names(node) == ["bad_fresh"])


# ---- the end ----------------------------------------------------------------------------------------------------


def test_a_node_is_all_of_it_that_the_host_sees_in_its_registry(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    with embedded(write_config(tmp_path, bad.entry())) as node:
        assert "bad_echo" in tool_names(node)

        assert pykka.ActorRegistry.get_all() == [node]


def test_a_hosts_stop_all_ends_the_tree_and_nothing_of_it_is_left(tmp_path: Path) -> None:
    before = take_census()
    bad = BadServer(tmp_path, "bad", FORK_GRANDCHILD=1)
    with listening() as (ear, heard):
        node = NodeActor.start(write_config(tmp_path, bad.entry(**QUICK)))
        node.tell(Subscribe("tools", ear))
        node.ask(CallTool("bad_echo"), timeout=TIMEOUT)
        groups = bad.starts()
        assert new_children(before)

        assert pykka.ActorRegistry.stop_all(timeout=TIMEOUT)
        assert heard[-1] == NodeDown("asked to stop")

    assert pykka.ActorRegistry.get_all() == []
    assert not any(group_members(pid) for pid in groups)
    assert guards(tmp_path / "state") == []
    assert not (tmp_path / "state" / "node.json").exists()
    assert not (tmp_path / "state" / "node.sock").exists()
    assert wait_until(lambda: not node_threads())
    assert wait_until_settled(before) == find_leaks(before, before) == []


def test_stop_is_answered_once_the_node_has_left_however_often_it_is_asked(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    with embedded(write_config(tmp_path, bad.entry())) as node:
        node.ask(CallTool("bad_echo"), timeout=TIMEOUT)

        stops = [node.ask(Stop(), block=False) for _ in range(3)]
        assert pykka.get_all(stops, timeout=TIMEOUT) == [None, None, None]

        assert pykka.ActorRegistry.get_all() == []
        assert not any(alive(pid) for pid in bad.starts())
        with pytest.raises(pykka.ActorDeadError):
            node.ask(ListTools(), timeout=TIMEOUT)


def test_a_call_in_hand_is_finished_and_one_that_comes_then_is_refused(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    with embedded(write_config(tmp_path, bad.entry())) as node:
        in_hand = node.ask(CallTool("bad_sleep", {"seconds": 0.5}), block=False)
        bad.until_told("call sleep")

        stopped = node.ask(Stop(), block=False)
        late = failure(node.ask(CallTool("bad_echo"), timeout=TIMEOUT))
        assert isinstance(in_hand.get(timeout=TIMEOUT), ToolResult)
        stopped.get(timeout=TIMEOUT)

    assert (late.reason, late.data["executed"]) == ("stopping", "no")


@pytest.mark.parametrize("first", [(), (Stop(),)], ids=["at once", "while it drains"])
def test_a_stop_without_a_drain_waits_for_no_call(first: tuple[Stop, ...], tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    with embedded(write_config(tmp_path, bad.entry())) as node:
        in_hand = node.ask(CallTool("bad_sleep", {"seconds": 60}), block=False)
        bad.until_told("call sleep")

        stops = [node.ask(stop, block=False) for stop in (*first, Stop(drain=False))]

        assert pykka.get_all(stops, timeout=TIMEOUT) == [None] * len(stops)
        reply = failure(in_hand.get(timeout=TIMEOUT))
    assert reply.reason in {"stopping", "instance_died"}
    assert reply.data["executed"] == "unknown"
    assert not any(alive(pid) for pid in bad.starts())


def test_who_waits_for_a_node_to_come_up_and_to_end_hears_of_both_and_also_too_late(tmp_path: Path) -> None:
    with embedded(write_config(tmp_path)) as node:
        up, down = node.ask(AwaitUp(), block=False), node.ask(AwaitDown(), block=False)
        assert up.get(timeout=TIMEOUT) is None
        actor = node._actor_weakref()
        node.ask(Stop(), timeout=TIMEOUT)

        assert down.get(timeout=TIMEOUT) == NodeDown("asked to stop")
    late: list[Any] = []
    for message in (AwaitUp(id="late"), AwaitDown()):
        future = AnyThreadFuture()
        actor.refuse_late(Letter(message, future))
        late.append(future.get(timeout=0))
    assert (late[0].id, late[0].reason, late[1]) == ("late", "stopping", NodeDown("asked to stop"))


def test_a_hosts_stop_all_ends_several_nodes_and_their_subscriber_hears_of_each(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    with listening() as (_, heard):
        (ear,) = pykka.ActorRegistry.get_all()
        for folder in folders:
            folder.mkdir()
            node = NodeActor.start(write_config(folder))
            node.tell(Subscribe("tools", ear))
            assert tool_names(node) == []

        assert pykka.ActorRegistry.stop_all(timeout=TIMEOUT)

    # The nodes came after it, so it was there until both had ended.
    assert [one for one in heard if isinstance(one, NodeDown)] == [NodeDown("asked to stop")] * 2
    assert not any((folder / "state" / "node.json").exists() for folder in folders)
    assert wait_until(lambda: not node_threads())


def test_a_stop_during_the_start_is_answered_and_so_is_what_waited(tmp_path: Path) -> None:
    with embedded(write_config(tmp_path)) as node:
        waiting = node.ask(ListTools(), block=False)
        stopped = node.ask(Stop(), block=False)

        assert stopped.get(timeout=TIMEOUT) is None
        reply = waiting.get(timeout=TIMEOUT)

    # Either it came up in time or it did not; it is never left without an answer.
    assert isinstance(reply, ToolList) or failure(reply).reason == "stopping"


def test_what_comes_between_the_stop_and_the_end_is_answered_and_never_raised(tmp_path: Path) -> None:
    with embedded(write_config(tmp_path)) as node:
        tool_names(node)
        release = threading.Event()
        replies: list[object] = []

        def ask_on() -> None:
            release.wait(TIMEOUT)
            while node.is_alive():
                try:
                    replies.append(node.ask(ListTools(), timeout=TIMEOUT))
                except pykka.ActorDeadError as error:
                    # pykka itself has seen that it is over.
                    replies.append(error if "not found" not in str(error) else None)

        askers = [threading.Thread(target=ask_on) for _ in range(4)]
        for asker in askers:
            asker.start()
        release.set()
        node.ask(Stop(), timeout=TIMEOUT)
        for asker in askers:
            asker.join(TIMEOUT)

    assert {type(reply) for reply in replies} <= {ToolList, Failed, type(None)}


def test_a_subscriber_that_comes_too_late_is_told_that_it_is_over(tmp_path: Path) -> None:
    with listening() as (ear, heard), embedded(write_config(tmp_path)) as node:
        tool_names(node)
        stopped = node.ask(Stop(), block=False)

        node.tell(Subscribe("tools", ear))
        stopped.get(timeout=TIMEOUT)

        assert heard_soon(heard, lambda told: told == [NodeDown("asked to stop")])


def test_a_start_that_fails_is_told_to_everybody_and_leaves_nothing(tmp_path: Path) -> None:
    before = take_census()
    with embedded(write_config(tmp_path)) as first, listening() as (ear, heard):
        tool_names(first)
        mine = take_census()
        with embedded(write_config(tmp_path, name="second.yaml")) as second:
            second.tell(Subscribe("tools", ear))
            replies = [
                second.ask(message, timeout=TIMEOUT) for message in (ListTools(), CallTool("x"), Why("x"))
            ]
            assert heard_soon(heard, lambda told: bool(told))
            # The state folder is the first one's, and so is what stands in it.
            assert (tmp_path / "state" / "node.json").exists()
            assert second.ask(Stop(), timeout=TIMEOUT) is None
        assert wait_until_settled(mine) == []
        assert (tmp_path / "state" / "node.json").exists()
        assert tool_names(first) == []

    sentence = f"a node with pid {os.getpid()} already runs on {tmp_path / 'state'}"
    assert [(failure(reply).reason, failure(reply).message) for reply in replies] == [
        ("start_failed", sentence)
    ] * 3
    assert heard == [NodeDown(sentence)]
    assert wait_until_settled(before) == []


def test_a_node_whose_start_failed_ends_by_itself(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no folder")
    node = NodeActor.start(write_config(tmp_path))

    assert failure(node.ask(ListTools(), timeout=TIMEOUT)).reason == "start_failed"

    assert node.actor_stopped.wait(TIMEOUT)
    assert wait_until(lambda: not node_threads())
    assert pykka.ActorRegistry.get_all() == []


def test_a_root_that_gives_up_is_told_once_everything_is_free_again(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    with listening() as (ear, heard), embedded(config) as node:
        node.tell(Subscribe("tools", ear))
        tool_names(node)
        seen: set[int] = set()

        def kill_guard() -> bool:
            for pid in set(guards(tmp_path / "state")) - seen:
                seen.add(pid)
                os.kill(pid, 9)
            return isinstance(heard[-1], NodeDown) if heard else False

        assert wait_until(kill_guard)
        # Nobody has to wait before the next one.
        with embedded(config) as next_node:
            assert tool_names(next_node) == []

    assert heard[-1].reason.startswith("the node gave up: ")


def test_two_nodes_live_in_one_process_and_one_ends_without_the_other(tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    servers = [BadServer(folder, folder.name) for folder in folders]
    first_config, second_config = (
        write_config(folder, server.entry()) for folder, server in zip(folders, servers, strict=True)
    )
    with embedded(first_config) as first, embedded(second_config) as second:
        assert "one_echo" in tool_names(first)
        assert "two_echo" in tool_names(second)
        assert sorted(map(str, pykka.ActorRegistry.get_all())) == sorted(map(str, [first, second]))

        first.ask(Stop(), timeout=TIMEOUT)

        assert text(second.ask(CallTool("two_echo", {"text": "still here"}), timeout=TIMEOUT)) == "still here"
        assert wait_until(lambda: len(node_threads()) == 1)


def test_a_future_is_awaited_without_blocking_the_hosts_loop(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")

    async def main() -> tuple[int, object]:
        turns = 0
        asked = asyncio.ensure_future(_ask(node, CallTool("bad_sleep", {"seconds": 0.3})))
        while not asked.done():
            await asyncio.sleep(0.005)
            turns += 1
        return turns, asked.result()

    with embedded(write_config(tmp_path, bad.entry())) as node:
        turns, reply = asyncio.run(main())

    assert isinstance(reply, ToolResult)
    assert turns > 5


async def _ask(node: pykka.ActorRef[Any], message: object) -> Any:
    return await node.ask(message, block=False)


def test_callers_with_keys_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mcpv_node.embedding import actor

    callers: list[Any] = []
    real = actor.perform_request

    async def spy(node: Any, caller: Any, *rest: Any, **more: Any) -> Any:
        callers.append(caller)
        return await real(node, caller, *rest, **more)

    monkeypatch.setattr(actor, "perform_request", spy)
    bad = BadServer(tmp_path, "bad")
    with embedded(write_config(tmp_path, bad.entry())) as node:
        for key in ("a", "b", "a", None):
            node.ask(CallTool("bad_echo", key=key), timeout=TIMEOUT)

    first, second, third, keyless = (caller.key for caller in callers)
    assert first == third == "key:host:a"
    assert len({first, second, keyless}) == 3
