"""Telemetry: the clock, events, metrics and logs.

# Layout

`clock`, `events` and `redaction` are here; `metrics` (prometheus-client) and `logs` (loguru) are imported by those who
need them, as `mcpv_node.telemetry.metrics` and `mcpv_node.telemetry.logs`: everything uses the clock, and not
everything should pay for them.
"""

from __future__ import annotations

from .clock import Clock, SystemClock, rfc3339
from .events import Event, EventKind
from .redaction import PLAIN_REDACTOR, Redactor

__all__ = ["PLAIN_REDACTOR", "Clock", "Event", "EventKind", "Redactor", "SystemClock", "rfc3339"]
