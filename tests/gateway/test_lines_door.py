"""The line door over a real unix socket, with fake servers behind it."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.fake_servers import FakeNode, Finish, fake_node, make_settings, run, until
from support.raw_http import call, initialize, notification, request

from mcpv_node.actors.clients import Client, ClientKind, ListClients
from mcpv_node.actors.instance.messages import Asked, AskNumber
from mcpv_node.actors.kernel import Handle
from mcpv_node.actors.world import EVERYTHING, Selector
from mcpv_node.gateway import LinesDoor
from mcpv_node.gateway import lines as lines_module
from mcpv_node.gateway.lines import parse_hello
from mcpv_node.gateway.unix_socket import peer_uid
from mcpv_node.settings import NodeLimits, NodeSettings, ServerName


class LineClient:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, path: Path, hello: object = None, *, greet: bool = True) -> LineClient:
        client = cls(*await asyncio.open_unix_connection(str(path), limit=1 << 26))
        client.send({"mcpv": 1} if hello is None else hello)
        if greet:
            client.send(initialize())
            client.send(notification("notifications/initialized"))
            assert (await client.read())["result"]["serverInfo"]["name"] == "mcpv-node"
        return client

    def send(self, message: object) -> None:
        data = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.writer.write(data + b"\n")

    async def read(self) -> Any:
        """The next message; None at the end."""
        line = await self.reader.readline()
        return json.loads(line) if line else None

    async def ask(self, message: object) -> Any:
        self.send(message)
        return await self.read()

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            return


@dataclass
class Stage:
    """An open door."""

    node: FakeNode
    path: Path
    door: Handle[Any]

    async def finish_slow(self) -> None:
        instance = self.node.instances["alpha"]
        await until(lambda: instance.waiting)
        Handle[Finish](instance.cell).tell(Finish())


@asynccontextmanager
async def open_door(
    folder: Path, *, settings: NodeSettings | None = None, drain_bound: float = 5.0
) -> AsyncIterator[Stage]:
    path = folder / "node.sock"
    async with fake_node(folder, settings=settings) as node:
        yield Stage(
            node, path, await node.start(LinesDoor(node.services, path, drain_bound=lambda: drain_bound))
        )


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_client_says_hello_and_then_speaks_mcp(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            mode = stat.S_IMODE(stage.path.stat().st_mode)
            client = await LineClient.open(stage.path)
            listed = await client.ask(request(1, "tools/list"))
            answered = await client.ask(call("two", "alpha_echo"))
            await client.close()
            await until(lambda: not stage.node.subscribers.joined)
        acquired = stage.node.types["alpha"].acquired[0].caller

        assert mode == 0o600
        assert "beta_echo" in [tool["name"] for tool in listed["result"]["tools"]]
        assert answered["id"] == "two"
        assert answered["result"]["sent"]["name"] == "echo"
        assert acquired.principal == f"local:{os.getuid()}"
        assert acquired.key.startswith("line:")
        assert not stage.path.exists()

    run(main, loop=loop)


@pytest.mark.parametrize(
    ("hello", "names"),
    [
        ({"mcpv": 1, "server": "beta"}, ["echo", "slow", "error", "progress", "dies"]),
        ({"mcpv": 1, "tags": ["two"]}, [f"beta_{n}" for n in ("echo", "slow", "error", "progress", "dies")]),
    ],
)
def test_the_hello_selects_what_the_line_sees(tmp_path: Path, hello: object, names: list[str]) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await LineClient.open(stage.path, hello)
            listed = await client.ask(request(1, "tools/list"))
            await client.close()

        assert sorted(tool["name"] for tool in listed["result"]["tools"]) == sorted(names)

    run(main)


@pytest.mark.parametrize(
    "hello",
    [
        b"{}",
        b"garbage",
        b"[" * 5000,
        {"mcpv": 2},
        {"mcpv": "1"},
        {"mcpv": 1, "server": "gamma"},
        {"mcpv": 1, "profile": "gamma"},
        {"mcpv": 1, "server": "alpha", "profile": "x"},
        {"mcpv": 1, "tags": [""]},
        initialize(),
    ],
)
def test_a_wrong_hello_is_answered_with_an_error_and_the_end(tmp_path: Path, hello: object) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await LineClient.open(stage.path, hello, greet=False)
            refused, end = await client.read(), await client.read()
            await client.close()
            assert not stage.node.subscribers.joined

        assert refused["id"] is None
        assert refused["error"]["code"] == -32600
        assert end is None

    run(main)


def test_a_client_that_says_nothing_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "HELLO_BOUND", 0.01)

    async def main() -> None:
        async with open_door(tmp_path) as stage:
            reader, writer = await asyncio.open_unix_connection(str(stage.path))
            assert await reader.read() == b""
            writer.close()

    run(main)


def test_a_line_is_registered_with_its_hello_named_when_it_says_its_name_and_gone_with_its_end(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:

            async def registered() -> list[Client]:
                found = await stage.node.services.node.clients.ask(ListClients(), 5)
                return [one.client for one in found]

            client = await LineClient.open(stage.path, {"mcpv": 1, "server": "alpha"}, greet=False)
            assert (await client.ask(request(0, "ping"))) is not None
            (unnamed,) = await registered()
            assert "result" in await client.ask(initialize())
            (named,) = await registered()
            await client.close()
            while await registered():
                pass

        assert (unnamed.kind, unnamed.name) == (ClientKind.LINE, f"local:{os.getuid()}")
        assert (named.id, named.name) == (unnamed.id, "raw")
        assert named.selector == Selector(server=ServerName("alpha"))

    run(main)


def test_several_calls_are_in_flight_and_answered_as_they_end(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await LineClient.open(stage.path)
            client.send(call(1, "alpha_slow"))
            client.send(call("1", "alpha_echo"))
            first = await client.read()
            client.send(call(1, "alpha_echo"))
            twice = await client.read()
            await stage.finish_slow()
            second = await client.read()
            await client.close()

        assert first["id"] == "1"
        assert twice["error"]["code"] == -32600
        assert (second["id"], second["result"]["slow"]) == (1, True)

    run(main)


def test_progress_and_changed_lists_come_between_the_answers(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await LineClient.open(stage.path)
            client.send(call(1, "alpha_progress", token=9))
            progress = [await client.read() for _ in range(3)]
            stage.node.subscribers.tell_all()
            changed = await client.read()
            await client.close()

        assert [note["params"]["progressToken"] for note in progress[:2]] == [9, 9]
        assert progress[2]["id"] == 1
        assert changed["method"] == "notifications/tools/list_changed"

    run(main)


def test_a_cancelled_call_is_not_answered(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await LineClient.open(stage.path)
            client.send(call(1, "alpha_slow"))
            await until(lambda: stage.node.instances["alpha"].waiting)
            client.send(notification("notifications/cancelled", requestId=1))
            await until(lambda: stage.node.instances["alpha"].cancelled)
            following = await client.ask(request(2, "ping"))
            await client.close()

        assert following["id"] == 2

    run(main)


def test_broken_lines_are_answered_one_by_one_and_the_line_goes_on(tmp_path: Path) -> None:
    async def main() -> None:
        settings = make_settings(limits=NodeLimits(line_bytes=1000))
        async with open_door(tmp_path, settings=settings) as stage:
            client = await LineClient.open(stage.path)
            codes = [
                (await client.ask(line))["error"]["code"]
                for line in (b"{", b"\xff", b"[]", b'{"jsonrpc":"2.0","id":1.5,"method":"ping"}')
            ]
            overlong = await client.ask(b'{"jsonrpc":"2.0","id":8,"method":"' + b"x" * 5000 + b'"}')
            early = await LineClient.open(stage.path, greet=False)
            too_early = await early.ask(request(1, "tools/list"))
            unknown = await early.ask(request(2, "server/discover"))
            pinged = await client.ask(request(3, "ping"))
            await client.close()
            await early.close()

        assert codes == [-32700, -32700, -32600, -32600]
        assert (overlong["id"], overlong["error"]["code"]) == (8, -32700)
        assert too_early["error"]["code"] == -32600
        assert unknown["error"]["code"] == -32602  # a modern request says who asks
        assert pinged["result"] == {}

    run(main)


def test_the_calls_of_a_client_that_is_gone_are_cancelled(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await LineClient.open(stage.path)
            client.send(call(1, "alpha_slow"))
            await until(lambda: stage.node.instances["alpha"].waiting)
            await client.close()
            await until(lambda: stage.node.instances["alpha"].cancelled)
            await until(lambda: not stage.node.subscribers.joined)

        assert stage.node.types["alpha"].ended == [False]

    run(main)


def test_the_end_of_a_line_is_told_to_the_servers_that_have_asked_its_client(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await LineClient.open(stage.path)
            client.send(call(1, "alpha_slow"))
            alpha, beta = stage.node.types["alpha"], stage.node.types["beta"]
            await until(lambda: stage.node.instances["alpha"].calls)
            on_event = stage.node.instances["alpha"].calls[0].on_event
            assert on_event is not None
            on_event(Asked(AskNumber(1), "roots/list", None))

            await client.close()
            await until(lambda: alpha.gone)

        assert alpha.gone == [alpha.acquired[0].caller.turn]
        assert beta.gone == []

    run(main)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_client_that_closes_its_side_still_reads_its_answers(tmp_path: Path, loop: str) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await LineClient.open(stage.path)
            client.send(call(1, "alpha_slow"))
            client.writer.write_eof()
            await stage.finish_slow()
            answered, end = await client.read(), await client.read()
            await client.close()

        assert answered["result"]["slow"]
        assert end is None

    run(main, loop=loop)


def test_a_closed_side_does_not_keep_a_long_call_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines_module, "LINGER", 0.01)

    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await LineClient.open(stage.path)
            client.send(call(1, "alpha_slow"))
            client.writer.write_eof()
            assert await client.read() is None
            await until(lambda: stage.node.instances["alpha"].cancelled)
            await client.close()

    run(main)


def test_a_client_that_never_reads_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "MAX_UNREAD", 100_000)

    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await LineClient.open(stage.path)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as greedy:
                greedy.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_connect(greedy, str(stage.path))
                await loop.sock_sendall(greedy, b'{"mcpv": 1}\n' + json.dumps(initialize()).encode() + b"\n")
                big = call(1, "alpha_echo")
                big["params"]["arguments"] = {"x": "y" * 600_000}
                await loop.sock_sendall(greedy, json.dumps(big).encode() + b"\n")
                await until(lambda: len(stage.node.subscribers.joined) == 1)
            assert (await client.ask(request(1, "ping")))["result"] == {}
            await client.close()

    run(main)


def test_calls_in_hand_are_answered_when_the_door_closes(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client, idle = await LineClient.open(stage.path), await LineClient.open(stage.path)
            client.send(call(1, "alpha_slow"))
            await until(lambda: stage.node.instances["alpha"].waiting)
            stage.door.cell.stop()
            await until(lambda: not stage.path.exists())
            assert stage.door.is_alive()
            await stage.finish_slow()
            answered = await client.read()
            assert await idle.read() is None
            await until(lambda: not stage.door.is_alive())
            await client.close()
            await idle.close()

        assert answered["id"] == 1

    run(main)


def test_a_call_that_outlasts_the_bound_does_not_keep_the_door_open(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_door(tmp_path, drain_bound=0.01) as stage:
            client = await LineClient.open(stage.path)
            client.send(call(1, "alpha_slow"))
            await until(lambda: stage.node.instances["alpha"].waiting)
            await stage.node.stop(stage.door)
            await until(lambda: stage.node.instances["alpha"].cancelled)
            assert await client.read() is None
            await client.close()

    run(main)


def test_a_stale_socket_is_replaced_and_a_living_one_is_not(tmp_path: Path) -> None:
    async def main() -> None:
        path = tmp_path / "node.sock"
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        async with open_door(tmp_path) as stage:
            client = await LineClient.open(path)
            with pytest.raises(RuntimeError, match="another node answers"):
                await stage.node.start(LinesDoor(stage.node.services, path), "second")
            assert (await client.ask(request(1, "ping")))["result"] == {}
            await client.close()

    run(main)


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    async def main() -> None:
        (tmp_path / "node.sock").write_text("precious")
        with pytest.raises(RuntimeError, match="something else"):
            async with open_door(tmp_path):
                pass
        assert (tmp_path / "node.sock").read_text() == "precious"

    run(main)


def test_a_path_too_long_for_a_socket_is_named(tmp_path: Path) -> None:
    async def main() -> None:
        folder = tmp_path / ("x" * 120)
        folder.mkdir()
        with pytest.raises(RuntimeError, match="too long"):
            async with open_door(folder):
                pass

    run(main)


def test_another_users_program_is_turned_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines_module, "peer_uid", lambda _: os.getuid() + 4711)

    async def main() -> None:
        async with open_door(tmp_path) as stage:
            client = await LineClient.open(stage.path, greet=False)
            refused = await client.read()
            await client.close()

        assert "another user" in refused["error"]["message"]

    run(main)


def test_the_kernel_says_who_is_at_the_other_end() -> None:
    class Transport(asyncio.BaseTransport):
        def __init__(self, connection: socket.socket) -> None:
            super().__init__({"socket": connection})

    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        assert peer_uid(Transport(ours)) == os.getuid()


@pytest.mark.parametrize(
    ("line", "selector"),
    [
        (b'{"mcpv":1}', EVERYTHING),
        (b'{"mcpv":1,"server":"a","extra":true}', Selector(server=ServerName("a"))),
        (b'{"mcpv":1,"tags":["B","a"]}', Selector(tags=frozenset({"a", "b"}))),
        (b'{"mcpv":1,"tags":[]}', EVERYTHING),
        (b'{"mcpv":1,"profile":"p"}', Selector(profile="p")),
    ],
)
def test_a_hello_names_one_selector(line: bytes, selector: Selector) -> None:
    assert parse_hello(line) == selector
