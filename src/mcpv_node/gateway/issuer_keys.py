"""The keys of the authorization server: fetched when they are wanted, kept, and fetched again when one is missing.

An unknown key may be new, so it is looked for; but whoever makes up names of keys has the issuer asked once in a while
and no oftener. What is known goes on to count when the issuer cannot be reached.
"""

from __future__ import annotations

import asyncio
import importlib
from dataclasses import dataclass
from typing import Any, Final, TypeAlias, cast
from urllib.parse import urlsplit, urlunsplit

from loguru import logger

from mcpv_node.actors.context import NodeContext
from mcpv_node.actors.kernel import Deferred, LoopActor, Request, answers, handles
from mcpv_node.settings import IssuerSettings, is_private_way
from mcpv_node.transports.http import ExchangeError, fetch_object

from .issuer import Jwk

# A key that the issuer has withdrawn counts for so long at most (seconds).
KEYS_AGE: Final = 3600.0

# Between two fetches that somebody's token has caused (seconds).
FETCH_PERIOD: Final = 30.0

# Issuers have a handful.
MAX_KEYS: Final = 100

# A door waits so long for a key: three fetches, each with a bound of its own, and a margin (seconds).
KEY_BOUND: Final = 35.0


@dataclass(frozen=True, slots=True)
class NotReachable:
    """The issuer's keys are not known, and why."""

    why: str


@dataclass(frozen=True, slots=True)
class FindKey(Request["Jwk | NotReachable | None"]):
    """The key of this name; None: the issuer has none. A token that names no key is signed with the only one."""

    kid: str | None


@dataclass(frozen=True, slots=True)
class _Fetched:
    outcome: dict[str, Jwk] | Exception


IssuerKeysMessage: TypeAlias = FindKey


class IssuerKeys(LoopActor[None]):
    """See the module."""

    def __init__(self, node: NodeContext, settings: IssuerSettings) -> None:
        super().__init__()
        self._node = node
        self._settings = settings
        self._keys: dict[str, Jwk] = {}
        self._why: str | None = "they have not been fetched"
        self._fetched_at = self._tried_at = float("-inf")
        self._is_fetching = False
        self._waiting: list[tuple[str | None, Deferred[Jwk | NotReachable | None]]] = []

    def on_start(self, estate: None = None) -> None:
        self._fetch()

    @answers(FindKey)
    def _on_find(self, request: FindKey) -> Jwk | NotReachable | Deferred[Jwk | NotReachable | None] | None:
        now = self._node.clock.monotonic()
        key = self._find(request.kid)
        is_old = now - self._fetched_at > KEYS_AGE
        if (key is None or is_old) and not self._is_fetching and now - self._tried_at > FETCH_PERIOD:
            self._fetch()
        if key is not None:
            return key
        if not self._is_fetching:
            return self._answer(request.kid)
        deferred: Deferred[Jwk | NotReachable | None] = self.defer()
        self._waiting.append((request.kid, deferred))
        return deferred

    @handles(_Fetched)
    def _on_fetched(self, message: _Fetched) -> None:
        self._is_fetching = False
        match message.outcome:
            case dict(keys):
                self._keys, self._why = keys, None
                self._fetched_at = self._node.clock.monotonic()
            case ExchangeError() as error:
                self._why = str(error)
                logger.bind(issuer=self._settings.issuer).warning("its keys cannot be had: {}", error)
            case error:
                raise error
        waiting, self._waiting = self._waiting, []
        for kid, deferred in waiting:
            deferred.answer(self._answer(kid))

    def _fetch(self) -> None:
        self._tried_at, self._is_fetching = self._node.clock.monotonic(), True
        self.run(fetch_keys(self._settings, self._node), _Fetched)

    def _find(self, kid: str | None) -> Jwk | None:
        if kid is None:
            return next(iter(self._keys.values())) if len(self._keys) == 1 else None
        return self._keys.get(kid)

    def _answer(self, kid: str | None) -> Jwk | NotReachable | None:
        key = self._find(kid)
        return NotReachable(self._why) if key is None and self._why is not None else key


async def fetch_keys(settings: IssuerSettings, node: NodeContext) -> dict[str, Jwk]:
    """The issuer's keys by their names; one without a name has "". Raises ExchangeError."""
    # It brings its ciphers, a tenth of a second, in which the loop has others to serve.
    await asyncio.to_thread(importlib.import_module, "jwt")
    uri = settings.jwks_uri or await _find_jwks_uri(settings, node)
    named = settings.jwks_uri or settings.issuer
    found = await fetch_object(uri, named=named, environ=node.environ)
    listed = found.get("keys") if found is not None else None
    if not isinstance(listed, list):
        raise _failure(f"{uri} has no keys")
    keys: dict[str, Jwk] = {}
    for key in cast("list[object]", listed)[:MAX_KEYS]:
        if isinstance(key, dict):
            jwk = cast("dict[str, Any]", key)
            keys[str(jwk.get("kid", ""))] = jwk
    return keys


async def _find_jwks_uri(settings: IssuerSettings, node: NodeContext) -> str:
    for url in metadata_urls(settings.issuer):
        about = await fetch_object(url, named=settings.issuer, environ=node.environ)
        if about is None:
            continue
        if about.get("issuer") != settings.issuer:
            # Whoever answers there speaks for somebody else (RFC 8414, section 3.3).
            raise _failure(f"the metadata at {url} is another issuer's")
        uri = about.get("jwks_uri")
        if not isinstance(uri, str) or not is_private_way(uri):
            raise _failure(f"the metadata at {url} names no place of keys over https")
        return uri
    raise _failure(f"{settings.issuer} has no metadata; auth.oauth.jwksUri may name its keys")


def metadata_urls(issuer: str) -> tuple[str, ...]:
    """Where an issuer says of itself what it is: RFC 8414, then OpenID Connect's two ways."""
    parts = urlsplit(issuer)
    path = parts.path.rstrip("/")

    def at(where: str) -> str:
        return urlunsplit((parts.scheme, parts.netloc, where, "", ""))

    urls = (
        at(f"/.well-known/oauth-authorization-server{path}"),
        at(f"/.well-known/openid-configuration{path}"),
        at(f"{path}/.well-known/openid-configuration"),
    )
    return tuple(dict.fromkeys(urls))


def _failure(why: str) -> ExchangeError:
    return ExchangeError.of("auth", why)
