"""Starting a node that outlives the command which starts it.

The node runs in a session of its own, in `/`, with `<stateDir>/node.log` as its output; nothing of the caller's
stays open in it. It reports through a pipe: one line when it is ready, or the pipe's end when it failed, which is
seen at once. Nobody is left to reap: whoever starts a node here ends soon, or runs the command that does.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from mcpv_node.node_file import LOG_NAME, NodeFile, parse_node_file
from mcpv_node.service.node_process import node_program
from mcpv_node.telemetry.clock import SystemClock
from mcpv_node.telemetry.notify import without_service_manager

# Ready means that the tree is up; what a killed node left may have to be reaped first. More is a fault.
START_BOUND = 60.0

# A node that is not ready in time is asked to end, and its guard then ends the rest; after this it is killed.
END_BOUND = 10.0

# `start --detach` ends by itself within the two bounds; the rest is for its own imports on a busy machine.
COMMAND_BOUND = START_BOUND + END_BOUND + 10.0

_LOG_MODE = 0o600

# What is said of a failed start: the end of what it logged.
_SHOWN_LINES = 5
_SHOWN_BYTES = 64 * 1024


class StartFailed(Exception):
    """The node did not become ready: why, all the problems of a configuration, and its exit code."""

    def __init__(self, message: str, problems: tuple[dict[str, Any], ...], code: int) -> None:
        super().__init__(message)
        self.message = message
        self.problems = problems
        self.code = code


def start_detached(state_dir: Path, options: list[str]) -> NodeFile:
    """Start `mcpv-node start OPTIONS` in the background; return how to reach it once it is ready."""
    log_path = state_dir / LOG_NAME
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, _LOG_MODE)
    begin = os.fstat(log).st_size
    ready_read, ready_write = os.pipe()
    try:
        node = subprocess.Popen(
            [*node_program(), "start", "--json", *options, "--ready-fd", str(ready_write)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(ready_write,),
            # A service manager that started the caller is not this node's, which outlives it.
            env=without_service_manager(os.environ),
            start_new_session=True,
            # Not the caller's folder, which may be on a disk that somebody wants to unmount.
            cwd="/",
        )
    finally:
        os.close(log)
        os.close(ready_write)
    try:
        line = _read_line(ready_read)
    finally:
        os.close(ready_read)
    if line is None:
        _end(node)
        raise StartFailed(
            f"the node was not ready within {START_BOUND:.0f} s and has been stopped; {log_path} tells more",
            (),
            1,
        )
    if not line:
        code = _wait(node)
        message, problems = _last_words(log_path, begin)
        raise StartFailed(message, problems, code if code in (1, 2, 3) else 1)
    # It runs on and is init's once we end; without a code the library would warn that nobody waited for it.
    node.returncode = 0
    return parse_node_file(line)


def run_detached_start(state_dir: str, *, linger: float) -> int:
    """Run `mcpv-node start --detach` as a command of its own; return its exit code.

    For callers that live long: the node becomes init's child, so that none of them ever has a zombie.
    """
    command = [*node_program(), "start", "--detach", "--linger", f"{linger:g}", "--state-dir", state_dir]
    # stdin and stdout are the client's.
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as starting:
        try:
            return starting.wait(COMMAND_BOUND)
        except subprocess.TimeoutExpired:
            starting.kill()
            return 1


def _read_line(descriptor: int) -> bytes | None:
    """Read up to a line's end or the pipe's (then: nothing); None when the bound has passed."""
    clock = SystemClock()
    deadline = clock.monotonic() + START_BOUND
    received = b""
    while not received.endswith(b"\n"):
        left = deadline - clock.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            return None
        chunk = os.read(descriptor, 64 * 1024)
        if not chunk:
            return b""
        received += chunk
    return received


def _end(node: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        # Its own session is its own group, and nothing else is in it: servers have groups of their own.
        with suppress(ProcessLookupError):
            os.killpg(node.pid, number)
        with suppress(subprocess.TimeoutExpired):
            node.wait(END_BOUND)
            return


def _wait(node: subprocess.Popen[bytes]) -> int:
    """Give the exit code of a node that has closed its pipe, and so is about to end."""
    try:
        return node.wait(END_BOUND)
    except subprocess.TimeoutExpired:
        _end(node)
        return 1


def _last_words(log_path: Path, begin: int) -> tuple[str, tuple[dict[str, Any], ...]]:
    """Find why a start failed in what it wrote: its error object, else its last lines."""
    try:
        with open(log_path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            # A node whose log was long enough has begun a new one.
            file.seek(max(begin if begin <= size else 0, size - _SHOWN_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError as error:
        return f"the node ended during its start, and its log cannot be read: {error}", ()
    for line in reversed(lines):
        said = _error_object(line)
        if said is not None:
            return said
    shown = "\n".join(lines[-_SHOWN_LINES:]) or "it said nothing"
    return f"the node ended during its start; {log_path} ends with:\n{shown}", ()


def _error_object(line: str) -> tuple[str, tuple[dict[str, Any], ...]] | None:
    try:
        value: Any = json.loads(line)
    except ValueError:
        return None
    # A log line has an error, too: the traceback, beside its level.
    if not isinstance(value, dict) or "error" not in value or "level" in value:
        return None
    said = cast("dict[str, Any]", value)
    return str(said["error"]), tuple(said.get("problems", ()))
