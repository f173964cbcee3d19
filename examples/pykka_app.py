"""A pykka application with two nodes and an actor that hears what happens in both.

.venv/bin/python examples/pykka_app.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import pykka
from loguru import logger

from mcpv_node import CallTool, NodeActor, NodeDown, ServerEvent, SnapshotChanged, Subscribe

# The servers of a node without a configuration of its own: clock and notes.
CONFIG = Path(__file__).parent.parent / "config" / "runtime.yaml"


def say(line: str) -> None:
    """In one piece, for two threads say something here."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


class Listener(pykka.ThreadingActor):
    """Says what it is told."""

    def on_receive(self, message: Any) -> None:
        match message:
            case ServerEvent(kind="server_state"):
                say(f"{message.server} is {message.to}")
            case SnapshotChanged():
                say(f"the list of {message.kind} has version {message.version}")
            case NodeDown():
                say(f"a node has ended: {message.reason}")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="mcpv-") as folder:
        listener = Listener.start()
        nodes = [
            # Each on a thread, a state folder and a port of its own.
            NodeActor.start(CONFIG, state_dir=Path(folder, name), http="127.0.0.1:0")
            for name in ("one", "two")
        ]
        for node in nodes:
            node.tell(Subscribe("tools", subscriber=listener))
            node.tell(Subscribe("events", subscriber=listener))

        # Asked of both before either is answered.
        answers = [node.ask(CallTool("clock_now", {"tz": "UTC"}), block=False) for node in nodes]
        for number, answer in enumerate(answers, 1):
            say(f"node {number} says {answer.get(timeout=30).json()['structuredContent']['timezone']}")

        say("running; Enter ends it")
        sys.stdin.readline()
        # The last that was started is the first to stop: each node in order, then who listens to them.
        pykka.ActorRegistry.stop_all()


if __name__ == "__main__":
    # The host says what becomes of the log.
    logger.remove()
    logger.add(sys.stderr, level="WARNING")
    main()
