"""Any actor inside the node may die: sessions, lists and calls go on, and no process is lost or left (I15)."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.embedded import options, run, running, until
from support.nodes import BadServer
from support.processes import alive, group_members
from support.raw_http import RawClient, RawConnection, request

from mcpv_node.actors.kernel import Cell, Handle
from mcpv_node.node import NodeRuntime
from mcpv_node.settings import ServerName
from mcpv_node.supervisors.keeper import ChildKeeper

LONG = 600

# More than a group and its server type may have between them.
MANY_DEATHS = 100

# Those whose death nobody outside must notice at all.
UNNOTICED = (
    "guard",
    "events",
    "store",
    "index-tools",
    "index-prompts",
    "subscribers",
    "sessions",
    "server-type",
    "clients",
)


class Inside:
    """A node in this process, a server, and a client with a session."""

    def __init__(self, node: NodeRuntime, server: BadServer, url: str, client: RawClient) -> None:
        self.node, self.server, self.url, self.client = node, server, url, client

    def cell(self, id: str) -> Cell:
        """Return the place of an actor, by its id in the tree."""
        return next(cell for name, cell in walk("node", self.node._root.cell) if name == id)

    def instance(self) -> Cell:
        """Return the place of the one instance that lives."""
        return next(
            cell
            for _, cell in walk("node", self.node._root.cell)
            if cell.kind == "StdioInstance" and cell.actor
        )

    async def kill(self, id: str) -> None:
        """End an actor, and wait for its next incarnation."""
        cell = self.cell(id)
        before = cell.incarnation
        cell.kill("for a test")
        await until(lambda: cell.incarnation > before and cell.actor is not None)

    async def tools(self) -> list[str]:
        answer = (await self.client.post(request("list", "tools/list"))).json()
        return [tool["name"] for tool in answer["result"]["tools"]]

    async def call(self, tool: str, /, **arguments: object) -> dict[str, Any]:
        """Call a tool in the session; return the answer."""
        message = request("call", "tools/call", name=f"inner_{tool}", arguments=arguments)
        answer: dict[str, Any] = (await self.client.post(message)).json()
        return answer

    async def text(self, tool: str, /, **arguments: object) -> str:
        answer = await self.call(tool, **arguments)
        assert "result" in answer, answer
        return str(answer["result"]["content"][0]["text"])

    async def beside(self) -> RawClient:
        """Give a second connection of the same session."""
        other = RawClient(await RawConnection.open(self.url), token=self.client.token)
        other.session = self.client.session
        return other


def walk(id: str, cell: Cell) -> Iterator[tuple[str, Cell]]:
    """Go through a tree."""
    yield id, cell
    if isinstance(cell.actor, ChildKeeper):
        for status in cell.actor.children():
            yield from walk(status.id, status.handle.cell)


@asynccontextmanager
async def inside(folder: Path, **settings: object) -> AsyncIterator[Inside]:
    """Have it, and the server learnt."""
    server = BadServer(folder, "inner")
    defaults: dict[str, object] = {"idleSeconds": LONG, "maxInstances": 1, "maxConcurrent": 4}
    async with running(options(folder, server.entry(**{**defaults, **settings}))) as (node, file):
        await until(lambda: bool(node.context.world.world.tools.entries))
        await until(lambda: "exit 0" in [words for _, words in server.story()])
        server.forget()
        token = (folder / "state" / "token").read_text().strip()
        client = await RawClient.open(file.http, token=token)
        it = Inside(node, server, file.http, client)
        try:
            yield it
        finally:
            await it.client.close()
    assert not any(group_members(pid) for pid in server.starts())


@pytest.mark.parametrize("id", UNNOTICED)
def test_a_death_inside_is_noticed_by_no_client(tmp_path: Path, id: str) -> None:
    async def main() -> None:
        async with inside(tmp_path) as it:
            pid, tools = await it.text("pid"), await it.tools()
            running_call = await it.beside()
            params = {"name": "inner_sleep", "arguments": {"seconds": 0.5}}
            await running_call.send(request("long", "tools/call", **params))
            await until(lambda: bool(it.server.told("call sleep")))

            await it.kill(id)

            assert await it.tools() == tools
            assert await it.text("pid") == pid
            slept = (await running_call.connection.read()).json()
            assert slept["result"]["content"][0]["text"] == "slept 0.5"
            await running_call.close()
            assert it.server.starts() == [int(pid)]
            assert it.server.cancellations() == []

    run(main)


@pytest.mark.parametrize("id", UNNOTICED)
def test_a_second_death_right_after_the_first_leaks_nothing_and_calls_go_on(tmp_path: Path, id: str) -> None:
    async def main() -> None:
        async with inside(tmp_path) as it:
            pid = int(await it.text("pid"))
            tools = await it.tools()

            await it.kill(id)
            await it.kill(id)

            if id == "sessions":
                # The estate is dropped at the second death, and a session that nobody knows is a 404.
                await it.client.close()
                it.client = await RawClient.open(it.url, token=it.client.token)
            await until(lambda: len(it.node.context.world.world.tools.entries) == len(tools))
            second = int(await it.text("pid"))
            await until(lambda: second == pid or not group_members(pid))
            assert len([started for started in it.server.starts() if alive(started)]) == 1

    run(main)


def test_a_server_type_that_dies_keeps_its_queue(tmp_path: Path) -> None:
    async def main() -> None:
        async with inside(tmp_path, maxConcurrent=1) as it:
            pid = await it.text("pid")
            clients = [await it.beside() for _ in range(3)]
            for number, client in enumerate(clients):
                params = {"name": "inner_sleep", "arguments": {"seconds": 0.3}}
                await client.send(request(number, "tools/call", **params))
            await until(lambda: bool(it.server.told("call sleep")))

            await it.kill("server-type")

            for client in clients:
                answer = (await client.connection.read()).json()
                assert answer["result"]["content"][0]["text"] == "slept 0.3"
                await client.close()
            assert it.server.starts() == [int(pid)]

    run(main)


def test_a_server_type_that_dies_in_a_start_loses_neither_the_start_nor_its_caller(tmp_path: Path) -> None:
    async def main() -> None:
        async with inside(tmp_path) as it:
            it.server.behave(START_DELAY=0.5)
            other = await it.beside()
            await other.send(request(1, "tools/call", name="inner_pid", arguments={}))
            await until(lambda: bool(it.server.starts()))

            await it.kill("server-type")

            answer = (await other.connection.read()).json()
            assert answer["result"]["content"][0]["text"] == str(it.server.starts()[0])
            await other.close()
            assert len(it.server.starts()) == 1

    run(main)


def test_an_instance_that_is_killed_fails_its_calls_and_leaves_no_process(tmp_path: Path) -> None:
    async def main() -> None:
        async with inside(tmp_path) as it:
            first = int(await it.text("pid"))
            other = await it.beside()
            await other.send(request(1, "tools/call", name="inner_sleep", arguments={"seconds": LONG}))
            await until(lambda: bool(it.server.told("call sleep")))

            it.instance().kill("for a test")

            error = (await other.connection.read()).json()["error"]
            await other.close()
            assert error["data"]["reason"] == "instance_died"
            assert int(await it.text("pid")) != first
            await until(lambda: not group_members(first))

    run(main)


@pytest.mark.parametrize("id", ["inner", "instances", "init"])
def test_a_supervisor_that_dies_takes_its_processes_along_and_the_next_call_is_served(
    tmp_path: Path, id: str
) -> None:
    async def main() -> None:
        async with inside(tmp_path) as it:
            first = int(await it.text("pid"))

            await it.kill(id)

            await until(lambda: not group_members(first))
            # Init counts as there before the groups that died with it are.
            server = it.node.context.world.world.servers[ServerName("inner")].handle.cell
            await until(lambda: server.actor is not None and server.actor.state == "running")
            second = int(await it.text("pid"))
            assert second != first
            assert [pid for pid in it.server.starts() if alive(pid)] == [second]

    run(main)


def test_a_door_that_dies_opens_again_where_it_was_and_sessions_live_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with inside(tmp_path) as it:
            pid = await it.text("pid")

            await it.kill("http")

            again = await it.beside()
            await it.client.close()
            it.client = again
            assert await it.text("pid") == pid

    run(main)


def test_a_guard_process_that_dies_is_replaced_while_servers_run(tmp_path: Path) -> None:
    async def main() -> None:
        async with inside(tmp_path) as it:
            pid = await it.text("pid")
            guard = it.cell("guard")
            before = guard.incarnation
            assert guard.estate is not None

            os.kill(guard.estate.pid, signal.SIGKILL)

            await until(lambda: guard.incarnation > before and guard.actor is not None)
            await until(lambda: guard.estate is not None and guard.estate.is_alive)
            assert await it.text("pid") == pid
            ledger = [json.loads(line) for line in (tmp_path / "state/ledger.jsonl").read_text().splitlines()]
            assert pid in {str(line["pid"]) for line in ledger if line["event"] == "started"}

    run(main)


async def give_up(it: Inside) -> Handle[Any]:
    """Have the server type die until its group has given up; return its handle."""
    handle = it.node.context.world.world.servers[ServerName("inner")].handle
    for _ in range(MANY_DEATHS):
        if handle.cell.kind == "SuspendedServer" and handle.is_alive():
            return handle
        handle.kill("for a test")
        await until(handle.is_alive)
    raise AssertionError("its group does not give up")


def test_a_group_that_gave_up_is_shown_as_suspended_and_a_retry_brings_it_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with inside(tmp_path) as it:
            pid = int(await it.text("pid"))
            rest = await RawConnection.open(it.url)
            headers = {"Authorization": f"Bearer {it.client.token}"}
            while (await rest.ask("GET", "/api/v1/node", headers)).status == 503:  # noqa: ASYNC110  (it is loaded late)
                await asyncio.sleep(0.005)
            await give_up(it)

            refused = await it.call("pid")
            listed = (await rest.ask("GET", "/api/v1/servers", headers)).json()["servers"]
            retried = await rest.ask("POST", "/api/v1/servers/inner/retry", headers)
            second = int(await it.text("pid"))
            await rest.close()

            assert refused["error"]["data"]["reason"] == "suspended"
            assert "for a test" in refused["error"]["message"]
            assert [one["state"] for one in listed] == ["suspended"]
            assert listed[0]["reason"] == ("its group gave up: for a test; `server retry` tries again")
            assert retried.status == 202
            assert retried.json()["state"] != "suspended"
            assert second != pid
            assert not group_members(pid)

    run(main)


def test_a_node_stops_with_a_group_that_gave_up(tmp_path: Path) -> None:
    async def main() -> None:
        async with inside(tmp_path) as it:
            handle = await give_up(it)

        assert not handle.is_alive()

    run(main)
