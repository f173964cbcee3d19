"""The certificate of the HTTP door: read at the start, and again when its files have changed.

Certificates live for weeks and nodes for months. A context that connections are made with cannot be given another key
safely, so every handshake is given the newest one.
"""

from __future__ import annotations

import hashlib
import os
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from mcpv_node.settings import TlsSettings

_FIRST: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

_CERT: Final = "listen.tls.cert"
_KEY: Final = "listen.tls.key"

# What shows that a file has been written again, or is another one.
Stamp: TypeAlias = tuple[int, int, int]


class CertificateError(Exception):
    """There is no certificate to be had; `words` name the file and what is wrong with it, `key` what names the file."""

    def __init__(self, key: str, words: str) -> None:
        super().__init__(f"{key}: {words}")
        self.key = key
        self.words = words


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate with its key, ready for handshakes. `fingerprint` is the SHA-256 of its DER, in hex."""

    context: ssl.SSLContext
    fingerprint: str
    stamps: tuple[Stamp, Stamp]


def read_certificate(tls: TlsSettings) -> Certificate:
    """Read the files; raises CertificateError."""
    # Before they are read: what is written meanwhile is seen at the next look.
    stamps = _stamps_of(tls)
    text = _read(tls.cert, _CERT)
    _read(tls.key, _KEY)
    first = _FIRST.search(text)
    if first is None:
        raise CertificateError(_CERT, f"{tls.cert} holds no certificate in PEM")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])

    def no_passphrase() -> str:
        # Without this the terminal would be asked, where there is one.
        words = f"{tls.key} has a passphrase, which nobody is there to type; store it without one"
        raise CertificateError(_KEY, words)

    try:
        context.load_cert_chain(tls.cert, tls.key, password=no_passphrase)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            words = f"{tls.key} is not the key of the certificate in {tls.cert}"
        else:
            words = f"{tls.key} and {tls.cert} are no key and certificate in PEM: {error.reason or error}"
        raise CertificateError(_KEY, words) from None
    except OSError as error:
        raise CertificateError(_KEY, f"{tls.key} cannot be used: {error.strerror or error}") from None
    return Certificate(context, hashlib.sha256(ssl.PEM_cert_to_DER_cert(first[0])).hexdigest(), stamps)


def read_if_changed(tls: TlsSettings, known: Certificate) -> Certificate | None:
    """The certificate, where its files are not those of `known` any more; raises CertificateError."""
    return None if _stamps_of(tls) == known.stamps else read_certificate(tls)


def _read(path: str, key: str) -> str:
    try:
        return Path(path).read_text(encoding="ascii", errors="replace")
    except OSError as error:
        raise _unreadable(path, key, error) from None


def _stamps_of(tls: TlsSettings) -> tuple[Stamp, Stamp]:
    return _stamp_of(tls.cert, _CERT), _stamp_of(tls.key, _KEY)


def _stamp_of(path: str, key: str) -> Stamp:
    try:
        found = os.stat(path)
    except OSError as error:
        raise _unreadable(path, key, error) from None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _unreadable(path: str, key: str, error: OSError) -> CertificateError:
    return CertificateError(key, f"{path} cannot be read: {error.strerror}")
