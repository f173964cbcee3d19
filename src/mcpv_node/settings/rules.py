"""The rules between keys, which types alone cannot say.

Pure: settings in, findings out. A finding names the keys it looked at, so that no rule speaks about a value that
could not be read in the first place. No finding holds a value of `env`, of `headers` or a URL.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from .types import IssuerSettings, ListenSettings, OtlpSettings, ServerSpec, TokenSettings

PROCESS_KEYS = ("command", "args", "env", "cwd")
REMOTE_KEYS = ("url", "headers", "tls", "proxy", "oauth")

# The transport writes these itself; a configured one would break it.
RESERVED_HEADERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "connection",
        "content-length",
        "content-type",
        "host",
        "last-event-id",
        "mcp-method",
        "mcp-name",
        "mcp-protocol-version",
        "mcp-session-id",
        "transfer-encoding",
    }
)

# The mark by which the node finds its processes again.
RESERVED_ENVIRONMENT = frozenset({"MCPV_INSTANCE"})

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]+")
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%a-z]+\]|[^\s:\[\]/]+):(?P<port>[0-9]{1,5})")
_MAX_PORT = 65_535
_THIS_MACHINE = frozenset({"localhost", "127.0.0.1", "::1"})
# RFC 6749, appendix A.4.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")


@dataclass(frozen=True, slots=True)
class Finding:
    """What is wrong with `key`; `because_of` are the other keys it was judged by."""

    key: str
    message: str
    because_of: tuple[str, ...] = ()


def check_server(spec: ServerSpec, given: Collection[str]) -> Iterator[Finding]:
    """Find what is wrong with one entry; `given` are the keys that were written."""
    yield from _check_process(spec, given) if spec.is_stdio else _check_remote(spec, given)
    yield from _check_pool(spec, given)


def settle_server(spec: ServerSpec) -> ServerSpec:
    """Give the entry as it is meant: tags normalised, one instance for a singleton."""
    tags = normalise_tags(spec.tags)
    instances = 1 if spec.strategy == "singleton" else spec.max_instances
    return msgspec.structs.replace(spec, tags=tags, max_instances=instances)


def normalise_tags(tags: Collection[str]) -> tuple[str, ...]:
    """Trim, lower the case, sort, and keep each once."""
    return tuple(sorted({tag.strip().lower() for tag in tags} - {""}))


def check_listen(listen: ListenSettings) -> Iterator[Finding]:
    """Find what is wrong with the doors' addresses."""
    if parse_address(listen.http) is None:
        yield Finding("http", "is not HOST:PORT (an IPv6 address stands in brackets)")


def check_token(
    token: TokenSettings, *, servers: Collection[str], profiles: Collection[str]
) -> Iterator[Finding]:
    """Find what is wrong with a token's selector."""
    chosen = [key for key in ("server", "tags", "profile") if getattr(token, key) is not None]
    if len(chosen) > 1:
        yield Finding(chosen[1], f"goes without {chosen[0]}: a token has one selector", tuple(chosen))
    if token.server is not None and token.server not in servers:
        yield Finding("server", f'there is no server "{token.server}"')
    if token.profile is not None and token.profile not in profiles:
        yield Finding("profile", f'there is no profile "{token.profile}"')
    # No tags means everything, which is not what somebody who writes a selector wants.
    if token.tags is not None and not normalise_tags(token.tags):
        yield Finding("tags", "is empty: leave it out for a token that sees everything")


def check_issuer(oauth: IssuerSettings, *, profiles: Collection[str]) -> Iterator[Finding]:
    """Find what is wrong with the authorization server whose tokens are believed."""
    for key, url in (("issuer", oauth.issuer), ("jwksUri", oauth.jwks_uri)):
        if url is not None and not is_private_way(url):
            yield Finding(key, "is not an https URL with a host, nor one of this machine", ("oauth",))
    if oauth.audience is not None and not _is_web_address(oauth.audience):
        yield Finding("audience", "is not an http or https URL with a host")
    for key, scopes in (("scopes", oauth.scopes), ("requiredScopes", oauth.required_scopes)):
        if not all(_SCOPE.fullmatch(scope) for scope in scopes):
            yield Finding(key, "holds what is no name of a scope")
    if oauth.profile is not None and oauth.profile not in profiles:
        yield Finding("profile", f'there is no profile "{oauth.profile}"')


def check_otlp(otlp: OtlpSettings) -> Iterator[Finding]:
    """Find what is wrong with where spans go."""
    if otlp.endpoint is not None and not _is_web_address(otlp.endpoint):
        yield Finding("endpoint", "is not an http or https URL with a host")
    seen: set[str] = set()
    for name, value in otlp.headers.items():
        yield from _check_header(name, value, seen)
        seen.add(name.lower())


def is_private_way(url: str) -> bool:
    """Tell whether nobody on the way to `url` can read or change what is said: https, or this machine itself."""
    if not _is_web_address(url):
        return False
    parts = urlsplit(url)
    return parts.scheme == "https" or parts.hostname in _THIS_MACHINE


