"""A Thespian application: one of its actors holds a node, calls tools and hears when the list changes.

.venv/bin/python examples/thespian_app.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from thespian.actors import Actor, ActorAddress, ActorSystem, ChildActorExited

from mcpv_node import CallTool, Failed, NodeDown, SnapshotChanged, StartNode, Subscribe, ToolResult

# The servers of a node without a configuration of its own: clock and notes.
CONFIG = Path(__file__).parent.parent / "config" / "runtime.yaml"
CITIES = ("Europe/Berlin", "America/New_York", "Asia/Tokyo")


class Desk(Actor):
    """Holds the node, and says to whoever has opened it what it hears."""

    def receiveMessage(self, message: Any, sender: ActorAddress) -> None:
        match message:
            case {"state": folder}:
                self.customer = sender
                self.node = self.createActor("mcpv_node.embedding.thespian.ThespianNode")
                # What is sent after StartNode waits until the node is up.
                self.send(self.node, StartNode(CONFIG, state_dir=folder, http="127.0.0.1:0"))
                self.send(self.node, Subscribe("tools"))
                for city in CITIES:
                    # Replies come as the calls end; the id says which it is.
                    self.send(self.node, CallTool("clock_now", {"tz": city}, id=city))
            case ToolResult():
                self.send(self.customer, f"it is known what time it is in {message.id}")
            case Failed():
                self.send(self.customer, f"{message.id} failed, {message.reason}: {message.message}")
            case SnapshotChanged():
                self.send(self.customer, f"the list of {message.kind} has changed")
            case NodeDown():
                self.send(self.customer, f"the node has ended: {message.reason}")
            case ChildActorExited():
                # Its process has ended, perhaps without a word: another one could be created here.
                self.send(self.customer, "the node's process has ended")


def run(system: ActorSystem, folder: str) -> None:
    desk = system.createActor(Desk)
    system.tell(desk, {"state": folder})
    known = 0
    while known < len(CITIES):
        line = system.listen(30)
        print(line, flush=True)
        known += str(line).startswith("it is known")
    print("running; Enter ends it", flush=True)
    sys.stdin.readline()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="mcpv-") as folder:
        # Not the TCP base: whoever reaches its port can run code in every actor.
        system = ActorSystem("multiprocQueueBase")
        try:
            run(system, folder)
        finally:
            # The actors exit, and the one that holds the node stops it in order first.
            system.shutdown()


if __name__ == "__main__":
    main()
