"""Other programs that put MCP over HTTP in front of a stdio server, each as its own package index has it.

They are installed once, in exact versions, each into a folder of its own below `.cache`. `start` runs one of them in
front of a command on a free port and returns when it answers; a peer that cannot be had is an InstallError with the
reason, and one that does not come up a PeerError. What a peer starts ends with it.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from support import ECHO, HERE, PYTHON, ROOT, STOP_BOUND, descendants, open_http

sys.path.insert(0, str(ROOT))
from tests.support.harness import NODE
from tests.support.real_servers import (
    SERVERS,
    InstallError,
    install,
    install_from_npm,
    install_from_pypi,
)

__all__ = ["PEERS", "SDK", "InstallError", "Peer", "PeerError", "Running", "start"]

# An interpreter with a framework in it, on a busy machine (seconds).
PEER_START = 60.0

# A peer that is asked to stop has no calls in hand any more (seconds).
PEER_GRACE = 3.0


class PeerError(Exception):
    """A peer that was installed does not do what it is to do."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One program. `argv` is what runs it on a port in front of a command; it may install it first."""

    name: str
    package: str
    argv: Callable[[int, Sequence[str]], list[str]]


def _python(name: str, spec: str) -> Path:
    return install(SERVERS / f"pypi-{name}", spec, install_from_pypi) / "bin"


def _npm(name: str, spec: str) -> str:
    return str(install(SERVERS / f"npm-{name}", spec, install_from_npm) / "node_modules" / ".bin" / name)


def _node() -> str:
    return str(install(SERVERS / "npm-node", NODE, install_from_npm) / "node_modules/node/bin/node")


MCP_PROXY_PYPI = "mcp-proxy==0.13.0"
MCP_PROXY_NPM = "mcp-proxy@6.7.19"
SUPERGATEWAY = "supergateway@4.0.0"
FASTMCP = "fastmcp==4.1.6"


def _mcp_proxy_pypi(port: int, command: Sequence[str]) -> list[str]:
    program = str(_python("mcp-proxy", MCP_PROXY_PYPI) / "mcp-proxy")
    return [program, "--host", "127.0.0.1", "--port", str(port), "--", *command]


def _mcp_proxy_npm(port: int, command: Sequence[str]) -> list[str]:
    program = _npm("mcp-proxy", MCP_PROXY_NPM)
    return [_node(), program, "--host", "127.0.0.1", "--port", str(port), "--", *command]


def _supergateway(port: int, command: Sequence[str]) -> list[str]:
    program = _npm("supergateway", SUPERGATEWAY)
    # Without --stateful it starts the server anew for every request.
    words = ["--outputTransport", "streamableHttp", "--stateful", "--logLevel", "none", "--port", str(port)]
    return [_node(), program, "--stdio", shlex.join(command), *words]


def _fastmcp(port: int, command: Sequence[str]) -> list[str]:
    program = str(_python("fastmcp", FASTMCP) / "python")
    return [program, str(HERE / "fastmcp_proxy.py"), str(port), *command]


def _sdk(port: int, command: Sequence[str]) -> list[str]:
    return [PYTHON, str(HERE / "echo_sdk.py"), str(port), *command[len(ECHO) :]]


# Not a proxy: the same server, over HTTP by itself.
SDK = Peer("direct HTTP (SDK)", "mcp", _sdk)

PEERS = (
    Peer("mcp-proxy (PyPI)", MCP_PROXY_PYPI, _mcp_proxy_pypi),
    Peer("mcp-proxy (npm)", MCP_PROXY_NPM, _mcp_proxy_npm),
    Peer("supergateway", SUPERGATEWAY, _supergateway),
    Peer("fastmcp proxy", FASTMCP, _fastmcp),
)


class Running:
    """A peer at work: its port, its process and a log of what it has said."""

    def __init__(self, argv: Sequence[str], port: int) -> None:
        self.port = port
        self._folder = tempfile.TemporaryDirectory(prefix="mcpv-peer-")
        self._log = Path(self._folder.name) / "log"
        own = {"HOME": self._folder.name, "FASTMCP_CHECK_FOR_UPDATES": "off", "NO_COLOR": "1"}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **own},
                cwd=self._folder.name,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def last_words(self) -> str:
        """The end of what it has written."""
        return self._log.read_text(errors="replace")[-2000:]

    def close(self) -> None:
        """End it and whatever it has started."""
        below = descendants(self.pid)
        self._process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(PEER_GRACE)
        self._process.kill()
        self._process.wait(STOP_BOUND)
        for pid in below:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._folder.cleanup()


async def start(peer: Peer, command: Sequence[str]) -> Running:
    """Run a peer in front of this command; raises InstallError, PeerError."""
    port = free_port()
    argv = await asyncio.get_running_loop().run_in_executor(None, peer.argv, port, command)
    running = Running(argv, port)
    try:
        await _until_open(running, peer.name)
    except BaseException:
        running.close()
        raise
    return running


def free_port() -> int:
    """A port that nobody has now; peers cannot be asked which one they took."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _until_open(running: Running, name: str) -> None:
    try:
        async with asyncio.timeout(PEER_START):
            while True:
                with suppress(OSError):
                    (await open_http(running.port)).close()
                    return
                if not running.is_running:
                    raise PeerError(f"{name} ended before it listened: {running.last_words()}")
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise PeerError(f"{name} did not listen within {PEER_START:g} s: {running.last_words()}") from None
