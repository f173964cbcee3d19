"""Orphans that became our children: waited for when nobody else does, and never before others have asked."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from support.processes import start_time, wait_until

from mcpv_node.transports import Strangers, receives_orphans
from mcpv_node.transports.strangers import children_of_this_process, decide_strangers

# prctl(2)
PR_SET_CHILD_SUBREAPER = 36

OURS = 100
THEIRS = 200


@contextmanager
def receiving_orphans() -> Iterator[None]:
    """Be the parent of what our children leave behind."""
    libc = ctypes.CDLL(None)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    try:
        yield
    finally:
        assert libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0) == 0


def is_zombie(pid: int) -> bool:
    """Tell whether a child has ended and lies there."""
    return any(child.pid == pid and not child.alive for child in children_of_this_process())


def ended_orphan() -> int:
    """Have a grandchild become our child and end; its process id."""
    script = "import os, sys\npid = os.fork()\nprint(pid, flush=True) if pid else sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-S", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
    # The grandchild has ended with its input, which leaving the block has closed.
    assert wait_until(lambda: is_zombie(pid))
    return pid


@pytest.mark.parametrize(
    ("ended", "seen", "own", "expected"),
    [
        ([], [], [], ()),
        # Whoever waits for it may be about to.
        ([(THEIRS, 1)], [], [], ()),
        ([(THEIRS, 1)], [(THEIRS, 1)], [OURS], (THEIRS,)),
        # Ours is never touched, however long it lies there.
        ([(OURS, 1)], [(OURS, 1)], [OURS], ()),
        # Another process, with the number of one that we saw.
        ([(THEIRS, 2)], [(THEIRS, 1)], [], ()),
    ],
)
def test_who_is_waited_for(
    ended: list[tuple[int, int]], seen: list[tuple[int, int]], own: list[int], expected: tuple[int, ...]
) -> None:
    assert decide_strangers(ended, seen, own) == expected


def test_a_stranger_is_gone_at_the_second_look() -> None:
    with receiving_orphans():
        pid = ended_orphan()
        strangers = Strangers()

        assert strangers.reap(own=()) == ()
        assert is_zombie(pid)

        assert strangers.reap(own=()) == (pid,)
        assert not is_zombie(pid)
        assert strangers.reap(own=()) == ()


def test_the_exit_of_our_own_is_left_to_who_asks_for_it() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "raise SystemExit(7)"])
    assert wait_until(lambda: is_zombie(child.pid))
    strangers = Strangers()

    for _ in range(3):
        assert strangers.reap(own=(child.pid,)) == ()

    assert child.wait() == 7


def test_a_child_that_lives_is_nobodys_to_wait_for() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    try:
        strangers = Strangers()
        for _ in range(3):
            assert strangers.reap(own=()) == ()
        assert (child.pid, start_time(child.pid)) in [
            (one.pid, one.start_time) for one in children_of_this_process()
        ]
    finally:
        child.send_signal(signal.SIGKILL)
        with suppress(BrokenPipeError):
            child.communicate()


def test_whether_orphans_come_to_us_is_asked_of_the_system() -> None:
    assert os.getpid() != 1
    assert not receives_orphans()
    with receiving_orphans():
        assert receives_orphans()
