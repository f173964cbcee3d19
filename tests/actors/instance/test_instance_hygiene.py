"""However an instance ends, nothing of it is left: not behind wrappers, not in a session of its own."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from support.children import BADSERVER
from support.owners import run, until
from support.processes import alive, group_members
from support.sessions import Session, session

from mcpv_node.actors.instance.messages import InstanceExited, InstanceRetiring, StopInstance


def behind_wrappers(log: Path, **knobs: object) -> dict[str, Any]:
    """As npx does it: a launcher starts a shell, which starts the server; all of them stay."""
    server = f"{sys.executable} -S {BADSERVER}"
    env = {"SPAWN_LOG": str(log), **{name: str(value) for name, value in knobs.items()}}
    return {"command": "sh", "args": ("-c", f"sh -c '{server}; exit $?'; exit $?"), "env": env}


def server_pid(bad: Session) -> int:
    return int(bad.said("initialize")[0].split()[0])


@pytest.mark.parametrize("knobs", [{}, {"IGNORE_STDIN_EOF": 1}, {"IGNORE_STDIN_EOF": 1, "IGNORE_TERM": 1}])
def test_a_chain_of_wrappers_ends_whole_when_it_is_asked_to(tmp_path: Path, knobs: dict[str, int]) -> None:
    async def main() -> None:
        wrapped = behind_wrappers(tmp_path / "spawn.log", **knobs)
        async with session(tmp_path, stop_grace_seconds=0.3, **wrapped) as bad:
            await bad.is_ready()
            assert len(group_members(bad.pid)) == 3

            assert (await bad.stopped()).asked

            await bad.is_gone()
            assert not alive(server_pid(bad))

    run(main())


@pytest.mark.parametrize("victim", ["launcher", "server"])
def test_a_chain_of_wrappers_ends_whole_when_one_of_it_is_killed(tmp_path: Path, victim: str) -> None:
    async def main() -> None:
        wrapped = behind_wrappers(tmp_path / "spawn.log", IGNORE_STDIN_EOF=1, IGNORE_TERM=1)
        async with session(tmp_path, stop_grace_seconds=0.05, **wrapped) as bad:
            await bad.is_ready()

            os.kill(bad.pid if victim == "launcher" else server_pid(bad), signal.SIGKILL)

            assert not (await bad.heard(InstanceExited)).asked
            await bad.is_gone()
            assert not alive(server_pid(bad))

    run(main())


@pytest.mark.parametrize("end", ["crash", "kill", "term", "silence", "failed start", "actor"])
def test_what_left_the_group_is_ended_too_unless_the_server_ended_as_asked(tmp_path: Path, end: str) -> None:
    knobs: dict[str, dict[str, Any]] = {
        "term": {"IGNORE_STDIN_EOF": 1},
        "silence": {
            "PING_BLOCK": 1,
            "ping_interval_seconds": 0.05,
            "ping_timeout_seconds": 0.05,
            "IGNORE_STDIN_EOF": 1,
        },
        "failed start": {"HANG_HANDSHAKE": 1, "start_timeout_seconds": 0.5, "IGNORE_STDIN_EOF": 1},
    }

    async def main() -> None:
        async with session(
            tmp_path, SETSID_GRANDCHILD=1, stop_grace_seconds=0.2, **knobs.get(end, {})
        ) as bad:
            await until(lambda: bad.said("initialize"))
            escapee = int(bad.said("grandchild")[0].split()[-1])
            if end != "failed start":
                await bad.is_ready()
            assert os.getpgid(escapee) != bad.pid

            match end:
                case "crash":
                    await bad.call("crash", code=3)
                case "kill":
                    os.kill(bad.pid, signal.SIGKILL)
                case "term":
                    bad.instance.tell(StopInstance("idle"))
                case "silence":
                    await bad.heard(InstanceRetiring)
                case "actor":
                    os.kill(bad.pid, signal.SIGSTOP)  # it cannot end as asked
                    bad.instance.kill("enough")

            await bad.is_gone()
            await until(lambda: not alive(escapee))

    run(main())
