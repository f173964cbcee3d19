"""A host application on asyncio: methods that can be awaited on a loop that is not the node's."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pykka
import pytest
from support.embedded import TIMEOUT, node_threads, write_config
from support.nodes import BadServer
from support.processes import alive, wait_until

from mcpv_node import CallError, Node
from mcpv_node.settings import SettingsError


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a host on a loop of its own."""

    async def bounded() -> None:
        async with asyncio.timeout(TIMEOUT):
            await main()

    asyncio.run(bounded())


@asynccontextmanager
async def node_with(folder: Path, *servers: BadServer, **entry: object) -> AsyncIterator[Node]:
    """Have a node that serves these."""
    async with Node.from_config(write_config(folder, *(one.entry(**entry) for one in servers))) as node:
        yield node


def test_it_lists_calls_and_says_why(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")

    async def main() -> None:
        async with node_with(tmp_path, bad) as node:
            called = await node.call_tool("bad_echo", {"text": "hi"})
            listed, own = await node.list_tools(), await node.list_tools(server="bad")
            why = await node.why("bad")

        assert called.json()["content"][0]["text"] == "hi"
        assert "bad_echo" in [tool.name for tool in listed.tools]
        assert "echo" in [tool.name for tool in own.tools]
        assert (why.name, why.calls.ok) == ("bad", 1)

    run(main)
    assert not any(alive(pid) for pid in bad.starts())


THINGS = """
from mcp.server.mcpserver import MCPServer

server = MCPServer("things")


@server.prompt()
def sum_up(of: str) -> str:
    return f"Sum up {of}."


@server.resource("thing://one")
def one() -> str:
    return "the first thing"


server.run()
"""


def test_it_gets_prompts_and_reads_resources(tmp_path: Path) -> None:
    (tmp_path / "things.py").write_text(THINGS)
    entry = {"name": "things", "command": sys.executable, "args": [str(tmp_path / "things.py")]}

    async def main() -> None:
        async with Node.from_config(write_config(tmp_path, entry)) as node:
            prompt = await node.get_prompt("things_sum_up", {"of": "it"})
            resource = await node.read_resource("thing://one")
            with pytest.raises(CallError) as raised:
                await node.read_resource("thing://two")

        assert prompt.json()["messages"][0]["content"]["text"] == "Sum up it."
        assert resource.json()["contents"][0]["text"] == "the first thing"
        assert raised.value.message == "Resource not found: thing://two"

    run(main)


def test_it_reloads_and_says_what_changed_or_why_nothing_did(tmp_path: Path) -> None:
    bad, more = BadServer(tmp_path, "bad"), BadServer(tmp_path, "more")

    async def main() -> None:
        async with node_with(tmp_path, bad) as node:
            write_config(tmp_path, bad.entry(), more.entry())
            reloaded = await node.reload()
            called = await node.call_tool("more_echo", {"text": "hi"})
            (tmp_path / "node.yaml").write_text("servers: 3")
            with pytest.raises(CallError) as raised:
                await node.reload()

        assert [(change.what, change.name) for change in reloaded.changes] == [("added", "more")]
        assert called.json()["content"][0]["text"] == "hi"
        assert raised.value.reason == "rejected"
        assert "node.yaml" in raised.value.data["problems"][0]

    run(main)


def test_a_method_raises_what_a_message_answers(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")

    async def main() -> None:
        async with node_with(tmp_path, bad) as node:
            with pytest.raises(CallError, match="Unknown tool: bad_nope") as unknown:
                await node.call_tool("bad_nope")
            with pytest.raises(CallError, match="mine") as own:
                await node.call_tool("bad_error", {"message": "mine"})
            with pytest.raises(CallError) as died:
                await node.call_tool("bad_crash", {"code": 4})
            with pytest.raises(CallError, match="nope"):
                await node.why("nope")
            with pytest.raises(CallError, match="nope"):
                await node.list_tools(server="nope")
        assert (unknown.value.reason, own.value.reason, died.value.reason) == (
            "invalid_params",
            "error",
            "instance_died",
        )
        assert died.value.data["lastExit"]["code"] == 4

    run(main)


def test_a_call_does_not_hold_up_another(tmp_path: Path) -> None:
    slow, quick = BadServer(tmp_path, "slow"), BadServer(tmp_path, "quick")

    async def main() -> None:
        async with node_with(tmp_path, slow, quick, drainTimeoutSeconds=0.5) as node:
            await node.list_tools()
            waiting = asyncio.ensure_future(node.call_tool("slow_sleep", {"seconds": 60}, timeout=2.0))
            for _ in range(3):
                await node.call_tool("quick_pid")
            assert not waiting.done()
            with pytest.raises(CallError) as late:
                await waiting
            assert late.value.reason == "call_timeout"

    run(main)


def test_who_reads_snapshots_slowly_gets_the_latest_and_then_the_end(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")

    async def main() -> None:
        seen: list[str] = []
        async with node_with(tmp_path, bad) as node:
            snapshots = node.snapshots()
            seen.append((await anext(snapshots)).etag)
            # Everything that happens now happens before the second look.
            listed = await node.list_tools()
            if listed.etag not in seen:
                seen.append((await anext(snapshots)).etag)
            assert seen[-1] == listed.etag
        assert [one.etag async for one in snapshots] == []

    run(main)


def test_reading_snapshots_leaves_the_hosts_registry_and_threads_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with node_with(tmp_path) as node:
            snapshots = node.snapshots()
            await anext(snapshots)

            assert len(pykka.ActorRegistry.get_all()) == 1
            # A host that ends its actors ends the iteration, too.
            await asyncio.to_thread(pykka.ActorRegistry.stop_all)
            assert [one async for one in snapshots] == []

    run(main)


def test_snapshots_of_a_node_that_has_ended_end_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with node_with(tmp_path) as node:
            pass
        assert [one async for one in node.snapshots()] == []
        with pytest.raises(CallError) as refused:
            await node.call_tool("x")
        assert refused.value.reason == "stopping"

    run(main)


def test_a_node_that_was_not_entered_says_so_and_holds_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        node = Node.from_config(write_config(tmp_path))
        with pytest.raises(RuntimeError, match="async with"):
            await node.list_tools()
        with pytest.raises(RuntimeError, match="async with"):
            await anext(node.snapshots())

    run(main)
    assert pykka.ActorRegistry.get_all() == []


def test_a_wrong_configuration_is_raised_where_the_block_is_entered(tmp_path: Path) -> None:
    async def main() -> None:
        node = Node.from_config(tmp_path / "nowhere.yaml")
        with pytest.raises(SettingsError, match=r"nowhere\.yaml"):
            await node.__aenter__()

    run(main)


def test_a_start_that_fails_is_raised_by_every_method(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("no folder")

    async def main() -> None:
        async with node_with(tmp_path) as node:
            for work in (node.list_tools(), node.call_tool("x"), node.why("x")):
                with pytest.raises(CallError) as refused:
                    await work
                assert refused.value.reason == "start_failed"
                assert str(tmp_path / "state") in refused.value.message

    run(main)


def test_who_gives_up_entering_leaves_no_node_behind(tmp_path: Path) -> None:
    async def main() -> None:
        entering = asyncio.ensure_future(Node.from_config(write_config(tmp_path)).__aenter__())
        await asyncio.sleep(0)
        entering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await entering

    # The host's loop ends once the thread that was starting the node has.
    run(main)
    assert wait_until(lambda: not node_threads() and not pykka.ActorRegistry.get_all())


def test_one_node_serves_several_loops(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")

    async def main() -> None:
        async with node_with(tmp_path, bad) as node:

            def elsewhere() -> str:
                result = asyncio.run(node.call_tool("bad_echo", {"text": "there"}))
                return str(result.json()["content"][0]["text"])

            assert await asyncio.to_thread(elsewhere) == "there"
            assert (await node.call_tool("bad_pid")).is_error is False

    run(main)
