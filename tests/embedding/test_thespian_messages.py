"""A node as a Thespian actor: what it answers, on the base that needs no processes."""

from __future__ import annotations

import os
import pickle
import select
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support.embedded import TIMEOUT, guards, node_threads, write_config
from support.nodes import BadServer
from support.processes import alive, wait_until
from thespian.actors import (
    Actor,
    ActorAddress,
    ActorExitRequest,
    ActorSystem,
    ChildActorExited,
    PoisonMessage,
    ThespianWatch,
    WakeupMessage,
    WatchMessage,
)
from thespian.system.transport.TCPTransport import TCPTransport

from mcpv_node import (
    CallTool,
    Failed,
    GetPrompt,
    ListTools,
    NodeDown,
    ReadResource,
    Reload,
    Reloaded,
    ServerEvent,
    SnapshotChanged,
    StartNode,
    Stop,
    Subscribe,
    ToolList,
    ToolResult,
    Unsubscribe,
    Why,
    WhyReport,
)
from mcpv_node.embedding.thespian import ThespianNode

NODE = "mcpv_node.embedding.thespian.ThespianNode"

R = TypeVar("R")


class Application:
    """The host: a system on the simple base and a node in it."""

    def __init__(self, system: ActorSystem) -> None:
        self.system = system
        self.node = system.createActor(NODE)
        self.heard: list[Any] = []

    def tell(self, *messages: object) -> None:
        for message in messages:
            self.system.tell(self.node, message)

    def hear(self, kind: type[R], of: str | None = None) -> R:
        """Listen until such a message comes, with that id if one is given; keep whatever else does."""
        for _ in range(200):
            message = self.system.listen(TIMEOUT)
            if isinstance(message, kind) and of in (None, getattr(message, "id", of)):
                return message
            if message is None:
                break
            self.heard.append(message)
        raise AssertionError(f"no {kind.__name__} among {self.heard}")

    def ask(self, message: Any, kind: type[R]) -> R:
        self.tell(message)
        return self.hear(kind, getattr(message, "id", None) or None)


@contextmanager
def application() -> Iterator[Application]:
    """Have a host; its node exits at the end."""
    system = ActorSystem("simpleSystemBase", logDefs=False, transientUnique=True)
    host = Application(system)
    try:
        yield host
    finally:
        host.tell(ActorExitRequest())
        system.shutdown()


