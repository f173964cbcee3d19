"""The owner of one kind of catalog: what each server listed, the merged snapshot, its version.

It learns from instances, keeps what it learns in the store, and publishes a new snapshot in one assignment. A
list that could not be read leaves the last good one in place, marked stale. There is one for each kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeVar

from loguru import logger

from mcpv_node.protocol import ServerHello
from mcpv_node.settings import PinTools, ServerName, SpecKey
from mcpv_node.store import MAX_PROFILES, KindVersion
from mcpv_node.telemetry import EventKind, rfc3339

from .callers import EMPTY_PROFILE, ClientProfile
from .context import NodeContext
from .index_messages import (
    Approve,
    AwaitFirstLists,
    AwaitLists,
    DescribeLists,
    LearningFailed,
    ListsLearnt,
    ListsReport,
    ServersChanged,
    SnapshotChanged,
    Unlearnt,
)
from .instance.messages import Lists, ListsFailed
from .kept_lists import learnt_of, record_of, too_long_gone
from .kernel import Deferred, Handle, LoopActor, answers, handles
from .pins import compare_with_pins, pins_after_approval
from .snapshot import (
    Kind,
    Learnt,
    NameConflict,
    Naming,
    Snapshot,
    Source,
    empty_snapshot,
    merge,
)
from .store import ForgetLists, LoadCatalog, SaveLists, SaveVersion, StoredCatalog, StoreMessage

_T = TypeVar("_T")

# Reading the files of a thousand servers takes well under a second; longer means a disk that hangs.
LOAD_TIMEOUT = 10.0


@dataclass(frozen=True, slots=True)
class Catalog:
    """The estate: what was learnt, and the snapshot made of it."""

    learnt: Mapping[tuple[SpecKey, ClientProfile], Learnt]
    snapshot: Snapshot
    tried: frozenset[SpecKey] = frozenset()  # the first attempt failed
    # Of the last attempt, where it did not succeed.
    failures: Mapping[SpecKey, str] = field(default_factory=lambda: MappingProxyType({}))
    rejected: Mapping[SpecKey, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class _Loaded:
    outcome: StoredCatalog | Exception


@dataclass(frozen=True, slots=True)
class _News:
    """A reading that is over: when it began, and why it failed."""

    began: float
    failure: str | None


@dataclass(frozen=True, slots=True)
class _Waiting:
    """Somebody who waits for a reading that began at `since` or later; None: for whatever is known."""

    since: float | None
    deferred: Deferred[ListsLearnt]


@dataclass(frozen=True, slots=True)
class _Rebuild:
    """Something was learnt since the last snapshot."""


class Index(LoopActor[Catalog]):
    """See the module."""

    def __init__(self, node: NodeContext, store: Handle[StoreMessage], kind: Kind) -> None:
        super().__init__()
        self._node = node
        self._store = store
        self._kind: Kind = kind
        self._waiting: dict[SpecKey, list[_Waiting]] = {}
        self._news: dict[SpecKey, list[_News]] = {}
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
        self.estate = Catalog(MappingProxyType({}), empty_snapshot(self._kind))
        self.hold_start()
        self.run(self._store.ask(LoadCatalog(), LOAD_TIMEOUT), _Loaded)

    # --- learning -------------------------------------------------------------------------------

    @handles(_Loaded)
    def _on_loaded(self, message: _Loaded) -> None:
        if isinstance(message.outcome, Exception):
            raise message.outcome
        learnt = {
            (found.spec_key, found.profile): found
            for record in message.outcome.records
            if (found := learnt_of(self._kind, record, self._node.settings.pin_tools)) is not None
        }
        learnt.update(self._kept.learnt)
        kept = message.outcome.versions.get(self._kind)
        # After a crash that cost the estate, what was published last is newer than what is on disk.
        published = self._node.world.world.snapshot(self._kind)
        snapshot = self._kept.snapshot
        if kept is not None and kept.version >= published.version:
            snapshot = replace(snapshot, version=kept.version, etag=kept.etag)
        elif published.version:
            snapshot = replace(snapshot, version=published.version, etag=published.etag)
        # Nor will anybody learn now what was not waited for any more then.
        tried = self._present() - published.pending if published.version else frozenset[SpecKey]()
        self.estate = replace(
            self._kept,
            learnt=MappingProxyType(learnt),
            snapshot=snapshot,
            tried=self._kept.tried | tried,
        )
        self._forget_who_is_long_gone()
        self._rebuild()
        self.started()

    @handles(Lists)
    def _on_lists(self, message: Lists) -> None:
        known = self._kept.learnt.get((message.spec_key, message.profile))
        is_doubtful = _is_doubtful(message)
        failure = None
        is_news = True
        if known is not None and _is_known(message, known, self._node.settings.pin_tools):
            self._learn(replace(known, learnt_at=self._wall_time()))
            is_news = False
        elif is_doubtful and known is not None and known.listed:
            self._learn(replace(known, stale=True))
            failure = f"it listed no {self._kind} right after its start; what it had listed before stands"
        else:
            fresh = self._learnt_from(message, known)
            # Without tools, a server that says it has some is of no use; without prompts, it is like most.
            if not is_doubtful or self._kind != "tools":
                fresh = self._save(fresh, known)
            # Most readings find what is published already, and nobody has to wait for a merge of all.
            is_news = known is None or replace(known, learnt_at=fresh.learnt_at) != fresh
            self._learn(fresh)
        self._note_failure(message.spec_key, failure)
        self._note_rejected(message)
        self._tell_news(message, None, is_news=is_news)

    def _wall_time(self) -> str:
        return rfc3339(self._node.clock.wall())

    def _learnt_from(self, message: Lists, known: Learnt | None) -> Learnt:
        fresh = Learnt(
            message.spec_key,
            message.profile,
            message.listed,
            Source.LIVE,
            hello=message.hello,
            learnt_at=self._wall_time(),
        )
        return self._pin(fresh, known, message) if self._kind == "tools" else fresh

    def _pin(self, fresh: Learnt, known: Learnt | None, message: Lists) -> Learnt:
        """Compare with how the tools were when they were first seen or approved, and tell what is new."""
        mode = self._node.settings.pin_tools
        # A profile that is new here makes no definition new: what others were shown is what was agreed to.
        pinned = known or self._kept.learnt.get((message.spec_key, EMPTY_PROFILE))
        found = compare_with_pins(
            fresh.listed,
            pinned.pins if pinned is not None else {},
            known.listed if known is not None else (),
            keep=mode != "off",
        )
        server = self._first_name(message.spec_key)
        for name in found.news:
            self._node.tell_event(
                EventKind.TOOL_CHANGED,
                server=server,
                instance=message.instance_id,
                reason=f"the definition of {name} is not what it was"
                + ("; it is withheld until `server approve`" if mode == "block" else ""),
            )
        return replace(
            fresh,
            pins=found.pins,
            changed=found.changed,
            withheld=found.changed if mode == "block" else frozenset(),
        )

    def _note_rejected(self, message: Lists) -> None:
        said = tuple(f"{one.name or f'entry {one.index}'}: {one.why}" for one in message.rejected)
        if said == self._kept.rejected.get(message.spec_key, ()):
            return
        server = self._first_name(message.spec_key)
        for reason in said:
            self._node.tell_event(
                EventKind.ENTRY_REJECTED, server=server, instance=message.instance_id, reason=reason
            )
        self.estate = replace(
            self._kept, rejected=MappingProxyType({**self._kept.rejected, message.spec_key: said})
        )

    @handles(ListsFailed)
    def _on_lists_failed(self, message: ListsFailed) -> None:
        logger.bind(instance=message.instance_id).log(
            "DEBUG" if message.asked else "WARNING",
            "its {} could not be read: {}",
            self._kind,
            message.message,
        )
        known = self._kept.learnt.get((message.spec_key, message.profile))
        if known is not None and not known.stale:
            self._learn(replace(known, stale=True))
        self._note_failure(message.spec_key, message.message)
        self._tell_news(message, message.message)

    def _note_failure(self, spec_key: SpecKey, message: str | None) -> None:
        kept = self._kept
        if kept.failures.get(spec_key) != message:
            failures = {key: why for key, why in kept.failures.items() if key != spec_key}
            if message is not None:
                failures[spec_key] = message
            self.estate = replace(kept, failures=MappingProxyType(failures))

    @handles(LearningFailed)
    def _on_learning_failed(self, message: LearningFailed) -> None:
        self.estate = replace(self._kept, tried=self._kept.tried | {message.spec_key})
        self._note_failure(message.spec_key, message.message)
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
        if not request.fresh and self._is_learnt(request.spec_key) and not self._rebuilding:
            return ListsLearnt(request.spec_key)
        deferred: Deferred[ListsLearnt] = self.defer()
        since = self._node.clock.monotonic() if request.fresh else None
        self._waiting.setdefault(request.spec_key, []).append(_Waiting(since, deferred))
        return deferred

    @answers(Unlearnt)
    def _on_unlearnt(self, _request: Unlearnt) -> tuple[SpecKey, ...]:
        keys = dict.fromkeys(server.view.spec_key for server in self._node.world.world.servers.values())
        return tuple(key for key in keys if not self._is_learnt(key))

    @answers(Approve)
    def _on_approve(self, request: Approve) -> tuple[str, ...]:
        approved: set[str] = set()
        for known in self._kept.learnt.values():
            if known.spec_key != request.spec_key or not known.changed:
                continue
            names = known.changed if request.names is None else known.changed & request.names
            approved |= names
            changed = known.changed - names
            fresh = replace(
                known,
                pins=pins_after_approval(known.listed, known.pins, names),
                changed=changed,
                withheld=known.withheld & changed,
            )
            self._learn(self._save(fresh))
        if approved:
            self._rebuild_soon()
        return tuple(sorted(approved))

    @answers(DescribeLists)
    def _on_describe_lists(self, request: DescribeLists) -> ListsReport:
        kept = self._kept
        failure = kept.failures.get(request.spec_key)
        known = kept.learnt.get((request.spec_key, EMPTY_PROFILE))
        of_all = [one for (key, _), one in kept.learnt.items() if key == request.spec_key]
        known = known or next(iter(of_all), None)
        if known is None:
            return ListsReport(learnt=False, failure=failure)
        return ListsReport(
            learnt=True,
            entries=len(known.listed),
            learnt_at=known.learnt_at or None,
            source=str(known.source),
            stale=known.stale,
            failure=failure,
            changed=tuple(sorted(frozenset[str]().union(*(one.changed for one in of_all)))),
            withheld=tuple(sorted(frozenset[str]().union(*(one.withheld for one in of_all)))),
            rejected=kept.rejected.get(request.spec_key, ()),
        )

    @handles(ServersChanged)
    def _on_servers_changed(self, _message: ServersChanged) -> None:
        self._forget_who_is_long_gone()
        for (key, _), known in self._kept.learnt.items():
            # A new server is started before it is let in, so it may have listed before it had a name.
            if known.listed and not known.is_kept and key in self._present():
                self._learn(self._save(known))
        self._rebuild_soon()

    def _forget_who_is_long_gone(self) -> None:
        """What was said of servers that are gone is of no use; their lists are, for a while."""
        kept, present = self._kept, self._present()
        gone = too_long_gone(kept.learnt, present)
        for key in sorted(gone):
            self._store.tell(ForgetLists(key))
        self.estate = replace(
            kept,
            learnt=MappingProxyType({at: known for at, known in kept.learnt.items() if at[0] not in gone}),
            tried=kept.tried & present,
            failures=_only(kept.failures, present),
            rejected=_only(kept.rejected, present),
        )

    def _present(self) -> frozenset[SpecKey]:
        """The spec keys of the servers that there are."""
        return frozenset(server.view.spec_key for server in self._node.world.world.servers.values())

    def _is_learnt(self, spec_key: SpecKey) -> bool:
        """Whether those without capabilities see it; other profiles fall back to that."""
        return (spec_key, EMPTY_PROFILE) in self._kept.learnt

    def _learn(self, learnt: Learnt) -> None:
        kept = self._kept
        others = kept.learnt
        if learnt.profile != EMPTY_PROFILE and (learnt.spec_key, learnt.profile) not in others:
            others = _without_oldest_profile(others, learnt.spec_key)
        # At its old place, so that the order does not depend on what is learnt again.
        self.estate = replace(
            kept, learnt=MappingProxyType({**others, (learnt.spec_key, learnt.profile): learnt})
        )

    def _tell_news(self, message: Lists | ListsFailed, failure: str | None, *, is_news: bool = True) -> None:
        """Publish first, answer those who wait for it then: they may look at the world."""
        if message.profile == EMPTY_PROFILE:
            self._news.setdefault(message.spec_key, []).append(_News(message.began, failure))
        if is_news:
            self._rebuild_soon()
        elif not self._rebuilding:
            self._answer_waiting()

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
        self._answer_waiting()

    def _answer_waiting(self) -> None:
        news, self._news = self._news, {}
        waiting, self._waiting = self._waiting, {}
        for key, ones in waiting.items():
            for one in ones:
                if not self._answer(key, one, news.get(key, [])):
                    self._waiting.setdefault(key, []).append(one)

    def _answer(self, key: SpecKey, waiting: _Waiting, news: list[_News]) -> bool:
        """Tell whether there was something to answer."""
        since = waiting.since
        answers_it = [one for one in news if since is None or one.began >= since]
        if answers_it:
            waiting.deferred.answer(ListsLearnt(key, answers_it[-1].failure))
        elif since is None and self._is_learnt(key):
            waiting.deferred.answer(ListsLearnt(key))
        else:
            return False
        return True

    def _rebuild(self) -> None:
        node, kept = self._node, self._kept
        before = kept.snapshot
        began = node.clock.monotonic()
        snapshot = merge(
            [server.view for server in node.world.world.servers.values()],
            kept.learnt,
            naming=Naming(node.settings.tool_namespace, node.settings.tool_separator),
            previous=before,
        )
        node.metrics.catalog_rebuild_seconds(self._kind).observe(node.clock.monotonic() - began)
        snapshot = replace(snapshot, pending=self._pending())
        self.estate = replace(kept, snapshot=snapshot)
        node.world.publish(snapshot, self._hellos() if self._kind == "tools" else None)
        node.metrics.catalog_version(self._kind).set(snapshot.version)
        self._report_conflicts(before.conflicts, snapshot.conflicts)
        if snapshot.version != before.version:
            self._store.tell(SaveVersion(self._kind, KindVersion(snapshot.version, snapshot.etag)))
            node.tell_event(
                EventKind.CATALOG_CHANGED,
                from_=str(before.version),
                to=str(snapshot.version),
                reason=f"{len(snapshot.entries)} {self._kind}",
            )
        node.subscribers.tell(SnapshotChanged(self._kind, snapshot.version, snapshot.etag))
        still_patient = [(keys, deferred) for keys, deferred in self._patient if keys & snapshot.pending]
        for keys, deferred in self._patient:
            if not keys & snapshot.pending:
                deferred.answer(None)
        self._patient = still_patient

    def _hellos(self) -> Mapping[SpecKey, ServerHello]:
        """What each server said of itself, mostly as it was published before."""
        hellos: dict[SpecKey, ServerHello] = {}
        for (key, profile), known in self._kept.learnt.items():
            if known.hello is not None and (profile == EMPTY_PROFILE or key not in hellos):
                hellos[key] = known.hello
        return MappingProxyType(hellos)

    def _pending(self) -> frozenset[SpecKey]:
        """What is being learnt for the first time: nobody learns anything where bootstrap is disabled."""
        if self._node.settings.bootstrap_mode == "disabled":
            return frozenset()
        learnt = {key for key, profile in self._kept.learnt if profile == EMPTY_PROFILE}
        return self._present() - learnt - self._kept.tried

    def _report_conflicts(self, before: tuple[NameConflict, ...], after: tuple[NameConflict, ...]) -> None:
        for conflict in after:
            if conflict in before:
                continue
            if self._kind == "resources":
                reason = f"{conflict.wanted} is listed by {conflict.holder}, too, whose entry is shown"
            else:
                reason = f"{conflict.raw_name}: {conflict.wanted} is taken, listed as {conflict.given}"
            self._node.tell_event(EventKind.NAME_CONFLICT, server=conflict.server, reason=reason)

    # --- the store's form -----------------------------------------------------------------------

    def _first_name(self, spec_key: SpecKey) -> ServerName | None:
        servers = self._node.world.world.servers
        return next((name for name, server in servers.items() if server.view.spec_key == spec_key), None)

    def _save(self, learnt: Learnt, known: Learnt | None = None) -> Learnt:
        """Have it kept, unless what is `known` is kept and the same."""
        if known is None or not known.is_kept or _content(known) != _content(learnt):
            name = self._first_name(learnt.spec_key)
            if name is None or learnt.hello is None:
                return learnt  # it was removed while its lists were read, or is not let in yet
            self._store.tell(SaveLists(record_of(self._kind, learnt, learnt.hello, name)))
        return replace(learnt, is_kept=True)


def _content(learnt: Learnt) -> tuple[object, ...]:
    return learnt.listed, learnt.hello, learnt.pins


def _is_known(message: Lists, known: Learnt, pin_tools: PinTools) -> bool:
    """Whether a server has listed the very same once more, and nothing else has changed about it, either."""
    if message.listed != known.listed or message.hello != known.hello:
        return False
    if known.source is not Source.LIVE or known.stale or not known.is_kept:
        return False
    withheld = known.changed if pin_tools == "block" else frozenset[str]()
    return known.withheld == withheld and (pin_tools != "off" or not known.changed)


def _is_doubtful(message: Lists) -> bool:
    """Nothing, just after the start, from a server that says it has some: mostly one that is not ready yet (I14).

    A server that has announced a change and then lists nothing means it, and so does one that was asked again.
    """
    return message.offered and not message.listed and not message.again


def _without_oldest_profile(
    learnt: Mapping[tuple[SpecKey, ClientProfile], Learnt], spec_key: SpecKey
) -> Mapping[tuple[SpecKey, ClientProfile], Learnt]:
    profiles = [profile for key, profile in learnt if key == spec_key and profile != EMPTY_PROFILE]
    if len(profiles) < MAX_PROFILES:
        return learnt
    return {key: one for key, one in learnt.items() if key != (spec_key, profiles[0])}


def _only(said: Mapping[SpecKey, _T], present: frozenset[SpecKey]) -> Mapping[SpecKey, _T]:
    return MappingProxyType({key: one for key, one in said.items() if key in present})
