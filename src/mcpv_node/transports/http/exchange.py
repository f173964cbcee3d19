"""One HTTP request and its answer. The only module that knows the HTTP library, which costs 0.1 s to import.

Every way in which the network or the server fails is an `ExchangeError` here, and no other exception leaves.
No redirect leads to another origin: what is sent holds credentials. What a server names is asked as `reach` says: the
address is looked at when the connection is made, so that no name can lead elsewhere in between.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import io
import os
import socket
import ssl
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote, urlsplit, urlunsplit

from mcpv_node.settings import OAuthSettings, ServerTlsSettings

from .headers import absolute, is_json, media_type, same_origin, shown
from .proxies import decide_proxy
from .reach import check_public, decide_reach
from .types import FailureKind, HttpFailure, HttpLimits, HttpRoute

if TYPE_CHECKING:
    import aiohttp

    from .oauth import Fetched, OAuthCredentials

# What of an answer's head the flow that gets tokens looks at.
_TOLD = ("Content-Type", "Location", "WWW-Authenticate", "Retry-After")

# Common servers close a connection that was idle for 5 s; a message sent into that moment would be lost.
KEEPALIVE = 4.0

# `/mcp` to `/mcp/` is one, a front door before it another; more is a circle.
MAX_REDIRECTS = 3

# What people need of an error page.
ERROR_HEAD = 2048
_SHOWN_HEAD = 200

# A peer that vanished without a word, on a stream that is silent by nature, is noticed after about a minute.
_PROBE_AFTER, _PROBE_EVERY, _PROBES = 30, 10, 3

# Metadata and tokens have a few kilobytes; more is no such thing.
SMALL_ANSWER = 256 * 1024

# The library warns of larger ones in one piece.
_LARGE = 1024 * 1024

# Connections are cut, not talked to their end; more than this is a loop that does not turn.
_CLOSE_TIMEOUT = 2.0


class ExchangeError(Exception):
    """An exchange failed; `failure` says how."""

    def __init__(self, failure: HttpFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure

    @classmethod
    def of(cls, kind: FailureKind, message: str) -> ExchangeError:
        """One with these words."""
        return cls(HttpFailure(kind, message))


class Answer:
    """The head of an answer, and its body as it comes. Whoever has one closes it."""

    def __init__(self, response: aiohttp.ClientResponse, *, limit: int) -> None:
        self._response = response
        self._limit = limit
        self.status = response.status
        self.content_type = response.headers.get("Content-Type")

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300

    @property
    def media_type(self) -> str:
        return media_type(self.content_type)

    @property
    def is_json(self) -> bool:
        return is_json(self.content_type)

    def header(self, name: str) -> str | None:
        return self._response.headers.get(name)

    def close(self) -> None:
        """Let go of it; a connection whose answer was read to the end is used again, another is cut."""
        self._response.close()

    async def next_piece(self) -> bytes:
        """What has come of the body, unpacked; b"" at its end."""
        try:
            return await self._response.content.readany()
        except _errors() as error:
            raise ExchangeError(_classify(error, "broke off its answer")) from error

    async def read(self, limit: int | None = None) -> bytes:
        """The whole body, if it has no more bytes than `limit`, or than the session's."""
        self._limit = self._limit if limit is None else min(limit, self._limit)
        length = self._response.content_length
        if length is not None and length > self._limit:
            raise self.too_large("an answer")
        parts: list[bytes] = []
        size = 0
        while piece := await self.next_piece():
            size += len(piece)
            if size > self._limit:
                raise self.too_large("an answer")
            parts.append(piece)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def too_large(self, what: str) -> ExchangeError:
        return ExchangeError(HttpFailure("too_large", f"sent {what} of more than {self._limit} bytes"))

    async def read_failure(self, timeout: float) -> HttpFailure:
        """Say what this answer, which is not the one hoped for, means; whatever of its body comes within `timeout`."""
        body = b""
        try:
            async with asyncio.timeout(timeout):
                body = await self.read() if self.is_json else await self._read_head()
        except (ExchangeError, TimeoutError):
            # The status says enough.
            pass
        return HttpFailure(
            "content" if self.is_success else "status",
            f"answered {_status_line(self.status)}{self._remark(body)}",
            status=self.status,
            body=body,
            is_json=self.is_json,
            retry_after=self.header("Retry-After"),
            www_authenticate=self.header("WWW-Authenticate"),
        )

    async def _read_head(self) -> bytes:
        if self.media_type == "text/event-stream":
            return b""
        head = b""
        while piece := await self.next_piece():
            head += piece
            if len(head) >= ERROR_HEAD:
                break
        return head[:ERROR_HEAD]

    def _remark(self, body: bytes) -> str:
        if self.is_success and not self.is_json:
            return f" with {self.media_type or 'no content'}, which is no message"
        text = " ".join(body[:_SHOWN_HEAD].decode(errors="replace").split())
        return f": {text}" if text.isprintable() and text else ""


