"""What a service manager is told, over real datagram sockets."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from support.service_managers import listening_service_manager

from mcpv_node.telemetry.notify import (
    STATUS_LENGTH,
    ServiceManager,
    encode,
    take_service_manager,
    without_service_manager,
)

ME = 4711


@pytest.mark.parametrize("is_abstract", [False, True])
def test_a_message_arrives_at_a_path_and_at_an_abstract_address(tmp_path: Path, is_abstract: bool) -> None:
    with listening_service_manager(None if is_abstract else tmp_path) as ear:
        ear.manager().tell(READY=1, STATUS="serving")

        assert ear.listen() == [{"READY": "1", "STATUS": "serving"}]


def test_each_message_is_one_datagram(tmp_path: Path) -> None:
    with listening_service_manager(tmp_path) as ear:
        ear.manager().tell(WATCHDOG=1)
        ear.manager().tell(STOPPING=1)

        assert ear.listen() == [{"WATCHDOG": "1"}, {"STOPPING": "1"}]


def test_a_service_manager_that_is_gone_is_an_error_to_the_teller(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ServiceManager(str(tmp_path / "nobody")).tell(READY=1)


def test_one_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    def tell_for_ever(manager: ServiceManager) -> None:
        while True:
            manager.tell(WATCHDOG=1)

    # The socket of one that never reads is soon full.
    with listening_service_manager(tmp_path) as ear, pytest.raises(BlockingIOError):
        tell_for_ever(ear.manager())


def test_a_text_cannot_begin_a_line_of_its_own() -> None:
    assert encode({"STATUS": "a\nMAINPID=1\r\n  b"}) == b"STATUS=a MAINPID=1 b"


def test_a_long_text_is_cut() -> None:
    assert encode({"STATUS": "x" * 10_000}) == b"STATUS=" + b"x" * STATUS_LENGTH


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"NOTIFY_SOCKET": ""}, None),
        ({"NOTIFY_SOCKET": "/"}, None),
        ({"NOTIFY_SOCKET": "vsock:2:1234"}, None),
        ({"NOTIFY_SOCKET": "relative/path"}, None),
        ({"NOTIFY_SOCKET": "/run/notify"}, ServiceManager("/run/notify")),
        ({"NOTIFY_SOCKET": "@name"}, ServiceManager("@name")),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "30000000"}, ServiceManager("@n", 30.0)),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "5", "WATCHDOG_PID": "4711"}, ServiceManager("@n", 5e-6)),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "5", "WATCHDOG_PID": "1"}, ServiceManager("@n")),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "0"}, ServiceManager("@n")),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "-5"}, ServiceManager("@n")),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "soon"}, ServiceManager("@n")),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "9" * 400}, ServiceManager("@n")),
        ({"WATCHDOG_USEC": "30000000"}, None),
    ],
)
def test_the_environment_says_who_listens(environ: dict[str, str], expected: ServiceManager | None) -> None:
    given = {**environ, "PATH": "/bin"}

    assert take_service_manager(given, pid=ME) == expected
    # It is taken: what is started later does not speak for us.
    assert given == {"PATH": "/bin"}


def test_another_process_gets_none_of_it() -> None:
    environ = {"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1", "PATH": "/bin"}

    assert without_service_manager(environ) == {"PATH": "/bin"}


def test_telling_leaves_no_descriptor_open(tmp_path: Path) -> None:
    with listening_service_manager(tmp_path) as ear:
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(10):
            ear.manager().tell(WATCHDOG=1)

        assert len(os.listdir("/proc/self/fd")) == before


def test_a_path_that_no_socket_can_have_is_an_error_to_the_teller() -> None:
    with pytest.raises(OSError, match="too long"):
        ServiceManager("/" + "x" * 200).tell(READY=1)


def test_the_socket_is_not_left_to_children() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ours:
        assert not ours.get_inheritable()
