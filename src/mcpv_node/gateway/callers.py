"""The one place where a `Caller` is made: who is calling, on whose authority, and what it can do."""

from __future__ import annotations

from typing import Final

import msgspec

from mcpv_node.actors.callers import Caller, ClientProfile, Era
from mcpv_node.protocol import ClientHello, RequestMeta, profile_of

# The name a client has that says none.
UNNAMED: Final = "unnamed"


def make_caller(
    principal: str, hello: ClientHello | None, *, conversation: str | None, key: str | None = None
) -> Caller:
    """A client of the older era, once it has said hello.

    The routing key is the caller's own, else its session or connection, else who it is. A key that a client chose is
    kept apart per principal: nobody reaches another's instance by guessing its key.
    """
    name = hello.name if hello is not None and hello.name else UNNAMED
    info = None
    if hello is not None and hello.name:
        info = msgspec.json.encode({"name": hello.name, "version": hello.client_version})
    return _caller(
        principal,
        name,
        Era.LEGACY,
        profile=ClientProfile("" if hello is None else profile_of(hello.capabilities)),
        info=info,
        conversation=conversation,
        key=key,
    )


def make_modern_caller(principal: str, meta: RequestMeta, *, key: str | None = None) -> Caller:
    """A client that says with each request who it is; `key` came beside it, in a header."""
    return _caller(
        principal,
        meta.client_name or UNNAMED,
        Era.MODERN,
        profile=ClientProfile(meta.profile),
        info=meta.client_info,
        conversation=None,
        key=meta.key if meta.key is not None else key,
    )


def _caller(
    principal: str,
    name: str,
    era: Era,
    *,
    profile: ClientProfile,
    info: bytes | None,
    conversation: str | None,
    key: str | None,
) -> Caller:
    turn = conversation if conversation is not None else f"client:{principal}:{name}"
    return Caller(
        principal=principal,
        client=name,
        key=turn if key is None else f"key:{principal}:{key}",
        profile=profile,
        era=era,
        turn=turn,
        info=info,
    )
