"""How `top` fills a screen, and what its keys do."""

from __future__ import annotations

import pytest

from mcpv_node.cli.top_screen import Frame, Line, Look, allot, lay_out, on_key


def server(name: str, state: str = "cold", busy: int = 0, waiting: int = 0, ok: int = 0) -> tuple[str, ...]:
    return (
        name,
        state,
        "1",
        str(busy),
        str(waiting),
        str(ok),
        "0",
        "0",
        f"{name} is {state} as it should be",
    )


def frame(servers: int = 3, instances: int = 2, tree: int = 6, recent: int = 20) -> Frame:
    return Frame(
        title="mcpv-node 1  process 7  http://127.0.0.1:8090/mcp",
        totals="3 servers",
        servers=tuple(server(f"s{number}") for number in range(servers)),
        instances=tuple(
            (f"s{number}-1", "4711", "ready", "0", "1", "9 MB", "10:00:00") for number in range(instances)
        ),
        tree=tuple(f"branch {number}" for number in range(tree)),
        recent=tuple(f"10:00:00 info    line {number}" for number in range(recent)),
    )


def texts(lines: list[Line]) -> list[str]:
    return ["".join(text for text, _ in line) for line in lines]


@pytest.mark.parametrize("size", [(80, 24), (160, 50), (40, 10), (20, 4), (1, 1), (300, 200)])
@pytest.mark.parametrize("shown", [frame(), frame(servers=1000, instances=400), frame(0, 0, 0, 0)])
def test_no_screen_is_overfull(size: tuple[int, int], shown: Frame) -> None:
    width, height = size

    lines = texts(lay_out(shown, Look(), width, height))

    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_on_a_large_screen_everything_is_there() -> None:
    lines = texts(lay_out(frame(), Look(), 160, 50))

    for words in ("s2 is cold as it should be", "s1-1", "branch 5", "line 19", "line 0", "q quit"):
        assert any(words in line for line in lines), words


def test_what_does_not_fit_is_counted_and_every_section_keeps_a_few_lines() -> None:
    lines = texts(lay_out(frame(servers=100, instances=50), Look(), 80, 24))

    assert any(line.startswith("… ") and line.endswith("more") for line in lines)
    assert any(line.startswith("s0-1") for line in lines)
    assert any(line.startswith("branch 0") for line in lines)
    assert lines[-1].endswith("line 19"), "the latest line of the log is the last"


@pytest.mark.parametrize(
    ("free", "wants", "given"),
    [
        (100, [5, 2, 6, 60], [5, 2, 6, 60]),
        (20, [5, 2, 6, 60], [5, 2, 6, 7]),
        (12, [100, 100, 100, 100], [3, 3, 3, 3]),
        (20, [100, 0, 3, 3], [14, 0, 3, 3]),
        (5, [9, 9, 9, 9], [3, 2, 0, 0]),
        (-3, [9, 9, 9, 9], [0, 0, 0, 0]),
    ],
)
def test_lines_are_shared(free: int, wants: list[int], given: list[int]) -> None:
    assert allot(free, wants) == given


def test_servers_are_sorted_by_trouble_and_by_load() -> None:
    servers = (server("a"), server("b", "suspended"), server("c", "ready", busy=2), server("d", waiting=3))
    shown = Frame("t", "t", servers, (), (), ())

    def names(sort: str) -> list[str]:
        return [line[0][0].strip() for line in lay_out(shown, Look(sort=sort), 120, 40)[4:]]

    assert names("name") == ["a", "b", "c", "d"]
    assert names("trouble") == ["b", "a", "c", "d"]
    assert names("load") == ["d", "c", "a", "b"]


def test_states_are_coloured_and_control_characters_are_not_obeyed() -> None:
    bad = ("x\x1b[2J", "suspended", "0", "0", "0", "0", "0", "0", "why")

    lines = lay_out(Frame("t", "t", (bad,), (), (), ()), Look(), 80, 24)

    assert ("suspended  ", "red") in lines[4]
    assert "\x1b" not in "".join(texts(lines))


def test_keys_choose_pause_and_end() -> None:
    look = Look()

    paused = on_key(look, " ", page=10)
    assert paused == Look(is_paused=True)
    assert on_key(paused, "p", page=10) == look
    assert on_key(look, "s", page=10) == Look(sort="trouble")
    assert on_key(Look(sort="load"), "s", page=10) == look
    assert on_key(look, "down", page=10) == Look(offset=1)
    assert on_key(look, "page-down", page=10) == Look(offset=10)
    assert on_key(look, "up", page=10) == look
    assert on_key(look, "x", page=10) == look
    assert on_key(look, "q", page=10) is None
    assert on_key(look, "escape", page=10) is None
