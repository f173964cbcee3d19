"""Sessions with servers behind a URL: Streamable HTTP, and the HTTP+SSE of 2024-11-05. I/O only.

# Layout

`types` who hears what, what can fail, how much is allowed · `session` what both kinds share: tasks, counters, the
order of what is sent · `streamable` one session of Streamable HTTP, both eras · `sse` one session of HTTP+SSE ·
`exchange` one request and its answer on the wire, the only module that knows the HTTP library, which is loaded when
the first exchange starts · `events` the place in a stream · `oauth` tokens, for servers that want them · `fetch` one document · `reach` where a server may lead us · `headers` which headers go out, and what comes in may mean · `proxies` which way to a host.
"""

from __future__ import annotations

from .exchange import ExchangeError
from .fetch import fetch_object
from .session import HttpSession
from .sse import HttpSseSession
from .streamable import StreamableHttpSession
from .types import FailureKind, HttpFailure, HttpLimits, HttpRoute, HttpSink

__all__ = [
    "ExchangeError",
    "FailureKind",
    "HttpFailure",
    "HttpLimits",
    "HttpRoute",
    "HttpSession",
    "HttpSink",
    "HttpSseSession",
    "StreamableHttpSession",
    "fetch_object",
]
