"""The owner of the tool catalog: what each server listed, the merged snapshot, its version.

It learns from instances, keeps what it learns in the store, and publishes a new snapshot in one assignment. A
list that could not be read leaves the last good one in place, marked stale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from loguru import logger

from mcpv_node.protocol import ListedTool, parse_tools_page, tools_result
from mcpv_node.settings import SpecKey
from mcpv_node.store import CatalogRecord, KindVersion, ListedEntry
from mcpv_node.telemetry import EventKind, rfc3339

from .callers import EMPTY_PROFILE
from .context import NodeContext
from .index_messages import (
    AwaitFirstLists,
    AwaitLists,
    LearningFailed,
    ListsLearnt,
    ServersChanged,
    SnapshotChanged,
    Unlearnt,
)
from .instance.messages import ListsFailed, ToolLists
from .kernel import Deferred, Handle, LoopActor, answers, handles
from .snapshot import EMPTY_TOOLS, Learnt, NameConflict, Source, ToolSnapshot, merge_tools
from .store import LoadCatalog, SaveLists, SaveVersion, StoredCatalog, StoreMessage

KIND = "tools"

# Reading the files of a thousand servers takes well under a second; longer means a disk that hangs.
LOAD_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Catalog:
    """The estate: what was learnt, by spec key, and the snapshot made of it."""

    learnt: Mapping[SpecKey, Learnt]
    snapshot: ToolSnapshot
    tried: frozenset[SpecKey] = frozenset()  # the first attempt failed


@dataclass(frozen=True, slots=True)
class _Loaded:
    outcome: StoredCatalog | Exception


@dataclass(frozen=True, slots=True)
class _Rebuild:
    """Something was learnt since the last snapshot."""


class Index(LoopActor[Catalog]):
    """See the module."""

    def __init__(self, node: NodeContext, store: Handle[StoreMessage]) -> None:
        super().__init__()
        self._node = node
        self._store = store
        self._waiting: dict[SpecKey, list[Deferred[ListsLearnt]]] = {}
        self._news: dict[SpecKey, ListsLearnt] = {}
        self._patient: list[tuple[frozenset[SpecKey], Deferred[None]]] = []
        self._rebuilding = False

    @property
    def _kept(self) -> Catalog:
        assert self.estate is not None  # before anything was learnt, an empty one
        return self.estate

    def on_start(self, estate: Catalog | None = None) -> None:
        if estate is not None:
            self._rebuild_soon()
            return
        self.estate = Catalog(MappingProxyType({}), EMPTY_TOOLS)
        self.hold_start()
        self.run(self._store.ask(LoadCatalog(), LOAD_TIMEOUT), _Loaded)

    # --- learning -------------------------------------------------------------------------------

    @handles(_Loaded)
    def _on_loaded(self, message: _Loaded) -> None:
        if isinstance(message.outcome, Exception):
            raise message.outcome
        learnt = {
            record.spec_key: found
            for record in message.outcome.records
            if record.profile == EMPTY_PROFILE and (found := _from_store(record)) is not None
        }
        learnt.update(self._kept.learnt)
        kept = message.outcome.versions.get(KIND)
        # After a crash that cost the estate, what was published last is newer than what is on disk.
        published = self._node.world.world.tools
        snapshot = self._kept.snapshot
        if kept is not None and kept.version >= published.version:
            snapshot = replace(snapshot, version=kept.version, etag=kept.etag)
        elif published.version:
            snapshot = replace(snapshot, version=published.version, etag=published.etag)
        self.estate = Catalog(MappingProxyType(learnt), snapshot, self._kept.tried)
        self._rebuild()
        self.started()

    @handles(ToolLists)
    def _on_tool_lists(self, message: ToolLists) -> None:
        known = self._kept.learnt.get(message.spec_key)
        if _is_doubtful(message):
            if known is not None and known.tools:
                self._learn(replace(known, stale=True))
            else:
                self._learn(_live(message))
        else:
            self._learn(_live(message))
            self._save(message)
        for rejected in message.rejected:
            self._node.tell_event(
                EventKind.TOOL_ENTRY_REJECTED,
                instance=message.instance_id,
                reason=f"{rejected.name or f'entry {rejected.index}'}: {rejected.why}",
            )
        self._tell_news(ListsLearnt(message.spec_key))

    @handles(ListsFailed)
    def _on_lists_failed(self, message: ListsFailed) -> None:
        logger.bind(instance=message.instance_id).warning("its lists could not be read: {}", message.message)
        known = self._kept.learnt.get(message.spec_key)
        if known is not None and not known.stale:
            self._learn(replace(known, stale=True))
        self._tell_news(ListsLearnt(message.spec_key, message.message))

    @handles(LearningFailed)
    def _on_learning_failed(self, message: LearningFailed) -> None:
        self.estate = replace(self._kept, tried=self._kept.tried | {message.spec_key})
        self._rebuild_soon()

    @answers(AwaitFirstLists)
    def _on_await_first_lists(self, request: AwaitFirstLists) -> Deferred[None] | None:
        if not request.spec_keys & self._kept.snapshot.pending:
            return None
        deferred: Deferred[None] = self.defer()
        self._patient.append((request.spec_keys, deferred))
        return deferred

    @answers(AwaitLists)
    def _on_await_lists(self, request: AwaitLists) -> ListsLearnt | Deferred[ListsLearnt]:
        if not request.fresh and request.spec_key in self._kept.learnt and not self._rebuilding:
            return ListsLearnt(request.spec_key)
        deferred: Deferred[ListsLearnt] = self.defer()
        self._waiting.setdefault(request.spec_key, []).append(deferred)
        return deferred

    @answers(Unlearnt)
    def _on_unlearnt(self, _request: Unlearnt) -> tuple[SpecKey, ...]:
        keys = dict.fromkeys(server.view.spec_key for server in self._node.world.world.servers.values())
        return tuple(key for key in keys if key not in self._kept.learnt)

    @handles(ServersChanged)
    def _on_servers_changed(self, _message: ServersChanged) -> None:
        self._rebuild_soon()

    def _learn(self, learnt: Learnt) -> None:
        kept = self._kept
        self.estate = replace(kept, learnt=MappingProxyType({**kept.learnt, learnt.spec_key: learnt}))

    def _tell_news(self, news: ListsLearnt) -> None:
        """Publish first, answer those who wait for it then: they may look at the world."""
        self._news[news.spec_key] = news
        self._rebuild_soon()

    # --- publishing -----------------------------------------------------------------------------

    def _rebuild_soon(self) -> None:
        """Once for all that is in the mailbox now: a storm of changes is one rebuild."""
        if not self._rebuilding:
            self._rebuilding = True
            self.note(_Rebuild())

    @handles(_Rebuild)
    def _on_rebuild(self, _message: _Rebuild) -> None:
        self._rebuilding = False
        self._rebuild()
        for key, news in self._news.items():
            for deferred in self._waiting.pop(key, ()):
                deferred.answer(news)
        self._news.clear()

    def _rebuild(self) -> None:
        node, kept = self._node, self._kept
        before = kept.snapshot
        began = node.clock.monotonic()
        snapshot = merge_tools(
            [server.view for server in node.world.world.servers.values()],
            kept.learnt,
            namespace=node.settings.tool_namespace,
            separator=node.settings.tool_separator,
            previous=before,
        )
        node.metrics.catalog_rebuild_seconds(KIND).observe(node.clock.monotonic() - began)
        snapshot = replace(snapshot, pending=self._pending())
        self.estate = replace(kept, snapshot=snapshot)
        node.world.publish_tools(snapshot)
        node.metrics.catalog_version(KIND).set(snapshot.version)
        self._report_conflicts(before.conflicts, snapshot.conflicts)
        if snapshot.version != before.version:
            self._store.tell(SaveVersion(KIND, KindVersion(snapshot.version, snapshot.etag)))
            node.tell_event(
                EventKind.CATALOG_CHANGED,
                from_=str(before.version),
                to=str(snapshot.version),
                reason=f"{len(snapshot.entries)} tools",
            )
        node.subscribers.tell(SnapshotChanged("tools", snapshot.version, snapshot.etag))
        still_patient = [(keys, deferred) for keys, deferred in self._patient if keys & snapshot.pending]
        for keys, deferred in self._patient:
            if not keys & snapshot.pending:
                deferred.answer(None)
        self._patient = still_patient

    def _pending(self) -> frozenset[SpecKey]:
        """What is being learnt for the first time: nobody learns anything where bootstrap is disabled."""
        if self._node.settings.bootstrap_mode == "disabled":
            return frozenset()
        servers = self._node.world.world.servers.values()
        keys = frozenset(server.view.spec_key for server in servers)
        return keys - self._kept.learnt.keys() - self._kept.tried

    def _report_conflicts(self, before: tuple[NameConflict, ...], after: tuple[NameConflict, ...]) -> None:
        for conflict in after:
            if conflict not in before:
                self._node.tell_event(
                    EventKind.TOOL_NAME_CONFLICT,
                    server=conflict.server,
                    reason=f"{conflict.raw_name}: {conflict.wanted} is taken, listed as {conflict.given}",
                )

    # --- the store's form -----------------------------------------------------------------------

    def _save(self, message: ToolLists) -> None:
        servers = self._node.world.world.servers
        names = [name for name, server in servers.items() if server.view.spec_key == message.spec_key]
        if not names:
            return  # it was removed while its lists were read
        record = CatalogRecord(
            spec_key=message.spec_key,
            profile=message.profile,
            server_name=names[0],
            lists={KIND: tuple(ListedEntry(tool.name, tool.definition) for tool in message.tools)},
            learnt_at=rfc3339(self._node.clock.wall()),
            era=message.hello.version,
            server_version=message.hello.server_version,
            instructions=message.hello.instructions,
            capabilities=message.hello.capabilities.raw,
        )
        self._store.tell(SaveLists(record))


def _is_doubtful(message: ToolLists) -> bool:
    """No tools, just after the start, from a server that has tools: mostly one that is not ready for them (I14).

    A server that has announced a change and then lists none means it.
    """
    return not message.tools and message.hello.capabilities.tools and not message.announced


def _live(message: ToolLists) -> Learnt:
    return Learnt(message.spec_key, message.profile, message.tools, Source.LIVE)


def _from_store(record: CatalogRecord) -> Learnt | None:
    entries = record.lists.get(KIND)
    if entries is None:
        return None
    page = parse_tools_page(tools_result([entry.definition for entry in entries]))
    tools: tuple[ListedTool, ...] = page.entries
    return Learnt(record.spec_key, EMPTY_PROFILE, tools, Source.CACHE)
