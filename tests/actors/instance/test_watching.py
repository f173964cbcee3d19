"""What a server is asked to tell by itself, in each era."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import Raw

from mcpv_node.actors.instance.messages import Answer
from mcpv_node.actors.instance.own_requests import Then
from mcpv_node.actors.instance.watching import FIRST_PAUSE, LONGEST_PAUSE, Watching
from mcpv_node.protocol import Capabilities, Failure, RawId, ServerHello, Success

ALL = Capabilities(
    tools=True,
    tools_list_changed=True,
    resources=True,
    resources_list_changed=False,
    resources_subscribe=True,
    prompts=True,
    prompts_list_changed=True,
    raw=b"{}",
)
NONE = Capabilities(tools=True, raw=b"{}")
WATCHED = Capabilities(resources=True, resources_subscribe=True, raw=b"{}")


def hello(version: str, capabilities: Capabilities = ALL) -> ServerHello:
    return ServerHello(version=version, name="s", server_version="1", capabilities=capabilities)


class Server:
    """What is asked of it, and what stays open."""

    def __init__(self, version: str | None = None, capabilities: Capabilities = ALL) -> None:
        self.asked: list[tuple[str, str]] = []
        self.then: list[Then] = []
        self.opened: list[dict[str, Any]] = []
        self.closed: list[int] = []
        self.answers: list[Answer] = []
        self.pauses: list[float] = []
        self.missed: list[frozenset[str]] = []
        self.now = 0.0
        self.watching = Watching(
            ask=self._ask,
            open=self._open,
            close=self.closed.append,
            pause=self.pauses.append,
            missed=self.missed.append,
            now=lambda: self.now,
        )
        if version is not None:
            self.watching.begin(hello(version, capabilities))

    def _ask(self, method: str, params: bytes | None, then: Then) -> None:
        self.asked.append((method, msgspec.json.decode(params or b"{}")["uri"]))
        self.then.append(then)

    def _open(self, method: str, params: bytes) -> int:
        assert method == "subscriptions/listen"
        self.opened.append(msgspec.json.decode(params)["notifications"])
        return len(self.opened)

    def watch(self, *uris: str) -> None:
        self.watching.watch(frozenset(uris), self.answers.append)

    def acknowledge(self, number: int) -> None:
        meta = {"_meta": {"io.modelcontextprotocol/subscriptionId": number}}
        self.watching.on_acknowledged(Raw(msgspec.json.encode(meta)))

    def errors(self) -> list[Any]:
        return [msgspec.json.decode(one.error) for one in self.answers if one.error is not None]


OK = Success(RawId(b"1"), Raw(b"{}"))
NO = Failure(RawId(b"1"), Raw(b'{"code":-32002,"message":"which?"}'))


# ---- legacy ------------------------------------------------------------------------------------


def test_a_legacy_server_is_asked_for_what_is_new_and_told_what_is_not_wanted_any_more() -> None:
    server = Server("2025-11-25")

    server.watch("a", "b")
    for then in server.then:
        then(OK, None)
    server.watch("b", "c")

    assert server.asked == [
        ("resources/subscribe", "a"),
        ("resources/subscribe", "b"),
        ("resources/unsubscribe", "a"),
        ("resources/subscribe", "c"),
    ]
    assert server.answers == [Answer(result=b"{}")]


def test_all_answers_are_waited_for_and_a_refusal_is_the_servers_own() -> None:
    server = Server("2025-11-25")

    server.watch("a", "b")
    server.then[0](NO, None)
    assert server.answers == []
    server.then[1](OK, None)

    assert server.errors() == [{"code": -32002, "message": "which?"}]


def test_what_was_refused_is_asked_for_again_when_it_is_wanted_again() -> None:
    server = Server("2025-11-25")
    server.watch("a")
    server.then[0](NO, None)

    server.watch("a")

    assert server.asked == [("resources/subscribe", "a")] * 2


def test_silence_is_an_answer_too() -> None:
    server = Server("2025-11-25")

    server.watch("a")
    server.then[0](None, None)

    assert server.errors()[0]["code"] == -32603


def test_wanting_nothing_more_is_done_at_once() -> None:
    server = Server("2025-11-25")

    server.watch()

    assert server.answers == [Answer(result=b"{}")]
    assert server.asked == []


def test_a_server_that_does_not_tell_of_its_resources_is_not_asked() -> None:
    server = Server("2025-11-25", NONE)

    server.watch("a")

    assert server.errors()[0]["code"] == -32601
    assert server.asked == []


def test_a_server_that_is_not_ready_is_not_asked() -> None:
    server = Server()

    server.watch("a")

    assert server.errors()[0]["code"] == -32603


# ---- modern ------------------------------------------------------------------------------------


def test_a_modern_server_is_asked_for_its_lists_as_soon_as_it_is_ready() -> None:
    server = Server("2026-07-28")

    (wanted,) = server.opened
    assert wanted.get("toolsListChanged") is True
    assert wanted.get("promptsListChanged") is True
    assert "resourcesListChanged" not in wanted or wanted["resourcesListChanged"] is False


def test_a_modern_server_that_announces_nothing_is_not_asked() -> None:
    assert Server("2026-07-28", NONE).opened == []


def test_the_new_subscription_stands_before_the_old_one_is_given_up() -> None:
    server = Server("2026-07-28")
    server.acknowledge(1)

    server.watch("a")
    assert server.closed == []
    assert server.answers == []
    server.acknowledge(2)

    assert server.opened[1]["resourceSubscriptions"] == ["a"]
    assert server.closed == [1]
    assert server.answers == [Answer(result=b"{}")]


def test_a_subscription_that_another_overtakes_is_withdrawn_and_good() -> None:
    server = Server("2026-07-28")
    server.acknowledge(1)

    server.watch("a")
    server.watch("a", "b")
    server.acknowledge(2)
    server.acknowledge(3)

    assert server.closed == [2, 1]
    assert server.answers == [Answer(result=b"{}")] * 2


def test_a_subscription_that_is_refused_says_why_and_the_old_one_stands() -> None:
    server = Server("2026-07-28")
    server.acknowledge(1)

    server.watch("a")
    assert server.watching.on_reply(2, NO)

    assert server.errors() == [{"code": -32002, "message": "which?"}]
    assert server.closed == []


def test_a_subscription_that_ends_before_it_stands_has_failed() -> None:
    server = Server("2026-07-28")

    server.watch("a")
    assert server.watching.on_reply(2, None)

    assert server.errors()[0]["code"] == -32603


def test_replies_to_others_are_not_its_own() -> None:
    server = Server("2026-07-28")
    server.acknowledge(1)

    assert not server.watching.on_reply(99, OK)
    assert server.watching.on_reply(1, OK)
    assert not server.watching.on_reply(1, OK)


def test_an_acknowledgement_of_what_nobody_has_asked_is_ignored() -> None:
    server = Server("2026-07-28")

    server.acknowledge(99)
    server.watching.on_acknowledged(Raw(b'{"_meta":7}'))
    server.watching.on_acknowledged(None)
    server.watch("a")
    server.acknowledge(2)

    assert server.answers == [Answer(result=b"{}")]


def stand(server: Server) -> None:
    """The server agrees to what it was asked last."""
    server.acknowledge(len(server.opened))


def end(server: Server, reply: Success | Failure | None = OK) -> None:
    """The server ends the subscription it was asked for last."""
    assert server.watching.on_reply(len(server.opened), reply)


def test_a_subscription_that_its_server_ends_is_opened_again_for_the_same() -> None:
    server = Server("2026-07-28")
    stand(server)
    server.watch("a", "b")
    stand(server)

    end(server)
    assert server.pauses == [FIRST_PAUSE]
    assert len(server.opened) == 2
    server.watching.listen_again()

    assert server.opened[2] == server.opened[1]
    assert server.missed == []
    stand(server)
    assert server.missed == [frozenset({"a", "b"})]


@pytest.mark.parametrize("reply", [OK, NO, None])
def test_the_pauses_before_it_is_opened_again_grow_to_a_bound(reply: Success | Failure | None) -> None:
    server = Server("2026-07-28")
    stand(server)

    for _ in range(12):
        end(server, reply)
        server.watching.listen_again()

    assert server.pauses[:4] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE, 8 * FIRST_PAUSE]
    assert server.pauses[-2:] == [LONGEST_PAUSE, LONGEST_PAUSE]


def test_one_that_stood_for_long_is_opened_again_soon() -> None:
    server = Server("2026-07-28")
    for _ in range(3):
        stand(server)
        end(server)
        server.watching.listen_again()
    stand(server)
    server.now += LONGEST_PAUSE
    end(server)

    assert server.pauses == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE, FIRST_PAUSE]


def test_what_nobody_wants_any_more_is_not_opened_again() -> None:
    server = Server("2026-07-28", WATCHED)
    server.watch("a")
    stand(server)
    server.watch()
    stand(server)

    end(server)
    server.watching.listen_again()

    assert server.pauses == []
    assert len(server.opened) == 2


def test_what_is_refused_from_the_beginning_is_not_asked_for_again() -> None:
    server = Server("2026-07-28")

    end(server, NO)

    assert server.pauses == []


def test_what_a_refused_subscription_added_is_not_in_the_next_one() -> None:
    server = Server("2026-07-28")
    server.watch("a")
    stand(server)
    server.watch("a", "b")
    end(server, NO)

    assert server.watching.on_reply(2, OK)
    server.watching.listen_again()

    assert server.opened[-1]["resourceSubscriptions"] == ["a"]


def test_a_pause_ends_with_a_new_wish() -> None:
    server = Server("2026-07-28")
    stand(server)
    end(server)

    server.watch("a")
    server.watching.listen_again()
    assert len(server.opened) == 2
    stand(server)

    assert server.answers == [Answer(result=b"{}")]
    assert server.missed == [frozenset()]
