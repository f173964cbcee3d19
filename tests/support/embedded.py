"""Nodes inside the test's own process: their configuration, and waiting for what they do."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pykka
import uvloop

from mcpv_node import Failed, ListTools, NodeActor, ToolList
from mcpv_node.node import NodeOptions, NodeRuntime
from mcpv_node.node_file import NodeFile
from mcpv_node.settings import load_settings

from .leaks import Census, take_census
from .processes import alive, process_census, wait_until

# A start, a drain and a grace of the tests' settings on a busy machine.
TIMEOUT = 30.0

# The first uvloop of a process opens a pipe that libuv keeps for ever: before any test counts descriptors.
uvloop.new_event_loop().close()


def write_config(folder: Path, *servers: Mapping[str, Any], name: str = "node.yaml", **settings: Any) -> Path:
    """Write a node's configuration: its door takes a free port, its state is under `folder`."""
    path = folder / name
    given = {
        "listen": {"http": "127.0.0.1:0"},
        "stateDir": str(folder / "state"),
        **settings,
        "servers": list(servers),
    }
    # JSON is YAML.
    path.write_text(json.dumps(given, indent=1))
    return path


def options(
    folder: Path, *servers: Mapping[str, Any], token: str | None = None, **settings: Any
) -> NodeOptions:
    """Say how to start a node on `folder`/state."""
    path = write_config(folder, *servers, **settings)
    environ = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    return NodeOptions(
        settings=load_settings(path, environ=environ).settings,
        config_path=path,
        state_dir=folder / "state",
        token=token,
        environ=environ,
    )


@asynccontextmanager
async def running(given: NodeOptions) -> AsyncIterator[tuple[NodeRuntime, NodeFile]]:
    """Have a node on the running loop; it is stopped at the end, and its loop left empty."""
    node = NodeRuntime(given)
    try:
        file = await node.start(lambda: None)
        yield node, file
    finally:
        await node.stop("now")
        live = node.system.live
        node.system.close()
    assert live == 0, f"{live} actors are left"


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario on a fresh loop of the kind that nodes use."""

    async def bounded() -> None:
        async with asyncio.timeout(TIMEOUT):
            await main()

    uvloop.run(bounded())


async def until(condition: Callable[[], bool]) -> None:
    """Give the loop turns until it is so; `TIMEOUT` of the scenario is the bound."""
    while not condition():  # noqa: ASYNC110  (what it waits for is foreign: processes, states of the tree)
        await asyncio.sleep(0.005)


@contextmanager
def embedded(config: Path, **more: Any) -> Iterator[pykka.ActorRef[NodeActor]]:
    """Have a node as a pykka actor; it is stopped at the end."""
    node = NodeActor.start(config, **more)
    try:
        yield node
    finally:
        with suppress(pykka.ActorDeadError):
            node.stop(timeout=TIMEOUT)


def tool_names(node: pykka.ActorRef[Any], server: str | None = None) -> list[str]:
    """Return the names on the list."""
    listed = node.ask(ListTools(server), timeout=TIMEOUT)
    assert isinstance(listed, ToolList), listed
    return [tool.name for tool in listed.tools]


def failure(reply: object) -> Failed:
    """Return the reply, which is one of a failure."""
    assert isinstance(reply, Failed), reply
    return reply


def node_threads() -> list[threading.Thread]:
    """Return the loop threads of embedded nodes."""
    return [thread for thread in threading.enumerate() if thread.name == "mcpv-node"]


def guards(state_dir: Path) -> list[int]:
    """Return the living guard processes of the node on this folder."""
    ledger = str(state_dir / "ledger.jsonl").encode()
    found: list[int] = []
    for pid in process_census():
        with suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if ledger in words and alive(pid):
                found.append(pid)
    return found


def new_children(before: Census) -> frozenset[int]:
    """Return the processes of this one that were not there before."""
    return take_census().children - before.children


class Ear(pykka.ThreadingActor):
    """An actor of a host application: it keeps what it is told."""

    def __init__(self, heard: list[Any]) -> None:
        super().__init__()
        self.heard = heard

    def on_receive(self, message: Any) -> None:
        self.heard.append(message)


@contextmanager
def listening() -> Iterator[tuple[pykka.ActorRef[Ear], list[Any]]]:
    """Have such an actor and what it has heard."""
    heard: list[Any] = []
    ear = Ear.start(heard)
    try:
        yield ear, heard
    finally:
        with suppress(pykka.ActorDeadError):
            ear.stop()


def until_caught_up(ear: pykka.ActorRef[Ear]) -> None:
    """Wait until such an actor has read all that it was told by now."""
    ear.proxy().heard.get(timeout=TIMEOUT)


def heard_soon(heard: list[Any], condition: Callable[[list[Any]], bool]) -> bool:
    """Wait until what was heard is such."""
    return wait_until(lambda: condition(list(heard)))
