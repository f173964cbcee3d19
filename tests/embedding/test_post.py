"""When an actor looks for what its node has for it, and how it is handed over."""

from __future__ import annotations

import logging
import threading

import pytest

from mcpv_node.embedding.post import HEARTBEAT, LATEST, LINES, LISTENING, SOONEST, Post, decide_look


@pytest.mark.parametrize(
    ("asked", "listens", "has_pipe", "expected"),
    [
        (None, False, False, HEARTBEAT),
        (None, True, False, LISTENING),
        (100.0, False, False, SOONEST),
        (99.9, True, False, 0.01),
        (40.0, True, False, LATEST),
        (100.0, True, True, HEARTBEAT),
    ],
)
def test_it_looks_as_often_as_somebody_waits(
    asked: float | None, listens: bool, has_pipe: bool, expected: float
) -> None:
    look = decide_look(asked=asked, listens=listens, has_pipe=has_pipe, now=100.0)

    assert look == pytest.approx(expected)


def test_what_many_threads_hand_over_is_taken_once_and_in_the_order_of_each() -> None:
    post: Post[tuple[int, int]] = Post(with_pipe=False)

    def put(thread: int) -> None:
        for number in range(200):
            post.put((thread, number))

    threads = [threading.Thread(target=put, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    taken: list[tuple[int, int]] = []
    while len(taken) < 800:
        post.wait(5.0)
        taken += post.take()
    for thread in threads:
        thread.join()

    for thread in range(4):
        assert [number for of, number in taken if of == thread] == list(range(200))
    assert list(post.take()) == []


def test_of_a_storm_of_lines_the_newest_are_kept() -> None:
    post: Post[object] = Post(with_pipe=False)

    for number in range(LINES + 3):
        post.put_line(logging.makeLogRecord({"msg": str(number)}))

    lines = [line.getMessage() for line in post.take_lines()]
    assert (len(lines), lines[0], lines[-1]) == (LINES, "3", str(LINES + 2))
