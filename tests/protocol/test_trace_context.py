"""Whose trace a request belongs to: read, refused where it is malformed, and written."""

from __future__ import annotations

import json

import pytest

from mcpv_node.protocol import check_trace, read_trace, write_trace

PARENT = f"00-{'a' * 32}-{'b' * 16}-01"


def params(**meta: object) -> bytes:
    return json.dumps({"name": "t", "_meta": meta}).encode()


def test_a_trace_is_read_with_its_state() -> None:
    assert read_trace(params(traceparent=PARENT, tracestate="a=1,b=2")) == {
        "traceparent": PARENT,
        "tracestate": "a=1,b=2",
    }


@pytest.mark.parametrize(
    "said",
    [
        None,
        b"not json",
        b"[]",
        b'{"_meta":7}',
        params(),
        params(tracestate="a=1"),
        params(traceparent=7),
        params(traceparent="00-short-01"),
        params(traceparent=PARENT.upper()),
        params(traceparent=f"{PARENT}\r\nevil: 1"),
        params(traceparent=f"{PARENT}\n"),
    ],
)
def test_what_is_not_well_formed_is_no_trace(said: bytes | None) -> None:
    assert read_trace(said) == {}


@pytest.mark.parametrize("state", ["a=1\r\nevil: 1", "", "x" * 9000, "é"])
def test_a_state_that_no_header_may_hold_is_left_out(state: str) -> None:
    assert check_trace(PARENT, state) == {"traceparent": PARENT}


def test_a_written_trace_replaces_the_former_and_keeps_the_rest() -> None:
    before = params(traceparent="old", tracestate="old", mine={"n": 1.0})

    after = write_trace(before, {"traceparent": PARENT})

    assert after == b'{"name":"t","_meta":{"mine":{"n": 1.0},"traceparent":"%s"}}' % PARENT.encode()
    assert write_trace(before, {}) is before
    assert write_trace(None, {"traceparent": PARENT}) == b'{"_meta":{"traceparent":"%s"}}' % PARENT.encode()
