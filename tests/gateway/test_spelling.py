"""A head that is known by its bytes means what a parser of HTTP would have read, whatever has been done to it."""

from __future__ import annotations

from typing import Any

import httptools
import hypothesis.strategies as st
import pytest
from support.fuzzing import fuzz

from mcpv_node.gateway.heads import CONTENT_LENGTH, Head, Spelling, headers_in, spell, take_own

USUAL = (
    (b"Host", b"127.0.0.1:8090"),
    (b"Content-Type", b"application/json"),
    (b"Accept", b"application/json, text/event-stream"),
    (b"Authorization", b"Bearer good"),
    (b"Mcp-Session-Id", b"0123456789abcdef"),
    (b"Content-Length", b"2"),
)


class Reader:
    """What httptools, which uvicorn reads with, makes of the first request in some bytes; None: it is not one."""

    def __init__(self) -> None:
        self.url = b""
        self.lines: list[tuple[bytes, bytes]] = []
        self.body = b""
        self.is_whole = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.lines.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.is_whole = True

    @classmethod
    def read(cls, data: bytes) -> tuple[str, str, dict[bytes, bytes], bytes] | None:
        reader = cls()
        parser = httptools.HttpRequestParser(reader)
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            return None
        headers, repeated = headers_in(reader.lines)
        if repeated or not reader.is_whole:
            return None
        return parser.get_method().decode(), reader.url.decode("latin-1"), headers, reader.body


def head_of(lines: Any, *, path: str = "/mcp", ends: bytes = b"\r\n") -> bytes:
    return ends.join([f"POST {path} HTTP/1.1".encode(), *(b"%b: %b" % line for line in lines), b"", b""])


def learn(data: bytes) -> tuple[Head, Spelling] | None:
    """As a connection learns it: the parser says what it means, and the bytes are looked at beside that."""
    read = Reader.read(data)
    if read is None:
        return None
    method, path, headers, _ = read
    take_own(headers)
    head = Head(method, path, headers)
    spelling = spell(head, data)
    return None if spelling is None else (head, spelling)


def test_some_values_may_be_others_the_next_time_and_are_read() -> None:
    modern = dict(USUAL) | {b"Mcp-Method": b"tools/call", b"mcp-name": b"a", b"Traceparent": b"00-1"}
    learnt = learn(head_of(modern.items()) + b"{}")
    assert learnt is not None
    others = modern | {b"Content-Length": b"11", b"Authorization": b"Bearer bad ", b"mcp-name": b"other"}
    data = head_of(others.items())

    assert learnt[1].read(data + b"{}") == (
        len(data),
        11,
        {
            b"authorization": "Bearer bad",
            b"mcp-method": "tools/call",
            b"mcp-name": "other",
            b"traceparent": "00-1",
        },
    )


def test_a_head_without_a_token_is_known_without_one() -> None:
    lines = [line for line in USUAL if line[0] != b"Authorization"]
    learnt = learn(head_of(lines) + b"{}")
    assert learnt is not None

    assert learnt[1].read(head_of(lines)) == (len(head_of(lines)), 2, {})
    assert learnt[1].read(head_of(USUAL)) is None


@pytest.mark.parametrize(
    "lines",
    [
        [(b"Transfer-Encoding", b"chunked")],
        [(b"Connection", b"close")],
        [(b"Connection", b"keep-alive, Upgrade")],
        [(b"Expect", b"100-continue")],
        [(b"Content-Length", b"2"), (b"Content-Length", b"2")],
        [(b"Content-Length", b"2"), (b"X", b"1"), (b"x", b"2")],
        [(b"X", b"no length")],
    ],
)
def test_what_means_more_than_a_line_after_the_other_is_left_to_the_parser(
    lines: list[tuple[bytes, bytes]],
) -> None:
    data = head_of([(b"Host", b"a"), *lines]) + b"{}"
    head = Head("POST", "/mcp", {name.lower(): value for name, value in [(b"host", b"a"), *lines]})
    take_own(head.headers)

    assert spell(head, data) is None


@pytest.mark.parametrize("said", [b"keep-alive", b"Keep-Alive"])
def test_a_connection_that_is_to_be_kept_is_what_most_clients_say(said: bytes) -> None:
    data = head_of([*USUAL, (b"Connection", said)]) + b"{}"
    learnt = learn(data)

    assert learnt is not None
    assert learnt[1].read(data) is not None


@pytest.mark.parametrize("length", [b"", b"-1", b"+2", b"0x2", b"2 ", b" 2", b"2,2", b"\xb2"])
def test_a_length_that_is_no_number_is_left_to_the_parser(length: bytes) -> None:
    learnt = learn(head_of(USUAL) + b"{}")
    assert learnt is not None

    assert learnt[1].read(head_of((dict(USUAL) | {b"Content-Length": length}).items()) + b"{}") is None


def test_another_path_or_a_query_is_another_head() -> None:
    data = head_of(USUAL, path="/mcp?a=1") + b"{}"

    assert spell(Head("POST", "/mcp", {}), data) is None


pieces = st.one_of(
    st.sampled_from(
        (
            b"\r\n",
            b"\n",
            b"\r",
            b" ",
            b"\t",
            b":",
            b"\x00",
            b"\xff",
            b"X: y\r\n",
            b"\nX: y",
            b"\r\nX: y",
            b"Content-Length: 5\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"0",
            b"9",
            b"Bearer other",
            b"\r\n\r\n",
        )
    ),
    st.binary(max_size=6),
)


def test_what_is_known_by_its_bytes_is_what_a_parser_reads() -> None:
    seen = {"known": 0, "changed": 0}

    @fuzz(
        3000,
        order=st.permutations(USUAL),
        more=st.lists(
            st.tuples(
                st.sampled_from(
                    (b"X-A", b"Cookie", b"accept", b"HOST", b"Connection", b"Mcp-Name", b"TraceParent")
                ),
                st.binary(max_size=8),
            ),
            max_size=2,
        ),
        ends=st.sampled_from((b"\r\n", b"\r\n", b"\r\n", b"\n")),
        at=st.integers(0, 400),
        cut=st.integers(0, 12),
        piece=pieces,
        is_changed=st.booleans(),
    )
    def check(
        order: list[tuple[bytes, bytes]],
        more: list[tuple[bytes, bytes]],
        ends: bytes,
        at: int,
        cut: int,
        piece: bytes,
        is_changed: bool,
    ) -> None:
        first = head_of([*order, *more], ends=ends) + b"{}"
        learnt = learn(first)
        if learnt is None:
            return
        head, spelling = learnt
        data = first[:at] + piece + first[at + cut :] if is_changed else first
        reading = spelling.read(data)
        if reading is None:
            return
        begin, length, own = reading
        if length > len(data) - begin:
            return  # the rest of it is still to come
        parsed = Reader.read(data[: begin + length])
        assert parsed is not None
        method, path, headers, body = parsed
        read_by_parser = take_own(headers)
        assert int(read_by_parser.pop(CONTENT_LENGTH)) == length
        assert read_by_parser == own
        assert (method, path, headers) == (head.method, head.path, head.headers)
        assert body == data[begin : begin + length]
        seen["known"] += 1
        seen["changed"] += data != first

    assert seen["known"] > 100
    assert seen["changed"] > 10
