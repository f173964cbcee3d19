"""Who is there decides what is kept ready: clients come, go, fall silent and die, and so do the actors that know them."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from support.embedded import options, run, running, until
from support.nodes import BadServer, Exchange, Node, running_node
from support.raw_http import RawClient

from mcpv_node.actors.clients import ClientId, ClientKind, Heartbeat, ListClients
from mcpv_node.actors.kernel import Cell
from mcpv_node.node import NodeRuntime
from mcpv_node.supervisors.keeper import ChildKeeper

LONG = 600
IDLE = 0.5


# ---- over a real node ----


def post(node: Node, **body: Any) -> Exchange:
    """Ask for a registration."""
    sent = json.dumps({"name": "program", **body}).encode()
    return node.send("POST", "/api/v1/clients", sent, {"Content-Type": "application/json"})


def register(node: Node, **body: Any) -> str:
    """Register; return the client's id."""
    exchange = post(node, **body)
    registered = exchange.reply()
    assert exchange.response.status == 201, registered
    return str(registered["id"])


def leave(node: Node, client: str) -> None:
    exchange = node.send("DELETE", f"/api/v1/clients/{client}")
    assert exchange.response.status == 204
    exchange.hang_up()


def until_idle_time_has_passed(node: Node, witness: BadServer) -> None:
    """Have a server start that nobody keeps, and wait until it has stopped for being idle."""
    with node.session(f"/mcp/server/{witness.name}") as session:
        session.text("pid")
    node.until(lambda: not node.why(witness)["instances"], "idle")


def test_instances_stay_while_one_client_is_left_and_stop_when_none_is(tmp_path: Path) -> None:
    warm, witness = BadServer(tmp_path, "warm"), BadServer(tmp_path, "witness")
    entries = [
        warm.entry(minReady=2, maxInstances=3, idleSeconds=IDLE),
        witness.entry(idleSeconds=2 * IDLE),
    ]
    with running_node(tmp_path, entries) as node:
        node.until_learnt(["warm", "witness"])
        assert node.pids(warm) == []

        first, second = register(node, server="warm"), register(node, tags=["any"])
        node.until(lambda: len(node.pids(warm)) == 2, "two ready")
        pids = sorted(node.pids(warm))

        leave(node, first)
        until_idle_time_has_passed(node, witness)
        assert sorted(node.pids(warm)) == pids

        leave(node, second)
        node.until(lambda: not node.why(warm)["instances"], "stopped")
        assert [one["kind"] for one in node.get("clients")["clients"]] == ["session"]


def test_clients_that_register_at_the_same_time_start_what_one_would(tmp_path: Path) -> None:
    warm = BadServer(tmp_path, "warm", START_DELAY=0.2)
    with running_node(tmp_path, [warm.entry(minReady=2, maxInstances=8, idleSeconds=LONG)]) as node:
        node.until_learnt(["warm"])
        warm.forget()

        exchanges = [post(node, name=f"program-{number}") for number in range(8)]
        assert [exchange.response.status for exchange in exchanges] == [201] * 8
        ids = [exchange.reply()["id"] for exchange in exchanges]

        node.until(lambda: len(node.pids(warm)) == 2, "two ready")
        assert len(warm.starts()) == 2
        for client in ids[1:]:
            leave(node, client)
        assert len(node.pids(warm)) == 2


def test_a_silent_client_and_one_whose_process_died_are_gone_and_said_to_be(tmp_path: Path) -> None:
    warm = BadServer(tmp_path, "warm")
    process = subprocess.Popen(["sleep", str(LONG)])
    settings = {"clientInactiveSeconds": 3, "clientCheckSeconds": 0.2}
    with running_node(tmp_path, [warm.entry(minReady=1, idleSeconds=IDLE)], **settings) as node:
        node.until_learnt(["warm"])
        events = node.send("GET", "/api/v1/events?kind=client_left")
        assert events.response.status == 200

        register(node, name="mortal", pid=process.pid)
        register(node, name="silent")
        node.until(lambda: len(node.pids(warm)) == 1, "ready")
        process.kill()
        process.wait(LONG)

        messages = events.messages()
        told = [json.loads(next(messages)) for _ in range(2)]
        events.hang_up()
        assert [(event["client"], event["reason"]) for event in told] == [
            ("mortal", f"its process {process.pid} is gone"),
            ("silent", "no sign of life for 3 s"),
        ]
        node.until(lambda: not node.why(warm)["instances"], "stopped")


