"""Runs the program as its users do: a process, its streams and its exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from mcpv_node.cli.stop import wait_until_gone
from mcpv_node.node_file import NodeFileError, read_node_file

FAKE_SITE = Path(__file__).with_name("fake_site")

# Two interpreters and a wait for one another on a busy machine.
COMMAND_TIMEOUT = 30.0


def environment(state_dir: Path, **more: str) -> dict[str, str]:
    """Give an environment in which nothing of this user's is found, and the node is the stand-in."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MCPV_", "XDG_"))}
    own = {"HOME": str(state_dir), "MCPV_STATE_DIR": str(state_dir), "PYTHONPATH": str(FAKE_SITE)}
    return {**inherited, **own, **more}


def start_command(
    *arguments: str, state_dir: Path, cwd: Path | None = None, **more: str
) -> subprocess.Popen[bytes]:
    """Start `mcpv-node ARGUMENTS` with pipes for its streams."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "mcpv_node", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(state_dir, **more),
        cwd=cwd,
    )


def run_command(
    *arguments: str, state_dir: Path, stdin: bytes = b"", cwd: Path | None = None, **more: str
) -> subprocess.CompletedProcess[bytes]:
    """Run `mcpv-node ARGUMENTS` to its end."""
    with ended(start_command(*arguments, state_dir=state_dir, cwd=cwd, **more)) as process:
        out, err = process.communicate(stdin, timeout=COMMAND_TIMEOUT)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def type_command(*words: str, cwd: Path, env: Mapping[str, str], code: int, timeout: float) -> str:
    """Run a command of a real node as somebody at a terminal does; it ends as expected. Give all that it said."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "mcpv_node", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
        cwd=cwd,
        env=env,
    )
    assert done.returncode == code, (words, done.returncode, done.stdout)
    return done.stdout


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Have the process gone at the end, and its pipes closed."""
    try:
        yield process
    finally:
        process.kill()
        process.wait(COMMAND_TIMEOUT)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()


@contextmanager
def background_node_ended(state_dir: Path) -> Iterator[None]:
    """Have the node gone that a command left in the background on `state_dir`: it is nobody's child."""
    try:
        yield
    finally:
        with suppress(FileNotFoundError, NodeFileError, ProcessLookupError):
            node = read_node_file(state_dir)
            os.kill(node.pid, signal.SIGKILL)
            assert wait_until_gone(node, COMMAND_TIMEOUT)
