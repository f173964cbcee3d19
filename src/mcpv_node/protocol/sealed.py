"""Handles that a client carries for us and cannot read, change, or use as somebody else.

What a retry, a page or a task needs is sealed into the text the client is given: no map of them exists, so none can
leak or be lost. A handle opens for one purpose, for whom it was bound to, until it expires; any other is refused.
"""

from __future__ import annotations

import base64
import binascii
import math
import os
import struct
from typing import TYPE_CHECKING, Final

from .errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

KEY_BYTES: Final = 32

# Twelve random bytes meet again after some billions of handles; no key seals as many.
_NONCE_BYTES: Final = 12
_FORMAT: Final = b"mcpv-sealed-1"
_EXPIRY: Final = struct.Struct(">d")
_LENGTH: Final = struct.Struct(">I")


class SealError(RemoteProtocolError):
    """A handle that does not open: forged, cut, for another purpose or principal, or expired."""


class Sealer:
    """Seals and opens handles under one key of `KEY_BYTES` bytes."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise LocalProtocolError(
                f"the key that seals handles has {len(key)} bytes; it must have {KEY_BYTES}"
            )
        self._key = key
        # The library takes longer to import than most nodes take to start, and many never seal.
        self._cipher: ChaCha20Poly1305 | None = None

    def seal(
        self, purpose: str, payload: bytes, *, bound_to: tuple[str, ...], expires_at: float | None
    ) -> str:
        """The payload as text that fits into a URL; `expires_at` in seconds of the clock that `open` is told."""
        nonce = os.urandom(_NONCE_BYTES)
        plain = _EXPIRY.pack(math.inf if expires_at is None else expires_at) + payload
        sealed = self._aead().encrypt(nonce, plain, _bound(purpose, bound_to))
        return _encode(nonce + sealed)

    def open(self, purpose: str, text: str, *, bound_to: tuple[str, ...], now: float) -> bytes:
        """The payload; raise `SealError` when this handle is not for this purpose, holder and time."""
        from cryptography.exceptions import InvalidTag

        raw = _decode(purpose, text)
        try:
            plain = self._aead().decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], _bound(purpose, bound_to))
        except (InvalidTag, ValueError):
            raise _refused(purpose) from None
        (expires_at,) = _EXPIRY.unpack_from(plain)
        if now >= expires_at:
            raise SealError(f"the {purpose} has expired")
        return plain[_EXPIRY.size :]

    def _aead(self) -> ChaCha20Poly1305:
        if self._cipher is None:
            from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

            self._cipher = ChaCha20Poly1305(self._key)
        return self._cipher


def _bound(purpose: str, bound_to: tuple[str, ...]) -> bytes:
    """What a handle is tied to, each part with its length: ("ab", "c") is not ("a", "bc")."""
    parts = [_FORMAT, *(part.encode(errors="surrogatepass") for part in (purpose, *bound_to))]
    return b"".join(_LENGTH.pack(len(part)) + part for part in parts)


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decode(purpose: str, text: str) -> bytes:
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise _refused(purpose) from None
    # The decoder skips what it does not know and drops the last odd bits: two texts must never be one handle.
    if _encode(raw) != text or len(raw) < _NONCE_BYTES:
        raise _refused(purpose)
    return raw


def _refused(purpose: str) -> SealError:
    # One sentence for all: why a handle does not open is nobody's business who forged it.
    return SealError(f"the {purpose} is not valid here")
