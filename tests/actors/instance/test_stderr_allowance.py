"""How much of what servers complain about goes to the node's log."""

from __future__ import annotations

from mcpv_node.actors.instance.stderr import LOG_PERIOD, LOGGED_LINES, LogAllowance


def test_a_server_that_says_little_is_logged_whole() -> None:
    allowance = LogAllowance()

    assert [allowance.admit([f"line {now}"], now) for now in range(500)] == [
        [f"line {now}"] for now in range(500)
    ]


def test_a_flood_is_cut_and_said_to_be_so_once_it_has_passed() -> None:
    allowance = LogAllowance()

    first = allowance.admit(["x"] * (LOGGED_LINES + 30), 10.0)
    more = allowance.admit(["x"] * 12, 10.0 + LOG_PERIOD / 2)
    later = allowance.admit(["calm"], 10.0 + LOG_PERIOD)
    calm = allowance.admit(["calm"], 10.0 + 3 * LOG_PERIOD)

    assert first == ["x"] * LOGGED_LINES
    assert more == []
    assert later == ["(42 lines or more were left out)", "calm"]
    assert calm == ["calm"]
