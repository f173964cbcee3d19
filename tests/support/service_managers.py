"""A service manager's ear: a real datagram socket, and the environment that names it."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mcpv_node.telemetry.notify import ServiceManager

from .processes import TIMEOUT

# More than any message of ours.
MESSAGE_SIZE = 8192

Message = dict[str, str]


class Ear:
    """What was heard, oldest first."""

    def __init__(self, receiver: socket.socket, address: str) -> None:
        self.address = address
        self.heard: list[Message] = []
        self._receiver = receiver

    def environ(self, *, watchdog: float | None = None, pid: int | None = None) -> dict[str, str]:
        """What the service manager puts into the environment of what it starts; `watchdog` in seconds."""
        said = {"NOTIFY_SOCKET": self.address}
        if watchdog is not None:
            said["WATCHDOG_USEC"] = str(int(watchdog * 1e6))
        if pid is not None:
            said["WATCHDOG_PID"] = str(pid)
        return said

    def manager(self, watchdog: float | None = None) -> ServiceManager:
        """What a node is told of it."""
        return ServiceManager(self.address, watchdog)

    def listen(self) -> list[Message]:
        """Take what has come by now; all that was heard so far."""
        while select.select([self._receiver], [], [], 0)[0]:
            self.heard.append(parse(self._receiver.recv(MESSAGE_SIZE)))
        return self.heard

    def until(self, is_it: Callable[[Message], bool], *, after: int = 0, timeout: float = TIMEOUT) -> int:
        """Wait for such a message among those from `after` on; its place."""
        deadline = time.monotonic() + timeout
        while True:
            for place, message in enumerate(self.listen()[after:], after):
                if is_it(message):
                    return place
            left = deadline - time.monotonic()
            assert left > 0, f"not heard: {self.heard}"
            select.select([self._receiver], [], [], left)

    def until_says(self, *, after: int = 0, timeout: float = TIMEOUT, **assignments: str) -> int:
        """Wait for a message with these assignments; its place."""

        def is_it(message: Mapping[str, str]) -> bool:
            return assignments.items() <= message.items()

        return self.until(is_it, after=after, timeout=timeout)


def parse(datagram: bytes) -> Message:
    """Read one message."""
    return dict(line.split("=", 1) for line in datagram.decode().splitlines())


@contextmanager
def listening_service_manager(folder: Path | None = None) -> Iterator[Ear]:
    """Listen at a path in `folder`, or without one at an abstract address."""
    name = "@mcpv-test-" + os.urandom(8).hex() if folder is None else str(folder / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind("\0" + name[1:] if folder is None else name)
        yield Ear(receiver, name)
