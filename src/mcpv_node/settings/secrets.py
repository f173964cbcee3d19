"""Which values of the settings are secrets: what leaves the node must not hold them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from mcpv_node.secret_names import is_secret_name

from .describe import HIDDEN, hide_secrets
from .types import NodeSettings, ServerSpec

# Shorter ones stand in ordinary words by chance, and masking them would make those unreadable.
SHORTEST: Final = 6

# Of a secret of several lines, such as a key in PEM, these long ones are secrets each.
_LONG_LINE: Final = 16


def secret_values(settings: NodeSettings) -> frozenset[str]:
    """Every value of the settings that is a secret, as it may turn up in what a server writes."""
    found = [value for spec in settings.servers for value in _of_server(spec)]
    otlp = settings.telemetry.otlp
    if otlp is not None:
        found += [*otlp.headers.values(), *_of_url(otlp.endpoint or "")]
    return frozenset(part for value in found for part in _spellings(value) if len(part) >= SHORTEST)


def _of_server(spec: ServerSpec) -> Iterator[str]:
    yield from (value for name, value in spec.env.items() if is_secret_name(name))
    yield from spec.headers.values()
    if spec.oauth is not None and spec.oauth.client_secret is not None:
        yield spec.oauth.client_secret
    yield from _of_args(spec.args)
    for url in (spec.url, spec.proxy or "", *spec.env.values()):
        yield from _of_url(url)


def _of_args(args: tuple[str, ...]) -> Iterator[str]:
    """What is hidden where arguments are shown."""
    for arg, shown in zip(args, hide_secrets(args), strict=True):
        if shown != arg:
            yield arg.removeprefix(shown.removesuffix(HIDDEN))


def _of_url(url: str) -> Iterator[str]:
    """A password in an address, and what its query says under the name of a secret."""
    if "://" not in url:
        return
    try:
        parts = urlsplit(url)
        password = parts.password
    except ValueError:
        return
    if password:
        yield password
        yield unquote(password)
    yield from (value for name, value in parse_qsl(parts.query) if is_secret_name(name))


def _spellings(value: str) -> Iterable[str]:
    """A secret whole, without the scheme before it, and by its lines."""
    value = value.strip()
    scheme, space, rest = value.partition(" ")
    bare = [rest] if space and scheme.lower() in ("bearer", "basic", "token", "digest") else []
    lines = [line.strip() for line in value.splitlines()] if "\n" in value else []
    return [value, *bare, *(line for line in lines if len(line) >= _LONG_LINE)]
