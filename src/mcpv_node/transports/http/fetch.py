"""One JSON document by GET, outside of any session: small, within a bound, from where it may be asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import cast

from .exchange import SMALL_ANSWER, ExchangeError, HttpClient
from .headers import JSON, shown
from .types import HttpFailure, HttpLimits, HttpRoute

# An authorization server answers at once, or clients wait for nothing.
FETCH_TIMEOUT = 10.0


async def fetch_object(url: str, *, named: str, environ: Mapping[str, str]) -> dict[str, object] | None:
    """The JSON object at `url`; None when there is none (404). `named` is the address the configuration names: at
    its origin anything may be asked, elsewhere what `reach` allows. Raises ExchangeError."""
    client = HttpClient(
        HttpRoute(named, environ=environ), HttpLimits(SMALL_ANSWER, 1, answer_timeout=FETCH_TIMEOUT)
    )
    try:
        fetched = await client.fetch("GET", url, {"accept": JSON})
    finally:
        await client.close()
    if fetched.status == 404:
        return None
    if fetched.status != 200:
        raise ExchangeError(HttpFailure("status", f"{shown(url)} answered {fetched.status}"))
    try:
        found = json.loads(fetched.body)
    except (ValueError, RecursionError) as error:
        raise ExchangeError(HttpFailure("content", f"{shown(url)} answered what is no JSON")) from error
    if not isinstance(found, dict):
        raise ExchangeError(HttpFailure("content", f"{shown(url)} answered what is no object"))
    return cast("dict[str, object]", found)
