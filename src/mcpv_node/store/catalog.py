"""What the servers offer, as last learnt, on disk.

One file for each spec key, `catalog/<specKey>.json`: `{format, checksum, body}`; the body holds the lists of every
client profile learnt so far. `catalog/versions.json` holds the version of each kind of list. A file that is
damaged, or written by a newer node, is set aside under another name and reported; it is never overwritten.

The definitions are the servers' own bytes and come back to the byte (the file holds them as base64). Kinds are free words, so resources and
prompts need no new format. All functions block: they are for the store's own thread.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from mcpv_node.protocol import ServerHello, parse_capabilities
from mcpv_node.settings import ServerName, SpecKey

from .files import read_if_there, remove_partials, set_aside, write_atomically

FORMAT = 1
CATALOG_FOLDER = "catalog"
VERSIONS_FILE = "versions.json"

# So many client profiles are kept of one server beside the empty one; clients of a kind all have the same.
MAX_PROFILES = 16

_T = TypeVar("_T")

_SPEC_KEY_FILE = re.compile(r"(?P<key>[0-9a-f]{64})\.json")


class ListedEntry(msgspec.Struct, frozen=True):
    """One tool, resource or prompt: its own name, and its definition as the server wrote it."""

    name: str
    definition: bytes


class CatalogRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What one server offers to clients of one profile."""

    spec_key: SpecKey
    # The canonical set of client capabilities; empty for none.
    profile: str
    server_name: ServerName
    # By kind: "tools", "resources", ...; a kind that was not learnt is not there.
    lists: dict[str, tuple[ListedEntry, ...]]
    # When it was learnt: RFC 3339.
    learnt_at: str
    # The protocol version that was spoken, so that the next start need not try.
    era: str
    server_version: str = ""
    # What the server calls itself.
    server_title: str = ""
    instructions: str | None = None
    # The server's capabilities as it wrote them.
    capabilities: bytes = b"{}"
    # By tool: the digest of its definition as it was first seen or approved.
    pins: dict[str, str] = {}


class KindVersion(msgspec.Struct, frozen=True):
    """The version of one kind of list, and what it was made of."""

    version: int
    etag: str


@dataclass(frozen=True, slots=True)
class StoreProblem:
    """A file that could not be used, and what became of it."""

    path: Path
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class _File(msgspec.Struct):
    format: int
    # sha256 of the body's bytes as they stand in the file.
    checksum: str
    body: msgspec.Raw


class _Format(msgspec.Struct):
    format: int


class _Unusable(Exception):
    """A file of ours that cannot be read; `ending` is what its name gets."""

    def __init__(self, ending: str, message: str) -> None:
        super().__init__(message)
        self.ending = ending


def save_catalog(state_dir: Path, record: CatalogRecord) -> tuple[StoreProblem, ...]:
    """Put one record on disk beside those of the same server's other profiles.

    Lists of kinds that it does not hold stay as they are: each kind is learnt on its own.
    """
    path = _record_path(state_dir, record.spec_key)
    stored, problems = _read_or_set_aside(path, tuple[CatalogRecord, ...])
    records = {one.profile: one for one in stored or ()}
    former = records.get(record.profile)
    if former is not None:
        record = msgspec.structs.replace(
            record, lists={**former.lists, **record.lists}, pins=record.pins or former.pins
        )
    records[record.profile] = record
    others = [one for profile, one in records.items() if profile not in ("", record.profile)]
    if len(records.keys() - {""}) > MAX_PROFILES:
        del records[min(others, key=lambda one: one.learnt_at).profile]
    write_atomically(path, _sealed([records[profile] for profile in sorted(records)]))
    return problems


def hello_of(record: CatalogRecord) -> ServerHello:
    """What the server said of itself when the record was made."""
    return ServerHello(
        version=record.era,
        name=record.server_title or record.server_name,
        server_version=record.server_version,
        capabilities=parse_capabilities(record.capabilities),
        instructions=record.instructions,
    )


def load_catalogs(state_dir: Path) -> tuple[tuple[CatalogRecord, ...], tuple[StoreProblem, ...]]:
    """Read every record; what cannot be read is set aside and reported."""
    folder = state_dir / CATALOG_FOLDER
    if not folder.is_dir():
        return (), ()
    remove_partials(folder)
    records: list[CatalogRecord] = []
    problems: list[StoreProblem] = []
    for path in sorted(folder.iterdir()):
        if not _SPEC_KEY_FILE.fullmatch(path.name):
            continue
        stored, found = _read_or_set_aside(path, tuple[CatalogRecord, ...])
        records += stored or ()
        problems += found
    return tuple(records), tuple(problems)


def forget_catalog(state_dir: Path, spec_key: SpecKey) -> None:
    """Remove what was learnt of a server that is configured no more."""
    _record_path(state_dir, spec_key).unlink(missing_ok=True)


def load_versions(state_dir: Path) -> tuple[dict[str, KindVersion], tuple[StoreProblem, ...]]:
    """Read the version of each kind; nothing when there is none yet."""
    stored, problems = _read_or_set_aside(_versions_path(state_dir), dict[str, KindVersion])
    return stored or {}, problems


def save_versions(
    state_dir: Path, versions: Mapping[str, KindVersion]
) -> tuple[dict[str, KindVersion], tuple[StoreProblem, ...]]:
    """Put versions on disk; give what is there now. A version never goes back: of two, the higher one stays."""
    stored, problems = load_versions(state_dir)
    merged = merge_versions(stored, versions)
    if merged != stored:
        write_atomically(_versions_path(state_dir), _sealed(merged))
    return merged, problems


def merge_versions(
    stored: Mapping[str, KindVersion], new: Mapping[str, KindVersion]
) -> dict[str, KindVersion]:
    """Take the higher version of each kind."""
    merged = dict(stored)
    for kind, version in new.items():
        if kind not in merged or version.version > merged[kind].version:
            merged[kind] = version
    return dict(sorted(merged.items()))


def _record_path(state_dir: Path, spec_key: SpecKey) -> Path:
    path = state_dir / CATALOG_FOLDER / f"{spec_key}.json"
    if not _SPEC_KEY_FILE.fullmatch(path.name):
        raise ValueError(f"{spec_key!r} is not a spec key")
    return path


def _versions_path(state_dir: Path) -> Path:
    return state_dir / CATALOG_FOLDER / VERSIONS_FILE


def _sealed(body: object) -> bytes:
    encoded = msgspec.json.encode(body)
    checksum = hashlib.sha256(encoded).hexdigest()
    return msgspec.json.encode(_File(format=FORMAT, checksum=checksum, body=msgspec.Raw(encoded))) + b"\n"


def _read_or_set_aside(path: Path, kind: type[_T]) -> tuple[_T | None, tuple[StoreProblem, ...]]:
    try:
        return _read(path, kind), ()
    except _Unusable as error:
        aside = set_aside(path, error.ending)
        return None, (StoreProblem(path, f"{error}; set aside as {aside.name}"),)


def _read(path: Path, kind: type[_T]) -> _T | None:
    data = read_if_there(path)
    if data is None:
        return None
    try:
        # The format first: a newer one may have any other shape.
        found = msgspec.json.decode(data, type=_Format).format
        if found > FORMAT:
            raise _Unusable("newer", f"is of format {found}, and this node knows {FORMAT}")
        file = msgspec.json.decode(data, type=_File)
        if hashlib.sha256(bytes(file.body)).hexdigest() != file.checksum:
            raise _Unusable("corrupt", "does not match its checksum")
        return msgspec.json.decode(file.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Unusable("corrupt", f"cannot be read ({error})") from None
