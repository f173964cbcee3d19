"""An asyncio application: many calls at once, and the events of the node beside them.

.venv/bin/python examples/asyncio_app.py
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from loguru import logger

from mcpv_node import CallError, Node

# The servers of a node without a configuration of its own: clock and notes.
CONFIG = Path(__file__).parent.parent / "config" / "runtime.yaml"
CITIES = ("Europe/Berlin", "America/New_York", "Asia/Tokyo")


async def say_what_happens(node: Node) -> None:
    """Ends when the node does."""
    async for event in node.events():
        if event.kind == "server_state":
            print(f"{event.server} is {event.to}", flush=True)


async def main() -> None:
    with tempfile.TemporaryDirectory(prefix="mcpv-") as folder:
        async with Node.from_config(CONFIG, state_dir=folder, http="127.0.0.1:0") as node:
            saying = asyncio.create_task(say_what_happens(node))

            calls = [node.call_tool("clock_now", {"tz": city}, timeout=30.0) for city in CITIES]
            for result in await asyncio.gather(*calls):
                print(f"it is known what time it is in {result.json()['structuredContent']['timezone']}")
            try:
                await node.call_tool("clock_nothing")
            except CallError as error:
                print(f"{error.reason}: {error}")

            print("running; Enter ends it", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
        await saying


if __name__ == "__main__":
    # The host says what becomes of the log.
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    asyncio.run(main())
