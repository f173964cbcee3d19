"""The doors: MCP over HTTP and over lines, and REST.

# Layout

`services` is what the doors get of the node. `front` is one client's conversation without I/O in the legacy era;
`modern` is the other era's, one request at a time: `modern_lists`, `modern_flight` (a call under way), `held` (calls
that wait for their clients between two requests), `listening`, `mirrors`. `calls` is one call through the node,
`visibility` what a client may see, `auth` who it is, `issuer` who it is by a token of an authorization server, whose keys
`issuer_keys` owns, `rates` how much it may ask. `sessions` owns the sessions of the HTTP door.
`http_door` is that door, `wire` reads and writes its connections beside uvicorn, `http` is its application, `mcp_http` and
`modern_http` what it does under `/mcp`, `places` where a path there leads, `asgi` what they write with, `heads` what a
connection remembers of its requests; `call_answer` and `modern_answer` answer one call, `streams` are those of a session,
`outbox` is one of them: what waits for its reader, and what a reader may ask for again. `watching` is a subscription, `tasks`
work that is fetched later, for which `open_tasks` keeps instances. `event_streams` are those of what happens. `rest` is
loaded by the door when it is open. `lines` is the other door.
"""

from __future__ import annotations

from .auth import (
    DEFAULT_PRINCIPAL,
    AuthError,
    Authority,
    TokenTable,
    load_tokens,
    read_or_create_token,
    read_token,
)
from .callers import make_caller
from .calls import CallControl, CallReply, perform_call, perform_request
from .certificate import CertificateError, read_certificate
from .front import Front
from .held import HeldCalls, HeldMessage
from .http_door import DRAIN_BOUND, DoorError, HttpDoor, HttpDoorMessage
from .issuer import Issuer, check_installed
from .issuer_keys import IssuerKeys, IssuerKeysMessage
from .learning import unlearnt_for_call, wait_for_first_lists
from .lines import SOCKET_NAME, LinesDoor, LinesDoorMessage
from .linger import Connected, Linger, LingerMessage
from .open_tasks import OpenTasks, OpenTasksMessage
from .rates import Rates
from .services import DoorServices, NodeInfo, TreeData, new_consumer_id
from .sessions import CountSessions, Sessions, SessionsMessage

__all__ = [
    "DEFAULT_PRINCIPAL",
    "DRAIN_BOUND",
    "SOCKET_NAME",
    "AuthError",
    "Authority",
    "CallControl",
    "CallReply",
    "CertificateError",
    "Connected",
    "CountSessions",
    "DoorError",
    "DoorServices",
    "Front",
    "HeldCalls",
    "HeldMessage",
    "HttpDoor",
    "HttpDoorMessage",
    "Issuer",
    "IssuerKeys",
    "IssuerKeysMessage",
    "Linger",
    "LingerMessage",
    "LinesDoor",
    "LinesDoorMessage",
    "NodeInfo",
    "OpenTasks",
    "OpenTasksMessage",
    "Rates",
    "Sessions",
    "SessionsMessage",
    "TokenTable",
    "TreeData",
    "check_installed",
    "load_tokens",
    "make_caller",
    "new_consumer_id",
    "perform_request",
    "perform_call",
    "read_certificate",
    "read_or_create_token",
    "read_token",
    "unlearnt_for_call",
    "wait_for_first_lists",
]
