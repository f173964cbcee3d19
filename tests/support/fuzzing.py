"""Hostile input by the thousand: what is tried, for how long, and what no answer may hold.

bin/test tests/gateway/test_fuzz_*.py                     about a minute, the same examples every time
FUZZ_SECONDS=150 bin/test tests/gateway/test_fuzz_*.py    so long for each test, other examples every time
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, TypeVar

import hypothesis.strategies as st
import uvloop
from hypothesis import HealthCheck, given, seed, settings
from support.fake_servers import until

T = TypeVar("T")

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))

# One test's own bound: pytest's for ordinary tests is less than a long run needs.
TEST_TIMEOUT = max(120, int(SECONDS * 2 + 60))

# No example takes a second; what takes this long does not end.
HANG = 15.0

# What shows how the node is made or where it lives.
INSIDE = re.compile(rb"Traceback|File \"|\.py\b|site-packages|/tmp/|/home/|/root/|0x[0-9a-f]{8,}")


def fuzz(examples: int, **strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], None]:
    """Run the decorated check at once, `examples` times or for FUZZ_SECONDS."""

    def run(check: Callable[..., None]) -> None:
        shown = settings(
            max_examples=500 if SECONDS else examples,
            derandomize=not SECONDS,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        end = time.monotonic() + SECONDS
        while True:
            again = shown(given(**strategies)(check))
            if SECONDS:
                again = seed(random.getrandbits(64))(again)
            again()
            if time.monotonic() >= end:
                return

    return run


class Theatre:
    """One loop for many examples: what stands on it stands between them, too."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)

    def __enter__(self) -> Theatre:
        self._runner.__enter__()
        return self

    def __exit__(self, *exit: Any) -> None:
        self._runner.__exit__(*exit)

    @contextmanager
    def standing(self, context: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """Have something for all examples; it ends with them, also when one fails."""
        thing = self.run(context.__aenter__())
        try:
            yield thing
        finally:
            self.run(context.__aexit__(None, None, None))

    def run(self, work: Awaitable[T]) -> T:
        """Run to the end, or fail for a hang."""

        async def bounded() -> T:
            async with asyncio.timeout(HANG):
                return await work

        return self._runner.run(bounded())


def assert_keeps_to_itself(data: bytes, *foreign: bytes) -> None:
    """Nothing of the inside, and nothing of anybody else, is in an answer."""
    assert not (found := INSIDE.search(data)), (found, data[:2000])
    for secret in foreign:
        assert secret not in data, data[:2000]
    assert b"-32603" not in data, data[:2000]


# ---- JSON-RPC ------------------------------------------------------------------------------------------------------

META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "fuzz", "version": "1"},
}

METHODS = (
    "initialize",
    "ping",
    "tools/list",
    "tools/call",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "resources/subscribe",
    "resources/unsubscribe",
    "prompts/list",
    "prompts/get",
    "completion/complete",
    "logging/setLevel",
    "server/discover",
    "subscriptions/listen",
    "tasks/get",
    "tasks/cancel",
    "tasks/list",
    "tasks/result",
    "tasks/update",
    "notifications/initialized",
    "notifications/cancelled",
    "notifications/progress",
    "notifications/roots/list_changed",
    "sampling/createMessage",
    "",
    "rpc.discover",
    "__class__",
)

# Not the slow one: nobody is there to have it answered.
NAMES = (
    "alpha_echo",
    "alpha.echo",
    "beta_error",
    "alpha_progress",
    "alpha_dies",
    "nobody_nothing",
    "",
    "a" * 300,
)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ("", "\x00", "\ud800", "../../etc/passwd", "%s%n", "9" * 400, "é" * 50, "2026-07-28", "2025-11-25")
    ),
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)
params = st.fixed_dictionaries(
    {},
    optional={
        "name": st.one_of(st.sampled_from(NAMES), anything),
        "uri": st.one_of(st.sampled_from(("file:///etc/passwd", "x:", "http://[", "")), anything),
        "arguments": anything,
        "cursor": anything,
        "level": st.one_of(st.sampled_from(("debug", "nothing")), anything),
        "ref": st.one_of(
            st.sampled_from(
                ({"type": "ref/prompt", "name": "alpha_x"}, {"type": "ref/resource", "uri": "x:"})
            ),
            anything,
        ),
        "argument": anything,
        "taskId": anything,
        "task": anything,
        "requestState": st.one_of(st.sampled_from(("v1.AAAA", "", "=")), anything),
        "inputResponses": anything,
        "notifications": anything,
        "requestId": st.one_of(st.integers(0, 5), anything),
        "progressToken": anything,
        "protocolVersion": st.one_of(st.sampled_from(("2025-11-25", "2026-07-28", "1")), anything),
        "capabilities": st.one_of(st.just({"roots": {}, "elicitation": {}}), anything),
        "clientInfo": st.one_of(st.just({"name": "f", "version": "1"}), anything),
        "_meta": st.one_of(
            st.just(META),
            anything,
            st.fixed_dictionaries(
                {},
                optional={**dict.fromkeys(META, anything), "progressToken": anything, "mcpv/key": anything},
            ),
        ),
    },
)
messages = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.one_of(st.just("2.0"), st.just("2.0"), anything),
        "id": st.one_of(st.integers(0, 5), st.text(max_size=5), anything),
        "method": st.one_of(st.sampled_from(METHODS), st.sampled_from(METHODS), anything),
        "params": st.one_of(params, params, anything),
        "result": anything,
        "error": st.one_of(st.just({"code": 1, "message": "x"}), anything),
    },
)


def _written(value: Any) -> bytes:
    return json.dumps(value).encode()


def damaged(data: bytes, damages: list[tuple[str, int, bytes]]) -> bytes:
    """Cut, doubled, or with other bytes in between."""
    for kind, place, extra in damages:
        at = place % (len(data) + 1)
        if kind == "cut":
            data = data[:at]
        elif kind == "insert":
            data = data[:at] + extra + data[at:]
        elif kind == "double":
            data = data + data[at:]
        else:
            data = data[:at] + data[at + 1 :]
    return data


damages = st.lists(
    st.tuples(
        st.sampled_from(("cut", "insert", "double", "drop")),
        st.integers(0, 10_000),
        st.one_of(
            st.binary(max_size=8),
            st.sampled_from((b"\xff", b"\x00", b'"', b"{" * 600, b"[" * 600, b'"id":1,')),
        ),
    ),
    min_size=1,
    max_size=3,
)

bodies = st.one_of(
    messages.map(_written),
    messages.map(_written),
    st.builds(damaged, messages.map(_written), damages),
    st.lists(messages, max_size=3).map(_written),
    anything.map(_written),
    st.binary(max_size=200),
)


async def until_loaded(door: Any) -> Any:
    """A door's application once it is whole: what is loaded on a thread is not disturbed by what Hypothesis does here."""
    await until(lambda: door.cell.actor._app._rest)
    return door.cell.actor._app
