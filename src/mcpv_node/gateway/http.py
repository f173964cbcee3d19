"""The HTTP door's one application: who may come in, and where each path leads.

Every request is checked for Host, Origin and token before anything is read of it. What belongs to the REST
application waits for it: it is loaded after the door is open, so that MCP does not wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress

from loguru import logger

from mcpv_node.actors.kernel import ActorError, Handle
from mcpv_node.actors.world import EVERYTHING

from .asgi import AsgiApp, AsgiExchange, Exchange, Receive, Scope, Send
from .auth import (
    AUTHORITY,
    DEFAULT_AUTHORITY,
    HEALTH_PATHS,
    Authority,
    bearer_of,
    is_host_allowed,
    is_loopback,
    is_origin_allowed,
    needs_token,
)
from .door_audit import DoorAudit
from .event_streams import EventStreams
from .gauges import refresh_gauges
from .heads import AUTHORIZATION
from .health import HealthView, describe_fault
from .issuer import WELL_KNOWN, Issuer, NotBelieved, challenge, judge_token, read_head, resource_metadata
from .issuer_keys import KEY_BOUND, FindKey, NotReachable
from .log_streams import LogStreams
from .mcp_http import McpEndpoint
from .places import find_place
from .rates import whole_seconds
from .services import DoorServices
from .sessions import SessionsMessage
from .traces import note_arrival

# How long a client should wait for what takes well under a second (seconds).
RETRY_AFTER = b"1"

# REST is there a fraction of a second after the door, and later only where the machine has no time for it (seconds).
REST_BOUND = 10.0

_CHALLENGE = b'Bearer realm="mcpv-node"'


class HttpApp:
    """The ASGI application of one door that listens on `bound` (a host as configured) and is found at `url`."""

    def __init__(
        self, services: DoorServices, sessions: Handle[SessionsMessage], *, bound: str, url: str
    ) -> None:
        self.mcp = McpEndpoint(services, sessions)
        self.events = EventStreams(services)
        self.logs = LogStreams(services)
        self._audit = None if services.node.audit is None else DoorAudit(services.node)
        self._services = services
        self._bound = bound
        self._loopback = is_loopback(bound)
        self._auth = services.node.settings.auth
        oauth = self._auth.oauth
        # Who we are to the issuer of a token, and what clients ask a token for.
        self._audience = (
            f"{url}/mcp" if oauth is None or oauth.audience is None else oauth.audience.rstrip("/")
        )
        self._health = HealthView(services.check_health, services.node.clock)
        self._rest: AsgiApp | None = None
        self._is_rest_decided = asyncio.Event()  # it is there, or will not come
        self._closing = False

    def mount_rest(self, rest: AsgiApp) -> None:
        """From now on `/api` is answered by this."""
        self._rest = rest
        self._is_rest_decided.set()

    def give_up_rest(self) -> None:
        """It will not come: nobody should wait for it."""
        self._is_rest_decided.set()

    def close(self) -> None:
        """Take nothing new and end the open streams; calls in hand go on."""
        self._closing = True
        self.mcp.close_streams()
        self.events.close()
        self.logs.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self.serve(AsgiExchange(scope, receive, send))

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request."""
        if self._audit is not None:
            exchange.on_status = self._audit.on_answer
        try:
            authority = self._authority_again(exchange) or await self._admit(exchange)
            if authority is None:
                return
            exchange.authority = authority
            wait = self._count(exchange, authority)
            if wait:
                await self._too_many(exchange, wait)
            else:
                await self._route(exchange, authority)
        except ActorError as error:
            # An owner is being restarted, or the node is on its way down.
            logger.bind(path=exchange.path).warning("a request was not answered: {}", error)
            if exchange.is_started:
                raise
            await self._unavailable(exchange, "the node is busy with itself")

    # --- who may come in ------------------------------------------------------------------------

    def _authority_again(self, exchange: Exchange) -> Authority | None:
        """Whose request it is, where the one before on its connection had the same head and it shows a token of ours."""
        if not exchange.head.is_ours or self._services.tokens is None:
            return None
        token = bearer_of(exchange.own.get(AUTHORIZATION))
        return None if token is None else self._services.tokens.find(token)

    async def _admit(self, exchange: Exchange) -> Authority | None:
        """Whose request it is; None when it has been refused."""
        host = exchange.header(b"host")
        if (
            host is None
            or b"host" in exchange.head.repeated
            or not is_host_allowed(host, bound=self._bound, allowed=self._auth.allowed_hosts)
        ):
            await exchange.problem(421, "the Host header does not name this node")
            return None
        scheme = "https" if exchange.is_tls else "http"
        origin = exchange.header(b"origin")
        if not is_origin_allowed(origin, host=host, scheme=scheme, allowed=self._auth.allowed_origins):
            await exchange.problem(403, "pages of this origin may not talk to this node")
            return None
        if exchange.method == "OPTIONS":
            # What a browser asks before it lets another page in; none is, so there is nothing to say.
            await exchange.problem(405, "OPTIONS is not used here")
            return None
        issuer = self._services.issuer
        if issuer is not None and _is_metadata(exchange.path):
            await self._tell_resource(exchange, issuer)
            return None
        authority = await self._authorize(exchange, issuer)
        if authority is not None:
            exchange.remember_head()
        return authority

    async def _authorize(self, exchange: Exchange, issuer: Issuer | None) -> Authority | None:
        tokens = self._services.tokens
        is_open = tokens is None and issuer is None
        if is_open or not needs_token(exchange.path, loopback=self._loopback):
            return DEFAULT_AUTHORITY
        token = bearer_of(exchange.own.get(AUTHORIZATION))
        authority = None if token is None or tokens is None else tokens.find(token)
        if authority is not None:
            return authority
        if issuer is not None:
            return await self._believe(exchange, issuer, token)
        words = _CHALLENGE if token is None else _CHALLENGE + b', error="invalid_token"'
        detail = "a bearer token is needed" if token is None else "the token is not valid here"
        await exchange.problem(401, detail, headers=[(b"www-authenticate", words)])
        return None

    async def _believe(self, exchange: Exchange, issuer: Issuer, token: str | None) -> Authority | None:
        """Whose request it is by a token of the authorization server's; None when it has been refused."""
        verdict: Authority | NotBelieved | None = None
        if token is not None:
            verdict = NotBelieved("invalid_token", "the token is not valid here")
            head = read_head(token)
            key = None if head is None else await issuer.keys.ask(FindKey(head.kid), KEY_BOUND)
            if isinstance(key, NotReachable):
                await self._unavailable(exchange, "the keys of the authorization server cannot be had")
                return None
            if key is not None:
                verdict = judge_token(
                    token,
                    key,
                    settings=issuer.settings,
                    audience=self._audience,
                    now=self._services.node.clock.wall().timestamp(),
                )
        if isinstance(verdict, Authority):
            return verdict
        status = 403 if verdict is not None and verdict.error == "insufficient_scope" else 401
        words = challenge(issuer.settings, self._audience, exchange.path, verdict)
        detail = "a bearer token is needed" if verdict is None else verdict.why
        await exchange.problem(status, detail, headers=[(b"www-authenticate", words)])
        return None

    async def _tell_resource(self, exchange: Exchange, issuer: Issuer) -> None:
        if await self._is_read(exchange):
            await exchange.answer(200, resource_metadata(issuer.settings, self._audience))

    def _count(self, exchange: Exchange, authority: Authority) -> float:
        """Count the request: 0.0, or the seconds to wait where it is one too many, before anything of its body is read."""
        if not self._services.rates.is_limited or exchange.path in HEALTH_PATHS:
            return 0.0
        return self._services.rates.admit(authority.principal, self._services.node.clock.monotonic())

    # --- where it leads -------------------------------------------------------------------------

    def _route(self, exchange: Exchange, authority: Authority) -> Coroutine[None, None, None]:
        path = exchange.path
        if self._closing:
            return self._unavailable(exchange, "the node is stopping")
        if path == "/mcp" or path.startswith("/mcp/"):
            return self._route_mcp(exchange, authority)
        if path in HEALTH_PATHS:
            return self._tell_health(exchange)
        if path == "/metrics" or path == "/api" or path.startswith("/api/"):
            return self._route_operator(exchange, authority)
        return exchange.problem(404, "there is nothing here")

    def _route_mcp(self, exchange: Exchange, authority: Authority) -> Coroutine[None, None, None]:
        world = self._services.node.world.world
        place = find_place(world, authority, exchange.path, exchange.connection)
        if place is None:
            return exchange.problem(404, "there is no such server or profile here")
        if self._services.node.tracing is not None:
            note_arrival(exchange)
        return self.mcp.handle(exchange, place)

    async def _route_operator(self, exchange: Exchange, authority: Authority) -> None:
        """What shows or changes the whole node is for tokens that may see all of it."""
        may_operate = authority.may_operate and authority.selector == EVERYTHING
        if not may_operate and not is_own_affair(exchange.method, exchange.path):
            await exchange.problem(403, "this token is not for what shows or changes the whole node")
        elif exchange.path == "/metrics":
            if await self._is_read(exchange):
                await refresh_gauges(self._services.node)
                body, content_type = self._services.node.metrics.exposition()
                await exchange.answer(200, body, content_type=content_type.encode("latin-1"))
        elif not await self._is_rest_loaded():
            await self._unavailable(exchange, "this part of the node is still being loaded")
        elif self._rest is None:
            await exchange.problem(500, "this part of the node could not be loaded; its log says why")
        else:
            assert isinstance(exchange, AsgiExchange)  # nothing else is remembered but what goes to MCP
            await exchange.pass_on(self._rest, {AUTHORITY: authority})

    async def _is_rest_loaded(self) -> bool:
        """Wait for it, since whoever asks a node that is ready may well be sooner; False when it takes too long."""
        if not self._is_rest_decided.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(REST_BOUND):
                    await self._is_rest_decided.wait()
        return self._is_rest_decided.is_set()

    async def _tell_health(self, exchange: Exchange) -> None:
        if not await self._is_read(exchange):
            return
        fault = None
        if exchange.path == "/healthz":
            health = await self._health.look()
            fault = None if health.is_good else describe_fault(health)
        elif not self._services.is_ready():
            fault = "the node is not there yet"
        if fault is None:
            await exchange.answer(200, b'{"status":"ok"}')
        else:
            await self._unavailable(exchange, fault)

    @staticmethod
    async def _is_read(exchange: Exchange) -> bool:
        if exchange.method in ("GET", "HEAD"):
            return True
        await exchange.problem(405, f"{exchange.method} is not used here", headers=[(b"allow", b"GET, HEAD")])
        return False

    @staticmethod
    async def _too_many(exchange: Exchange, wait: float) -> None:
        after = [(b"retry-after", whole_seconds(wait))]
        await exchange.problem(429, "this client makes too many requests", headers=after)

    @staticmethod
    async def _unavailable(exchange: Exchange, detail: str) -> None:
        await exchange.problem(503, detail, headers=[(b"retry-after", RETRY_AFTER)])


def _is_metadata(path: str) -> bool:
    """Whether a path is where this node says whose tokens it takes, for /mcp or a path below it."""
    return path == WELL_KNOWN or path == f"{WELL_KNOWN}/mcp" or path.startswith(f"{WELL_KNOWN}/mcp/")


def is_own_affair(method: str, path: str) -> bool:
    """Whether a request of the REST application touches only who makes it: a client registers and leaves."""
    if path == "/api/v1/clients":
        return method == "POST"
    return path.startswith("/api/v1/clients/") and method in ("PUT", "DELETE")
