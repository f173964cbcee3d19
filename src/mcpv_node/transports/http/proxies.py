"""Which way to a host: straight, or through the proxy that settings or the environment name. Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

# What `proxy` in the settings says for a server that is reached straight, whatever the environment has.
NO_PROXY = "none"


def decide_proxy(url: str, *, configured: str | None, environ: Mapping[str, str]) -> str | None:
    """Return the proxy's address for `url`, or None.

    The variables are the usual ones (`https_proxy`, `http_proxy`, `all_proxy`, `no_proxy`; small letters first).
    By them, this machine itself is never reached through a proxy, whose loopback is another machine's.
    """
    if configured is not None:
        return None if configured == NO_PROXY else configured
    parts = urlsplit(url)
    proxy = _variable(environ, f"{parts.scheme}_proxy") or _variable(environ, "all_proxy")
    if not proxy or _is_this_machine(parts.hostname or ""):
        return None
    if any(_is_meant(parts, exception.strip()) for exception in _variable(environ, "no_proxy").split(",")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _variable(environ: Mapping[str, str], name: str) -> str:
    return environ.get(name) or environ.get(name.upper()) or ""


def _is_meant(parts: SplitResult, exception: str) -> bool:
    """Tell whether one of `no_proxy` is this host: `*`, a host or a domain, with a port or without, or a network."""
    host = parts.hostname or ""
    if exception == "*":
        return True
    if "/" in exception:
        return _is_within(host, exception)
    name, _, port = exception.rpartition(":") if exception.count(":") == 1 else (exception, "", "")
    if port and port != str(parts.port):
        return False
    name = name.lstrip(".").lower()
    return bool(name) and (host == name or host.endswith(f".{name}"))


def _is_within(host: str, network: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


def _is_this_machine(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
