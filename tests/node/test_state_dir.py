"""The marks of a state folder: one node at a time, and always the same name."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest

from mcpv_node.state_dir import StateDirBusy, lock_state_dir, read_or_create_node_id, unlock_state_dir


def test_who_comes_second_is_refused_with_the_pid_of_the_first(tmp_path: Path) -> None:
    lock = lock_state_dir(tmp_path)

    with pytest.raises(StateDirBusy) as busy:
        lock_state_dir(tmp_path)

    unlock_state_dir(lock)
    assert str(busy.value) == f"a node with pid {os.getpid()} already runs on {tmp_path}"


def test_a_folder_that_was_given_back_can_be_had(tmp_path: Path) -> None:
    unlock_state_dir(lock_state_dir(tmp_path))

    unlock_state_dir(lock_state_dir(tmp_path))


def test_a_process_forked_meanwhile_does_not_keep_the_folder(tmp_path: Path) -> None:
    lock = lock_state_dir(tmp_path)
    child = os.fork()
    if child == 0:
        signal.pause()
    try:
        unlock_state_dir(lock)

        unlock_state_dir(lock_state_dir(tmp_path))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_folder_that_is_not_there_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        lock_state_dir(tmp_path / "nowhere")


def test_the_lock_and_the_id_are_their_owners_alone(tmp_path: Path) -> None:
    unlock_state_dir(lock_state_dir(tmp_path))
    read_or_create_node_id(tmp_path)

    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o600}


def test_an_id_is_kept(tmp_path: Path) -> None:
    first = read_or_create_node_id(tmp_path)

    assert read_or_create_node_id(tmp_path) == first
    assert read_or_create_node_id(tmp_path) != read_or_create_node_id(make(tmp_path / "other"))


def test_a_name_that_somebody_gave_is_taken(tmp_path: Path) -> None:
    (tmp_path / "node.id").write_text("web-1.example\n")

    assert read_or_create_node_id(tmp_path) == "web-1.example"


@pytest.mark.parametrize("torn", [b"", b"\n", b"\xff\xfe", b"a/b", b"a\0b", b"a b", b"x" * 65, b"a\nb"])
def test_what_is_no_name_is_replaced_by_one(torn: bytes, tmp_path: Path) -> None:
    (tmp_path / "node.id").write_bytes(torn)

    fresh = read_or_create_node_id(tmp_path)

    assert fresh.isalnum()
    assert read_or_create_node_id(tmp_path) == fresh


def make(folder: Path) -> Path:
    """Make a folder."""
    folder.mkdir()
    return folder
