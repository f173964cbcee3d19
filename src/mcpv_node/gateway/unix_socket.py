"""A socket in the file system that only its user can open, and who is at its other end by the kernel's word."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import socket
import stat
import struct
import sys
from pathlib import Path

from .http_door import DoorError

# How long a socket that somebody left behind may take to refuse us (seconds); refusing needs nobody's help.
PROBE_BOUND = 1.0


def bind_unix(path: Path) -> socket.socket:
    """A socket at `path` that only its user can open. One that nobody answers on is replaced."""
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.bind(str(path))
        # Nobody can connect before it listens, so nobody comes in between.
        os.chmod(path, 0o600)
        listener.listen()
    except OSError as error:
        listener.close()
        why = "the path is too long for a socket" if error.errno is None else error.strerror
        raise DoorError(f"{path}: the line door cannot be opened: {why}") from error
    return listener


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise DoorError(f"{path}: there is something else where the line door should be")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_BOUND)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except OSError as error:
            # Full or slow, it is alive.
            if error.errno not in (errno.EAGAIN, errno.EINPROGRESS) and not isinstance(error, TimeoutError):
                raise DoorError(f"{path}: {error.strerror}") from error
    raise DoorError(f"{path}: another node answers there")


def peer_uid(transport: asyncio.BaseTransport) -> int | None:
    """Which user's process is at the other end, by the kernel's word; None where it does not say."""
    with _own_socket(transport) as connection:
        try:
            if sys.platform == "darwin":
                # struct xucred {u_int version; uid_t uid; ...}, with SOL_LOCAL 0 and LOCAL_PEERCRED 1.
                credentials = connection.getsockopt(0, 1, 76)
                return int(struct.unpack("=II", credentials[:8])[1])
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            return int(struct.unpack("3i", credentials)[1])
        except OSError:
            return None


def is_hung_up(transport: asyncio.BaseTransport) -> bool:
    """Whether the other end is closed in both directions: nobody will read there any more."""
    with _own_socket(transport) as connection:
        poll = select.poll()
        poll.register(connection, select.POLLOUT)
        return any(events & (select.POLLHUP | select.POLLERR) for _, events in poll.poll(0))


def _own_socket(transport: asyncio.BaseTransport) -> socket.socket:
    """The transport's socket under a descriptor of our own: a transport lends its own to nobody."""
    return socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
