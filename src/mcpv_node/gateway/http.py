"""The HTTP door's one application: who may come in, and where each path leads.

Every request is checked for Host, Origin and token before anything is read of it. What belongs to the REST
application waits for it: it is loaded after the door is open, so that MCP does not wait.
"""

from __future__ import annotations

from loguru import logger

from mcpv_node.actors.kernel import ActorError, Handle
from mcpv_node.actors.world import EVERYTHING, Selector
from mcpv_node.settings import ServerName

from .asgi import AsgiApp, Exchange, Receive, Scope, Send
from .auth import (
    AUTHORITY,
    DEFAULT_AUTHORITY,
    Authority,
    bearer_of,
    is_host_allowed,
    is_loopback,
    is_origin_allowed,
    needs_token,
)
from .event_streams import EventStreams
from .gauges import refresh_gauges
from .mcp_http import McpEndpoint
from .modern_http import Place
from .services import DoorServices
from .sessions import SessionsMessage
from .visibility import resolve_selector

# How long a client should wait for what takes well under a second (seconds).
RETRY_AFTER = b"1"

_CHALLENGE = b'Bearer realm="mcpv-node"'


class HttpApp:
    """The ASGI application of one door that listens on `bound` (a host as configured)."""

    def __init__(self, services: DoorServices, sessions: Handle[SessionsMessage], *, bound: str) -> None:
        self.mcp = McpEndpoint(services, sessions)
        self.events = EventStreams(services)
        self._services = services
        self._bound = bound
        self._loopback = is_loopback(bound)
        self._auth = services.node.settings.auth
        self._rest: AsgiApp | None = None
        self._rest_failed = False
        self._closing = False

    def mount_rest(self, rest: AsgiApp) -> None:
        """From now on `/api` is answered by this."""
        self._rest = rest

    def give_up_rest(self) -> None:
        """It will not come: nobody should wait for it."""
        self._rest_failed = True

    def close(self) -> None:
        """Take nothing new and end the open streams; calls in hand go on."""
        self._closing = True
        self.mcp.close_streams()
        self.events.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        exchange = Exchange(scope, receive, send)
        try:
            authority = await self._admit(exchange)
            if authority is not None:
                await self._route(exchange, authority, receive)
        except ActorError as error:
            # An owner is being restarted, or the node is on its way down.
            logger.bind(path=exchange.path).warning("a request was not answered: {}", error)
            if exchange.is_started:
                raise
            await self._unavailable(exchange, "the node is busy with itself")

    # --- who may come in ------------------------------------------------------------------------

    async def _admit(self, exchange: Exchange) -> Authority | None:
        """Whose request it is; None when it has been refused."""
        host = exchange.header(b"host")
        if (
            host is None
            or exchange.count(b"host") > 1
            or not is_host_allowed(host, bound=self._bound, allowed=self._auth.allowed_hosts)
        ):
            await exchange.problem(421, "the Host header does not name this node")
            return None
        scheme = "https" if exchange.is_tls else "http"
        origin = exchange.header(b"origin")
        if not is_origin_allowed(origin, host=host, scheme=scheme, allowed=self._auth.allowed_origins):
            await exchange.problem(403, "pages of this origin may not talk to this node")
            return None
        tokens = self._services.tokens
        if tokens is None or not needs_token(exchange.path, loopback=self._loopback):
            return DEFAULT_AUTHORITY
        token = bearer_of(exchange.header(b"authorization"))
        authority = None if token is None else tokens.find(token)
        if authority is None:
            challenge = _CHALLENGE if token is None else _CHALLENGE + b', error="invalid_token"'
            detail = "a bearer token is needed" if token is None else "the token is not valid here"
            await exchange.problem(401, detail, headers=[(b"www-authenticate", challenge)])
        return authority

    # --- where it leads -------------------------------------------------------------------------

    async def _route(self, exchange: Exchange, authority: Authority, receive: Receive) -> None:
        path = exchange.path
        if self._closing:
            await self._unavailable(exchange, "the node is stopping")
        elif path == "/mcp" or path.startswith("/mcp/"):
            await self._route_mcp(exchange, authority)
        elif path in ("/healthz", "/readyz"):
            await self._health(exchange, is_good=self._is_good(path))
        elif path == "/metrics" or path == "/api" or path.startswith("/api/"):
            await self._route_operator(exchange, authority, receive)
        else:
            await exchange.problem(404, "there is nothing here")

    async def _route_mcp(self, exchange: Exchange, authority: Authority) -> None:
        wanted = parse_mcp_path(exchange.path)
        selector = None
        if wanted is not None:
            world = self._services.node.world.world
            selector = resolve_selector(world, wanted, within=authority.selector)
        if selector is None:
            await exchange.problem(404, "there is no such server or profile here")
            return
        await self.mcp.handle(exchange, Place(authority.principal, selector))

    async def _route_operator(self, exchange: Exchange, authority: Authority, receive: Receive) -> None:
        """What shows or changes the whole node is for tokens that may see all of it."""
        if authority.selector != EVERYTHING and not is_own_affair(exchange.method, exchange.path):
            await exchange.problem(403, "this token sees a part of the node only")
        elif exchange.path == "/metrics":
            if await self._is_read(exchange):
                await refresh_gauges(self._services.node)
                body, content_type = self._services.node.metrics.exposition()
                await exchange.answer(200, body, content_type=content_type.encode("latin-1"))
        elif self._rest_failed:
            await exchange.problem(500, "this part of the node could not be loaded; its log says why")
        elif self._rest is None:
            await self._unavailable(exchange, "this part of the node is still being loaded")
        else:
            await self._rest({**exchange.scope, AUTHORITY: authority}, receive, exchange.send)

    async def _health(self, exchange: Exchange, *, is_good: bool) -> None:
        if not await self._is_read(exchange):
            return
        if is_good:
            await exchange.answer(200, b'{"status":"ok"}')
        else:
            await self._unavailable(exchange, "the node is not there yet")

    def _is_good(self, path: str) -> bool:
        return self._services.is_alive() if path == "/healthz" else self._services.is_ready()

    @staticmethod
    async def _is_read(exchange: Exchange) -> bool:
        if exchange.method in ("GET", "HEAD"):
            return True
        await exchange.problem(405, f"{exchange.method} is not used here", headers=[(b"allow", b"GET, HEAD")])
        return False

    @staticmethod
    async def _unavailable(exchange: Exchange, detail: str) -> None:
        await exchange.problem(503, detail, headers=[(b"retry-after", RETRY_AFTER)])


def is_own_affair(method: str, path: str) -> bool:
    """Whether a request of the REST application touches only who makes it: a client registers and leaves."""
    if path == "/api/v1/clients":
        return method == "POST"
    return path.startswith("/api/v1/clients/") and method in ("PUT", "DELETE")


def parse_mcp_path(path: str) -> Selector | None:
    """What a path below `/mcp` selects; None when it is not a path of ours. It may not exist all the same."""
    match path.rstrip("/").split("/")[2:]:
        case []:
            return EVERYTHING
        case ["server", name] if name:
            return Selector(server=ServerName(name))
        case ["profile", name] if name:
            return Selector(profile=name)
        case ["tags", names]:
            tags = frozenset(tag for part in names.split(",") if (tag := part.strip().lower()))
            return Selector(tags=tags) if tags else None
        case _:
            return None
