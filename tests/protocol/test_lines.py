"""How a stream is cut into lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpv_node.protocol import Line, LineFramer, Overlong, Partial


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"", []),
        (b"a\n", [Line(b"a")]),
        (b"a\r\nb\n", [Line(b"a"), Line(b"b")]),
        (b"a\rb\n", [Line(b"a\rb")]),
        (b"\n\r\n  \n\ta\n", [Line(b"\ta")]),
        (b"a\nb", [Line(b"a"), Partial(b"b")]),
        (b"a\n  ", [Line(b"a")]),
        (b"12345678\n", [Line(b"12345678")]),
        (b"12345678\r\n", [Line(b"12345678")]),
        (b"123456789\na\n", [Overlong(9, b"123456789"), Line(b"a")]),
        (b"123456789\r\na\n", [Overlong(10, b"123456789\r"), Line(b"a")]),
        (b"123456789", [Overlong(9, b"123456789")]),
    ],
)
@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_lines_are_the_same_in_whatever_pieces_they_come(
    stream: bytes, expected: list[Line | Overlong | Partial], step: int
) -> None:
    framer = LineFramer(8)
    found: list[Line | Overlong | Partial] = []

    for at in range(0, len(stream), step):
        found += framer.feed(stream[at : at + step])
    end = framer.close()

    # A carriage return that ends a line over the limit may or may not have been seen to be one.
    assert [_shape(event) for event in [*found, *([end] if end else [])]] == [
        _shape(event) for event in expected
    ]


def _shape(event: Line | Overlong | Partial) -> object:
    return type(event), event.head[:9] if isinstance(event, Overlong) else event.data


def test_a_dropped_line_is_counted_but_not_kept() -> None:
    framer = LineFramer(1000)

    for _ in range(100):
        assert framer.feed(b"x" * 1000) == []
    found = framer.feed(b"\nnext\n")

    assert found == [Overlong(100_000, b"x" * 256), Line(b"next")]


def test_closing_leaves_the_framer_empty() -> None:
    framer = LineFramer(8)
    framer.feed(b"rest")

    assert framer.close() == Partial(b"rest")
    assert framer.close() is None


@given(st.lists(st.binary(max_size=30)), st.integers(1, 20))
def test_memory_is_bounded_and_nothing_short_is_lost(chunks: list[bytes], limit: int) -> None:
    framer = LineFramer(limit)

    found = [event for chunk in chunks for event in framer.feed(chunk)]
    end = framer.close()

    whole = b"".join(chunks).split(b"\n")
    short = [line.removesuffix(b"\r") for line in whole]
    expected = [line for line in short if len(line) <= limit and line and not line.isspace()]
    kept = [event.data for event in (*found, end) if isinstance(event, Line | Partial)]
    assert kept == expected
    overlong = [event for event in (*found, end) if isinstance(event, Overlong)]
    assert len(overlong) == sum(len(line) > limit for line in short)
