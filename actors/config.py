"""Config: the owner of the configuration in effect. One apply at a time.

A reload is asked for by a person, by a signal, or by the files themselves: they are looked at twice a second, and
what has changed is applied once it has stood still for one look, so a burst of edits is applied once. Files are looked
at, not watched: a folder that is mounted from elsewhere tells nobody of its changes.

What is wrong with the files is kept until they are good, for whoever asks for the node's state.

A program changes one entry by an `EditConfig`: the files are written and applied as one thing, and put back as they
were when what was asked for cannot be brought into effect. Edits wait for each other, and for reloads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
from loguru import logger
from msgspec import Struct

from mcpv_node.settings import Change, Difference, Loaded, Marks, NodeSettings, SettingsError, file_marks
from mcpv_node.telemetry import EventKind

from .config_edits import Edit, FilesNotEditable, NotEdited, Written, take_back
from .context import NodeContext
from .herald import ReloadBegan, ReloadEnded
from .kernel import Deferred, LoopActor, Request, answers, handles

# Between two looks at the files; seconds. An edit is applied one to two looks after it was made.
LOOK_EVERY = 0.5

# New servers have to start before the old ones end, each within its own bound; no reload takes longer (seconds).
RELOAD_BOUND = 600.0


class ReloadFailed(Exception):
    """What was configured cannot be brought into effect; everything is as it was."""


@dataclass(frozen=True, slots=True)
class Applied:
    """The configuration is in effect; `changes` is empty when it already was."""

    changes: tuple[Change, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rejected:
    """The configuration before goes on; `problems` say why, one line each."""

    reason: str
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reload(Request[Applied | Rejected]):
    """Read the files and bring them into effect; answered when they are, or are not going to be."""


@dataclass(frozen=True, slots=True)
class NotWritten:
    """The files stay as they are: `error` says why."""

    error: NotEdited


@dataclass(frozen=True, slots=True)
class EditConfig(Request[Applied | Rejected | NotWritten]):
    """Change one entry in the files and bring that into effect; after any other answer than Applied they are as before."""

    edit: Edit


@dataclass(frozen=True, slots=True)
class ConfigStatus:
    """How it stands with the configuration."""

    applied_at: datetime
    changes: tuple[Change, ...]  # what the last apply that changed anything has changed
    problem: Rejected | None


@dataclass(frozen=True, slots=True)
class ShowConfig(Request[ConfigStatus]):
    """Which configuration is in effect since when, and what is wrong with a newer one?"""


@dataclass(frozen=True, slots=True)
class _Look:
    """It is time to look at the files."""


@dataclass(frozen=True, slots=True)
class _Seen:
    outcome: Marks | Exception


@dataclass(frozen=True, slots=True)
class _Read:
    outcome: tuple[Marks, Loaded | Exception] | Exception


@dataclass(frozen=True, slots=True)
class _Done:
    loaded: Loaded
    outcome: Difference | Exception


@dataclass(frozen=True, slots=True)
class _Written:
    outcome: Written | Exception


@dataclass(frozen=True, slots=True)
class _TakenBack:
    rejected: Rejected
    outcome: Exception | None


ConfigMessage: TypeAlias = Reload | EditConfig | ShowConfig

_EditAnswer: TypeAlias = Deferred[Applied | Rejected | NotWritten]


_OUTCOMES: dict[type[Applied | Rejected], str] = {Applied: "applied", Rejected: "rejected"}


class Estate(Struct, frozen=True):
    """What outlives a crash: that the files are applied again then is of no harm."""

    applied_at: datetime
    changes: tuple[Change, ...] = ()
    problem: Rejected | None = None


class Config(LoopActor[Estate]):
    """See the module.

    `read` reads the files and `write` changes them, and both may block; None where there are none. `marks` are those of the files when they
    were read for the node's start. `apply` brings settings into effect, or raises ReloadFailed and has undone what it
    did. `give_up` ends the node: `reloadMode: strict` says so.
    """

    def __init__(
        self,
        node: NodeContext,
        read: Callable[[], Loaded] | None,
        apply: Callable[[NodeSettings], Coroutine[Any, Any, Difference]],
        give_up: Callable[[str], None],
        *,
        write: Callable[[Edit], Written] | None = None,
        marks: Marks = (),
        look_every: float = LOOK_EVERY,
    ) -> None:
        super().__init__()
        self._node = node
        self._read_files = read
        self._write_files = write
        self._bring_into_effect = apply
        self._end_node = give_up
        self._look_every = look_every
        # The files as they were when they were last read, and at the last look.
        self._known = marks
        self._before = marks
        self._is_busy = False
        # Who asked for the apply under way, and who came meanwhile: the files may have changed since.
        self._asked: list[Deferred[Applied | Rejected]] = []
        self._next: list[Deferred[Applied | Rejected]] = []
        # The edit under way with what it has written, and those that wait.
        self._edit: tuple[_EditAnswer, Written | None] | None = None
        self._edits: deque[tuple[Edit, _EditAnswer]] = deque()

    def on_start(self, estate: Estate | None = None) -> None:
        if estate is None:
            self.estate = Estate(self._node.clock.wall())
        if self.incarnation > 1:
            # The one before may have begun a reload, and will never say that it has ended.
            self._node.tell_herald(ReloadEnded())
        if self._read_files is not None:
            self.after(self._look_every, _Look())

    # --- who asks -------------------------------------------------------------------------------

    @answers(ShowConfig)
    def _on_show(self, _request: ShowConfig) -> ConfigStatus:
        return ConfigStatus(self._kept.applied_at, self._kept.changes, self._kept.problem)

    @answers(Reload)
    def _on_reload(self, _request: Reload) -> Rejected | Deferred[Applied | Rejected]:
        if self._read_files is None:
            return Rejected(
                "this node was given its settings by the program it runs in, and has no file of them"
            )
        deferred: Deferred[Applied | Rejected] = self.defer()
        if self._is_busy:
            self._next.append(deferred)
        else:
            self._asked.append(deferred)
            self._begin()
        return deferred

    @answers(EditConfig)
    def _on_edit(self, request: EditConfig) -> NotWritten | _EditAnswer:
        if self._write_files is None:
            return NotWritten(
                FilesNotEditable(
                    "this node was given its settings by the program it runs in, and has no file of them"
                )
            )
        deferred: _EditAnswer = self.defer()
        self._edits.append((request.edit, deferred))
        if not self._is_busy:
            self._go_on()
        return deferred

    def _go_on(self) -> None:
        """Do what waits, edits first: who reloads wants all that is in the files."""
        if self._edits:
            assert self._write_files is not None
            edit, deferred = self._edits.popleft()
            self._is_busy, self._edit = True, (deferred, None)
            self.run(asyncio.to_thread(self._write_files, edit), _Written)
        elif self._next:
            self._asked, self._next = self._next, []
            self._begin()

    @handles(_Written)
    def _on_written(self, message: _Written) -> None:
        assert self._edit is not None
        deferred, _ = self._edit
        match message.outcome:
            case Written():
                self._edit = deferred, message.outcome
                self._begin()
            case NotEdited() as error:
                self._end_edit(NotWritten(error))
            case SettingsError(problems=problems):
                self._end_edit(Rejected("the configuration would have errors", tuple(map(str, problems))))
            case other:
                raise other

    @handles(_TakenBack)
    def _on_taken_back(self, message: _TakenBack) -> None:
        if message.outcome is not None:
            logger.error("the configuration could not be put back as it was: {}", message.outcome)
        self._end_edit(message.rejected)

    def _end_edit(self, answer: Applied | Rejected | NotWritten) -> None:
        assert self._edit is not None
        (deferred, _), self._edit, self._is_busy = self._edit, None, False
        deferred.answer(answer)
        self._go_on()

    # --- looking at the files -------------------------------------------------------------------

    @handles(_Look)
    def _on_look(self, _message: _Look) -> None:
        self.run(asyncio.to_thread(file_marks, self._paths()), _Seen)

    @handles(_Seen)
    def _on_seen(self, message: _Seen) -> None:
        self.after(self._look_every, _Look())
        if isinstance(message.outcome, Exception) or self._is_busy:
            return
        marks = message.outcome
        before, self._before = self._before, marks
        if marks != self._known and marks == before:
            self._begin()

    def _paths(self) -> tuple[Path, ...]:
        return tuple(path for path, _ in self._known)

    # --- reading and applying -------------------------------------------------------------------

    def _begin(self) -> None:
        assert self._read_files is not None
        self._is_busy = True
        self._node.tell_herald(ReloadBegan())
        self.run(asyncio.to_thread(_read_between_looks, self._read_files, self._paths()), _Read)

    @handles(_Read)
    def _on_read(self, message: _Read) -> None:
        if isinstance(message.outcome, Exception):
            raise message.outcome
        self._known, loaded = message.outcome
        if isinstance(loaded, SettingsError):
            problems = tuple(str(problem) for problem in loaded.problems)
            self._conclude(Rejected("the configuration has errors", problems))
            return
        if isinstance(loaded, Exception):
            self._conclude(Rejected(f"the configuration could not be read: {loaded}"))
            return
        self.run(self._bring_into_effect(loaded.settings), lambda outcome: _Done(loaded, outcome))

    @handles(_Done)
    def _on_done(self, message: _Done) -> None:
        match message.outcome:
            case Difference(changes=changes):
                warnings = tuple(str(problem) for problem in message.loaded.warnings)
                self._conclude(Applied(changes, warnings))
            case ReloadFailed() as failure:
                self._conclude(Rejected(str(failure)))
            case other:
                # Nobody knows how far it came: a defect of ours, and the supervisor's business.
                raise other

    def _conclude(self, outcome: Applied | Rejected) -> None:
        if self._edit is not None and self._edit[1] is not None and isinstance(outcome, Rejected):
            # The files were good before: they are so again, and nothing of this is left.
            written = self._edit[1]
            self._node.metrics.reloads_total(_OUTCOMES[Rejected]).inc()
            self._tell(outcome)
            self.run(asyncio.to_thread(take_back, written), lambda result: _TakenBack(outcome, result))
            return
        self._is_busy = False
        asked, self._asked = self._asked, []
        match outcome:
            case Applied(changes=()):
                self.estate = msgspec.structs.replace(self._kept, problem=None)
            case Applied(changes=changes):
                self.estate = Estate(self._node.clock.wall(), changes)
            case Rejected():
                self.estate = msgspec.structs.replace(self._kept, problem=outcome)
        self._node.metrics.reloads_total(_OUTCOMES[type(outcome)]).inc()
        self._tell(outcome)
        self._node.tell_herald(ReloadEnded(outcome.reason if isinstance(outcome, Rejected) else None))
        for deferred in asked:
            deferred.answer(outcome)
        if isinstance(outcome, Rejected) and self._node.settings.reload_mode == "strict":
            self._end_node(outcome.reason)
        elif self._edit is not None:
            self._end_edit(outcome)
        else:
            self._go_on()

    def _tell(self, outcome: Applied | Rejected) -> None:
        match outcome:
            case Applied(changes=()):
                logger.info("the configuration has not changed")
            case Applied(changes=changes):
                said = ", ".join(f"{change.name} {change.what}" for change in changes)
                logger.info("the configuration is in effect: {}", said)
                self._node.tell_event(EventKind.CONFIG_APPLIED, reason=said)
            case Rejected(reason=reason, problems=problems):
                said = "; ".join((reason, *problems))
                logger.error("the configuration before goes on: {}", said)
                self._node.tell_event(EventKind.CONFIG_REJECTED, reason=said)

    @property
    def _kept(self) -> Estate:
        assert self.estate is not None  # on_start makes one
        return self.estate


def _read_between_looks(
    read: Callable[[], Loaded], sources: Sequence[Path]
) -> tuple[Marks, Loaded | Exception]:
    """Read the files; what was bad is not read again before one of them has changed.

    The marks are those of before they were read, where that is known: what is written meanwhile is read once more.
    """
    before = file_marks(sources)
    try:
        loaded = read()
    except Exception as error:  # noqa: BLE001  (the body of a thread; the actor says what it was)
        return before, error
    known = dict(before)
    return tuple((path, known.get(path, mark)) for path, mark in loaded.marks), loaded