def test_every_request_is_answered_with_its_id(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    with application() as host:
        host.tell(StartNode(config=write_config(tmp_path, bad.entry())))
        called = host.ask(CallTool("bad_echo", {"text": "hi"}, id="1"), ToolResult)
        unhappy = host.ask(CallTool("bad_is_error", {"text": "no"}, id="2"), ToolResult)
        unknown = host.ask(CallTool("bad_nope", id="3"), Failed)
        listed = host.ask(ListTools("bad", id="4"), ToolList)
        report = host.ask(Why("bad"), WhyReport)
        prompt = host.ask(GetPrompt("bad_nope", id="5"), Failed)
        resource = host.ask(ReadResource("x://nope", id="6"), Failed)
        reloaded = host.ask(Reload(id="7"), Reloaded)
        nobody = host.ask(Why("nope", id="8"), Failed)

    assert (called.json()["content"][0]["text"], unhappy.is_error) == ("hi", True)
    assert unknown.message == "Unknown tool: bad_nope"
    assert "echo" in [tool.name for tool in listed.tools]
    assert (report.name, report.calls.ok) == ("bad", 2)
    assert prompt.reason == nobody.reason == "invalid_params"
    assert (resource.id, resource.message) == ("6", "Resource not found: x://nope")
    assert reloaded.changes == ()
    assert not any(alive(pid) for pid in bad.starts())


def test_without_a_node_everything_is_answered_too(tmp_path: Path) -> None:
    with application() as host:
        early = host.ask(CallTool("x", id="1"), Failed)
        listening = host.ask(Subscribe("tools"), NodeDown)
        stopped = host.ask(Stop(), NodeDown)
        host.tell(Unsubscribe("tools"))

    assert early.reason == "invalid_request"
    assert early.message == listening.reason == stopped.reason
    assert "StartNode" in early.message
    assert host.heard == []


def test_a_wrong_configuration_is_the_answer_to_its_start_and_another_may_follow(tmp_path: Path) -> None:
    with application() as host:
        failed = host.ask(StartNode(config=tmp_path / "nowhere.yaml", id="first"), Failed)
        late = host.ask(CallTool("x", id="late"), Failed)
        host.tell(StartNode(config=write_config(tmp_path)))
        listed = host.ask(ListTools(), ToolList)

    assert (failed.id, failed.reason, late.reason) == ("first", "start_failed", "start_failed")
    assert "nowhere.yaml" in failed.message
    assert late.message == failed.message
    assert listed.tools == ()
    # The start was answered; there was no node that could have ended, but the one that did at the end.
    assert host.heard == []


def test_a_node_that_does_not_come_up_says_so_to_all_who_waited_and_another_may_follow(
    tmp_path: Path,
) -> None:
    (tmp_path / "state").write_text("no folder")
    config = write_config(tmp_path)
    with application() as host:
        host.tell(StartNode(config=config, id="first"), Subscribe("tools"), CallTool("x", id="waits"))
        failures = {one.id: one for one in (host.hear(Failed), host.hear(Failed))}
        down = next((one for one in host.heard if isinstance(one, NodeDown)), None) or host.hear(NodeDown)
        host.heard.clear()
        (tmp_path / "state").unlink()
        host.tell(StartNode(config=config))
        listed = host.ask(ListTools(), ToolList)

    assert set(failures) == {"first", "waits"}
    assert {one.reason for one in failures.values()} == {"start_failed"}
    assert down.reason == failures["first"].message
    assert listed.tools == ()
    assert host.heard == []


def test_a_second_start_is_refused_and_the_first_node_goes_on(tmp_path: Path) -> None:
    with application() as host:
        host.tell(StartNode(config=write_config(tmp_path)))
        refused = host.ask(StartNode(config=write_config(tmp_path), id="second"), Failed)
        listed = host.ask(ListTools(), ToolList)

    assert (refused.reason, listed.tools) == ("invalid_request", ())


def test_a_sender_is_its_own_subscriber(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    with application() as host:
        host.tell(StartNode(config=write_config(tmp_path, bad.entry())))
        listed = host.ask(ListTools(), ToolList)
        changed = host.ask(Subscribe("tools"), SnapshotChanged)
        host.tell(Subscribe("events"))
        host.ask(CallTool("bad_crash", id="1"), Failed)
        events = [one for one in host.heard if isinstance(one, ServerEvent)]
        while not any(one.kind == "instance_exit" for one in events):
            events.append(host.hear(ServerEvent))
        host.tell(Unsubscribe("tools"), Unsubscribe("events"))
        host.heard.clear()
        host.ask(CallTool("bad_echo", {"text": "x"}), ToolResult)
        host.ask(Stop(), NodeDown)

    assert (changed.version, changed.etag) == (listed.version, listed.etag)
    assert [one.server for one in events if one.kind == "instance_exit"] == ["bad"]
    assert host.heard == []


class Friend(Actor):
    """An actor of the host, which asks for itself and shows what it has heard."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []

    def receiveMessage(self, msg: Any, sender: ActorAddress) -> None:
        match msg:
            case ("say", node, message):
                self.send(node, message)
            case "show":
                self.send(sender, list(self.heard))
            case WakeupMessage():
                pass
            case _:
                self.heard.append(msg)


def test_each_sender_hears_what_it_asked_for(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    with application() as host:
        friends = [host.system.createActor(Friend) for _ in range(2)]
        host.tell(StartNode(config=write_config(tmp_path, bad.entry())))
        for number, friend in enumerate(friends):
            call = CallTool("bad_echo", {"text": str(number)}, id=str(number))
            host.system.tell(friend, ("say", host.node, call))
        host.system.tell(friends[0], ("say", host.node, Subscribe("prompts")))
        host.ask(CallTool("bad_sleep", {"seconds": 0.2}), ToolResult)
        host.ask(Stop(), NodeDown)
        first, second = (host.system.ask(friend, "show", TIMEOUT) for friend in friends)

    assert [type(one).__name__ for one in second] == ["ToolResult"]
    assert sorted(type(one).__name__ for one in first) == ["NodeDown", "SnapshotChanged", "ToolResult"]
    assert [one.id for one in first if isinstance(one, ToolResult)] == ["0"]
    assert [one.id for one in second] == ["1"]


def test_a_stop_is_answered_once_however_many_roles_its_sender_has(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    with application() as host:
        host.tell(StartNode(config=config), Subscribe("tools"), Subscribe("events"))
        host.ask(ListTools(), ToolList)
        host.tell(Stop(), Stop())
        down = host.hear(NodeDown)
        late = host.ask(CallTool("x"), Failed)
        too_late = host.ask(Subscribe("tools"), NodeDown)
        host.tell(StartNode(config=config))
        again = host.ask(ListTools(), ToolList)

    assert down == NodeDown("asked to stop")
    assert (late.reason, late.message) == ("stopping", "the node has ended: asked to stop")
    assert too_late.reason == late.message
    assert again.tools == ()
    assert not [one for one in host.heard if isinstance(one, NodeDown)]


def test_who_started_a_node_hears_that_it_gave_up(tmp_path: Path) -> None:
    with application() as host:
        host.tell(StartNode(config=write_config(tmp_path)))
        host.ask(ListTools(), ToolList)
        seen: set[int] = set()
        down: list[NodeDown] = []

        def kill_guard() -> bool:
            for pid in set(guards(tmp_path / "state")) - seen:
                seen.add(pid)
                os.kill(pid, 9)
            message = host.system.listen(0.05)
            if isinstance(message, NodeDown):
                down.append(message)
            return bool(down)

        assert wait_until(kill_guard)
        late = host.ask(ListTools(), Failed)

    assert down[0].reason.startswith("the node gave up: ")
    assert late.reason == "stopping"


def test_an_actor_that_is_asked_to_exit_stops_its_node_in_order_and_answers_what_is_in_hand(
    tmp_path: Path,
) -> None:
    bad = BadServer(tmp_path, "bad")
    with application() as host:
        host.tell(StartNode(config=write_config(tmp_path, bad.entry())))
        host.ask(ListTools(), ToolList)
        host.tell(CallTool("bad_sleep", {"seconds": 0.3}, id="in hand"))
        bad.until_told("call sleep")

        host.tell(ActorExitRequest())

        assert wait_until(lambda: not node_threads())
        assert host.hear(ToolResult).id == "in hand"
        assert host.hear(NodeDown).reason == "asked to stop"
    assert not any(alive(pid) for pid in bad.starts())
    assert not (tmp_path / "state" / "node.json").exists()


def test_what_is_no_message_is_answered_and_what_is_an_answer_is_not(tmp_path: Path) -> None:
    with application() as host:
        nonsense = host.ask("hello", Failed)
        host.tell(Failed("1", "x", "y"), NodeDown("x"), ChildActorExited(host.node))
        host.tell(PoisonMessage("what", "why"), WakeupMessage(None, "x"))
        still = host.ask(CallTool("x", id="1"), Failed)

    assert (nonsense.reason, nonsense.id) == ("method_not_found", "")
    assert still.reason == "invalid_request"
    assert host.heard == []


def test_no_handler_raises_whatever_a_message_holds(tmp_path: Path) -> None:
    wrong: Any = object()
    with application() as host:
        start = host.ask(StartNode(config=wrong, id="start"), Failed)
        host.tell(StartNode(config=write_config(tmp_path)))
        call = host.ask(CallTool("x", timeout=wrong, id="call"), Failed)
        host.tell(Subscribe(wrong))
        listed = host.ask(ListTools(), ToolList)

    assert (start.reason, call.reason) == ("internal_error", "internal_error")
    assert listed.tools == ()


class Transport:
    """What an actor on the TCP base sees of Thespian; the fake sends nothing anywhere."""

    def __init__(self) -> None:
        self.address = ActorAddress("fake")
        self.sent: list[Any] = []
        self.wakeups: list[Any] = []

    def actor_send(self, _to: ActorAddress, message: object) -> None:
        self.sent.append(pickle.loads(pickle.dumps(message)))

    def wakeupAfter(self, delay: Any, payload: object) -> None:
        self.wakeups.append((delay.total_seconds(), payload))


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_where_thespian_watches_a_pipe_replies_are_sent_when_it_becomes_readable(
    tmp_path: Path,
) -> None:
    bad = BadServer(tmp_path, "bad")
    transport, sender = Transport(), ActorAddress("me")
    # As on the simple base the process is the test's own, so its logging stays as it is.
    node = ThespianNode({"Thespian Watch Supported": True, "Thespian ActorSystem Name": "simpleSystem"})
    node._myRef = transport
    try:
        node.receiveMessage(StartNode(config=write_config(tmp_path, bad.entry())), sender)
        watch: Any = node.receiveMessage(CallTool("bad_echo", {"text": "hi"}, id="1"), sender)
        while not any(isinstance(one, ToolResult) for one in transport.sent):
            assert isinstance(watch, ThespianWatch)
            ready, _, _ = select.select(watch.filenos, [], [], TIMEOUT)
            assert ready
            watch = node.receiveMessage(WatchMessage(ready), sender)
        assert select.select(watch.filenos, [], [], 0)[0] == []
    finally:
        node.receiveMessage(ActorExitRequest(), sender)
        (fileno,) = watch.filenos
        os.close(fileno)
        os.close(node._post._writer)

    assert [one.id for one in transport.sent if isinstance(one, ToolResult)] == ["1"]
    assert {delay for delay, _ in transport.wakeups} == {0.5}


def test_the_base_that_watches_is_the_one_that_says_so() -> None:
    assert callable(TCPTransport.set_watch)
    assert ThespianWatch([3]).filenos == [3]
