"""How learning and starting look in `status`, `why` and `catalog refresh`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_node import INIT, LEARNING, REPORT, FakeNode, ok, problem, running_fake_node

from mcpv_node.cli import app
from mcpv_node.cli.beginnings import describe_learning
from mcpv_node.reports import Learning

NODE = {"pid": 1, "version": "9.9.9", "ready": True, "learning": LEARNING, "init": INIT}
REFRESH = "POST /api/v1/catalog/refresh"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    with running_fake_node(tmp_path) as running:
        running.reply("GET /api/v1/node", ok(NODE))
        yield running


@pytest.fixture
def shown(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command; return its exit code and what it wrote to stdout and stderr."""

    def run(*words: str) -> tuple[int, str, str]:
        code = app.main(["--state-dir", str(node.state_dir), *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def test_status_says_how_far_learning_is_and_what_failed(shown: Any) -> None:
    lines = shown("status")[1].splitlines()

    assert "learning  running: 2 of 5 servers known, 1 failed; learning clock" in lines
    assert "fs could not be learnt (3 attempts): no \N{REPLACEMENT CHARACTER}[31mluck" in lines


def test_status_names_the_servers_that_are_not_up_and_when_the_next_try_is(shown: Any) -> None:
    lines = shown("status")[1].splitlines()

    at = next(number for number, line in enumerate(lines) if line.startswith("NOT UP"))
    assert lines[at + 1].split() == ["fs", "failed", "0", "of", "2", "2", "2026-01-31T09:08:09.006Z"]
    assert lines[at + 2 : at + 4] == ["", "node"]


def test_status_draws_the_tree_and_gives_a_line_to_what_is_not_well(shown: Any) -> None:
    out = shown("status")[1]

    assert out.endswith("node\n├── guard, events\n├── store (2 restarts)\n└── config (suspended)\n")


def test_a_node_that_does_not_say_is_shown_without(node: FakeNode, shown: Any) -> None:
    node.reply("GET /api/v1/node", ok({**NODE, "learning": None, "init": None}))

    code, out, _ = shown("status")

    assert code == 0
    assert "learning" not in out
    assert "NOT UP" not in out


def test_a_person_gets_a_bar_while_learning_is_under_way(
    node: FakeNode, shown: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")

    under_way = shown("status")[1]
    node.reply("GET /api/v1/node", ok({**NODE, "learning": {**LEARNING, "state": "failed"}}))
    over = shown("status")[1]

    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in under_way
    assert "2 of 5 servers known" in under_way
    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" not in over


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (Learning(state="completed", mode="disabled"), "disabled"),
        (
            Learning(state="completed", mode="metadata", total=1, completed=1),
            "completed: 1 of 1 server known",
        ),
        (Learning(state="failed", total=2, failed=2), "failed: 0 of 2 servers known, 2 failed"),
        (Learning(state="pending"), "pending: 0 of 0 servers known"),
    ],
)
def test_learning_in_one_line(given: Learning, text: str) -> None:
    assert describe_learning(given) == text


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (LEARNING["outcomes"][1], "could not be learnt (3 attempts): no"),
        (LEARNING["outcomes"][0], "being learnt (1 attempt)"),
        ({"state": "pending"}, "not learnt yet"),
        ({"state": "learnt", "attempts": 1}, None),
        (None, None),
    ],
)
def test_why_says_what_became_of_its_lists(
    node: FakeNode, shown: Any, outcome: Any, line: str | None
) -> None:
    node.reply("GET /api/v1/servers/fs", ok({**REPORT, "learning": outcome}))

    lists = [text for text in shown("why", "fs")[1].splitlines() if text.startswith("  lists ")]

    assert len(lists) == (line is not None)
    assert line is None or line in lists[0]


def test_a_refresh_is_answered_with_what_is_under_way(node: FakeNode, shown: Any) -> None:
    node.reply(REFRESH, ok(LEARNING, 202))

    code, out, err = shown("catalog", "refresh", "fs", "clock")

    assert (code, err) == (0, "")
    assert out.startswith("running: 2 of 5 servers known")
    assert node.requests == [REFRESH]


def test_a_refresh_that_is_waited_for_fails_where_a_server_could_not_be_learnt(
    node: FakeNode, shown: Any
) -> None:
    node.reply(f"{REFRESH}?wait=5", ok({**LEARNING, "outcomes": LEARNING["outcomes"][1:]}))

    code, _, err = shown("catalog", "refresh", "--wait", "5")

    assert code == 1
    assert "1 server could not be learnt: fs" in err


def test_a_refresh_that_is_not_over_in_time_fails(node: FakeNode, shown: Any) -> None:
    node.reply(f"{REFRESH}?wait=5", ok({**LEARNING, "outcomes": LEARNING["outcomes"][:1]}, 202))

    code, _, err = shown("catalog", "refresh", "--wait", "5")

    assert code == 1
    assert "not learnt within 5 s: clock" in err


def test_a_refresh_with_json_is_the_body(node: FakeNode, shown: Any) -> None:
    node.reply(REFRESH, ok(LEARNING, 202))

    code, out, _ = shown("catalog", "refresh", "--json")

    assert (code, json.loads(out)) == (0, LEARNING)


def test_a_refresh_of_a_server_that_is_not_there_ends_1(node: FakeNode, shown: Any) -> None:
    node.reply(REFRESH, problem(404, "Not Found", "there is no server named nfs"))

    code, _, err = shown("catalog", "refresh", "nfs")

    assert (code, err) == (1, "mcpv-node: there is no server named nfs; `mcpv-node servers` lists them\n")
