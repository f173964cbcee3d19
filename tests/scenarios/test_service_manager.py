"""A real node and a service manager's ear: what it is told, when, and by whom."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.embedded import options, run, running, until
from support.nodes import BadServer, Node, refused_start, running_node
from support.service_managers import Ear, listening_service_manager

from mcpv_node.node import NodeOptions

# Seconds; a sign of life is due at half of it.
WATCHDOG = 2.0


@pytest.fixture
def ear(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Ear]:
    """The environment of what the test starts names it."""
    with listening_service_manager(tmp_path) as listening:
        for name, value in listening.environ(watchdog=WATCHDOG).items():
            monkeypatch.setenv(name, value)
        yield listening


def edit(node: Node, **settings: object) -> None:
    """Change the node's configuration, in one step."""
    beside = node.folder / "node.yaml.new"
    beside.write_text(json.dumps({"servers": [], **settings}))
    beside.replace(node.folder / "node.yaml")


def test_it_says_that_it_is_ready_when_it_is_and_at_last_that_it_stops(ear: Ear, tmp_path: Path) -> None:
    with running_node(tmp_path, []) as node:
        place = ear.until_says(READY="1", MAINPID=str(node.pid))
        assert place == 0
        assert ear.heard[0]["STATUS"] == f"serving at {node.url}"
        assert node.send("GET", "/readyz").body() == b'{"status":"ok"}'
        ear.until_says(STATUS=f"serving at {node.url}; 0 servers: 0 ready")

        assert node.stop() == 0

        ear.until_says(STOPPING="1")
        assert "STOPPING" in ear.listen()[-1]


def test_it_gives_signs_of_life_while_all_is_well(ear: Ear, tmp_path: Path) -> None:
    with running_node(tmp_path, []):
        first = ear.until_says(WATCHDOG="1")
        ear.until_says(WATCHDOG="1", after=first + 1)


def test_every_reload_is_told_whoever_asked_for_it(ear: Ear, tmp_path: Path) -> None:
    with running_node(tmp_path, []) as node:
        place = ear.until_says(READY="1")

        def reloaded(after: int) -> int:
            began = ear.until_says(RELOADING="1", after=after)
            assert int(ear.heard[began]["MONOTONIC_USEC"]) > 0
            return ear.until_says(READY="1", after=began)

        node.process.send_signal(signal.SIGHUP)
        place = reloaded(place)

        assert node.rest("POST", "reload")[0] == 200
        place = reloaded(place)

        # The file alone, seen within a second or so.
        edit(node, clientInactiveSeconds=299)
        reloaded(place)


def test_a_configuration_that_is_rejected_stands_in_the_status(ear: Ear, tmp_path: Path) -> None:
    with running_node(tmp_path, []) as node:
        edit(node, noSuchKey=1)

        ear.until(lambda message: "the configuration is not good" in message.get("STATUS", ""))


def test_a_server_that_fails_is_counted_in_the_status(ear: Ear, tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    entry = bad.entry(activationMode="always-on", restart={"maxRetries": 0})
    with running_node(tmp_path, [entry]) as node:
        ear.until_says(STATUS=f"serving at {node.url}; 1 server: 1 ready")

        os.kill(node.pids(bad)[0], signal.SIGKILL)

        ear.until_says(STATUS=f"serving at {node.url}; 1 server: 0 ready, 1 failed")


def test_nobody_whom_the_node_starts_can_speak_in_its_name(ear: Ear, tmp_path: Path) -> None:
    bad = BadServer(tmp_path, "bad")
    with running_node(tmp_path, [bad.entry(activationMode="always-on")]) as node:
        bad.until_told("initialize")

        for pid in (node.guard, *bad.starts()):
            environ = Path(f"/proc/{pid}/environ").read_bytes()
            assert b"NOTIFY_SOCKET" not in environ
            assert b"WATCHDOG_" not in environ


def test_a_node_that_cannot_start_never_says_that_it_is_ready(ear: Ear, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")

    code, _ = refused_start(tmp_path)

    assert code == 1
    assert not any("READY" in message for message in ear.listen())


def test_a_loop_that_is_stuck_gives_no_sign_of_life(tmp_path: Path) -> None:
    with listening_service_manager() as ear:

        async def main() -> None:
            given = options(tmp_path, bootstrapMode="disabled")
            told = NodeOptions(
                settings=given.settings,
                config_path=given.config_path,
                state_dir=given.state_dir,
                environ=given.environ,
                service_manager=ear.manager(watchdog=0.02),
            )
            async with running(told):
                await until(lambda: any("WATCHDOG" in message for message in ear.listen()))
                place = len(ear.listen())

                # On the loop's own thread, and for many times as long as a sign of life may take.
                threading.Event().wait(0.5)

                assert len(ear.listen()) == place
                await until(lambda: any("WATCHDOG" in message for message in ear.listen()[place:]))

        run(main)
