"""The real servers that the scenarios rely on can be installed and speak MCP."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.real_servers import (
    InstallError,
    everything_argv,
    filesystem_argv,
    install,
    memory_argv,
    time_argv,
)

# Node needs about a second to start on a busy machine; a server that does not answer at all is our concern.
ANSWER_TIMEOUT = 60.0

INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "house", "version": "1"},
    },
}


def handshake(argv: list[str]) -> dict[str, object]:
    """Send `initialize` to the server, then close its stdin; return its answer."""
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps(INITIALIZE) + "\n")
        server.stdin.flush()
        answer: dict[str, object] = json.loads(server.stdout.readline())
        server.stdin.close()
        try:
            server.wait(ANSWER_TIMEOUT)
        finally:
            server.kill()
    return answer


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("argv", [everything_argv, filesystem_argv, memory_argv, time_argv])
def test_a_real_server_answers_the_handshake(argv: Callable[..., list[str]], tmp_path: Path) -> None:
    command = argv(tmp_path) if argv is filesystem_argv else argv()

    assert "protocolVersion" in str(handshake(command)["result"])


def test_an_installed_server_is_not_installed_again(tmp_path: Path) -> None:
    installed: list[str] = []

    for _ in range(2):
        install(tmp_path / "server", "server==1", lambda _folder, spec: installed.append(spec))

    assert installed == ["server==1"]


def test_another_version_replaces_the_installed_one(tmp_path: Path) -> None:
    def leave_a_file(folder: Path, spec: str) -> None:
        (folder / spec).touch()

    install(tmp_path / "server", "server==1", leave_a_file)
    install(tmp_path / "server", "server==2", leave_a_file)

    assert not (tmp_path / "server" / "server==1").exists()
    assert (tmp_path / "server" / "server==2").exists()


def test_a_failed_installation_is_tried_again(tmp_path: Path) -> None:
    def fail(folder: Path, spec: str) -> None:
        (folder / "half").touch()
        raise InstallError(spec)

    with pytest.raises(InstallError):
        install(tmp_path / "server", "server==1", fail)

    installed = install(tmp_path / "server", "server==1", lambda _folder, _spec: None)
    assert not (installed / "half").exists()
