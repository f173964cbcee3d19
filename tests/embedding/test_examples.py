"""The examples, as processes: they end by themselves, and killed in the middle they leave nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.embedded import TIMEOUT
from support.hosts import STRICT, host, nothing_is_left, processes_of
from support.house import ROOT
from support.processes import wait_until

EXAMPLES = ROOT / "examples"

# What is said by the time the example waits for Enter, in no order.
SAID = {
    "pykka_app.py": {
        "node 1 says UTC",
        "node 2 says UTC",
        "clock is ready",
        "the list of tools has version 2",
    },
    "asyncio_app.py": {
        "it is known what time it is in Europe/Berlin",
        "it is known what time it is in America/New_York",
        "it is known what time it is in Asia/Tokyo",
        "invalid_params: Unknown tool: clock_nothing",
        "clock is ready",
    },
    "thespian_app.py": {
        "it is known what time it is in Europe/Berlin",
        "it is known what time it is in America/New_York",
        "it is known what time it is in Asia/Tokyo",
        "the list of tools has changed",
    },
}

# And at the end.
LAST = {"pykka_app.py": "a node has ended: asked to stop", "asyncio_app.py": "clock is disabled"}

# How many nodes each holds, and so how many guards there are beside the host and the servers.
NODES = {"pykka_app.py": 2, "asyncio_app.py": 1, "thespian_app.py": 1}


def options(name: str) -> tuple[str, ...]:
    """Thespian itself leaves sockets and queues open, so only what is ours alone is held to that."""
    return () if name == "thespian_app.py" else STRICT


def read_until_it_waits(process: Any) -> list[str]:
    """Return what the example says until it waits for Enter."""
    lines: list[str] = []
    while not lines or not lines[-1].startswith("running"):
        line = process.stdout.readline()
        assert line, (lines, process.stderr.read())
        lines.append(line.rstrip("\n"))
    return lines


def guards_of(folder: Path) -> list[int]:
    """Return the guards of the example's nodes."""
    return [
        pid for pid in processes_of(folder) if b"/guard.py\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def test_every_example_is_tried() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAID)


@pytest.mark.parametrize("name", sorted(SAID))
def test_an_example_runs_as_it_is_and_ends_when_it_is_told_to(name: str, tmp_path: Path) -> None:
    with host(str(EXAMPLES / name), tmp_path, options=options(name)) as process:
        said = read_until_it_waits(process)
        out, err = process.communicate("\n", timeout=TIMEOUT)

    assert (process.returncode, err) == (0, "")
    assert set(said) >= SAID[name]
    assert LAST.get(name, "") in out
    assert nothing_is_left(tmp_path), processes_of(tmp_path)
    assert list(tmp_path.glob("mcpv-*")) == []


@pytest.mark.parametrize("name", sorted(SAID))
def test_an_example_that_is_killed_leaves_no_process(name: str, tmp_path: Path) -> None:
    with host(str(EXAMPLES / name), tmp_path, options=options(name)) as process:
        read_until_it_waits(process)
        assert wait_until(lambda: len(guards_of(tmp_path)) == NODES[name])
        assert len(processes_of(tmp_path)) > 1 + NODES[name]

        process.kill()
        process.wait(TIMEOUT)

        assert nothing_is_left(tmp_path), processes_of(tmp_path)