# ---- while actors of the node die ----


class Inside:
    """A node in this process with a client of each kind."""

    def __init__(self, node: NodeRuntime, folder: Path) -> None:
        self.node = node
        self.socket = folder / "state" / "node.sock"

    async def kinds(self) -> list[str]:
        """Which kinds of clients are registered."""
        found = await self.node.context.clients.ask(ListClients(), 5)
        return sorted(one.client.kind for one in found)

    async def until_kinds(self, *kinds: ClientKind) -> None:
        """Wait until exactly these are."""
        while await self.kinds() != sorted(kinds):  # noqa: ASYNC110  (bounded by the scenario)
            await asyncio.sleep(0.005)

    async def kill(self, id: str) -> None:
        """End an actor, and wait for its next incarnation."""
        cell = self._find("node", self.node._root.cell)[id]
        before = cell.incarnation
        cell.kill("for a test")
        await until(lambda: cell.incarnation > before and cell.actor is not None)

    def _find(self, id: str, cell: Cell) -> dict[str, Cell]:
        found = {id: cell}
        if isinstance(cell.actor, ChildKeeper):
            for status in cell.actor.children():
                found |= self._find(status.id, status.handle.cell)
        return found


@asynccontextmanager
async def inside(folder: Path) -> AsyncIterator[Inside]:
    """Have it: one session, one connection of lines, one client of the API with the id "c-1"."""
    async with running(options(folder, bootstrapMode="disabled")) as (node, file):
        it = Inside(node, folder)
        token = (folder / "state" / "token").read_text().strip()
        session = await RawClient.open(file.http, token=token)
        _, lines = await asyncio.open_unix_connection(it.socket)
        lines.write(b'{"mcpv": 1}\n')
        connection = session.connection
        body = b'{"name":"program"}'
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        headers["Content-Length"] = str(len(body))
        while (await connection.ask("POST", "/api/v1/clients", headers, body)).status != 201:
            pass
        await it.until_kinds(ClientKind.API, ClientKind.LINE, ClientKind.SESSION)
        try:
            yield it
        finally:
            lines.close()
            await session.close()


@pytest.mark.parametrize("id", ["clients", "sessions", "http", "events"])
def test_a_death_inside_loses_no_registration(tmp_path: Path, id: str) -> None:
    async def main() -> None:
        async with inside(tmp_path) as it:
            await it.kill(id)

            await it.until_kinds(ClientKind.API, ClientKind.LINE, ClientKind.SESSION)

    run(main)


def test_registrations_lost_in_a_second_death_come_back_from_the_doors(tmp_path: Path) -> None:
    async def main() -> None:
        async with inside(tmp_path) as it:
            (program,) = (
                one.client.id
                for one in await it.node.context.clients.ask(ListClients(), 5)
                if one.client.kind is ClientKind.API
            )
            await it.kill("clients")
            await it.kill("clients")

            await it.until_kinds(ClientKind.LINE, ClientKind.SESSION)
            # It hears that at its next heartbeat, and registers anew.
            beat = Heartbeat(ClientId(program), "default")
            assert not await it.node.context.clients.ask(beat, 5)

    run(main)


def test_sessions_lost_in_a_second_death_leave_no_registration(tmp_path: Path) -> None:
    async def main() -> None:
        async with inside(tmp_path) as it:
            await it.kill("sessions")
            await it.kill("sessions")

            await it.until_kinds(ClientKind.API, ClientKind.LINE)

    run(main)


def test_connections_that_end_with_their_door_leave_no_registration(tmp_path: Path) -> None:
    async def main() -> None:
        async with inside(tmp_path) as it:
            await it.kill("lines")

            await it.until_kinds(ClientKind.API, ClientKind.SESSION)

    run(main)
