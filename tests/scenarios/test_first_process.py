"""A node as the first process of a container: orphans are waited for, and SIGTERM is heard.

In a PID namespace of its own where the system lets us make one; else as the process that orphans are given to.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.nodes import START_TIMEOUT, STOP_TIMEOUT, BadServer, environment, log_path
from support.processes import TIMEOUT, alive, process_census, wait_until

# Becomes the process that orphans are given to, and then the command: that survives the exec.
AS_SUBREAPER = "import ctypes, os, sys; assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0; os.execv(sys.argv[1], sys.argv[1:])"

# A server that leaves an orphan behind at each start, which ends at once.
LEAVES_ORPHANS = """
import os, subprocess, sys
if os.fork() == 0:
    if os.fork() == 0:
        os.close(0), os.close(1), os.close(2)
        os.setsid()
    os._exit(0)
os.wait()
os.execv(sys.argv[1], sys.argv[1:])
"""


def in_namespace() -> list[str]:
    """The words before a command that make it the first process of a PID namespace; none where we may not."""
    words = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    with suppress(OSError):
        tried = subprocess.run([*words, "true"], capture_output=True, timeout=TIMEOUT, check=False)
        if tried.returncode == 0:
            return words
    return []


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children_of(parent: int) -> list[int]:
    """Every child of a process, also one that has ended."""
    found: list[int] = []
    for name in os.listdir("/proc"):
        with suppress(OSError):
            if name.isdigit() and parent_of(int(name)) == parent:
                found.append(int(name))
    return found


class FirstProcess:
    """What was started, and the process id by which we see it."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes], *, is_inside: bool) -> None:
        self.folder = folder
        self.process = process
        self._is_inside = is_inside

    @property
    def pid(self) -> int:
        return children_of(self.process.pid)[0] if self._is_inside else self.process.pid

    def until_ready(self) -> dict[str, object]:
        assert self.process.stdout is not None
        assert select.select([self.process.stdout], [], [], START_TIMEOUT)[0], log_path(
            self.folder
        ).read_text()
        line = self.process.stdout.readline()
        assert line, log_path(self.folder).read_text()
        ready: dict[str, object] = json.loads(line)
        return ready

    def zombies(self) -> list[int]:
        """Its children that have ended, and that nobody has waited for."""
        return [pid for pid in children_of(self.pid) if not alive(pid)]


@contextmanager
def first_process(folder: Path, *options: str, entry: dict[str, object]) -> Iterator[FirstProcess]:
    """Have a node that receives orphans."""
    config = folder / "node.yaml"
    config.write_text(json.dumps({"bootstrapMode": "disabled", "servers": [entry]}))
    words = [sys.executable, "-P", "-m", "mcpv_node", "start", "--json", "--config", str(config)]
    words += ["--state-dir", str(folder / "state"), "--http", "127.0.0.1:0", *options]
    namespace = in_namespace()
    before = namespace or [sys.executable, "-S", "-c", AS_SUBREAPER]
    with log_path(folder).open("ab") as log:
        process = subprocess.Popen(
            [*before, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment(folder),
            cwd=folder,
        )
    try:
        yield FirstProcess(folder, process, is_inside=bool(namespace))
    finally:
        process.kill()
        process.wait(STOP_TIMEOUT)
        assert process.stdout is not None
        process.stdout.close()
        assert wait_until(lambda: not any(str(folder) in _command(pid) for pid in process_census()))


def leaving_orphans(bad: BadServer) -> dict[str, object]:
    """An entry whose every start leaves an orphan behind."""
    return bad.entry(
        command=sys.executable,
        args=["-S", "-c", LEAVES_ORPHANS, str(bad.script)],
        activationMode="always-on",
        stopGraceSeconds=0.3,
    )


def waited_for(log: Path) -> int:
    """How many orphans were waited for, in one look or several."""
    said = re.findall(r"orphans that had ended: ([0-9, ]+)", log.read_text())
    return sum(len(numbers.split(",")) for numbers in said)


@pytest.mark.parametrize("options", [(), ("--supervised",)], ids=["alone", "supervised"])
def test_orphans_are_waited_for_and_our_own_keep_their_exit_codes(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    bad = BadServer(tmp_path, "bad")
    with first_process(tmp_path, "--log-level", "debug", *options, entry=leaving_orphans(bad)) as first:
        first.until_ready()
        bad.until_told("initialize")

        # It is started again: one orphan more.
        server = next(pid for pid in process_census() if f"SPAWN_LOG={bad.spawn_log}" in _command(pid))
        os.kill(server, signal.SIGKILL)
        bad.until_told("initialize", times=2)

        log = log_path(tmp_path)
        assert wait_until(lambda: waited_for(log) == 2)
        assert wait_until(lambda: first.zombies() == [])
        assert "bad-1 (was ended by signal 9)" in log.read_text()


@pytest.mark.parametrize("options", [(), ("--supervised",)], ids=["alone", "supervised"])
def test_it_hears_sigterm_and_ends_with_0(tmp_path: Path, options: tuple[str, ...]) -> None:
    bad = BadServer(tmp_path, "bad")
    with first_process(tmp_path, *options, entry=bad.entry()) as first:
        first.until_ready()

        os.kill(first.pid, signal.SIGTERM)

        assert first.process.wait(STOP_TIMEOUT) == 0
        assert not (tmp_path / "state" / "node.json").exists()


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""