def parse_address(address: str) -> tuple[str, int] | None:
    """Split HOST:PORT; None when it is not that. Brackets of an IPv6 address are taken off."""
    parts = _ADDRESS.fullmatch(address)
    if parts is None or int(parts["port"]) > _MAX_PORT:
        return None
    return parts["host"].strip("[]"), int(parts["port"])


def _check_process(spec: ServerSpec, given: Collection[str]) -> Iterator[Finding]:
    for key in REMOTE_KEYS:
        if key in given:
            yield Finding(key, "is for streamable-http and sse; this server is stdio", ("transport",))
    if not spec.command:
        message = "is empty" if "command" in given else "is missing: which program is the server?"
        yield Finding("command", message, ("cmd", "transport"))
    if spec.cwd == "":
        yield Finding("cwd", "is empty")
    for name in spec.env:
        if not name or "=" in name or "\0" in name:
            yield Finding(f"env.{name}", "is not a name of a variable")
        elif name in RESERVED_ENVIRONMENT:
            yield Finding(f"env.{name}", "is set by the node itself")


def _check_remote(spec: ServerSpec, given: Collection[str]) -> Iterator[Finding]:
    for key in (*PROCESS_KEYS, "cmd"):
        if key in given:
            yield Finding(key, f"is for stdio; this server is {spec.transport}", ("transport",))
    if not spec.url:
        yield Finding("url", "is missing: where is the server?", ("transport",))
    elif not _is_web_address(spec.url):
        yield Finding("url", "is not an http or https URL with a host")
    yield from _check_way(spec)
    seen: set[str] = set()
    for name, value in spec.headers.items():
        yield from _check_header(name, value, seen)
        seen.add(name.lower())


def _check_way(spec: ServerSpec) -> Iterator[Finding]:
    tls = spec.tls
    if tls is not None:
        if spec.url.startswith("http:"):
            yield Finding("tls", "is for https; this url is http", ("url",))
        if tls.key is not None and tls.cert is None:
            yield Finding("tls.key", "goes with a cert", ("tls", "tls.cert"))
        if tls.ca is not None and not tls.verify:
            yield Finding("tls.verify", "is false: then nobody is asked what ca says", ("tls", "tls.ca"))
    yield from _check_oauth(spec)
    proxy = spec.proxy
    if proxy is not None and proxy != "none" and not (proxy.startswith("http://") and _is_web_address(proxy)):
        yield Finding("proxy", "is not an http URL with a host, and not none")


def _check_oauth(spec: ServerSpec) -> Iterator[Finding]:
    oauth = spec.oauth
    if oauth is None:
        return
    if oauth.grant == "client-credentials":
        for key, value in (
            ("clientId", oauth.client_id),
            ("clientSecret", oauth.client_secret),
            ("issuer", oauth.issuer),
        ):
            if value is None:
                yield Finding(
                    f"oauth.{key}", "is missing: client-credentials go with it", ("oauth", "oauth.grant")
                )
    elif oauth.client_secret is not None and oauth.client_id is None:
        yield Finding("oauth.clientSecret", "goes with a clientId", ("oauth", "oauth.clientId"))
    if oauth.issuer is not None and not _is_web_address(oauth.issuer):
        yield Finding("oauth.issuer", "is not an http or https URL with a host")
    if any(name.lower() == "authorization" for name in spec.headers):
        yield Finding("oauth", "writes the header Authorization, which is in headers, too", ("headers",))


def _check_header(name: str, value: str, seen: Collection[str]) -> Iterator[Finding]:
    key = f"headers.{name}"
    if not _HEADER_NAME.fullmatch(name):
        yield Finding(key, "is not a name of a header")
    elif name.lower() in RESERVED_HEADERS:
        yield Finding(key, "is written by the node itself")
    elif name.lower() in seen:
        yield Finding(key, "is written twice: the case of a header's name does not matter")
    if not value.strip():
        yield Finding(key, "is empty")
    elif not _HEADER_VALUE.fullmatch(value):
        yield Finding(key, "holds a character that no header may hold")


def _check_pool(spec: ServerSpec, given: Collection[str]) -> Iterator[Finding]:
    cap = spec.max_instances
    if spec.strategy == "singleton":
        if "maxInstances" in given and cap != 1:
            yield Finding("maxInstances", f"{cap} is not 1, and a singleton has one instance", ("strategy",))
        cap = 1
    if spec.min_ready > cap:
        message = f"{spec.min_ready} is more than the {cap} of maxInstances"
        yield Finding("minReady", message, ("maxInstances", "strategy"))
    if spec.restart.base_seconds > spec.restart.max_seconds:
        message = f"{spec.restart.max_seconds:g} is less than baseSeconds, {spec.restart.base_seconds:g}"
        yield Finding("restart.maxSeconds", message, ("restart", "restart.baseSeconds"))


def _is_web_address(url: str) -> bool:
    if any(character.isspace() or not character.isprintable() for character in url):
        return False
    try:
        parts = urlsplit(url)
        port_is_valid = parts.port is None or parts.port > 0
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname) and port_is_valid
