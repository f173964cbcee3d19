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
    """Give a function that waits so many seconds for a key; without a terminal to read from, it only waits.

    SIGINT and SIGTERM are a KeyboardInterrupt at once, and where that was lost, in a finalizer for one, at the next key.
    """
    is_interrupted = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_interrupted
        is_interrupted = True
        raise KeyboardInterrupt

    def next_key(seconds: float) -> str | None:
        if is_interrupted:
            raise KeyboardInterrupt
        if descriptor is None:
            time.sleep(seconds)
            return None
        return _next_key(descriptor, seconds)

    descriptor = sys.stdin.fileno() if sys.stdin.isatty() else None
    before = None if descriptor is None else termios.tcgetattr(descriptor)
    handlers = [(number, signal.signal(number, interrupt)) for number in (signal.SIGINT, signal.SIGTERM)]
    try:
        if descriptor is not None:
            tty.setcbreak(descriptor)
        yield next_key
    finally:
        if descriptor is not None and before is not None:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        for number, handler in handlers:
            signal.signal(number, handler)


def _next_key(descriptor: int, seconds: float) -> str | None:
    if not select.select([descriptor], [], [], seconds)[0]:
        return None
    data = os.read(descriptor, _READ_BYTES)
    if not data:
        # The terminal has gone.
        raise KeyboardInterrupt
    return _ESCAPES.get(data, data[:1].decode(errors="replace"))
