"""What a server may use: set when it starts, or looked at while it lives."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from loguru import logger
from support.owners import run, until
from support.sessions import failure_of, session

from mcpv_node.actors.instance import stdio as stdio_instance
from mcpv_node.actors.instance.memory import INTERVAL_WITHOUT_PINGS, MIB, complaint, look_interval
from mcpv_node.actors.instance.messages import InstanceExited, InstanceRetiring, Respec
from mcpv_node.settings import LimitSettings, ServerName, ServerSpec

GROWS = """
import json, os, sys, time
def send(id, result):
    print(json.dumps({"jsonrpc": "2.0", "id": id, "result": result}), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    method = message.get("method")
    if method == "initialize":
        send(message["id"], {"protocolVersion": "2025-11-25", "capabilities": {},
                             "serverInfo": {"name": "s", "version": "1"}})
    elif method == "ping":
        send(message["id"], {})
    elif method == "tools/call" and os.fork() == 0:
        block = bytearray(b"x") * (80 << 20)
        time.sleep(300)
"""


@contextmanager
def warnings() -> Iterator[list[str]]:
    """What is logged as a warning meanwhile."""
    said: list[str] = []
    sink = logger.add(lambda message: said.append(message.record["message"]), level="WARNING")
    try:
        yield said
    finally:
        logger.remove(sink)


def test_limits_are_in_force_once_the_server_runs(tmp_path: Path) -> None:
    async def main() -> None:
        limits = LimitSettings(open_files=64, cpu_seconds=100, nice=5)
        with warnings() as said:
            async with session(tmp_path, limits_of_server=limits) as bad:
                await bad.is_ready()

                assert resource.prlimit(bad.pid, resource.RLIMIT_NOFILE) == (64, 64)
                assert resource.prlimit(bad.pid, resource.RLIMIT_CPU) == (100, 100)
                assert os.getpriority(os.PRIO_PROCESS, bad.pid) == 5
        assert said == []

    run(main())


def test_a_limit_that_is_refused_is_said_once_and_the_server_runs_without_it(tmp_path: Path) -> None:
    async def main() -> None:
        with warnings() as said:
            async with session(
                tmp_path, limits_of_server=LimitSettings(open_files=1 << 40, cpu_seconds=100)
            ) as bad:
                await bad.is_ready()

                assert resource.prlimit(bad.pid, resource.RLIMIT_CPU) == (100, 100)
        assert len(said) == 1
        assert said[0].startswith(f"a limit is not in force: openFiles {1 << 40} was refused")

    run(main())


def test_a_server_whose_group_uses_too_much_memory_is_replaced_as_at_fault(tmp_path: Path) -> None:
    async def main() -> None:
        async with session(
            tmp_path,
            limits_of_server=LimitSettings(memory_mb=60),
            ping_interval_seconds=0.05,
            stop_grace_seconds=0.05,
            args=("-S", "-c", GROWS),
        ) as bad:
            await bad.is_ready()

            # Its child is what grows; a call in hand is no excuse.
            answer = await bad.call("grow")
            retiring = await bad.heard(InstanceRetiring)

            found = re.fullmatch(
                r"its processes use (\d+) MB of memory, and 60 MB are allowed", retiring.message
            )
            assert found is not None
            assert int(found[1]) > 60
            assert retiring.at_fault
            assert failure_of(answer)[:2] == ("instance_died", "unknown")
            assert not (await bad.heard(InstanceExited)).asked
            await bad.is_gone()

    run(main())


def test_a_server_within_its_memory_is_looked_at_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def look(pgid: int) -> int:
        looks.append(pgid)
        return 60 * MIB

    monkeypatch.setattr(stdio_instance, "group_rss_bytes", look)

    async def main() -> None:
        async with session(
            tmp_path, limits_of_server=LimitSettings(memory_mb=60), ping_interval_seconds=0.01
        ) as bad:
            await bad.is_ready()
            await until(lambda: len(looks) >= 5)

            assert set(looks) == {bad.pid}
            assert bad.owner.of(InstanceRetiring) == []

    run(main())


def test_a_system_that_does_not_tell_what_a_group_uses_is_mentioned_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    monkeypatch.setattr(stdio_instance, "group_rss_bytes", looks.append)

    async def main() -> None:
        with warnings() as said:
            async with session(
                tmp_path, limits_of_server=LimitSettings(memory_mb=60), ping_interval_seconds=0.01
            ) as bad:
                await bad.is_ready()
                await until(lambda: said)

                assert await bad.text("echo", text="fine") == "fine"
        assert said == ["a limit is not in force: memoryMB 60 is not supported on this system"]
        assert len(looks) == 1

    run(main())


def test_a_look_that_fails_is_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: list[Exception | int] = [100 * MIB, OSError("too many open files")]

    def look(_pgid: int) -> int:
        outcome = outcomes.pop()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(stdio_instance, "group_rss_bytes", look)

    async def main() -> None:
        with warnings() as said:
            async with session(
                tmp_path, limits_of_server=LimitSettings(memory_mb=60), ping_interval_seconds=0.01
            ) as bad:
                await bad.heard(InstanceRetiring)
        assert said == ["what the group uses could not be read: too many open files"]

    run(main())


@pytest.mark.parametrize(
    ("used", "sentence"),
    [
        (0, None),
        (100 * MIB, None),
        (100 * MIB + 1, "its processes use 101 MB of memory, and 100 MB are allowed"),
        (250 * MIB, "its processes use 250 MB of memory, and 100 MB are allowed"),
    ],
)
def test_the_sentence_names_what_is_used_and_what_is_allowed(used: int, sentence: str | None) -> None:
    assert complaint(used, allowed_mb=100) == sentence


def test_memory_is_looked_at_with_the_pings_and_also_without_them() -> None:
    pinged = ServerSpec(name=ServerName("s"), ping_interval_seconds=7.0)
    silent = ServerSpec(name=ServerName("s"), ping_interval_seconds=0.0)

    assert look_interval(pinged) == 7.0
    assert look_interval(silent) == INTERVAL_WITHOUT_PINGS


def test_other_limits_hold_for_the_processes_that_run(tmp_path: Path) -> None:
    async def main() -> None:
        with warnings() as said:
            async with session(tmp_path, limits_of_server=LimitSettings(open_files=128)) as bad:
                await bad.is_ready()
                spec = ServerSpec(
                    name=ServerName("bad"),
                    command="none",
                    limits=LimitSettings(open_files=64, cpu_seconds=100, nice=5),
                )

                bad.instance.tell(Respec(spec))

                await until(lambda: os.getpriority(os.PRIO_PROCESS, bad.pid) == 5)
                await until(lambda: resource.prlimit(bad.pid, resource.RLIMIT_NOFILE) == (64, 64))
                await until(lambda: resource.prlimit(bad.pid, resource.RLIMIT_CPU) == (100, 100))
        assert said == []

    run(main())
