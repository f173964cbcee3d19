"""Server-sent events, written and read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpv_node.protocol import (
    LocalProtocolError,
    RemoteProtocolError,
    SseDecoder,
    SseEvent,
    comment,
    encode_event,
)


def decode(*chunks: bytes) -> list[SseEvent]:
    decoder = SseDecoder(max_bytes=1000)
    return [event for chunk in chunks for event in decoder.feed(chunk)]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [SseEvent(b"a")]),
        (b"data:a\r\n\r\ndata:b\r\rdata: c\n\n", [SseEvent(b"a"), SseEvent(b"b"), SseEvent(b"c")]),
        (b"data: a\r\ndata: b\r\n\r\n", [SseEvent(b"a\nb")]),
        (b"data:  a\n\n", [SseEvent(b" a")]),
        (b"data: a\ndata: b\n\n", [SseEvent(b"a\nb")]),
        (b"data\n\n", [SseEvent(b"")]),
        (b"id: 1\ndata:\n\n", [SseEvent(b"", id="1")]),
        (b"\xef\xbb\xbfdata: a\n\n", [SseEvent(b"a")]),
        (b": note\n\ndata: a\n\n", [SseEvent(b"a")]),
        (b"event: x\ndata: a\n\ndata: b\n\n", [SseEvent(b"a", event="x"), SseEvent(b"b")]),
        (b"id: 7\ndata: a\n\ndata: b\n\n", [SseEvent(b"a", id="7"), SseEvent(b"b", id="7")]),
        (b"id: 7\ndata: a\n\nid\ndata: b\n\n", [SseEvent(b"a", id="7"), SseEvent(b"b")]),
        (b"id: 7\0\ndata: a\n\n", [SseEvent(b"a")]),
        (b"event: x\n\ndata: a\n\n", [SseEvent(b"a")]),
        (b"unknown: x\ndata: a\n\n", [SseEvent(b"a")]),
        (b"data: unfinished\n", []),
    ],
)
@pytest.mark.parametrize("step", [1, 2, 5, 1000])
def test_a_stream_is_read_as_the_standard_says(stream: bytes, expected: list[SseEvent], step: int) -> None:
    assert decode(*(stream[at : at + step] for at in range(0, len(stream), step))) == expected


def test_id_and_retry_stay_known_to_who_reconnects() -> None:
    decoder = SseDecoder(max_bytes=1000)

    events = decoder.feed(b"id: 5\nretry: 250\n\nretry: soon\n\n")

    assert events == []
    assert decoder.last_event_id == "5"
    assert decoder.retry == 250


@pytest.mark.parametrize(
    "stream",
    [b"data: " + b"x" * 2000, b"data: 123456789\n" * 200, b": " + b"x" * 2000, b"id: " + b"x" * 2000],
)
def test_what_outgrows_the_limit_is_refused(stream: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match="larger than 1000"):
        decode(*(stream[at : at + 100] for at in range(0, len(stream), 100)))


def test_events_within_the_limit_may_go_on_for_ever() -> None:
    decoder = SseDecoder(max_bytes=1000)

    assert sum(len(decoder.feed(b"data: " + b"x" * 900 + b"\n\n")) for _ in range(100)) == 100


@given(st.binary(max_size=50), st.integers(1, 7))
def test_what_is_written_is_read_again(data: bytes, step: int) -> None:
    line_breaks_unified = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    stream = comment("hello") + encode_event(data, event="e", id="9", retry=3)

    found = decode(*(stream[at : at + step] for at in range(0, len(stream), step)))

    assert found == [SseEvent(line_breaks_unified, event="e", id="9")]


def test_a_message_is_written_as_one_event() -> None:
    assert (
        encode_event(b'{"a":1}', event="message", id="s-1") == b'event: message\nid: s-1\ndata: {"a":1}\n\n'
    )


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b"])
def test_a_field_cannot_smuggle_a_line(value: str) -> None:
    with pytest.raises(LocalProtocolError):
        encode_event(b"x", event=value)
    with pytest.raises(LocalProtocolError):
        encode_event(b"x", id=value)
    with pytest.raises(LocalProtocolError):
        comment(value)
