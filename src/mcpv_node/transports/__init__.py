"""Transports: the only I/O to servers.

# Layout

`stdio` one child process on the running loop · `program` which program, which environment · `stop` the stop of the
specification · `limits` what a server may use · `ledger` what runs, on disk · `guard` the process that ends it all
when the node cannot (a single file, run by path) · `guard_process` the node's end of it · `http` sessions with servers
behind a URL, a package of its own · `strangers` waits for orphans where they become our children.

Imports the standard library and the clock only; `http`, which needs more, is imported where the first URL is.
"""

from __future__ import annotations

from .guard import LedgerEntry, Orphan, ReapReport, read_ledger, reap
from .guard_process import GuardBusy, GuardProcess, start_guard
from .ledger import Ledger, reap_leftovers
from .limits import (
    GroupUsage,
    apply_limits,
    apply_limits_to_each,
    group_rss_bytes,
    rss_by_group,
    usage_by_group,
)
from .program import (
    FolderNotFound,
    ProgramNotExecutable,
    ProgramNotFound,
    SpawnFailed,
    StartError,
    child_environment,
    resolve_program,
)
from .stdio import ExitStatus, ExitWatch, ProcessSink, StdioProcess, watch_exit
from .stop import StopReport, stop_process
from .strangers import Strangers, receives_orphans

__all__ = [
    "ExitStatus",
    "ExitWatch",
    "FolderNotFound",
    "GroupUsage",
    "GuardBusy",
    "GuardProcess",
    "Ledger",
    "LedgerEntry",
    "Orphan",
    "ProcessSink",
    "ProgramNotExecutable",
    "ProgramNotFound",
    "ReapReport",
    "SpawnFailed",
    "StartError",
    "StdioProcess",
    "StopReport",
    "Strangers",
    "apply_limits",
    "apply_limits_to_each",
    "child_environment",
    "group_rss_bytes",
    "read_ledger",
    "reap",
    "reap_leftovers",
    "receives_orphans",
    "resolve_program",
    "rss_by_group",
    "usage_by_group",
    "start_guard",
    "stop_process",
    "watch_exit",
]
