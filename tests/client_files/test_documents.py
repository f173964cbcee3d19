"""One place of somebody's file is changed, and all else is as they wrote it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcpv_node.client_files import DocumentError, put
from mcpv_node.client_files.documents import read_json

ENTRY: dict[str, Any] = {"command": "mcpv-node", "args": ["stdio"]}
PATH = ("mcpServers", "mcpv")


def test_an_empty_file_gets_the_entry_alone() -> None:
    assert json.loads(put("", PATH, ENTRY)) == {"mcpServers": {"mcpv": ENTRY}}


def test_comments_and_odd_spacing_stay() -> None:
    text = (
        '{\n\t// mine\n\t"a" :  1, /* b */\n\t"mcpServers": {\n\t\t"x": {"command": "x"}, // last\n\t},\n}\n'
    )

    changed = put(text, PATH, ENTRY)

    kept = [line for line in text.splitlines() if line not in changed.splitlines()]
    assert kept == []
    assert '\n\t\t"mcpv": {\n\t\t\t"command": "mcpv-node",' in changed
    assert read_json(changed)["mcpServers"] == {"x": {"command": "x"}, "mcpv": ENTRY}


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "{ }\n",
        '{"a": 1}',
        '{"mcpServers": {}}',
        '{"mcpServers": {}, "a": {"mcpServers": {"mcpv": 1}}}',
        '{\n  "mcpServers": {\n  }\n}\n',
        '{\n  "mcpServers": {\n    // none yet\n  }\n}\n',
        '{\n  "mcpServers": {\n    "x": {} // no comma, here\n    // after\n  }\n}\n',
        '{"mcpServers": {"mcpv": {"command": "old"}, "z": 1}}',
        '{"a": "}{,\\"//", "b": [1, {"c": 2}]}',
        "{'mcpServers': {x: {}}}",
        "// only a comment\n",
    ],
)
def test_the_entry_finds_its_place_and_nothing_else_changes(text: str) -> None:
    before = read_json(text) if "{" in text else {}

    changed = put(text, PATH, ENTRY)

    servers = before.get("mcpServers", {})
    assert isinstance(servers, dict)
    assert read_json(changed) == {**before, "mcpServers": {**servers, "mcpv": ENTRY}}
    assert put(changed, PATH, ENTRY) == changed


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(
    document=st.dictionaries(st.text(max_size=5), JSON, max_size=4), indent=st.sampled_from([None, 2, "\t"])
)
@settings(max_examples=60)
def test_any_document_keeps_the_rest(document: dict[str, Any], indent: Any) -> None:
    text = json.dumps(document, indent=indent, ensure_ascii=False)

    assert json.loads(put(text, PATH, ENTRY)) == {**document, "mcpServers": {"mcpv": ENTRY}}


@pytest.mark.parametrize(
    "text", ["[]", '{"mcpServers": []}', '{"mcpServers": 5}', '{"mcpServers": {"a": ', "no"]
)
def test_what_cannot_be_changed_is_refused(text: str) -> None:
    with pytest.raises(DocumentError):
        put(text, PATH, ENTRY)


def test_toml_keeps_comments_and_other_tables() -> None:
    text = '# mine\nmodel = "x"   # this one\n\n[mcp_servers.a]\ncommand = "a"\n\n[tui]\nx = 1\n'

    changed = put(text, ("mcp_servers", "mcpv"), ENTRY, is_toml=True)

    assert [line for line in text.splitlines() if line not in changed.splitlines()] == []
    assert '[mcp_servers.mcpv]\ncommand = "mcpv-node"\nargs = ["stdio"]\n' in changed


def test_an_empty_toml_file_gets_the_table_alone() -> None:
    changed = put("", ("mcp_servers", "mcpv"), ENTRY, is_toml=True)

    assert changed == '[mcp_servers.mcpv]\ncommand = "mcpv-node"\nargs = ["stdio"]\n'
