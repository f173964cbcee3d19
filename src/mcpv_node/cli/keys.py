"""Single keys from a terminal, without Enter. The terminal is as it was when the block ends, however it ends."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

# What the arrow keys and their neighbours send.
_ESCAPES = {
    b"\x1b[A": "up",
    b"\x1bOA": "up",
    b"\x1b[B": "down",
    b"\x1bOB": "down",
    b"\x1b[5~": "page-up",
    b"\x1b[6~": "page-down",
    b"\x1b": "escape",
}

# The longest of them, and as much as anybody types between two frames.
_READ_BYTES = 64

NextKey = Callable[[float], str | None]


@contextmanager
def reading_keys() -> Generator[NextKey]:
    """Give a function that waits so many seconds for a key; without a terminal to read from, it only waits."""
    if not sys.stdin.isatty():
        yield _wait
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    on_term = signal.signal(signal.SIGTERM, _interrupt)
    try:
        tty.setcbreak(descriptor)
        yield lambda seconds: _next_key(descriptor, seconds)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        signal.signal(signal.SIGTERM, on_term)


def _wait(seconds: float) -> None:
    time.sleep(seconds)


def _next_key(descriptor: int, seconds: float) -> str | None:
    if not select.select([descriptor], [], [], seconds)[0]:
        return None
    data = os.read(descriptor, _READ_BYTES)
    if not data:
        # The terminal has gone.
        raise KeyboardInterrupt
    return _ESCAPES.get(data, data[:1].decode(errors="replace"))


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
