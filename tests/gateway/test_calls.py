"""One call through the node: every way it can end, and what becomes of its lease."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from msgspec import Raw
from support.fake_servers import FakeNode, Finish, fake_node, make_settings, run, until

from mcpv_node.actors.callers import EMPTY_PROFILE
from mcpv_node.actors.index_messages import ListsLearnt
from mcpv_node.actors.instance.messages import Answer
from mcpv_node.actors.kernel import Handle
from mcpv_node.actors.snapshot import Learnt, Naming, Source, merge
from mcpv_node.actors.world import EVERYTHING
from mcpv_node.gateway import CallReply, make_caller, perform_request
from mcpv_node.protocol import CallFailure, Capabilities, Listed, Reason, ServerHello
from mcpv_node.settings import ServerName, ServerSpec, SpecKey

CALLER = make_caller("somebody", None, conversation="session:1")


async def make(node: FakeNode, name: str, **more: Any) -> CallReply:
    context = node.services.node
    return await perform_request(
        context, CALLER, EVERYTHING, Raw(json.dumps({"name": name}).encode()), **more
    )


class Listening:
    """A client that wants to hear of progress."""

    wants_progress = True
    log_level = None

    def __init__(self, seen: list[bytes]) -> None:
        self.seen = seen

    def on_progress(self, params: Raw) -> None:
        self.seen.append(bytes(params))

    def on_note(self, method: str, params: Raw | None) -> None: ...

    async def ask(self, method: str, params: bytes | Raw | None) -> Answer:
        raise AssertionError(method)


def error_of(reply: CallReply) -> dict[str, Any]:
    assert reply.error is not None
    return dict(json.loads(bytes(reply.error)))


def outcomes(node: FakeNode) -> str:
    body, _ = node.services.node.metrics.exposition()
    return "".join(line for line in body.decode().splitlines(True) if line.startswith("mcpv_calls_total"))


def test_a_call_that_is_answered_releases_its_lease_and_is_counted(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            reply = await make(node, "alpha_echo")
            kind = node.types["alpha"]
            await until(lambda: kind.ended)

        assert b'"sent":{"name":"echo"}' in bytes(reply.result or b"")
        assert kind.released == [kind.acquired[0].lease]
        assert kind.ended == [True]
        assert 'mcpv_calls_total{outcome="ok",server="alpha"} 1.0' in outcomes(node)

    run(main)


def test_a_call_may_wait_for_the_queue_and_a_start_and_then_as_long_as_it_may_take(tmp_path: Path) -> None:
    spec = ServerSpec(
        name=ServerName("alpha"),
        command="none",
        queue_timeout_seconds=7,
        start_timeout_seconds=11,
        max_call_seconds=500,
    )

    async def main() -> None:
        async with fake_node(tmp_path, settings=make_settings(servers=(spec,))) as node:
            now = node.services.node.clock.monotonic()
            await make(node, "alpha_echo")
            await make(node, "alpha_echo", deadline=now + 3)
            kind, instance = node.types["alpha"], node.instances["alpha"]

        assert [round(one.deadline - now) for one in kind.acquired] == [18, 3]
        assert [round(one.deadline - now) for one in instance.calls] == [500, 3]

    run(main)


@pytest.mark.parametrize("name", ["nope", "alpha_nope", "alpha.", "", "echo"])
def test_a_name_that_is_not_listed_is_unknown(tmp_path: Path, name: str) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            assert error_of(await make(node, name))["code"] == -32602
            assert node.types["alpha"].acquired == []

    run(main)


def test_a_refusal_says_why_and_nothing_was_executed(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            node.types["alpha"].refusal = CallFailure(
                reason=Reason.BACKING_OFF, message="later", server="alpha", executed="no", retry_after=9.0
            )
            error = error_of(await make(node, "alpha_echo"))
            assert node.types["alpha"].released == []
            assert node.types["alpha"].ended == []

        assert error["code"] == -31004
        assert error["data"]["retryAfter"] == 9.0
        assert error["data"]["executed"] == "no"

    run(main)


def test_a_server_type_that_is_gone_is_stopping_and_one_that_is_silent_a_queue_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mcpv_node.gateway.calls.REPLY_MARGIN", 0.0)

    async def main() -> None:
        async with fake_node(tmp_path) as node:
            node.types["beta"].keeps_waiting = True
            now = node.services.node.clock.monotonic()
            silent = error_of(await make(node, "beta_echo", deadline=now + 0.02))
            kind = node.types["alpha"]
            kind.cell.kill()
            gone = error_of(await make(node, "alpha_echo"))
            await until(lambda: node.types["beta"].released)

        assert (silent["data"]["reason"], silent["data"]["executed"]) == ("queue_timeout", "no")
        assert (gone["data"]["reason"], gone["data"]["executed"]) == ("stopping", "no")

    run(main)


def test_an_instance_that_ends_during_the_call_is_its_own_error_and_the_lease_is_released(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            task = asyncio.create_task(make(node, "alpha_slow"))
            await until(lambda: node.instances["alpha"].waiting)
            node.instances["alpha"].cell.kill()
            error = error_of(await task)
            kind = node.types["alpha"]
            await until(lambda: kind.ended)

        assert error["code"] == -31007
        assert error["data"]["executed"] == "unknown"
        assert kind.released == [kind.acquired[0].lease]
        assert kind.ended == [False]

    run(main)


@pytest.mark.parametrize(
    ("tool", "retry_calls", "tries"),
    [("repeatable", "annotated", 2), ("repeatable", "never", 1), ("dies", "annotated", 1)],
)
def test_only_a_tool_that_may_be_repeated_gets_a_second_try(
    tmp_path: Path, tool: str, retry_calls: Any, tries: int
) -> None:
    spec = ServerSpec(name=ServerName("alpha"), command="none", retry_calls=retry_calls)

    async def main() -> None:
        settings = make_settings(servers=(spec,))
        async with fake_node(tmp_path, settings=settings, tools=("repeatable", "dies")) as node:
            node.instances["alpha"].dying.add("repeatable")
            error = error_of(await make(node, f"alpha_{tool}"))
            kind = node.types["alpha"]
            await until(lambda: len(kind.ended) == tries)

        assert error["data"]["reason"] == "instance_died"
        assert len({acquired.lease for acquired in kind.acquired}) == tries
        assert len(kind.released) == tries

    run(main)


def test_a_slot_of_an_instance_that_had_begun_to_end_is_given_back_for_another(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            node.instances["alpha"].refusing = 2
            reply = await make(node, "alpha_echo")
            kind = node.types["alpha"]
            await until(lambda: len(kind.released) == 3)

        assert b'"sent":{"name":"echo"}' in bytes(reply.result or b"")
        assert kind.released == [acquired.lease for acquired in kind.acquired]
        assert kind.ended == [True]  # the others were no calls
        assert 'mcpv_calls_total{outcome="ok",server="alpha"} 1.0' in outcomes(node)

    run(main)


def test_instances_that_end_as_fast_as_they_are_given_do_not_keep_a_caller_for_ever(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            node.instances["alpha"].refusing = 10_000
            error = error_of(await make(node, "alpha_echo"))

        assert error["data"]["reason"] == "instance_died"
        assert error["data"]["executed"] == "no"
        assert node.instances["alpha"].calls == []

    run(main)


def test_a_cancelled_caller_has_the_server_told_and_the_slot_seen_to(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            task = asyncio.create_task(make(node, "alpha_slow"))
            await until(lambda: node.instances["alpha"].waiting)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            kind, instance = node.types["alpha"], node.instances["alpha"]
            await until(lambda: instance.cancelled and kind.ended)

        # The instance holds the slot until its server is done, and releases it itself.
        assert kind.released == []
        assert 'outcome="cancelled",server="alpha"} 1.0' in outcomes(node)

    run(main)


def test_a_caller_cancelled_at_the_very_moment_of_the_answer_leaks_no_slot(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            task = asyncio.create_task(make(node, "alpha_slow"))
            instance, kind = node.instances["alpha"], node.types["alpha"]
            await until(lambda: instance.waiting)
            Handle[Finish](instance.cell).tell(Finish())
            while instance.waiting:  # noqa: ASYNC110  (the very turn of the loop matters)
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: kind.ended)

        assert kind.released == [kind.acquired[0].lease]

    run(main)


def test_a_caller_cancelled_in_the_queue_leaves_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            kind = node.types["alpha"]
            kind.keeps_waiting = True
            task = asyncio.create_task(make(node, "alpha_echo"))
            await until(lambda: kind.parked)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await until(lambda: kind.released)

        assert kind.released == [kind.acquired[0].lease]
        assert kind.ended == []

    run(main)


def test_progress_is_given_as_the_server_sent_it(tmp_path: Path) -> None:
    async def main() -> None:
        seen: list[bytes] = []
        async with fake_node(tmp_path) as node:
            await make(node, "alpha_progress", port=Listening(seen))

        assert seen == [b'{"progressToken":77,"progress":1}', b'{"progressToken":77,"progress":2}']

    run(main)


MISMATCH = Answer(error=b'{"code":-32020,"message":"Mcp-Param-Region is missing"}')
MODERN = ServerHello(version="2026-07-28", name="m", server_version="1", capabilities=Capabilities())


def describe_anew(node: FakeNode, definition: bytes) -> None:
    """Have alpha's echo listed with this definition, and nothing else."""
    world = node.services.node.world
    server = world.world.servers[ServerName("alpha")]
    key = server.view.spec_key
    learnt = Learnt(key, EMPTY_PROFILE, (Listed("echo", definition),), Source.LIVE)
    snapshot = merge(
        [server.view], {(key, EMPTY_PROFILE): learnt}, naming=Naming(), previous=world.world.tools
    )
    world.publish(snapshot)


@pytest.mark.parametrize("is_described_anew", [True, False])
def test_a_server_that_misses_a_header_has_its_tools_read_again_and_is_called_once_more_if_that_helps(
    tmp_path: Path, is_described_anew: bool
) -> None:
    definition = b'{"name":"echo","inputSchema":{"type":"object"},"new":true}'

    async def main() -> None:
        async with fake_node(tmp_path, tools=("echo",)) as node:
            alpha, index = node.instances["alpha"], node.indexes["tools"]
            node.types["alpha"].hello = MODERN
            alpha.next_answers = [MISMATCH, MISMATCH]
            calling = asyncio.get_running_loop().create_task(make(node, "alpha_echo"))
            await until(lambda: alpha.readings and index.waiting)
            if is_described_anew:
                describe_anew(node, definition)
            index.waiting.pop().answer(ListsLearnt(SpecKey("key-alpha")))
            error = error_of(await calling)

        assert error["code"] == -32020
        assert (alpha.readings, index.waiting) == (1, [])
        given = [call.definition for call in alpha.calls]
        assert given[1:] == ([definition] if is_described_anew else [])

    run(main)
