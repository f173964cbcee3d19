"""The settings in effect, for people and for `--json`, without what may be a secret.

Hidden are: every value of `env` and `headers`, what follows or is assigned to an option that sounds like a secret,
`NAME=VALUE` arguments of such a name, header arguments, user, password and query of an address, and texts in the
form of well-known keys.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec

from mcpv_node.secret_names import is_secret_name

from .spec_key import spec_key
from .types import NodeSettings, ServerSpec

HIDDEN = "***"

_FLAG = re.compile(r"(?P<flag>-{1,2}[A-Za-z][\w.-]*)(?P<value>=.*)?", re.DOTALL)
_ASSIGNMENT = re.compile(r"(?P<name>(?:-{1,2}(?:e|env)=)?[A-Za-z_][\w.-]*)=(?P<value>.+)", re.DOTALL)
_HEADER = re.compile(
    r"(?P<flag>(?:-H|--header)=?)?(?P<name>[A-Za-z][A-Za-z0-9-]*): ?(?P<value>\S.*)", re.DOTALL
)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://\S+", re.IGNORECASE)
# Prefixes under which services hand out keys.
_KNOWN_KEY = re.compile(
    r"\b(?:sk|pk|rk|ghp|gho|ghu|ghs|ghr|github_pat|glpat|xox[abeprs]|AKIA|AIza|hf|npm|lin_api|secret|ntn|tvly)"
    r"[-_A-Za-z0-9]*[0-9][-_A-Za-z0-9]{7,}"
)
# Options whose value holds a secret in its second half.
_PAIR_FLAGS = frozenset({"-e", "--env", "-H", "--header"})


def describe(settings: NodeSettings) -> dict[str, Any]:
    """Give all settings in effect under their keys; values of `env` and `headers` are hidden."""
    described: dict[str, Any] = msgspec.to_builtins(settings)
    otlp = settings.telemetry.otlp
    if otlp is not None:
        shown = described["telemetry"]["otlp"]
        shown["headers"] = dict.fromkeys(otlp.headers, HIDDEN)
        if otlp.endpoint is not None:
            shown["endpoint"] = _without_credentials(otlp.endpoint)
    described["servers"] = [describe_server(spec) for spec in settings.servers]
    return described


def describe_server(spec: ServerSpec) -> dict[str, Any]:
    """Give one entry in the same way."""
    described: dict[str, Any] = msgspec.to_builtins(spec)
    described["specKey"] = spec_key(spec)
    described["args"] = list(hide_secrets(spec.args))
    described["env"] = dict.fromkeys(spec.env, HIDDEN)
    described["headers"] = dict.fromkeys(spec.headers, HIDDEN)
    described["url"] = _without_credentials(spec.url)
    if spec.oauth is not None and spec.oauth.client_secret is not None:
        described["oauth"]["clientSecret"] = HIDDEN
    if spec.proxy is not None:
        described["proxy"] = _without_credentials(spec.proxy)
    return described


def command_line(spec: ServerSpec) -> str:
    """Give what is run, or the address that is spoken to, without secrets, as one would type it."""
    if spec.is_stdio:
        return shlex.join([spec.command, *hide_secrets(spec.args)])
    return _without_credentials(spec.url)


def hide_secrets(args: Sequence[str]) -> Iterator[str]:
    """Give the arguments of a program with what may be a secret hidden."""
    before = ""
    for arg in args:
        flag = _secret_flag(before)
        if flag is not None and not flag["value"] and not arg.startswith("-"):
            yield HIDDEN
        else:
            yield _shown(arg, is_pair=before in _PAIR_FLAGS)
        before = arg


def _secret_flag(arg: str) -> re.Match[str] | None:
    """An option that is to be followed by a secret, or is."""
    flag = _FLAG.fullmatch(arg)
    return flag if flag is not None and is_secret_name(flag["flag"]) else None


def _is_dsn(flag: str, value: str) -> bool:
    """An address with a secret in it: without that, people want to see it."""
    return flag.lower().endswith("dsn") and "://" in value


def _shown(arg: str, *, is_pair: bool) -> str:
    flag = _secret_flag(arg)
    if flag is not None and flag["value"] and not _is_dsn(flag["flag"], flag["value"]):
        return f"{flag['flag']}={HIDDEN}"
    header = _HEADER.fullmatch(arg)
    if header is not None and (is_pair or header["flag"] or header["name"].lower() == "authorization"):
        return f"{header['flag'] or ''}{header['name']}: {HIDDEN}"
    pair = _ASSIGNMENT.fullmatch(arg)
    if pair is not None and (is_pair or is_secret_name(pair["name"])):
        return f"{pair['name']}={HIDDEN}"
    arg = _ADDRESS.sub(lambda found: _without_credentials(found[0]), arg)
    return _KNOWN_KEY.sub(HIDDEN, arg)


def _without_credentials(url: str) -> str:
    """Hide user, password and query: all three are used for keys."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return HIDDEN
    host = parts.netloc.rpartition("@")[2]
    netloc = f"{HIDDEN}@{host}" if "@" in parts.netloc else host
    return urlunsplit(parts._replace(netloc=netloc, query=HIDDEN if parts.query else "", fragment=""))
