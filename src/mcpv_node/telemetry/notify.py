"""What a service manager is told: the protocol of sd_notify(3), one datagram for each message.

The service manager hands an address to the process it starts, in `$NOTIFY_SOCKET`, and how often it wants to hear
that all is well, in `$WATCHDOG_USEC`. They are for that one process: `take_service_manager` takes them out of the
environment, so that nobody who is started later speaks in its name.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Protocol

SOCKET_VARIABLE = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE = "WATCHDOG_USEC"
WATCHDOG_PID_VARIABLE = "WATCHDOG_PID"

VARIABLES = (SOCKET_VARIABLE, WATCHDOG_VARIABLE, WATCHDOG_PID_VARIABLE)

# A status is one line of `systemctl status`; what is longer is cut where nobody reads on.
STATUS_LENGTH = 300


class Listener(Protocol):
    """Who wants to hear how a node stands, and how soon after one sign of life the next (seconds; None: never)."""

    @property
    def address(self) -> str: ...

    @property
    def watchdog(self) -> float | None: ...

    def tell(self, **assignments: str | int) -> None:
        """Send one message: `tell(READY=1, STATUS="serving")`. Never waits; raises OSError when it cannot be sent."""
        ...


@dataclass(frozen=True, slots=True)
class ServiceManager:
    """Where a service manager listens, and how soon after one sign of life it wants the next (seconds)."""

    # A path, or "@" and a name: an abstract socket.
    address: str
    # None: it does not watch.
    watchdog: float | None = None

    def tell(self, **assignments: str | int) -> None:
        address = "\0" + self.address[1:] if self.address.startswith("@") else self.address
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(encode(assignments), address)


@dataclass(frozen=True, slots=True)
class SupervisorPipe:
    """The write end of a pipe to a supervisor of our own: the same messages, as lines. It must not block."""

    descriptor: int
    watchdog: float | None = None

    @property
    def address(self) -> str:
        return "the other end of a pipe"

    def tell(self, **assignments: str | int) -> None:
        os.write(self.descriptor, encode(assignments) + b"\n")


def encode(assignments: Mapping[str, str | int]) -> bytes:
    """Write a message; what would begin a line of its own, or be too long for one, does not."""
    lines = (f"{name}={' '.join(str(value).split())[:STATUS_LENGTH]}" for name, value in assignments.items())
    return "\n".join(lines).encode()


def take_service_manager(environ: MutableMapping[str, str], *, pid: int) -> ServiceManager | None:
    """Take what the environment says of a service manager out of it; None where nobody listens.

    An address of a kind that is not known (`vsock:...`) is nobody's, and a watch over another process none.
    """
    said = {name: environ.pop(name, "") for name in VARIABLES}
    address = said[SOCKET_VARIABLE]
    if address[:1] not in ("/", "@") or len(address) < 2:
        return None
    is_for_us = said[WATCHDOG_PID_VARIABLE] in ("", str(pid))
    return ServiceManager(address, _seconds(said[WATCHDOG_VARIABLE]) if is_for_us else None)


def without_service_manager(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that the service manager does not know."""
    return {name: value for name, value in environ.items() if name not in VARIABLES}


def _seconds(microseconds: str) -> float | None:
    if not (microseconds.isascii() and microseconds.isdigit()) or len(microseconds) > 18:
        return None
    return int(microseconds) / 1e6 or None