@dataclass(frozen=True, slots=True)
class _Way:
    """How one address is asked."""

    address: str
    credentials: str | None
    proxy: str | None


class HttpClient:
    """The connections of one session; made when the first is needed."""

    def __init__(self, route: HttpRoute, limits: HttpLimits) -> None:
        self._route = route
        self._limits = limits
        self._http: aiohttp.ClientSession | None = None
        # Connects to public addresses alone.
        self._public: aiohttp.ClientSession | None = None
        # Where redirects have led: asked there at once from then on, for a session is short.
        self._moved: dict[tuple[str, str], str] = {}
        self._credentials: OAuthCredentials | None = None
        # Decided once for each address; a session knows two or three.
        self._ways: dict[str, _Way] = {}

    async def open(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        timeout: float | None = None,
    ) -> Answer:
        """Send a request and return the answer once its head has come, within `timeout` if one is given."""
        if timeout is None:
            return await self._open_allowed(method, url, headers, body)
        try:
            async with asyncio.timeout(timeout):
                return await self._open_allowed(method, url, headers, body)
        except TimeoutError as error:
            raise ExchangeError(HttpFailure("timeout", f"did not answer within {timeout:g} s")) from error

    async def close(self) -> None:
        """Cut every connection and wait until they are gone."""
        for http in filter(None, (self._http, self._public)):
            with suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_TIMEOUT):
                    await http.close()
        self._http = self._public = None

    async def _open_allowed(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> Answer:
        """Show the token we have; get another if that is refused, once."""
        if self._route.oauth is None:
            return await self._open(method, url, headers, body)
        credentials = self._credentials or self._find_credentials(self._route.oauth)
        token = credentials.header()
        answer = await self._open(method, url, _with_token(headers, token), body)
        refusal = credentials.find_refusal(answer)
        if refusal is None:
            return answer
        answer.close()
        renewed = await credentials.renew(refusal, token)
        return await self._open(method, url, _with_token(headers, renewed), body)

    def _find_credentials(self, oauth: OAuthSettings) -> OAuthCredentials:
        from .oauth import OAuthCredentials

        assert self._route.token_file is not None, "oauth goes with a file for its tokens"
        self._credentials = OAuthCredentials(
            oauth, url=self._route.url, file=self._route.token_file, fetch=self.fetch
        )
        return self._credentials

    async def fetch(self, method: str, url: str, headers: Mapping[str, str], body: bytes = b"") -> Fetched:
        """Ask for what belongs to getting or checking a token, at a place that a server may have named.

        No redirect is followed; more than `SMALL_ANSWER` bytes, and a place out of reach, are an `ExchangeError`.
        """
        from .oauth import Fetched

        issuer = self._route.oauth.issuer if self._route.oauth is not None else None
        reach = decide_reach(url, (self._route.url, issuer or ""))
        if reach is None:
            message = f"leads to {shown(url)} for its tokens, which is neither https nor this machine"
            raise ExchangeError(HttpFailure("auth", message))
        try:
            async with asyncio.timeout(self._limits.answer_timeout):
                answer = await self._open_once(
                    method, url, headers, body or None, is_public=reach == "public"
                )
                try:
                    given = {name: value for name in _TOLD if (value := answer.header(name)) is not None}
                    return Fetched(answer.status, given, await answer.read(SMALL_ANSWER))
                finally:
                    answer.close()
        except TimeoutError as error:
            message = f"gives no token: {shown(url)} did not answer within {self._limits.answer_timeout:g} s"
            raise ExchangeError(HttpFailure("auth", message)) from error

    async def _open(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        address = self._moved.get((method, url), url)
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._open_once(method, address, headers, body)
            if answer.status not in (301, 302, 303, 307, 308):
                if address != url:
                    self._moved[method, url] = address
                return answer
            answer.close()
            address = _next_address(method, address, answer)
        raise ExchangeError(HttpFailure("redirect", f"redirects more than {MAX_REDIRECTS} times"))

    async def _open_once(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | None,
        *,
        is_public: bool = False,
    ) -> Answer:
        way = self._ways.get(url) or self._find_way(url)
        # Through a proxy it is the proxy that connects, and its owner who says where to.
        if is_public and way.proxy is None:
            http = self._public or await self._connect(is_public=True)
        else:
            http = self._http or await self._connect()
        if way.credentials and "authorization" not in headers:
            headers = {**headers, "authorization": way.credentials}
        try:
            response = await http.request(
                method,
                way.address,
                headers=headers,
                data=_payload(body),
                allow_redirects=False,
                proxy=way.proxy,
            )
        except _errors() as error:
            raise ExchangeError(
                _classify(error, "closed the connection without an answer", limits=self._limits)
            ) from error
        return Answer(response, limit=self._limits.message_bytes)

    def _find_way(self, url: str) -> _Way:
        address, credentials = split_credentials(url)
        proxy = decide_proxy(address, configured=self._route.proxy, environ=self._route.environ)
        way = self._ways[url] = _Way(address, credentials, proxy)
        return way

    async def _connect(self, *, is_public: bool = False) -> aiohttp.ClientSession:
        if "aiohttp" not in sys.modules:
            # The import takes a tenth of a second, in which the loop has others to serve.
            await asyncio.to_thread(importlib.import_module, "aiohttp")
        former = self._public if is_public else self._http
        if former is not None:
            return former
        import aiohttp

        # What the configuration says of TLS is for whom it names.
        own_tls = None if is_public else self._route.tls
        http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=True if own_tls is None else tls_context(own_tls),
                # The session counts its requests; the library's own bound would make answers wait for calls.
                limit=0,
                keepalive_timeout=KEEPALIVE,
                socket_factory=_open_public_socket if is_public else _open_socket,
            ),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._limits.connect_timeout),
            # Neither ~/.netrc nor the process's own environment: the route says it all.
            trust_env=False,
        )
        if is_public:
            self._public = http
        else:
            self._http = http
        return http


