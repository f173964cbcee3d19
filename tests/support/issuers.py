"""An OAuth authorization server as a test needs it: keys, tokens and metadata; nobody logs in."""

from __future__ import annotations

import json
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from .http_servers import Request

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def jwk(key: PrivateKey, kid: str, **more: Any) -> dict[str, Any]:
    """The public half, as an issuer publishes it."""
    if isinstance(key, rsa.RSAPrivateKey):
        found = jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key(), as_dict=True)
    else:
        found = jwt.algorithms.ECAlgorithm.to_jwk(key.public_key(), as_dict=True)
    return {**found, "kid": kid, **more}


def token(
    claims: dict[str, Any], *, key: Any = RSA_KEY, alg: str = "RS256", kid: str | None = "one", **head: Any
) -> str:
    """A token with these claims."""
    headers = {**({} if kid is None else {"kid": kid}), **head}
    return jwt.encode(claims, key, algorithm=alg, headers=headers)


class IssuerSite:
    """What it publishes; a handler of `HttpServer`."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = [jwk(RSA_KEY, "one")]
        self.issuer = ""  # None of its own: what it was asked as
        self.jwks_uri = ""
        self.is_broken = False
        self.asked: list[str] = []

    async def __call__(self, request: Request) -> None:
        self.asked.append(request.path)
        origin = f"http://{request.headers['host']}"
        if self.is_broken:
            await request.reply(500)
        elif request.path == "/.well-known/openid-configuration":
            about = {"issuer": self.issuer or origin, "jwks_uri": self.jwks_uri or f"{origin}/keys"}
            await request.reply(body=json.dumps(about).encode())
        elif request.path == "/keys":
            await request.reply(body=json.dumps({"keys": self.keys}).encode())
        else:
            await request.reply(404)
