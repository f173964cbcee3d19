"""The gauges that are made when somebody looks."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path

from support.fake_servers import BOUND, FakeNode, fake_node, run, until

from mcpv_node.actors.kernel import ThreadActor, handles
from mcpv_node.gateway.gauges import refresh_gauges
from mcpv_node.settings import ServerName


class Hang:
    """Stay in the handler."""


class Diary(ThreadActor[None]):
    """Hangs when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs = threading.Event()
        self.goes_on = threading.Event()

    @handles(Hang)
    def _on_hang(self, _: Hang) -> None:
        self.hangs.set()
        self.goes_on.wait(BOUND)


async def depth(node: FakeNode) -> float | None:
    await refresh_gauges(node.services.node)
    for line in node.services.node.metrics.exposition()[0].decode().splitlines():
        if line.startswith('mcpv_mailbox_depth{actor="Diary"} '):
            return float(line.rpartition(" ")[2])
    return None


def test_the_depth_of_mailboxes_is_what_waits_and_falls_to_nothing_when_the_last_has_ended(
    tmp_path: Path,
) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            diary = Diary()
            before = await depth(node)
            handle = await node.start(diary, "diary")
            for _ in range(4):
                handle.tell(Hang())
            await until(diary.hangs.is_set)
            full = await depth(node)
            diary.goes_on.set()
            handle.cell.stop()
            await until(lambda: not handle.is_alive())
            after = await depth(node)

        assert (before, full, after) == (None, 3, 0)

    run(main)


def test_a_server_that_is_gone_when_it_answers_leaves_no_series(tmp_path: Path) -> None:
    async def main() -> None:
        async with fake_node(tmp_path) as node:
            context = node.services.node
            looking = asyncio.get_running_loop().create_task(refresh_gauges(context))
            await asyncio.sleep(0)
            world = context.world.world
            context.world.world = replace(world, servers={"beta": world.servers[ServerName("beta")]})
            await looking
            body = context.metrics.exposition()[0].decode()

        assert 'mcpv_waiters{server="beta"} 0.0' in body
        assert "alpha" not in body

    run(main)