def _with_token(headers: Mapping[str, str], token: str | None) -> Mapping[str, str]:
    return headers if token is None else {**headers, "authorization": token}


def tls_context(tls: ServerTlsSettings) -> ssl.SSLContext:
    """How a server is believed, and what we show it."""
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.cert is not None:
            # Without an answer at hand, a key with a passphrase would ask for it at the terminal.
            context.load_cert_chain(tls.cert, tls.key, password=lambda: "")
    except OSError as error:
        raise ExchangeError(
            HttpFailure("tls", f"cannot be reached: a file of tls is no good: {error}")
        ) from error
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    return context


def split_credentials(url: str) -> tuple[str, str | None]:
    """Take user and password out of an address, as the header they stand for."""
    parts = urlsplit(url)
    if parts.username is None:
        return url, None
    pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=host)), f"Basic {base64.b64encode(pair.encode()).decode()}"


def _next_address(method: str, url: str, answer: Answer) -> str:
    """Where a redirect leads, if it may be followed."""
    location = absolute(url, answer.header("Location") or "")
    line = _status_line(answer.status)
    if location is None or not same_origin(url, location):
        where = shown(location) if location else "no address"
        message = f"answered {line} and leads to {where}, which is not where its credentials may go; is the url right?"
        raise ExchangeError(HttpFailure("redirect", message, status=answer.status))
    if method == "POST" and answer.status not in (307, 308):
        message = f"answered {line}, after which the message would be lost; is the url {shown(location)}?"
        raise ExchangeError(HttpFailure("redirect", message, status=answer.status))
    parts = urlsplit(url)
    # The same origin, so the same credentials.
    return urlunsplit(urlsplit(location)._replace(netloc=parts.netloc))


