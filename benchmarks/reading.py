"""Reads the lists of many echo servers again and again, over their bare pipes, and does nothing else.

    python reading.py SERVERS TOOLS SECONDS

What the machine makes of so many servers that answer so often, with nobody between: catalog.py sets beside it what a
list waits while a node reads them. Says `{}` once all run, and ends, with the servers, when it is asked to.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Sequence

import uvloop
from support import EchoChild, rpc


async def read_again(child: EchoChild, seconds: float) -> None:
    request = rpc("tools/list") + b"\n"
    await asyncio.sleep(random.uniform(0.0, seconds))
    while True:
        await child.lane.ask(request)
        await asyncio.sleep(seconds)


async def main(servers: int, tools: int, seconds: float) -> None:
    children = [EchoChild("--tools", str(tools)) for _ in range(servers)]
    try:
        for child in children:
            await child.handshake()
        print("{}", flush=True)
        async with asyncio.TaskGroup() as group:
            for child in children:
                group.create_task(read_again(child, seconds))
    finally:
        for child in children:
            child.close()


def run(arguments: Sequence[str]) -> None:
    servers, tools, seconds = arguments
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.get_loop().add_signal_handler(15, stop_all)
        try:
            runner.run(main(int(servers), int(tools), float(seconds)))
        except asyncio.CancelledError:
            return


def stop_all() -> None:
    for task in asyncio.all_tasks():
        task.cancel()


if __name__ == "__main__":
    run(sys.argv[1:])
