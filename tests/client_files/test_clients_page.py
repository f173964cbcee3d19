"""The page on clients says what the table of clients says."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from support.house import ROOT
from support.readme import local_links, read_blocks

from mcpv_node.cli.app import group
from mcpv_node.client_files import CLIENTS, client_file

PAGE = ROOT / "docs" / "clients.md"


@pytest.mark.parametrize("client", CLIENTS.values(), ids=lambda client: client.name)
def test_each_client_has_its_row_with_its_file(client: object) -> None:
    one = next(known for known in CLIENTS.values() if known is client)
    row = next(line for line in PAGE.read_text().splitlines() if line.startswith(f"| {one.title} |"))

    home = Path("/home/me")
    for platform in ("linux", "darwin"):
        file = client_file(one, home=home, folder=Path(), platform=platform)
        assert f"`{str(file).replace(str(home), '~')}`" in row
    assert f"`{one.name}`" in row
    assert ("| yes |" in row) is one.takes_http


def test_every_command_on_the_pages_exists() -> None:
    lines = [
        shlex.split(line, comments=True)
        for page in ("clients.md", "configuration.md")
        for block in read_blocks(ROOT / "docs" / page, "sh")
        for line in block.text.splitlines()
    ]

    for words in lines:
        if words[0] == "mcpv-node":
            command = group.get_command(None, words[1])  # type: ignore[arg-type]
            assert command is not None
            known = {option for parameter in command.params for option in parameter.opts}
            assert {word for word in words[2:] if word.startswith("--")} <= known
    assert any(words[0] == "mcpv-node" for words in lines)


@pytest.mark.parametrize("page", ["clients.md", "configuration.md"])
def test_every_link_leads_to_something(page: str) -> None:
    for target in local_links((ROOT / "docs" / page).read_text()):
        assert (ROOT / "docs" / target).exists(), target
