"""Starting real children through our transport, and hearing from them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import uvloop

from mcpv_node.transports import ExitStatus, StdioProcess

# A child that takes longer than this has hung.
TIMEOUT = 15.0

BADSERVER = str(Path(__file__).with_name("badserver.py"))

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

# The first uvloop of a process opens a pipe that libuv keeps for ever: before any test counts descriptors.
uvloop.new_event_loop().close()


def run(main: Coroutine[Any, Any, None], loop: str = "asyncio") -> None:
    """Run a scenario on a fresh loop, by its name."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(main)


class RecordingSink:
    """Keeps what a process told, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.stdout = b""
        self.stderr = b""
        self.status: ExitStatus | None = None
        self._changed = asyncio.Event()

    def on_stdout(self, data: bytes) -> None:
        self.stdout += data
        self._tell("stdout")

    def on_stderr(self, data: bytes) -> None:
        self.stderr += data
        self._tell("stderr")

    def on_stdout_closed(self) -> None:
        self._tell("stdout closed")

    def on_exit(self, status: ExitStatus) -> None:
        self.status = status
        self._tell("exit")

    def _tell(self, event: str) -> None:
        if not self.told or self.told[-1] != event or event in ("stdout closed", "exit"):
            self.told.append(event)
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until what was told fulfils `condition`."""
        async with asyncio.timeout(TIMEOUT):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    async def until_exit(self) -> ExitStatus:
        """Wait for the exit."""
        await self.until(lambda: self.status is not None)
        assert self.status is not None
        return self.status


def spawn_shell(
    script: str, sink: RecordingSink, *, env: Mapping[str, str] | None = None, cwd: str | None = None
) -> StdioProcess:
    """Start a shell script."""
    return StdioProcess.spawn(["/bin/sh", "-c", script], env=_environment(env), cwd=cwd, sink=sink)


def spawn_python(code: str, sink: RecordingSink, *, env: Mapping[str, str] | None = None) -> StdioProcess:
    """Start a piece of Python."""
    return StdioProcess.spawn([sys.executable, "-S", "-c", code], env=_environment(env), cwd=None, sink=sink)


def spawn_badserver(*knobs: str, sink: RecordingSink, env: Mapping[str, str] | None = None) -> StdioProcess:
    """Start the server that misbehaves."""
    return StdioProcess.spawn(
        [sys.executable, "-S", BADSERVER, *knobs], env=_environment(env), cwd=None, sink=sink
    )


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], **(extra or {})}
