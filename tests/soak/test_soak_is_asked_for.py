"""The soak runs when somebody asks for it, and only then."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# An interpreter, pytest and two small files.
COLLECT_TIMEOUT = 60.0


def collected(*arguments: str) -> str:
    """Return the tests of this folder that a run with these arguments would take."""
    words = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "tests/soak"]
    done = subprocess.run(
        [*words, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=COLLECT_TIMEOUT, check=True
    )
    return done.stdout


def test_a_plain_run_leaves_the_soak_out_and_its_marker_takes_it_in() -> None:
    assert "test_soak_cycles.py" not in collected()
    assert "test_soak_cycles.py" in collected("-m", "soak")
