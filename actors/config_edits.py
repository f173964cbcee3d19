"""One entry of the configuration is changed by a program: what may be asked for, and what it does to the files.

The functions block: they are for Config's thread. What is asked for is judged whole, by the loader, before anything is
written; and what was written is put back as it was when it cannot be brought into effect.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec

from mcpv_node.settings import PACKAGED_CONFIG, Loaded, ServerSpec, load_settings
from mcpv_node.store.files import write_atomically

# Enough to tell two entries apart; too little to find out a secret by.
ETAG_DIGITS = 16


@dataclass(frozen=True, slots=True)
class AddEntry:
    """Put this entry, which has a name, behind the others."""

    name: str
    entry: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class ChangeEntry:
    """Set and take out keys of an entry; `restart.maxRetries` is a key of its table."""

    name: str
    changes: Mapping[str, object]
    unset: tuple[str, ...] = ()
    # The entry as whoever asks knows it, by its ETag; None: whatever it is.
    known: str | None = None


@dataclass(frozen=True, slots=True)
class RemoveEntry:
    """Take an entry out."""

    name: str
    known: str | None = None


Edit: TypeAlias = AddEntry | ChangeEntry | RemoveEntry


class NotEdited(Exception):
    """The files stay as they are."""


class NameTaken(NotEdited):
    """Another entry has this name."""


class NameUnknown(NotEdited):
    """No entry has this name."""


class EntryChanged(NotEdited):
    """The entry is not what whoever asks thinks it is."""


class FilesNotEditable(NotEdited):
    """These files are not changed by programs, or somebody else changes them just now."""


@dataclass(frozen=True, slots=True)
class Written:
    """A file has another text than before."""

    file: Path
    before: str
    after: str


def etag_of(spec: ServerSpec) -> str:
    """What changes with any key of an entry."""
    return hashlib.sha256(msgspec.json.encode(spec)).hexdigest()[:ETAG_DIGITS]


def write_edit(path: Path, environ: Mapping[str, str], edit: Edit) -> Written:
    """Change the files of the configuration at `path`; raises NotEdited, or SettingsError with all that is wrong."""
    # The writer of YAML is loaded with the first edit: a node that is not edited does without.
    from mcpv_node.settings.editing import EditError, EntryExists, NoSuchEntry
    from mcpv_node.settings.target import read_target

    if path == PACKAGED_CONFIG:
        raise FilesNotEditable(
            "this node runs on the packaged configuration, which stays as it is: start it with one of its own"
        )
    try:
        target = read_target(path)
        file = target.main if isinstance(edit, AddEntry) else target.holding(edit.name)
        before = target.texts[file]
        if not isinstance(edit, AddEntry) and edit.known is not None:
            _check_known(load_settings(path, environ=environ, instead=target.texts), edit.name, edit.known)
        after = _edited(before, edit)
        load_settings(path, environ=environ, instead={**target.texts, file: after})
        if file.read_text(encoding="utf-8") != before:
            raise FilesNotEditable(f"{file} was changed by somebody else meanwhile; try again")
        # A link stays a link.
        write_atomically(file.resolve(), after.encode())
    except EntryExists as error:
        raise NameTaken(str(error)) from None
    except NoSuchEntry as error:
        raise NameUnknown(str(error)) from None
    except EditError as error:
        raise FilesNotEditable(str(error)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise FilesNotEditable(f"the configuration cannot be changed: {error}") from None
    return Written(file, before, after)


def take_back(written: Written) -> None:
    """Put the file back as it was, unless somebody else has changed it since; raises OSError, UnicodeDecodeError."""
    if written.file.read_text(encoding="utf-8") == written.after:
        write_atomically(written.file.resolve(), written.before.encode())


def _edited(text: str, edit: Edit) -> str:
    from mcpv_node.settings import editing

    match edit:
        case AddEntry():
            return editing.add(text, edit.entry)
        case ChangeEntry():
            return editing.edit(text, edit.name, edit.changes, edit.unset)
        case RemoveEntry():
            return editing.remove(text, edit.name)


def _check_known(loaded: Loaded, name: str, known: str) -> None:
    spec = next((spec for spec in loaded.settings.servers if spec.name == name), None)
    if spec is None:
        raise NameUnknown(f"there is no server named {name} here")
    if etag_of(spec) != known:
        raise EntryChanged(f"the entry {name} has changed since; read it again")
