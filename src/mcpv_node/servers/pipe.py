"""Runs a server session over standard input and output, until the input ends.

Blocking reads on purpose: a server that answers in microseconds needs no event loop, and starts faster without.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Final

from mcpv_node.protocol import (
    PARSE_ERROR,
    Line,
    LineFramer,
    Overlong,
    ServerSession,
    encode_failure,
    guess_id,
)

# No request to these servers has a reason to be larger.
LINE_BYTES: Final = 1 << 20
_CHUNK: Final = 1 << 16


def serve(session: ServerSession) -> int:
    """Answer line by line; the exit code is 0 once the client has closed its end."""
    # An interrupt from the terminal ends the program without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    framer = LineFramer(LINE_BYTES)
    try:
        while chunk := os.read(sys.stdin.fileno(), _CHUNK):
            for event in framer.feed(chunk):
                _write(_answers(session, event))
    except BrokenPipeError:
        # Nobody reads the answers any more; flushing the rest at exit would fail once again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _answers(session: ServerSession, event: Line | Overlong) -> list[bytes]:
    if isinstance(event, Line):
        return session.receive(event.data)
    message = f"a line of {event.size} bytes is longer than {LINE_BYTES}"
    return [encode_failure(guess_id(event.head), code=PARSE_ERROR, message=message)]


def _write(lines: list[bytes]) -> None:
    for line in lines:
        sys.stdout.buffer.write(line + b"\n")
    sys.stdout.buffer.flush()
