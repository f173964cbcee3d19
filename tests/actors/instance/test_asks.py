"""Whose client a server means when it asks, and what becomes of what was asked."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import Raw

from mcpv_node.actors.instance.asks import MAX_UNCLAIMED, Asks
from mcpv_node.actors.instance.messages import Answer, Asked, AskNumber, AskWithdrawn, CallEvent
from mcpv_node.actors.instance.pending import PendingCall, PendingCalls
from mcpv_node.actors.leases import LeaseId
from mcpv_node.protocol import RawId, Request

ABLE = b'{"elicitation":{"form":{}},"roots":{},"sampling":{}}'


class Table:
    """The calls of one instance, what its server hears, and what its clients do."""

    def __init__(self, capabilities: bytes = ABLE) -> None:
        self.pending = PendingCalls()
        self.sent: list[dict[str, Any]] = []
        self.raw: list[bytes] = []
        self.claims: list[str] = []
        self.events: dict[int, list[CallEvent]] = {}
        self.asks = Asks(self.pending, capabilities, send=self._send, claimed=self.claims.append)

    def _send(self, line: bytes) -> None:
        self.raw.append(line)
        self.sent.append(msgspec.json.decode(line))

    def call(self, id: int, client: str = "a", *, can_hear: bool = True) -> PendingCall:
        """A call goes out."""
        heard = self.events.setdefault(id, [])
        call = PendingCall(
            id=id,
            lease=LeaseId(id),
            client=client,
            reply=None,  # type: ignore[arg-type]
            on_event=heard.append if can_hear else None,
            sent_at=0.0,
            idle_until=60.0,
            deadline=3600.0,
        )
        self.pending.add(call)
        self.asks.on_call(call)
        return call

    def ask(self, id: bytes = b"1", method: str = "roots/list", *, on: PendingCall | None = None) -> None:
        params = Raw(b'{"mode": "form"}') if method == "elicitation/create" else None
        self.asks.on_request(Request(RawId(id), method, params), call=on)

    def number(self, id: int) -> AskNumber:
        """The number of the last question on this call."""
        last = [event for event in self.events[id] if isinstance(event, Asked)][-1]
        return last.number

    def refusals(self) -> list[tuple[Any, int]]:
        return [(one["id"], one["error"]["code"]) for one in self.sent if "error" in one]


def test_what_comes_on_a_calls_own_stream_is_asked_of_its_client() -> None:
    table = Table()
    table.call(1, "a")
    mine = table.call(2, "b")

    table.ask(on=mine)

    assert table.events[1] == []
    assert [type(event) for event in table.events[2]] == [Asked]
    assert table.claims == ["b"]


def test_on_a_pipe_the_only_client_is_meant_and_its_oldest_call_hears_it() -> None:
    table = Table()
    table.call(1, "a")
    table.call(2, "a")

    table.ask(method="elicitation/create")

    (asked,) = table.events[1]
    assert isinstance(asked, Asked)
    assert (asked.method, bytes(asked.params or b"")) == ("elicitation/create", b'{"mode": "form"}')
    assert table.events[2] == []


def test_where_several_clients_call_nobody_is_asked() -> None:
    table = Table()
    table.call(1, "a")
    table.call(2, "b")

    table.ask(b'"x"')

    assert table.events == {1: [], 2: []}
    assert table.refusals() == [("x", -32603)]
    assert table.claims == []


def test_an_abandoned_call_of_another_client_does_not_count() -> None:
    table = Table()
    table.call(1, "a").abandoned_until = 9.0
    table.call(2, "b")

    table.ask()

    assert table.claims == ["b"]


def test_what_is_asked_before_anybody_calls_is_asked_of_the_next_caller_once() -> None:
    table = Table()

    table.ask(b"7")
    table.call(1, "a")
    table.call(2, "a")

    assert len(table.events[1]) == 1
    assert table.events[2] == []
    assert table.claims == ["a"]


def test_only_so_much_waits_for_a_caller() -> None:
    table = Table()

    for number in range(MAX_UNCLAIMED + 1):
        table.ask(b"%d" % number)

    assert table.refusals() == [(MAX_UNCLAIMED, -32603)]


def test_the_answer_goes_back_under_the_servers_own_id_with_its_type_and_bytes() -> None:
    table = Table()
    call = table.call(1)
    table.ask(b'"1"')

    going_on = table.asks.answer(
        table.number(1), Answer(result=Raw(b'{"n": 1.0,"big":18446744073709551617}'))
    )

    assert table.raw == [b'{"jsonrpc":"2.0","id":"1","result":{"n": 1.0,"big":18446744073709551617}}']
    assert going_on is call
    assert call.asks == frozenset()


def test_an_error_of_the_clients_goes_back_as_it_is() -> None:
    table = Table()
    table.call(1)
    table.ask()

    table.asks.answer(table.number(1), Answer(error=Raw(b'{"code":-1,"message":"no","data": [1 ]}')))

    assert table.raw == [b'{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"no","data": [1 ]}}']


def test_an_answer_counts_once() -> None:
    table = Table()
    table.call(1)
    table.ask()
    table.asks.answer(table.number(1), Answer(result=b"{}"))

    assert table.asks.answer(table.number(1), Answer(result=b"{}")) is None
    assert len(table.sent) == 1


def test_a_call_stands_still_while_it_is_asked_and_only_its_deadline_counts() -> None:
    table = Table()
    call = table.call(1)
    assert call.ends_at == 60.0

    table.ask(b"1")
    table.ask(b"2")
    table.asks.answer(table.number(1), Answer(result=b"{}"))

    assert call.ends_at == 3600.0


def test_a_question_that_the_server_withdraws_is_withdrawn_and_not_answered_any_more() -> None:
    table = Table()
    call = table.call(1)
    table.ask(b"5")
    number = table.number(1)

    table.asks.on_withdrawn(RawId(b"5"))
    table.asks.answer(number, Answer(result=b"{}"))

    assert table.events[1][1:] == [AskWithdrawn(number)]
    assert call.asks == frozenset()
    assert table.sent == []


def test_what_is_withdrawn_before_anybody_calls_is_never_asked() -> None:
    table = Table()
    table.ask(b"5")

    table.asks.on_withdrawn(RawId(b"5"))
    table.call(1)

    assert table.events[1] == []


def test_an_id_is_withdrawn_with_its_type() -> None:
    table = Table()
    table.call(1)
    table.ask(b"5")

    table.asks.on_withdrawn(RawId(b'"5"'))

    assert len(table.events[1]) == 1


def test_when_the_call_is_over_the_server_does_not_wait_for_its_client() -> None:
    table = Table()
    call = table.call(1)
    table.ask(b"5")
    table.ask(b"6")

    table.pending.remove(call)
    table.asks.on_call_over(call)

    assert table.refusals() in ([(5, -32603), (6, -32603)], [(6, -32603), (5, -32603)])
    assert table.asks.answer(table.number(1), Answer(result=b"{}")) is None


@pytest.mark.parametrize(
    ("capabilities", "method"),
    [
        (b"{}", "roots/list"),
        (b'{"roots":{}}', "sampling/createMessage"),
        (b'{"elicitation":{"url":{}}}', "elicitation/create"),
    ],
)
def test_what_the_client_has_not_offered_is_refused_at_once(capabilities: bytes, method: str) -> None:
    table = Table(capabilities)
    table.call(1)

    table.ask(b"3", method)

    assert table.refusals() == [(3, -32601)]
    assert table.events[1] == []


def test_params_that_cannot_be_read_are_refused() -> None:
    table = Table()
    table.call(1)

    table.asks.on_request(Request(RawId(b"3"), "elicitation/create", Raw(b'{"mode":7}')), call=None)

    assert table.refusals() == [(3, -32601)]


def test_a_caller_that_cannot_hear_is_not_asked() -> None:
    table = Table()
    call = table.call(1, can_hear=False)

    table.ask(b"3", on=call)

    assert table.refusals() == [(3, -32601)]
    assert table.claims == []


def test_a_ping_is_answered_whoever_calls() -> None:
    table = Table()

    table.ask(b'"p"', "ping")

    assert table.sent == [{"jsonrpc": "2.0", "id": "p", "result": {}}]
