"""One entry of a file is changed, and nobody can tell from the rest of the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpv_node.settings import PACKAGED_CONFIG, ServerSpec, load_settings
from mcpv_node.settings.editing import (
    EntryExists,
    NoSuchEntry,
    NotEditable,
    add,
    edit,
    entry_names,
    remove,
)

HAND_WRITTEN = """\
# ours
base: &slow {idleSeconds: 5}

servers:
- name: a   # the first
  <<: *slow
  command: "x"  # in quotes

  # about env
  env:
    A: '1'   # one
    B.C: two
  # at its end
- name: b
  cmd:
    - x
    - y   # why
  # strategy: singleton

# after all
log: {level:   info}
"""

FLOW = "servers: [{name: a, command: x}, {name: b, cmd: [y, '${Z}']}]  # all\nlog: {level: info}\n"

NEW: dict[str, Any] = {"name": "new", "command": "npx", "args": ["-y", "@x/y", "${HOME}/a b"]}


def entries(text: str) -> dict[str, ServerSpec]:
    """Load a text as the file it would be."""
    file = Path("/nowhere/runtime.yaml")
    # Not our key: it only holds an anchor.
    text = text.replace("base: &slow {idleSeconds: 5}\n", "").replace("  <<: *slow\n", "")
    loaded = load_settings(file, environ={"HOME": "/home", "Z": "z"}, instead={file: text})
    return {spec.name: spec for spec in loaded.settings.servers}


def lost(before: str, after: str) -> list[str]:
    """Give the lines that are in `before` and not in `after`, and tell that the others are in their order."""
    rest = iter(after.splitlines())
    kept = [line for line in before.splitlines() if line in after.splitlines()]
    assert all(line in rest for line in kept)
    return [line for line in before.splitlines() if line not in after.splitlines()]


@pytest.mark.parametrize("text", [HAND_WRITTEN, PACKAGED_CONFIG.read_text(), FLOW])
def test_an_added_entry_is_the_last_and_the_lines_of_the_others_are_kept(text: str) -> None:
    changed = add(text, NEW)

    assert entry_names(changed) == (*entry_names(text), "new")
    assert lost(text, changed) == ([] if text[:7] != "servers" else [text.splitlines()[0]])
    assert entries(changed)["new"].args == ("-y", "@x/y", "/home/a b")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing yet\n",
        "servers: []\n",
        "servers: []  # none\nlog: {level: info}\n",
        "servers:\n# c\n",
        "log: {level: info}",
        "servers:\n  []\n",
    ],
)
def test_the_first_entry_finds_its_place(text: str) -> None:
    changed = add(text, NEW)

    assert list(entries(changed)) == ["new"]
    assert [line for line in text.splitlines() if "#" in line and line.split("#")[1] not in changed] == []


def test_an_entry_goes_with_its_own_comments_and_leaves_those_around_it() -> None:
    changed = remove(HAND_WRITTEN, "b")

    assert lost(HAND_WRITTEN, changed) == [
        "- name: b",
        "  cmd:",
        "    - x",
        "    - y   # why",
        "  # strategy: singleton",
    ]


def test_the_last_entry_leaves_an_empty_list() -> None:
    changed = remove(remove(PACKAGED_CONFIG.read_text(), "notes"), "clock")

    assert entries(changed) == {}
    assert "\nservers: []\n" in changed
    assert "# Two small real servers" in changed


@pytest.mark.parametrize("name", ["a", "b"])
def test_an_entry_of_a_list_in_brackets_is_removed(name: str) -> None:
    assert list(entries(remove(FLOW, name))) == [{"a": "b", "b": "a"}[name]]


def test_a_changed_value_keeps_the_comment_behind_it_and_the_quotes_of_the_others() -> None:
    changed = edit(HAND_WRITTEN, "a", {"env.A": "${X:-}", "command": "z"})

    assert '\n    A: "${X:-}"   # one\n' in changed
    assert "\n  command: z  # in quotes\n" in changed
    assert len(lost(HAND_WRITTEN, changed)) == 2


def test_a_new_key_stands_behind_the_keys_of_its_table() -> None:
    changed = edit(HAND_WRITTEN, "a", {"disabled": True, "env.D": "4", "restart.maxRetries": 3})

    spec = entries(changed)["a"]
    assert lost(HAND_WRITTEN, changed) == []
    assert (spec.disabled, spec.env, spec.restart.max_retries) == (
        True,
        {"A": "1", "B.C": "two", "D": "4"},
        3,
    )


def test_a_key_below_a_table_may_have_dots_of_its_own() -> None:
    assert entries(edit(HAND_WRITTEN, "a", {"env.B.C": "3"}))["a"].env["B.C"] == "3"


def test_a_list_on_lines_is_replaced_whole() -> None:
    changed = edit(HAND_WRITTEN, "b", {"cmd": ["z", "1"]})

    assert "- name: b\n  cmd: [z, '1']\n  # strategy: singleton\n" in changed


@pytest.mark.parametrize("text", [HAND_WRITTEN, FLOW])
def test_what_was_set_and_is_unset_leaves_no_trace(text: str) -> None:
    changed = edit(text, "a", {"env.E": "5", "tags": ["t"]})

    assert edit(changed, "a", {}, ["tags", "env.E", "nobody", "x.y"]) == text


def test_a_table_goes_with_its_last_key() -> None:
    changed = edit(HAND_WRITTEN, "a", {}, ["env.A", "env.B.C"])

    assert "env:" not in changed
    assert entries(changed)["a"].env == {}


def test_a_key_behind_the_dash_is_removed() -> None:
    text = "servers:\n  - cmd:\n      - x\n    name: a\n    url: http://127.0.0.1/mcp\n"

    assert edit(text, "a", {}, ["cmd"]) == "servers:\n  - name: a\n    url: http://127.0.0.1/mcp\n"


def test_the_text_of_a_block_is_not_taken_for_comments() -> None:
    text = "servers:\n  - name: a\n    command: x\n    env:\n      S: |\n        one\n        # two\n\n# c\n"

    changed = add(text, NEW)

    assert entries(changed)["a"].env["S"] == "one\n# two\n"
    assert entries(edit(text, "a", {"env.S": "3"}))["a"].env["S"] == "3"


def test_a_file_without_a_last_line_end_gets_one_before_the_new_entry() -> None:
    assert list(entries(add("servers:\n  - name: a\n    command: x", NEW))) == ["a", "new"]


def test_entries_that_stand_apart_stay_apart() -> None:
    text = "servers:\n  - name: a\n    command: x\n\n  - name: b\n    command: y\n"

    assert "command: y\n\n  - name: new\n" in add(text, NEW)


def test_a_name_is_there_once() -> None:
    with pytest.raises(EntryExists, match='already a server named "a"'):
        add(HAND_WRITTEN, {**NEW, "name": "a"})


@pytest.mark.parametrize("change", [lambda text: edit(text, "x", {}, ["y"]), lambda text: remove(text, "x")])
def test_what_is_not_there_is_named(change: Any) -> None:
    with pytest.raises(NoSuchEntry, match='no server named "x"'):
        change(HAND_WRITTEN)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("servers: [", "is not YAML"),
        ("- a\n", "top level is not keys"),
        ("servers: {a: {command: x}}\n", "line 1: servers is not a list"),
        ("servers:\n- a\n", "line 2: an entry of servers is not keys"),
        ("x: &a {name: a}\nservers:\n- *a\n", "alias of what stands on line 1"),
        ("{log: {level: info}}\n", "is written in { }"),
    ],
)
def test_what_cannot_be_edited_is_refused_with_its_line(text: str, said: str) -> None:
    with pytest.raises(NotEditable, match=said.replace("{", r"\{").replace("}", r"\}")):
        add(text, NEW)


def test_a_shared_table_is_not_changed_under_one_name() -> None:
    text = "e: &e {A: 1}\nservers:\n- name: a\n  command: x\n  env: *e\n"

    with pytest.raises(NotEditable, match="env is an alias of what stands on line 1"):
        edit(text, "a", {"env.A": "2"})


def test_a_server_keeps_its_name() -> None:
    with pytest.raises(NotEditable, match="keeps its name"):
        edit(HAND_WRITTEN, "a", {"name": "z"})


TEXTS = st.text(
    st.characters(blacklist_categories=("Cs", "Cc")) | st.sampled_from("\n\t'\":#{}[]$&*!|>%@`, ")
)


@given(args=st.lists(TEXTS), env=st.dictionaries(st.from_regex(r"[A-Z]{1,3}", fullmatch=True), TEXTS))
@settings(max_examples=40)
@pytest.mark.parametrize("text", ["servers: []\n", FLOW])
def test_any_text_that_is_written_is_read_again(text: str, args: list[str], env: dict[str, str]) -> None:
    def written(value: str) -> str:
        return value.replace("$", "$$")

    entry = {
        "name": "n",
        "command": "x",
        "args": [*map(written, args)],
        "env": {k: written(v) for k, v in env.items()},
    }

    spec = entries(add(text, entry))["n"]

    assert (spec.args, spec.env) == (tuple(args), env)
