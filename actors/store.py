"""The owner of the catalog files: it may block, so it has a thread of its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from loguru import logger

from mcpv_node.settings import SpecKey
from mcpv_node.store import (
    CatalogRecord,
    KindVersion,
    StoreProblem,
    forget_catalog,
    load_catalogs,
    load_versions,
    save_catalog,
    save_versions,
)

from .kernel import Request, ThreadActor, answers, handles


@dataclass(frozen=True, slots=True)
class StoredCatalog:
    """Everything that was kept."""

    records: tuple[CatalogRecord, ...]
    versions: dict[str, KindVersion]


@dataclass(frozen=True, slots=True)
class LoadCatalog(Request[StoredCatalog]):
    """Read what an earlier life learnt."""


@dataclass(frozen=True, slots=True)
class SaveLists:
    """Keep what was learnt of one spec key."""

    record: CatalogRecord


@dataclass(frozen=True, slots=True)
class ForgetLists:
    """Remove what was kept of a spec key that no server has had for long."""

    spec_key: SpecKey


@dataclass(frozen=True, slots=True)
class SaveVersion:
    """Keep the version of a kind; it never goes back."""

    kind: str
    version: KindVersion


StoreMessage: TypeAlias = LoadCatalog | SaveLists | ForgetLists | SaveVersion


class Store(ThreadActor[None]):
    """See the module. A disk that refuses is reported; the catalog in memory goes on without it."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__()
        self._state_dir = state_dir

    @answers(LoadCatalog)
    def _on_load(self, _request: LoadCatalog) -> StoredCatalog:
        try:
            records, problems = load_catalogs(self._state_dir)
            versions, more = load_versions(self._state_dir)
        except OSError as error:
            logger.error("what was learnt earlier could not be read: {}", error)
            return StoredCatalog((), {})
        _report((*problems, *more))
        return StoredCatalog(records, versions)

    @handles(SaveLists)
    def _on_save_lists(self, message: SaveLists) -> None:
        try:
            _report(save_catalog(self._state_dir, message.record))
        except OSError as error:
            logger.error("the lists of {} could not be kept: {}", message.record.server_name, error)

    @handles(ForgetLists)
    def _on_forget_lists(self, message: ForgetLists) -> None:
        try:
            forget_catalog(self._state_dir, message.spec_key)
        except OSError as error:
            logger.error("the lists of {} could not be removed: {}", message.spec_key, error)

    @handles(SaveVersion)
    def _on_save_version(self, message: SaveVersion) -> None:
        try:
            _, problems = save_versions(self._state_dir, {message.kind: message.version})
            _report(problems)
        except OSError as error:
            logger.error("the version of {} could not be kept: {}", message.kind, error)


def _report(problems: tuple[StoreProblem, ...]) -> None:
    for problem in problems:
        logger.warning("{}", problem)
