"""What the notes keep, and what becomes of their file."""

from __future__ import annotations

import fcntl
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mcpv_node.servers import notes
from mcpv_node.servers.notes import NotesFile, notes_path, notes_tools

NOW = datetime(2026, 7, 1, 12, 0, 0, tzinfo=UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "notes.json"


def call(path: Path, tool: str, **arguments: object) -> Any:
    return notes_tools(NotesFile(path), lambda: NOW)[tool].handler(json.dumps(arguments).encode())


def ids(listed: Any) -> list[int]:
    return [note["id"] for note in listed["notes"]]


def test_a_note_is_kept_listed_and_read(path: Path) -> None:
    added = call(path, "add", text="milk\nand bread", title="Shopping")

    heading = {"id": 1, "title": "Shopping", "created": "2026-07-01T12:00:00+00:00"}
    assert added == heading
    assert call(path, "list") == {"notes": [heading]}
    assert call(path, "read", id=1) == heading | {"text": "milk\nand bread"}


def test_a_note_without_a_title_is_called_by_its_first_line(path: Path) -> None:
    assert call(path, "add", text="\n milk\nbread")["title"] == "milk"
    assert call(path, "add", text="x" * 100, title=" ")["title"] == "x" * 60


def test_an_empty_note_is_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="empty"):
        call(path, "add", text=" \n")
    assert not path.exists()


def test_a_search_looks_at_titles_and_texts_in_any_case(path: Path) -> None:
    call(path, "add", text="milk", title="Shopping")
    call(path, "add", text="SHOPPING is done")
    call(path, "add", text="else")

    assert ids(call(path, "search", query="shopping")) == [1, 2]
    assert ids(call(path, "search", query="nothing")) == []


def test_a_deleted_note_is_gone_and_its_id_is_not_given_again(path: Path) -> None:
    call(path, "add", text="first")
    call(path, "add", text="second")

    call(path, "delete", id=2)

    assert ids(call(path, "list")) == [1]
    assert call(path, "add", text="third")["id"] == 3


@pytest.mark.parametrize("tool", ["read", "delete"])
def test_a_note_that_is_not_there_is_named(path: Path, tool: str) -> None:
    with pytest.raises(ValueError, match="there is no note 7"):
        call(path, tool, id=7)


def test_the_file_is_the_owners_alone_and_nothing_lies_beside_it(path: Path) -> None:
    call(path, "add", text="secret")

    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert sorted(each.name for each in path.parent.iterdir()) == ["notes.json", "notes.json.lock"]


def test_a_file_that_is_no_notebook_is_left_as_it_is(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")

    with pytest.raises(ValueError, match="not a notebook"):
        call(path, "add", text="x")
    assert path.read_text() == "precious"


def test_a_change_that_fails_leaves_the_old_notebook(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(path, "add", text="first")

    def full_disk(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(notes.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        call(path, "add", text="second")

    assert ids(call(path, "list")) == [1]


def test_another_writer_is_waited_for_but_not_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(notes.time, "sleep", pauses.append)
    call(path, "add", text="first")

    with open(f"{path}.lock", "rb") as other:
        # Even a shared lock is in the way of a writer, who needs the file alone.
        fcntl.flock(other, fcntl.LOCK_SH)
        with pytest.raises(ValueError, match="being changed by somebody else"):
            call(path, "add", text="second")
        assert ids(call(path, "list")) == [1]

    assert len(pauses) == notes.LOCK_TRIES
    assert call(path, "add", text="third")["id"] == 2


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"NOTES_FILE": "/a/b.json", "XDG_DATA_HOME": "/x"}, Path("/a/b.json")),
        ({"XDG_DATA_HOME": "/x"}, Path("/x/mcpv-node/notes.json")),
        ({"XDG_DATA_HOME": ""}, Path.home() / ".local/share/mcpv-node/notes.json"),
        ({}, Path.home() / ".local/share/mcpv-node/notes.json"),
    ],
)
def test_the_file_is_where_the_environment_says(environment: dict[str, str], expected: Path) -> None:
    assert notes_path(environment) == expected
