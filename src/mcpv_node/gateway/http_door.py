"""The HTTP door as an actor: it owns the socket, the HTTP server on it and every connection.

It has started once clients can connect. The REST application is loaded after that, on a thread, because it takes a
fraction of a second that MCP clients need not wait. Asked to stop, it accepts nothing more, ends the streams that
would stay open by themselves, and ends when the calls in hand have been answered or the bound for them is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib
import os
import socket
import ssl
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Final, TypeAlias, cast

import uvicorn
from loguru import logger

from mcpv_node.actors.index_messages import ServersChanged
from mcpv_node.actors.kernel import ExitReason, Handle, LoopActor, Shutdown, handles
from mcpv_node.settings import parse_address

from .asgi import AsgiApp
from .auth import check_exposure
from .certificate import Certificate, CertificateError, read_certificate, read_if_changed
from .event_streams import EventStreams
from .http import HttpApp
from .log_streams import LogStreams
from .services import DoorServices
from .sessions import SessionsMessage
from .wire import WholeAnswers

# What a server may need for the calls it has when it is drained, by default; `drainTimeoutSeconds` may say more.
DRAIN_BOUND = 30.0

# After the bound, what is left is cancelled; its answers need this long to get out (seconds).
LAST_WORDS = 1.0

# A client comes back to its connection for less than this long; then it is closed (seconds).
IDLE_CONNECTION = 75

# A certificate is renewed days before it ends; that it has been is seen within this (seconds).
CERTIFICATE_LOOK: Final = 60.0

# As many clients may connect in one turn of the loop; the kernel has a bound of its own.
ACCEPT_QUEUE = 1024


class DoorError(Exception):
    """A door cannot be opened; the sentence names its address and why."""


@dataclass(frozen=True, slots=True)
class _Open:
    """The server accepts connections."""


@dataclass(frozen=True, slots=True)
class _RestLoaded:
    outcome: AsgiApp | Exception


@dataclass(frozen=True, slots=True)
class _Served:
    """The server has ended, and every connection with it."""

    outcome: Exception | None


@dataclass(frozen=True, slots=True)
class _DrainEnded:
    """The bound for calls in hand is over."""


@dataclass(frozen=True, slots=True)
class _LookAtCertificate:
    """Its files may have changed."""


@dataclass(frozen=True, slots=True)
class _CertificateRead:
    """What has come of a look; None: they have not."""

    outcome: Certificate | Exception | None


HttpDoorMessage: TypeAlias = (
    _Open | _RestLoaded | _Served | _DrainEnded | _LookAtCertificate | _CertificateRead | ServersChanged
)


@dataclass(frozen=True, slots=True)
class BoundAddress:
    """Where the door stands; the next incarnation opens it at the same place."""

    host: str
    port: int


class HttpDoor(LoopActor[BoundAddress]):
    """See the module. `on_bound` hears the base URL with the real port, and the fingerprint of the certificate there."""

    def __init__(
        self,
        services: DoorServices,
        sessions: Handle[SessionsMessage],
        *,
        on_bound: Callable[[str, str | None], None],
        drain_bound: Callable[[], float] = lambda: DRAIN_BOUND,
    ) -> None:
        super().__init__()
        self._services = services
        self._sessions = sessions
        self._on_bound = on_bound
        self._drain_bound = drain_bound
        self._app: HttpApp | None = None
        self._server: _Server | None = None
        self._certificate: Certificate | None = None
        self._complaint = ""  # about a certificate that was to replace it
        self._stopping = False

    def on_start(self, estate: BoundAddress | None = None) -> None:
        listen = self._services.node.settings.listen
        configured = parse_address(listen.http)
        if configured is None:
            raise DoorError(f"listen.http: {listen.http} is not HOST:PORT")
        host, port = configured
        has_tokens = self._services.tokens is not None or self._services.issuer is not None
        check_exposure(host, has_tokens=has_tokens)
        if listen.tls is not None:
            self._certificate = read_certificate(listen.tls)
        listener = bind_tcp(host, estate.port if estate is not None else port)
        self.estate = BoundAddress(host, int(listener.getsockname()[1]))
        url = self._url(self.estate)
        app = self._app = HttpApp(self._services, self._sessions, bound=host, url=url)
        me: Handle[HttpDoorMessage] = Handle(self.cell)
        self._server = _Server(
            uvicorn.Config(
                app,
                http=WholeAnswers,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                log_level="warning",
                access_log=False,
                server_header=False,
                # The peer's word about who it is would be taken for the truth.
                proxy_headers=False,
                backlog=ACCEPT_QUEUE,
                timeout_keep_alive=IDLE_CONNECTION,
                ssl_context_factory=None if self._certificate is None else self._make_context,
            ),
            listener,
            on_open=lambda: me.tell(_Open()),
        )
        self.hold_start()
        self.run(self._server.serve([listener]), _served)

    def on_shutdown(self) -> None:
        self._stopping = True
        if self._server is None or self._app is None:
            self.exit(Shutdown())
            return
        self._app.close()
        self._server.should_exit = True
        self.after(self._drain_bound(), _DrainEnded())

    def on_exit(self, reason: ExitReason) -> None:
        if self._server is not None:
            self._server.abort()

    @handles(_Open)
    def _on_open(self, _: _Open) -> None:
        assert self.estate is not None  # on_start has bound it
        url = self._url(self.estate)
        logger.bind(url=url).info("the HTTP door is open")
        self._tell_where()
        if self._certificate is not None:
            self.after(CERTIFICATE_LOOK, _LookAtCertificate())
        self.started()
        assert self._app is not None  # what is open serves it
        self.run(load_rest(self._services, self._app.events, self._app.logs), _rest_loaded)

    def _tell_where(self) -> None:
        assert self.estate is not None  # on_start has bound it
        certificate = self._certificate
        self._on_bound(self._url(self.estate), None if certificate is None else certificate.fingerprint)

    def _url(self, place: BoundAddress) -> str:
        scheme = "http" if self._services.node.settings.listen.tls is None else "https"
        host = f"[{place.host}]" if ":" in place.host else place.host
        return f"{scheme}://{host}:{place.port}"

    @handles(_RestLoaded)
    def _on_rest_loaded(self, message: _RestLoaded) -> None:
        if self._app is None:
            return
        if isinstance(message.outcome, Exception):
            # MCP goes on without it.
            logger.opt(exception=message.outcome).error("the REST application cannot be loaded")
            self._app.give_up_rest()
        else:
            self._app.mount_rest(message.outcome)

    @handles(ServersChanged)
    def _on_servers_changed(self, _: ServersChanged) -> None:
        if self._app is not None:
            self._app.mcp.look_again()

    # --- the certificate ------------------------------------------------------------------------

    def _make_context(
        self, _config: uvicorn.Config, _default: Callable[[], ssl.SSLContext]
    ) -> ssl.SSLContext:
        """What the server makes its connections with; each is given the newest certificate."""
        assert self._certificate is not None  # else the server is not asked for TLS
        context = self._certificate.context

        def choose(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            if self._certificate is not None:
                connection.context = self._certificate.context

        context.sni_callback = choose
        return context

    @handles(_LookAtCertificate)
    def _on_look_at_certificate(self, _: _LookAtCertificate) -> None:
        tls = self._services.node.settings.listen.tls
        if tls is not None and self._certificate is not None:
            self.run(asyncio.to_thread(read_if_changed, tls, self._certificate), _CertificateRead)

    @handles(_CertificateRead)
    def _on_certificate_read(self, message: _CertificateRead) -> None:
        outcome = message.outcome
        if isinstance(outcome, Certificate):
            self._certificate, self._complaint = outcome, ""
            logger.info("the certificate of the HTTP door has been renewed")
            self._tell_where()
        elif isinstance(outcome, CertificateError):
            # It may be half written. The one there is goes on; said once, not every minute.
            if self._complaint != str(outcome):
                self._complaint = str(outcome)
                logger.warning("the certificate of the HTTP door stays as it is: {}", outcome)
        elif isinstance(outcome, Exception):
            raise outcome
        self.after(CERTIFICATE_LOOK, _LookAtCertificate())

    # --- the end --------------------------------------------------------------------------------

    @handles(_DrainEnded)
    def _on_drain_ended(self, _: _DrainEnded) -> None:
        if self._server is not None:
            self._server.cancel_requests()
            self.after(LAST_WORDS, _Served(None))

    @handles(_Served)
    def _on_served(self, message: _Served) -> None:
        if self._stopping:
            self.exit(Shutdown())
        else:
            raise DoorError(f"the HTTP server ended by itself: {message.outcome!r}")


class _Server(uvicorn.Server):
    """uvicorn's server inside an actor: signals are not its own, and it can be ended at once."""

    def __init__(
        self, config: uvicorn.Config, listener: socket.socket, *, on_open: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self._listener = listener
        self._on_open = on_open

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_open()

    def cancel_requests(self) -> None:
        """Nothing more is waited for."""
        for task in list(self.server_state.tasks):
            task.cancel()

    def abort(self) -> None:
        """Leave nothing open, whatever state it is in."""
        self.should_exit = self.force_exit = True
        for server in getattr(self, "servers", []):
            server.close()
        self._listener.close()
        self.cancel_requests()
        for connection in list(self.server_state.connections):
            transport = cast("asyncio.Transport | None", connection.transport)
            if transport is not None:
                transport.abort()


def bind_tcp(host: str, port: int) -> socket.socket:
    """A socket bound to this address, not listening yet. Port 0 takes any that is free."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise DoorError(f"listen.http: {host} is no address of this machine: {error.strerror}") from error
    listener = socket.socket(family, kind, protocol)
    try:
        # A port whose last connections are still fading away is free; one that is listened on is not.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setblocking(False)
        listener.bind(address)
        # Here, not when the server begins: of two nodes, the second must fail to start.
        listener.listen(ACCEPT_QUEUE)
    except OSError as error:
        listener.close()
        advice = "; port 0 takes a free one" if error.errno == errno.EADDRINUSE else ""
        raise DoorError(
            f"listen.http: {host}:{port} cannot be had: {os.strerror(error.errno or 0)}{advice}"
        ) from error
    return listener


async def load_rest(services: DoorServices, events: EventStreams, logs: LogStreams) -> AsgiApp:
    """Import and make the REST application on a thread of its own, which may outlive whoever waits for it."""
    system = services.node.system
    loaded: asyncio.Future[AsgiApp] = system.loop.create_future()

    def load() -> None:
        outcome: AsgiApp | Exception
        try:
            outcome = _make_rest(services, events, logs)
        except Exception as error:  # noqa: BLE001  (a thread's border: whoever waits gets every failure)
            outcome = error
        system.post(_settle, loaded, outcome)

    threading.Thread(target=load, name="mcpv-rest").start()
    return await loaded


def _settle(loaded: asyncio.Future[AsgiApp], outcome: AsgiApp | Exception) -> None:
    if loaded.done():
        return
    if isinstance(outcome, Exception):
        loaded.set_exception(outcome)
    else:
        loaded.set_result(outcome)


def _make_rest(services: DoorServices, events: EventStreams, logs: LogStreams) -> AsgiApp:
    rest = importlib.import_module("mcpv_node.gateway.rest")
    return cast("AsgiApp", rest.create_rest_app(services, events, logs))


def _served(outcome: Exception | None) -> _Served:
    return _Served(outcome)


def _rest_loaded(outcome: AsgiApp | Exception) -> _RestLoaded:
    return _RestLoaded(outcome)
