"""How a conversation begins: what is remembered, what is answered, and what is said next."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import Raw

from mcpv_node.actors.instance.opening import PROBE_BOUND, Opening
from mcpv_node.actors.instance.own_requests import Then
from mcpv_node.protocol import Failure, RawId, ServerHello, Success

BOUND = 30.0

DISCOVERED = b'{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}}}'
INITIALIZED = b'{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":{"name":"old","version":"1"}}'


class Conversation:
    """What was said, and what became of it."""

    def __init__(self, *, remembered: str | None = None, may_probe: bool = True) -> None:
        self.said: list[str] = []
        self.asked_version: list[str] = []
        self.bounds: list[float] = []
        self.hellos: list[ServerHello] = []
        self.failures: list[str] = []
        self._then: dict[str, Then] = {}
        self.opening = Opening(
            profile="",
            remembered=remembered,
            may_probe=may_probe,
            bound=BOUND,
            ask=self._ask,
            notify=self.said.append,
            ready=self.hellos.append,
            try_sse=lambda: self.said.append("SSE"),
            fail=self.failures.append,
        )
        self.opening.begin()

    def _ask(self, method: str, params: bytes | None, then: Then, bound: float) -> None:
        self.bounds.append(bound)
        self.said.append(method)
        found: dict[str, Any] = msgspec.json.decode(params or b"{}")
        meta = found.get("_meta", {})
        self.asked_version.append(
            found.get("protocolVersion") or meta.get("io.modelcontextprotocol/protocolVersion")
        )
        self._then[method] = then

    def answer(self, method: str, result: bytes | None = None, **error: Any) -> None:
        """The server answers the last request of this method."""
        id = RawId(b"1")
        if result is not None:
            self._then[method](Success(id, Raw(result)), None)
        else:
            self._then[method](Failure(id, Raw(msgspec.json.encode(error))), None)

    def end(self, method: str, status: int | None) -> None:
        """What comes instead of an answer: an HTTP status, or nothing in time."""
        self._then[method](None, status)


@pytest.mark.parametrize(
    ("remembered", "may_probe", "first"),
    [
        (None, True, "server/discover"),
        (None, False, "initialize"),
        ("2025-11-25", True, "initialize"),
        ("2024-11-05", True, "initialize"),
        ("2025-11-25", False, "initialize"),
        ("2026-07-28", True, "server/discover"),
        ("2026-07-28", False, "server/discover"),
    ],
)
def test_the_first_word_is_that_of_the_era_spoken_last_or_a_probe(
    remembered: str | None, may_probe: bool, first: str
) -> None:
    talk = Conversation(remembered=remembered, may_probe=may_probe)

    assert talk.said == [first]
    assert talk.opening.is_probing is (first == "server/discover")


@pytest.mark.parametrize("remembered", [None, "2026-07-28"])
def test_a_modern_server_is_ready_once_it_has_answered(remembered: str | None) -> None:
    talk = Conversation(remembered=remembered)

    talk.answer("server/discover", DISCOVERED)

    assert [hello.version for hello in talk.hellos] == ["2026-07-28"]
    assert talk.said == ["server/discover"]
    assert not talk.opening.is_probing


@pytest.mark.parametrize("remembered", [None, "2026-07-28"])
def test_a_server_that_does_not_know_the_probe_is_a_legacy_one(remembered: str | None) -> None:
    talk = Conversation(remembered=remembered)

    talk.answer("server/discover", code=-32601, message="no")
    talk.answer("initialize", INITIALIZED)

    assert talk.said == ["server/discover", "initialize", "notifications/initialized"]
    assert [hello.version for hello in talk.hellos] == ["2025-06-18"]


@pytest.mark.parametrize(("remembered", "patience"), [(None, PROBE_BOUND), ("2026-07-28", BOUND / 2)])
def test_silence_means_a_legacy_server_sooner_where_nobody_knows_better(
    remembered: str | None, patience: float
) -> None:
    talk = Conversation(remembered=remembered)

    talk.end("server/discover", None)
    talk.answer("initialize", INITIALIZED)

    assert talk.bounds == [patience, BOUND]
    assert talk.said == ["server/discover", "initialize", "notifications/initialized"]
    assert [hello.era for hello in talk.hellos] == ["legacy"]


def test_a_modern_server_that_was_slow_to_start_is_asked_once_more() -> None:
    talk = Conversation()

    talk.end("server/discover", None)
    talk.answer("initialize", code=-32600, message="the connection serves the modern era")
    talk.answer("server/discover", DISCOVERED)

    assert talk.said == ["server/discover", "initialize", "server/discover"]
    assert talk.bounds[-1] == PROBE_BOUND
    assert [hello.version for hello in talk.hellos] == ["2026-07-28"]


def test_a_server_that_refuses_every_beginning_has_failed() -> None:
    talk = Conversation()

    talk.end("server/discover", None)
    talk.answer("initialize", code=-32600, message="no")
    talk.end("server/discover", None)
    talk.answer("initialize", code=-32600, message="no")

    assert len(talk.said) == 4
    assert talk.failures == ["the server refused initialize: no"]


def test_a_server_that_knows_no_discovery_and_refuses_initialize_is_not_asked_again() -> None:
    talk = Conversation()

    talk.answer("server/discover", code=-32601, message="what?")
    talk.answer("initialize", code=-32600, message="no")

    assert talk.failures == ["the server refused initialize: no"]


def test_a_server_that_names_another_version_of_ours_is_asked_once_more_and_not_again() -> None:
    talk = Conversation(remembered="2026-07-28")
    other = {"supported": ["2026-07-28", "2025-11-25"]}

    talk.answer("server/discover", code=-32022, message="no", data=other)
    talk.answer("server/discover", code=-32022, message="no", data=other)

    assert talk.said == ["server/discover", "server/discover", "initialize"]
    assert talk.asked_version == ["2026-07-28", "2026-07-28", "2025-11-25"]


def test_a_server_that_shares_no_version_has_failed() -> None:
    talk = Conversation()

    talk.answer("server/discover", code=-32022, message="no", data={"supported": ["1999-01-01"]})

    assert talk.failures
    assert "1999-01-01" in talk.failures[0]
    assert talk.hellos == []


@pytest.mark.parametrize(("status", "said"), [(400, "initialize"), (404, "initialize"), (405, "SSE")])
def test_a_status_without_a_message_says_which_way_to_go(status: int, said: str) -> None:
    talk = Conversation()

    talk.end("server/discover", status)

    assert talk.said == ["server/discover", said]


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_a_status_that_says_nothing_of_the_era_fails_the_start(status: int) -> None:
    talk = Conversation()

    talk.end("server/discover", status)

    assert talk.failures == [f"the server answered server/discover with the HTTP status {status}"]


@pytest.mark.parametrize("status", [400, 404, 405])
def test_initialize_that_meets_such_a_status_is_tried_over_sse(status: int) -> None:
    talk = Conversation(may_probe=False)

    talk.end("initialize", status)

    assert talk.said == ["initialize", "SSE"]


def test_a_server_that_refuses_initialize_has_failed_with_its_words() -> None:
    talk = Conversation(may_probe=False)

    talk.answer("initialize", code=-32000, message="not today")

    assert talk.failures == ["the server refused initialize: not today"]


def test_the_end_of_the_whole_start_is_not_said_twice() -> None:
    talk = Conversation(may_probe=False)

    talk.end("initialize", None)

    assert talk.said == ["initialize"]
    assert talk.failures == []
