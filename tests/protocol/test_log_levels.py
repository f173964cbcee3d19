"""Who hears which log message."""

from __future__ import annotations

import pytest

from mcpv_node.protocol import LOG_LEVELS, admits, is_log_level, lowest_level


@pytest.mark.parametrize("level", LOG_LEVELS)
@pytest.mark.parametrize("minimum", LOG_LEVELS)
def test_a_level_is_heard_from_the_minimum_on(level: str, minimum: str) -> None:
    assert admits(level, minimum) == (LOG_LEVELS.index(level) >= LOG_LEVELS.index(minimum))


@pytest.mark.parametrize("level", [*LOG_LEVELS, "shout"])
def test_who_asked_for_nothing_hears_nothing(level: str) -> None:
    assert not admits(level, None)


def test_a_level_nobody_knows_is_heard_by_who_hears_anything() -> None:
    assert admits("shout", "emergency")


@pytest.mark.parametrize(
    ("minimums", "lowest"),
    [
        ([], None),
        ([None, None], None),
        (["error"], "error"),
        (["error", None, "info", "emergency"], "info"),
        (["debug", "notice"], "debug"),
    ],
)
def test_a_server_is_asked_for_what_its_most_curious_reader_wants(
    minimums: list[str | None], lowest: str | None
) -> None:
    assert lowest_level(minimums) == lowest


@pytest.mark.parametrize(
    ("level", "known"), [*((level, True) for level in LOG_LEVELS), ("Info", False), ("", False)]
)
def test_a_level_is_known_by_its_exact_name(level: str, *, known: bool) -> None:
    assert is_log_level(level) == known
