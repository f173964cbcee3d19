"""Tasks: work whose result is fetched later, under an id. What is read of them, and the id that is exchanged.

    2025-11-25    asked for with `params.task`; the result is `{"task": {...}}`; `tasks/get|result|list|cancel`
    2026-07-28    an extension: the server decides; the result has `resultType: "task"`; `tasks/get|update|cancel`

A rewritten object keeps the order of its keys and the bytes of every value that was not meant.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw

from .errors import RemoteProtocolError
from .members import members
from .meta import META, meta_in
from .reading import decode_text, is_there, read_object, read_text
from .rounds import RESULT_TYPE

GET_TASK: Final = "tasks/get"
TASK_RESULT: Final = "tasks/result"
UPDATE_TASK: Final = "tasks/update"
CANCEL_TASK: Final = "tasks/cancel"
TASK_STATUS: Final = "notifications/tasks/status"

# What names a task, in each era; the legacy `tasks/list` names none.
LEGACY_TASK_METHODS: Final = frozenset({GET_TASK, TASK_RESULT, CANCEL_TASK})
MODERN_TASK_METHODS: Final = frozenset({GET_TASK, UPDATE_TASK, CANCEL_TASK})
TASK_METHODS: Final = LEGACY_TASK_METHODS | MODERN_TASK_METHODS

RELATED_TASK: Final = "io.modelcontextprotocol/related-task"

_TASK: Final = "task"
_ID: Final = "taskId"
_STATUS: Final = "status"
# In milliseconds, as each era spells it.
_TTL: Final = ("ttl", "ttlMs")
_OBJECT: Final = ord("{")
_OVER: Final = frozenset({"completed", "failed", "cancelled"})


class TaskState(msgspec.Struct, frozen=True):
    """What a server says of one of its tasks."""

    id: str
    status: str
    ttl: float | None = None  # seconds from its creation; None: the server sets no end

    @property
    def is_over(self) -> bool:
        """Whether nothing more will become of it."""
        return self.status in _OVER


def asks_for_task(params: bytes | Raw | None) -> bool:
    """Whether a call of the older era asks to become a task."""
    # Most calls do not hold the word at all, and are not looked into.
    return (
        params is not None
        and b'"task"' in bytes(params)
        and is_there(read_object(params, "the params of tools/call"), _TASK)
    )


def created_task(result: bytes | Raw) -> TaskState | None:
    """The task that a call has become, in either era; None when this is the call's own result."""
    if b'"task"' not in bytes(result):
        return None
    found = read_object(result, "the server's result")
    if _is_task_result(found):
        return _read(found)
    # A tool's own result may have any members; with content it is one.
    if RESULT_TYPE in found or "content" in found or not is_there(found, _TASK):
        return None
    try:
        inner = members(found[_TASK])
    except msgspec.DecodeError:
        return None
    return _read(inner) if _ID in inner and _STATUS in inner else None


def task_state(found: bytes | Raw) -> TaskState | None:
    """What a result of `tasks/get` or `tasks/cancel`, or a notification of a status, says; None where it says none."""
    inside = read_object(found, "what the server says of a task")
    return _read(inside) if _ID in inside and _STATUS in inside else None


def names_task(params: bytes | Raw | None, id: str) -> bool:
    """Whether a notification is about this task."""
    return params is not None and _text(read_object(params, "params").get(_ID)) == id


def rename_task(payload: bytes | Raw, old: str, new: str) -> bytes:
    """The same params or result, with another id wherever it names this task; else the very bytes."""
    found: dict[str, object] = dict(read_object(payload, "what is said of a task"))
    renamed = _rename(found, old, new)
    inner = found.get(_TASK)
    if isinstance(inner, Raw) and memoryview(inner)[0] == _OBJECT:
        task: dict[str, object] = dict(members(inner))
        if _rename(task, old, new):
            found[_TASK] = task
            renamed = True
    meta: dict[str, object] = dict(meta_in(found))
    related = meta.get(RELATED_TASK)
    if isinstance(related, Raw):
        named: dict[str, object] = dict(read_object(related, RELATED_TASK))
        if _rename(named, old, new):
            meta[RELATED_TASK] = named
            found[META] = meta
            renamed = True
    return msgspec.json.encode(found) if renamed else bytes(payload)


def _is_task_result(found: dict[str, Raw]) -> bool:
    return _text(found.get(RESULT_TYPE)) == _TASK


def _read(found: dict[str, Raw]) -> TaskState:
    id = read_text(found, _ID, "the taskId of a task")
    status = read_text(found, _STATUS, "the status of a task")
    for name in _TTL:
        if is_there(found, name):
            try:
                return TaskState(id, status, msgspec.json.decode(found[name], type=float) / 1000)
            except msgspec.DecodeError:
                raise RemoteProtocolError(f"the {name} of a task is not a number") from None
    return TaskState(id, status)


def _rename(found: dict[str, object], old: str, new: str) -> bool:
    if _text(found.get(_ID)) != old:
        return False
    found[_ID] = new
    return True


def _text(raw: object) -> str | None:
    if not isinstance(raw, Raw):
        return None
    try:
        return decode_text(raw)
    except msgspec.DecodeError:
        return None
