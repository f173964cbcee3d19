"""Where a server may lead us: which addresses are asked that it names, and not the configuration. Pure.

Metadata, registration and tokens of OAuth are at URLs that come from a server. Without a bound such a server could
have the node ask what only the node can reach: its own machine, its network, a cloud's metadata.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final, Literal
from urllib.parse import urlsplit

from .headers import same_origin

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# "named": as what the configuration names. "public": over https, and no address that is not everybody's.
Reach = Literal["named", "public"]

_LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})

# RFC 6052: the IPv4 address is in the last four bytes.
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class ForbiddenAddress(OSError):
    """A name led to an address that must not be asked."""


def decide_reach(url: str, named: Iterable[str]) -> Reach | None:
    """How `url`, which a server named, may be asked where the configuration names `named`; None: not at all."""
    origins = [origin for origin in named if origin]
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        if any(same_origin(url, origin) for origin in origins):
            return "named"
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not host:
        return None
    if host in _LOOPBACK:
        # Who is on this machine may lead to this machine; nobody else may.
        return "named" if any(urlsplit(origin).hostname in _LOOPBACK for origin in origins) else None
    if parts.scheme != "https":
        return None
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return "public"
    return "public" if is_public(address) else None


def is_public(address: Address) -> bool:
    """Whether an address is everybody's: none of this machine, of a network behind it, of a link or of many."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
    return address.is_global and not address.is_multicast and not address.is_reserved


def check_public(host: str) -> None:
    """Refuse to connect to an address that is not everybody's; `host` is as the resolver gave it."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if not is_public(address):
        raise ForbiddenAddress(f"{address} is not a public address")
