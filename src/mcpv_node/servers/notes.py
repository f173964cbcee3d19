"""Notes as an MCP server: kept in one JSON file, which is replaced as a whole or not at all.

Two of these servers may share a file, since each client may start its own: every change reads the file, changes it
and replaces it while holding the lock of the file beside it. Only the operating system can order two processes.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from mcpv_node.protocol import ServerSession, Tool, typed

from .pipe import serve

VERSION: Final = "1.0.0"

# A change takes milliseconds, so this is a crowd or a disk that hangs: two seconds, then an answer that says so.
LOCK_TRIES: Final = 100
LOCK_PAUSE: Final = 0.02

# A list is read by a model: a few words say which note it is.
TITLE_LENGTH: Final = 60


class Note(msgspec.Struct, frozen=True):
    """One note; its id is never given again."""

    id: int
    title: str
    text: str
    created: str


class Notebook(msgspec.Struct, frozen=True):
    """The whole file."""

    next_id: int = 1
    notes: tuple[Note, ...] = ()


class AddArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `add` takes."""

    text: str
    title: str | None = None


class ListArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `list` takes."""


class IdArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `read` and `delete` take."""

    id: int


class SearchArguments(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `search` takes."""

    query: str


class NotesFile:
    """A notebook on disk, read anew for every question: somebody else may have changed it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Notebook:
        """The notebook as it stands; an empty one where there is no file yet."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return Notebook()
        try:
            return msgspec.json.decode(data, type=Notebook)
        except msgspec.DecodeError as error:
            raise ValueError(f"{self._path} is not a notebook: {error}") from None

    @contextmanager
    def changing(self) -> Generator[Notebook]:
        """The notebook, with every other writer kept out until the block ends."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        beside = os.open(f"{self._path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            self._lock(beside)
            yield self.load()
        finally:
            os.close(beside)

    def replace(self, notebook: Notebook) -> None:
        """Put the notebook in the file's place; a crash leaves the old one or the new one."""
        # In the same folder: only there a rename is atomic. One name is enough, since the lock is held.
        beside = self._path.with_name(f".{self._path.name}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(beside, flags, 0o600), "wb") as file:
            file.write(msgspec.json.encode(notebook))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self._path)

    def _lock(self, descriptor: int) -> None:
        for _ in range(LOCK_TRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(LOCK_PAUSE)
            else:
                return
        raise ValueError(f"{self._path} is being changed by somebody else; try again")


def notes_path(environment: Mapping[str, str]) -> Path:
    """Where the notes are: `NOTES_FILE`, else in the user's data folder."""
    if chosen := environment.get("NOTES_FILE"):
        return Path(chosen).expanduser()
    data = environment.get("XDG_DATA_HOME")
    folder = Path(data) if data else Path.home() / ".local" / "share"
    return folder / "mcpv-node" / "notes.json"


def notes_tools(file: NotesFile, now: Callable[[], datetime]) -> dict[str, Tool]:
    """The tools; `now` dates a new note."""
    id = {"type": "integer", "description": "The number that add, list and search show"}
    return {
        "add": Tool(
            description="Keep a note.",
            properties={
                "text": {"type": "string"},
                "title": {"type": "string", "description": "Else the first line of the text"},
            },
            required=("text",),
            handler=typed(AddArguments, lambda arguments: _add(file, arguments, now())),
        ),
        "list": Tool(
            description="All notes, the oldest first, without their texts.",
            properties={},
            handler=typed(ListArguments, lambda _: _listed(file.load().notes)),
            read_only=True,
        ),
        "read": Tool(
            description="One note with its text.",
            properties={"id": id},
            required=("id",),
            handler=typed(
                IdArguments, lambda arguments: msgspec.structs.asdict(_find(file.load(), arguments.id))
            ),
            read_only=True,
        ),
        "search": Tool(
            description="The notes whose title or text contains some words, in upper or lower case.",
            properties={"query": {"type": "string"}},
            required=("query",),
            handler=typed(SearchArguments, lambda arguments: _search(file.load(), arguments.query)),
            read_only=True,
        ),
        "delete": Tool(
            description="Delete a note for good.",
            properties={"id": id},
            required=("id",),
            handler=typed(IdArguments, lambda arguments: _delete(file, arguments.id)),
            destructive=True,
        ),
    }


def _add(file: NotesFile, arguments: AddArguments, now: datetime) -> Mapping[str, object]:
    text = arguments.text.strip()
    if not text:
        raise ValueError("the text of the note is empty")
    title = (arguments.title or "").strip() or text.splitlines()[0][:TITLE_LENGTH]
    created = now.isoformat(timespec="seconds")
    with file.changing() as notebook:
        note = Note(notebook.next_id, title, arguments.text, created)
        file.replace(Notebook(notebook.next_id + 1, (*notebook.notes, note)))
    return _heading(note)


def _delete(file: NotesFile, id: int) -> str:
    with file.changing() as notebook:
        gone = _find(notebook, id)
        left = tuple(note for note in notebook.notes if note.id != id)
        file.replace(Notebook(notebook.next_id, left))
    return f'deleted note {id}, "{gone.title}"'


def _search(notebook: Notebook, query: str) -> Mapping[str, object]:
    wanted = query.casefold()
    return _listed(
        tuple(note for note in notebook.notes if wanted in f"{note.title}\n{note.text}".casefold())
    )


def _find(notebook: Notebook, id: int) -> Note:
    for note in notebook.notes:
        if note.id == id:
            return note
    raise ValueError(f"there is no note {id}")


def _listed(notes: tuple[Note, ...]) -> Mapping[str, object]:
    return {"notes": [_heading(note) for note in notes]}


def _heading(note: Note) -> Mapping[str, object]:
    return {"id": note.id, "title": note.title, "created": note.created}


def main() -> int:
    """Serve until standard input ends."""
    tools = notes_tools(NotesFile(notes_path(os.environ)), lambda: datetime.now(UTC))
    return serve(ServerSession(name="notes", version=VERSION, tools=tools))


if __name__ == "__main__":
    sys.exit(main())
