"""The settings in effect, for people and for `--json`, without what may be a secret."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec

from .spec_key import spec_key
from .types import NodeSettings, ServerSpec

HIDDEN = "***"

_SECRET_FLAG = re.compile(
    r"(?P<flag>-{1,2}[\w.-]*(?:token|secret|password|passwd|api[_-]?key|credential|auth)[\w.-]*)(?P<value>=.*)?",
    re.IGNORECASE | re.DOTALL,
)


def describe(settings: NodeSettings) -> dict[str, Any]:
    """Give all settings in effect under their keys; values of `env` and `headers` are hidden."""
    described: dict[str, Any] = msgspec.to_builtins(settings)
    described["servers"] = [_describe_server(spec) for spec in settings.servers]
    return described


def _describe_server(spec: ServerSpec) -> dict[str, Any]:
    described: dict[str, Any] = msgspec.to_builtins(spec)
    described["specKey"] = spec_key(spec)
    described["args"] = list(without_secrets(spec.args))
    described["env"] = dict.fromkeys(spec.env, HIDDEN)
    described["headers"] = dict.fromkeys(spec.headers, HIDDEN)
    described["url"] = _without_credentials(spec.url)
    if spec.oauth is not None and spec.oauth.client_secret is not None:
        described["oauth"]["clientSecret"] = HIDDEN
    if spec.proxy is not None:
        described["proxy"] = _without_credentials(spec.proxy)
    return described


def without_secrets(args: tuple[str, ...]) -> Iterator[str]:
    """Give the arguments, those hidden that stand after a flag which names a secret."""
    value_is_secret = False
    for arg in args:
        flag = _SECRET_FLAG.fullmatch(arg)
        if value_is_secret and not arg.startswith("-"):
            yield HIDDEN
        elif flag is not None and flag["value"]:
            yield f"{flag['flag']}={HIDDEN}"
        else:
            yield arg
        value_is_secret = flag is not None and not flag["value"]


def _without_credentials(url: str) -> str:
    """Hide user, password and query: all three are used for keys."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    netloc = f"{HIDDEN}@{host}" if "@" in parts.netloc else host
    return urlunsplit(parts._replace(netloc=netloc, query=HIDDEN if parts.query else "", fragment=""))
