"""A command is resolved before the start, and a server inherits little."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mcpv_node.transports import (
    FolderNotFound,
    ProgramNotExecutable,
    ProgramNotFound,
    SpawnFailed,
    child_environment,
    resolve_program,
)


def make_program(path: Path, mode: int = 0o755) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return str(path)


def test_the_first_program_in_path_is_taken(tmp_path: Path) -> None:
    first = make_program(tmp_path / "a" / "serve")
    make_program(tmp_path / "b" / "serve")

    found = resolve_program("serve", path=f"{tmp_path}/none:{tmp_path}/a:{tmp_path}/b", cwd=None)

    assert found == first


def test_a_file_that_may_not_be_run_does_not_hide_a_program_further_on(tmp_path: Path) -> None:
    make_program(tmp_path / "a" / "serve", mode=0o644)
    second = make_program(tmp_path / "b" / "serve")

    assert resolve_program("serve", path=f"{tmp_path}/a:{tmp_path}/b", cwd=None) == second


def test_a_missing_program_is_named_with_where_it_was_searched() -> None:
    with pytest.raises(ProgramNotFound, match=r"no program 'serve' in its PATH$") as caught:
        resolve_program("serve", path="/no/bin:/no/sbin", cwd=None)

    assert caught.value.is_fatal
    assert caught.value.path == "/no/bin:/no/sbin"


def test_a_file_that_may_not_be_run_is_named(tmp_path: Path) -> None:
    program = make_program(tmp_path / "serve", mode=0o644)

    with pytest.raises(ProgramNotExecutable, match=program):
        resolve_program("serve", path=str(tmp_path), cwd=None)
    with pytest.raises(ProgramNotExecutable, match=program):
        resolve_program(program, path="", cwd=None)


def test_a_folder_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "serve").mkdir()

    with pytest.raises(ProgramNotFound):
        resolve_program("serve", path=str(tmp_path), cwd=None)
    with pytest.raises(ProgramNotExecutable):
        resolve_program(f"{tmp_path}/serve", path="", cwd=None)


def test_a_relative_path_is_relative_to_the_folder_of_the_server(tmp_path: Path) -> None:
    program = make_program(tmp_path / "bin" / "serve")

    assert os.path.samefile(resolve_program("bin/serve", path="", cwd=str(tmp_path)), program)
    with pytest.raises(ProgramNotFound, match="bin/serve"):
        resolve_program("bin/serve", path="", cwd=str(tmp_path / "bin"))


def test_the_current_folder_is_never_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_program(tmp_path / "serve")
    monkeypatch.chdir(tmp_path)

    with pytest.raises(ProgramNotFound):
        resolve_program("serve", path="::.", cwd=None)


def test_a_missing_folder_and_an_empty_command_are_sentences() -> None:
    with pytest.raises(FolderNotFound, match="'/no/such' to start 'sh' in does not exist"):
        resolve_program("sh", path="/bin", cwd="/no/such")
    with pytest.raises(ProgramNotFound, match="empty"):
        resolve_program("", path="/bin", cwd=None)


@pytest.mark.parametrize(
    ("number", "is_fatal"),
    [
        (errno.ENOENT, True),
        (errno.EACCES, True),
        (errno.ENOEXEC, True),
        (errno.EAGAIN, False),
        (errno.ENOMEM, False),
    ],
)
def test_only_what_another_try_can_cure_is_not_fatal(number: int, is_fatal: bool) -> None:
    assert SpawnFailed("serve", OSError(number, os.strerror(number))).is_fatal is is_fatal


@pytest.mark.parametrize(
    ("name", "value", "is_inherited"),
    [
        ("HOME", "/home/me", True),
        ("PATH", "/bin", True),
        ("LC_ALL", "C.UTF-8", True),
        ("XDG_CONFIG_HOME", "/c", True),
        ("TZ", "UTC", True),
        ("https_proxy", "http://proxy:3128", True),
        ("HTTPS_PROXY", "http://me:secret@proxy:3128", False),
        ("GITHUB_TOKEN", "secret", False),
        ("PYTHONPATH", "/x", False),
        ("LD_PRELOAD", "/x.so", False),
        ("TERM", "() { :; }; echo", False),
    ],
)
def test_little_is_inherited(name: str, value: str, is_inherited: bool) -> None:
    assert (name in child_environment({name: value}, {}, "n/i")) is is_inherited


def test_what_is_configured_wins_and_the_mark_over_all() -> None:
    base = {"HOME": "/home/me", "USER": "me"}
    configured = {"HOME": "/srv", "TOKEN": "t", "MCPV_INSTANCE": "forged"}

    environment = child_environment(base, configured, "node/fs-1")

    assert environment == {"HOME": "/srv", "USER": "me", "TOKEN": "t", "MCPV_INSTANCE": "node/fs-1"}
