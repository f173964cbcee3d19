"""Cursors outlive the node that made them."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import sys
from mcpv_node.actors.world import Selector
from mcpv_node.gateway.cursors import Cursors
from mcpv_node.protocol import Sealer
from mcpv_node.telemetry import SystemClock

tags = frozenset({"red", "green", "blue", "yellow", "white"})
cursors = Cursors(Sealer(bytes(32)), SystemClock(), "somebody", Selector(tags=tags))
if len(sys.argv) > 1:
    print(cursors.parse("tools", sys.argv[1].encode()))
else:
    print(cursors.make("tools", "fs_read").decode())
"""

# An interpreter and what it imports, on a busy machine.
BOUND = 60.0


def in_a_life(seed: str, *arguments: str) -> str:
    """Run the program in an interpreter that orders its sets by this seed."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, *arguments],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        timeout=BOUND,
        check=True,
    )
    return done.stdout.strip()


def test_a_cursor_for_several_tags_is_good_after_a_restart() -> None:
    cursor = in_a_life("1")

    assert [in_a_life(seed, cursor) for seed in ("1", "2", "3")] == ["fs_read"] * 3
