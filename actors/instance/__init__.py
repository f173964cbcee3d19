"""The owner of one live session: `messages` is what it hears and tells, `actor` what it does.

`pending`, `lists` and `stderr` are parts of it.
"""

from .messages import (
    Answer,
    Call,
    CallFailed,
    CancelCall,
    Describe,
    ExitDetail,
    InstanceMessage,
    Lists,
    ListsFailed,
    ReadLists,
    StopInstance,
)

__all__ = [
    "Answer",
    "Call",
    "CallFailed",
    "Describe",
    "CancelCall",
    "ExitDetail",
    "InstanceMessage",
    "Lists",
    "ListsFailed",
    "ReadLists",
    "StopInstance",
]
