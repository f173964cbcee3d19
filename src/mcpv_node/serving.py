"""A node that serves until it is told to stop: what `mcpv-node start` runs."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from loguru import logger

from .node import NodeOptions, NodeRuntime, StartRefused, StopHow, first_fault
from .node_file import NodeFile

__all__ = ["NodeOptions", "ServeOutcome", "StartRefused", "StopSwitch", "serve"]


@dataclass(frozen=True, slots=True)
class ServeOutcome:
    """How a node ended: `ok` is as asked."""

    ok: bool
    message: str


class StopSwitch:
    """Asks a serving node to stop or to reload, from any thread and from a signal handler."""

    def __init__(self) -> None:
        self._asked: list[StopHow] = []
        self._reloads: list[bool] = []
        self._wake: Callable[[], None] = lambda: None

    def request(self, how: StopHow = "drain") -> None:
        """Each request may only be more urgent than the one before: drain, now, kill."""
        self._asked.append(how)
        self._wake()

    def reload(self) -> None:
        """Have the configuration read again; what was asked before is asked once."""
        self._reloads.append(True)
        self._wake()

    def take_reload(self) -> bool:
        """Whether a reload was asked for since this was last called."""
        was_asked = bool(self._reloads)
        self._reloads.clear()
        return was_asked

    def connect(self, wake: Callable[[], None]) -> None:
        """Have `wake` called at every request; at once if there was one already."""
        self._wake = wake
        if self._asked or self._reloads:
            wake()

    def take(self) -> StopHow | None:
        """The most urgent request so far, or None."""
        for how in ("kill", "now", "drain"):
            if how in self._asked:
                return how
        return None


async def serve(
    options: NodeOptions,
    *,
    on_ready: Callable[[NodeFile], None],
    switch: StopSwitch,
    supervisor: int | None = None,
) -> ServeOutcome:
    """Run a node until the switch is pressed or its root gives up. Raises StartRefused.

    `supervisor` is the read end of a pipe whose other end its supervisor holds, and closes by its own end: then the
    node, which nobody would start again or stop, stops in order.
    """
    loop = asyncio.get_running_loop()
    pressed = asyncio.Event()

    def wake() -> None:
        # A signal may come when the node has stopped and its loop is gone.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(pressed.set)

    def on_supervisor_gone() -> None:
        assert supervisor is not None
        loop.remove_reader(supervisor)
        logger.warning("the supervisor of this node has gone: the node stops")
        switch.request()

    switch.connect(wake)
    node = NodeRuntime(options)
    if supervisor is not None:
        # Nothing is ever written: what can be read is the end.
        loop.add_reader(supervisor, on_supervisor_gone)
    try:
        on_ready(await node.start(switch.request))
        ended = loop.create_task(node.wait_ended())
        stop = loop.create_task(_stop_as_asked(node, switch, pressed))
        await asyncio.wait({ended, stop}, return_when=asyncio.FIRST_COMPLETED)
        if switch.take() is None:
            stop.cancel()
            return ServeOutcome(False, f"the node gave up: {first_fault(await ended)}")
        await stop
        if node.fault is not None:
            return ServeOutcome(False, f"the node gave up: {node.fault}")
        return ServeOutcome(True, "stopped")
    finally:
        if supervisor is not None:
            loop.remove_reader(supervisor)
        await node.stop("now")
        node.system.close()


async def _stop_as_asked(node: NodeRuntime, switch: StopSwitch, pressed: asyncio.Event) -> None:
    while switch.take() is None:
        await pressed.wait()
        pressed.clear()
        if switch.take_reload():
            node.reload_soon()
    loop = asyncio.get_running_loop()
    stopping = loop.create_task(node.stop(switch.take() or "drain"))
    while not stopping.done():
        more = loop.create_task(pressed.wait())
        await asyncio.wait({stopping, more}, return_when=asyncio.FIRST_COMPLETED)
        more.cancel()
        if stopping.done():
            break
        pressed.clear()
        if switch.take() == "kill":
            # What runs on is ended by the guard, whose pipe closes with us.
            os._exit(1)
        node.hurry()
    await stopping
