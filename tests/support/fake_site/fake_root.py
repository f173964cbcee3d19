"""A composition root that composes nothing: what `mcpv-node start` runs in tests of the command.

Its line door answers every line with the same line and its end with the end. `MCPV_FAKE` makes it fail: `crash` in
the start, `gave-up` after it. What happens is appended to `<stateDir>/story`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loguru import logger

from mcpv_node.node_file import (
    NodeFile,
    process_start_time,
    read_node_file,
    remove_node_file,
    write_node_file,
)

# A node nobody ended: no test takes as long.
LIFETIME = 100.0


@dataclass(frozen=True, kw_only=True)
class NodeOptions:
    """As in the real one."""

    settings: Any
    config_path: Path | None
    state_dir: Path
    http: str | None
    token: str | None
    linger: float | None
    marks: Any
    redact: Any
    service_manager: Any
    reaps_strangers: bool


@dataclass(frozen=True)
class ServeOutcome:
    """As in the real one."""

    ok: bool
    message: str


class StartRefused(Exception):
    """As in the real one."""


class StopSwitch:
    """As in the real one, but it needs three requests to end: so that a test sees all of them."""

    def __init__(self) -> None:
        self.on_request: Callable[[str], None] = lambda _how: None

    def request(self, how: str) -> None:
        self.on_request(how)


async def serve(
    options: NodeOptions,
    *,
    on_ready: Callable[[NodeFile], None],
    switch: StopSwitch,
    supervisor: int | None = None,
) -> ServeOutcome:
    """Serve the line door until asked to stop."""
    folder = options.state_dir
    path = folder / "node.sock"
    if _answers(path):
        raise StartRefused(f"another node runs on {folder}: process {read_node_file(folder).pid}")
    path.unlink(missing_ok=True)
    logger.info("a node that is none begins")
    if os.environ.get("MCPV_FAKE") == "crash":
        print("a line before the end", file=sys.stderr, flush=True)
        os._exit(1)
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()

    def on_request(how: str) -> None:
        _tell(folder, f"stop {how}")
        if how == os.environ.get("MCPV_FAKE_ENDS_ON", "drain"):
            loop.call_soon_threadsafe(stopped.set)

    switch.on_request = on_request
    server = await asyncio.start_unix_server(_echo, path)
    node = NodeFile(
        pid=os.getpid(),
        start_time=process_start_time(os.getpid()) or "",
        version="9.9.9",
        http="http://127.0.0.1:1",
        socket=str(path),
        token_file=None if options.token == "none" else str(options.token or folder / "token"),
        config_path=str(options.config_path),
    )
    write_node_file(folder, node)
    _tell(folder, f"started linger={options.linger} http={options.http} cwd={os.getcwd()}")
    on_ready(node)
    if os.environ.get("MCPV_FAKE") == "gave-up":
        stopped.set()
    try:
        await asyncio.wait_for(stopped.wait(), LIFETIME)
    finally:
        server.close()
        remove_node_file(folder, pid=os.getpid())
        path.unlink(missing_ok=True)
    gave_up = os.environ.get("MCPV_FAKE") == "gave-up"
    return ServeOutcome(not gave_up, "the root gave up: gateway" if gave_up else "stopped")


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    while chunk := await reader.read(65536):
        writer.write(chunk)
        await writer.drain()
    writer.close()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _tell(folder: Path, what: str) -> None:
    with open(folder / "story", "a") as story:
        story.write(f"{what}\n")
