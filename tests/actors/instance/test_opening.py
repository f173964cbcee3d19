"""How a conversation begins, told without a server: what is asked, and what each answer leads to."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mcpv_node.actors.instance.opening import PROBE_BOUND, Opening
from mcpv_node.protocol import Message, parse_message

DISCOVERY = {"supportedVersions": ["2026-07-28"], "capabilities": {}, "resultType": "complete"}


@dataclass
class Rehearsed:
    """An opening whose server is the test."""

    asked: list[tuple[str, float]] = field(default_factory=list[tuple[str, float]])
    outcome: list[str] = field(default_factory=list[str])
    _then: Callable[[Message | None, int | None], None] | None = None

    def __post_init__(self) -> None:
        self._opening = Opening(
            profile="",
            remembered=None,
            may_probe=True,
            bound=30.0,
            ask=self._ask,
            notify=lambda _: None,
            ready=lambda hello: self.outcome.append(f"ready {hello.era}"),
            try_sse=lambda: self.outcome.append("sse"),
            fail=self.outcome.append,
        )
        self._opening.begin()

    def _ask(self, method: str, _params: Any, then: Any, bound: float) -> None:
        self.asked.append((method, bound))
        self._then = then

    def is_silent(self) -> None:
        assert self._then is not None
        self._then(None, None)

    def answers(self, **members: Any) -> None:
        assert self._then is not None
        self._then(parse_message(json.dumps({"jsonrpc": "2.0", "id": 1, **members}).encode()), None)


def test_a_modern_server_that_was_slow_to_start_is_asked_once_more() -> None:
    opening = Rehearsed()

    opening.is_silent()
    opening.answers(error={"code": -32600, "message": "this connection is modern"})
    opening.answers(result=DISCOVERY)

    assert [method for method, _ in opening.asked] == ["server/discover", "initialize", "server/discover"]
    assert opening.asked[-1][1] == PROBE_BOUND
    assert opening.outcome == ["ready modern"]


def test_a_server_that_refuses_every_beginning_has_failed() -> None:
    opening = Rehearsed()

    opening.is_silent()
    opening.answers(error={"code": -32600, "message": "no"})
    opening.is_silent()
    opening.answers(error={"code": -32600, "message": "no"})

    assert len(opening.asked) == 4
    assert opening.outcome == ["the server refused initialize: no"]


def test_a_server_that_knows_no_discovery_and_refuses_initialize_is_not_asked_again() -> None:
    opening = Rehearsed()

    opening.answers(error={"code": -32601, "message": "what?"})
    opening.answers(error={"code": -32600, "message": "no"})

    assert opening.outcome == ["the server refused initialize: no"]
