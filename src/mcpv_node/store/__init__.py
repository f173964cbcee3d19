"""What survives a restart.

# Layout

`files` writes files that are never half written; `audit` is the file of who asked for what; `catalog` keeps what the servers offer, and the versions of the
lists. All of it blocks, and belongs to the store's own thread.
"""

from __future__ import annotations

from .audit import AuditFile, AuditLine
from .catalog import (
    MAX_PROFILES,
    CatalogRecord,
    KindVersion,
    ListedEntry,
    StoreProblem,
    forget_catalog,
    hello_of,
    load_catalogs,
    load_versions,
    save_catalog,
    save_versions,
)
from .files import make_folder, read_if_there, write_atomically

__all__ = [
    "AuditFile",
    "AuditLine",
    "MAX_PROFILES",
    "CatalogRecord",
    "KindVersion",
    "ListedEntry",
    "StoreProblem",
    "forget_catalog",
    "hello_of",
    "load_catalogs",
    "load_versions",
    "make_folder",
    "read_if_there",
    "save_catalog",
    "save_versions",
    "write_atomically",
]
