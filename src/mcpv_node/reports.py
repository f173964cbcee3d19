"""What a node says of itself over REST, as typed data for those who talk to it. Members that are not known are ignored."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Raw, Struct


class LastExit(Struct, frozen=True, kw_only=True):
    """How the last instance that ended did so."""

    code: int | None = None
    signal: int | None = None
    at: str | None = None


class CallCounts(Struct, frozen=True, kw_only=True):
    """Calls since the node started."""

    ok: int = 0
    failed: int = 0
    refused: int = 0


class InstanceReport(Struct, frozen=True, kw_only=True, rename="camel"):
    """One live session to a server."""

    id: str
    state: str
    pid: int | None = None
    busy: int = 0
    started_at: str | None = None
    idle_since: str | None = None
    era: str | None = None
    bindings: int = 0


class LearningOutcome(Struct, frozen=True, kw_only=True, rename="camel"):
    """What became of learning one server."""

    server: str = ""
    state: str
    attempts: int = 0
    reason: str = ""
    since: str | None = None


class Learning(Struct, frozen=True, kw_only=True):
    """How far the node is with learning its servers."""

    state: str
    mode: str = ""
    total: int = 0
    completed: int = 0
    failed: int = 0
    current: tuple[str, ...] = ()
    outcomes: tuple[LearningOutcome, ...] = ()


class InitReport(Struct, frozen=True, kw_only=True, rename="camel"):
    """How far a server has come that should have instances running."""

    name: str
    state: str
    reason: str = ""
    ready: int = 0
    target: int = 0
    retries: int = 0
    next_try_at: str | None = None


class ConfigChange(Struct, frozen=True, kw_only=True, rename={"what": "class"}):
    """One thing that a reload has changed, and what that costs."""

    what: str
    name: str


class Reloaded(Struct, frozen=True, kw_only=True):
    """What a reload has changed: the body of `POST /api/v1/reload`."""

    outcome: str
    changes: tuple[ConfigChange, ...] = ()
    warnings: tuple[str, ...] = ()


class ConfigProblem(Struct, frozen=True, kw_only=True):
    """Why a newer configuration is not in effect."""

    reason: str
    problems: tuple[str, ...] = ()


class ConfigState(Struct, frozen=True, kw_only=True, rename="camel"):
    """Since when the configuration is in effect, what the last reload changed, and what is wrong with a newer one."""

    applied_at: str = ""
    changes: tuple[ConfigChange, ...] = ()
    problem: ConfigProblem | None = None


class NodeState(Struct, frozen=True, kw_only=True):
    """What the node says of itself, besides where it is: of `GET /api/v1/node`."""

    ready: bool = False
    learning: Learning | None = None
    init: tuple[InitReport, ...] | None = None
    config: ConfigState | None = None


class TreePlace(Struct, frozen=True, kw_only=True):
    """One place in the tree of actors, and what is below it: the body of `GET /api/v1/tree`."""

    id: str
    state: str
    kind: str = ""
    restarts: int = 0
    since: str | None = None
    children: tuple[TreePlace, ...] = ()


class ListsReport(Struct, frozen=True, kw_only=True, rename="camel"):
    """What is known of one kind of a server's lists."""

    learnt: bool = False
    entries: int = 0
    learnt_at: str | None = None
    source: str | None = None
    stale: bool = False
    failure: str | None = None
    conflicts: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    withheld: tuple[str, ...] = ()


class ServerReport(Struct, frozen=True, kw_only=True, rename="camel"):
    """Why a server is as it is: the body of `GET /api/v1/servers/{name}`."""

    name: str
    state: str
    reason: str = ""
    spec_key: str | None = None
    since: str | None = None
    next_try_at: str | None = None
    desired: int = 0
    waiting: int = 0
    start_cause: str | None = None
    last_exit: LastExit | None = None
    stderr: tuple[str, ...] = ()
    starts: int = 0
    restarts: int = 0
    calls: CallCounts = CallCounts()
    shared_with: tuple[str, ...] = ()
    instances: tuple[InstanceReport, ...] = ()
    learning: LearningOutcome | None = None
    # By kind; None while the node cannot say.
    lists: Mapping[str, ListsReport] | None = None


class CatalogEntry(Struct, frozen=True, kw_only=True, rename="camel"):
    """One tool, resource, template or prompt of the catalog, and where it comes from."""

    name: str
    server: str
    raw_name: str = ""
    source: str = ""
    stale: bool = False
    cold: bool = False
    definition: Raw = Raw(b"{}")


class Catalog(Struct, frozen=True, kw_only=True):
    """All entries of a kind at one version: the body of `GET /api/v1/catalog/{kind}`."""

    entries: tuple[CatalogEntry, ...]
    version: int = 0
    etag: str = ""
    complete: bool = True


class RemovedEntry(Struct, frozen=True, kw_only=True):
    """An entry that is not there any more, or has another name now."""

    name: str
    server: str


class CatalogDifference(Struct, frozen=True, kw_only=True):
    """What has changed between two versions of a kind; what there is now of it."""

    from_: int = msgspec.field(name="from")
    to: int
    added: tuple[CatalogEntry, ...] = ()
    changed: tuple[CatalogEntry, ...] = ()
    removed: tuple[RemovedEntry, ...] = ()


class ServerAct(Struct, frozen=True, kw_only=True):
    """What became of a request to start, stop or retry a server."""

    state: str
    reason: str = ""


class Approved(Struct, frozen=True, kw_only=True):
    """The tools whose changed definitions somebody has agreed to."""

    name: str = ""
    approved: tuple[str, ...] = ()
