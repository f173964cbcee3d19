"""The table of errors, and what a failed call tells."""

from __future__ import annotations

import json

import pytest

from mcpv_node.protocol import (
    CallFailure,
    EnvelopeError,
    LastExit,
    LocalProtocolError,
    ProtocolError,
    Reason,
    RemoteProtocolError,
    http_status_for,
)

TABLE = [
    ("overloaded", -31001, 429),
    ("queue_timeout", -31002, 503),
    ("start_failed", -31003, 503),
    ("backing_off", -31004, 503),
    ("suspended", -31005, 503),
    ("stopping", -31006, 503),
    ("instance_died", -31007, 502),
    ("call_timeout", -31008, 504),
    ("bad_reply", -31009, 502),
]


@pytest.mark.parametrize(("reason", "code", "status"), TABLE)
def test_each_reason_has_its_code_and_status(reason: str, code: int, status: int) -> None:
    assert Reason(reason).code == code
    assert http_status_for(Reason(reason)) == status


def test_the_table_is_whole() -> None:
    assert [reason.value for reason in Reason] == [reason for reason, _, _ in TABLE]


def test_a_failure_without_a_past_tells_only_what_it_always_tells() -> None:
    failure = CallFailure(reason=Reason.OVERLOADED, message="the queue is full", server="fs", executed="no")

    assert failure.code == -31001
    assert json.loads(failure.encode_data()) == {
        "reason": "overloaded",
        "server": "fs",
        "executed": "no",
        "queuedSeconds": 0.0,
        "startedSeconds": 0.0,
        "calledSeconds": 0.0,
    }


def test_a_failure_tells_all_it_knows_in_the_contracts_spelling() -> None:
    failure = CallFailure(
        reason=Reason.INSTANCE_DIED,
        message="the server died",
        server="fs",
        executed="unknown",
        queued_seconds=1.23456,
        started_seconds=0.5,
        called_seconds=2,
        retry_after=3.0,
        last_exit=LastExit(code=None, signal=9, at="2026-01-31T09:08:07.006Z"),
        stderr=tuple(f"line {number}" for number in range(7)),
    )

    assert json.loads(failure.encode_data()) == {
        "reason": "instance_died",
        "server": "fs",
        "executed": "unknown",
        "queuedSeconds": 1.235,
        "startedSeconds": 0.5,
        "calledSeconds": 2.0,
        "retryAfter": 3.0,
        "lastExit": {"code": None, "signal": 9, "at": "2026-01-31T09:08:07.006Z"},
        "stderr": ["line 2", "line 3", "line 4", "line 5", "line 6"],
    }


def test_an_exception_says_whose_fault_it_is() -> None:
    assert issubclass(LocalProtocolError, ProtocolError)
    assert issubclass(EnvelopeError, RemoteProtocolError)
    assert issubclass(RemoteProtocolError, ProtocolError)
    assert not issubclass(RemoteProtocolError, LocalProtocolError)