def _open_socket(address: tuple[int, int, int, str, object]) -> socket.socket:
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # macOS knows the first under another name and has its own idea of the others.
    for name, value in (
        ("TCP_KEEPIDLE", _PROBE_AFTER),
        ("TCP_KEEPINTVL", _PROBE_EVERY),
        ("TCP_KEEPCNT", _PROBES),
    ):
        if (option := getattr(socket, name, None)) is not None:
            made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made


def _open_public_socket(address: tuple[int, int, int, str, object]) -> socket.socket:
    # What is looked at here is what is connected to: the name is not asked again.
    check_public(str(cast("tuple[object, ...]", address[4])[0]))
    return _open_socket(address)


def _payload(body: bytes | None) -> bytes | io.BytesIO | None:
    # What is large goes out in pieces, so that others have their turn between them.
    return io.BytesIO(body) if body is not None and len(body) > _LARGE else body


def _errors() -> tuple[type[Exception], ...]:
    import aiohttp

    # ValueError: an address or a header that cannot be written. OSError: what the library does not wrap.
    return (aiohttp.ClientError, OSError, ValueError)


def _classify(error: Exception, otherwise: str, limits: HttpLimits | None = None) -> HttpFailure:
    import aiohttp

    kind: FailureKind
    match error:
        case aiohttp.ServerTimeoutError():
            seconds = f" within {limits.connect_timeout:g} s" if limits else ""
            kind, message = "connect", f"took no connection{seconds}"
        case aiohttp.ClientConnectorCertificateError():
            kind, message = (
                "tls",
                f"has a certificate that is not believed: {_reason(error.certificate_error)}",
            )
        case aiohttp.ClientSSLError():
            kind, message = "tls", f"made no TLS connection: {_reason(error.os_error)}"
        case aiohttp.ClientProxyConnectionError():
            kind, message = (
                "proxy",
                f"cannot be reached: its proxy took no connection: {_reason(error.os_error)}",
            )
        case aiohttp.ClientHttpProxyError():
            kind, message = "proxy", f"cannot be reached: its proxy answered {_status_line(error.status)}"
        case aiohttp.ClientConnectorDNSError():
            kind, message = "connect", f"cannot be found: {_reason(error.os_error)}"
        case aiohttp.ClientConnectorError():
            kind, message = "connect", f"took no connection: {_reason(error.os_error)}"
        case aiohttp.InvalidURL():
            kind, message = "connect", "cannot be reached: its url is none"
        case aiohttp.ClientResponseError():
            kind, message = "content", f"does not speak HTTP as it should: {error.message}"
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientPayloadError() | aiohttp.ClientOSError():
            kind, message = "broken", otherwise
        case ValueError():
            kind, message = "fault", f"could not be asked: {error}"
        case _:
            kind, message = "broken", f"{otherwise}: {_reason(error)}"
    return HttpFailure(kind, message)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, OSError) and error.strerror:
        # asyncio writes the address into what should be the reason; a resolver's numbers are below zero.
        if error.errno is not None and error.errno > 0 and not isinstance(error, ssl.SSLError):
            return os.strerror(error.errno)
        return error.strerror
    return str(error) or type(error).__name__


def _status_line(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)
