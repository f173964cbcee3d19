"""A node under its own supervisor, as real processes: what both say, what they are, and what is left of them."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mcpv_node.node_file import NodeFileError, read_node_file

from .embedded import guards
from .nodes import START_TIMEOUT, STOP_TIMEOUT, log_path, spawn_node
from .processes import alive, marked, wait_until

Json = dict[str, Any]


class SupervisedNode:
    """The supervisor's process, and what it has said so far."""

    def __init__(self, folder: Path, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.process = process
        self.ready: Json = {}
        self._buffered = b""

    @property
    def pid(self) -> int:
        """The node's process, of the last start."""
        return int(self.ready["pid"])

    def until_ready(self) -> Json:
        """Wait for the next start that succeeds."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + START_TIMEOUT
        while b"\n" not in self._buffered:
            left = deadline - time.monotonic()
            assert left > 0, f"not ready:\n{self.log()}"
            if select.select([self.process.stdout], [], [], left)[0]:
                piece = os.read(self.process.stdout.fileno(), 65536)
                assert piece, f"it ended {self.process.wait(STOP_TIMEOUT)}:\n{self.log()}"
                self._buffered += piece
        line, _, self._buffered = self._buffered.partition(b"\n")
        self.ready = json.loads(line)
        return self.ready

    def kill_node(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """Wait for the supervisor's end; its exit code."""
        return self.process.wait(STOP_TIMEOUT)

    def log(self) -> str:
        """What supervisor and node wrote."""
        return log_path(self.folder).read_text(errors="replace")

    def told(self) -> list[str]:
        """The supervisor's own lines."""
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line["message"] for line in lines if line.get("process") == "supervisor"]

    def left(self) -> list[int]:
        """What runs of it: the node, its guard, its servers."""
        return left_on(self.state_dir)

    def is_all_gone(self) -> bool:
        """Wait until nothing of it runs any more."""
        return wait_until(lambda: not self.left())


def left_on(state_dir: Path) -> list[int]:
    """What runs of any node on this folder."""
    pids = set(guards(state_dir))
    with suppress(FileNotFoundError, NotADirectoryError):
        pids.update(marked((state_dir / "node.id").read_text().strip() + "/"))
    with suppress(FileNotFoundError, NodeFileError):
        node = read_node_file(state_dir)
        if alive(node.pid):
            pids.add(node.pid)
    return sorted(pids)


@contextmanager
def supervised(
    folder: Path, servers: Sequence[Mapping[str, Any]] = (), *options: str, **settings: Any
) -> Iterator[SupervisedNode]:
    """Have a node under a supervisor, ready; at the end nothing of it is left, whatever the test did."""
    given = {"bootstrapMode": "disabled", **settings, "servers": list(servers)}
    (folder / "node.yaml").write_text(json.dumps(given))
    with ended_at_last(SupervisedNode(folder, spawn_node(folder, "--supervised", *options))) as node:
        node.until_ready()
        yield node


@contextmanager
def ended_at_last(node: SupervisedNode) -> Iterator[SupervisedNode]:
    """End it at last; what is left then is a failure, and ended too."""
    finished = False
    try:
        yield node
        if node.process.poll() is None:
            node.process.terminate()
            assert node.wait() == 0, node.log()
        finished = True
    finally:
        node.process.kill()
        node.process.wait(STOP_TIMEOUT)
        assert node.process.stdout is not None
        node.process.stdout.close()
        gone = node.is_all_gone()
        left = node.left()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if finished:
            assert gone, f"{left} are left:\n{node.log()}"
        else:
            print(node.log()[-8000:])
