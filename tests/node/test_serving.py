"""`serve`: a node until somebody presses the switch, or until it gives up."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path

import pytest
from support.embedded import TIMEOUT, guards, options, run, until
from support.leaks import take_census, wait_until_settled
from support.nodes import BadServer
from support.processes import group_members

from mcpv_node.node_file import NodeFile
from mcpv_node.serving import NodeOptions, ServeOutcome, StartRefused, StopSwitch, serve
from mcpv_node.state_dir import lock_state_dir, unlock_state_dir


def assert_nothing_is_left(folder: Path) -> None:
    """Check that the folder is free and nobody works on it."""
    assert guards(folder / "state") == []
    assert not (folder / "state" / "node.json").exists()
    assert not (folder / "state" / "node.sock").exists()
    unlock_state_dir(lock_state_dir(folder / "state"))


async def serving(given: NodeOptions, switch: StopSwitch) -> asyncio.Task[ServeOutcome]:
    """Serve in the background; return once it is ready."""
    ready: asyncio.Future[NodeFile] = asyncio.get_running_loop().create_future()
    task = asyncio.create_task(serve(given, on_ready=ready.set_result, switch=switch))
    await asyncio.wait({task, ready}, return_when=asyncio.FIRST_COMPLETED)
    if not ready.done():
        await task
    return task


def test_pressed_once_it_stops_as_asked(tmp_path: Path) -> None:
    async def main() -> None:
        switch = StopSwitch()
        task = await serving(options(tmp_path), switch)
        switch.request()
        assert await task == ServeOutcome(True, "stopped")
        assert_nothing_is_left(tmp_path)

    run(main)


def test_pressed_before_it_was_ready_it_stops_when_it_is(tmp_path: Path) -> None:
    async def main() -> None:
        switch = StopSwitch()
        switch.request()
        ready: list[NodeFile] = []
        assert (await serve(options(tmp_path), on_ready=ready.append, switch=switch)).ok
        assert len(ready) == 1
        assert_nothing_is_left(tmp_path)

    run(main)


def test_pressed_again_it_waits_for_no_calls_any_more(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad", IGNORE_STDIN_EOF=1, IGNORE_TERM=1)
    entry = bad.entry(activationMode="always-on", drainTimeoutSeconds=20, stopGraceSeconds=0.3)

    async def main() -> None:
        switch = StopSwitch()
        task = await serving(options(tmp_path, entry), switch)
        await until(lambda: bool(bad.told("initialize")))
        switch.request()
        switch.request("now")
        assert (await task).ok
        assert not any(group_members(pid) for pid in bad.starts())
        assert_nothing_is_left(tmp_path)

    run(main)


def test_it_can_be_pressed_from_any_thread_and_when_all_is_over(tmp_path: Path) -> None:
    switch = StopSwitch()

    async def main() -> None:
        task = await serving(options(tmp_path), switch)
        presser = threading.Thread(target=switch.request)
        presser.start()
        assert (await task).ok
        presser.join(TIMEOUT)

    run(main)
    switch.request("kill")


def test_a_root_that_gives_up_ends_it_with_the_reason_and_leaves_nothing(tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")

    async def main() -> None:
        task = await serving(options(tmp_path, bad.entry(activationMode="always-on")), StopSwitch())
        killed: set[int] = set()
        await until(lambda: bool(bad.told("initialize")))
        while not task.done():
            for pid in set(guards(tmp_path / "state")) - killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(0.005)
        outcome = await task
        assert not outcome.ok
        assert outcome.message.startswith("the node gave up: ")
        assert "guard" in outcome.message
        assert not any(group_members(pid) for pid in bad.starts())
        assert_nothing_is_left(tmp_path)

    run(main)


def test_a_refused_start_is_raised_and_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        before = take_census()
        path = tmp_path / "state" / "token"
        path.mkdir(parents=True)
        with pytest.raises(StartRefused, match="token"):
            await serve(options(tmp_path), on_ready=lambda _: None, switch=StopSwitch())
        assert wait_until_settled(before) == []
        assert_nothing_is_left(tmp_path)

    run(main)


def test_the_most_urgent_request_counts() -> None:
    switch = StopSwitch()
    woken: list[int] = []
    assert switch.take() is None

    switch.request("drain")
    switch.connect(lambda: woken.append(1))
    switch.request("kill")
    switch.request("now")

    assert switch.take() == "kill"
    assert len(woken) == 3
