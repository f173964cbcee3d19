"""The fixture that watches every test can itself see each kind of leak."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pykka
import pytest
from support.leaks import Census, find_leaks, kill_leaked_processes, take_census, wait_until_settled

# Longer than any census, far shorter than a test: what is left at once is what we look for.
AT_ONCE = 0.0


def test_a_census_of_an_idle_process_equals_the_one_before() -> None:
    before = take_census()

    assert find_leaks(before, take_census()) == []


def test_a_running_thread_is_named() -> None:
    release = threading.Event()
    before = take_census()
    thread = threading.Thread(target=release.wait, name="left-over")
    thread.start()

    leaks = wait_until_settled(before, AT_ONCE)

    release.set()
    thread.join()
    assert leaks == ["thread 'left-over' runs on"]


def test_a_thread_that_is_just_ending_is_waited_for() -> None:
    release = threading.Event()
    before = take_census()
    thread = threading.Thread(target=release.wait)
    thread.start()
    assert find_leaks(before, take_census())

    release.set()

    assert wait_until_settled(before) == []


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="processes are counted through /proc only")
def test_a_running_child_is_named_with_its_command() -> None:
    before = take_census()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)

    leaks = wait_until_settled(before, AT_ONCE)

    assert child.stdin is not None
    child.stdin.close()
    child.wait()
    assert any(leak.startswith(f"process {child.pid} is left") for leak in leaks)


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="processes are counted through /proc only")
def test_a_child_that_nobody_waited_for_is_a_leak() -> None:
    before = take_census()
    child = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

    leaks = wait_until_settled(before, AT_ONCE)

    child.wait()
    assert leaks == [f"process {child.pid} is left: ended, but nobody waited for it"]


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="processes are counted through /proc only")
def test_a_leaked_process_is_ended_and_reaped() -> None:
    before = take_census()
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", "input()"], os.environ)

    kill_leaked_processes(before)

    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_an_open_file_is_named(tmp_path: Path) -> None:
    before = take_census()
    with (tmp_path / "open.txt").open("w") as file:
        leaks = wait_until_settled(before, AT_ONCE)

        assert len(leaks) == 1
        assert leaks[0].startswith(f"file descriptor {file.fileno()} is open")


def test_a_registered_actor_is_named() -> None:
    class Idle(pykka.ThreadingActor):
        pass

    before = take_census()
    ref = Idle.start()

    leaks = wait_until_settled(before, AT_ONCE)

    ref.stop()
    assert f"actor {ref} is still registered with pykka" in leaks


def test_what_was_there_before_is_no_leak() -> None:
    nothing = Census(threads=frozenset(), children=frozenset(), descriptors=frozenset(), actors=frozenset())

    assert find_leaks(take_census(), nothing) == []
