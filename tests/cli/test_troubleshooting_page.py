"""Every command of docs/troubleshooting.md can be typed as it stands there, and every setting it names exists."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from support.house import ROOT
from support.readme import local_links, read_blocks

from mcpv_node.cli.app import group, main

PAGE = ROOT / "docs" / "troubleshooting.md"

COMMANDS = sorted({words for block in read_blocks(PAGE, "sh") for words in block.commands})
EDITS = [words for words in COMMANDS if words[1:3] == ("server", "edit")]

CONFIG = """\
servers:
  - {name: program, command: some-server}
  - {name: address, transport: streamable-http, url: "https://example.org/mcp"}
"""


def parsed(words: tuple[str, ...]) -> click.Context:
    """Parse a command line down to its verb, as click does, and run nothing."""
    command: click.Command = group
    context = click.Context(group, info_name="mcpv-node")
    rest = list(words)
    while isinstance(command, click.Group):
        inner = command.get_command(context, rest[0])
        assert inner is not None, rest
        command, rest = inner, rest[1:]
    return command.make_context(words[0], rest, parent=context)


def test_every_symptom_has_a_command_that_shows_it() -> None:
    sections = PAGE.read_text().split("\n### ")[1:]

    assert len(sections) >= 15
    assert [section.splitlines()[0] for section in sections if "```sh" not in section] == []


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_command_can_be_typed_as_it_stands(words: tuple[str, ...]) -> None:
    assert words[0] == "mcpv-node"

    context = parsed(words[1:])

    assert context.command.name == (words[2] if words[1] in ("server", "catalog") else words[1])


@pytest.mark.parametrize("words", EDITS, ids=" ".join)
def test_a_change_that_is_advised_makes_a_good_configuration(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "node.yaml"
    config.write_text(CONFIG)
    (tmp_path / "key").write_text("k")
    for name, value in (("API_KEY", "a"), ("TOKEN", "t"), ("MCPV_STATE_DIR", str(tmp_path))):
        monkeypatch.setenv(name, value)
    name = "address" if "--header" in words else "program"

    code = main([*(name if word == "NAME" else word for word in words[1:]), "--config", str(config)])

    assert code == 0
    assert config.read_text() != CONFIG


def test_every_link_leads_to_something_and_the_readme_leads_here() -> None:
    links = local_links(PAGE.read_text())

    assert [link for link in links if not (PAGE.parent / link).exists()] == []
    assert "docs/troubleshooting.md" in local_links((ROOT / "README.md").read_text())
