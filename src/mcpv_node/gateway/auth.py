"""Who may come in: the token file, the tokens, and the checks of Host, Origin and Authorization.

The checks are pure functions over header values. Loopback is trusted with nothing but the two health routes: any
page in a browser and any program of any user can reach it.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import secrets
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from mcpv_node.actors.world import EVERYTHING, Selector
from mcpv_node.settings import AuthSettings, ServerName

from .asgi import REMEMBERED

# The principal of the token in `<stateDir>/token`, and of everybody when there is no token at all.
DEFAULT_PRINCIPAL = "default"

# 256 bits: nobody guesses it, and nothing slows a guesser down but this.
TOKEN_BYTES = 32

# What a probe may ask of a loopback door without a token.
HEALTH_PATHS = frozenset({"/healthz", "/readyz"})

# Where a request that was let in carries whose it is, for the application behind the door.
AUTHORITY = "mcpv_node.authority"

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_WILDCARDS = frozenset({"0.0.0.0", "::"})
_DEFAULT_PORTS = {"http": "80", "https": "443"}


class AuthError(Exception):
    """A token cannot be had, or must not be done without; the sentence names its file or the address."""


@dataclass(frozen=True, slots=True)
class Authority:
    """What a token stands for."""

    principal: str
    selector: Selector = EVERYTHING
    may_operate: bool = True  # where it sees everything


DEFAULT_AUTHORITY = Authority(DEFAULT_PRINCIPAL)


class TokenTable:
    """The tokens that are valid, as digests: a dump of memory or a traceback shows none of them."""

    __slots__ = ("_entries",)

    def __init__(self, tokens: Iterable[tuple[str, Authority]]) -> None:
        self._entries = tuple((_digest(token), authority) for token, authority in tokens)

    def find(self, token: str) -> Authority | None:
        """What `token` stands for. Takes the same time whichever token it is, or none."""
        presented = _digest(token)
        found: Authority | None = None
        for digest, authority in self._entries:
            if hmac.compare_digest(digest, presented):
                found = authority
        return found


def read_or_create_token(path: Path) -> str:
    """The node's own token: kept in `path`, readable by its user alone, made at first start."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        os.chmod(path, 0o600)
        return read_token(path)
    except OSError as error:
        raise AuthError(f"{path}: the token file cannot be made: {error.strerror}") from error
    token = secrets.token_urlsafe(TOKEN_BYTES)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(token + "\n")
    return token


def read_token(path: Path) -> str:
    """The token in `path`, on one line. A file that everybody may write to is refused."""
    try:
        if path.stat().st_mode & stat.S_IWOTH:
            raise AuthError(f"{path}: the token file can be written to by everybody: chmod o-w it")
        token = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise AuthError(f"{path}: the token file cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise AuthError(f"{path}: the token file cannot be read: {error}") from error
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise AuthError(f"{path}: the token file does not hold one token of printable ASCII")
    return token


def load_tokens(auth: AuthSettings, default: str) -> TokenTable:
    """The node's own token and those of the configuration."""
    tokens = [(default, DEFAULT_AUTHORITY)]
    for entry in auth.tokens:
        selector = Selector(
            server=None if entry.server is None else ServerName(entry.server),
            tags=frozenset(entry.tags) if entry.tags else None,
            profile=entry.profile,
        )
        tokens.append((read_token(Path(entry.file)), Authority(entry.name, selector)))
    return TokenTable(tokens)


def is_loopback(host: str) -> bool:
    """Whether what listens on `host` can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_exposure(host: str, *, has_tokens: bool) -> None:
    """Refuse a door that others can reach and anybody may open."""
    if not has_tokens and not is_loopback(host):
        raise AuthError(f"listen.http: {host} can be reached by other machines; that needs a token")


def needs_token(path: str, *, loopback: bool) -> bool:
    """Whether a request for `path` must show a token, where there are tokens."""
    return not (loopback and path in HEALTH_PATHS)


def bearer_of(authorization: str | None) -> str | None:
    """The token of an Authorization header; None when there is none, or another scheme."""
    if authorization is None:
        return None
    scheme, _, token = authorization.partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


@lru_cache(REMEMBERED)
def is_host_allowed(host: str | None, *, bound: str, allowed: tuple[str, ...] = ()) -> bool:
    """Whether a Host header names this node: what it listens on, loopback, or a configured name.

    The port does not matter unless a configured name has one: a tunnel or a container changes it, and a page that
    rebinds its name to our address is told apart by the name. Listening everywhere, any address will do: a page
    cannot rebind a number.
    """
    if not host:
        return False
    name = _host_name(host)
    if name is None:
        return False
    if name == bound.lower() or (name in _LOOPBACK_NAMES and (is_loopback(bound) or bound in _WILDCARDS)):
        return True
    if bound in _WILDCARDS and _is_address(name):
        return True
    lowered = host.lower()
    return any(entry.lower() in (lowered, name) for entry in allowed)


def is_origin_allowed(origin: str | None, *, host: str, scheme: str, allowed: Iterable[str] = ()) -> bool:
    """Whether a request may come from a page of `origin`: the node's own, or a configured one.

    Programs send none. `host` is the request's own Host, which has been checked before.
    """
    if origin is None:
        return True
    lowered = origin.lower().rstrip("/")
    if any(entry.lower().rstrip("/") == lowered for entry in allowed):
        return True
    return _with_port(lowered) == _with_port(f"{scheme}://{host.lower()}")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _host_name(host: str) -> str | None:
    """The name in a Host header, in lower case, without port and brackets."""
    lowered = host.lower()
    if lowered.startswith("["):
        name, bracket, port = lowered[1:].partition("]")
        well_formed = bracket and (not port or (port.startswith(":") and port[1:].isdigit()))
    else:
        name, colon, port = lowered.partition(":")
        well_formed = not colon or port.isdigit()
    return name if well_formed and name else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _with_port(origin: str) -> str:
    scheme, _, rest = origin.partition("://")
    has_port = rest.rpartition(":")[2].isdigit() and not rest.endswith("]")
    return origin if has_port else f"{origin}:{_DEFAULT_PORTS.get(scheme, '')}"
