"""What README.md shows is true: its snippets parse and agree, its commands and links exist."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Iterator, Mapping

import pytest
from support.house import ROOT
from support.readme import local_links, parse_blocks, read_blocks

README = ROOT / "README.md"
URL = "http://127.0.0.1:8090/mcp"
LAUNCHER = "/path/to/mcpv-node/bin/mcpv-node"

# The names under which clients keep their servers.
ROOTS = ("mcpServers", "servers", "mcp_servers")


def entries() -> Iterator[tuple[int, Mapping[str, object]]]:
    """Give every client entry of the README with its line."""
    parsed = [(block.line, json.loads(block.text)) for block in read_blocks(README, "json")]
    parsed += [(block.line, tomllib.loads(block.text)) for block in read_blocks(README, "toml")]
    for line, snippet in parsed:
        (root,) = set(snippet) & set(ROOTS)
        yield line, snippet[root]["mcpv"]


@pytest.mark.parametrize("client", ["Claude Code", "Claude Desktop", "Cursor", "VS Code", "Codex"])
def test_each_client_has_its_section_with_a_snippet(client: str) -> None:
    section = README.read_text().split(f"### {client}\n")[1].split("\n#")[0]

    assert any(block.language in {"json", "toml"} for block in parse_blocks(section))


def test_every_http_snippet_has_the_default_address_and_the_token() -> None:
    http = [entry for _, entry in entries() if "url" in entry]

    assert len(http) >= 4
    for entry in http:
        headers = entry.get("headers", {})
        assert isinstance(headers, dict)
        assert entry["url"] == URL
        assert headers.get("Authorization", "").startswith("Bearer ${") or "bearer_token_env_var" in entry


def test_every_stdio_snippet_runs_the_launcher_by_an_absolute_path() -> None:
    stdio = [entry for _, entry in entries() if "command" in entry]

    assert len(stdio) >= 4
    for entry in stdio:
        assert (entry["command"], entry["args"]) == (LAUNCHER, ["stdio"])


def test_every_snippet_is_either_http_or_stdio() -> None:
    assert [line for line, entry in entries() if ("url" in entry) == ("command" in entry)] == []


def test_an_input_that_a_snippet_names_is_declared_in_it() -> None:
    for block in read_blocks(README, "json"):
        declared = {one["id"] for one in json.loads(block.text).get("inputs", [])}

        assert block.text.count("${input:") == len(declared)
        assert all(f"${{input:{name}}}" in block.text for name in declared)


def test_every_command_of_the_tree_exists_and_can_be_executed() -> None:
    named = {
        command[0]
        for block in read_blocks(README, "sh")
        for command in block.commands
        if command[0].startswith("bin/")
    }

    assert named == {"bin/mcpv-node", "bin/test"}
    assert all(os.access(ROOT / name, os.X_OK) for name in named)


def test_what_is_marked_to_run_needs_nothing_but_a_node() -> None:
    blocks = read_blocks(README, "sh", mark="run")

    assert blocks
    assert {command[0] for block in blocks for command in block.commands} == {"bin/mcpv-node"}


def test_every_link_leads_to_something() -> None:
    links = local_links(README.read_text())

    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_a_node_is_said_in_five_sentences() -> None:
    paragraph = README.read_text().split("\n\n")[1]

    assert len(paragraph.splitlines()) == 5
    assert paragraph.count(".\n") + paragraph.endswith(".") == 5


def test_a_block_knows_its_language_its_marks_its_line_and_its_commands() -> None:
    text = "# x\n\n```sh run\na 'b c' \\\n  d\n# why\ne\n```\n\n```\nplain\n```\n\n```json\n{}\n```\n"

    shell, other = parse_blocks(text)

    assert (shell.language, shell.marks, shell.line) == ("sh", {"run"}, 3)
    assert shell.commands == (("a", "b c", "d"), ("e",))
    assert (other.language, other.text) == ("json", "{}\n")
