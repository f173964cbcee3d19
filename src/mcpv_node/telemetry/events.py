"""What happened, as frozen data: one event for every transition.

The kinds are a closed set; the names in `to_data` are the contract of `GET /api/v1/events`. Logs are written
from the same events (see `logs`), so both always tell the same story.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from .clock import rfc3339


class EventKind(StrEnum):
    """Every kind of event a node tells."""

    ACTOR_CRASHED = "actor_crashed"
    ACTOR_RESTARTED = "actor_restarted"
    CALL_FAILED = "call_failed"
    CATALOG_CHANGED = "catalog_changed"
    CLIENT_LEFT = "client_left"
    CLIENT_REGISTERED = "client_registered"
    CONFIG_APPLIED = "config_applied"
    CONFIG_REJECTED = "config_rejected"
    ENTRY_REJECTED = "entry_rejected"
    INSTANCE_EXIT = "instance_exit"
    INSTANCE_STATE = "instance_state"
    LEARNING_STATE = "learning_state"
    NAME_CONFLICT = "name_conflict"
    NODE_STATE = "node_state"
    ORPHAN_REAPED = "orphan_reaped"
    SERVER_STATE = "server_state"
    SESSION_CLOSED = "session_closed"
    SESSION_OPENED = "session_opened"
    SUPERVISOR_GAVE_UP = "supervisor_gave_up"
    TOOL_CHANGED = "tool_changed"


# What somebody may have to act on. Everything else is the node's ordinary life.
WARNINGS = frozenset(
    {
        EventKind.ACTOR_CRASHED,
        EventKind.CONFIG_REJECTED,
        EventKind.ENTRY_REJECTED,
        EventKind.NAME_CONFLICT,
        EventKind.ORPHAN_REAPED,
        EventKind.TOOL_CHANGED,
    }
)
ERRORS = frozenset({EventKind.SUPERVISOR_GAVE_UP})


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One transition: what, when, whose, from where to where, and why."""

    kind: EventKind
    at: datetime
    server: str | None = None
    instance: str | None = None
    # `from` is a word of the language, hence the underscore.
    from_: str | None = None
    to: str | None = None
    reason: str | None = None
    cause: str | None = None
    client: str | None = None
    # For logs only: the published names are fixed, and an actor's id means nothing to a client.
    actor: str | None = None

    def to_data(self) -> dict[str, str]:
        """Give the published form; what does not apply is left out."""
        data = {"at": rfc3339(self.at), "kind": str(self.kind)}
        given = (
            ("server", self.server),
            ("instance", self.instance),
            ("from", self.from_),
            ("to", self.to),
            ("reason", self.reason),
            ("cause", self.cause),
            ("client", self.client),
        )
        data.update((name, value) for name, value in given if value is not None)
        return data
