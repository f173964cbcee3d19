"""What the audit says of a door beside its calls: who was turned away, and what an operator has ordered.

Whoever is turned away needs no token, so how many lines that makes is bounded: a bucket for each door, and the next line
that is written says how many stand behind it.
"""

from __future__ import annotations

from typing import Final

from mcpv_node.actors.audit import Audited
from mcpv_node.actors.callers import Caller
from mcpv_node.actors.context import NodeContext

from .asgi import Exchange
from .rates import Bucket, decide_request

# So many refusals of one door are written in a minute, 15 MB a day at most; of more, how many there were.
REFUSALS_PER_MINUTE: Final = 60

# A path that leads anywhere is shorter.
MAX_PATH: Final = 256

FORBIDDEN: Final = "forbidden"
TOO_MANY: Final = "too_many_requests"

_REFUSALS: Final = {401: "unauthorized", 403: FORBIDDEN, 421: "misdirected", 429: TOO_MANY}

_ORDERS: Final = "/api/v1/"
_SERVERS: Final = "/api/v1/servers/"
_CLIENTS: Final = "/api/v1/clients"


class DoorAudit:
    """See the module. For one door of a node that keeps an audit; used on the loop's thread."""

    def __init__(self, node: NodeContext) -> None:
        self._node = node
        self._bucket: Bucket | None = None
        self._unsaid = 0

    def on_answer(self, exchange: Exchange, status: int) -> None:
        """A request is being answered."""
        authority = exchange.authority
        principal = "" if authority is None else authority.principal
        method, path, client = exchange.method, exchange.path[:MAX_PATH], exchange.client
        if (refusal := _REFUSALS.get(status)) is not None:
            self.refused(principal=principal, client=client, method=method, name=path, outcome=refusal)
        elif authority is not None and is_order(method, path):
            self._tell(principal, client, method, path, "ok" if status < 400 else f"http_{status}")

    def refused(self, *, principal: str, client: str, method: str, name: str, outcome: str) -> None:
        """Somebody was turned away; `principal` is "" where it is not known."""
        now = self._node.clock.monotonic()
        self._bucket, wait = decide_request(self._bucket, now, per_minute=REFUSALS_PER_MINUTE)
        if wait:
            self._unsaid += 1
            return
        times, self._unsaid = 1 + self._unsaid, 0
        self._tell(principal, client, method, name, outcome, times=times)

    def _tell(
        self, principal: str, client: str, method: str, name: str, outcome: str, *, times: int = 1
    ) -> None:
        node = self._node
        assert node.audit is not None  # else there is no DoorAudit
        node.audit.tell(
            Audited(
                at=node.clock.wall(),
                caller=Caller(principal=principal, client=client, key=""),
                server=server_in(name),
                method=method,
                name=node.redact(name),
                digest=None,
                outcome=outcome,
                seconds=0.0,
                times=times,
            )
        )


def is_order(method: str, path: str) -> bool:
    """Whether a request changes something of the node; that a client comes and goes is not such a thing."""
    return method not in ("GET", "HEAD") and path.startswith(_ORDERS) and not path.startswith(_CLIENTS)


def server_in(path: str) -> str:
    """The server that an order is for, or ""."""
    return path.removeprefix(_SERVERS).partition("/")[0] if path.startswith(_SERVERS) else ""
