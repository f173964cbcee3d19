"""Tokens of an OAuth authorization server: what the door makes of one. Pure, but for the library it is read with.

A token counts when the issuer signed it with a key of its own, for us, within its time. Whose it is, and what it may,
is in it; nothing of it goes on to a server. The library is imported by whoever fetches the keys, off the loop: without
one no token is read.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast
from urllib.parse import urlsplit

import msgspec

from mcpv_node.actors.kernel import Handle
from mcpv_node.actors.world import EVERYTHING, Selector
from mcpv_node.settings import IssuerSettings

from .auth import AuthError, Authority

if TYPE_CHECKING:
    from .issuer_keys import IssuerKeysMessage

Jwk: TypeAlias = Mapping[str, Any]

WELL_KNOWN: Final = "/.well-known/oauth-protected-resource"

# Signatures by a key that only the issuer has; with a shared secret anybody who checks could sign.
ALGORITHMS: Final = frozenset(
    {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
)

# Clocks of two machines differ by less (seconds).
LEEWAY: Final = 30.0

# A token of more has no place in a header.
MAX_TOKEN: Final = 8192

# What a principal may be called; longer ones would only fill tables and logs.
MAX_SUBJECT: Final = 256


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whose tokens are believed, and who owns its keys."""

    settings: IssuerSettings
    keys: Handle[IssuerKeysMessage]


@dataclass(frozen=True, slots=True)
class NotBelieved:
    """Why a token is refused: by the words of RFC 6750, and in a sentence."""

    error: Literal["invalid_token", "insufficient_scope"]
    why: str


class TokenHead(msgspec.Struct, frozen=True):
    """What a token says of its signature, which is not checked yet."""

    alg: str
    kid: str | None = None


def check_installed() -> None:
    """Refuse a start that would refuse every token."""
    if importlib.util.find_spec("jwt") is None or importlib.util.find_spec("cryptography") is None:
        raise AuthError("auth.oauth needs what is not installed: pip install 'mcpv-node[oauth]'")


def read_head(token: str) -> TokenHead | None:
    """What names the key of a token; None when it is no signed token, or signed in no way that counts."""
    encoded, dot, rest = token.partition(".")
    if len(token) > MAX_TOKEN or not dot or rest.count(".") != 1:
        return None
    try:
        text = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        head = msgspec.json.decode(text, type=TokenHead)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return head if head.alg in ALGORITHMS else None


def judge_token(
    token: str, key: Jwk, *, settings: IssuerSettings, audience: str, now: float
) -> Authority | NotBelieved:
    """What a token stands for, if `key` is the one it names. `now` is the wall clock's, in seconds since 1970."""
    import jwt

    head = read_head(token)
    if head is None or not _is_for(key, head):
        return NotBelieved("invalid_token", "its signature is not one that counts")
    try:
        claims = jwt.decode(
            token,
            jwt.PyJWK(dict(key), algorithm=head.alg),
            algorithms=[head.alg],
            audience=[audience, f"{audience}/"],
            issuer=settings.issuer,
            # Its times are looked at below, by our clock.
            options={
                "require": ["exp", "iss", "aud", settings.principal_claim],
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
            },
        )
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
        return NotBelieved("invalid_token", f"it is not valid here: {type(error).__name__}")
    if not _is_in_time(claims, now):
        return NotBelieved("invalid_token", "its time is over, or has not come")
    subject = claims.get(settings.principal_claim)
    if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT or not subject.isprintable():
        return NotBelieved("invalid_token", f"its {settings.principal_claim} names nobody")
    missing = [scope for scope in settings.required_scopes if scope not in _scopes_of(claims)]
    if missing:
        return NotBelieved("insufficient_scope", f"it lacks the scope {' '.join(missing)}")
    selector = EVERYTHING if settings.profile is None else Selector(profile=settings.profile)
    return Authority(principal_of(settings.issuer, subject), selector, may_operate=False)


def principal_of(issuer: str, subject: str) -> str:
    """Whose the requests are: no name of a token of ours, nor of another issuer's subject."""
    return f"oauth:{hashlib.sha256(issuer.encode()).hexdigest()[:12]}:{subject}"


def resource_metadata(settings: IssuerSettings, audience: str) -> bytes:
    """What a client is told of where tokens are had (RFC 9728)."""
    about: dict[str, object] = {
        "resource": audience,
        "authorization_servers": [settings.issuer],
        "bearer_methods_supported": ["header"],
    }
    if scopes := settings.scopes or settings.required_scopes:
        about["scopes_supported"] = scopes
    return msgspec.json.encode(about)


def challenge(
    settings: IssuerSettings, audience: str, path: str, refused: NotBelieved | None = None
) -> bytes:
    """The WWW-Authenticate of a request for `path` that was refused; without a reason, for having no token."""
    parts = urlsplit(audience)
    below = path if path == "/mcp" or path.startswith("/mcp/") else "/mcp"
    words = [f'resource_metadata="{parts.scheme}://{parts.netloc}{WELL_KNOWN}{_quotable(below)}"']
    if scopes := settings.required_scopes or settings.scopes:
        words.append(f'scope="{" ".join(scopes)}"')
    if refused is not None:
        words.append(f'error="{refused.error}"')
    return f'Bearer realm="mcpv-node", {", ".join(words)}'.encode("ascii")


def _quotable(path: str) -> str:
    """A path that may stand in a header; one that may not is only a wrong path."""
    is_plain = path.isascii() and path.isprintable() and not set('"\\ ') & set(path)
    return path if is_plain else "/mcp"


def _is_for(key: Jwk, head: TokenHead) -> bool:
    """Whether a key signs in this way at all: the token's own word alone must not decide it."""
    if key.get("use", "sig") != "sig" or key.get("alg", head.alg) != head.alg:
        return False
    return key.get("kty") == {"R": "RSA", "P": "RSA", "E": "EC"}[head.alg[0]] or (
        head.alg == "EdDSA" and key.get("kty") == "OKP"
    )


def _is_in_time(claims: Mapping[str, Any], now: float) -> bool:
    try:
        expires = msgspec.convert(claims.get("exp"), float)
        begins = msgspec.convert(claims.get("nbf", 0), float)
    except msgspec.ValidationError:
        return False
    return begins - LEEWAY <= now < expires + LEEWAY


def _scopes_of(claims: Mapping[str, Any]) -> frozenset[str]:
    found = claims.get("scope", claims.get("scp", ""))
    if isinstance(found, str):
        return frozenset(found.split())
    return frozenset(map(str, cast("list[object]", found))) if isinstance(found, list) else frozenset()
