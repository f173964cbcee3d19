"""`catalog show|diff`, `server approve` and what `why` says of lists, against a node whose answers are given."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fake_node import CATALOG, REPORT, FakeNode, ok, problem, running_fake_node

from mcpv_node.cli import app

PROMPTS: dict[str, Any] = {**CATALOG, "entries": [], "version": 1}

DIFFERENCE: dict[str, Any] = {
    "from": 2,
    "to": 4,
    "added": [CATALOG["entries"][1]],
    "changed": [CATALOG["entries"][0]],
    "removed": [{"name": "fs_\x1b[31mold", "server": "fs"}],
}

NOTHING_WRONG: dict[str, Any] = {
    "learnt": True,
    "entries": 1,
    "learntAt": "2026-01-31T09:08:07.006Z",
    "source": "live",
    "stale": False,
    "failure": None,
    "conflicts": [],
    "rejected": [],
    "changed": [],
    "withheld": [],
}


class Program:
    """The command line, in this process: its exit code, its output, its complaints."""

    def __init__(self, capture: pytest.CaptureFixture[str], state_dir: Path) -> None:
        self.capture = capture
        self.state_dir = state_dir

    def __call__(self, *arguments: str) -> tuple[int, str, str]:
        code = app.main(["--state-dir", str(self.state_dir), *arguments])
        said = self.capture.readouterr()
        return code, said.out, said.err


@pytest.fixture
def node(tmp_path: Path) -> Iterator[FakeNode]:
    with running_fake_node(tmp_path) as running:
        running.reply("GET /api/v1/catalog/prompts", ok(PROMPTS))
        running.reply("GET /api/v1/catalog/tools?since=2", ok(DIFFERENCE))
        yield running


@pytest.fixture
def program(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Program:
    return Program(capsys, tmp_path)


def with_lists(**lists: Any) -> Any:
    return ok({**REPORT, "lists": {kind: {**NOTHING_WRONG, **facts} for kind, facts in lists.items()}})


# --- catalog show -------------------------------------------------------------------------------


def test_show_lists_tools_unless_another_kind_is_named(node: FakeNode, program: Program) -> None:
    _, tools, _ = program("catalog", "show")
    _, prompts, _ = program("catalog", "show", "prompts")

    first, _, fs, _ = tools.splitlines()
    assert first == "version 4: 2 tools"
    assert fs.split() == ["fs_read", "fs", "cache,", "stale"]
    assert prompts == "version 1: 0 prompts\n"


def test_show_of_one_server_leaves_the_others_out_also_in_json(node: FakeNode, program: Program) -> None:
    code, text, _ = program("catalog", "show", "--server", "fs")
    _, body, _ = program("catalog", "show", "--server", "fs", "--json")

    assert code == 0
    assert "clock_now" not in text
    assert json.loads(body) == {**CATALOG, "entries": CATALOG["entries"][:1]}


def test_show_of_a_server_that_is_not_there_ends_1(node: FakeNode, program: Program) -> None:
    node.reply("GET /api/v1/servers/nfs", problem(404, "Not Found", "there is no server named nfs"))

    code, out, err = program("catalog", "show", "--server", "nfs")

    assert (code, out) == (1, "")
    assert "there is no server named nfs" in err


@pytest.mark.parametrize(
    ("arguments", "body"),
    [(("show",), CATALOG), (("show", "prompts"), PROMPTS), (("diff", "2"), DIFFERENCE)],
)
def test_json_is_the_body_as_the_node_sent_it(
    node: FakeNode, program: Program, arguments: tuple[str, ...], body: Any
) -> None:
    assert program("catalog", *arguments, "--json") == (0, json.dumps(body) + "\n", "")


@pytest.mark.parametrize(
    "arguments", [["show", "toys"], ["diff"], ["diff", "soon"], ["diff", "-1"], ["diff", "1", "toys"]]
)
def test_what_cannot_be_understood_ends_2(program: Program, arguments: list[str]) -> None:
    code, out, _ = program("catalog", *arguments)

    assert (code, out) == (2, "")


def test_without_a_node_it_ends_4(program: Program) -> None:
    assert [program("catalog", *words)[0] for words in (["show"], ["diff", "1"])] == [4, 4]


# --- catalog diff -------------------------------------------------------------------------------


def test_diff_tells_what_came_what_changed_and_what_went(node: FakeNode, program: Program) -> None:
    code, out, _ = program("catalog", "diff", "2")

    first, _, *rows = out.splitlines()
    assert code == 0
    assert first == "version 2 to 4: 3 changes"
    assert [row.split()[0] for row in rows] == ["removed", "changed", "added"]
    assert "\x1b" not in out


def test_diff_without_a_change_says_so(node: FakeNode, program: Program) -> None:
    same = {**DIFFERENCE, "from": 4, "added": [], "changed": [], "removed": []}
    node.reply("GET /api/v1/catalog/prompts?since=4", ok(same))

    assert program("catalog", "diff", "4", "prompts")[1] == "version 4 to 4: 0 changes\n"


def test_diff_since_a_version_that_is_forgotten_shows_everything(node: FakeNode, program: Program) -> None:
    node.reply("GET /api/v1/catalog/tools?since=1", ok({**CATALOG, "full": True}))

    code, out, err = program("catalog", "diff", "1")

    assert code == 0
    assert "version 1 is not remembered" in err
    assert "fs_read" in out


# --- server approve -----------------------------------------------------------------------------


def test_approve_names_what_was_approved(node: FakeNode, program: Program) -> None:
    node.reply("POST /api/v1/servers/fs/approve", ok({"name": "fs", "approved": ["read", "write"]}))

    assert program("server", "approve", "fs") == (0, "approved of fs's read, write\n", "")
    assert program("server", "approve", "fs", "read")[0] == 0


def test_approve_of_a_tool_that_has_not_changed_ends_1(node: FakeNode, program: Program) -> None:
    node.reply("POST /api/v1/servers/fs/approve", ok({"name": "fs", "approved": ["read"]}))

    code, out, err = program("server", "approve", "fs", "read", "dance")

    assert (code, out) == (1, "approved of fs's read\n")
    assert "no changed tool named dance" in err


def test_approve_with_nothing_changed_is_no_failure(node: FakeNode, program: Program) -> None:
    node.reply("POST /api/v1/servers/fs/approve", ok({"name": "fs", "approved": []}))

    assert program("server", "approve", "fs") == (0, "no tool of fs has changed\n", "")
    assert program("server", "approve", "fs", "--json")[1] == '{"name": "fs", "approved": []}\n'


# --- why ----------------------------------------------------------------------------------------


def test_why_counts_what_is_known_of_each_kind(node: FakeNode, program: Program) -> None:
    node.reply("GET /api/v1/servers/fs", with_lists(tools={"entries": 3}, prompts={"learnt": False}))

    out = program("why", "fs")[1]

    assert "tools: 3 entries (live), learnt at 2026-01-31T09:08:07.006Z\n" in out
    assert "prompts:" not in out
    assert "approve" not in out
    assert "refresh" not in out


def test_why_tells_of_changed_and_withheld_tools_and_how_to_approve(node: FakeNode, program: Program) -> None:
    node.reply("GET /api/v1/servers/fs", with_lists(tools={"changed": ["a", "b"], "withheld": ["b"]}))

    out = program("why", "fs")[1]

    assert "  not as it was first seen: a\n" in out
    assert "  withheld, not as it was first seen: b\n" in out
    assert "mcpv-node server approve fs" in out


def test_why_tells_what_could_not_be_read_and_how_to_read_it_again(node: FakeNode, program: Program) -> None:
    node.reply(
        "GET /api/v1/servers/fs",
        with_lists(
            tools={"stale": True, "failure": "tools/list was not answered in time"},
            prompts={"learnt": False, "failure": "no luck"},
        ),
    )

    out = program("why", "fs")[1]

    assert "tools: 1 entry (live, stale), learnt at" in out
    assert "the last reading of its tools failed: tools/list was not answered in time\n" in out
    assert "the last reading of its prompts failed: no luck\n" in out
    assert "mcpv-node catalog refresh fs" in out


def test_why_tells_of_conflicts_and_of_entries_that_were_left_out(node: FakeNode, program: Program) -> None:
    conflict = "x:1 is fs's; nfs's x:1 is behind it"
    node.reply(
        "GET /api/v1/servers/fs",
        with_lists(resources={"conflicts": [conflict], "rejected": ["b\x07d: it has no uri"]}),
    )

    out = program("why", "fs")[1]

    assert f"  {conflict}\n" in out
    assert "  left out: b\N{REPLACEMENT CHARACTER}d: it has no uri\n" in out
